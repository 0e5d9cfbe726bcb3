//! Every event of the daemon: its log line, its counters and its milestone in one place.

use std::error::Error as StdError;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, error, info, warn};

use super::metrics::{
    CLEANUP_DURATION, CLEANUPS_FAILED, CLEANUPS_STARTED, CLEANUPS_SUCCEEDED, CLEANUPS_SUPERSEDED,
    DUPLICATES_SUPPRESSED, EVENT_AGE, HEARTBEAT_FAILURES, LEASE_MARGIN, LEDGER_FAILURES,
    LOG_LINES_DROPPED, MESSAGES_DELETED, MESSAGES_RECEIVED, MESSAGES_REJECTED, MESSAGES_RELEASED,
    METRICS_DROPPED, Metrics, PROPAGATION_TIME,
};
use super::{Milestone, What, chain};
use crate::event::Rejection;
use crate::plan::Outcome;
use crate::programs::Finish;
use crate::retry::{Conflict, ErrorClass};
use crate::verdict::Verdict;

/// Something that happened.
pub trait Event {
    /// Writes the log line and counts.
    fn record(&self, metrics: &Metrics);

    /// What someone who watches the job sees of it.
    fn milestone(&self) -> Option<Milestone> {
        None
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The daemon is about to poll.
pub struct Started<'a> {
    /// The queue's URL.
    pub queue_url: &'a str,
    /// How many targets are configured.
    pub targets: usize,
    /// The queue's redrive policy; `None` if the queue could not be asked.
    pub redrive: Option<Option<u32>>,
}

impl Event for Started<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            queue.url = self.queue_url,
            targets = self.targets,
            queue.max_receive_count = self.redrive.flatten(),
            "started"
        );
        if self.redrive == Some(None) {
            warn!(
                queue.url = self.queue_url,
                "the queue has no redrive policy: messages that can never be handled will come \
                 back until they expire"
            );
        }
    }
}

/// The queue could not be asked about itself at start, which is no reason not to poll it.
pub struct QueueNotChecked<'a> {
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for QueueNotChecked<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            error = chain(self.error),
            "the queue's attributes could not be read"
        );
    }
}

/// Nobody can ask this daemon for its health.
pub struct HealthNotServed<'a> {
    /// Where it would have answered.
    pub address: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for HealthNotServed<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            health.socket = self.address,
            error = chain(self.error),
            "health cannot be asked for; set health.socket where several daemons share a network \
             namespace"
        );
    }
}

/// systemd did not hear of us.
pub struct SystemdNotNotified<'a> {
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for SystemdNotNotified<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(error = chain(self.error), "systemd could not be notified");
    }
}

/// Polling began to fail, or fails in another way than before.
pub struct ReceiveFailing<'a> {
    /// How.
    pub class: ErrorClass,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for ReceiveFailing<'_> {
    fn record(&self, _metrics: &Metrics) {
        error!(
            error.class = self.class.code(),
            error = chain(self.error),
            "receiving fails; trying again with backoff"
        );
    }
}

/// Polling works again.
pub struct ReceiveRecovered {
    /// How many receives failed.
    pub failures: u32,
}

impl Event for ReceiveRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(receive.failures = self.failures, "receiving works again");
    }
}

/// A receive returned messages.
pub struct MessagesReceived {
    /// How many.
    pub count: usize,
}

impl Event for MessagesReceived {
    fn record(&self, metrics: &Metrics) {
        debug!(messages = self.count, "received");
        metrics.add(MESSAGES_RECEIVED, self.count as u64);
    }
}

/// A message was deleted.
pub struct MessageDeleted<'a> {
    /// The message.
    pub message_id: &'a str,
    /// The pipeline execution of its job, if it had one.
    pub execution_id: Option<&'a str>,
    /// What its job came to, or why it had none.
    pub reason: &'static str,
}

