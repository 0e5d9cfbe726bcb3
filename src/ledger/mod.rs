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
mod keep;
mod sqlite;
mod trails;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

pub use dynamodb::DynamoDbLedger;
pub use keep::{Claimed, Holder};
pub use sqlite::{EmbeddedLedger, Records};

use crate::aws::AwsError;
use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::error_class::ErrorClass;
use crate::domain::event::JobKey;
use crate::domain::history::{Note, Trail};
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
    /// The job.
    pub key: JobKey,
    /// The instance.
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
    },
    /// Another live instance works on it.
    Leased {
        /// When its lease ends, unless it is renewed.
        until: Timestamp,
    },
    /// It was done before.
    Done {
        /// How.
        outcome: Outcome,
    },
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
    /// The job.
    pub key: JobKey,
    /// What it is bound to.
    pub binding: Binding,
    /// Somebody works on it, or has died less than a lease ago.
    pub leased: bool,
}

/// Where the ledger is kept.
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
    async fn done(&self, _keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
        Ok(BTreeSet::new())
    }

    /// Binds a job to its distributions, for good, and takes the production distribution for as
    /// long as the lease. A job that is claimed again must bind again to hold it.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; [`LedgerError::BoundOtherwise`] if the job
    /// is bound to other distributions; others if the ledger fails.
    async fn bind(&self, grant: &Grant, binding: &Binding) -> Result<Bound, LedgerError>;

    /// Gives the production distribution back while the job waits for somebody else, and keeps the grant. A
    /// void grant is no error.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn yield_production(&self, grant: &Grant) -> Result<(), LedgerError>;

    /// The open jobs that have changed something, the oldest first.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError>;

    /// Extends the right to work on a job.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the ledger fails.
    async fn renew(&self, grant: &Grant, until: Timestamp) -> Result<(), LedgerError>;

    /// Records that a job is done. Only after this may its messages be deleted.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`] if the grant is void; others if the ledger fails.
    async fn complete(&self, grant: &Grant, outcome: Outcome) -> Result<(), LedgerError>;

    /// Gives a job back unfinished, so that the next claim need not wait for the lease to end.
    /// `reason` is kept for those who look at the ledger. A void grant is no error.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn release(&self, grant: &Grant, reason: &str) -> Result<(), LedgerError>;

    /// Remembers something of a job for those who ask later ([`crate::domain::history`]). It is kept in
    /// memory and written with the next change of the job's record, or of its lease: it takes no write of its own,
    /// cannot fail, and is lost with the process.
    fn note(&self, _grant: &Grant, _note: Note) {}

    /// Keeps a notice that is owed to somebody ([`crate::notify`]), under an id of its own. Of a great many
    /// the oldest are forgotten.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    async fn owe(&self, _id: &str, _notice: &str) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Every notice that is owed, the oldest first.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    async fn owed(&self) -> Result<Vec<String>, LedgerError> {
        Ok(Vec::new())
    }

    /// Forgets notices, by id. One that is not known is no error.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    async fn paid(&self, _ids: &[String]) -> Result<(), LedgerError> {
        Ok(())
    }

    /// What is remembered of a job that is being worked on, its earlier runs included. A ledger that
    /// remembers nothing has none.
    fn trail(&self, _grant: &Grant) -> Option<Trail> {
        None
    }

    /// Writes something that means nothing, to find out whether the ledger can be written.
    ///
    /// # Errors
    /// If it cannot.
    async fn check(&self) -> Result<(), LedgerError>;

    /// What keeps the ledger from answering at once, if anything does. A file has none.
    fn trouble(&self) -> Option<LedgerTrouble> {
        None
    }

    /// Waits until there is such trouble.
    async fn troubled(&self) -> LedgerTrouble {
        std::future::pending().await
    }

    /// Forgets done jobs after [`RETENTION`], and open ones that nobody works on after
    /// [`OPEN_RETENTION`]. Returns how many records went.
    ///
    /// # Errors
    /// If the ledger fails.
    async fn prune(&self) -> Result<usize, LedgerError>;
}

