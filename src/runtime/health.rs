//! Whether the daemon is well: what is seen of it, and what that means.
//!
//! Two questions, and they differ. **Stuck**: has the poll loop or a job stopped making progress? Then
//! only a restart helps, and the watchdog brings it. **Healthy**: does it do its work? A daemon whose
//! network is down, whose permission is missing or whose ledger fails is not stuck, and not healthy.
//!
//! Nothing here does I/O; the daemon answers at a socket.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::runtime::activity::Sign;

/// Everything that is seen of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// What the poll loop does.
    pub polling: Sign,
    /// How long ago the queue last answered a poll; `None` before it did.
    pub polled: Option<Duration>,
    /// The class of the error, while receiving fails.
    pub receiving_fails: Option<&'static str>,
    /// Whether the ledger fails.
    pub ledger_fails: bool,
    /// What keeps the ledger from answering at once, if anything does.
    pub ledger_trouble: Option<LedgerTrouble>,
    /// Why it rightly does not poll, if so.
    pub not_polling: Option<NotPolling>,
    /// The mode of the targets: `act`, `observe` or `mixed`.
    pub mode: &'static str,
    /// The jobs in flight, the oldest first.
    pub jobs: Vec<Job>,
}

/// A good reason not to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPolling {
    /// As many jobs work as may.
    Full,
    /// It was asked to stop.
    Stopping,
}

/// One job in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub execution_id: String,
    pub doing: Sign,
}

/// A ledger that answers, and not at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerTrouble {
    pub table: String,
    /// What is wrong with it.
    pub what: Trouble,
}

impl fmt::Display for LedgerTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the ledger's table {} {}", self.table, self.what)
    }
}

/// What is wrong with the answers of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// They take long.
    Slow {
        /// The last slow one, its retries included.
        latency: Duration,
    },
    /// They are refused: the table has too little capacity.
    Throttled,
}

impl Trouble {
    /// A bounded code for logs and health.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Slow { .. } => "slow",
            Self::Throttled => "throttled",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { latency } => {
                write!(f, "is slow: it answers after {} ms", latency.as_millis())
            }
            Self::Throttled => f.write_str("throttles"),
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// The poll loop makes no progress.
    PollStuck(Sign),
    /// A job makes no progress.
    JobStuck(Job),
    /// The ledger fails, and nothing is polled for until it works again.
    LedgerFails,
    /// The queue has not answered yet.
    NotPolledYet {
        /// The class of the error, if receiving fails.
        class: Option<&'static str>,
    },
    /// The last answer of the queue is too old.
    PollStale {
        /// How old.
        ago: Duration,
        /// The class of the error, if receiving fails.
        class: Option<&'static str>,
    },
}

impl Unhealthy {
    /// A bounded code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::PollStuck(_) => "poll_stuck",
            Self::JobStuck(_) => "job_stuck",
            Self::LedgerFails => "ledger_fails",
            Self::NotPolledYet { .. } => "not_polled_yet",
            Self::PollStale { .. } => "poll_stale",
        }
    }
}

/// In seconds, and never more exact than that.
fn seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fails = |class: &Option<&'static str>| match class {
            Some(class) => format!(": receiving fails ({class})"),
            None => String::new(),
        };
        match self {
            Self::PollStuck(Sign { what, silent, .. }) => {
                let silent = seconds(*silent);
                write!(f, "the poll loop is stuck: {what} for {silent}")
            }
            Self::JobStuck(Job {
                execution_id,
                doing: Sign { what, silent, .. },
            }) => {
                let silent = seconds(*silent);
                write!(f, "the job of {execution_id} is stuck: {what} for {silent}")
            }
            Self::LedgerFails => f.write_str("the ledger fails"),
            Self::NotPolledYet { class } => {
                write!(f, "the queue has not answered yet{}", fails(class))
            }
            Self::PollStale { ago, class } => write!(
                f,
                "the last completed poll was {} ago{}",
                seconds(*ago),
                fails(class)
            ),
        }
    }
}

/// How old the last completed poll may be. One receive may hang until its timeout, and the next one,
/// which waits its time out, must still come in time. A receive that hangs ends `margin` after its wait.
#[must_use]
pub fn freshness(wait_time: Duration, margin: Duration) -> Duration {
    const SLACK: Duration = Duration::from_secs(5);
    wait_time * 2 + margin + SLACK
}

