//! The world itself: its clock, its lock, its faults, and waiting for something to come true.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::state::State;
use crate::faults::chance::Faults;
use crate::faults::plan::Injector;
use crate::faults::rule::{self, RuleId};
use crate::wire::journal::Journal;
use crate::wire::settings::{Place, Settings};

/// What a rule does to a call.
pub type Action = rule::Action<EmbeddedAws>;

/// A closure that a rule runs on the world.
pub type Hook = rule::Hook<EmbeddedAws>;

/// "On the nth call of operation X, on resource Y, do Z."
pub type Rule = rule::Rule<EmbeddedAws>;

/// A world of its own. Clones share it.
#[derive(Clone)]
pub struct EmbeddedAws {
    pub(crate) inner: Arc<Inner>,
    /// What is made and looked at through this is there.
    pub(crate) place: Place,
}

pub(crate) struct Inner {
    clock: SharedTimeSource,
    state: Mutex<State>,
    pub(crate) injector: Injector<EmbeddedAws>,
    pub(crate) journal: Journal,
    /// The world has changed; long polls wait for it. Wakes in the order of waiting.
    pub(crate) changes: Notify,
    /// There was an exchange, with or without a change.
    pub(crate) exchanges: Notify,
}

/// A condition did not come true in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the condition did not come true within {0:?}")]
pub struct NotInTime(pub Duration);

impl std::fmt::Debug for EmbeddedAws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedAws").finish_non_exhaustive()
    }
}

impl EmbeddedAws {
    /// An empty world on this clock. For virtual time it has to move with tokio's.
    #[must_use]
    pub fn new(clock: impl TimeSource + 'static, settings: Settings) -> Self {
        let seed = settings.seed;
        let place = Place::of(&settings);
        let inner = Inner {
            clock: SharedTimeSource::new(clock),
            injector: Injector::new(seed),
            journal: Journal::new(settings.journal_capacity),
            changes: Notify::new(),
            exchanges: Notify::new(),
            state: Mutex::new(State::new(settings)),
        };
        Self {
            inner: Arc::new(inner),
            place,
        }
    }

    /// The world as it is now: what pipelines do by themselves is done by then.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.catch_up(self.now());
        state
    }

    /// The time by the world's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::try_from(self.inner.clock.now()).unwrap_or(Timestamp::MAX)
    }

    /// What has been asked so far.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// A copy of the settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Changes settings or switches; calls from now on go by them. The account, the seed and the
    /// journal's capacity are fixed when a world is made.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
    }

    /// Sets how often random faults strike from now on; [`Faults::none`] ends them.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.injector.set_rates(faults);
    }

    /// Adds a rule. It counts matching calls from now on.
    pub fn add_rule(&self, rule: Rule) -> RuleId {
        self.inner.injector.add(rule)
    }

    /// Takes a rule away again.
    pub fn remove_rule(&self, rule: RuleId) {
        self.inner.injector.remove(rule);
    }

    /// Refuses every call of the operation: the caller lacks the permission.
    pub fn deny(&self, operation: &str) -> RuleId {
        self.add_rule(Rule::on(operation).then(Action::Deny))
    }

    /// Ends all faults: the random ones and the rules.
    pub fn calm(&self) {
        self.set_faults(Faults::none());
        self.inner.injector.clear_rules();
    }

    /// When, on tokio's clock, a time of the world's clock comes.
    pub(crate) fn instant_of(&self, at: Option<Timestamp>) -> Option<Instant> {
        let ahead = at?.duration_since(self.now());
        Instant::now().checked_add(Duration::try_from(ahead).unwrap_or(Duration::ZERO))
    }

    /// Tells everyone who waits that the world has changed.
    pub(crate) fn changed(&self) {
        self.inner.changes.notify_waiters();
    }

    /// Waits until a condition on the world holds. It is looked at again after every exchange and
    /// change, and whenever something is due to change by time alone.
    ///
    /// # Errors
    /// [`NotInTime`] if it did not come true within `timeout`.
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&Self) -> bool,
        timeout: Duration,
    ) -> Result<(), NotInTime> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut changed = pin!(self.inner.changes.notified());
            let mut exchanged = pin!(self.inner.exchanges.notified());
            changed.as_mut().enable();
            exchanged.as_mut().enable();
            if condition(self) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NotInTime(timeout));
            }
            let now = self.now();
            let due = {
                let state = self.state();
                let accounts = state.accounts.values();
                let due = accounts.filter_map(|account| account.cloudfront.next_change(now));
                let due = due.chain(state.sqs.next_change(now));
                due.chain(state.builds.next()).min()
            };
            let until = self.instant_of(due).map_or(deadline, |it| it.min(deadline));
            tokio::select! {
                biased;
                () = changed => {}
                () = exchanged => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}
