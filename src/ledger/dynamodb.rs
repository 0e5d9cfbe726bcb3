//! A ledger in a DynamoDB table, for several instances on one queue.
//!
//! One item a job, and one for each production distribution that says which job's grant holds it.
//! Every write is conditional on the owner and the epoch that the writer believes in.
//!
//! **Guarantees.** Those of [`Ledger`], over all instances that use the table. A
//! write whose answer was lost may be made again.
//!
//! **Time.** Leases are in the time of the service, as the `Date` of its answers shows it: instances
//! whose clocks differ by minutes mean the same by it. Readings of that clock differ by up to
//! [`MARGIN`]; a lease counts as over only that much after its end. An instance that finds its
//! reading was off writes again.
//!
//! **Not handled here.** Throughput and outages: they are errors, and nothing is processed then.
//! Making the table. Removing old items: DynamoDB does, by the attribute `expires`.

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::trails::Trails;
use super::{Bound, Claim, Grant, Ledger, LedgerError, OPEN_RETENTION, RETENTION};
use crate::aws::AwsError;
use crate::aws::dynamodb::{Item, KEY, Table, Update, Updated, Value};
use crate::binding::Binding;
use crate::clock::Clock;
use crate::event::JobKey;
use crate::history::{self, Note, Trail};
use crate::plan::Outcome;

/// What two readings of the service's clock may differ by: it shows whole seconds, and an answer
/// takes time to arrive.
const MARGIN: Duration = Duration::from_secs(5);

/// What the time that a write stated may differ by from the time of its answer. With the second by
/// which the service's clock may be read wrong it is less than [`MARGIN`].
const DRIFT: Duration = Duration::from_secs(2);

/// Tries of taking a production distribution whose holder changes in the meantime.
const TRIES: usize = 4;

/// The item of the notices that are owed; each is an attribute of it.
const NOTICES: &str = "notices";

/// So many are kept: an item may have 400 KB, and a notice has some 2 KB.
const MAX_NOTICES: usize = 100;

/// So many of them are named at once: an expression may have 4 KB.
const AT_ONCE: usize = 50;

/// The item that [`Ledger::check`] writes.
const CHECK: &str = "check";

const CLAIM: &str = "SET job_state = :open, pipeline_name = :pipeline, held_by = :me, \
                     epoch = if_not_exists(epoch, :first) + :one, lease_until = :until, \
                     first_seen = if_not_exists(first_seen, :now), changed_at = :now, \
                     expires = :expires";
const MAY_CLAIM: &str = "attribute_not_exists(pk) OR (job_state = :open AND \
                         (held_by = :nobody OR held_by = :me OR lease_until < :lapsed))";

const TAKE: &str = "SET job_key = :job, held_by = :me, epoch = :epoch, changed_at = :now, \
                    expires = :expires";
const MAY_TAKE: &str = "attribute_not_exists(pk) OR (job_key = :job AND epoch <= :epoch) OR \
                        (job_key = :former AND epoch = :former_epoch)";

const VOID: &str = "SET held_by = :nobody, lease_until = :zero";
const MAY_VOID: &str = "held_by = :owner AND epoch = :epoch AND lease_until = :until";

const MAY_BIND: &str = "held_by = :me AND epoch = :epoch AND job_state = :open AND \
                        (attribute_not_exists(production_id) OR \
                        (production_id = :production AND staging_id = :staging))";

const RENEW: &str = "SET lease_until = :until, changed_at = :now, expires = :expires";
const RELEASE: &str = "SET held_by = :nobody, lease_until = :zero, last_reason = :reason, \
                       changed_at = :now";
/// Goes with any change that is made with a grant.
const TRAIL: &str = ", job_trail = :trail";
const IS_GRANTED: &str = "held_by = :me AND epoch = :epoch AND job_state = :open";

const COMPLETE: &str = "SET job_state = :done, job_outcome = :outcome, lease_until = :zero, \
                        changed_at = :now, expires = :expires";
/// Also of a job that is done by this very grant: the answer may have been lost.
const WAS_GRANTED: &str = "held_by = :me AND epoch = :epoch";

/// A ledger in a table.
#[derive(Debug)]
pub struct DynamoDbLedger {
    table: Table,
    trails: Trails,
    owner: String,
    clock: Clock,
}

