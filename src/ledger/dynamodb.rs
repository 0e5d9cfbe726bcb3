//! A ledger in a DynamoDB table, for several instances on one queue.
//!
//! One item a job, and one for each production distribution that says which job's grant holds it.
//! Every write is conditional on the owner and the epoch that the writer believes in.
//!
//! | file | what |
//! |---|---|
//! | this one | the calls of the ledger |
//! | `item` | what the items of the table are |
//! | `time` | the service's time, and when a lease is over |
//! | `production` | holding a production distribution |
//! | `notices` | what is to be sent to somebody |
//!
//! **Guarantees.** Those of [`Ledger`], over all instances that use the table. A write whose answer was lost may be made again.
//!
//! **Time.** Leases are in the time of the service, as the `Date` of its answers shows it: instances
//! whose clocks differ by minutes mean the same by it. Readings of that clock differ by up to
//! [`MARGIN`](time::MARGIN); a lease counts as over only that much after its end. An instance that finds its
//! reading was off writes again.
//!
//! **Writes.** A call of the ledger writes each item it is about once; a second time only where its reading of the
//! time was off. A cleanup on its own makes eight, besides a renewal each heartbeat interval.
//!
//! **Not handled here.** Throughput and outages: they are errors, and nothing is processed then. A table that is
//! slow, or throttles, is said to be so ([`Ledger::troubled`]).
//! Making the table. Removing old items: DynamoDB does, by the attribute `expires`.

mod item;
mod notices;
mod production;
pub(super) mod time;

use std::collections::BTreeSet;

use async_trait::async_trait;
use jiff::Timestamp;

use self::item::{BindingChange, CHECK, binding, is_granted, job_item, note_values, past, record};
use self::time::{expiry, lapsed, later};
use super::{
    Bound, Claim, Grant, Ledger, LedgerError, OPEN_RETENTION, Outbox, RETENTION, Unfinished,
};
use crate::aws::AwsError;
use crate::aws::dynamodb::{Table, Update, Updated, Value};
use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::{self, Notes};
use crate::runtime::clock::Clock;
use crate::runtime::health::{LedgerTrouble, Trouble};

const CLAIM: &str = "SET job_state = :open, pipeline_name = :pipeline, held_by = :me, \
                     epoch = if_not_exists(epoch, :first) + :one, lease_until = :until, \
                     first_seen = if_not_exists(first_seen, :now), changed_at = :now, \
                     expires = :expires";
const MAY_CLAIM: &str = "attribute_not_exists(pk) OR (job_state = :open AND \
                         (held_by = :nobody OR held_by = :me OR lease_until < :lapsed))";

const MAY_BIND: &str = "held_by = :me AND epoch = :epoch AND job_state = :open AND \
                        (attribute_not_exists(production_id) OR \
                        (production_id = :production AND staging_id = :staging))";

const RENEW: &str = "SET lease_until = :until, changed_at = :now, expires = :expires";
const RELEASE: &str = "SET held_by = :nobody, lease_until = :zero, last_reason = :reason, \
                       changed_at = :now";
/// Goes with any change that is made with a grant.
const NOTES: &str = ", job_trail = :trail, asked = :asked, last_receive = :last_receive";
const IS_GRANTED: &str = "held_by = :me AND epoch = :epoch AND job_state = :open";

const COMPLETE: &str = "SET job_state = :done, job_outcome = :outcome, lease_until = :zero, \
                        changed_at = :now, expires = :expires";
/// Also of a job that is done by this very grant: the answer may have been lost.
const WAS_GRANTED: &str = "held_by = :me AND epoch = :epoch";

