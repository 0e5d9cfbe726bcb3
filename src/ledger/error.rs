//! Why a ledger cannot be opened, and why one that is open does not do what it was asked.

use crate::aws::AwsError;
use crate::domain::error_class::ErrorClass;
use crate::domain::event::JobKey;

/// Why the ledger did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The job was granted to someone else since.
    #[error("the job {key} was granted to another instance since")]
    NotOwner { key: JobKey },
    /// A job cannot be about other distributions than those it was bound to.
    #[error("the job {key} is bound to other distributions")]
    BoundOtherwise { key: JobKey },
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file is not the one that was opened.
    #[error(
        "the ledger {path} was removed or replaced while in use: put it back, or restart stagesweep"
    )]
    Replaced { path: String },
    /// The open file cannot be read or written now.
    #[error("the ledger {path} cannot be read or written ({})", remedy::of(source))]
    Failing {
        path: String,
        #[source]
        source: rusqlite::Error,
    },
    /// The database failed: full disk, read-only file system, damaged file.
    #[error("the ledger's database failed")]
    Database(#[source] rusqlite::Error),
    /// A record holds what it cannot hold.
    #[error("the ledger's record of {key} is damaged")]
    Damaged { key: JobKey },
    /// The table cannot be used.
    #[error(
        "the ledger's table {table} cannot be used ({})",
        remedy::of_table(source)
    )]
    Table {
        table: String,
        #[source]
        source: AwsError,
    },
    /// The work was cut off: the process is ending.
    #[error("the ledger's worker ended")]
    Ended,
}

/// Why a ledger's file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the file.
    #[error(
        "the ledger {path} is held by {holder}: run one daemon for each queue; for several instances set \
         ledger.backend = \"dynamodb\""
    )]
    InUse {
        path: String,
        /// Which process, what it was started as, and since when, as far as it left a note of that.
        holder: String,
    },
    /// The file was written by a newer stagesweep.
    #[error(
        "the ledger {path} has schema version {found}; this stagesweep knows {known}: run the version \
         that wrote it, or a newer one"
    )]
    NewerSchema {
        path: String,
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The file was written by an older stagesweep, and is not ours to bring up to date.
    #[error(
        "the ledger {path} has schema version {found}, of an older stagesweep: restart the daemon \
         with this one first"
    )]
    OlderSchema { path: String, found: i64 },
    /// There is no such file.
    #[error(
        "there is no ledger {path}: start the daemon once, or give the --config of the daemon that runs"
    )]
    Missing { path: String },
    /// The file is a database of something else.
    #[error(
        "{path} is a database, but no ledger of stagesweep: move it away, or correct ledger.path"
    )]
    Foreign { path: String },
    /// The file's content contradicts itself.
    #[error("the ledger {path} cannot be opened ({}): {detail}", remedy::RESTORE)]
    Corrupt {
        path: String,
        /// What SQLite found first.
        detail: String,
    },
    /// The file's place cannot be used.
    #[error("the ledger {path} cannot be opened ({})", remedy::WRITABLE)]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file is no ledger, or cannot be read and written as one.
    #[error("the ledger {path} cannot be opened ({})", remedy::of(source))]
    Open {
        path: String,
        #[source]
        source: rusqlite::Error,
    },
}

impl LedgerError {
    /// Whether the ledger's table refuses the call, which no other try changes soon.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Table { source, .. } if source.class == ErrorClass::AccessDenied)
    }
}

/// What to do about a ledger that fails.
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
                "create it with the partition key pk of type String, or correct ledger.table"
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
