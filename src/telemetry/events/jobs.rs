//! Jobs: their begin, their steps, waits and programs, their end.

use std::fmt;
use std::time::Duration;

use tracing::info;

use super::{Event, ms, report};
use crate::domain::decision::Outcome;
use crate::domain::error_class::Conflict;
use crate::domain::event::Rejection;
use crate::domain::history::News;
use crate::domain::targets::{Mode, ResolvedTarget};
use crate::domain::words::found;
use crate::runtime::programs::Finish;
use crate::telemetry::metrics::{
    CLEANUP_DURATION, CLEANUPS_FAILED, CLEANUPS_OBSERVED, CLEANUPS_REFUSED, CLEANUPS_STARTED,
    CLEANUPS_SUCCEEDED, CLEANUPS_SUPERSEDED, EVENT_AGE, Metrics, PROPAGATION_TIME,
};
use crate::telemetry::{Milestone, What};

/// What a line about a job is about: its cleanup, or its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Taking a staging distribution down, and what the target runs then.
    Cleanup,
    /// Running the target's program.
    Program,
}

impl Work {
    /// What a job of a target is that has, or has not, a cleanup.
    #[must_use]
    pub fn of(target: &ResolvedTarget) -> Self {
        if target.parameters.is_some() {
            Self::Cleanup
        } else {
            Self::Program
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cleanup => "cleanup",
            Self::Program => "program run",
        })
    }
}

/// Work on a rejection begins, or is resumed.
pub struct JobStarted<'a> {
    pub work: Work,
    pub rejection: &'a Rejection,
    /// How long ago the event was emitted.
    pub event_age: Duration,
    /// An earlier claim had bound the job already.
    pub resumed: bool,
    /// The target's.
    pub mode: Mode,
}

impl Event for JobStarted<'_> {
    fn record(&self, metrics: &Metrics) {
        let only = match self.mode {
            Mode::Act => "",
            Mode::Observe => "; it is only observed",
        };
        info!(
            execution.id = self.rejection.execution_id,
            pipeline = self.rejection.pipeline.name,
            execution.url = self.rejection.console_url(),
            review.comment = self.rejection.comment,
            event.age_ms = ms(self.event_age),
            resumed = self.resumed,
            mode = self.mode.to_string(),
            "{} started{only}",
            self.work
        );
        metrics.add(CLEANUPS_STARTED, 1);
        metrics.observe(EVENT_AGE, self.event_age);
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.rejection.execution_id.clone(),
            what: What::Started {
                pipeline: self.rejection.pipeline.name.clone(),
            },
        })
    }
}

/// AWS accepted a change.
pub struct StepApplied<'a> {
    pub execution_id: &'a str,
    pub step: &'static str,
}

impl Event for StepApplied<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(step = self.step, "step applied");
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.execution_id.to_owned(),
            what: What::Applied { step: self.step },
        })
    }
}

/// A step met a state that forbids it for now, or a newer configuration. The job looks again.
pub struct StepDeferred {
    pub step: &'static str,
    /// What it met; `None`: the configuration had changed since it was read.
    pub conflict: Option<Conflict>,
}

impl Event for StepDeferred {
    fn record(&self, _metrics: &Metrics) {
        info!(
            step = self.step,
            found = self.conflict.map_or("changed", Conflict::code),
            "step deferred; looking again"
        );
    }
}

/// A step is found done: by an earlier run, by somebody else, or by a change whose answer was lost.
pub struct StepFound<'a> {
    pub execution_id: &'a str,
    pub step: &'static str,
}

impl Event for StepFound<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(step = self.step, "found: {}", found(self.step));
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.execution_id.to_owned(),
            what: What::Found { step: self.step },
        })
    }
}

/// The job waits.
pub struct WaitStarted<'a> {
    pub execution_id: &'a str,
    pub wait: &'static str,
}

impl Event for WaitStarted<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(wait = self.wait, "waiting");
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.execution_id.to_owned(),
            what: What::Waiting { wait: self.wait },
        })
    }
}

/// The job still waits, or its program still runs.
pub struct WaitLasts {
    pub wait: &'static str,
    /// For how long by now.
    pub took: Duration,
}

impl Event for WaitLasts {
    fn record(&self, _metrics: &Metrics) {
        info!(
            wait = self.wait,
            wait.took_ms = ms(self.took),
            "still waiting"
        );
    }
}

/// What the job waited for is so.
pub struct WaitEnded<'a> {
    pub execution_id: &'a str,
    pub wait: &'static str,
    /// How long the wait took.
    pub took: Duration,
    /// How long our own change took to propagate, if that was what was waited for.
    pub propagation: Option<Duration>,
}

impl Event for WaitEnded<'_> {
    fn record(&self, metrics: &Metrics) {
        info!(
            wait = self.wait,
            wait.took_ms = ms(self.took),
            propagation_ms = self.propagation.map(ms),
            "wait ended"
        );
        if let Some(propagation) = self.propagation {
            metrics.observe(PROPAGATION_TIME, propagation);
        }
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.execution_id.to_owned(),
            what: What::Waited {
                wait: self.wait,
                took: self.took,
            },
        })
    }
}

/// The target's program begins to run.
pub struct ProgramStarted<'a> {
    pub execution_id: &'a str,
    /// Its path.
    pub program: &'a str,
}

impl Event for ProgramStarted<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(program = self.program, "program started");
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.execution_id.to_owned(),
            what: What::Waiting {
                wait: "running_program",
            },
        })
    }
}

/// The target's program wrote a line.
pub struct ProgramOutput<'a> {
    pub output: &'static str,
    /// The line, of bounded length.
    pub line: &'a str,
}