impl DynamoDbLedger {
    /// Uses a table. `owner` names this instance and must differ from that of every other.
    ///
    /// # Errors
    /// [`LedgerError::Table`] if the table does not exist, has another key, or may not be used. A
    /// service that cannot be reached just now is no error.
    pub async fn open(table: Table, owner: String, clock: Clock) -> Result<Self, LedgerError> {
        let ledger = Self {
            table,
            trails: Trails::default(),
            owner,
            clock,
        };
        match ledger.check().await {
            Err(LedgerError::Table { source, .. }) if source.class.is_transient() => Ok(ledger),
            checked => checked.map(|()| ledger),
        }
    }

    /// All jobs in the table, newest first (Scan).
    ///
    /// # Errors
    /// [`LedgerError::Table`] if the table cannot be read.
    pub async fn history(
        table: &Table,
        clock: &Clock,
    ) -> Result<Vec<history::Record>, LedgerError> {
        let items = table.scan().await.map_err(|source| LedgerError::Table {
            table: table.name().to_owned(),
            source,
        })?;
        let now = table.time().now().unwrap_or_else(|| clock.now());
        let mut records: Vec<_> = items.iter().filter_map(|item| record(item, now)).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.first_seen));
        Ok(records)
    }

    fn failed(&self) -> impl FnOnce(AwsError) -> LedgerError {
        let table = self.table.name().to_owned();
        move |source| LedgerError::Table { table, source }
    }

    /// The time of the service.
    async fn now(&self) -> Result<Timestamp, LedgerError> {
        if let Some(now) = self.table.time().now() {
            return Ok(now);
        }
        self.table.item(CHECK).await.map_err(self.failed())?;
        // An answer without a date: all that is left is our own clock.
        Ok(self.table.time().now().unwrap_or_else(|| self.clock.now()))
    }

    /// How long from now this is, by our own clock.
    fn length(&self, until: Timestamp) -> SignedDuration {
        until.duration_since(self.clock.now())
    }

    /// A time of the service after which a lease that ends then is over for everyone, by our own
    /// clock.
    fn over(&self, now: Timestamp, until: i64) -> Timestamp {
        let left = SignedDuration::from_millis(until - now.as_millisecond()) + signed(MARGIN);
        self.clock.now().checked_add(left).unwrap_or(Timestamp::MAX)
    }

    /// Makes a write that states times. If the answer shows that the time was not what it was
    /// believed to be (this machine slept, for instance), the write is made again.
    async fn timed<'a>(
        &self,
        update: impl Fn(Timestamp) -> Update<'a>,
    ) -> Result<(Timestamp, Updated), LedgerError> {
        let mut believed = self.now().await?;
        loop {
            let updated = self.table.update(update(believed)).await;
            let updated = updated.map_err(self.failed())?;
            let now = self.now().await?;
            if now.duration_since(believed).unsigned_abs() <= DRIFT {
                return Ok((now, updated));
            }
            believed = now;
        }
    }

    /// A write that only the holder of a grant may make.
    async fn granted(
        &self,
        grant: &Grant,
        change: &'static str,
        condition: &'static str,
        values: impl Fn(Timestamp) -> Vec<(&'static str, Value)>,
    ) -> Result<(), LedgerError> {
        let trail = self.trails.text(grant);
        let change = match &trail {
            Some(_) => &format!("{change}{TRAIL}"),
            None => change,
        };
        let (_, updated) = self
            .timed(|now| {
                let mut values = values(now);
                values.extend(trail.as_deref().map(|trail| (":trail", trail.into())));
                values.push((":me", grant.owner.as_str().into()));
                values.push((":epoch", grant.epoch.into()));
                values.push((":now", now.as_millisecond().into()));
                Update {
                    key: job_item(&grant.key),
                    change,
                    condition: Some(condition),
                    values,
                }
            })
            .await?;
        match updated {
            Updated::Written(_) => Ok(()),
            Updated::Unmet(_) => Err(not_owner(grant)),
        }
    }

    /// Takes the production distribution for a grant; answers until when another holds it.
    async fn take(
        &self,
        grant: &Grant,
        production_id: &str,
    ) -> Result<Option<Timestamp>, LedgerError> {
        // The holder that has been found to hold it no longer.
        let mut former = (String::new(), 0);
        for _ in 0..TRIES {
            let (now, updated) = self
                .timed(|now| Update {
                    key: format!("production#{production_id}"),
                    change: TAKE,
                    condition: Some(MAY_TAKE),
                    values: vec![
                        (":job", grant.key.as_str().into()),
                        (":me", grant.owner.as_str().into()),
                        (":epoch", grant.epoch.into()),
                        (":now", now.as_millisecond().into()),
                        (":expires", expiry(now, OPEN_RETENTION)),
                        (":former", former.0.as_str().into()),
                        (":former_epoch", former.1.into()),
                    ],
                })
                .await?;
            let holder = match updated {
                Updated::Written(_) => return Ok(None),
                Updated::Unmet(holder) => holder.unwrap_or_default(),
            };
            let (key, epoch) = (holder.text("job_key"), holder.number("epoch"));
            let (key, epoch) = (
                key.unwrap_or_default().to_owned(),
                epoch.unwrap_or_default(),
            );
            if key == grant.key.as_str() {
                // A later grant of the same job holds it.
                return Err(not_owner(grant));
            }
            match self.holds(&key, epoch, now).await? {
                Some(until) => return Ok(Some(until)),
                None => former = (key, epoch),
            }
        }
        let soon = self.clock.now().checked_add(MARGIN);
        Ok(Some(soon.unwrap_or(Timestamp::MAX)))
    }

    /// Takes notices out of their item.
    async fn forget(&self, attributes: &[String]) -> Result<(), LedgerError> {
        for attributes in attributes.chunks(AT_ONCE) {
            let change = format!("REMOVE {}", attributes.join(", "));
            let update = Update {
                key: NOTICES.to_owned(),
                change: &change,
                condition: None,
                values: Vec::new(),
            };
            self.table.update(update).await.map_err(self.failed())?;
        }
        Ok(())
    }

    /// Until when the grant of this epoch of another job is held; `None` if it is not, from now on:
    /// where its lease has ended, the grant is made void, so that it cannot be renewed.
    async fn holds(
        &self,
        key: &str,
        epoch: i64,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, LedgerError> {
        let item = format!("job#{key}");
        let job = self.table.item(&item).await.map_err(self.failed())?;
        let job = job.unwrap_or_default();
        let owner = job.text("held_by").unwrap_or_default();
        let until = job.number("lease_until").unwrap_or_default();
        if job.text("job_state") != Some("open")
            || owner.is_empty()
            || job.number("epoch") != Some(epoch)
        {
            return Ok(None);
        }
        if until >= lapsed(now) {
            return Ok(Some(self.over(now, until)));
        }
        let void = Update {
            key: item,
            change: VOID,
            condition: Some(MAY_VOID),
            values: vec![
                (":nobody", "".into()),
                (":zero", 0.into()),
                (":owner", owner.into()),
                (":epoch", epoch.into()),
                (":until", until.into()),
            ],
        };
        match self.table.update(void).await.map_err(self.failed())? {
            Updated::Written(_) => Ok(None),
            // It was renewed just now, or given up.
            Updated::Unmet(_) => Ok(Some(self.over(now, now.as_millisecond()))),
        }
    }
}

#[async_trait]
impl Ledger for DynamoDbLedger {
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let length = self.length(until);
        let (now, updated) = self
            .timed(|now| Update {
                key: job_item(key),
                change: CLAIM,
                condition: Some(MAY_CLAIM),
                values: vec![
                    (":open", "open".into()),
                    (":pipeline", pipeline.into()),
                    (":me", self.owner.as_str().into()),
                    (":nobody", "".into()),
                    // So that epochs stay above those of an item that has expired.
                    (":first", now.as_millisecond().into()),
                    (":one", 1.into()),
                    (":until", later(now, length)),
                    (":lapsed", lapsed(now).into()),
                    (":now", now.as_millisecond().into()),
                    (":expires", expiry(now, OPEN_RETENTION)),
                ],
            })
            .await?;
        match updated {
            Updated::Written(job) => {
                let damaged = || LedgerError::Damaged { key: key.clone() };
                let grant = Grant {
                    key: key.clone(),
                    owner: self.owner.clone(),
                    epoch: job.number("epoch").ok_or_else(damaged)?,
                };
                self.trails.begin(&grant, job.text("job_trail"));
                Ok(Claim::Granted {
                    grant,
                    binding: binding(&job).ok_or_else(damaged)?,
                })
            }
            Updated::Unmet(job) => {
                let job = job.unwrap_or_default();
                if job.text("job_state") == Some("open") {
                    let until = job.number("lease_until").unwrap_or_default();
                    return Ok(Claim::Leased {
                        until: self.over(now, until),
                    });
                }
                let outcome = job.text("job_outcome").and_then(Outcome::from_code);
                outcome
                    .map(|outcome| Claim::Done { outcome })
                    .ok_or_else(|| LedgerError::Damaged { key: key.clone() })
            }
        }
    }

    async fn bind(&self, grant: &Grant, binding: &Binding) -> Result<Bound, LedgerError> {
        if let Some(until) = self.take(grant, &binding.production_id).await? {
            let job = self.table.item(&job_item(&grant.key)).await;
            let job = job.map_err(self.failed())?.unwrap_or_default();
            if !is_granted(&job, grant) {
                return Err(not_owner(grant));
            }
            return Ok(Bound::ProductionBusy { until });
        }
        let now = self.now().await?;
        let mut change = "SET production_id = :production, staging_id = :staging, \
                          changed_at = :now"
            .to_owned();
        let mut values = vec![
            (":me", grant.owner.as_str().into()),
            (":epoch", grant.epoch.into()),
            (":open", "open".into()),
            (":production", binding.production_id.as_str().into()),
            (":staging", binding.staging_id.as_str().into()),
            (":now", now.as_millisecond().into()),
        ];
        if let Some(trail) = self.trails.text(grant) {
            change.push_str(TRAIL);
            values.push((":trail", trail.as_str().into()));
        }
        let mut removed = Vec::new();
        let optional = [
            (
                "staging_domain",
                ":domain",
                binding.staging_domain.as_deref().map(Value::from),
            ),
            (
                "policy_id",
                ":policy",
                binding.policy_id.as_deref().map(Value::from),
            ),
            (
                "overwriting",
                ":overwriting",
                binding.overwriting.map(Value::from),
            ),
        ];
        for (name, placeholder, value) in optional {
            match value {
                Some(value) => {
                    change.push_str(&format!(", {name} = {placeholder}"));
                    values.push((placeholder, value));
                }
                None => removed.push(name),
            }
        }
        if !removed.is_empty() {
            change.push_str(&format!(" REMOVE {}", removed.join(", ")));
        }
        let update = Update {
            key: job_item(&grant.key),
            change: &change,
            condition: Some(MAY_BIND),
            values,
        };
        match self.table.update(update).await.map_err(self.failed())? {
            Updated::Written(_) => Ok(Bound::Bound),
            Updated::Unmet(Some(job)) if is_granted(&job, grant) => {
                Err(LedgerError::BoundOtherwise {
                    key: grant.key.clone(),
                })
            }
            Updated::Unmet(_) => Err(not_owner(grant)),
        }
    }

    async fn renew(&self, grant: &Grant, until: Timestamp) -> Result<(), LedgerError> {
        let length = self.length(until);
        self.granted(grant, RENEW, IS_GRANTED, |now| {
            vec![
                (":open", "open".into()),
                (":until", later(now, length)),
                (":expires", expiry(now, OPEN_RETENTION)),
            ]
        })
        .await
    }

    async fn complete(&self, grant: &Grant, outcome: Outcome) -> Result<(), LedgerError> {
        let completed = self
            .granted(grant, COMPLETE, WAS_GRANTED, |now| {
                vec![
                    (":done", "done".into()),
                    (":outcome", outcome.code().into()),
                    (":zero", 0.into()),
                    (":expires", expiry(now, RETENTION)),
                ]
            })
            .await;
        if completed.is_ok() {
            self.trails.end(grant);
        }
        completed
    }

    async fn release(&self, grant: &Grant, reason: &str) -> Result<(), LedgerError> {
        let released = self
            .granted(grant, RELEASE, IS_GRANTED, |_| {
                vec![
                    (":open", "open".into()),
                    (":nobody", "".into()),
                    (":zero", 0.into()),
                    (":reason", reason.into()),
                ]
            })
            .await;
        self.trails.end(grant);
        match released {
            Err(LedgerError::NotOwner { .. }) => Ok(()),
            released => released,
        }
    }

    fn trail(&self, grant: &Grant) -> Option<Trail> {
        self.trails.get(grant)
    }

    fn note(&self, grant: &Grant, note: Note) {
        let now = self.table.time().now();
        let now = now.unwrap_or_else(|| self.clock.now());
        self.trails.note(grant, note, now);
    }

    async fn owe(&self, id: &str, notice: &str) -> Result<(), LedgerError> {
        // By our own clock, which is finer than the service's dates: it only says which go first.
        let since = self.clock.now().as_millisecond();
        let kept = serde_json::json!([since, notice]).to_string();
        let change = format!("SET {} = :notice", notice_attribute(id));
        let update = Update {
            key: NOTICES.to_owned(),
            change: &change,
            condition: None,
            values: vec![(":notice", kept.as_str().into())],
        };
        let updated = self.table.update(update).await.map_err(self.failed())?;
        let Updated::Written(item) = updated else {
            return Ok(());
        };
        let mut kept = notices(&item);
        let surplus = kept.len().saturating_sub(MAX_NOTICES);
        let oldest: Vec<_> = kept.drain(..surplus).map(|it| it.attribute).collect();
        self.forget(&oldest).await
    }

    async fn owed(&self) -> Result<Vec<String>, LedgerError> {
        let item = self.table.item(NOTICES).await.map_err(self.failed())?;
        let kept = notices(&item.unwrap_or_default());
        Ok(kept.into_iter().map(|it| it.notice).collect())
    }

    async fn paid(&self, ids: &[String]) -> Result<(), LedgerError> {
        let attributes: Vec<_> = ids.iter().map(|id| notice_attribute(id)).collect();
        self.forget(&attributes).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let now = self.now().await?;
        let update = Update {
            key: CHECK.to_owned(),
            change: "SET changed_at = :now",
            condition: None,
            values: vec![(":now", now.as_millisecond().into())],
        };
        self.table.update(update).await.map_err(self.failed())?;
        Ok(())
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        Ok(0)
    }
}