impl Event for MessageDeleted<'_> {
    fn record(&self, metrics: &Metrics) {
        info!(
            message.id = self.message_id,
            execution.id = self.execution_id,
            reason = self.reason,
            "message deleted"
        );
        metrics.add_by_reason(MESSAGES_DELETED, self.reason);
    }

    fn milestone(&self) -> Option<Milestone> {
        let execution_id = self.execution_id?.to_owned();
        Some(Milestone {
            execution_id,
            what: What::Deleted,
        })
    }
}

/// A message could not be deleted. It comes back, and is then a duplicate of a job that is done.
pub struct DeleteFailed<'a> {
    /// The message.
    pub message_id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for DeleteFailed<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            message.id = self.message_id,
            error = chain(self.error),
            "the message could not be deleted; it will come back and be deleted then"
        );
    }
}

/// A message goes back to the queue, to come again.
pub struct MessageReleased<'a> {
    /// The message.
    pub message_id: &'a str,
    /// When it becomes visible again.
    pub delay: Duration,
    /// Why.
    pub reason: &'static str,
}

impl Event for MessageReleased<'_> {
    fn record(&self, metrics: &Metrics) {
        info!(
            message.id = self.message_id,
            message.visible_in_ms = ms(self.delay),
            reason = self.reason,
            "message released"
        );
        metrics.add_by_reason(MESSAGES_RELEASED, self.reason);
    }
}

/// A message could not be released. It comes back when its visibility timeout ends.
pub struct ReleaseFailed<'a> {
    /// The message.
    pub message_id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for ReleaseFailed<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            message.id = self.message_id,
            error = chain(self.error),
            "the message could not be released; it comes back when its visibility timeout ends"
        );
    }
}

/// A message can never be handled as it is: it is on its way to the dead-letter queue.
pub struct MessageRejected<'a> {
    /// The message.
    pub message_id: &'a str,
    /// How often it was received.
    pub receive_count: u32,
    /// A bounded code.
    pub reason: &'static str,
    /// What a person needs to know.
    pub detail: &'a str,
}

impl Event for MessageRejected<'_> {
    fn record(&self, metrics: &Metrics) {
        error!(
            message.id = self.message_id,
            message.receive_count = self.receive_count,
            reason = self.reason,
            detail = self.detail,
            "message rejected; it is left to the redrive policy"
        );
        metrics.add_by_reason(MESSAGES_REJECTED, self.reason);
    }
}

/// A message asks for work that is being done, or is done.
pub struct DuplicateSuppressed<'a> {
    /// The message.
    pub message_id: &'a str,
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// `running`, `done`, or `leased_elsewhere`.
    pub job: &'static str,
}

impl Event for DuplicateSuppressed<'_> {
    fn record(&self, metrics: &Metrics) {
        info!(
            message.id = self.message_id,
            execution.id = self.execution_id,
            job = self.job,
            "duplicate"
        );
        metrics.add(DUPLICATES_SUPPRESSED, 1);
    }
}

/// A message came back while its job was still running: its lease had run out.
pub struct MessageRedelivered<'a> {
    /// The message.
    pub message_id: &'a str,
}

impl Event for MessageRedelivered<'_> {
    fn record(&self, metrics: &Metrics) {
        warn!(
            message.id = self.message_id,
            "message received again while its job runs; the newer receipt handle is used"
        );
        metrics.add(DUPLICATES_SUPPRESSED, 1);
    }
}

/// Work on a rejection begins, or is resumed.
pub struct JobStarted<'a> {
    /// The rejection.
    pub rejection: &'a Rejection,
    /// How long ago the event was emitted.
    pub event_age: Duration,
    /// An earlier claim had bound the job already.
    pub resumed: bool,
}

impl Event for JobStarted<'_> {
    fn record(&self, metrics: &Metrics) {
        info!(
            execution.id = self.rejection.execution_id,
            pipeline = self.rejection.pipeline.name,
            execution.url = self.rejection.console_url(),
            review.comment = self.rejection.comment,
            event.age_ms = ms(self.event_age),
            resumed = self.resumed,
            "cleanup started"
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

/// The job knows which distributions it is about.
pub struct JobBound<'a> {
    /// The production distribution.
    pub production_id: &'a str,
    /// The staging distribution.
    pub staging_id: &'a str,
}

impl Event for JobBound<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            production.id = self.production_id,
            staging.id = self.staging_id,
            "bound"
        );
    }
}