impl Event for ProgramOutput<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            program.output = self.output,
            line = self.line,
            "program wrote"
        );
    }
}

/// The target's program ended.
pub struct ProgramEnded<'a> {
    pub execution_id: &'a str,
    /// How; `None` if it was never started.
    pub finish: Option<&'a Finish>,
    /// How long it ran.
    pub took: Duration,
}

impl Event for ProgramEnded<'_> {
    fn record(&self, _metrics: &Metrics) {
        let (status, how) = match self.finish {
            Some(Finish::Exited(status)) => (Some(*status), "exited"),
            Some(Finish::Signalled(_)) => (None, "signalled"),
            Some(Finish::TimedOut) => (None, "timed_out"),
            Some(Finish::Stopped(reason)) => (None, reason.code()),
            None => (None, "not_started"),
        };
        info!(
            program.exit_status = status,
            program.end = how,
            program.took_ms = ms(self.took),
            "program ended"
        );
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.execution_id.to_owned(),
            what: What::Waited {
                wait: "running_program",
                took: self.took,
            },
        })
    }
}

/// The job is done.
pub struct JobSucceeded<'a> {
    pub work: Work,
    pub execution_id: &'a str,
    /// How.
    pub outcome: Outcome,
    /// What people need to know of it.
    pub detail: Option<&'a str>,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobSucceeded<'_> {
    fn record(&self, metrics: &Metrics) {
        let how = match (self.work, self.outcome) {
            // The rejection does not stand.
            (Work::Program, Outcome::Retracted | Outcome::Undecided) => "not needed",
            (_, Outcome::Observed) => "observed; nothing was changed",
            _ => "succeeded",
        };
        info!(
            execution.id = self.execution_id,
            outcome = self.outcome.code(),
            detail = self.detail,
            job.duration_ms = ms(self.took),
            "{} {how}",
            self.work
        );
        if self.outcome == Outcome::Observed {
            return metrics.add(CLEANUPS_OBSERVED, 1);
        }
        metrics.add(CLEANUPS_SUCCEEDED, 1);
        if self.outcome == Outcome::Superseded {
            metrics.add(CLEANUPS_SUPERSEDED, 1);
        }
        metrics.observe(CLEANUP_DURATION, self.took);
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(
            self.execution_id,
            self.outcome.code(),
            self.took,
            true,
        ))
    }
}

/// The job must not be done.
pub struct JobRefused<'a> {
    pub work: Work,
    pub execution_id: &'a str,
    /// A bounded code.
    pub reason: &'static str,
    pub detail: &'a str,
    /// How long the work took in this process.
    pub took: Duration,
    /// Whether it was reported before.
    pub news: News,
}

impl Event for JobRefused<'_> {
    fn record(&self, metrics: &Metrics) {
        let how = match self.work {
            Work::Cleanup => "refused; nothing more is touched",
            Work::Program => "failed for good",
        };
        report!(
            self.news,
            execution.id = self.execution_id,
            reason = self.reason,
            detail = self.detail,
            "{} {how}",
            self.work
        );
        if self.news == News::First {
            metrics.add_by_reason(CLEANUPS_REFUSED, self.reason);
        }
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, self.reason, self.took, false))
    }
}

/// The job failed for now; its message will bring it back.
pub struct JobFailed<'a> {
    pub work: Work,
    pub execution_id: &'a str,
    /// A bounded code.
    pub reason: &'static str,
    /// Everything that is known of the cause.
    pub detail: &'a str,
    /// How long the work took in this process.
    pub took: Duration,
    /// Whether it was reported before.
    pub news: News,
}

impl Event for JobFailed<'_> {
    fn record(&self, metrics: &Metrics) {
        report!(
            self.news,
            execution.id = self.execution_id,
            reason = self.reason,
            detail = self.detail,
            job.duration_ms = ms(self.took),
            "{} failed for now; it is tried again",
            self.work
        );
        if self.news == News::First {
            metrics.add_by_reason(CLEANUPS_FAILED, self.reason);
        }
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, self.reason, self.took, false))
    }
}

/// The job was stopped at a step boundary; it goes on under a new receive.
pub struct JobStopped<'a> {
    pub work: Work,
    pub execution_id: &'a str,
    pub reason: &'static str,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobStopped<'_> {
    fn record(&self, _metrics: &Metrics) {
        let at = match self.work {
            Work::Cleanup => " at a step boundary",
            Work::Program => "",
        };
        info!(
            execution.id = self.execution_id,
            reason = self.reason,
            job.duration_ms = ms(self.took),
            "{} stopped{at}",
            self.work
        );
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, self.reason, self.took, false))
    }
}

fn ended(execution_id: &str, code: &'static str, took: Duration, success: bool) -> Milestone {
    Milestone {
        execution_id: execution_id.to_owned(),
        what: What::Ended {
            code,
            took,
            success,
        },
    }
}

/// A job panicked. Its message is released; the others go on.
pub struct JobPanicked<'a> {
    pub work: Work,
    pub execution_id: &'a str,
    /// The panic's message.
    pub detail: &'a str,
    /// How long the work took in this process.
    pub took: Duration,
    /// Whether it was reported before.
    pub news: News,
}

impl Event for JobPanicked<'_> {
    fn record(&self, metrics: &Metrics) {
        report!(
            self.news,
            execution.id = self.execution_id,
            detail = self.detail,
            "{} panicked; this is a defect of stagesweep",
            self.work
        );
        if self.news == News::First {
            metrics.add_by_reason(CLEANUPS_FAILED, "panicked");
        }
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, "panicked", self.took, false))
    }
}
