//! The ledger's rules, over one SQLite connection.
//!
//! Plain calls: they block, they are told the time, and they are told who asks. So the rules can be
//! shared by several owners, and be tested by themselves.
//!
//! **Guarantees.** Every call is one transaction: it happened, or it did not. In a file, it is on
//! disk before the call returns (WAL, `synchronous = FULL`).
//!
//! **Assumptions.** Owners differ in their names.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::{Bound, Claim, Grant, LedgerError, OPEN_RETENTION, RETENTION};
use crate::binding::Binding;
use crate::event::JobKey;
use crate::history::{self, Trail};
use crate::plan::Outcome;

/// What SQLite's header says whose file it is: "SSwL", stagesweep's ledger.
const APPLICATION_ID: i64 = 0x5353_774c;

/// How long a transaction waits for another process's.
const BUSY_TIMEOUT_MS: i64 = 5_000;

/// The newest schema.
const SCHEMA_VERSION: i64 = 3;

/// Times are milliseconds since the Unix epoch. A job that nobody works on has the empty owner, and
/// its `lease_until` is 0. `holds` says that the lease is on the production distribution too: a
/// job that was bound earlier and is claimed again does not hold it before it binds again. `trail`
/// is what people are told of the job; nothing decides by it. `notices` are those that were not sent yet.
const SCHEMA: &str = "
CREATE TABLE jobs (
    key             TEXT    PRIMARY KEY NOT NULL,
    pipeline        TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('open', 'done')),
    owner           TEXT    NOT NULL,
    epoch           INTEGER NOT NULL,
    lease_until     INTEGER NOT NULL,
    holds           INTEGER NOT NULL DEFAULT 0 CHECK (holds IN (0, 1)),
    production_id   TEXT,
    staging_id      TEXT,
    staging_domain  TEXT,
    policy_id       TEXT,
    overwriting     INTEGER,
    outcome         TEXT,
    last_reason     TEXT,
    first_seen      INTEGER NOT NULL,
    updated         INTEGER NOT NULL,
    trail           TEXT
) STRICT;
CREATE TABLE checks (checked INTEGER NOT NULL) STRICT;
INSERT INTO checks VALUES (0);
CREATE TABLE grants (last_epoch INTEGER NOT NULL) STRICT;
INSERT INTO grants VALUES (0);
CREATE TABLE notices (
    place           INTEGER PRIMARY KEY,
    id              TEXT    UNIQUE NOT NULL,
    notice          TEXT    NOT NULL
) STRICT;
CREATE INDEX jobs_updated ON jobs (updated);
CREATE UNIQUE INDEX jobs_production ON jobs (production_id) WHERE holds = 1;
";

/// From each schema to the next one, beginning with the first.
const MIGRATIONS: [&str; 2] = [
    "ALTER TABLE jobs ADD COLUMN trail TEXT",
    "CREATE TABLE notices (
         place  INTEGER PRIMARY KEY,
         id     TEXT    UNIQUE NOT NULL,
         notice TEXT    NOT NULL
     ) STRICT",
];

/// So many notices are kept at most.
const MAX_NOTICES: i64 = 1000;

/// Owners of this name share the file with the one that holds it.
pub(super) const GUEST: &str = "guest-";

/// What has been seen and done, by whatever owners.
#[derive(Debug)]
pub struct Records {
    database: Connection,
    /// A trail that the next transaction writes first.
    trail: Option<(Grant, String)>,
}

