//! Who may work on a job, and which job holds a production distribution.
//!
//! **Guarantees.** A job has at most one grant that is not void, and none once it is done. One job at a
//! time holds a production distribution.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Records, from_millis};
use crate::domain::binding::{Binding, Evidence};
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::{Asked, Notes, Trail};
use crate::ledger::{Bound, Claim, Grant, LedgerError, Past, Unfinished};

/// Owners of this name share the file with the one that holds it.
pub(in crate::ledger) const GUEST: &str = "guest-";

impl Records {
    /// Asks, for `owner`, for the right to work on a job until `until`.
    ///
    /// # Errors
    /// If the database fails, or the job's record is damaged.
    pub fn claim(
        &mut self,
        owner: &str,
        key: &JobKey,
        pipeline: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let (now, until) = (now.as_millisecond(), until.as_millisecond());
        self.transact(|transaction| {
            let record = read_record(transaction, key)?;
            match record {
                Some(Record {
                    outcome: Some(outcome),
                    ..
                }) => return Ok(Claim::Done { outcome }),
                Some(Record {
                    owner: ref other,
                    lease_until,
                    ..
                }) if other != owner && lease_until > now => {
                    return Ok(Claim::Leased {
                        until: from_millis(lease_until),
                    });
                }
                _ => {}
            }
            // Counted over all jobs, so that it stays above a grant of a record that was pruned.
            let epoch: i64 = transaction
                .query_row(
                    "UPDATE grants SET last_epoch = last_epoch + 1 RETURNING last_epoch",
                    [],
                    |row| row.get(0),
                )
                .map_err(LedgerError::Database)?;
            transaction
                .execute(
                    "INSERT INTO jobs
                         (key, pipeline, state, owner, epoch, lease_until, first_seen, updated)
                     VALUES (?1, ?2, 'open', ?3, ?4, ?5, ?6, ?6)
                     ON CONFLICT (key) DO UPDATE SET
                         owner = ?3, epoch = ?4, lease_until = ?5, holds = 0, updated = ?6",
                    params![key.as_str(), pipeline, owner, epoch, until, now],
                )
                .map_err(LedgerError::Database)?;
            Ok(Claim::Granted {
                grant: Grant {
                    key: key.clone(),
                    owner: owner.to_owned(),
                    epoch,
                },
                past: read_past(transaction, key)?,
                binding: record.and_then(|record| record.binding),
            })
        })
    }

