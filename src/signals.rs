//! Signals.
//!
//! SIGTERM and SIGINT stop the daemon within its grace period; a second one ends the process at
//! once, with a status that is not 0. SIGHUP reloads; SIGUSR1 reports what is in flight.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook_tokio::Signals;

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