impl Vitals {
    /// What makes no progress, if anything does not.
    #[must_use]
    pub fn stuck(&self) -> Option<Unhealthy> {
        if self.polling.is_stuck() {
            return Some(Unhealthy::PollStuck(self.polling));
        }
        let stuck = self.jobs.iter().find(|job| job.doing.is_stuck());
        stuck.cloned().map(Unhealthy::JobStuck)
    }

    /// What keeps the daemon from its work, if anything does. `fresh` is how old the last completed
    /// poll may be.
    #[must_use]
    pub fn unhealthy(&self, fresh: Duration) -> Option<Unhealthy> {
        let class = self.receiving_fails;
        if let Some(stuck) = self.stuck() {
            return Some(stuck);
        }
        if self.ledger_fails {
            return Some(Unhealthy::LedgerFails);
        }
        match self.polled {
            _ if self.not_polling.is_some() => None,
            None => Some(Unhealthy::NotPolledYet { class }),
            Some(ago) if ago > fresh => Some(Unhealthy::PollStale { ago, class }),
            Some(_) => None,
        }
    }

    /// What a daemon answers when it is asked how it is.
    #[must_use]
    pub fn report(&self, fresh: Duration) -> Report {
        let unhealthy = self.unhealthy(fresh);
        Report {
            healthy: unhealthy.is_none(),
            reason: match (&unhealthy, &self.ledger_trouble) {
                (Some(unhealthy), _) => Some(unhealthy.code().to_owned()),
                (None, Some(trouble)) => Some(format!("ledger_{}", trouble.what.code())),
                (None, None) => None,
            },
            detail: match &unhealthy {
                Some(unhealthy) => unhealthy.to_string(),
                None => self.summary(),
            },
            mode: Some(self.mode.to_owned()),
            last_poll_ms: self.polled.map(ms),
            in_flight: self.jobs.len(),
        }
    }

    /// What it is doing, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let polls = match (self.not_polling, self.polled) {
            (Some(NotPolling::Full), _) => "as many jobs at work as may be".to_owned(),
            (Some(NotPolling::Stopping), _) => "stopping".to_owned(),
            (None, None) => {
                let fails = self.receiving_fails.map(|class| format!(" ({class})"));
                let fails = fails.unwrap_or_default();
                format!("waiting for the queue's first answer{fails}")
            }
            (None, Some(_)) => match (self.ledger_fails, self.receiving_fails) {
                (true, _) => "waiting for the ledger".to_owned(),
                (false, Some(class)) => format!("receiving fails ({class})"),
                (false, None) => "polling".to_owned(),
            },
        };
        let mut activities: Vec<(&str, usize)> = Vec::new();
        for job in &self.jobs {
            match activities.iter_mut().find(|it| it.0 == job.doing.what) {
                Some((_, count)) => *count += 1,
                None => activities.push((job.doing.what, 1)),
            }
        }
        let activities: Vec<_> = activities
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        let jobs = match activities.is_empty() {
            true => "no job in flight".to_owned(),
            false => format!("jobs in flight: {}", activities.join(", ")),
        };
        let mode = match self.mode {
            "act" => String::new(),
            mode => format!("; mode {mode}"),
        };
        match &self.ledger_trouble {
            Some(trouble) => format!("{trouble}; {polls}; {jobs}{mode}"),
            None => format!("{polls}; {jobs}{mode}"),
        }
    }
}

