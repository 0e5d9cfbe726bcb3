//! Messages: received, held, given back, deleted.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::{Event, fails, ms, report};
use crate::domain::arn::PipelineArn;
use crate::domain::error_class::ErrorClass;
use crate::domain::event::ACTION_DETAIL_TYPE;
use crate::domain::history::News;
use crate::runtime::lasting::Phase;
use crate::telemetry::metrics::{
    DUPLICATES_SUPPRESSED, HEARTBEAT_FAILURES, LEASE_MARGIN, MESSAGES_DELETED, MESSAGES_RECEIVED,
    MESSAGES_REFUSED, MESSAGES_RELEASED, Metrics,
};
use crate::telemetry::{Milestone, What, chain};

/// Polling fails.
pub struct ReceiveFailing<'a> {
    /// How.
    pub class: ErrorClass,
    /// Why.
    pub error: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for ReceiveFailing<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            error,
            self.phase,
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
    /// For how long they did.
    pub took: Duration,
}

impl Event for ReceiveRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(
            receive.failures = self.failures,
            took_ms = ms(self.took),
            "receiving works again"
        );
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
    /// It was released for that before.
    pub again: bool,
}

impl Event for MessageReleased<'_> {
    fn record(&self, metrics: &Metrics) {
        macro_rules! released {
            ($level:ident) => {
                $level!(
                    message.id = self.message_id,
                    message.visible_in_ms = ms(self.delay),
                    reason = self.reason,
                    "message released"
                )
            };
        }
        match self.again {
            false => released!(info),
            true => released!(debug),
        }
        metrics.add_by_reason(MESSAGES_RELEASED, self.reason);
    }
}

/// There is no room left for other messages: some of the largest crowd's are hidden for a while.
pub struct CrowdStepsBack<'a> {
    /// The parameter that names the production distribution, its region and the role; of a program, the pipeline
    /// execution.
    pub crowd: &'a str,
    /// How many messages of it wait.
    pub held: usize,
}

impl Event for CrowdStepsBack<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            crowd = self.crowd,
            messages = self.held,
            "as many messages wait as may be held; those of the largest crowd are hidden for fifteen minutes \
             each, so that others are received"
        );
    }
}

/// As many jobs work as may, and others wait for one to end or to wait itself.
pub struct PlacesShort {
    /// How many wait.
    pub waiting: usize,
    /// For how long there was always one that waited.
    pub since: Duration,
}

impl Event for PlacesShort {
    fn record(&self, _metrics: &Metrics) {
        info!(
            jobs = self.waiting,
            took_ms = ms(self.since),
            "jobs wait: as many work as queue.max_in_flight allows"
        );
    }
}

/// No job waits any more for others to end, or none has for long.
pub struct PlacesEnough;

impl Event for PlacesEnough {
    fn record(&self, _metrics: &Metrics) {
        info!("no job waits for long any more for others to end");
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

/// A message is refused, as is its job if it has one: it is on its way to the dead-letter queue.
pub struct MessageRefused<'a> {
    /// The message.
    pub message_id: &'a str,
    /// How often it was received.
    pub receive_count: u32,
    /// After so many receives it is a dead letter, by the queue's redrive policy where that is known.
    pub max_receive_count: Option<u32>,
    /// A bounded code.
    pub reason: &'static str,
    /// What a person needs to know.
    pub detail: &'a str,
    /// Whether it was reported before; of a message that has a job, the job's refusal is.
    pub news: News,
}

impl Event for MessageRefused<'_> {
    fn record(&self, metrics: &Metrics) {
        report!(
            self.news,
            message.id = self.message_id,
            message.receive_count = self.receive_count,
            queue.max_receive_count = self.max_receive_count,
            reason = self.reason,
            detail = self.detail,
            "message refused; it is left to the redrive policy"
        );
        if self.news == News::First {
            metrics.add_by_reason(MESSAGES_REFUSED, self.reason);
        }
    }
}

/// A stage or a pipeline of a target failed as a whole, and its event came: the rule asks for the wrong kind.
pub struct WrongKindOfEvent<'a> {
    /// The pipeline.
    pub pipeline: &'a PipelineArn,
    /// The event's `detail-type`.
    pub detail_type: &'static str,
}

impl Event for WrongKindOfEvent<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            pipeline = self.pipeline.name,
            event.account = self.pipeline.account,
            event.detail_type = self.detail_type,
            "the rule asks for the wrong kind of event: this one says no rejection and is deleted; set the rule's \
             detail-type to `{ACTION_DETAIL_TYPE}`"
        );
    }
}

/// A message asks for work that is being done, or is done.
pub struct DuplicateSuppressed<'a> {
    /// The message.
    pub message_id: &'a str,
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// `running` or `done`.
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
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for HeartbeatFailed<'_> {
    fn record(&self, metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            message.id = self.message_id,
            error = chain(self.error),
            "the message's visibility could not be extended; trying again"
        );
        metrics.add(HEARTBEAT_FAILURES, 1);
    }
}

/// An extension was confirmed after others were not.
pub struct HeartbeatRecovered<'a> {
    /// The message.
    pub message_id: &'a str,
    /// For how long they were not.
    pub took: Duration,
}

impl Event for HeartbeatRecovered<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            message.id = self.message_id,
            took_ms = ms(self.took),
            "the message's visibility is extended again"
        );
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
