//! Signals.
//!
//! SIGTERM and SIGINT stop the daemon within its grace period; a second one ends the process at
//! once, with a status that is not 0. SIGHUP reloads; SIGUSR1 reports what is in flight.
//!
//! **Guarantees.** After the first SIGTERM or SIGINT the daemon ends within the grace period and
//! `LAST_WORDS`, whatever hangs: a thread that does nothing else sees to it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, iterator, low_level};
use signal_hook_tokio::Signals;
use tracing::warn;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop within the grace period.
    Stop {
        /// The signal's name.
        signal: &'static str,
    },
    /// Read the configuration again.
    Reload,
    /// Log the state of every job in flight.
    Report,
}

/// The exit status when a second SIGTERM or SIGINT does not wait for the first.
const IMPATIENT: i32 = 1;

/// What the last metrics and log lines may take above the grace period.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long the line that tells of an end in mid-work has to be written.
const LAST_LINE: Duration = Duration::from_millis(50);

/// A stream of requests.
pub struct Requests(Signals);

impl Requests {
    /// Starts listening, for the whole process. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        let asked_once = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset, and sets it.
            flag::register_conditional_shutdown(signal, IMPATIENT, Arc::clone(&asked_once))?;
            flag::register(signal, Arc::clone(&asked_once))?;
        }
        Ok(Self(Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?))
    }

    /// The next request.
    pub async fn next(&mut self) -> Request {
        loop {
            match self.0.next().await {
                Some(SIGTERM) => return Request::Stop { signal: "SIGTERM" },
                Some(SIGINT) => return Request::Stop { signal: "SIGINT" },
                Some(SIGHUP) => return Request::Reload,
                Some(SIGUSR1) => return Request::Report,
                Some(_) => {}
                // The stream ends only when it is closed, which nobody does.
                None => std::future::pending().await,
            }
        }
    }
}

/// Ends the process within `grace` and `LAST_WORDS` once it is asked to stop, with status 0.
///
/// # Errors
/// If the handlers cannot be installed, or no thread can be started.
pub fn end_within(grace: Duration) -> std::io::Result<()> {
    let mut stops = iterator::Signals::new([SIGTERM, SIGINT])?;
    let end = move || {
        if stops.forever().next().is_none() {
            return;
        }
        let (_never, over) = mpsc::channel::<()>();
        // Nothing is sent: both end with the time.
        let _ = over.recv_timeout(grace + LAST_WORDS);
        warn!("the grace period is over; the process ends although something hangs");
        let _ = over.recv_timeout(LAST_LINE);
        // Without the handlers of an exit, which could hang, too.
        low_level::exit(0)
    };
    let thread = std::thread::Builder::new().name("deadline".to_owned());
    thread.spawn(end).map(drop)
}
