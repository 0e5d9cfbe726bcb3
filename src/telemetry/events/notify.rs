//! People who are told, or are not.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{error, info, warn};

use super::{Event, fails, ms};
use crate::runtime::lasting::Phase;
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
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for NotNotified<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            notify.outlet = self.outlet,
            notify.waiting = self.waiting,
            retry.delay_ms = ms(self.delay),
            detail = self.detail,
            "outcomes cannot be notified; they are kept and tried again"
        );
    }
}

/// Notices are taken again.
pub struct NotifyingRecovered {
    /// By what.
    pub outlet: &'static str,
    /// For how long they were not.
    pub took: Duration,
}

impl Event for NotifyingRecovered {
    fn record(&self, _metrics: &Metrics) {
        info!(
            notify.outlet = self.outlet,
            took_ms = ms(self.took),
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
