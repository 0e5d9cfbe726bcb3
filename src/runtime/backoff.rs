//! How long to stay away after a failure. Pure: no I/O, no clock.

use std::time::Duration;

/// Exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub initial: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl Backoff {
    /// The delay after `failures` failures in a row (0 counts as 1): doubled each time from
    /// `initial` up to `max`, then jittered to between half of it and the whole.
    ///
    /// Half is kept so that a backoff never degenerates into an immediate retry.
    #[must_use]
    pub fn delay(self, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        let whole = self.ceiling(failures);
        whole / 2 + (whole / 2).mul_f64(rng.f64())
    }

    /// The longest delay after `failures` failures in a row.
    #[must_use]
    pub fn ceiling(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_lies_between_half_its_ceiling_and_the_ceiling(
            initial in 1u64..100_000, extra in 0u64..10_000_000, failures in 0u32..200, seed: u64,
        ) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial),
                max: Duration::from_millis(initial + extra),
            };
            let delay = backoff.delay(failures, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(delay <= backoff.max);
            prop_assert!(delay <= backoff.ceiling(failures));
            prop_assert!(delay >= backoff.initial / 2);
            prop_assert!(backoff.ceiling(failures) <= backoff.ceiling(failures + 1));
        }
    }
}
