//! The ledger's rules, over one SQLite connection.
//!
//! Plain calls: they block, they are told the time, and they are told who asks. So the rules can be
//! shared by several owners, and be tested by themselves.
//!
//! **Guarantees.** Every call is one transaction: it happened, or it did not. In a file, it is on
//! disk before the call returns (WAL, `synchronous = FULL`).
//!
//! **Assumptions.** Owners differ in their names.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Bound, Claim, Grant, LedgerError, RETENTION};
use crate::binding::Binding;
use crate::event::JobKey;
use crate::plan::Outcome;

/// The newest schema. Version 0 is an empty file.
const SCHEMA_VERSION: i64 = 1;

/// Times are milliseconds since the Unix epoch. `lease_until` of a job that nobody works on is 0.
const SCHEMA: &str = "
CREATE TABLE jobs (
    key             TEXT    PRIMARY KEY NOT NULL,
    pipeline        TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('open', 'done')),
    owner           TEXT    NOT NULL,
    epoch           INTEGER NOT NULL,
    lease_until     INTEGER NOT NULL,
    production_id   TEXT,
    staging_id      TEXT,
    staging_domain  TEXT,
    policy_id       TEXT,
    outcome         TEXT,
    last_reason     TEXT,
    first_seen      INTEGER NOT NULL,
    updated         INTEGER NOT NULL
) STRICT;
CREATE TABLE checks (checked INTEGER NOT NULL) STRICT;
INSERT INTO checks VALUES (0);
CREATE INDEX jobs_updated ON jobs (updated);
CREATE INDEX jobs_production ON jobs (production_id) WHERE state = 'open';
";

/// What has been seen and done, by whatever owners.
#[derive(Debug)]
pub struct Records {
    database: Connection,
}

