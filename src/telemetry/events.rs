//! The events that count, or that somebody watches: log line, counters and milestone in one place.

mod daemon;
mod evidence;
mod jobs;
mod messages;

use std::time::Duration;

pub use self::daemon::*;
pub use self::evidence::*;
pub use self::jobs::*;
pub use self::messages::*;

use super::Milestone;
use super::metrics::Metrics;

/// Something that happened.
pub trait Event {
    /// Writes the log line and counts.
    fn record(&self, metrics: &Metrics);

    /// What someone who watches the job sees of it.
    fn milestone(&self) -> Option<Milestone> {
        None
    }
}

/// A line of level `ERROR` where it is news, `WARN` where it may be, else of `DEBUG`.
macro_rules! report {
    ($news:expr, $($line:tt)*) => {
        match $news {
            $crate::domain::history::News::Known => tracing::debug!($($line)*),
            $crate::domain::history::News::Unsure => tracing::warn!($($line)*),
            $crate::domain::history::News::First | $crate::domain::history::News::Another => {
                tracing::error!($($line)*)
            }
        }
    };
}
pub(crate) use report;

/// Logs what fails: its begin at `$level`, and every five minutes as a `WARN` with its duration.
macro_rules! fails {
    ($level:ident, $phase:expr, $($line:tt)*) => {
        match $phase {
            $crate::runtime::lasting::Phase::Begins => tracing::$level!($($line)*),
            $crate::runtime::lasting::Phase::Lasts(took) => {
                tracing::warn!(took_ms = $crate::telemetry::events::ms(took), $($line)*)
            }
            $crate::runtime::lasting::Phase::Quiet => {}
        }
    };
}
pub(crate) use fails;

/// Whole milliseconds, as log fields have them.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
