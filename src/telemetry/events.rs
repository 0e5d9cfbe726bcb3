//! Every event of the daemon: its log line, its counters and its milestone in one place.

mod account;
mod catch_up;
mod daemon;
mod jobs;
mod messages;
mod notify;

use std::time::Duration;

pub use self::account::*;
pub use self::catch_up::*;
pub use self::daemon::*;
pub use self::jobs::*;
pub use self::messages::*;
pub use self::notify::*;

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

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