fn job_item(key: &JobKey) -> String {
    format!("job#{}", key.as_str())
}

/// A notice that is owed.
struct Kept {
    attribute: String,
    since: i64,
    notice: String,
}

/// What the item of the notices holds, the oldest first.
fn notices(item: &Item) -> Vec<Kept> {
    let mut kept: Vec<Kept> = item
        .texts()
        .filter(|(attribute, _)| *attribute != KEY)
        .filter_map(|(attribute, text)| {
            let (since, notice) = serde_json::from_str(text).ok()?;
            Some(Kept {
                attribute: attribute.to_owned(),
                since,
                notice,
            })
        })
        .collect();
    kept.sort_by_key(|it| it.since);
    kept
}

/// The attribute's name for a notice: ids are longer than a name may be, and have other characters. FNV-1a
/// of 128 bits.
fn notice_attribute(id: &str) -> String {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = id.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    format!("n{hash:032x}")
}

fn not_owner(grant: &Grant) -> LedgerError {
    LedgerError::NotOwner {
        key: grant.key.clone(),
    }
}

fn is_granted(job: &Item, grant: &Grant) -> bool {
    job.text("held_by") == Some(&grant.owner)
        && job.number("epoch") == Some(grant.epoch)
        && job.text("job_state") == Some("open")
}