/// How the daemon is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Report {
    /// Whether it does its work.
    pub healthy: bool,
    /// A bounded code of what keeps it from that; of a healthy one, of what slows it down.
    pub reason: Option<String>,
    /// The same for people; or what it is doing.
    pub detail: String,
    /// The mode of the targets: `act`, `observe` or `mixed`; not known of a daemon that does not answer.
    pub mode: Option<String>,
    /// How long ago the queue last answered a poll, in milliseconds.
    pub last_poll_ms: Option<u64>,
    /// The number of jobs in flight.
    pub in_flight: usize,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(55);

    fn sign(what: &'static str, silent: u64, within: Option<u64>) -> Sign {
        Sign {
            what,
            silent: Duration::from_secs(silent),
            within: within.map(Duration::from_secs),
        }
    }

    fn well() -> Vitals {
        Vitals {
            polling: sign("receiving", 3, Some(90)),
            polled: Some(Duration::from_secs(3)),
            receiving_fails: None,
            ledger_fails: false,
            ledger_trouble: None,
            not_polling: None,
            mode: "act",
            jobs: vec![Job {
                execution_id: "e-1".to_owned(),
                doing: sign("detach_propagated", 14, Some(75)),
            }],
        }
    }

    fn code(vitals: &Vitals) -> Option<&'static str> {
        vitals.unhealthy(FRESH).as_ref().map(Unhealthy::code)
    }

    #[test]
    fn a_daemon_that_works_is_well() {
        let report = well().report(FRESH);
        assert!(report.healthy, "{report:?}");
        let summary = "polling; jobs in flight: 1 detach_propagated";
        assert_eq!(report.detail, summary);
    }

    #[test]
    fn the_last_completed_poll_must_be_fresh_unless_there_is_a_reason_not_to_poll() {
        assert_eq!(
            freshness(Duration::from_secs(20), Duration::from_secs(10)),
            FRESH
        );
        let mut vitals = well();
        vitals.polled = Some(FRESH);
        assert_eq!(code(&vitals), None);
        vitals.polled = Some(FRESH + Duration::from_secs(1));
        assert_eq!(code(&vitals), Some("poll_stale"));
        vitals.receiving_fails = Some("access_denied");
        let line = vitals.unhealthy(FRESH).unwrap().to_string();
        assert!(
            line.contains("56s ago") && line.contains("access_denied"),
            "{line}"
        );
        // The network being down is no reason for a restart.
        assert_eq!(vitals.stuck(), None);
        for reason in [NotPolling::Full, NotPolling::Stopping] {
            vitals.not_polling = Some(reason);
            assert_eq!(code(&vitals), None, "{reason:?}");
        }
        vitals.not_polling = None;
        vitals.polled = None;
        assert_eq!(code(&vitals), Some("not_polled_yet"));
        vitals.receiving_fails = Some("no_credentials");
        vitals.jobs.clear();
        let status = "waiting for the queue's first answer (no_credentials); no job in flight";
        assert_eq!(vitals.summary(), status);
    }

    #[test]
    fn a_ledger_that_fails_is_not_well_but_not_stuck_either() {
        let mut vitals = well();
        vitals.ledger_fails = true;
        assert_eq!(code(&vitals), Some("ledger_fails"));
        vitals.not_polling = Some(NotPolling::Full);
        assert_eq!(code(&vitals), Some("ledger_fails"));
        assert_eq!(vitals.stuck(), None);
    }

    /// It does its work, and no restart makes a table faster.
    #[test]
    fn a_ledger_that_is_slow_or_throttles_is_named_and_no_reason_for_a_restart() {
        let mut vitals = well();
        let latency = Duration::from_millis(3200);
        for (what, code, words) in [
            (Trouble::Slow { latency }, "ledger_slow", "3200 ms"),
            (Trouble::Throttled, "ledger_throttled", "throttles"),
        ] {
            let table = "stagesweep-ledger".to_owned();
            vitals.ledger_trouble = Some(LedgerTrouble { table, what });
            let report = vitals.report(FRESH);
            assert!(report.healthy, "{report:?}");
            assert_eq!(report.reason.as_deref(), Some(code));
            let said = report.detail.contains("stagesweep-ledger") && report.detail.contains(words);
            assert!(said, "{}", report.detail);
        }
        vitals.ledger_fails = true;
        assert_eq!(vitals.report(FRESH).reason.as_deref(), Some("ledger_fails"));
    }

    #[test]
    fn a_job_or_a_poll_loop_without_progress_is_stuck_whatever_else_is_well() {
        let mut vitals = well();
        vitals.jobs[0].doing.silent = Duration::from_secs(76);
        assert_eq!(vitals.stuck().unwrap().code(), "job_stuck");
        assert_eq!(code(&vitals), Some("job_stuck"));
        let mut vitals = well();
        vitals.polling.silent = Duration::from_secs(91);
        vitals.not_polling = Some(NotPolling::Full);
        assert_eq!(vitals.stuck().unwrap().code(), "poll_stuck");
        vitals.polling = sign("waiting_for_room", 86_400, None);
        assert_eq!(vitals.stuck(), None);
    }
}
