//! What the items of the table are: their keys, and what their attributes say.
//!
//! | item | key | attributes |
//! |---|---|---|
//! | a job | `job#` and its key | `job_state` (`open`, `done`), `pipeline_name`, `held_by` (empty: by nobody), `epoch`, `lease_until`, `job_outcome`, `last_reason`, `job_trail`, `asked` (when a run that a message asked for last noted something; 0: the last run was asked for by none), `last_receive` (1: the message is a dead letter next), and the binding: `production_id`, `staging_id`, `staging_domain`, `policy_id`, `overwriting`, `evidence`, `changed` (1: the job has changed something, or was about to) |
//! | a production distribution | `production#` and its id | the grant that holds it: `job_key`, `held_by`, `epoch` |
//! | the notices | `notices` | one for each |
//! | the check | `check` | |
//!
//! Times (`lease_until`, `first_seen`, `changed_at`) are milliseconds since the epoch; `expires`, after
//! which DynamoDB may remove the item, is in seconds.

use jiff::Timestamp;

use crate::aws::dynamodb::{Item, KEY, Value};
use crate::domain::binding::{Binding, Evidence};
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::{self, Asked, Notes, Trail};
use crate::ledger::{Grant, Past, Unfinished};

/// The key of the item that [`crate::ledger::Ledger::check`] writes.
pub(super) const CHECK: &str = "check";

/// The key of the item of the notices that are to be sent; each is an attribute of it.
pub(super) const NOTICES: &str = "notices";

const JOB: &str = "job#";
const PRODUCTION: &str = "production#";

/// The key of a job's item.
pub(super) fn job_item(key: &JobKey) -> String {
    format!("{JOB}{}", key.as_str())
}

/// The key of a production distribution's item.
pub(super) fn production_item(id: &str) -> String {
    format!("{PRODUCTION}{id}")
}

/// Whether a job's item says that this grant holds it.
pub(super) fn is_granted(job: &Item, grant: &Grant) -> bool {
    job.text("held_by") == Some(&grant.owner)
        && job.number("epoch") == Some(grant.epoch)
        && job.text("job_state") == Some("open")
}

/// What the job is bound to; `None` if the item contradicts itself.
#[expect(
    clippy::option_option,
    reason = "a damaged item is not one that is not bound"
)]
pub(super) fn binding(job: &Item) -> Option<Option<Binding>> {
    let owned = |name| job.text(name).map(str::to_owned);
    match (owned("production_id"), owned("staging_id")) {
        (None, None) => Some(None),
        (Some(production_id), Some(staging_id)) => Some(Some(Binding {
            production_id,
            staging_id,
            staging_domain: owned("staging_domain"),
            policy_id: owned("policy_id"),
            overwriting: job.number("overwriting"),
            evidence: match job.text("evidence") {
                Some(text) => Evidence::read(text)?,
                None => Evidence::default(),
            },
        })),
        _ => None,
    }
}

/// What a job's item says of its runs; `None` if the item is damaged.
pub(super) fn past(job: &Item) -> Option<Past> {
    let trail = job.text("job_trail").map(Trail::read).unwrap_or_default();
    let notes = match job.number("asked") {
        // An older stagesweep wrote the trail alone.
        None => Notes::of_trail(trail),
        Some(at_ms) => {
            let asked = (at_ms > 0).then(|| Asked {
                at_ms,
                last_receive: job.number("last_receive") == Some(1),
            });
            Notes::kept(trail, asked)
        }
    };
    Some(Past {
        first_claimed_at: Timestamp::from_millisecond(job.number("first_seen")?).ok()?,
        last_reason: job.text("last_reason").map(str::to_owned),
        notes,
    })
}

