//! What is counted between two flushes.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Counters, in the order in which they are written. CloudWatch unit: `Count`.
pub(super) const COUNTERS: [&str; 17] = [
    MESSAGES_RECEIVED,
    MESSAGES_DELETED,
    MESSAGES_RELEASED,
    MESSAGES_REFUSED,
    DUPLICATES_SUPPRESSED,
    CLEANUPS_STARTED,
    CLEANUPS_SUCCEEDED,
    CLEANUPS_SUPERSEDED,
    CLEANUPS_FAILED,
    CLEANUPS_REFUSED,
    CLEANUPS_OBSERVED,
    API_CALLS,
    API_THROTTLES,
    HEARTBEAT_FAILURES,
    LEDGER_FAILURES,
    METRICS_DROPPED,
    LOG_LINES_DROPPED,
];

pub(super) const MESSAGES_RECEIVED: &str = "MessagesReceived";
pub(super) const MESSAGES_DELETED: &str = "MessagesDeleted";
pub(super) const MESSAGES_RELEASED: &str = "MessagesReleased";
pub(super) const MESSAGES_REFUSED: &str = "MessagesRefused";
pub(super) const DUPLICATES_SUPPRESSED: &str = "DuplicatesSuppressed";
pub(super) const CLEANUPS_STARTED: &str = "CleanupsStarted";
pub(super) const CLEANUPS_SUCCEEDED: &str = "CleanupsSucceeded";
pub(super) const CLEANUPS_SUPERSEDED: &str = "CleanupsSuperseded";
pub(super) const CLEANUPS_FAILED: &str = "CleanupsFailed";
pub(super) const CLEANUPS_REFUSED: &str = "CleanupsRefused";
pub(super) const CLEANUPS_OBSERVED: &str = "CleanupsObserved";
pub(super) const API_CALLS: &str = "ApiCalls";
pub(super) const API_THROTTLES: &str = "ApiThrottles";
pub(super) const HEARTBEAT_FAILURES: &str = "HeartbeatFailures";
pub(super) const LEDGER_FAILURES: &str = "LedgerFailures";
pub(super) const METRICS_DROPPED: &str = "MetricsDropped";
pub(super) const LOG_LINES_DROPPED: &str = "LogLinesDropped";

/// Durations, each with every value that was seen. CloudWatch unit: `Milliseconds`.
#[cfg(test)]
pub(super) const DURATIONS: [&str; 4] =
    [CLEANUP_DURATION, EVENT_AGE, PROPAGATION_TIME, LEASE_MARGIN];

pub(super) const CLEANUP_DURATION: &str = "CleanupDuration";
pub(super) const EVENT_AGE: &str = "EventAge";
pub(super) const PROPAGATION_TIME: &str = "PropagationTime";
pub(super) const LEASE_MARGIN: &str = "LeaseMargin";

/// How much is written of what was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsDetail {
    /// Only what happened; of AWS calls the total, of intervals in which anything else did.
    #[default]
    Basic,
    /// Zeros too, and every call by its operation.
    Full,
}

/// What is so now, rather than what happened since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Jobs that are being worked on.
    pub in_flight: usize,
    /// How long the oldest of them has been worked on in this process; zero where there is none.
    pub oldest_in_flight_age: Duration,
    /// How long ago the last poll of the queue was completed.
    pub poll_age: Duration,
}

/// What was counted in one interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    pub(super) counters: BTreeMap<&'static str, u64>,
    /// Counters told apart by a bounded dimension: (dimension, its value, metric).
    pub(super) by_dimension: BTreeMap<(&'static str, String, &'static str), u64>,
    pub(super) durations: BTreeMap<&'static str, Vec<Duration>>,
}

impl Interval {
    /// Whether nothing but calls was counted: polls, and looks for jobs that are not there.
    pub(super) fn is_idle(&self) -> bool {
        let mut counters = self.counters.iter();
        self.durations.is_empty() && counters.all(|(name, count)| *name == API_CALLS || *count == 0)
    }
}

/// The daemon's counters.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Interval>);

impl Metrics {
    pub(super) fn add(&self, counter: &'static str, n: u64) {
        *self.0.lock().counters.entry(counter).or_default() += n;
    }

    /// Counts in total and by the dimension `Reason`.
    pub(super) fn add_by_reason(&self, counter: &'static str, reason: &'static str) {
        self.add_by("Reason", reason.to_owned(), counter);
    }

    fn add_by(&self, dimension: &'static str, value: String, counter: &'static str) {
        let mut interval = self.0.lock();
        *interval.counters.entry(counter).or_default() += 1;
        *interval
            .by_dimension
            .entry((dimension, value, counter))
            .or_default() += 1;
    }

    pub(super) fn observe(&self, duration: &'static str, value: Duration) {
        self.0
            .lock()
            .durations
            .entry(duration)
            .or_default()
            .push(value);
    }

    /// One attempt of one call of an API operation.
    pub fn api_call(&self, operation: &str) {
        self.add_by("Operation", operation.to_owned(), API_CALLS);
    }

    /// One throttling answer to an API operation.
    pub fn api_throttle(&self, operation: &str) {
        self.add_by("Operation", operation.to_owned(), API_THROTTLES);
    }

    /// The count of `counter` since the last flush.
    #[must_use]
    pub fn count(&self, counter: &str) -> u64 {
        self.0.lock().counters.get(counter).copied().unwrap_or(0)
    }

    /// The count of `counter` for `reason` since the last flush.
    #[must_use]
    pub fn count_by_reason(&self, counter: &str, reason: &str) -> u64 {
        self.0
            .lock()
            .by_dimension
            .iter()
            .filter(|((dimension, value, metric), _)| {
                *dimension == "Reason" && value == reason && *metric == counter
            })
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn take(&self) -> Interval {
        std::mem::take(&mut self.0.lock())
    }
}
