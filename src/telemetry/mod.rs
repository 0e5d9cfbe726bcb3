//! Logs, metrics, and the progress that a person watches. An event that counts, or that somebody watches, is a
//! struct ([`events`]): its log line, counters and milestone stand in one place. A line that only tells is a plain
//! one, where it happens.
//!
//! Lines about a job, or about a message of it, carry `pipeline`, `execution.id` and `target`
//! (`job_span`). Log fields are dotted (`message.id`), units are part of a name (`job.duration_ms`), reasons are
//! bounded codes, and message bodies are never logged.

mod emf;
pub mod events;
mod line;
pub mod logging;
mod metrics;
mod short;
mod sink;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tracing::info;

use crate::runtime::clock::Clock;
use crate::runtime::lasting::Failing;

pub use emf::Form;
pub(crate) use events::{fails, ms, report};
pub(crate) use line::{job_span, span_of};
pub use metrics::{Gauges, Metrics, MetricsDetail};

/// How long the end waits for what takes metrics.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Where events go. One for each daemon, so that several can run in one process.
pub struct Telemetry {
    metrics: Metrics,
    detail: MetricsDetail,
    clock: Clock,
    sink: Option<Sink>,
    log_dropped: Option<LogDropped>,
    milestones: Option<UnboundedSender<Milestone>>,
}

/// How many log lines were dropped since the start, and how many of them are counted already.
struct LogDropped {
    total: Box<dyn Fn() -> u64 + Send + Sync>,
    counted: AtomicU64,
    failing: Mutex<Failing>,
}

/// Where metrics lines go, and in which form.
struct Sink {
    form: Form,
    to: To,
    failing: Mutex<Failing>,
}

enum To {
    Function(Box<dyn Fn(&str) + Send + Sync>),
    Thread(sink::Sink),
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// A step on the way of a job that someone may be watching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestone {
    pub execution_id: String,
    pub what: What,
}

/// What happened to a watched job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Work began or was resumed.
    Started { pipeline: String },
    /// A change was accepted by AWS.
    Applied {
        /// The step's name.
        step: &'static str,
    },
    /// A step was found done already.
    Found {
        /// The step's name.
        step: &'static str,
    },
    /// A wait began.
    Waiting {
        /// The wait's name.
        wait: &'static str,
    },
    /// It waits until another execution is no longer at work.
    Held {
        /// Which one, of which pipeline, and where, in words.
        by: String,
    },
    /// A wait ended.
    Waited {
        /// The wait's name.
        wait: &'static str,
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
            detail: MetricsDetail::default(),
            clock,
            sink: None,
            log_dropped: None,
            milestones: None,
        }
    }

    /// Writes so much of what was counted; [`MetricsDetail::Basic`] without this.
    #[must_use]
    pub fn with_metrics_detail(mut self, detail: MetricsDetail) -> Self {
        self.detail = detail;
        self
    }

    /// Writes metrics, one line each, to `write`.
    #[must_use]
    pub fn with_metrics_sink(
        mut self,
        form: Form,
        write: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        self.sink = Some(Sink {
            form,
            to: To::Function(Box::new(write)),
            failing: Mutex::default(),
        });
        self
    }

    /// Writes metrics, one line each, to the end of the file at `path`. It is opened with the first
    /// line, and again whenever the path names another file.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn with_metrics_file(self, form: Form, path: PathBuf) -> io::Result<Self> {
        self.with_sink(form, sink::AppendedFile::new(path))
    }

    /// Writes metrics, one line each, to what listens at `address` (`host:port`). It is connected to
    /// with the first line, and again whenever the connection is gone.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn with_metrics_listener(self, form: Form, address: String) -> io::Result<Self> {
        self.with_sink(form, sink::Connection::new(address))
    }

    fn with_sink(mut self, form: Form, target: impl sink::Target) -> io::Result<Self> {
        self.sink = Some(Sink {
            form,
            to: To::Thread(sink::Sink::start(target)?),
            failing: Mutex::default(),
        });
        Ok(self)
    }

    /// Counts log lines that were dropped; `total` says how many since the start.
    #[must_use]
    pub fn with_dropped_log_lines(
        mut self,
        total: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.log_dropped = Some(LogDropped {
            total: Box::new(total),
            counted: AtomicU64::new(0),
            failing: Mutex::default(),
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
        if let Some(log) = &self.log_dropped {
            let total = (log.total)();
            let lines = total.saturating_sub(log.counted.swap(total, Ordering::Relaxed));
            let mut failing = log.failing.lock();
            if lines > 0 {
                let phase = failing.failed();
                self.emit(events::LogLinesDropped { lines, phase });
            } else if let Some(took) = failing.recovered() {
                info!(took_ms = ms(took), "no log lines are dropped any more");
            }
        }
        if let To::Thread(thread) = &sink.to {
            let trouble = thread.trouble(Instant::now());
            let (dropped, failure) = (trouble.lines, trouble.failure);
            let mut failing = sink.failing.lock();
            if dropped > 0 || failure.is_some() {
                self.emit(events::MetricsSinkFailing {
                    dropped,
                    failure: failure.as_deref(),
                    phase: failing.failed(),
                });
            } else if let Some(took) = failing.recovered() {
                info!(took_ms = ms(took), "metrics are written again");
            }
        }
        let interval = self.metrics.take();
        let now_ms = self.clock.now_ms();
        for line in emf::lines(&sink.form, self.detail, now_ms, &interval, gauges) {
            match &sink.to {
                To::Function(write) => write(&line),
                To::Thread(thread) => thread.write(&line),
            }
        }
    }

    /// Waits until a file or a listener has taken what was flushed, for at most 2 s, and tells what it has
    /// not. Nothing may be flushed after that.
    pub fn close(&self) {
        let Some(To::Thread(thread)) = self.sink.as_ref().map(|sink| &sink.to) else {
            return;
        };
        let trouble = thread.close(LAST_LINES);
        if trouble.lines > 0 {
            self.emit(events::MetricsLost {
                lines: trouble.lines,
                failure: trouble.failure.as_deref(),
            });
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
