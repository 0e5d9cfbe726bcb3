//! What a job finds out about its distributions, and whom it waits for.

use std::error::Error as StdError;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::{Event, fails, ms, report};
use crate::domain::at_work::Busy;
use crate::domain::decision::Outcome;
use crate::domain::history::News;
use crate::domain::verdict::Verdict;
use crate::runtime::lasting::Phase;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{Milestone, What};

/// CodePipeline was asked whether a rejection still stands.
pub struct RejectionChecked<'a> {
    /// The pipeline execution.
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

/// Nothing is the rejected execution's, and nothing need be.
pub struct NothingToClean<'a> {
    /// The staging parameter.
    pub parameter: &'a str,
    /// The execution whose build wrote the parameter; `None` if the rejected one ran nothing that deploys.
    pub owner: Option<&'a String>,
}

impl Event for NothingToClean<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            parameter = self.parameter,
            owner.execution.id = self.owner,
            "the rejected execution made no staging distribution"
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

/// One reading shows no staging distribution, and something else contradicts that.
pub struct EvidenceContradicts<'a> {
    /// The staging distribution.
    pub staging_id: &'a str,
    /// What does.
    pub contradiction: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for EvidenceContradicts<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            staging.id = self.staging_id,
            found = self.contradiction.to_string(),
            "CloudFront's answers contradict each other: by one there is no such staging distribution; nothing \
             is taken for done"
        );
    }
}

/// They agree.
pub struct EvidenceAgrees {
    /// For how long they did not.
    pub took: Duration,
}

impl Event for EvidenceAgrees {
    fn record(&self, _metrics: &Metrics) {
        info!(
            took_ms = ms(self.took),
            "CloudFront's answers agree with each other again"
        );
    }
}

/// CloudFront has the job's policy in use, and production does not name it.
pub struct PolicyInUse<'a> {
    /// The policy.
    pub policy_id: &'a str,
    /// Production.
    pub production_id: &'a str,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for PolicyInUse<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            policy.id = self.policy_id,
            production.id = self.production_id,
            "the policy is in use, and production does not name it: detach it from the distribution that names \
             it, such as the one that the production parameter named before"
        );
    }
}

/// It is not waited for any more.
pub struct PolicyUnused {
    /// How long it was in use.
    pub took: Duration,
}

impl Event for PolicyUnused {
    fn record(&self, _metrics: &Metrics) {
        info!(
            took_ms = ms(self.took),
            "the policy that was in use is not waited for any more"
        );
    }
}

/// A rejection fell away after something was changed for it.
pub struct LeftHalfway<'a> {
    /// How the job ends.
    pub outcome: Outcome,
    /// What was done, and what is left.
    pub detail: &'a str,
}

impl Event for LeftHalfway<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            outcome = self.outcome.code(),
            detail = self.detail,
            "the rejection fell away half way"
        );
    }
}

/// The id that the record withdrew stands in the parameter again.
pub struct ParameterRestored<'a> {
    /// The parameter.
    pub parameter: &'a str,
    /// The id.
    pub value: &'a str,
}

impl Event for ParameterRestored<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            parameter = self.parameter,
            value = self.value,
            "staging distribution named again: the rejection fell away"
        );
    }
}

/// Production was switched off while a job ran.
pub struct ProductionSwitchedOff<'a> {
    /// The production distribution.
    pub production_id: &'a str,
    /// Whether it was reported before.
    pub news: News,
}

impl Event for ProductionSwitchedOff<'_> {
    fn record(&self, _metrics: &Metrics) {
        report!(
            self.news,
            production.id = self.production_id,
            "production was switched off while this job ran; viewers get errors. The job takes no further \
             step. Enable the distribution and find out who disabled it"
        );
    }
}

/// Another execution is at work: the job waits, without its turn.
pub struct HeldForExecution<'a> {
    /// The execution that the job is about.
    pub job: &'a str,
    /// The step that waits.
    pub step: &'static str,
    /// The pipeline.
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
    /// What is left of it.
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
    /// The production distribution.
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

/// Another job of this process works on the production distribution: the job waits for its turn.
pub struct HeldForTurn<'a> {
    /// The production distribution.
    pub production_id: &'a str,
    /// For how long it has been waited for; `None` at the begin.
    pub since: Option<Duration>,
}

impl Event for HeldForTurn<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            production.id = self.production_id,
            took_ms = self.since.map(ms),
            "held: another job has its turn at the production distribution"
        );
    }
}

/// The job has its turn.
pub struct TurnTaken<'a> {
    /// The production distribution.
    pub production_id: &'a str,
    /// How long it was waited for.
    pub took: Duration,
}

impl Event for TurnTaken<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            production.id = self.production_id,
            took_ms = ms(self.took),
            "the job has its turn"
        );
    }
}

/// A job is worked on elsewhere: the messages of it here wait.
pub struct HeldElsewhere<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// When the other's lease ends, unless it is renewed.
    pub until: Timestamp,
    /// For how long it has been waited for; `None` at the begin.
    pub since: Option<Duration>,
}

impl Event for HeldElsewhere<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            execution.id = self.execution_id,
            lease.until = self.until.to_string(),
            took_ms = self.since.map(ms),
            "held: another instance works on this job"
        );
    }
}

/// No other instance works on the job any more: it is taken over, or done.
pub struct HeldElsewhereEnded {
    /// How long it was waited for.
    pub took: Duration,
}

impl Event for HeldElsewhereEnded {
    fn record(&self, _metrics: &Metrics) {
        info!(
            took_ms = ms(self.took),
            "no other instance works on this job any more"
        );
    }
}

/// What a job was held for is over.
pub struct HoldEnded<'a> {
    /// The execution that the job is about.
    pub job: &'a str,
    /// What was waited for.
    pub waiting_for: &'static str,
    /// How long it took.
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
