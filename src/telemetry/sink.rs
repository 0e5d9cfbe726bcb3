//! Metrics lines to a file or to a TCP listener, by a thread of their own.
//!
//! **Guarantees.** Whoever writes a line never waits for the disk or the network. At most
//! [`CAPACITY`] lines wait; then the oldest is dropped, and counted. A line is written whole: where a
//! write was cut short, the next one begins on a line of its own. No call of the thread's need ever
//! return (a named pipe that nobody reads, a file system that hangs): that is told as a failure, and the
//! end waits for a bounded time.
//!
//! **Races.** A file that is renamed (logrotate) is followed: the path is looked at before each line
//! and opened again where it names another file than the open one. What a listener had accepted but
//! not read when it went away is lost; a connection that it closed is noticed before the next line.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that may wait: an hour of a busy daemon's with the default interval.
const CAPACITY: usize = 2000;

/// What connecting to an address, or a write to it, may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A line that takes longer is told as a failure.
const STUCK: Duration = Duration::from_secs(5);

const NO_PROGRESS: &str = "no progress: a line waits to be taken";

/// Where lines are written.
pub(super) trait Target: Send + 'static {
    /// Writes `line` and a newline.
    fn write(&mut self, line: &str) -> io::Result<()>;
}

/// A queue of lines and the thread that writes them, which makes one last try after this was dropped.
#[derive(Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
}

/// What could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// How many lines are lost.
    pub(super) lines: u64,
    /// Why the last line that could not be written could not; `None`: there is no such line now.
    pub(super) failure: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    /// A line was added since the thread last gave up, or the sink closes.
    news: bool,
    closing: bool,
    /// The thread has made its last try.
    ended: bool,
    dropped: u64,
    /// Whether a line is being written, and how many were begun.
    writing: bool,
    begun: u64,
    /// The line that was being written when it was last asked, by its number, and since when.
    seen: Option<(u64, Instant)>,
    /// Why the last line could not be written.
    failure: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bound(&mut self) {
        while self.lines.len() > CAPACITY {
            self.lines.pop_front();
            self.dropped += 1;
        }
    }

    fn close(&mut self, woken: &Condvar) {
        self.closing = true;
        self.news = true;
        woken.notify_one();
    }

    /// Why a line cannot be written, as far as `now` tells.
    fn failure(&mut self, now: Instant) -> Option<String> {
        let begun = self.begun;
        let since = match self.seen {
            _ if !self.writing => None,
            Some((line, since)) if line == begun => Some(since),
            _ => Some(now),
        };
        self.seen = since.map(|since| (begun, since));
        let stuck = since.is_some_and(|since| now.duration_since(since) >= STUCK);
        match &self.failure {
            None if stuck => Some(NO_PROGRESS.to_owned()),
            failure => failure.clone(),
        }
    }
}

impl Sink {
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(target: impl Target) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || deliver(&theirs, target))?;
        Ok(Self { shared })
    }

    /// Hands a line over. Never waits for the target.
    pub(super) fn write(&self, line: &str) {
        let mut state = self.shared.lock();
        state.lines.push_back(line.to_owned());
        state.bound();
        state.news = true;
        self.shared.woken.notify_one();
    }

    /// The lines that were dropped since this was last asked, and whether lines can be written. One that
    /// is asked about for [`STUCK`] cannot.
    pub(super) fn trouble(&self, now: Instant) -> Trouble {
        let mut state = self.shared.lock();
        Trouble {
            lines: std::mem::take(&mut state.dropped),
            failure: state.failure(now),
        }
    }

    /// Makes one last try, and waits for its end for at most `within`. What was not written by then is
    /// lost. No line may be handed over any more.
    pub(super) fn close(&self, within: Duration) -> Trouble {
        let mut state = self.shared.lock();
        state.close(&self.shared.woken);
        let ended = &self.shared.ended;
        let waited = ended.wait_timeout_while(state, within, |state| !state.ended);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lines = state.lines.len() as u64 + u64::from(state.writing);
        let stuck = || state.writing.then(|| NO_PROGRESS.to_owned());
        Trouble {
            lines: state.dropped + lines,
            failure: state.failure.clone().or_else(stuck),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.lock().close(&self.shared.woken);
    }
}

/// Writes what comes until the sink closes. After a failure it waits for the next line: a target
/// that is down is tried once an interval, not in a loop.
fn deliver(shared: &Shared, mut target: impl Target) {
    let mut state = shared.lock();
    loop {
        while !state.news {
            let woken = shared.woken.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.news = false;
        while let Some(line) = state.lines.pop_front() {
            state.writing = true;
            state.begun += 1;
            drop(state);
            let written = target.write(&line);
            state = shared.lock();
            state.writing = false;
            match written {
                Ok(()) => state.failure = None,
                Err(error) => {
                    state.failure = Some(error.to_string());
                    state.lines.push_front(line);
                    state.bound();
                    break;
                }
            }
        }
        if state.closing {
            state.ended = true;
            shared.ended.notify_all();
            return;
        }
    }
}

/// A file that lines are appended to.
pub(super) struct AppendedFile {
    path: PathBuf,
    open: Option<File>,
    /// The last line was cut short.
    torn: bool,
}

impl AppendedFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            torn: false,
        }
    }

    /// Whether the path still names the open file.
    fn is_current(&self) -> io::Result<bool> {
        let Some(open) = &self.open else {
            return Ok(false);
        };
        let open = open.metadata()?;
        Ok(match std::fs::metadata(&self.path) {
            Ok(named) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
            Err(_) => false,
        })
    }
}

impl Target for AppendedFile {
    fn write(&mut self, line: &str) -> io::Result<()> {
        if !self.is_current()? {
            let opened = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.path)?;
            self.open = Some(opened);
            self.torn = false;
        }
        let Some(file) = &mut self.open else {
            return Err(ErrorKind::NotFound.into());
        };
        let start = if self.torn { "\n" } else { "" };
        let written = file.write_all(format!("{start}{line}\n").as_bytes());
        self.torn = written.is_err();
        written
    }
}

/// A listener that lines are sent to, such as the CloudWatch agent.
pub(super) struct Connection {
    address: String,
    stream: Option<TcpStream>,
}

impl Connection {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            stream: None,
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = None;
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => {
                    stream.set_write_timeout(Some(TIMEOUT))?;
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into()))
    }
}

/// Whether the other end has closed the connection: a write would still be accepted, and lost.
fn is_closed(stream: &TcpStream) -> bool {
    let mut ignored = [0; 512];
    let ended = stream.set_nonblocking(true).is_err()
        || match (&mut &*stream).read(&mut ignored) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
    ended || stream.set_nonblocking(false).is_err()
}

impl Target for Connection {
    fn write(&mut self, line: &str) -> io::Result<()> {
        let stream = self.stream.take().filter(|stream| !is_closed(stream));
        let mut stream = match stream {
            Some(stream) => stream,
            None => self.connect()?,
        };
        // A stream whose write failed is not kept: half a line may be on its way in it.
        stream.write_all(format!("{line}\n").as_bytes())?;
        self.stream = Some(stream);
        Ok(())
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
