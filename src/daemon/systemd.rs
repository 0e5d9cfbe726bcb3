//! What the daemon tells systemd, by the protocol of `sd_notify(3)`.
//!
//! **Guarantees.** `READY=1` is sent once the queue has answered a poll. The watchdog is fed only while
//! the poll loop and every job make progress. Until the daemon is ready, its start is extended as long as
//! it makes progress: a network that comes late is no reason to be killed. Its stop is extended to what
//! the grace period takes.
//!
//! **Not handled.** A service manager that does not read its socket would block us; it is PID 1.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::warn;

use crate::runtime::health::{NotPolling, Vitals};
use crate::telemetry::chain;

/// How often systemd hears of us where it sets no closer watch.
const INTERVAL: Duration = Duration::from_secs(5);

/// By how much a start that makes progress is extended each time.
const START_EXTENSION: Duration = Duration::from_secs(60);

/// What an orderly stop takes above the grace period: the last settlements and log lines.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Something to tell systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Notice {
    /// The daemon does its work.
    Ready,
    /// What it is doing, for people.
    Status(String),
    /// It makes progress.
    Alive,
    /// It may take so much longer from now.
    Extend(Duration),
}

/// What systemd knows of us.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    status: String,
}

impl Told {
    /// What systemd should be told now.
    fn notices(&mut self, vitals: &Vitals) -> Vec<Notice> {
        let mut notices = Vec::new();
        let stuck = vitals.stuck();
        let stopping = vitals.not_polling == Some(NotPolling::Stopping);
        if !self.ready {
            self.ready = vitals.polled.is_some();
            if self.ready && !stopping {
                notices.push(Notice::Ready);
            } else if !stopping && stuck.is_none() {
                notices.push(Notice::Extend(START_EXTENSION));
            }
        }
        let status = match &stuck {
            Some(stuck) => stuck.to_string(),
            None => vitals.summary(),
        };
        if status != self.status {
            self.status.clone_from(&status);
            notices.push(Notice::Status(status));
        }
        if stuck.is_none() {
            notices.push(Notice::Alive);
        }
        notices
    }
}

/// The connection to systemd. It does nothing unless systemd started this process, as a service that
/// notifies.
pub struct Systemd {
    told: Told,
    /// When it should hear of us; `None` without systemd.
    ticks: Option<Interval>,
}

impl Systemd {
    /// Connects where the environment says so. Must be called inside a tokio runtime.
    #[must_use]
    pub fn from_environment() -> Self {
        let wanted = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        let ticks = wanted.then(|| {
            let mut ticks = tokio::time::interval(interval(sd_notify::watchdog_enabled()));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self {
            told: Told::default(),
            ticks,
        }
    }

    /// Waits until systemd should hear of the daemon: when the queue has `answered`, and then every few
    /// seconds. Can be dropped at any time.
    pub async fn due(&mut self, answered: impl Future<Output = ()>) {
        let Some(ticks) = &mut self.ticks else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = ticks.tick() => {}
            () = answered, if !self.told.ready => {}
        }
    }

    /// Tells systemd how the daemon is.
    pub fn tell(&mut self, vitals: &Vitals) {
        let notices = self.told.notices(vitals);
        self.send(&notices.iter().map(state).collect::<Vec<_>>());
    }

    /// Tells systemd that the daemon stops, and how long that may take.
    pub fn stopping(&self, grace_period: Duration) {
        let extend = Notice::Extend(grace_period + STOP_MARGIN);
        self.send(&[NotifyState::Stopping, state(&extend)]);
    }

    /// Tells systemd that the configuration is being read again.
    pub fn reloading(&self) {
        if self.told.ready
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            self.send(&[NotifyState::Reloading, now]);
        }
    }

