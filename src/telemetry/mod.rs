//! Logs, metrics, and the progress that a person watches: one struct an event
//! ([`events`]), whose log line, counters and milestone stand in one place.
//!
//! Log fields are dotted (`message.id`), units are part of a name (`job.duration_ms`), reasons are
//! bounded codes, and message bodies are never logged.

mod emf;
pub mod events;
pub mod logging;
mod metrics;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;

pub use emf::Namespace;
pub use metrics::{Gauges, Metrics};

/// Where events go. One for each daemon, so that several can run in one process.
pub struct Telemetry {
    metrics: Metrics,
    clock: Clock,
    sink: Option<Sink>,
    milestones: Option<UnboundedSender<Milestone>>,
}

/// Where metrics lines go.
struct Sink {
    namespace: Namespace,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// A step on the way of a job that someone may be watching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestone {
    /// The pipeline execution.
    pub execution_id: String,
    /// What happened.
    pub what: What,
}

/// What happened to a watched job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Work began or was resumed.
    Started {
        /// The pipeline's name.
        pipeline: String,
    },
    /// A change was accepted by AWS.
    Applied {
        /// The step's name.
        step: &'static str,
    },
    /// A wait began.
    Waiting {
        /// The wait's name.
        wait: &'static str,
    },
    /// A wait ended.
    Waited {
        /// The wait's name.
        wait: &'static str,
        /// How long it took.
        took: Duration,
    },
    /// The job came to its end.
    Ended {
        /// The outcome's or the reason's code.
        code: &'static str,
        /// How long the job took in this process.
        took: Duration,
        /// Whether the message may be deleted now.
        success: bool,
    },
    /// A message was deleted.
    Deleted,
}

impl Telemetry {
    /// Counts, and logs through `tracing`; writes metrics nowhere.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            metrics: Metrics::default(),
            clock,
            sink: None,
            milestones: None,
        }
    }

    /// Writes metrics, one line each, to `write`.
    #[must_use]
    pub fn with_metrics_sink(
        mut self,
        namespace: Namespace,
        write: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        self.sink = Some(Sink {
            namespace,
            write: Box::new(write),
        });
        self
    }

    /// Reports the milestones of every job to `milestones`.
    #[must_use]
    pub fn with_milestones(mut self, milestones: UnboundedSender<Milestone>) -> Self {
        self.milestones = Some(milestones);
        self
    }

    /// Logs and counts an event.
    pub fn emit(&self, event: impl events::Event) {
        if let Some(milestones) = &self.milestones
            && let Some(milestone) = event.milestone()
        {
            // Nobody watching any more is no reason to stop.
            let _ = milestones.send(milestone);
        }
        event.record(&self.metrics);
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Writes what was counted since the last time, and starts over.
    pub fn flush(&self, gauges: Gauges) {
        let Some(sink) = &self.sink else { return };
        let interval = self.metrics.take();
        for line in emf::lines(&sink.namespace, self.clock.now_ms(), &interval, gauges) {
            (sink.write)(&line);
        }
    }
}

/// An error and everything that caused it, as one line.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some libraries repeat their source in their own Display.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
