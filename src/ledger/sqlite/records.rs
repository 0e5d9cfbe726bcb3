//! The ledger's rules, over one SQLite connection.
//!
//! Plain calls: they block, they are told the time, and they are told who asks. So the rules can be
//! shared by several owners, and be tested by themselves.
//!
//! | file | what |
//! |---|---|
//! | this one | opening the file, and one transaction for every change |
//! | `schema` | whose a file is, its tables, and bringing an older one up to date |
//! | `grants` | who may work on a job, and which job holds a production distribution |
//! | `history` | what people are told of the jobs |
//! | `notices` | what is to be sent to somebody |
//!
//! **Guarantees.** Every call is one transaction: it happened, or it did not. In a file, it is on
//! disk before the call returns (WAL, `synchronous = FULL`).
//!
//! **Assumptions.** Owners differ in their names.

mod grants;
mod history;
mod notices;
mod schema;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

pub(super) use self::grants::GUEST;
use self::schema::{SCHEMA, SCHEMA_VERSION, Unfit, prepare, version};
use crate::domain::history::Notes;
use crate::ledger::{Grant, LedgerError, OPEN_RETENTION, OpenError, RETENTION};

/// What has been seen and done, by whatever owners.
#[derive(Debug)]
pub struct Records {
    database: Connection,
}

impl Records {
    /// Opens the records in the file at `path`, creating it if need be.
    ///
    /// # Errors
    /// [`OpenError`] if the file is none of ours, its schema is newer, it is damaged, or it
    /// cannot be written. What is none of ours is left as it is.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Self::open_with(path, flags, prepare)
    }

    /// Opens the records in the file at `path` beside the process that holds it. A schema that is
    /// older is left alone: that process may be an older program.
    ///
    /// # Errors
    /// As [`Records::open`]; and if the file's schema is older.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Self::open_with(path, flags, |database| match version(&database)? {
            Some(older) if older < SCHEMA_VERSION => Err(Unfit::Older(older)),
            _ => prepare(database),
        })
    }

    fn open_with(
        path: &Path,
        flags: OpenFlags,
        prepare: impl FnOnce(Connection) -> Result<Self, Unfit>,
    ) -> Result<Self, OpenError> {
        let name = || path.display().to_string();
        // Else SQLite would see more than a file's name in `:memory:` and `file:…`.
        let absolute = std::path::absolute(path).map_err(|source| OpenError::Io {
            path: name(),
            source,
        })?;
        let database = match flags.contains(OpenFlags::SQLITE_OPEN_URI) {
            true => history::unchanging(&absolute),
            false => absolute,
        };
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(database, flags).map_err(Unfit::Database);
        opened.and_then(prepare).map_err(|unfit| match unfit {
            Unfit::Database(source) => OpenError::Open {
                path: name(),
                source,
            },
            Unfit::Newer(found) => OpenError::NewerSchema {
                path: name(),
                found,
                known: SCHEMA_VERSION,
            },
            Unfit::Older(found) => OpenError::OlderSchema {
                path: name(),
                found,
            },
            Unfit::Foreign => OpenError::Foreign { path: name() },
            Unfit::Corrupt(detail) => OpenError::Corrupt {
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
        Ok(Self { database })
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
    pub(crate) fn database(&self) -> &Connection {
        &self.database
    }

    /// Changes the record of a granted job in one transaction, and takes along what is noted of the job.
    fn change<T>(
        &mut self,
        grant: &Grant,
        notes: &Notes,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.transact(|transaction| {
            let asked = notes.asked;
            // That they cannot be written alone stops nothing.
            let _ = transaction.execute(
                "UPDATE jobs SET trail = ?4, asked = ?5, last_receive = ?6
                 WHERE key = ?1 AND owner = ?2 AND epoch = ?3",
                params![
                    grant.key.as_str(),
                    grant.owner,
                    grant.epoch,
                    notes.trail.text(),
                    asked.map(|it| it.at_ms),
                    asked.is_some_and(|it| it.last_receive),
                ],
            );
            work(transaction)
        })
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
        let result = work(&transaction)?;
        transaction.commit().map_err(LedgerError::Database)?;
        Ok(result)
    }
}

/// The time of a column.
fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}
