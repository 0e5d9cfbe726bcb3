//! The notices that are to be sent to somebody ([`crate::notify`]).

use rusqlite::params;

use super::Records;
use crate::ledger::LedgerError;

/// So many notices are kept at most.
const MAX_NOTICES: i64 = 1000;

impl Records {
    /// Keeps a notice; of too many, the oldest goes.
    ///
    /// # Errors
    /// If the database fails.
    pub fn enqueue(&mut self, id: &str, notice: &str) -> Result<(), LedgerError> {
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
    pub fn pending(&mut self) -> Result<Vec<String>, LedgerError> {
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
    pub fn acknowledge(&mut self, ids: &[String]) -> Result<(), LedgerError> {
        self.transact(|transaction| {
            for id in ids {
                transaction
                    .execute("DELETE FROM notices WHERE id = ?1", params![id])
                    .map_err(LedgerError::Database)?;
            }
            Ok(())
        })
    }
}
