//! The ledger: what has been seen and done, outliving the process.
//!
//! It answers one question, [`Ledger::claim`]: may this instance work on this rejection? And it
//! keeps what a job must not learn twice: which staging distribution it is bound to.
//!
//! **Guarantees.** A job that is done stays done for [`RETENTION`], longer than SQS keeps any
//! message. Bind, renew and complete take the grant that the claim gave and fail if it is void by
//! now ([`LedgerError::NotOwner`]): a late holder can neither finish nor extend what is no longer
//! its own. One job at a time holds a production distribution: the one that bound last, until its
//! lease ends.
//!
//! **Assumptions.** A granted lease is worked on only while it is renewed before it ends. An owner
//! that claims a job again does not work on it any more under its earlier grant.
//!
//! **Not handled.** Leases and retention are wall-clock time. A clock that is set back prolongs the
//! leases that were granted before by as much; one that is set forward ends them early, and may
//! prune too much. Grants stay exclusive all the same: what another has taken, nobody can renew.

mod dynamodb;
mod error;
mod granted;
mod keep;
mod sqlite;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

pub use dynamodb::DynamoDbLedger;
#[cfg(test)]
pub(crate) use dynamodb::time::lapsed;
pub use error::{LedgerError, OpenError};
pub use granted::GrantedJob;
pub use keep::{Claimed, Holder};
pub use sqlite::{EmbeddedLedger, Records};

use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::Notes;
use crate::runtime::health::LedgerTrouble;

/// How long records are kept: one day above SQS's longest message retention (14 days).
pub const RETENTION: Duration = Duration::from_secs(15 * 24 * 60 * 60);

/// How long a job that was not finished is remembered, with its binding, when nobody works on it.
/// A message may lie in the dead-letter queue for 14 days, be moved back, and lie in its queue for
/// 14 days more; the claim when it is received at last counts anew.
pub const OPEN_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The right to work on a job. It is void once the job is granted again or released, or once its
/// lease has ended and another job took its production distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub key: JobKey,
    pub owner: String,
    /// Higher than that of any grant that the ledger gave before.
    pub epoch: i64,
}

/// The answer to a claim.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each job, and it is taken apart at once"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The job is this instance's.
    Granted {
        /// What later calls must present.
        grant: Grant,
        /// What an earlier claim bound the job to.
        binding: Option<Binding>,
        /// What else its record says of earlier runs.
        past: Past,
    },
    /// Another live instance works on it.
    Leased {
        /// When its lease ends, unless it is renewed.
        until: Timestamp,
    },
    /// It was done before.
    Done { outcome: Outcome },
}

/// What the record of a granted job says of earlier runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When the job was first granted; of a new one, now.
    pub first_claimed_at: Timestamp,
    /// Why the last run was given back, if one was.
    pub last_reason: Option<String>,
    pub notes: Notes,
}

/// The answer to a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The job is bound, and holds the production distribution.
    Bound,
    /// Another job holds the production distribution.
    ProductionBusy {
        /// When its lease ends, unless it is renewed.
        until: Timestamp,
    },
}

/// A job that has changed something and is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub key: JobKey,
    /// What it is bound to.
    pub binding: Binding,
    /// Somebody works on it, or has died less than a lease ago.
    pub leased: bool,
}

/// A ledger and an outbox in one place.
pub trait Store: Ledger + Outbox {}

impl<T: Ledger + Outbox> Store for T {}

/// Where the ledger is kept. Each change of a job's record takes along what is noted of the job.
#[async_trait]
pub trait Ledger: Send + Sync + std::fmt::Debug {
    /// Asks for the right to work on a job until `until`.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read or written. Nothing may be processed then.
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError>;

    /// Which of these jobs are done, as far as that can be told at once. A ledger where it cannot
    /// names none; [`claim`](Self::claim) tells.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    async fn done(&self, keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError>;

    /// Binds a job to its distributions, for good, and takes the production distribution for as
    /// long as the lease. A job that is claimed again must bind again to hold it.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; [`LedgerError::BoundOtherwise`] if the job
    /// is bound to other distributions; others if the ledger fails.
    async fn bind(
        &self,
        grant: &Grant,
        binding: &Binding,
        notes: &Notes,
    ) -> Result<Bound, LedgerError>;

    /// Gives the production distribution back while the job waits for somebody else, and keeps the grant. A
    /// void grant is no error.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn yield_production(&self, grant: &Grant, notes: &Notes) -> Result<(), LedgerError>;

    /// The open jobs that have changed something, the oldest first.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError>;

    /// Extends the right to work on a job.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the ledger fails.
    async fn renew(
        &self,
        grant: &Grant,
        until: Timestamp,
        notes: &Notes,
    ) -> Result<(), LedgerError>;

    /// Records that a job is done. Only after this may its messages be deleted.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the ledger fails.
    async fn complete(
        &self,
        grant: &Grant,
        outcome: Outcome,
        notes: &Notes,
    ) -> Result<(), LedgerError>;

    /// Gives a job back unfinished, so that the next claim need not wait for the lease to end.
    /// `reason` is kept for those who look at the ledger. A void grant is no error.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn release(&self, grant: &Grant, reason: &str, notes: &Notes) -> Result<(), LedgerError>;

    /// The time by which notes are dated: the ledger's own, where it has one.
    fn now(&self) -> Timestamp;

    /// Writes something that means nothing, to find out whether the ledger can be written.
    ///
    /// # Errors
    /// If it cannot.
    async fn check(&self) -> Result<(), LedgerError>;

    /// What keeps the ledger from answering at once, if anything does. A file has none.
    fn trouble(&self) -> Option<LedgerTrouble>;

    /// Waits until there is such trouble.
    async fn troubled(&self) -> LedgerTrouble;

    /// Forgets done jobs after [`RETENTION`], and open ones that nobody works on after
    /// [`OPEN_RETENTION`]. Returns how many records went.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn prune(&self) -> Result<usize, LedgerError>;
}

/// Notices that are to be sent to somebody ([`crate::notify`]), until they are.
#[async_trait]
pub trait Outbox: Send + Sync + std::fmt::Debug {
    /// Keeps a notice under an id of its own. Of a great many the oldest are forgotten.
    ///
    /// # Errors
    /// If the outbox cannot be written.
    async fn enqueue(&self, id: &str, notice: &str) -> Result<(), LedgerError>;

    /// Every notice that is kept, the oldest first.
    ///
    /// # Errors
    /// If the outbox cannot be read.
    async fn pending(&self) -> Result<Vec<String>, LedgerError>;

    /// Forgets notices that were sent, by id. One that is not known is no error.
    ///
    /// # Errors
    /// If the outbox cannot be written.
    async fn acknowledge(&self, ids: &[String]) -> Result<(), LedgerError>;
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod model_tests;
