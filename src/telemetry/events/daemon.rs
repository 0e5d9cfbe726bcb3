//! The daemon as a whole: its start, its end, and what it depends on.

use std::error::Error as StdError;

use tracing::warn;

use super::{Event, fails};
use crate::runtime::lasting::Phase;
use crate::telemetry::chain;
use crate::telemetry::metrics::{LEDGER_FAILURES, LOG_LINES_DROPPED, METRICS_DROPPED, Metrics};

/// The ledger failed. Nothing is processed or deleted until it works again.
pub struct LedgerFailing<'a> {
    pub error: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for LedgerFailing<'_> {
    fn record(&self, metrics: &Metrics) {
        fails!(
            error,
            self.phase,
            error = chain(self.error),
            "the ledger fails; nothing is processed or deleted until it works again"
        );
        metrics.add(LEDGER_FAILURES, 1);
    }
}

/// Log lines were dropped, because nobody read standard output in time.
pub struct LogLinesDropped {
    /// How many, since this was last counted.
    pub lines: u64,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for LogLinesDropped {
    fn record(&self, metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            log.dropped = self.lines,
            "log lines were dropped: nobody reads them in time"
        );
        metrics.add(LOG_LINES_DROPPED, self.lines);
    }
}

/// Metrics cannot be written, or are dropped.
pub struct MetricsSinkFailing<'a> {
    /// Lines that were dropped since the last time, because too many waited.
    pub dropped: u64,
    /// Why they cannot be written; `None`: they can, but too slowly.
    pub failure: Option<&'a str>,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for MetricsSinkFailing<'_> {
    fn record(&self, metrics: &Metrics) {
        match self.failure {
            Some(error) => fails!(
                warn,
                self.phase,
                error,
                metrics.dropped = self.dropped,
                "metrics cannot be written; trying again"
            ),
            None => fails!(
                warn,
                self.phase,
                metrics.dropped = self.dropped,
                "metrics were dropped: they are written too slowly"
            ),
        }
        metrics.add(METRICS_DROPPED, self.dropped);
    }
}

/// Metrics are lost, since they could not be written before the end.
pub struct MetricsLost<'a> {
    /// How many lines.
    pub lines: u64,
    /// Why they could not be written, if that is known.
    pub failure: Option<&'a str>,
}

impl Event for MetricsLost<'_> {
    fn record(&self, metrics: &Metrics) {
        warn!(
            error = self.failure,
            metrics.dropped = self.lines,
            "the last metrics are lost: they could not be written in time"
        );
        metrics.add(METRICS_DROPPED, self.lines);
    }
}
