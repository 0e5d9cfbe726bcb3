//! What is asked of an account beside the jobs, and what it answers.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{info, warn};

use super::{Event, fails, ms};
use crate::runtime::lasting::Phase;
use crate::telemetry::chain;
use crate::telemetry::metrics::Metrics;

/// A distribution cannot be looked at for now; looking goes on.
pub struct LookFailing<'a> {
    /// The distribution.
    pub distribution_id: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for LookFailing<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            distribution.id = self.distribution_id,
            error = chain(self.error),
            "the distribution cannot be looked at; trying again with backoff"
        );
    }
}

/// A distribution is seen again.
pub struct LookRecovered<'a> {
    /// The distribution.
    pub distribution_id: &'a str,
    /// For how long it was not.
    pub took: Duration,
}

impl Event for LookRecovered<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            distribution.id = self.distribution_id,
            took_ms = ms(self.took),
            "the distribution can be looked at again"
        );
    }
}

/// A call failed in a way that the next try may not.
pub struct CallRetried<'a> {
    /// Why.
    pub error: &'a dyn StdError,
    /// When it is tried again.
    pub delay: Duration,
}

impl Event for CallRetried<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            error = chain(self.error),
            retry.in_ms = ms(self.delay),
            "call failed; trying again"
        );
    }
}
