//! People who are told, or are not.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::{Event, ms};
use crate::telemetry::chain;
use crate::telemetry::metrics::Metrics;

/// A notice was taken.
pub struct Notified<'a> {
    /// By what.
    pub outlet: &'static str,
    /// Which.
    pub id: &'a str,
}

impl Event for Notified<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            notify.outlet = self.outlet,
            notify.id = self.id,
            "outcome notified"
        );
    }
}

/// Notices are not taken; they are tried again.
pub struct NotNotified<'a> {
    /// By what.
    pub outlet: &'static str,
    /// Why the last one was not.
    pub detail: &'a str,
    /// How many wait.
    pub waiting: usize,
    /// When it is tried again.
    pub delay: Duration,
    /// It is the first failure since it worked.
    pub first: bool,
}

impl Event for NotNotified<'_> {
    fn record(&self, _metrics: &Metrics) {
        if self.first {
            warn!(
                notify.outlet = self.outlet,
                notify.waiting = self.waiting,
                retry.delay_ms = ms(self.delay),
                detail = self.detail,
                "outcomes cannot be notified; they are kept and tried again"
            );
        } else {
            debug!(
                notify.outlet = self.outlet,
                notify.waiting = self.waiting,
                retry.delay_ms = ms(self.delay),
                detail = self.detail,
                "outcomes cannot be notified yet"
            );
        }
    }
}

/// Notices are taken again.
pub struct NotifyingRecovered {
    /// By what.
    pub outlet: &'static str,
}

impl Event for NotifyingRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(
            notify.outlet = self.outlet,
            "outcomes can be notified again"
        );
    }
}

/// A notice will never be taken.
pub struct NoticeDropped<'a> {
    /// By what.
    pub outlet: &'static str,
    /// Which.
    pub id: &'a str,
    /// Why.
    pub detail: &'a str,
}

impl Event for NoticeDropped<'_> {
    fn record(&self, _metrics: &Metrics) {
        error!(
            notify.outlet = self.outlet,
            notify.id = self.id,
            detail = self.detail,
            "an outcome is not notified"
        );
    }
}

/// The ledger does not keep a notice: it is sent from memory alone.
pub struct NoticeNotKept<'a> {
    /// Which.
    pub id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
}

impl Event for NoticeNotKept<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            notify.id = self.id,
            error = chain(self.error),
            "the ledger does not keep a notice: a crash before it is sent would lose it"
        );
    }
}
