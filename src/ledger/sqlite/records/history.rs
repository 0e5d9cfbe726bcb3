//! What people are told of the jobs.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::OpenFlags;

use super::schema::{BUSY_TIMEOUT_MS, version};
use super::{Records, from_millis};
use crate::domain::binding::Evidence;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::{self, Trail};
use crate::ledger::{LedgerError, OpenError};

impl Records {
    /// All jobs in the file at `path`, newest first, whoever holds it. Changes nothing, and leaves no file
    /// behind.
    ///
    /// # Errors
    /// [`LedgerError`] if there is no such file, it is none of ours, its schema is newer, or it
    /// cannot be read.
    pub fn read(path: &Path, now: Timestamp) -> Result<Vec<history::Record>, LedgerError> {
        if let Err(source) = path.metadata() {
            let path = path.display().to_string();
            let missing = source.kind() == ErrorKind::NotFound;
            return Err(match missing {
                true => OpenError::Missing { path },
                false => OpenError::Io { path, source },
            }
            .into());
        }
        // Nobody has it open. SQLite would make the files of its write-ahead log all the same.
        if !is_open(path)
            && let Ok(records) = Self::read_from(path, OpenFlags::SQLITE_OPEN_URI, now)
        {
            return Ok(records);
        }
        Self::read_from(path, OpenFlags::empty(), now)
    }

    fn read_from(
        path: &Path,
        flags: OpenFlags,
        now: Timestamp,
    ) -> Result<Vec<history::Record>, LedgerError> {
        let flags = flags | OpenFlags::SQLITE_OPEN_READ_ONLY;
        let records = Self::open_with(path, flags, |database| {
            database.pragma_update(None, "busy_timeout", BUSY_TIMEOUT_MS)?;
            version(&database)?;
            Ok(Self { database })
        })?;
        records.history(now).map_err(|source| LedgerError::Failing {
            path: path.display().to_string(),
            source,
        })
    }

    fn history(&self, now: Timestamp) -> rusqlite::Result<Vec<history::Record>> {
        // Earlier schemas had less.
        let column =
            |name: &'static str| match self.database.prepare(&format!("SELECT {name} FROM jobs")) {
                Ok(_) => name,
                Err(_) => "NULL",
            };
        let (trail, evidence) = (column("trail"), column("evidence"));
        let sql = format!(
            "SELECT key, pipeline, outcome, lease_until, last_reason, first_seen, updated,
                    production_id, staging_id, policy_id, {trail}, {evidence}
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
            let trail: Option<String> = row.get(10)?;
            let evidence: Option<String> = row.get(11)?;
            Ok(history::Record {
                key: JobKey::from(row.get::<_, String>(0)?),
                pipeline: row.get(1)?,
                state,
                first_seen: from_millis(row.get(5)?),
                updated: from_millis(row.get(6)?),
                production_id: row.get(7)?,
                staging_id: row.get(8)?,
                policy_id: row.get(9)?,
                evidence: evidence
                    .as_deref()
                    .and_then(Evidence::read)
                    .unwrap_or_default(),
                trail: trail.as_deref().map(Trail::read).unwrap_or_default(),
            })
        })?;
        rows.collect()
    }
}

/// Whether somebody has the ledger open, or ended without closing it: the write-ahead log is there.
fn is_open(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Path::new(&log).exists()
}

/// The URI of a database that nobody changes while it is read ("URI Filenames" of SQLite).
pub(super) fn unchanging(absolute: &Path) -> PathBuf {
    let mut uri = "file:".to_owned();
    for &byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            byte => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_leaves_the_directory_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a ledger?.db");
        let mut records = Records::open(&path).unwrap();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let key = JobKey::from("job".to_owned());
        records.claim("one", &key, "shop", at(0), at(9)).unwrap();
        // While it is written to, what is not in the file itself yet is read too.
        assert_eq!(Records::read(&path, at(1)).unwrap().len(), 1);
        drop(records);
        let names = || {
            let entries = std::fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        assert_eq!(Records::read(&path, at(1)).unwrap().len(), 1);
        assert_eq!(names(), before);
    }

    #[test]
    fn a_job_is_worked_on_until_its_lease_ends() {
        let mut records = Records::in_memory().unwrap();
        let key = JobKey::from("job".to_owned());
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        records.claim("one", &key, "shop", at(0), at(120)).unwrap();
        for (now, working) in [(119, true), (120, false)] {
            let job = records.history(at(now)).unwrap().remove(0);
            assert_eq!(job.state == history::State::Working, working, "{now}");
        }
    }
}
