//! How a run of a job ends: done, not to be done, stopped, or failed for now.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::ProgramFailure;
use super::observe::Contradiction;
use crate::aws::AwsError;
use crate::domain::decision::{Outcome, Refusal};
use crate::domain::verdict::Doubt;
use crate::ledger::LedgerError;
use crate::notify::End;
use crate::runtime::stop::StopReason;
use crate::telemetry::chain;

/// How a run of a job ended.
#[derive(Debug)]
pub enum Ended {
    /// Done, and recorded as done: its messages may be deleted.
    Succeeded(Done),
    /// It must not be done.
    Refused(Refused),
    /// The target's program says that it cannot be done.
    ProgramFailed { status: i32 },
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

/// How a job was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub outcome: Outcome,
    /// What people need to know of it: what was done by then, and what is left.
    pub detail: Option<String>,
}

/// Why a job must not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub refusal: Refusal,
    /// What was found, where, and what to do.
    pub detail: String,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        let detail = None;
        Self::Succeeded(Done { outcome, detail })
    }
}

/// Why a run failed for now.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed, and was tried often enough.
    #[error(transparent)]
    Call(Arc<AwsError>),
    /// Nothing moved for the propagation timeout.
    #[error("nothing changed for {} while waiting: {waiting_for}", humantime::format_duration(*after))]
    PropagationTimeout {
        waiting_for: &'static str,
        after: Duration,
    },
    /// It cannot be told whether the rejection still stands.
    #[error("it cannot be told whether the rejection still stands")]
    Unverified(#[source] Doubt),
    /// Readings contradict each other.
    #[error(
        "CloudFront's answers contradict each other: there is no staging distribution {staging_id} by one, and \
         {contradiction}; nothing is taken for done"
    )]
    Contradiction {
        staging_id: String,
        contradiction: Contradiction,
    },
    /// CodePipeline could not be asked in time, under the turn to make the change.
    #[error("CodePipeline did not answer in time before {step}, three times")]
    NotAnswered { step: &'static str },
    #[error("the ledger failed")]
    Ledger(#[source] LedgerError),
    /// The target's program did not succeed, and is run again.
    #[error(transparent)]
    Program(ProgramFailure),
    /// It failed after the job had changed something.
    #[error("{failure}; {left}", failure = failure.detail())]
    Halfway {
        failure: Box<Failure>,
        /// What was done, and what is left.
        left: String,
    },
}

impl Failure {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Call(error) => error.class.code(),
            Self::PropagationTimeout { .. } => "propagation_timeout",
            Self::Unverified(_) | Self::NotAnswered { .. } => "not_verified",
            Self::Contradiction { .. } => "contradictory_evidence",
            Self::Ledger(LedgerError::NotOwner { .. }) => "ledger_not_owner",
            Self::Ledger(_) => "ledger_failed",
            Self::Program(failure) => failure.code(),
            Self::Halfway { failure, .. } => failure.code(),
        }
    }

    /// Without what was done, and what is left.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Halfway { failure, .. } => failure,
            other => other,
        }
    }

    /// The failure and everything that caused it, as one line.
    #[must_use]
    pub fn detail(&self) -> String {
        chain(self)
    }
}

impl Ended {
    /// Whether nothing was found that is the execution's own.
    pub(super) fn found_nothing(&self) -> bool {
        match self {
            Self::Succeeded(done) => done.outcome == Outcome::AlreadyClean,
            Self::Refused(why) => why.refusal == Refusal::StagingNotWrittenByExecution,
            _ => false,
        }
    }

    /// The same, saying what the job has done and what it leaves, where it may end as a dead letter.
    pub(super) fn leaving(self, left: Option<String>) -> Self {
        match (self, left) {
            // Its words say what is left already.
            (Self::Refused(why), _) if why.refusal == Refusal::PolicyAttachedElsewhere => {
                Self::Refused(why)
            }
            (Self::Refused(Refused { refusal, detail }), Some(left)) => Self::Refused(Refused {
                refusal,
                detail: format!(
                    "{detail}; {left}; once it may, the job goes on by itself within fifteen minutes"
                ),
            }),
            (Self::Failed(failure), Some(left)) if !matches!(failure, Failure::Ledger(_)) => {
                let failure = Box::new(failure);
                Self::Failed(Failure::Halfway { failure, left })
            }
            (ended, _) => ended,
        }
    }

    /// What there is to tell of it. `None`: it means something to the daemon alone, and the job goes on.
    #[must_use]
    pub fn to_tell(&self) -> Option<End> {
        Some(match self {
            Self::Succeeded(Done { outcome, detail }) => End::Done {
                outcome: *outcome,
                detail: detail.clone(),
            },
            Self::Refused(Refused { refusal, detail }) => End::Refused {
                reason: refusal.code(),
                detail: detail.clone(),
            },
            Self::ProgramFailed { status } => End::Refused {
                reason: "program_failed",
                detail: format!("the program's exit status is {status}"),
            },
            // Another instance goes on with it.
            Self::Failed(Failure::Ledger(LedgerError::NotOwner { .. })) => return None,
            Self::Failed(failure) => End::Failed {
                reason: failure.code(),
                detail: failure.detail(),
            },
            // The job goes on, here or elsewhere.
            Self::Stopped(_) | Self::ProductionBusy { .. } => return None,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_that_means_something_to_people_is_told_and_no_other() {
        let until = "2026-08-24T06:30:00Z".parse().unwrap();
        let refused = Ended::Refused(Refused {
            refusal: Refusal::StagingHasAliases,
            detail: "in words".to_owned(),
        });
        let busy = Ended::ProductionBusy { until };
        for (ended, expected) in [
            (Outcome::Cleaned.into(), Some(("cleaned", "cleaned"))),
            (refused, Some(("refused", "staging_has_aliases"))),
            (
                Ended::ProgramFailed { status: 3 },
                Some(("refused", "program_failed")),
            ),
            (Ended::Stopped(StopReason::ShuttingDown), None),
            (busy, None),
        ] {
            let end = ended.to_tell();
            assert_eq!(end.as_ref().map(End::kind), expected, "{ended:?}");
        }
    }
}
