//! Signs of life: what the poll loop or a job is doing, and for how long it may be silent about it.
//!
//! Whoever works says what it does before it begins, and how long that may take. What is silent for
//! longer is stuck: that is what the watchdog and `health` go by. A limit is never needed to end
//! work (every call has a timeout of its own); it finds what should have ended and did not.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long any activity may be silent above what it said it would take. An AWS call ends after
/// 20 s at most, a pause between two tries of one after 5 s; the rest is for a slow machine.
pub const SILENCE: Duration = Duration::from_secs(60);

/// What someone is doing right now. Clones are the same.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Mutex<Doing>>);

#[derive(Clone, Copy, Debug)]
struct Doing {
    what: &'static str,
    since: Instant,
    /// For how long it may be silent; `None` where it depends on others, who have limits of their own.
    within: Option<Duration>,
}

/// What was seen of an [`Activity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The name of what it does.
    pub what: &'static str,
    /// How long ago it was last heard of.
    pub silent: Duration,
    /// For how long it may be silent, if there is a limit.
    pub within: Option<Duration>,
}

impl Sign {
    /// Whether it has been silent for longer than it may.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.within.is_some_and(|within| self.silent > within)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Doing {
            what: "starting",
            since: Instant::now(),
            within: Some(SILENCE),
        })))
    }
}

impl Activity {
    fn begin(&self, what: &'static str, within: Option<Duration>) {
        *self.0.lock() = Doing {
            what,
            since: Instant::now(),
            within,
        };
    }

    /// Begins something that is made of calls.
    pub fn set(&self, what: &'static str) {
        self.begin(what, Some(SILENCE));
    }

    /// Begins something that may be silent for that long, and [`SILENCE`] more.
    pub fn set_for(&self, what: &'static str, long: Duration) {
        self.begin(what, Some(long.saturating_add(SILENCE)));
    }

    /// Begins to wait for others, for as long as they take.
    pub fn rest(&self, what: &'static str) {
        self.begin(what, None);
    }

    /// Still doing the same, and not stuck.
    pub fn beat(&self) {
        self.0.lock().since = Instant::now();
    }

    /// The name of what it does.
    #[must_use]
    pub fn get(&self) -> &'static str {
        self.0.lock().what
    }

    /// What can be told of it now.
    #[must_use]
    pub fn sign(&self) -> Sign {
        let Doing {
            what,
            since,
            within,
        } = *self.0.lock();
        Sign {
            what,
            silent: since.elapsed(),
            within,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_silent_for_longer_than_it_said_is_stuck() {
        let activity = Activity::default();
        let second = Duration::from_secs(1);
        activity.set_for("waiting", Duration::from_secs(15));
        tokio::time::advance(Duration::from_secs(15) + SILENCE).await;
        assert!(!activity.sign().is_stuck());
        activity.beat();
        tokio::time::advance(Duration::from_secs(15) + SILENCE).await;
        assert!(!activity.sign().is_stuck(), "{:?}", activity.sign());
        tokio::time::advance(second).await;
        assert!(activity.sign().is_stuck(), "{:?}", activity.sign());
        activity.set("calling");
        tokio::time::advance(SILENCE + second).await;
        assert!(activity.sign().is_stuck());
        activity.rest("waiting_for_its_turn");
        tokio::time::advance(Duration::from_secs(86400)).await;
        assert!(!activity.sign().is_stuck());
        assert_eq!(activity.get(), "waiting_for_its_turn");
    }
}