/// A ledger in a table.
#[derive(Debug)]
pub struct DynamoDbLedger {
    table: Table,
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
            owner,
            clock,
        };
        match ledger.check().await {
            Err(LedgerError::Table { source, .. })
                if source.class.is_transient() || source.class.is_of_sign_in() =>
            {
                Ok(ledger)
            }
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

    fn trouble_of(&self, what: Trouble) -> LedgerTrouble {
        let table = self.table.name().to_owned();
        LedgerTrouble { table, what }
    }

    /// A write that only the holder of a grant may make.
    async fn granted(
        &self,
        grant: &Grant,
        notes: &Notes,
        (change, condition): (&'static str, &'static str),
        values: impl Fn(Timestamp) -> Vec<(&'static str, Value)>,
    ) -> Result<(), LedgerError> {
        let (change, noted) = (format!("{change}{NOTES}"), note_values(notes));
        let (_, updated) = self
            .timed(|now| {
                let mut values = values(now);
                values.extend(noted.iter().cloned());
                values.push((":me", grant.owner.as_str().into()));
                values.push((":epoch", grant.epoch.into()));
                values.push((":now", now.as_millisecond().into()));
                Update {
                    key: job_item(&grant.key),
                    change: &change,
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
}

#[async_trait]
impl Ledger for DynamoDbLedger {
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
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
                    (":until", later(now, self.length(until))),
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
                Ok(Claim::Granted {
                    grant,
                    binding: binding(&job).ok_or_else(damaged)?,
                    past: past(&job).ok_or_else(damaged)?,
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

    async fn done(&self, _keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
        // A claim tells as much, for one call a job.
        Ok(BTreeSet::new())
    }

    async fn bind(
        &self,
        grant: &Grant,
        binding: &Binding,
        notes: &Notes,
    ) -> Result<Bound, LedgerError> {
        if let Some(until) = self.take(grant, &binding.production_id).await? {
            let job = self.table.item(&job_item(&grant.key)).await;
            let job = job.map_err(self.failed())?.unwrap_or_default();
            if !is_granted(&job, grant) {
                return Err(not_owner(grant));
            }
            return Ok(Bound::ProductionBusy { until });
        }
        let now = self.now().await?;
        let BindingChange {
            set,
            remove,
            mut values,
        } = BindingChange::of(binding);
        let change = format!("{set}, changed_at = :now{NOTES}{remove}");
        values.extend([
            (":me", grant.owner.as_str().into()),
            (":epoch", grant.epoch.into()),
            (":open", "open".into()),
            (":now", now.as_millisecond().into()),
        ]);
        values.extend(note_values(notes));
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

    async fn yield_production(&self, grant: &Grant, _notes: &Notes) -> Result<(), LedgerError> {
        // The job's own item does not change.
        self.give_back(grant).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        let items = self.table.scan().await.map_err(self.failed())?;
        let lapsed = lapsed(self.now().await?);
        let found = items.iter().filter_map(|it| item::unfinished(it, lapsed));
        let mut found: Vec<_> = found.collect();
        found.sort_by(|one, other| (one.0, &one.1.key).cmp(&(other.0, &other.1.key)));
        Ok(found
            .into_iter()
            .map(|(_, unfinished)| unfinished)
            .collect())
    }

    async fn renew(
        &self,
        grant: &Grant,
        until: Timestamp,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        self.granted(grant, notes, (RENEW, IS_GRANTED), |now| {
            vec![
                (":open", "open".into()),
                (":until", later(now, self.length(until))),
                (":expires", expiry(now, OPEN_RETENTION)),
            ]
        })
        .await
    }

    async fn complete(
        &self,
        grant: &Grant,
        outcome: Outcome,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        self.granted(grant, notes, (COMPLETE, WAS_GRANTED), |now| {
            vec![
                (":done", "done".into()),
                (":outcome", outcome.code().into()),
                (":zero", 0.into()),
                (":expires", expiry(now, RETENTION)),
            ]
        })
        .await
    }

    async fn release(&self, grant: &Grant, reason: &str, notes: &Notes) -> Result<(), LedgerError> {
        let released = self
            .granted(grant, notes, (RELEASE, IS_GRANTED), |_| {
                vec![
                    (":open", "open".into()),
                    (":nobody", "".into()),
                    (":zero", 0.into()),
                    (":reason", reason.into()),
                ]
            })
            .await;
        match released {
            Err(LedgerError::NotOwner { .. }) => Ok(()),
            released => released,
        }
    }

    fn now(&self) -> Timestamp {
        let now = self.table.time().now();
        now.unwrap_or_else(|| self.clock.now())
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

    fn trouble(&self) -> Option<LedgerTrouble> {
        let what = self.table.pulse().trouble()?;
        Some(self.trouble_of(what))
    }

    async fn troubled(&self) -> LedgerTrouble {
        self.trouble_of(self.table.pulse().troubled().await)
    }
}

#[async_trait]
impl Outbox for DynamoDbLedger {
    async fn enqueue(&self, id: &str, notice: &str) -> Result<(), LedgerError> {
        self.keep_notice(id, notice).await
    }

    async fn pending(&self) -> Result<Vec<String>, LedgerError> {
        self.kept_notices().await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<(), LedgerError> {
        self.forget_notices(ids).await
    }
}

fn not_owner(grant: &Grant) -> LedgerError {
    LedgerError::NotOwner {
        key: grant.key.clone(),
    }
}