    /// Binds a job to its distributions, for good, and takes the production distribution.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the database fails.
    pub fn bind(
        &mut self,
        grant: &Grant,
        binding: &Binding,
        notes: &Notes,
        now: Timestamp,
    ) -> Result<Bound, LedgerError> {
        let now = now.as_millisecond();
        self.change(grant, notes, |transaction| {
            let record = read_record(transaction, &grant.key)?
                .filter(|record| record.is_granted(grant) && record.outcome.is_none());
            let record = owned(record, &grant.key)?;
            if let Some(earlier) = record.binding
                && (&earlier.production_id, &earlier.staging_id)
                    != (&binding.production_id, &binding.staging_id)
            {
                return Err(LedgerError::BoundOtherwise {
                    key: grant.key.clone(),
                });
            }
            let holder: Option<(String, i64)> = transaction
                .query_row(
                    "SELECT key, lease_until FROM jobs
                     WHERE production_id = ?1 AND holds = 1 AND key <> ?2",
                    params![binding.production_id, grant.key.as_str()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
                .map_err(LedgerError::Database)?;
            match holder {
                Some((_, until)) if until > now => {
                    return Ok(Bound::ProductionBusy {
                        until: from_millis(until),
                    });
                }
                Some((key, _)) => {
                    // Its lease has ended, and so does its grant: it must not renew what another
                    // has from now on.
                    transaction
                        .execute(
                            "UPDATE jobs SET owner = '', lease_until = 0, holds = 0
                             WHERE key = ?1",
                            params![key],
                        )
                        .map_err(LedgerError::Database)?;
                }
                None => {}
            }
            transaction
                .execute(
                    "UPDATE jobs SET production_id = ?2, staging_id = ?3, staging_domain = ?4,
                                     policy_id = ?5, overwriting = ?6, evidence = ?7, changed = ?8,
                                     holds = 1, updated = ?9
                     WHERE key = ?1",
                    params![
                        grant.key.as_str(),
                        binding.production_id,
                        binding.staging_id,
                        binding.staging_domain,
                        binding.policy_id,
                        binding.overwriting,
                        binding.evidence.text(),
                        binding.evidence.changed,
                        now
                    ],
                )
                .map_err(LedgerError::Database)?;
            Ok(Bound::Bound)
        })
    }

    /// Extends the right to work on a job.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the database fails.
    pub fn renew(
        &mut self,
        grant: &Grant,
        now: Timestamp,
        until: Timestamp,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        let (now, until) = (now.as_millisecond(), until.as_millisecond());
        self.change(grant, notes, |transaction| {
            let changed = transaction
                .execute(
                    "UPDATE jobs SET lease_until = ?4, updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch, until, now],
                )
                .map_err(LedgerError::Database)?;
            owned((changed == 1).then_some(()), &grant.key)
        })
    }

    /// Records that a job is done.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the database fails.
    pub fn complete(
        &mut self,
        grant: &Grant,
        outcome: Outcome,
        notes: &Notes,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = now.as_millisecond();
        self.change(grant, notes, |transaction| {
            let changed = transaction
                .execute(
                    "UPDATE jobs SET state = 'done', outcome = ?4, lease_until = 0, holds = 0,
                                     updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3",
                    params![
                        grant.key.as_str(),
                        grant.owner,
                        grant.epoch,
                        outcome.code(),
                        now
                    ],
                )
                .map_err(LedgerError::Database)?;
            owned((changed == 1).then_some(()), &grant.key)
        })
    }

    /// Gives a job back unfinished, which voids the grant. A void grant is no error.
    ///
    /// # Errors
    /// If the database fails.
    pub fn release(
        &mut self,
        grant: &Grant,
        reason: &str,
        notes: &Notes,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = now.as_millisecond();
        self.change(grant, notes, |transaction| {
            transaction
                .execute(
                    "UPDATE jobs SET owner = '', lease_until = 0, holds = 0, last_reason = ?4,
                                     updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch, reason, now],
                )
                .map_err(LedgerError::Database)?;
            Ok(())
        })
    }

    /// Gives the production distribution back, and keeps the grant. A void grant is no error.
    ///
    /// # Errors
    /// If the database fails.
    pub fn yield_production(&mut self, grant: &Grant, notes: &Notes) -> Result<(), LedgerError> {
        self.change(grant, notes, |transaction| {
            transaction
                .execute(
                    "UPDATE jobs SET holds = 0 WHERE key = ?1 AND owner = ?2 AND epoch = ?3",
                    params![grant.key.as_str(), grant.owner, grant.epoch],
                )
                .map_err(LedgerError::Database)?;
            Ok(())
        })
    }

    /// The open jobs that have changed something, the oldest first. Reads only.
    ///
    /// # Errors
    /// If the database fails. A record that is damaged is left out.
    pub fn unfinished(&mut self, now: Timestamp) -> Result<Vec<Unfinished>, LedgerError> {
        let keys = {
            let mut statement = self
                .database
                .prepare_cached(
                    "SELECT key, lease_until > ?1 FROM jobs
                     WHERE state = 'open' AND changed = 1
                     ORDER BY first_seen, key",
                )
                .map_err(LedgerError::Database)?;
            let rows = statement
                .query_map(params![now.as_millisecond()], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?))
                })
                .map_err(LedgerError::Database)?;
            rows.collect::<Result<Vec<_>, _>>()
                .map_err(LedgerError::Database)?
        };
        let mut unfinished = Vec::new();
        for (key, leased) in keys {
            let key = JobKey::from(key);
            let record = match read_record(&self.database, &key) {
                Err(LedgerError::Damaged { .. }) => continue,
                record => record?,
            };
            let binding = record.and_then(|record| record.binding);
            unfinished.extend(binding.map(|binding| Unfinished {
                key,
                binding,
                leased,
            }));
        }
        Ok(unfinished)
    }

    /// Which of these jobs are done. Reads only.
    ///
    /// # Errors
    /// If the database fails, or a job's record is damaged.
    pub fn done(&mut self, keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
        let result = self.read_done(keys);
        self.forget_if_failed(&result);
        result
    }

    /// In one transaction: locking the file costs more than reading a record.
    fn read_done(&mut self, keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
        let transaction = self.database.transaction().map_err(LedgerError::Database)?;
        let mut done = BTreeSet::new();
        for key in keys {
            let record = read_record(&transaction, key)?;
            if record.is_some_and(|record| record.outcome.is_some()) {
                done.insert(key.clone());
            }
        }
        transaction.commit().map_err(LedgerError::Database)?;
        Ok(done)
    }

    /// Ends every lease, and voids every grant: whoever opens the records for itself alone knows
    /// that their holders are dead.
    ///
    /// # Errors
    /// If the database fails.
    pub fn end_leases(&mut self) -> Result<(), LedgerError> {
        self.end_leases_where("TRUE")
    }

    /// The same, of the guests alone.
    ///
    /// # Errors
    /// If the database fails.
    pub fn end_leases_of_guests(&mut self) -> Result<(), LedgerError> {
        self.end_leases_where(&format!("owner LIKE '{GUEST}%'"))
    }

    /// The same, of all but the guests.
    ///
    /// # Errors
    /// If the database fails.
    pub fn end_leases_of_holders(&mut self) -> Result<(), LedgerError> {
        self.end_leases_where(&format!("owner NOT LIKE '{GUEST}%'"))
    }

    fn end_leases_where(&mut self, condition: &str) -> Result<(), LedgerError> {
        let sql = format!(
            "UPDATE jobs SET owner = '', lease_until = 0, holds = 0
             WHERE state = 'open' AND {condition}"
        );
        self.transact(|transaction| {
            transaction
                .execute(&sql, [])
                .map_err(LedgerError::Database)?;
            Ok(())
        })
    }
}

