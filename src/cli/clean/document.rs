//! What `clean` writes for a program: one shape, whatever it came to.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Shown, Verdict, being_cleaned};
use crate::cli::{json, open_job, plan};
use crate::domain::decision::Step;
use crate::domain::history::Record;
use crate::domain::targets::lookup::Named;
use crate::ops::clean::{Cleaned, Order};
use crate::reconcile::Ended;
use crate::reconcile::dry_run::{Forecast, Planned};
use crate::runtime::stop::StopReason;

/// How it ended.
pub(super) struct End<'a> {
    pub(super) outcome: &'static str,
    pub(super) verdict: &'a Verdict,
    /// What the ledger has of it.
    pub(super) record: Option<&'a Record>,
    pub(super) took: Duration,
}

/// The word for how it ended, as notices have it; what a person alone meets is `busy` or `interrupted`.
pub(super) fn outcome(cleaned: &Cleaned) -> &'static str {
    match cleaned {
        Cleaned::Before(outcome) => outcome.code(),
        Cleaned::Elsewhere { .. } => "busy",
        Cleaned::Ran(ended) => match ended {
            Ended::Succeeded(done) => done.outcome.code(),
            Ended::Refused(_) | Ended::ProgramFailed { .. } => "refused",
            Ended::Stopped(StopReason::ShuttingDown) => "interrupted",
            Ended::ProductionBusy { .. } => "busy",
            Ended::Stopped(_) | Ended::Failed(_) => "failed",
        },
    }
}

/// What differs from one end to another.
#[derive(Default)]
struct Rest<'a> {
    key: Option<&'a str>,
    staging_id: Option<&'a str>,
    resumed: bool,
    done_before: Vec<&'a str>,
    done: Vec<&'a str>,
    left: Vec<Value>,
    took: Duration,
}

fn document(
    named: &Named,
    execution_id: Option<&str>,
    warnings: &[String],
    forecast: &Forecast,
    came: Value,
    rest: Rest<'_>,
) -> Value {
    let rest = json!({
        "key": rest.key,
        "staging_id": rest.staging_id,
        "resumed": rest.resumed,
        "steps": plan::steps_document(forecast),
        "done_before": rest.done_before,
        "done": rest.done,
        "left": rest.left,
        "duration_ms": json::ms(rest.took),
    });
    let about = plan::about(named, execution_id);
    json::document("clean", warnings, [about, came, rest])
}

/// There is nothing to take down, or it is refused at once.
pub(super) fn nothing(
    named: &Named,
    warnings: &[String],
    forecast: &Forecast,
    came: Value,
) -> Value {
    document(named, None, warnings, forecast, came, Rest::default())
}

/// Somebody works on it, and the parameter says `deleted` already.
pub(super) fn busy(
    named: &Named,
    warnings: &[String],
    forecast: &Forecast,
    record: &Record,
) -> Value {
    let detail = being_cleaned(record);
    let came = json::came("busy", Some("leased_elsewhere"), Some(&detail));
    let rest = Rest {
        key: Some(record.key.as_str()),
        staging_id: record.staging_id.as_deref(),
        done_before: open_job::done(record),
        ..Rest::default()
    };
    let execution_id = json::execution_id(record.execution_id());
    document(named, execution_id, warnings, forecast, came, rest)
}

/// It was worked on.
pub(super) fn ended(order: &Order, shown: &Shown<'_>, end: &End<'_>) -> Value {
    let Verdict {
        clean,
        code,
        detail,
    } = end.verdict;
    let key = order.key();
    let all = end.record.map(open_job::done).unwrap_or_default();
    // The trail is cut at its begin, if at all.
    let before = shown.done.len().min(all.len());
    let left = match *clean && end.outcome != "retracted" {
        true => Vec::new(),
        false => left(order, &shown.forecast, &all),
    };
    let rest = Rest {
        key: Some(key.as_str()),
        staging_id: Some(&order.staging_id),
        resumed: order.resumes.is_some(),
        done_before: shown.done.clone(),
        done: all[before..].to_vec(),
        left,
        took: end.took,
    };
    let execution_id = end.record.map(Record::execution_id);
    document(
        &order.named,
        execution_id.and_then(json::execution_id),
        shown.warnings,
        &shown.forecast,
        json::came(end.outcome, Some(code), Some(detail)),
        rest,
    )
}

/// What is still there of what was to be taken down, the newest deployment first; `done` are the steps of all
/// runs.
fn left(order: &Order, forecast: &Forecast, done: &[&str]) -> Vec<Value> {
    let first = forecast.steps.iter().find_map(|planned| match planned {
        Planned::Apply(Step::DeletePolicy { policy_id, .. }) => Some(policy_id.as_str()),
        _ => None,
    });
    let more = order
        .resumes
        .iter()
        .flat_map(|it| &it.binding.evidence.more);
    let more = more.map(|staged| (staged.id.as_str(), staged.policy_id.as_deref()));
    let all = std::iter::once((order.staging_id.as_str(), first)).chain(more);
    // One after the other: the deletion of a staging distribution ends its part.
    let mut parts = done.split(|step| *step == "delete_staging");
    let gone = parts.clone().count() - 1;
    let policy_gone = parts
        .next_back()
        .is_some_and(|it| it.contains(&"delete_policy"));
    let mut left = Vec::new();
    for (index, (staging_id, policy_id)) in all.enumerate().skip(gone) {
        if let Some(id) = policy_id.filter(|_| index > gone || !policy_gone) {
            left.push(json!({ "type": "policy", "id": id }));
        }
        left.push(json!({ "type": "staging_distribution", "id": staging_id }));
    }
    left
}