/// CodePipeline was asked whether a rejection still stands.
pub struct RejectionChecked<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// The step that hangs on it.
    pub before: &'static str,
    /// What it says.
    pub verdict: Verdict,
}

impl Event for RejectionChecked<'_> {
    fn record(&self, _metrics: &Metrics) {
        let (verdict, how) = match self.verdict {
            Verdict::Stands { timed_out: false } => ("stands", "rejected".to_owned()),
            Verdict::Stands { timed_out: true } => ("stands", "timed_out".to_owned()),
            Verdict::Retracted(retraction) => ("retracted", retraction.code().to_owned()),
            Verdict::Doubtful(doubt) => ("doubtful", doubt.to_string()),
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

/// A round of catching up is over.
pub struct CaughtUp {
    /// How many pipelines were looked at.
    pub pipelines: usize,
    /// How many are left to the next round.
    pub left: usize,
    /// How many calls of CodePipeline it took.
    pub calls: usize,
    /// How many rejections were found that may not be cleaned up yet.
    pub found: usize,
}

impl Event for CaughtUp {
    fn record(&self, _metrics: &Metrics) {
        info!(
            pipelines = self.pipelines,
            pipelines.left = self.left,
            aws.calls = self.calls,
            found = self.found,
            "looked for lost rejections"
        );
    }
}

/// A pipeline, or the list of them, could not be looked at for lost rejections.
pub struct CatchUpFailed<'a> {
    /// The pipeline; empty for what concerns all.
    pub pipeline: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for CatchUpFailed<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            pipeline = self.pipeline,
            error = chain(self.error),
            "lost rejections cannot be looked for; trying again in the next round"
        );
    }
}

/// An approval was not given, the ledger does not have it as done, and no message is in flight for it: the
/// job of that begins.
pub struct LostRejectionFound<'a> {
    /// As its event would tell it.
    pub rejection: &'a Rejection,
    /// Its execution ended without a rejection.
    pub ended_without: bool,
    /// How long ago that was.
    pub age: Duration,
}

impl Event for LostRejectionFound<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            execution.id = self.rejection.execution_id,
            execution.url = self.rejection.console_url(),
            pipeline = self.rejection.pipeline.name,
            approval = if self.ended_without {
                "ended"
            } else {
                "rejected"
            },
            age_ms = ms(self.age),
            "an approval was not given, and what it left is there; its event may be lost: cleaning up"
        );
    }
}

/// An execution that ended without a rejection left a staging distribution behind.
pub struct RemainsFound<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The staging distribution.
    pub staging_id: &'a str,
    /// How long ago the execution ended.
    pub age: Duration,
}

impl Event for RemainsFound<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            execution.id = self.execution_id,
            pipeline = self.pipeline,
            staging.id = self.staging_id,
            age_ms = ms(self.age),
            "an execution that ended without a rejection left its staging distribution; `stagesweep \
             clean` takes it down, and so does catch_up.reclaim"
        );
    }
}

/// AWS accepted a change.
pub struct StepApplied<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// The step.
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
    /// The step.
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

/// A step's target was gone already.
pub struct StepWasDone {
    /// The step.
    pub step: &'static str,
}

impl Event for StepWasDone {
    fn record(&self, _metrics: &Metrics) {
        info!(step = self.step, "step was done already");
    }
}

/// The job waits.
pub struct WaitStarted<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// What for.
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

/// What the job waited for is so.
pub struct WaitEnded<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// What for.
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

/// A distribution cannot be looked at for now; looking goes on.
pub struct LookFailing<'a> {
    /// The distribution.
    pub distribution_id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for LookFailing<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            distribution.id = self.distribution_id,
            error = chain(self.error),
            "the distribution cannot be looked at; trying again with backoff"
        );
    }
}