/// Why the ledger did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The job was granted to someone else since.
    #[error("the job {key} was granted to another instance since")]
    NotOwner {
        /// The job.
        key: JobKey,
    },
    /// A job cannot be about other distributions than those it was bound to.
    #[error("the job {key} is bound to other distributions")]
    BoundOtherwise {
        /// The job.
        key: JobKey,
    },
    /// Another process has the file.
    #[error(
        "the ledger {path} is in use by another process: stop that one; daemons that share a queue share a \
         table (ledger.backend = \"dynamodb\")"
    )]
    InUse {
        /// The file.
        path: String,
    },
    /// The file was written by a newer stagesweep.
    #[error(
        "the ledger {path} has schema version {found}; this stagesweep knows {known}: run the newer \
         one, or set another ledger.path"
    )]
    NewerSchema {
        /// The file.
        path: String,
        /// The file's version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The file was written by an older stagesweep, and is not ours to bring up to date.
    #[error(
        "the ledger {path} has schema version {found}, of an older stagesweep: restart the daemon \
         with this one first"
    )]
    OlderSchema {
        /// The file.
        path: String,
        /// The file's version.
        found: i64,
    },
    /// There is no such file.
    #[error("there is no ledger {path}: start the daemon once, or set another ledger.path")]
    Missing {
        /// The file.
        path: String,
    },
    /// The file is a database of something else.
    #[error(
        "{path} is a database, but no ledger of stagesweep: move it away, or set another ledger.path"
    )]
    Foreign {
        /// The file.
        path: String,
    },
    /// The file's content contradicts itself.
    #[error("the ledger {path} cannot be opened ({}): {detail}", remedy::RESTORE)]
    Corrupt {
        /// The file.
        path: String,
        /// What SQLite found first.
        detail: String,
    },
    /// The file is not the one that was opened.
    #[error(
        "the ledger {path} was removed or replaced while in use: put it back, or restart stagesweep"
    )]
    Replaced {
        /// The file.
        path: String,
    },
    /// The file's place cannot be used.
    #[error("the ledger {path} cannot be opened ({})", remedy::WRITABLE)]
    Io {
        /// The file.
        path: String,
        #[source]
        /// Why.
        source: std::io::Error,
    },
    /// The file is no ledger, or cannot be read and written as one.
    #[error("the ledger {path} cannot be opened ({})", remedy::of(source))]
    Open {
        /// The file.
        path: String,
        #[source]
        /// Why.
        source: rusqlite::Error,
    },
    /// The open file cannot be read or written now.
    #[error("the ledger {path} cannot be read or written ({})", remedy::of(source))]
    Failing {
        /// The file.
        path: String,
        #[source]
        /// Why.
        source: rusqlite::Error,
    },
    /// The database failed: full disk, read-only file system, damaged file.
    #[error("the ledger's database failed")]
    Database(#[source] rusqlite::Error),
    /// A record holds what it cannot hold.
    #[error("the ledger's record of {key} is damaged")]
    Damaged {
        /// The job.
        key: JobKey,
    },
    /// The table cannot be used.
    #[error(
        "the ledger's table {table} cannot be used ({})",
        remedy::of_table(source)
    )]
    Table {
        /// The table.
        table: String,
        #[source]
        /// Why.
        source: AwsError,
    },
    /// The work was cut off: the process is ending.
    #[error("the ledger's worker ended")]
    Ended,
}

/// What to do about a database that fails.
impl LedgerError {
    /// Whether the ledger's table refuses the call, which no other try changes soon.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Table { source, .. } if source.class == ErrorClass::AccessDenied)
    }
}

mod remedy {
    use rusqlite::ErrorCode;

    use crate::aws::AwsError;
    use crate::domain::error_class::ErrorClass;

    pub(super) const WRITABLE: &str = "it and its directory must be writable";
    pub(super) const RESTORE: &str =
        "restore it, or move it away with its -wal and -shm; then what was done is forgotten";

    pub(super) fn of_table(error: &AwsError) -> &'static str {
        match error.class {
            ErrorClass::NotFound => {
                "create it with the partition key pk of type String, or set another ledger.table"
            }
            ErrorClass::AccessDenied => {
                "allow dynamodb:GetItem, dynamodb:UpdateItem and dynamodb:Scan on it"
            }
            ErrorClass::Rejected => "its key must be the partition key pk of type String alone",
            _ => "it is tried again",
        }
    }

    pub(super) fn of(error: &rusqlite::Error) -> &'static str {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "free space on its disk",
            Some(ErrorCode::SystemIoFailure) => "look at its disk, and at the limits on file sizes",
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => RESTORE,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another program keeps it locked"
            }
            _ => WRITABLE,
        }
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod model_tests;