/// A job's item for people; `None` for an item that is none.
fn record(item: &Item, now: Timestamp) -> Option<history::Record> {
    let key = item.text(KEY)?.strip_prefix("job#")?;
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
        trail: item.text("job_trail").map(Trail::read).unwrap_or_default(),
    })
}

/// What the job is bound to; `None` if the item contradicts itself.
#[expect(
    clippy::option_option,
    reason = "a damaged item is not one that is not bound"
)]
fn binding(job: &Item) -> Option<Option<Binding>> {
    let owned = |name| job.text(name).map(str::to_owned);
    match (owned("production_id"), owned("staging_id")) {
        (None, None) => Some(None),
        (Some(production_id), Some(staging_id)) => Some(Some(Binding {
            production_id,
            staging_id,
            staging_domain: owned("staging_domain"),
            policy_id: owned("policy_id"),
            overwriting: job.number("overwriting"),
        })),
        _ => None,
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Milliseconds since the epoch.
fn later(now: Timestamp, length: SignedDuration) -> Value {
    let later = now.checked_add(length).unwrap_or(Timestamp::MAX);
    later.as_millisecond().into()
}

/// A lease that ended before this is over for everyone. Milliseconds since the epoch.
fn lapsed(now: Timestamp) -> i64 {
    now.checked_sub(signed(MARGIN))
        .unwrap_or(Timestamp::MIN)
        .as_millisecond()
}

/// When DynamoDB may remove the item. Seconds since the epoch.
fn expiry(now: Timestamp, after: Duration) -> Value {
    let at = now.checked_add(signed(after)).unwrap_or(Timestamp::MAX);
    at.as_second().into()
}
