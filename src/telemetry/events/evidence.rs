//! What a job finds out about its distributions, and whom it waits for.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::{Event, ms};
use crate::domain::at_work::Busy;
use crate::domain::verdict::Verdict;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{Milestone, What};

/// CodePipeline was asked whether a rejection still stands.
pub struct RejectionChecked<'a> {
    pub execution_id: &'a str,
    /// The step that hangs on the answer.
    pub before: &'static str,
    /// The answer.
    pub verdict: &'a Verdict,
    /// Whether approvals that expired are left alone.
    pub expired_are_ignored: bool,
}

impl Event for RejectionChecked<'_> {
    fn record(&self, _metrics: &Metrics) {
        let (verdict, how) = match self.verdict {
            Verdict::Expired { code } if self.expired_are_ignored => {
                warn!(
                    execution.id = self.execution_id,
                    step = self.before,
                    code = code.as_deref().unwrap_or("no error code"),
                    "nobody rejected: the approval expired, and verify.on_timeout ignores that; nothing is \
                     touched"
                );
                return;
            }
            Verdict::Stands => ("stands", "rejected".to_owned()),
            Verdict::Expired { .. } => ("stands", "timed_out".to_owned()),
            Verdict::StageRuns => ("stands", "stage_still_runs".to_owned()),
            Verdict::Retracted(retraction) => ("retracted", retraction.code().to_owned()),
            Verdict::Doubtful(doubt) => ("doubtful", doubt.to_string()),
            Verdict::Undecided { code } => {
                let code = code.as_deref().unwrap_or("no error code");
                warn!(
                    execution.id = self.execution_id,
                    step = self.before,
                    code,
                    "nobody rejected: CodePipeline names nobody who decided; nothing is touched"
                );
                return;
            }
        };
        info!(
            execution.id = self.execution_id,
            step = self.before,
            verdict,
            how,
            "rejection checked with CodePipeline"
        );
    }
}

/// What is left, because another execution ran when it was last modified.
pub struct LeftToOthers<'a> {
    /// The ids, and what to do if it is not the other's.
    pub detail: &'a str,
}

impl Event for LeftToOthers<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            detail = self.detail,
            "another execution is taken to have deployed into the staging distribution; it is not touched"
        );
    }
}

/// Another execution is at work: the job waits, without its turn.
pub struct HeldForExecution<'a> {
    /// The execution that the job is about.
    pub job: &'a str,
    /// The step that waits.
    pub step: &'static str,
    pub pipeline: &'a str,
    /// The execution, and where it is.
    pub busy: &'a Busy,
    /// For how long it has been waited for; `None` at the begin.
    pub since: Option<Duration>,
}

impl Event for HeldForExecution<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            step = self.step,
            busy.pipeline = self.pipeline,
            busy.execution.id = self.busy.execution_id,
            busy.stage = self.busy.stage,
            busy.action = self.busy.action,
            took_ms = self.since.map(ms),
            "held: an execution is at work"
        );
    }

    fn milestone(&self) -> Option<Milestone> {
        self.since.is_none().then(|| Milestone {
            execution_id: self.job.to_owned(),
            what: What::Held {
                by: self.busy.said(self.pipeline),
            },
        })
    }
}

/// The target's delay is not over: the job waits, and nothing is changed.
pub struct HeldForDelay<'a> {
    /// The execution that the job is about.
    pub job: &'a str,
    /// The target's delay.
    pub delay: Duration,
    pub left: Duration,
    /// For how long it has been waited for; `None` at the begin.
    pub since: Option<Duration>,
}

impl Event for HeldForDelay<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            delay_ms = ms(self.delay),
            left_ms = ms(self.left),
            took_ms = self.since.map(ms),
            "held: the target's delay is not over; retry the stage or approve it to keep the deployment"
        );
    }

    fn milestone(&self) -> Option<Milestone> {
        self.since.is_none().then(|| Milestone {
            execution_id: self.job.to_owned(),
            what: What::Waiting { wait: "delay" },
        })
    }
}

/// Another instance, or a person, works on the production distribution: the job waits.
pub struct HeldForProduction<'a> {
    /// The execution that the job is about.
    pub job: &'a str,
    pub production_id: &'a str,
    /// When the other's lease ends, unless it is renewed.
    pub until: Timestamp,
    /// For how long it has been waited for; `None` at the begin.
    pub since: Option<Duration>,
}

impl Event for HeldForProduction<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            production.id = self.production_id,
            lease.until = self.until.to_string(),
            took_ms = self.since.map(ms),
            "held: another job holds the production distribution"
        );
    }

    fn milestone(&self) -> Option<Milestone> {
        self.since.is_none().then(|| Milestone {
            execution_id: self.job.to_owned(),
            what: What::Waiting {
                wait: "production_busy",
            },
        })
    }
}

/// What a job was held for is over.
pub struct HoldEnded<'a> {
    /// The execution that the job is about.
    pub job: &'a str,
    pub waiting_for: &'static str,
    pub took: Duration,
}

impl Event for HoldEnded<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(wait = self.waiting_for, took_ms = ms(self.took), "goes on");
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(Milestone {
            execution_id: self.job.to_owned(),
            what: What::Waited {
                wait: self.waiting_for,
                took: self.took,
            },
        })
    }
}
