//! How a run of a job ended: what is reported of it, and what becomes of its messages.

use std::time::Duration;

use crate::consumer::jobs::Handle;
use crate::consumer::ledger_health::LedgerHealth;
use crate::consumer::settle::{Delay, Disposition, PROGRAM_FAILED};
use crate::domain::assignment::Assignment;
use crate::domain::decision::Outcome;
use crate::domain::history::{News, Told};
use crate::reconcile::{Done, Ended, Failure, Refused};
use crate::runtime::stop::StopReason;
use crate::telemetry::Telemetry;
use crate::telemetry::events::{self, Work};

/// The reason of a job that panicked.
pub(super) const PANICKED: &str = "panicked";

/// One run of a job, to report how it ends.
pub(super) struct Conclusion<'a> {
    telemetry: &'a Telemetry,
    ledger: &'a LedgerHealth,
    assignment: &'a Assignment,
    handle: &'a Handle,
    /// What was reported of the job before.
    told: Told,
}

impl<'a> Conclusion<'a> {
    pub(super) fn new(
        telemetry: &'a Telemetry,
        ledger: &'a LedgerHealth,
        assignment: &'a Assignment,
        handle: &'a Handle,
    ) -> Self {
        Self {
            telemetry,
            ledger,
            assignment,
            handle,
            told: Told::default(),
        }
    }

    /// So much was reported of the job before.
    pub(super) fn told(&mut self, told: Told) {
        self.told = told;
    }

    pub(super) fn work(&self) -> Work {
        Work::of(&self.assignment.target)
    }

    /// How long the job has been in flight.
    pub(super) fn took(&self) -> Duration {
        self.handle.started.elapsed()
    }

    pub(super) fn of(&self, ended: Ended) -> Disposition {
        match ended {
            Ended::Succeeded(Done { outcome, detail }) => {
                self.telemetry.emit(events::JobSucceeded {
                    work: self.work(),
                    execution_id: self.assignment.execution_id(),
                    outcome,
                    // What was left half way is a warning of its own.
                    detail: detail.as_deref().filter(|_| outcome == Outcome::Observed),
                    took: self.took(),
                });
                Disposition::Delete {
                    reason: outcome.code(),
                }
            }
            Ended::Refused(Refused { refusal, detail }) => {
                self.refused(self.work(), refusal.code(), detail)
            }
            Ended::ProgramFailed { status } => {
                let detail = format!("the program's exit status is {status}");
                self.refused(Work::Program, PROGRAM_FAILED, detail)
            }
            Ended::Stopped(reason) => {
                let delay = match reason {
                    StopReason::LedgerLost => Delay::Backoff,
                    StopReason::Crowded => Delay::Crowded,
                    StopReason::ShuttingDown
                    | StopReason::LeaseLost
                    | StopReason::VisibilityCeiling => Delay::None,
                };
                self.stopped(reason.code(), delay)
            }
            Ended::ProductionBusy { until } => self.stopped("production_busy", Delay::Until(until)),
            Ended::Failed(failure) => self.failed(&failure),
        }
    }

    fn stopped(&self, reason: &'static str, delay: Delay) -> Disposition {
        self.telemetry.emit(events::JobStopped {
            work: self.work(),
            execution_id: self.assignment.execution_id(),
            reason,
            took: self.took(),
        });
        let detail = None;
        Disposition::Release {
            delay,
            reason,
            detail,
        }
    }

    fn refused(&self, work: Work, reason: &'static str, detail: String) -> Disposition {
        self.telemetry.emit(events::JobRefused {
            work,
            execution_id: self.assignment.execution_id(),
            reason,
            detail: &detail,
            took: self.took(),
            news: self.told.refusal(reason),
        });
        Disposition::Refuse {
            reason,
            detail,
            // What AWS shows may lag; what a program says is final.
            quick: reason == PROGRAM_FAILED,
        }
    }

    /// It failed for now.
    pub(super) fn failed(&self, failure: &Failure) -> Disposition {
        let reason = failure.code();
        let mut news = self.told.failure(reason);
        if let Failure::Ledger(error) = failure
            && self.ledger.failed(error)
        {
            news = News::Known;
        }
        let work = match failure {
            Failure::Program(_) => Work::Program,
            _ => self.work(),
        };
        let detail = failure.detail();
        self.telemetry.emit(events::JobFailed {
            work,
            execution_id: self.assignment.execution_id(),
            reason,
            detail: &detail,
            took: self.took(),
            news,
        });
        Disposition::Release {
            delay: Delay::Backoff,
            reason,
            detail: Some(detail),
        }
    }

    pub(super) fn panicked(&self, detail: &str) -> Disposition {
        self.telemetry.emit(events::JobPanicked {
            work: self.work(),
            execution_id: self.assignment.execution_id(),
            detail,
            took: self.took(),
            news: self.told.failure(PANICKED),
        });
        Disposition::Release {
            delay: Delay::Backoff,
            reason: PANICKED,
            detail: Some(detail.to_owned()),
        }
    }
}
