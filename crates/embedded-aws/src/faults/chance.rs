//! Faults at random.

use std::time::Duration;

use super::rule::Action;
use crate::wire::exchange::{AwsService, Call, Failure};

/// How often, from 0 to 1, each kind of random fault befalls a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Throttled as the service does.
    pub throttle: f64,
    /// 500 or 503 instead of the effect.
    pub error: f64,
    /// 500 although the effect took place.
    pub error_after: f64,
    /// The connection is cut and nothing took effect.
    pub drop_before: f64,
    /// The connection is cut after the effect.
    pub drop_after: f64,
    /// The call waits, up to [`Faults::max_delay`], before anything else.
    pub delay: f64,
    /// The longest such wait.
    pub max_delay: Duration,
    /// A read shows what was there before the last write.
    pub stale: f64,
    /// A received message leaves a copy in the queue, to be delivered again.
    pub duplicate: f64,
    /// A receive takes the newest messages first.
    pub reorder: f64,
    /// A deleted message reappears: the delete is answered, and not done.
    pub undelete: f64,
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self {
            throttle: 0.0,
            error: 0.0,
            error_after: 0.0,
            drop_before: 0.0,
            drop_after: 0.0,
            delay: 0.0,
            max_delay: Duration::ZERO,
            stale: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            undelete: 0.0,
        }
    }

    /// A bad day: one call in twenty or so meets something.
    #[must_use]
    pub fn mild() -> Self {
        Self {
            throttle: 0.02,
            error: 0.01,
            error_after: 0.003,
            drop_before: 0.005,
            drop_after: 0.005,
            delay: 0.05,
            max_delay: Duration::from_secs(2),
            stale: 0.05,
            duplicate: 0.02,
            reorder: 0.1,
            undelete: 0.01,
        }
    }

    /// As bad as it gets: every third call or so meets something.
    #[must_use]
    pub fn storm() -> Self {
        Self {
            throttle: 0.12,
            error: 0.08,
            error_after: 0.03,
            drop_before: 0.05,
            drop_after: 0.05,
            delay: 0.2,
            max_delay: Duration::from_secs(15),
            stale: 0.25,
            duplicate: 0.1,
            reorder: 0.3,
            undelete: 0.05,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// What strikes a call.
pub(crate) fn by_chance<W>(rates: &Faults, call: &Call, rng: &mut fastrand::Rng) -> Vec<Action<W>> {
    let mut actions = Vec::new();
    // Every kind draws, whether or not it can apply: a rate changed leaves the others' draws.
    let mut chance = |rate: f64| rng.f64() < rate;
    let delay = chance(rates.delay);
    let stale = chance(rates.stale) && call.service == AwsService::CloudFront;
    let duplicate = chance(rates.duplicate) && call.operation == "ReceiveMessage";
    let reorder = chance(rates.reorder) && call.operation == "ReceiveMessage";
    let undelete = chance(rates.undelete) && call.operation.starts_with("DeleteMessage");
    let throttle = chance(rates.throttle);
    let error = chance(rates.error);
    let error_after = chance(rates.error_after);
    let drop_before = chance(rates.drop_before);
    let drop_after = chance(rates.drop_after);
    if delay {
        actions.push(Action::Delay(rates.max_delay.mul_f64(rng.f64())));
    }
    let tweaks = [
        (stale, Action::Stale),
        (duplicate, Action::Duplicate),
        (reorder, Action::Reorder),
        (undelete, Action::Undelete),
        (throttle, Action::Throttle),
        (
            error,
            Action::Refuse(Failure::server_error(call.service, rng.bool())),
        ),
        (drop_before, Action::DropBefore),
        (
            error_after,
            Action::RefuseAfter(Failure::server_error(call.service, false)),
        ),
        (drop_after, Action::DropAfter),
    ];
    actions.extend(
        tweaks
            .into_iter()
            .filter(|(happens, _)| *happens)
            .map(|(_, action)| action),
    );
    actions
}