/// STS gave credentials of a role.
pub struct RoleAssumed<'a> {
    /// The role.
    pub role_arn: &'a str,
    /// When the credentials end.
    pub until: Option<Timestamp>,
}

impl Event for RoleAssumed<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            role.arn = self.role_arn,
            role.until = self.until.map(tracing::field::display),
            "role assumed"
        );
    }
}

/// STS gave no credentials of a role, for the first time in a row for this reason.
pub struct RoleNotAssumed<'a> {
    /// The role.
    pub role_arn: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for RoleNotAssumed<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            role.arn = self.role_arn,
            error = chain(self.error),
            "the role cannot be assumed; nothing is done in its account meanwhile"
        );
    }
}

/// The account's distributions cannot be listed for now: each is asked for by itself.
pub struct ListingFailed<'a> {
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for ListingFailed<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            error = chain(self.error),
            "the distributions cannot be listed; asking for each by itself"
        );
    }
}

/// AWS began to throttle the account's calls of a service.
pub struct AccountThrottled<'a> {
    /// The service.
    pub service: &'static str,
    /// The operation whose call was throttled.
    pub operation: &'a str,
}

impl Event for AccountThrottled<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            aws.service = self.service,
            aws.operation = self.operation,
            "throttled; all calls of the account to this service slow down"
        );
    }
}

/// A call failed in a way that the next try may not.
pub struct CallRetried<'a> {
    /// Why.
    pub error: &'a dyn StdError,
    /// When it is tried again.
    pub delay: Duration,
}

impl Event for CallRetried<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            error = chain(self.error),
            retry.in_ms = ms(self.delay),
            "call failed; trying again"
        );
    }
}

/// Someone wrote the parameter between our reading and our writing it.
pub struct ParameterRaced<'a> {
    /// The parameter.
    pub parameter: &'a str,
    /// The value that was put back, if there was one to put back.
    pub restored: Option<&'a str>,
}

impl Event for ParameterRaced<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            parameter = self.parameter,
            restored = self.restored,
            "the staging parameter was written by someone else at the same moment; their value \
             stands"
        );
    }
}

/// The target's program begins to run.
pub struct ProgramStarted<'a> {
    /// The pipeline execution.
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
    /// Where to.
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
    /// The pipeline execution.
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
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// How.
    pub outcome: Outcome,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobSucceeded<'_> {
    fn record(&self, metrics: &Metrics) {
        info!(
            execution.id = self.execution_id,
            outcome = self.outcome.code(),
            job.duration_ms = ms(self.took),
            "cleanup succeeded"
        );
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
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// A bounded code.
    pub reason: &'static str,
    /// Why.
    pub detail: &'a str,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobRefused<'_> {
    fn record(&self, metrics: &Metrics) {
        error!(
            execution.id = self.execution_id,
            reason = self.reason,
            detail = self.detail,
            "cleanup refused; nothing more is touched"
        );
        metrics.add_by_reason(CLEANUPS_FAILED, self.reason);
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, self.reason, self.took, false))
    }
}

/// The job failed for now; its message will bring it back.
pub struct JobFailed<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// A bounded code.
    pub reason: &'static str,
    /// Everything that is known of the cause.
    pub detail: &'a str,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobFailed<'_> {
    fn record(&self, metrics: &Metrics) {
        error!(
            execution.id = self.execution_id,
            reason = self.reason,
            detail = self.detail,
            job.duration_ms = ms(self.took),
            "cleanup failed for now; it is tried again"
        );
        metrics.add_by_reason(CLEANUPS_FAILED, self.reason);
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, self.reason, self.took, false))
    }
}

/// The job was stopped at a step boundary; it goes on under a new receive.
pub struct JobStopped<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// Why.
    pub reason: &'static str,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobStopped<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            execution.id = self.execution_id,
            reason = self.reason,
            job.duration_ms = ms(self.took),
            "cleanup stopped at a step boundary"
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

/// A lease was extended.
pub struct LeaseExtended {
    /// How much of it was left when the extension was confirmed.
    pub margin: Duration,
}

