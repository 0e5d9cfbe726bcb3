//! What people are told of the jobs.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{OpenFlags, OptionalExtension, params};

use super::schema::{BUSY_TIMEOUT_MS, version};
use super::{Records, from_millis};
use crate::event::JobKey;
use crate::history::{self, Trail};
use crate::ledger::LedgerError;
use crate::plan::Outcome;

impl Records {
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