    /// Tells systemd that the configuration was read, well or not.
    pub fn reloaded(&self) {
        if self.told.ready {
            self.send(&[NotifyState::Ready]);
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.ticks.is_none() || states.is_empty() {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            warn!(error = chain(&error), "systemd could not be notified");
        }
    }
}

/// The watchdog must be fed at least twice in its time; a third tick is for a slow machine.
fn interval(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(INTERVAL, |watchdog| INTERVAL.min(watchdog / 3))
}

fn state(notice: &Notice) -> NotifyState<'_> {
    match notice {
        Notice::Ready => NotifyState::Ready,
        Notice::Status(status) => NotifyState::Status(status),
        Notice::Alive => NotifyState::Watchdog,
        Notice::Extend(by) => {
            // The crate's type ends at 71 minutes; the longest grace period is an hour.
            NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::activity::Sign;
    use crate::runtime::health::Job;

    fn vitals() -> Vitals {
        Vitals {
            polling: Sign {
                what: "receiving",
                silent: Duration::ZERO,
                within: Some(Duration::from_secs(90)),
            },
            polled: None,
            receiving_fails: None,
            ledger_fails: false,
            ledger_trouble: None,
            not_polling: None,
            mode: "act",
            jobs: Vec::new(),
        }
    }

    #[test]
    fn ready_is_told_once_when_the_queue_has_answered_and_until_then_the_start_is_extended() {
        let mut told = Told::default();
        let mut vitals = vitals();
        let status = |text: &str| Notice::Status(text.to_owned());
        let waiting = status("waiting for the queue's first answer; no job in flight");
        let extend = Notice::Extend(START_EXTENSION);
        let all = [extend.clone(), waiting, Notice::Alive];
        assert_eq!(told.notices(&vitals), all);
        assert_eq!(told.notices(&vitals), [extend, Notice::Alive]);
        vitals.polled = Some(Duration::ZERO);
        let polling = status("polling; no job in flight");
        assert_eq!(
            told.notices(&vitals),
            [Notice::Ready, polling, Notice::Alive]
        );
        assert_eq!(told.notices(&vitals), [Notice::Alive]);
    }

    #[test]
    fn nothing_that_is_stuck_is_told_to_be_alive_or_given_more_time() {
        let mut told = Told::default();
        let mut vitals = vitals();
        vitals.polling.silent = Duration::from_secs(91);
        let notices = told.notices(&vitals);
        assert!(matches!(notices[..], [Notice::Status(_)]), "{notices:?}");
        assert_eq!(told.notices(&vitals), []);

        vitals.polling.silent = Duration::ZERO;
        vitals.polled = Some(Duration::ZERO);
        let hung = Sign {
            what: "detach_policy",
            silent: Duration::from_secs(61),
            within: Some(Duration::from_secs(60)),
        };
        vitals.jobs.push(Job {
            execution_id: "e-1".to_owned(),
            doing: hung,
        });
        let notices = told.notices(&vitals);
        let stuck = "the job of e-1 is stuck: detach_policy for 1m 1s";
        assert_eq!(
            notices,
            [Notice::Ready, Notice::Status(stuck.to_owned())],
            "a job that hangs is a matter of the watchdog alone"
        );
        vitals.jobs[0].doing.silent = Duration::ZERO;
        assert!(told.notices(&vitals).contains(&Notice::Alive));
    }

    #[test]
    fn a_daemon_that_stops_before_it_was_ready_is_never_told_to_be() {
        let mut told = Told::default();
        let mut vitals = vitals();
        vitals.not_polling = Some(NotPolling::Stopping);
        let stopping = Notice::Status("stopping; no job in flight".to_owned());
        assert_eq!(told.notices(&vitals), [stopping, Notice::Alive]);
        vitals.polled = Some(Duration::ZERO);
        assert_eq!(told.notices(&vitals), [Notice::Alive]);
    }

    #[test]
    fn the_watchdog_is_fed_three_times_in_its_time() {
        let seconds = Duration::from_secs;
        assert_eq!(interval(None), INTERVAL);
        assert_eq!(interval(Some(seconds(60))), INTERVAL);
        assert_eq!(interval(Some(seconds(3))), seconds(1));
    }

    #[test]
    fn the_longest_extension_has_room_in_the_protocol() {
        let longest = Notice::Extend(seconds(3600) + STOP_MARGIN);
        assert_eq!(
            state(&longest).to_string(),
            "EXTEND_TIMEOUT_USEC=3610000000"
        );
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
}