/// What a job's record holds.
struct Record {
    owner: String,
    epoch: i64,
    lease_until: i64,
    binding: Option<Binding>,
    /// Set when the job is done.
    outcome: Option<Outcome>,
}

impl Record {
    fn is_granted(&self, grant: &Grant) -> bool {
        (&self.owner, self.epoch) == (&grant.owner, grant.epoch)
    }
}

/// The record of a job, if there is one.
fn read_record(database: &Connection, key: &JobKey) -> Result<Option<Record>, LedgerError> {
    let row = database
        .prepare_cached(
            "SELECT owner, epoch, lease_until, production_id, staging_id, staging_domain,
                    policy_id, overwriting, state, outcome, evidence
             FROM jobs WHERE key = ?1",
        )
        .and_then(|mut statement| {
            statement.query_row(params![key.as_str()], |row| {
                let production: Option<String> = row.get(3)?;
                let staging: Option<String> = row.get(4)?;
                let (staging_domain, policy_id) = (row.get(5)?, row.get(6)?);
                let overwriting = row.get(7)?;
                let evidence: Option<String> = row.get(10)?;
                // A job that an older stagesweep bound has none.
                let evidence = evidence.map_or(Some(Evidence::default()), |it| Evidence::read(&it));
                let damaged = production.is_some() != staging.is_some() || evidence.is_none();
                let binding = production
                    .zip(staging)
                    .map(|(production_id, staging_id)| Binding {
                        production_id,
                        staging_id,
                        staging_domain,
                        policy_id,
                        overwriting,
                        evidence: evidence.unwrap_or_default(),
                    });
                let done = row.get::<_, String>(8)? == "done";
                let outcome = row.get::<_, Option<String>>(9)?;
                let outcome = outcome.and_then(|code| Outcome::from_code(&code));
                let record = Record {
                    owner: row.get(0)?,
                    epoch: row.get(1)?,
                    lease_until: row.get(2)?,
                    binding,
                    outcome,
                };
                Ok((record, done, damaged))
            })
        })
        .optional()
        .map_err(LedgerError::Database)?;
    match row {
        Some((record, done, damaged)) if damaged || done != record.outcome.is_some() => {
            Err(LedgerError::Damaged { key: key.clone() })
        }
        row => Ok(row.map(|(record, _, _)| record)),
    }
}

/// What the record of a job says of its runs.
fn read_past(database: &Connection, key: &JobKey) -> Result<Past, LedgerError> {
    let row = database.query_row(
        "SELECT first_seen, last_reason, trail, asked, last_receive FROM jobs WHERE key = ?1",
        params![key.as_str()],
        |row| {
            let trail: Option<String> = row.get(2)?;
            let asked: Option<i64> = row.get(3)?;
            let last_receive = row.get(4)?;
            Ok(Past {
                first_claimed_at: from_millis(row.get(0)?),
                last_reason: row.get(1)?,
                notes: Notes {
                    trail: trail.as_deref().map(Trail::read).unwrap_or_default(),
                    asked: asked.map(|at_ms| Asked {
                        at_ms,
                        last_receive,
                    }),
                },
            })
        },
    );
    row.map_err(LedgerError::Database)
}

fn owned<T>(owned: Option<T>, key: &JobKey) -> Result<T, LedgerError> {
    owned.ok_or_else(|| LedgerError::NotOwner { key: key.clone() })
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