impl Event for LeaseExtended {
    fn record(&self, metrics: &Metrics) {
        debug!(lease.margin_ms = ms(self.margin), "lease extended");
        metrics.observe(LEASE_MARGIN, self.margin);
    }
}

/// An extension was not confirmed; it is tried again until the safety margin.
pub struct HeartbeatFailed<'a> {
    /// The message.
    pub message_id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
    /// It is the first failure since the last confirmation.
    pub first: bool,
}

impl Event for HeartbeatFailed<'_> {
    fn record(&self, metrics: &Metrics) {
        if self.first {
            warn!(
                message.id = self.message_id,
                error = chain(self.error),
                "the message's visibility could not be extended; trying again"
            );
        }
        metrics.add(HEARTBEAT_FAILURES, 1);
    }
}

/// A message is no longer ours.
pub struct LeaseLost<'a> {
    /// The message.
    pub message_id: &'a str,
    /// A bounded code.
    pub reason: &'static str,
}

impl Event for LeaseLost<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            message.id = self.message_id,
            reason = self.reason,
            "lease ended; the job stops at its next step boundary"
        );
    }
}

/// The ledger failed. Nothing is processed or deleted until it works again.
pub struct LedgerFailing<'a> {
    /// Why.
    pub error: &'a dyn StdError,
    /// It is the first failure since it worked.
    pub first: bool,
}

impl Event for LedgerFailing<'_> {
    fn record(&self, metrics: &Metrics) {
        if self.first {
            error!(
                error = chain(self.error),
                "the ledger fails; nothing is processed or deleted until it works again"
            );
        }
        metrics.add(LEDGER_FAILURES, 1);
    }
}

/// The ledger works again.
pub struct LedgerRecovered;

impl Event for LedgerRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!("the ledger works again");
    }
}

/// A notice was taken.
pub struct Notified<'a> {
    /// By what.
    pub outlet: &'static str,
    /// Which.
    pub id: &'a str,
}

impl Event for Notified<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            notify.outlet = self.outlet,
            notify.id = self.id,
            "outcome notified"
        );
    }
}

/// Notices are not taken; they are tried again.
pub struct NotNotified<'a> {
    /// By what.
    pub outlet: &'static str,
    /// Why the last one was not.
    pub detail: &'a str,
    /// How many wait.
    pub waiting: usize,
    /// When it is tried again.
    pub delay: Duration,
    /// It is the first failure since it worked.
    pub first: bool,
}

impl Event for NotNotified<'_> {
    fn record(&self, _metrics: &Metrics) {
        if self.first {
            warn!(
                notify.outlet = self.outlet,
                notify.waiting = self.waiting,
                retry.delay_ms = ms(self.delay),
                detail = self.detail,
                "outcomes cannot be notified; they are kept and tried again"
            );
        } else {
            debug!(
                notify.outlet = self.outlet,
                notify.waiting = self.waiting,
                retry.delay_ms = ms(self.delay),
                detail = self.detail,
                "outcomes cannot be notified yet"
            );
        }
    }
}

/// Notices are taken again.
pub struct NotifyingRecovered {
    /// By what.
    pub outlet: &'static str,
}

impl Event for NotifyingRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(
            notify.outlet = self.outlet,
            "outcomes can be notified again"
        );
    }
}

/// A notice will never be taken.
pub struct NoticeDropped<'a> {
    /// By what.
    pub outlet: &'static str,
    /// Which.
    pub id: &'a str,
    /// Why.
    pub detail: &'a str,
}

impl Event for NoticeDropped<'_> {
    fn record(&self, _metrics: &Metrics) {
        error!(
            notify.outlet = self.outlet,
            notify.id = self.id,
            detail = self.detail,
            "an outcome is not notified"
        );
    }
}

/// The ledger does not keep a notice: it is sent from memory alone.
pub struct NoticeNotKept<'a> {
    /// Which.
    pub id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for NoticeNotKept<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            notify.id = self.id,
            error = chain(self.error),
            "the ledger does not keep a notice: a crash before it is sent would lose it"
        );
    }
}

