//! What the poll loop does, and whether the queue answers it: what the watchdog and the gauges go by.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::error_class::ErrorClass;
use crate::runtime::activity::{Activity, Sign};
use crate::runtime::health::NotPolling;

/// What the poll loop does, and for how long at most it is silent about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polling {
    Starting,
    Receiving(Duration),
    Pausing(Duration),
    WaitingForRoom,
    WaitingForLedger(Duration),
    Stopping,
}

/// The poll loop, as others see it.
pub(super) struct PollHealth {
    polling: Mutex<Polling>,
    activity: Activity,
    polled_at: Mutex<Instant>,
    /// Cancelled once the queue has answered a poll.
    answered: CancellationToken,
    fails: Mutex<Option<ErrorClass>>,
}

impl PollHealth {
    pub(super) fn new() -> Self {
        Self {
            polling: Mutex::new(Polling::Starting),
            activity: Activity::default(),
            polled_at: Mutex::new(Instant::now()),
            answered: CancellationToken::new(),
            fails: Mutex::default(),
        }
    }

    /// The poll loop begins something else.
    pub(super) fn begin(&self, polling: Polling) {
        let mut doing = self.polling.lock();
        *doing = polling;
        match polling {
            Polling::Starting => self.activity.set("starting"),
            Polling::Receiving(long) => self.activity.set_for("receiving", long),
            Polling::Pausing(long) => self.activity.set_for("pausing", long),
            Polling::WaitingForRoom => self.activity.rest("waiting_for_room"),
            Polling::WaitingForLedger(long) => {
                self.activity.set_for("waiting_for_the_ledger", long);
            }
            Polling::Stopping => self.activity.rest("stopping"),
        }
    }

    /// The queue answered a poll.
    pub(super) fn answer(&self) {
        *self.polled_at.lock() = Instant::now();
        *self.fails.lock() = None;
        self.answered.cancel();
    }

    /// A poll failed, or none can be made.
    pub(super) fn fail(&self, class: ErrorClass) {
        *self.fails.lock() = Some(class);
    }

    /// Why receiving fails, while it does.
    pub(super) fn failing(&self) -> Option<ErrorClass> {
        *self.fails.lock()
    }

    /// Whether the queue has ever answered a poll.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.is_cancelled()
    }

    /// Waits until it has.
    pub(super) async fn answered(&self) {
        self.answered.cancelled().await;
    }

    /// How long ago the last poll was answered; before that, how long ago the loop was made.
    pub(super) fn age(&self) -> Duration {
        self.polled_at.lock().elapsed()
    }

    /// What the loop does, and why it rightly does not poll, if so.
    pub(super) fn sign(&self) -> (Sign, Option<NotPolling>) {
        let polling = self.polling.lock();
        let not_polling = match *polling {
            Polling::WaitingForRoom => Some(NotPolling::Full),
            Polling::Stopping => Some(NotPolling::Stopping),
            Polling::Starting
            | Polling::Receiving(_)
            | Polling::Pausing(_)
            | Polling::WaitingForLedger(_) => None,
        };
        (self.activity.sign(), not_polling)
    }
}
