//! Messages: received, held, given back, deleted.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::{Event, fails, ms, report};
use crate::domain::history::News;
use crate::runtime::lasting::Phase;
use crate::telemetry::metrics::{
    DUPLICATES_SUPPRESSED, HEARTBEAT_FAILURES, LEASE_MARGIN, MESSAGES_DELETED, MESSAGES_RECEIVED,
    MESSAGES_REFUSED, MESSAGES_RELEASED, Metrics,
};
use crate::telemetry::{Milestone, What, chain};

/// A receive returned messages.
pub struct MessagesReceived {
    pub count: usize,
}

impl Event for MessagesReceived {
    fn record(&self, metrics: &Metrics) {
        debug!(messages = self.count, "received");
        metrics.add(MESSAGES_RECEIVED, self.count as u64);
    }
}

pub struct MessageDeleted<'a> {
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

/// A message goes back to the queue, to come again.
pub struct MessageReleased<'a> {
    pub message_id: &'a str,
    /// When it becomes visible again.
    pub delay: Duration,
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

/// A message is refused, as is its job if it has one: it is on its way to the dead-letter queue.
pub struct MessageRefused<'a> {
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

/// A message asks for work that is being done, or is done.
pub struct DuplicateSuppressed<'a> {
    pub message_id: &'a str,
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
    pub message_id: &'a str,
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