/// Log lines were dropped, because nobody read standard output in time.
pub struct LogLinesDropped {
    /// How many, since this was last counted.
    pub lines: u64,
}

impl Event for LogLinesDropped {
    fn record(&self, metrics: &Metrics) {
        warn!(
            log.dropped = self.lines,
            "log lines were dropped: nobody reads them in time"
        );
        metrics.add(LOG_LINES_DROPPED, self.lines);
    }
}

/// Metrics cannot be written, are dropped, or can be written again.
pub struct MetricsSinkChanged<'a> {
    /// Lines that were dropped since the last time, because too many waited.
    pub dropped: u64,
    /// Why they cannot be written; `None`: they can.
    pub failure: Option<&'a str>,
}

impl Event for MetricsSinkChanged<'_> {
    fn record(&self, metrics: &Metrics) {
        match self.failure {
            Some(error) => warn!(
                error,
                metrics.dropped = self.dropped,
                "metrics cannot be written; trying again"
            ),
            None if self.dropped > 0 => warn!(
                metrics.dropped = self.dropped,
                "metrics were dropped: they are written too slowly"
            ),
            None => info!("metrics are written again"),
        }
        metrics.add(METRICS_DROPPED, self.dropped);
    }
}

/// A job panicked. Its message is released; the others go on.
pub struct JobPanicked<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// The panic's message.
    pub detail: &'a str,
    /// How long the work took in this process.
    pub took: Duration,
}

impl Event for JobPanicked<'_> {
    fn record(&self, metrics: &Metrics) {
        error!(
            execution.id = self.execution_id,
            detail = self.detail,
            "cleanup panicked; this is a defect of stagesweep"
        );
        metrics.add_by_reason(CLEANUPS_FAILED, "panicked");
    }

    fn milestone(&self) -> Option<Milestone> {
        Some(ended(self.execution_id, "panicked", self.took, false))
    }
}

/// The daemon was asked to stop.
pub struct Stopping<'a> {
    /// What asked.
    pub cause: &'a str,
    /// How many jobs are in flight.
    pub in_flight: usize,
}

impl Event for Stopping<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(cause = self.cause, jobs = self.in_flight, "stopping");
    }
}

/// The daemon has stopped.
pub struct Stopped {
    /// How many messages could not be settled in time.
    pub unsettled: usize,
}

impl Event for Stopped {
    fn record(&self, _metrics: &Metrics) {
        info!(messages.unsettled = self.unsettled, "stopped");
    }
}

/// Targets and log level were reloaded.
pub struct Reloaded<'a> {
    /// How many targets are configured now.
    pub targets: usize,
    /// Changed settings that need a restart.
    pub needs_restart: &'a [&'static str],
}

impl Event for Reloaded<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            targets = self.targets,
            "configuration reloaded: targets and log level"
        );
        if !self.needs_restart.is_empty() {
            warn!(
                settings = self.needs_restart.join(", "),
                "changed, but only a restart applies it"
            );
        }
    }
}

/// A new configuration was bad. The old one stays.
pub struct ReloadFailed<'a> {
    /// Every fault, one a line.
    pub faults: &'a str,
}

impl Event for ReloadFailed<'_> {
    fn record(&self, _metrics: &Metrics) {
        error!(
            faults = self.faults,
            "the new configuration is bad; the old one stays"
        );
    }
}

/// The daemon cannot go on.
pub struct Fatal<'a> {
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for Fatal<'_> {
    fn record(&self, _metrics: &Metrics) {
        error!(error = chain(self.error), "fatal");
    }
}

/// Asked by SIGUSR1: one job in flight.
pub struct InFlightReported<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// What it is doing.
    pub activity: &'a str,
    /// How long it has been worked on in this process.
    pub age: Duration,
    /// How many messages ask for it.
    pub messages: usize,
}

impl Event for InFlightReported<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            execution.id = self.execution_id,
            activity = self.activity,
            job.age_ms = ms(self.age),
            messages = self.messages,
            "in flight"
        );
    }
}
