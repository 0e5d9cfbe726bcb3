//! The embedded ledger: one SQLite file for one instance.
//!
//! **Guarantees.** Every change is on disk before it is reported (WAL, `synchronous = FULL`). One
//! process has the file for writing, by a lock beside it that the kernel drops with the process;
//! whoever only reads (`sqlite3`, for one) is not disturbed.
//!
//! **Assumptions.** Because the file is this process's alone, a lease that an earlier owner left
//! behind belongs to a process that is dead: opening the ledger ends it at once, and a killed
//! daemon resumes as soon as its messages come back.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Bound, Claim, Grant, Ledger, LedgerError, RETENTION};
use crate::binding::Binding;
use crate::clock::Clock;
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

/// A ledger in a file.
#[derive(Debug)]
pub struct EmbeddedLedger {
    database: Arc<Mutex<Connection>>,
    owner: String,
    clock: Clock,
    /// Held open: closing it gives the ledger up.
    _lock: File,
}

impl EmbeddedLedger {
    /// Opens the ledger at `path`, creating it and its directory if need be. `owner` names this
    /// instance and must differ from that of every other.
    ///
    /// # Errors
    /// [`LedgerError`] if another process has it, its schema is newer, or it cannot be written.
    pub fn open(path: &Path, owner: String, clock: Clock) -> Result<Self, LedgerError> {
        let io = |source| LedgerError::Io {
            path: path.display().to_string(),
            source,
        };
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(directory).map_err(io)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock_path(path))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LedgerError::InUse {
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let database = open_database(path).map_err(|error| match error {
            OpenError::Database(source) => LedgerError::Open {
                path: path.display().to_string(),
                source,
            },
            OpenError::Newer(found) => LedgerError::NewerSchema {
                found,
                known: SCHEMA_VERSION,
            },
        })?;
        Ok(Self {
            database: Arc::new(Mutex::new(database)),
            owner,
            clock,
            _lock: lock,
        })
    }

    /// Runs `work` in one transaction, away from the threads that drive the network.
    async fn transact<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || {
            // A panic inside rolls its transaction back; the connection stays usable.
            let mut database = database.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = database
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(LedgerError::Database)?;
            let result = work(&transaction)?;
            transaction.commit().map_err(LedgerError::Database)?;
            Ok(result)
        })
        .await
        .map_err(|_| LedgerError::Ended)?
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
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

fn open_database(path: &Path) -> Result<Connection, OpenError> {
    let mut database = Connection::open(path)?;
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
    // Whoever held these leases is dead: the file is ours alone.
    transaction.execute("UPDATE jobs SET lease_until = 0 WHERE state = 'open'", [])?;
    transaction.commit()?;
    Ok(database)
}

#[async_trait]
impl Ledger for EmbeddedLedger {
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let (key, pipeline, owner) = (key.clone(), pipeline.to_owned(), self.owner.clone());
        let (now, until) = (self.clock.now_ms(), until.as_millisecond());
        self.transact(move |transaction| {
            let record = read_record(transaction, &key)?;
            match record {
                Some(Record {
                    outcome: Some(outcome),
                    ..
                }) => return Ok(Claim::Done { outcome }),
                Some(Record {
                    owner: other,
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
            let binding = record.and_then(|record| record.binding);
            Ok(Claim::Granted {
                grant: Grant { key, owner, epoch },
                binding,
            })
        })
        .await
    }

    async fn bind(&self, grant: &Grant, binding: &Binding) -> Result<Bound, LedgerError> {
        let (grant, binding, now) = (grant.clone(), binding.clone(), self.clock.now_ms());
        self.transact(move |transaction| {
            let held: u32 = transaction
                .query_row(
                    "SELECT count(*) FROM jobs
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch],
                    |row| row.get(0),
                )
                .map_err(LedgerError::Database)?;
            owned(held as usize, grant.key.clone())?;
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
        .await
    }

    async fn renew(&self, grant: &Grant, until: Timestamp) -> Result<(), LedgerError> {
        let (grant, now, until) = (grant.clone(), self.clock.now_ms(), until.as_millisecond());
        self.transact(move |transaction| {
            let changed = transaction
                .execute(
                    "UPDATE jobs SET lease_until = ?4, updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch, until, now],
                )
                .map_err(LedgerError::Database)?;
            owned(changed, grant.key)
        })
        .await
    }

    async fn complete(&self, grant: &Grant, outcome: Outcome) -> Result<(), LedgerError> {
        let (grant, now) = (grant.clone(), self.clock.now_ms());
        self.transact(move |transaction| {
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
            owned(changed, grant.key)
        })
        .await
    }

    async fn release(&self, grant: &Grant, reason: &str) -> Result<(), LedgerError> {
        let (grant, reason, now) = (grant.clone(), reason.to_owned(), self.clock.now_ms());
        self.transact(move |transaction| {
            transaction
                .execute(
                    "UPDATE jobs SET lease_until = 0, last_reason = ?4, updated = ?5
                     WHERE key = ?1 AND owner = ?2 AND epoch = ?3 AND state = 'open'",
                    params![grant.key.as_str(), grant.owner, grant.epoch, reason, now],
                )
                .map_err(LedgerError::Database)?;
            Ok(())
        })
        .await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let now = self.clock.now_ms();
        self.transact(move |transaction| {
            transaction
                .execute("UPDATE checks SET checked = ?1", params![now])
                .map_err(LedgerError::Database)?;
            Ok(())
        })
        .await
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        let retention = i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX);
        let (now, oldest) = (self.clock.now_ms(), self.clock.now_ms() - retention);
        self.transact(move |transaction| {
            transaction
                .execute(
                    "DELETE FROM jobs WHERE updated < ?1 AND lease_until < ?2",
                    params![oldest, now],
                )
                .map_err(LedgerError::Database)
        })
        .await
    }
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

fn owned(changed: usize, key: JobKey) -> Result<(), LedgerError> {
    if changed == 1 {
        Ok(())
    } else {
        Err(LedgerError::NotOwner { key })
    }
}

fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