/// The values of what is noted of a job.
pub(super) fn note_values(notes: &Notes) -> [(&'static str, Value); 3] {
    let (trail, asked) = (notes.trail.text(), notes.asked);
    [
        (":trail", trail.as_str().into()),
        (":asked", asked.map_or(0, |it| it.at_ms).into()),
        (
            ":last_receive",
            i64::from(asked.is_some_and(|it| it.last_receive)).into(),
        ),
    ]
}

/// An expression that writes a binding, in two parts: what it sets, and what it removes. Between them
/// there is room for more to be set.
pub(super) struct BindingChange {
    pub(super) set: String,
    pub(super) remove: String,
    pub(super) values: Vec<(&'static str, Value)>,
}

impl BindingChange {
    pub(super) fn of(binding: &Binding) -> Self {
        let mut set = "SET production_id = :production, staging_id = :staging, \
                       evidence = :evidence, changed = :changed"
            .to_owned();
        let mut values: Vec<(&str, Value)> = vec![
            (":evidence", binding.evidence.text().as_str().into()),
            (":changed", i64::from(binding.evidence.changed).into()),
            (":production", binding.production_id.as_str().into()),
            (":staging", binding.staging_id.as_str().into()),
        ];
        let mut removed = Vec::new();
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let optional = [
            ("staging_domain", ":domain", text(&binding.staging_domain)),
            ("policy_id", ":policy", text(&binding.policy_id)),
            (
                "overwriting",
                ":overwriting",
                binding.overwriting.map(Value::from),
            ),
        ];
        for (name, placeholder, value) in optional {
            match value {
                Some(value) => {
                    set.push_str(&format!(", {name} = {placeholder}"));
                    values.push((placeholder, value));
                }
                None => removed.push(name),
            }
        }
        let remove = if removed.is_empty() {
            String::new()
        } else {
            format!(" REMOVE {}", removed.join(", "))
        };
        Self {
            set,
            remove,
            values,
        }
    }
}

/// A job that has changed something and is open; `None` for any other item, and for a damaged one.
pub(super) fn unfinished(item: &Item, lapsed: i64) -> Option<(Timestamp, Unfinished)> {
    let key = item.text(KEY)?.strip_prefix(JOB)?;
    let is_open = item.text("job_state") == Some("open") && item.number("changed") == Some(1);
    if !is_open {
        return None;
    }
    let leased = item.text("held_by").is_some_and(|owner| !owner.is_empty())
        && item.number("lease_until").unwrap_or_default() >= lapsed;
    let first_seen = Timestamp::from_millisecond(item.number("first_seen")?).ok()?;
    let unfinished = Unfinished {
        key: JobKey::from(key.to_owned()),
        binding: binding(item)??,
        leased,
    };
    Some((first_seen, unfinished))
}

/// A job's item for people; `None` for an item that is none.
pub(super) fn record(item: &Item, now: Timestamp) -> Option<history::Record> {
    let key = item.text(KEY)?.strip_prefix(JOB)?;
    let outcome = item.text("job_outcome").and_then(Outcome::from_code);
    let state = match outcome {
        Some(outcome) => history::State::Done(outcome),
        None if item.number("lease_until").unwrap_or_default() > now.as_millisecond() => {
            history::State::Working
        }
        None => history::State::Open(item.text("last_reason").map(str::to_owned)),
    };
    let time = |name| {
        let millis = item.number(name)?;
        Timestamp::from_millisecond(millis).ok()
    };
    Some(history::Record {
        key: JobKey::from(key.to_owned()),
        pipeline: item.text("pipeline_name").unwrap_or_default().to_owned(),
        state,
        first_seen: time("first_seen")?,
        updated: time("changed_at")?,
        production_id: item.text("production_id").map(str::to_owned),
        staging_id: item.text("staging_id").map(str::to_owned),
        policy_id: item.text("policy_id").map(str::to_owned),
        evidence: item
            .text("evidence")
            .and_then(Evidence::read)
            .unwrap_or_default(),
        trail: item.text("job_trail").map(Trail::read).unwrap_or_default(),
    })
}
