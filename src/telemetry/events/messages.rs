//! Messages: received, held, given back, deleted.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::{Event, ms};
use crate::retry::ErrorClass;
use crate::telemetry::metrics::{
    DUPLICATES_SUPPRESSED, HEARTBEAT_FAILURES, LEASE_MARGIN, MESSAGES_DELETED, MESSAGES_RECEIVED,
    MESSAGES_REJECTED, MESSAGES_RELEASED, Metrics,
};
use crate::telemetry::{Milestone, What, chain};

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
