//! The only place that reads a clock.
//!
//! **Monotonic** time is [`tokio::time::Instant`] everywhere: real in the daemon, virtual under a
//! paused runtime. **Wall-clock** time, which the ledger's records, event ages and request
//! signatures need, comes from a [`Clock`], so that a test can advance both together.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use aws_smithy_async::time::TimeSource;
use jiff::Timestamp;
use tokio::time::Instant;

/// A source of wall-clock time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Wall-clock time that follows tokio's (possibly paused) monotonic clock.
    Following {
        start: Timestamp,
        base: Instant,
        /// How far it is set wrong, in milliseconds.
        skew: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that reads `start` now and moves with tokio's monotonic clock from here on.
    ///
    /// Must be called inside a tokio runtime.
    #[must_use]
    pub fn following_tokio(start: Timestamp) -> Self {
        Self(Source::Following {
            start,
            base: Instant::now(),
            skew: Arc::default(),
        })
    }

    /// The same clock as another machine has it: right now as this one, and from then on wrong by
    /// the milliseconds that `skew` holds. The machine's own clock cannot be set wrong.
    #[must_use]
    pub fn on_another_machine(&self, skew: Arc<AtomicI64>) -> Self {
        match &self.0 {
            Source::System => self.clone(),
            Source::Following { start, base, .. } => Self(Source::Following {
                start: *start,
                base: *base,
                skew,
            }),
        }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "this is the clock")]
            Source::System => Timestamp::now(),
            Source::Following { start, base, skew } => {
                let skew = jiff::SignedDuration::from_millis(skew.load(Ordering::Relaxed));
                start
                    .checked_add(base.elapsed())
                    .and_then(|right| right.checked_add(skew))
                    .unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Milliseconds since the Unix epoch, the unit of ledger records and metric timestamps.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now().as_millisecond()
    }

    /// How long ago `then` was; zero if it lies in the future (clocks differ between machines).
    #[must_use]
    pub fn since(&self, then: Timestamp) -> Duration {
        self.now()
            .duration_since(then)
            .try_into()
            .unwrap_or(Duration::ZERO)
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        Clock::now(self).into()
    }
}
