//! The daemon as a whole: its start, its end, and what it depends on.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{error, info, warn};

use super::{Event, ms};
use crate::telemetry::chain;
use crate::telemetry::metrics::{LEDGER_FAILURES, LOG_LINES_DROPPED, METRICS_DROPPED, Metrics};

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
