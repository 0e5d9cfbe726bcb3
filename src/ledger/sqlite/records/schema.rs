//! The schema of the ledger's file: whose a file is, its tables, and bringing an older one up to date.
//!
//! **Guarantees.** A file that is none of ours, or of a newer stagesweep, is left as it is.

use rusqlite::{Connection, TransactionBehavior};

use super::Records;

/// What SQLite's header says whose file it is: "SSwL", stagesweep's ledger.
const APPLICATION_ID: i64 = 0x5353_774c;

/// How long a transaction waits for another process's.
pub(super) const BUSY_TIMEOUT_MS: i64 = 5_000;

/// The newest schema.
pub(super) const SCHEMA_VERSION: i64 = 5;

/// Times are milliseconds since the Unix epoch. A job that nobody works on has the empty owner, and
/// its `lease_until` is 0. `holds` says that the lease is on the production distribution too: a
/// job that was bound earlier and is claimed again does not hold it before it binds again. `trail`
/// is what people are told of the job. `asked` is when a run that a message asked for last noted something, null if the
/// last run was asked for by none; `last_receive` says that the message is a dead letter next. `evidence` is what else later runs of the job go by; `changed` says
/// that the job has changed something, or was about to. `notices` are those that were not sent yet.
pub(super) const SCHEMA: &str = "
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
    trail           TEXT,
    evidence        TEXT,
    changed         INTEGER NOT NULL DEFAULT 0,
    asked           INTEGER,
    last_receive    INTEGER NOT NULL DEFAULT 0
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
const MIGRATIONS: [&str; 4] = [
    "ALTER TABLE jobs ADD COLUMN trail TEXT",
    "CREATE TABLE notices (
         place  INTEGER PRIMARY KEY,
         id     TEXT    UNIQUE NOT NULL,
         notice TEXT    NOT NULL
     ) STRICT",
    "ALTER TABLE jobs ADD COLUMN evidence TEXT;
     ALTER TABLE jobs ADD COLUMN changed INTEGER NOT NULL DEFAULT 0",
    // Until then the trail alone said who asked.
    "ALTER TABLE jobs ADD COLUMN asked INTEGER;
     ALTER TABLE jobs ADD COLUMN last_receive INTEGER NOT NULL DEFAULT 0;
     UPDATE jobs SET
         asked = coalesce(json_extract(trail, '$.entries[#-1].at_ms'), 0),
         last_receive = coalesce(json_extract(trail, '$.about.last_receive'), 0)
     WHERE json_valid(trail) AND json_type(trail, '$.about') = 'object'
       AND NOT coalesce(json_extract(trail, '$.about.unasked'), 0)",
];

/// Why a file cannot be used.
pub(super) enum Unfit {
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
pub(super) fn prepare(mut database: Connection) -> Result<Records, Unfit> {
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
    Ok(Records { database })
}

/// The version of the ledger's schema, `None` if nothing is in the database yet; an error if what is
/// in it is no ledger that we know.
pub(super) fn version(database: &Connection) -> Result<Option<i64>, Unfit> {
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

#[cfg(test)]
mod tests {
    use rusqlite::OpenFlags;

    use super::*;
    use crate::ledger::OpenError;

    /// SQLite opens a file that is write-protected for reading alone, without a word.
    #[test]
    fn a_ledger_that_can_only_be_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        drop(Records::open(&path).unwrap());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = Connection::open_with_flags(&path, flags).unwrap();
        match prepare(database) {
            Err(Unfit::Database(error)) => {
                let error = OpenError::Open {
                    path: path.display().to_string(),
                    source: error,
                };
                let text = crate::telemetry::chain(&error);
                assert!(text.contains("must be writable"), "{text}");
                assert!(text.contains("readonly"), "{text}");
            }
            _ => panic!("it was opened"),
        }
    }

    #[test]
    fn a_file_of_ours_without_a_version_is_none_that_we_know() {
        let database = Connection::open_in_memory().unwrap();
        database
            .pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        for unknown in [0, -1] {
            database
                .pragma_update(None, "user_version", unknown)
                .unwrap();
            assert!(matches!(version(&database), Err(Unfit::Foreign)));
        }
    }
}
