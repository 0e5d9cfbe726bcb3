//! What is asked of an account beside the jobs, and what it answers.

use std::error::Error as StdError;
use std::time::Duration;

use jiff::Timestamp;
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

/// STS gave credentials of a role.
pub struct RoleAssumed<'a> {
    /// The role.
    pub role_arn: &'a str,
    /// When the credentials end.
    pub until: Option<Timestamp>,
    /// For how long it gave none, if it did not.
    pub failed: Option<Duration>,
}

impl Event for RoleAssumed<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            role.arn = self.role_arn,
            role.until = self.until.map(tracing::field::display),
            took_ms = self.failed.map(ms),
            "role assumed"
        );
    }
}

/// STS gave no credentials of a role.
pub struct RoleNotAssumed<'a> {
    /// The role.
    pub role_arn: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for RoleNotAssumed<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            role.arn = self.role_arn,
            error = chain(self.error),
            "the role cannot be assumed; nothing is done in its account meanwhile"
        );
    }
}

/// AWS began to throttle the account's calls of a service.
pub struct AccountThrottled<'a> {
    /// The service.
    pub service: &'static str,
    /// The operation whose call was throttled.
    pub operation: &'a str,
}

impl Event for AccountThrottled<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            aws.service = self.service,
            aws.operation = self.operation,
            "throttled; all calls of the account to this service slow down"
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
