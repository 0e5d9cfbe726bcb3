//! A job that was granted: the right to work on it, and what is noted of it meanwhile.
//!
//! **Guarantees.** A note takes no write of its own and cannot fail: the next change of the job's record takes it
//! along. What was noted after the last change is lost with the process.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Bound, Grant, Ledger, LedgerError, Past};
use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::{Note, Notes, Trail};

/// A job that was granted. Clones are the same.
#[derive(Clone, Debug)]
pub struct GrantedJob {
    ledger: Arc<dyn Ledger>,
    grant: Grant,
    first_claimed_at: Timestamp,
    notes: Arc<Mutex<Notes>>,
}

impl GrantedJob {
    /// The job of a grant that `ledger` gave.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, grant: Grant, past: Past) -> Self {
        Self {
            ledger,
            grant,
            first_claimed_at: past.first_claimed_at,
            notes: Arc::new(Mutex::new(past.notes)),
        }
    }

    #[must_use]
    pub fn key(&self) -> &JobKey {
        &self.grant.key
    }

    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.grant.epoch
    }

    /// When the job was first granted to anybody.
    #[must_use]
    pub fn first_claimed_at(&self) -> Timestamp {
        self.first_claimed_at
    }

    /// Remembers something of the job, for those who ask later.
    pub fn note(&self, note: Note) {
        let now = self.ledger.now();
        self.notes.lock().note(note, now);
    }

    /// What is remembered of the job, its earlier runs included.
    #[must_use]
    pub fn trail(&self) -> Trail {
        self.notes.lock().trail.clone()
    }

    fn notes(&self) -> Notes {
        self.notes.lock().clone()
    }

    /// As [`Ledger::bind`].
    ///
    /// # Errors
    /// As [`Ledger::bind`].
    pub async fn bind(&self, binding: &Binding) -> Result<Bound, LedgerError> {
        self.ledger.bind(&self.grant, binding, &self.notes()).await
    }

    /// As [`Ledger::yield_production`].
    ///
    /// # Errors
    /// If the ledger fails.
    pub async fn yield_production(&self) -> Result<(), LedgerError> {
        let notes = self.notes();
        self.ledger.yield_production(&self.grant, &notes).await
    }

    /// As [`Ledger::renew`].
    ///
    /// # Errors
    /// As [`Ledger::renew`].
    pub async fn renew(&self, until: Timestamp) -> Result<(), LedgerError> {
        self.ledger.renew(&self.grant, until, &self.notes()).await
    }

    /// As [`Ledger::complete`].
    ///
    /// # Errors
    /// As [`Ledger::complete`].
    pub async fn complete(&self, outcome: Outcome) -> Result<(), LedgerError> {
        let notes = self.notes();
        self.ledger.complete(&self.grant, outcome, &notes).await
    }

    /// As [`Ledger::release`].
    ///
    /// # Errors
    /// If the ledger fails.
    pub async fn release(&self, reason: &str) -> Result<(), LedgerError> {
        let notes = self.notes();
        self.ledger.release(&self.grant, reason, &notes).await
    }
}