impl Records {
    /// Opens the records in the file at `path`, creating it if need be.
    ///
    /// # Errors
    /// [`LedgerError`] if the file is none of ours, its schema is newer, it is damaged, or it
    /// cannot be written. What is none of ours is left as it is.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Self::open_with(path, flags, prepare)
    }

    /// Opens the records in the file at `path` beside the process that holds it. A schema that is
    /// older is left alone: that process may be an older program.
    ///
    /// # Errors
    /// As [`Records::open`]; and if the file's schema is older.
    pub fn open_beside(path: &Path) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Self::open_with(path, flags, |database| match version(&database)? {
            Some(older) if older < SCHEMA_VERSION => Err(Unfit::Older(older)),
            _ => prepare(database),
        })
    }

    /// All jobs in the file at `path`, newest first, whoever holds it. Changes nothing.
    ///
    /// # Errors
    /// [`LedgerError`] if there is no such file, it is none of ours, its schema is newer, or it
    /// cannot be read.
    pub fn read(path: &Path, now: Timestamp) -> Result<Vec<history::Record>, LedgerError> {
        if !path.exists() {
            return Err(LedgerError::Missing {
                path: path.display().to_string(),
            });
        }
        let records = Self::open_with(path, OpenFlags::SQLITE_OPEN_READ_ONLY, |database| {
            database.pragma_update(None, "busy_timeout", BUSY_TIMEOUT_MS)?;
            version(&database)?;
            Ok(Self {
                database,
                trail: None,
            })
        })?;
        records.history(now).map_err(|source| LedgerError::Failing {
            path: path.display().to_string(),
            source,
        })
    }

    fn open_with(
        path: &Path,
        flags: OpenFlags,
        prepare: impl FnOnce(Connection) -> Result<Self, Unfit>,
    ) -> Result<Self, LedgerError> {
        let name = || path.display().to_string();
        // Else SQLite would see more than a file's name in `:memory:` and `file:…`.
        let absolute = std::path::absolute(path).map_err(|source| LedgerError::Io {
            path: name(),
            source,
        })?;
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(absolute, flags).map_err(Unfit::Database);
        opened.and_then(prepare).map_err(|unfit| match unfit {
            Unfit::Database(source) => LedgerError::Open {
                path: name(),
                source,
            },
            Unfit::Newer(found) => LedgerError::NewerSchema {
                path: name(),
                found,
                known: SCHEMA_VERSION,
            },
            Unfit::Older(found) => LedgerError::OlderSchema {
                path: name(),
                found,
            },
            Unfit::Foreign => LedgerError::Foreign { path: name() },
            Unfit::Corrupt(detail) => LedgerError::Corrupt {
                path: name(),
                detail,
            },
        })
    }

    /// Records that end with this value.
    ///
    /// # Errors
    /// [`LedgerError::Database`] if SQLite cannot be used at all.
    pub fn in_memory() -> Result<Self, LedgerError> {
        let database = Connection::open_in_memory().map_err(LedgerError::Database)?;
        database
            .execute_batch(SCHEMA)
            .map_err(LedgerError::Database)?;
        Ok(Self {
            database,
            trail: None,
        })
    }

    /// Lets the next change that is made with this grant write the job's trail too.
    pub fn with_trail(&mut self, grant: &Grant, trail: Option<String>) -> &mut Self {
        self.trail = trail.map(|trail| (grant.clone(), trail));
        self
    }

    /// The trail that a job's record holds.
    ///
    /// # Errors
    /// If the database fails.
    pub fn trail(&mut self, key: &JobKey) -> Result<Option<String>, LedgerError> {
        self.database
            .query_row(
                "SELECT trail FROM jobs WHERE key = ?1",
                params![key.as_str()],
                |row| row.get(0),
            )
            .optional()
            .map(Option::flatten)
            .map_err(LedgerError::Database)
    }

    fn history(&self, now: Timestamp) -> rusqlite::Result<Vec<history::Record>> {
        // The first schema had no trails.
        let trail = match self.database.prepare("SELECT trail FROM jobs") {
            Ok(_) => "trail",
            Err(_) => "NULL",
        };
        let sql = format!(
            "SELECT key, pipeline, outcome, lease_until, last_reason, first_seen, updated,
                    production_id, staging_id, {trail}
             FROM jobs ORDER BY first_seen DESC, key"
        );
        let mut statement = self.database.prepare(&sql)?;
        let rows = statement.query_map([], |row| {
            let outcome: Option<String> = row.get(2)?;
            let state = match outcome.as_deref().and_then(Outcome::from_code) {
                Some(outcome) => history::State::Done(outcome),
                None if row.get::<_, i64>(3)? > now.as_millisecond() => history::State::Working,
                None => history::State::Open(row.get(4)?),
            };
            let trail: Option<String> = row.get(9)?;
            Ok(history::Record {
                key: JobKey::from(row.get::<_, String>(0)?),
                pipeline: row.get(1)?,
                state,
                first_seen: from_millis(row.get(5)?),
                updated: from_millis(row.get(6)?),
                production_id: row.get(7)?,
                staging_id: row.get(8)?,
                trail: trail.as_deref().map(Trail::read).unwrap_or_default(),
            })
        })?;
        rows.collect()
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
                                     policy_id = ?5, overwriting = ?6, holds = 1, updated = ?7
                     WHERE key = ?1",
                    params![
                        grant.key.as_str(),
                        binding.production_id,
                        binding.staging_id,
                        binding.staging_domain,
                        binding.policy_id,
                        binding.overwriting,
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
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = now.as_millisecond();
        self.transact(|transaction| {
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
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = now.as_millisecond();
        self.transact(|transaction| {
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

    /// Keeps a notice; of too many, the oldest goes.
    ///
    /// # Errors
    /// If the database fails.
    pub fn owe(&mut self, id: &str, notice: &str) -> Result<(), LedgerError> {
        self.transact(|transaction| {
            let kept = transaction.execute(
                "INSERT INTO notices (id, notice) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
                params![id, notice],
            );
            kept.and_then(|_| {
                transaction.execute(
                    "DELETE FROM notices
                     WHERE place <= (SELECT max(place) FROM notices) - ?1",
                    params![MAX_NOTICES],
                )
            })
            .map_err(LedgerError::Database)?;
            Ok(())
        })
    }

    /// Every notice that is kept, the oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn owed(&mut self) -> Result<Vec<String>, LedgerError> {
        let read = || {
            let mut statement = self
                .database
                .prepare("SELECT notice FROM notices ORDER BY place")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        let result = read().map_err(LedgerError::Database);
        self.forget_if_failed(&result);
        result
    }

    /// Forgets notices.
    ///
    /// # Errors
    /// If the database fails.
    pub fn paid(&mut self, ids: &[String]) -> Result<(), LedgerError> {
        self.transact(|transaction| {
            for id in ids {
                transaction
                    .execute("DELETE FROM notices WHERE id = ?1", params![id])
                    .map_err(LedgerError::Database)?;
            }
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

    /// Forgets done jobs after [`RETENTION`], and open ones that nobody works on after
    /// [`OPEN_RETENTION`]. Returns how many records went.
    ///
    /// # Errors
    /// If the database fails.
    pub fn prune(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        let before = |age: Duration| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            now.as_millisecond().saturating_sub(age)
        };
        self.transact(|transaction| {
            transaction
                .execute(
                    "DELETE FROM jobs
                     WHERE state = 'done' AND updated < ?1
                        OR state = 'open' AND updated < ?2 AND lease_until < ?3",
                    params![
                        before(RETENTION),
                        before(OPEN_RETENTION),
                        now.as_millisecond()
                    ],
                )
                .map_err(LedgerError::Database)
        })
    }

    /// The connection, to look at the records and to bring about faults.
    #[cfg(test)]
    pub(super) fn database(&self) -> &Connection {
        &self.database
    }

    /// Runs `work` in one transaction.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let result = self.attempt(work);
        self.forget_if_failed(&result);
        result
    }

    /// After a failure, forgets the pages that were read: they may be what is wrong, and be mended
    /// by the next time.
    fn forget_if_failed<T>(&self, result: &Result<T, LedgerError>) {
        if let Err(LedgerError::Database(_)) = result {
            // That this fails too would change nothing.
            let _ = self.database.execute_batch("PRAGMA shrink_memory");
        }
    }

    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(LedgerError::Database)?;
        if let Some((grant, trail)) = self.trail.take() {
            // It only tells people something: that it cannot be written alone stops nothing.
            let _ = transaction.execute(
                "UPDATE jobs SET trail = ?4 WHERE key = ?1 AND owner = ?2 AND epoch = ?3",
                params![grant.key.as_str(), grant.owner, grant.epoch, trail],
            );
        }
        let result = work(&transaction)?;
        transaction.commit().map_err(LedgerError::Database)?;
        Ok(result)
    }
}

/// Why a file cannot be used.
enum Unfit {
    Database(rusqlite::Error),
    Newer(i64),
    Older(i64),
    Foreign,
    Corrupt(String),
}

impl From<rusqlite::Error> for Unfit {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// Makes an empty database a ledger, and refuses what is none of ours before anything is written
/// to it: turning WAL on would already change the file.
fn prepare(mut database: Connection) -> Result<Records, Unfit> {
    database.pragma_update(None, "busy_timeout", BUSY_TIMEOUT_MS)?;
    version(&database)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    let verdict: String = database.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        // Below the name of the database, which is always the same.
        let finding = verdict.lines().last().unwrap_or_default();
        return Err(Unfit::Corrupt(finding.to_owned()));
    }
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    match found {
        None => transaction.execute_batch(SCHEMA)?,
        Some(older) => {
            for (from, migration) in (1..).zip(MIGRATIONS) {
                if from >= older {
                    transaction.execute_batch(migration)?;
                }
            }
        }
    }
    if found != Some(SCHEMA_VERSION) {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()?;
    // Written again: that a file can only be read shows in nothing but a write.
    database.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(Records {
        database,
        trail: None,
    })
}

/// The version of the ledger's schema, `None` if nothing is in the database yet; an error if what is
/// in it is no ledger that we know.
fn version(database: &Connection) -> Result<Option<i64>, Unfit> {
    let (application, version, objects): (i64, i64, i64) = database.query_row(
        "SELECT (SELECT application_id FROM pragma_application_id),
                (SELECT user_version FROM pragma_user_version),
                (SELECT count(*) FROM sqlite_schema)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    match (application, version, objects) {
        (0, 0, 0) => Ok(None),
        (APPLICATION_ID, known @ 1..=SCHEMA_VERSION, _) => Ok(Some(known)),
        (APPLICATION_ID, newer, _) if newer > SCHEMA_VERSION => Err(Unfit::Newer(newer)),
        _ => Err(Unfit::Foreign),
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

impl Record {
    fn is_granted(&self, grant: &Grant) -> bool {
        (&self.owner, self.epoch) == (&grant.owner, grant.epoch)
    }
}

fn read_record(database: &Connection, key: &JobKey) -> Result<Option<Record>, LedgerError> {
    let row = database
        .prepare_cached(
            "SELECT owner, epoch, lease_until, production_id, staging_id, staging_domain,
                    policy_id, overwriting, state, outcome
             FROM jobs WHERE key = ?1",
        )
        .and_then(|mut statement| {
            statement.query_row(params![key.as_str()], |row| {
                let production: Option<String> = row.get(3)?;
                let staging: Option<String> = row.get(4)?;
                let (staging_domain, policy_id) = (row.get(5)?, row.get(6)?);
                let overwriting = row.get(7)?;
                let half_bound = production.is_some() != staging.is_some();
                let binding = production
                    .zip(staging)
                    .map(|(production_id, staging_id)| Binding {
                        production_id,
                        staging_id,
                        staging_domain,
                        policy_id,
                        overwriting,
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
                Ok((record, done, half_bound))
            })
        })
        .optional()
        .map_err(LedgerError::Database)?;
    match row {
        Some((record, done, half_bound)) if half_bound || done != record.outcome.is_some() => {
            Err(LedgerError::Damaged { key: key.clone() })
        }
        row => Ok(row.map(|(record, _, _)| record)),
    }
}

fn owned<T>(owned: Option<T>, key: &JobKey) -> Result<T, LedgerError> {
    owned.ok_or_else(|| LedgerError::NotOwner { key: key.clone() })
}

fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
