//! Log lines on standard output: one JSON object each, or short ones for people.
//!
//! **Guarantees.** A log pipe that nobody reads never blocks the daemon: lines go through a bounded
//! queue to a thread of their own, and are dropped when it is full. Nor does it keep the process from
//! ending: what is buffered then is waited for for a bounded time, and after that it is told on standard
//! error that it is lost, for which nobody waits long either. At no level does a line of another crate show
//! what goes over the wire: messages, and whatever else AWS is asked and answers.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::line::Flat;
use super::short::Short;

/// Lines that may wait for a slow reader: some tens of thousands of ordinary ones.
const BUFFERED_LINES: usize = 32_768;

/// Bytes of lines that are written at once, at most.
const WRITE: usize = 32 * 1024;

/// How long the end waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long it waits for standard error to take that they were not.
const LAST_WORD: Duration = Duration::from_millis(100);

/// The process's log, for as long as this lives. What is still buffered is written when it drops, which
/// takes one second at most.
#[derive(Debug)]
pub struct Logging {
    writer: NonBlocking,
    level: LevelHandle,
    _flush_on_drop: Last,
}

/// Has the last lines written when it drops.
#[derive(Debug)]
struct Last {
    guard: Option<WorkerGuard>,
    /// Disconnected once the thread that writes has written everything.
    written: mpsc::Receiver<()>,
    within: Duration,
}

/// A writer, and a sender that goes when the writer does.
struct Told<W: Write> {
    writer: BufWriter<W>,
    _written: mpsc::Sender<()>,
}

impl<W: Write> Write for Told<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        // The guard waits for a second, and prints to standard output if the queue is full: by itself it
        // may wait for ever. A thread that is left behind ends with the process.
        let guard = self.guard.take();
        let closing = std::thread::Builder::new().spawn(move || drop(guard));
        let waited = self.written.recv_timeout(self.within);
        if closing.is_ok() && waited == Err(RecvTimeoutError::Timeout) {
            let (told, heard) = mpsc::channel::<()>();
            let telling = std::thread::Builder::new().spawn(move || {
                eprintln!("stagesweep: the last log lines are lost: nobody reads standard output");
                drop(told);
            });
            if telling.is_ok() {
                let _ = heard.recv_timeout(LAST_WORD);
            }
        }
    }
}

/// Lines to `to`, by a thread of their own that never blocks anyone.
fn queue(to: impl Write + Send + 'static, within: Duration) -> (NonBlocking, Last) {
    let (written_by_then, written) = mpsc::channel();
    // Flushed as soon as no line waits: a burst of lines is one write.
    let to = Told {
        writer: BufWriter::with_capacity(WRITE, to),
        _written: written_by_then,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES)
        .lossy(true)
        .finish(to);
    let guard = Some(guard);
    let last = Last {
        guard,
        written,
        within,
    };
    (writer, last)
}

/// Other crates whose debug lines are of use and show no request and no answer.
const WIRELESS: [&str; 3] = ["aws_config", "hyper_util", "rustls"];

/// Crates that look for credentials.
const SIGNING_IN: [&str; 2] = ["aws_config", "aws_runtime"];

/// Whether a line may be logged, whatever the level says. The SDK and what it stands on log requests and answers
/// whole at `debug` and `trace`, the bodies of messages among them.
fn shows_no_body(metadata: &Metadata<'_>) -> bool {
    match *metadata.level() {
        // What goes wrong there fails a call, which says so in words; that all goes well is said at each load.
        Level::WARN | Level::INFO if SIGNING_IN.contains(&source(metadata.target())) => false,
        Level::ERROR | Level::WARN | Level::INFO => true,
        _ if is_ours(metadata.target()) => true,
        Level::DEBUG => WIRELESS.contains(&source(metadata.target())),
        _ => false,
    }
}

/// Whether a line or a span is of this crate.
pub(super) fn is_ours(target: &str) -> bool {
    source(target) == env!("CARGO_PKG_NAME")
}

/// The crate that a line or a span comes from.
pub(super) fn source(target: &str) -> &str {
    target.split("::").next().unwrap_or_default()
}

/// Changes the level while the process runs.
#[derive(Clone, Debug)]
pub struct LevelHandle(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LevelHandle {
    /// Sets the level; `level` is a filter directive such as `info` or `stagesweep=debug`.
    ///
    /// # Errors
    /// If it is no directive.
    pub fn set(&self, level: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let filter = EnvFilter::try_new(level)?;
        self.0.reload(filter)?;
        Ok(())
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// [`Pretty`](Self::Pretty) where standard output is a terminal, else [`Json`](Self::Json).
    Auto,
    /// One JSON object a line.
    Json,
    /// Short lines for people.
    Pretty,
}

impl LogFormat {
    /// What it comes to, where standard output is, or is not, a terminal.
    #[must_use]
    pub fn on(self, terminal: bool) -> Self {
        match self {
            Self::Auto if terminal => Self::Pretty,
            Self::Auto => Self::Json,
            set => set,
        }
    }
}

/// Starts logging for the whole process. Call it once.
///
/// # Errors
/// If `level` is no filter directive, or logging was started before.
pub fn start(
    format: LogFormat,
    level: &str,
) -> Result<Logging, Box<dyn std::error::Error + Send + Sync>> {
    let (writer, last) = queue(std::io::stdout(), LAST_LINES);
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(level)?);
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(shows_no_body));
    match format.on(std::io::stdout().is_terminal()) {
        LogFormat::Pretty => {
            let colours = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
            registry.with(pretty(writer.clone(), colours)).try_init()?;
        }
        LogFormat::Auto | LogFormat::Json => registry.with(json(writer.clone())).try_init()?,
    }
    Ok(Logging {
        writer,
        level: LevelHandle(handle),
        _flush_on_drop: last,
    })
}

/// One JSON object a line: the event's fields, and those of its job, at the top.
pub fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    W: for<'writer> MakeWriter<'writer> + 'static,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Flat)
        .with_ansi(false)
        .with_writer(writer)
}

/// Short lines for people.
fn pretty<S, W>(writer: W, colours: bool) -> impl Layer<S>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    W: for<'writer> MakeWriter<'writer> + 'static,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Short)
        .with_ansi(colours)
        .with_writer(writer)
}

impl Logging {
    /// Writes whole lines to the same stream, such as metrics.
    pub fn line_writer(&self) -> impl Fn(&str) + Send + Sync + 'static + use<> {
        let writer = self.writer.clone();
        move |line| {
            // One write, so that a line is never torn apart. A full buffer drops it whole.
            let _ = writer.clone().write_all(format!("{line}\n").as_bytes());
        }
    }

    /// Counts the lines that were dropped since the start because nobody read them in time.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static + use<> {
        let counter = self.writer.error_counter();
        move || counter.dropped_lines() as u64
    }

    /// Changes the level while the process runs.
    #[must_use]
    pub fn level(&self) -> LevelHandle {
        self.level.clone()
    }
}

#[cfg(test)]
#[path = "logging_tests.rs"]
mod tests;
