//! The daemon as a whole: its start, its end, and what it depends on.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{error, info, warn};

use super::{Event, fails, ms};
use crate::domain::targets::Changes;
use crate::runtime::health::{LedgerTrouble, Trouble};
use crate::runtime::lasting::Phase;
use crate::telemetry::chain;
use crate::telemetry::metrics::{LEDGER_FAILURES, LOG_LINES_DROPPED, METRICS_DROPPED, Metrics};

/// The daemon is about to poll.
pub struct Started<'a> {
    /// The queue's URL.
    pub queue_url: &'a str,
    /// How many targets are configured.
    pub targets: usize,
    /// Their mode.
    pub mode: &'a str,
    /// The queue's redrive policy; `None` if the queue could not be asked.
    pub redrive: Option<Option<u32>>,
}

impl Event for Started<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            queue.url = self.queue_url,
            targets = self.targets,
            mode = self.mode,
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

/// Nobody knows whose account the daemon works in, which it needs before it receives anything.
pub struct HomeNotKnown<'a> {
    /// Why.
    pub error: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for HomeNotKnown<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            error,
            self.phase,
            error = chain(self.error),
            "the account of the daemon's credentials is not known, and queue.url names none: nothing is \
             received until STS answers GetCallerIdentity, or queue.url names the account"
        );
    }
}

/// It is known at last.
pub struct HomeFound {
    /// For how long it was not.
    pub took: Duration,
}

impl Event for HomeFound {
    fn record(&self, _metrics: &Metrics) {
        info!(
            took_ms = ms(self.took),
            "the account of the daemon's credentials is known"
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

/// The ledger works again.
pub struct LedgerRecovered {
    /// For how long it failed.
    pub took: Duration,
}

impl Event for LedgerRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(took_ms = ms(self.took), "the ledger works again");
    }
}

/// The ledger's table is slow, or throttles; work goes on. Said again for as long as it lasts.
pub struct LedgerTroubled<'a> {
    /// Which table, and what is wrong with it.
    pub trouble: &'a LedgerTrouble,
    /// How long it has lasted, where it was said before.
    pub since: Option<Duration>,
}

impl Event for LedgerTroubled<'_> {
    fn record(&self, _metrics: &Metrics) {
        let latency = match self.trouble.what {
            Trouble::Slow { latency } => Some(ms(latency)),
            Trouble::Throttled => None,
        };
        let remedy = match self.trouble.what {
            Trouble::Slow { .. } => "look at the network, and at the table's latency",
            Trouble::Throttled => "give it more capacity, or on-demand billing",
        };
        warn!(
            ledger.table = self.trouble.table,
            ledger.trouble = self.trouble.what.code(),
            ledger.latency_ms = latency,
            took_ms = self.since.map(ms),
            "{}; {remedy}",
            self.trouble
        );
    }
}

/// The ledger's table answers as it should again.
pub struct LedgerUntroubled<'a> {
    /// The table.
    pub table: &'a str,
    /// How long it did not.
    pub took: Duration,
}

impl Event for LedgerUntroubled<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            ledger.table = self.table,
            took_ms = ms(self.took),
            "the ledger's table {} answers at once again",
            self.table
        );
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

/// No log lines were dropped since this was last looked at.
pub struct LogRecovered {
    /// For how long some were.
    pub took: Duration,
}

impl Event for LogRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(took_ms = ms(self.took), "no log lines are dropped any more");
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

/// Metrics are written again.
pub struct MetricsSinkRecovered {
    /// For how long they were not.
    pub took: Duration,
}

impl Event for MetricsSinkRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(took_ms = ms(self.took), "metrics are written again");
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
    /// What differs from those before.
    pub changes: &'a Changes<'a>,
    /// The log level before, and the one now, where they differ.
    pub log_level: Option<(&'a str, &'a str)>,
    /// Changed settings that need a restart.
    pub needs_restart: &'a [&'static str],
}

impl Event for Reloaded<'_> {
    fn record(&self, _metrics: &Metrics) {
        let Changes {
            added,
            removed,
            changed,
        } = self.changes;
        info!(
            targets = self.targets,
            targets.added = added.len(),
            targets.removed = removed.len(),
            targets.changed = changed.len(),
            log_level.changed = self.log_level.is_some(),
            "configuration reloaded: targets and log level"
        );
        for target in added {
            info!(reloaded = target.to_string(), "target added");
        }
        for target in removed {
            info!(reloaded = target.to_string(), "target removed");
        }
        for (target, keys) in changed {
            let keys = keys.join(", ");
            info!(reloaded = target.to_string(), keys, "target changed");
        }
        if let Some((before, now)) = self.log_level {
            info!(before, now, "log level changed");
        }
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