impl Records {
    /// Opens the records in the file at `path`, creating it if need be.
    ///
    /// # Errors
    /// [`LedgerError`] if the file is none of ours, its schema is newer, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let opened = Connection::open(path).map_err(OpenError::Database);
        opened.and_then(prepare).map_err(|error| match error {
            OpenError::Database(source) => LedgerError::Open {
                path: path.display().to_string(),
                source,
            },
            OpenError::Newer(found) => LedgerError::NewerSchema {
                found,
                known: SCHEMA_VERSION,
            },
        })
    }

    /// Records that end with this value.
    ///
    /// # Errors
    /// [`LedgerError::Database`] if SQLite cannot be used at all.
    pub fn in_memory() -> Result<Self, LedgerError> {
        let opened = Connection::open_in_memory().map_err(OpenError::Database);
        opened.and_then(prepare).map_err(|error| match error {
            OpenError::Database(source) => LedgerError::Database(source),
            OpenError::Newer(found) => LedgerError::NewerSchema {
                found,
                known: SCHEMA_VERSION,
            },
        })
    }

    /// Ends every lease: whoever opens the records for itself alone knows that their holders are
    /// dead.
    ///
    /// # Errors
    /// If the database fails.
    pub fn end_leases(&mut self) -> Result<(), LedgerError> {
        self.transact(|transaction| {
            transaction
                .execute("UPDATE jobs SET lease_until = 0 WHERE state = 'open'", [])
                .map_err(LedgerError::Database)?;
            Ok(())
        })
    }

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
            let epoch = record.as_ref().map_or(0, |record| record.epoch) + 1;
            transaction
                .execute(
                    "INSERT INTO jobs
                         (key, pipeline, state, owner, epoch, lease_until, first_seen, updated)
                     VALUES (?1, ?2, 'open', ?3, ?4, ?5, ?6, ?6)
                     ON CONFLICT (key) DO UPDATE SET
                         owner = ?3, epoch = ?4, lease_until = ?5, updated = ?6",
                    params![key.as_str(), pipeline, owner, epoch, until, now],
                )
                .map_err(LedgerError::Database)?;
            Ok(Claim::Granted {
                grant: Grant {
                    key: key.clone(),
                    owner: owner.to_owned(),
                    epoch,
                },
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
        now: Timestamp,
    ) -> Result<Bound, LedgerError> {
        let now = now.as_millisecond();
        self.transact(|transaction| {
            let held: u32 = transaction
                .query_row(
                    "SELECT count(*) FROM jobs
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch],
                    |row| row.get(0),
                )
                .map_err(LedgerError::Database)?;
            owned(held as usize, &grant.key)?;
            let busy: Option<i64> = transaction
                .query_row(
                    "SELECT max(lease_until) FROM jobs
                     WHERE production_id = ?1 AND state = 'open' AND key <> ?2
                       AND lease_until > ?3",
                    params![binding.production_id, grant.key.as_str(), now],
                    |row| row.get(0),
                )
                .map_err(LedgerError::Database)?;
            if let Some(until) = busy {
                return Ok(Bound::ProductionBusy {
                    until: from_millis(until),
                });
            }
            transaction
                .execute(
                    "UPDATE jobs SET production_id = ?2, staging_id = ?3, staging_domain = ?4,
                                     policy_id = ?5, updated = ?6
                     WHERE key = ?1",
                    params![
                        grant.key.as_str(),
                        binding.production_id,
                        binding.staging_id,
                        binding.staging_domain,
                        binding.policy_id,
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
    ) -> Result<(), LedgerError> {
        let (now, until) = (now.as_millisecond(), until.as_millisecond());
        self.transact(|transaction| {
            let changed = transaction
                .execute(
                    "UPDATE jobs SET lease_until = ?4, updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch, until, now],
                )
                .map_err(LedgerError::Database)?;
            owned(changed, &grant.key)
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
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = now.as_millisecond();
        self.transact(|transaction| {
            let changed = transaction
                .execute(
                    "UPDATE jobs SET state = 'done', outcome = ?4, lease_until = 0, updated = ?5
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
            owned(changed, &grant.key)
        })
    }

    /// Gives a job back unfinished. A void grant is no error.
    ///
    /// # Errors
    /// If the database fails.
    pub fn release(
        &mut self,
        grant: &Grant,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = now.as_millisecond();
        self.transact(|transaction| {
            transaction
                .execute(
                    "UPDATE jobs SET lease_until = 0, last_reason = ?4, updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch, reason, now],
                )
                .map_err(LedgerError::Database)?;
            Ok(())
        })
    }

    /// Writes something that means nothing, to find out whether the records can be written.
    ///
    /// # Errors
    /// If they cannot.
    pub fn check(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        self.transact(|transaction| {
            transaction
                .execute(
                    "UPDATE checks SET checked = ?1",
                    params![now.as_millisecond()],
                )
                .map_err(LedgerError::Database)?;
            Ok(())
        })
    }

    /// Forgets what is older than [`RETENTION`]. Returns how many records went.
    ///
    /// # Errors
    /// If the database fails.
    pub fn prune(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        let retention = i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX);
        let now = now.as_millisecond();
        self.transact(|transaction| {
            transaction
                .execute(
                    "DELETE FROM jobs WHERE updated < ?1 AND lease_until < ?2",
                    params![now - retention, now],
                )
                .map_err(LedgerError::Database)
        })
    }

    /// Whether every write is refused from now on.
    #[cfg(test)]
    pub(super) fn query_only(&self, on: bool) {
        self.database
            .pragma_update(None, "query_only", on)
            .expect("SQLite knows this one");
    }

    /// Runs `work` in one transaction.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(LedgerError::Database)?;
        let result = work(&transaction)?;
        transaction.commit().map_err(LedgerError::Database)?;
        Ok(result)
    }
}

enum OpenError {
    Database(rusqlite::Error),
    Newer(i64),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

fn prepare(mut database: Connection) -> Result<Records, OpenError> {
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.pragma_update(None, "busy_timeout", 5_000)?;
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? {
        0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        SCHEMA_VERSION => {}
        newer => return Err(OpenError::Newer(newer)),
    }
    transaction.commit()?;
    Ok(Records { database })
}

struct Record {
    owner: String,
    epoch: i64,
    lease_until: i64,
    binding: Option<Binding>,
    /// Set when the job is done.
    outcome: Option<Outcome>,
}

fn read_record(transaction: &Transaction<'_>, key: &JobKey) -> Result<Option<Record>, LedgerError> {
    let row = transaction
        .query_row(
            "SELECT owner, epoch, lease_until, production_id, staging_id, staging_domain,
                    policy_id, state, outcome
             FROM jobs WHERE key = ?1",
            params![key.as_str()],
            |row| {
                let production: Option<String> = row.get(3)?;
                let staging: Option<String> = row.get(4)?;
                let (staging_domain, policy_id) = (row.get(5)?, row.get(6)?);
                let binding = production
                    .zip(staging)
                    .map(|(production_id, staging_id)| Binding {
                        production_id,
                        staging_id,
                        staging_domain,
                        policy_id,
                    });
                let done = row.get::<_, String>(7)? == "done";
                let outcome = row.get::<_, Option<String>>(8)?;
                let outcome = outcome.and_then(|code| Outcome::from_code(&code));
                let record = Record {
                    owner: row.get(0)?,
                    epoch: row.get(1)?,
                    lease_until: row.get(2)?,
                    binding,
                    outcome,
                };
                Ok((record, done))
            },
        )
        .optional()
        .map_err(LedgerError::Database)?;
    match row {
        Some((record, done)) if done != record.outcome.is_some() => {
            Err(LedgerError::Damaged { key: key.clone() })
        }
        row => Ok(row.map(|(record, _)| record)),
    }
}

fn owned(changed: usize, key: &JobKey) -> Result<(), LedgerError> {
    if changed == 1 {
        Ok(())
    } else {
        Err(LedgerError::NotOwner { key: key.clone() })
    }
}

fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}
