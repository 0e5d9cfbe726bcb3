//! How a run of a job ends: done, not to be done, stopped, or failed for now.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::ProgramFailure;
use crate::aws::AwsError;
use crate::ledger::LedgerError;
use crate::plan::{Outcome, Refusal};
use crate::stop::StopReason;
use crate::telemetry::chain;
use crate::verdict::Doubt;

/// How a run of a job ended.
#[derive(Debug)]
pub enum Ended {
    /// Done, and recorded as done: its messages may be deleted.
    Succeeded(Outcome),
    /// It must not be done.
    Refused(Refusal),
    /// The target's program says that it cannot be done.
    ProgramFailed {
        /// Its exit status.
        status: i32,
    },
    /// It was told to stop, and goes on under a later receive.
    Stopped(StopReason),
    /// Another instance works on the same production distribution.
    ProductionBusy {
        /// When its lease ends, unless it is renewed.
        until: Timestamp,
    },
    /// It failed for now.
    Failed(Failure),
}

/// Why a run failed for now.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed, and was tried often enough.
    #[error("an AWS call failed")]
    Call(#[source] Arc<AwsError>),
    /// Nothing moved for the propagation timeout.
    #[error("nothing changed for {} while waiting: {waiting_for}", humantime::format_duration(*after))]
    PropagationTimeout {
        /// The wait's name.
        waiting_for: &'static str,
        /// The propagation timeout.
        after: Duration,
    },
    /// It cannot be told whether the rejection still stands.
    #[error("it cannot be told whether the rejection still stands")]
    Unverified(#[source] Doubt),
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[source] LedgerError),
    /// The target's program did not succeed, and is run again.
    #[error(transparent)]
    Program(ProgramFailure),
}

impl Failure {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Call(error) => error.class.code(),
            Self::PropagationTimeout { .. } => "propagation_timeout",
            Self::Unverified(_) => "not_verified",
            Self::Ledger(LedgerError::NotOwner { .. }) => "ledger_not_owner",
            Self::Ledger(_) => "ledger_failed",
            Self::Program(failure) => failure.code(),
        }
    }

    /// The failure and everything that caused it, as one line.
    #[must_use]
    pub fn detail(&self) -> String {
        chain(self)
    }
}

/// Ends a run early.
pub(super) enum Halt {
    Ended(Ended),
    Call(AwsError),
}

impl From<Ended> for Halt {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<AwsError> for Halt {
    fn from(error: AwsError) -> Self {
        Self::Call(error)
    }
}

impl From<Halt> for Ended {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Ended(ended) => ended,
            Halt::Call(error) => Self::Failed(Failure::Call(Arc::new(error))),
        }
    }
}
