//! How a run of a job ended: what is reported of it, and what becomes of its messages.

use std::sync::Arc;
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

/// The reason of a job whose production distribution another one holds.
const PRODUCTION_BUSY: &str = "production_busy";

/// One run of a job, to report how it ends.
pub(super) struct Conclusion {
    telemetry: Arc<Telemetry>,
    ledger: Arc<LedgerHealth>,
    assignment: Arc<Assignment>,
    handle: Handle,
    /// What was reported of the job before.
    told: Told,
}

impl Conclusion {
    pub(super) fn new(
        telemetry: &Arc<Telemetry>,
        ledger: &Arc<LedgerHealth>,
        assignment: &Arc<Assignment>,
        handle: &Handle,
    ) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            ledger: Arc::clone(ledger),
            assignment: Arc::clone(assignment),
            handle: handle.clone(),
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

    /// The job ends before it has begun.
    pub(super) fn of(&self, ended: &Ended) -> Disposition {
        self.report(ended);
        Self::disposition(ended)
    }

    /// Reports how the job ended.
    pub(super) fn report(&self, ended: &Ended) {
        match ended {
            Ended::Succeeded(Done { outcome, detail }) => {
                self.telemetry.emit(events::JobSucceeded {
                    work: self.work(),
                    execution_id: self.assignment.execution_id(),
                    outcome: *outcome,
                    // What was left half way is a warning of its own.
                    detail: detail.as_deref().filter(|_| *outcome == Outcome::Observed),
                    took: self.took(),
                });
            }
            Ended::Refused(Refused { refusal, detail }) => {
                self.refused(self.work(), refusal.code(), detail);
            }
            Ended::ProgramFailed { status } => {
                self.refused(Work::Program, PROGRAM_FAILED, &program_failed(*status));
            }
            Ended::Stopped(reason) => self.stopped(reason.code()),
            Ended::ProductionBusy { .. } => self.stopped(PRODUCTION_BUSY),
            Ended::Failed(failure) => self.failed(failure),
        }
    }

    /// What becomes of the messages of a job that ended so.
    pub(super) fn disposition(ended: &Ended) -> Disposition {
        let mut said = None;
        let (delay, reason) = match ended {
            Ended::Succeeded(Done { outcome, .. }) => {
                return Disposition::Delete {
                    reason: outcome.code(),
                };
            }
            Ended::Refused(Refused { refusal, detail }) => {
                return Disposition::Refuse {
                    reason: refusal.code(),
                    detail: detail.clone(),
                    // What AWS shows may lag.
                    quick: false,
                };
            }
            Ended::ProgramFailed { status } => {
                return Disposition::Refuse {
                    reason: PROGRAM_FAILED,
                    detail: program_failed(*status),
                    // What a program says is final.
                    quick: true,
                };
            }
            Ended::Stopped(reason) => {
                let delay = match reason {
                    StopReason::LedgerLost => Delay::Backoff,
                    StopReason::Crowded => Delay::Crowded,
                    StopReason::ShuttingDown
                    | StopReason::LeaseLost
                    | StopReason::VisibilityCeiling => Delay::None,
                };
                (delay, reason.code())
            }
            Ended::ProductionBusy { until } => (Delay::Until(*until), PRODUCTION_BUSY),
            Ended::Failed(failure) => {
                said = Some(failure.detail());
                (Delay::Backoff, failure.code())
            }
        };
        Disposition::Release {
            delay,
            reason,
            detail: said,
        }
    }

    fn stopped(&self, reason: &'static str) {
        self.telemetry.emit(events::JobStopped {
            work: self.work(),
            execution_id: self.assignment.execution_id(),
            reason,
            took: self.took(),
        });
    }

    fn refused(&self, work: Work, reason: &'static str, detail: &str) {
        self.telemetry.emit(events::JobRefused {
            work,
            execution_id: self.assignment.execution_id(),
            reason,
            detail,
            took: self.took(),
            news: self.told.refusal(reason),
        });
    }

    /// It failed for now.
    fn failed(&self, failure: &Failure) {
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

fn program_failed(status: i32) -> String {
    format!("the program's exit status is {status}")
}
