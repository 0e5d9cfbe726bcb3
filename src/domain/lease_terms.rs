//! How leases are kept, those of messages and those of jobs. Pure: no I/O, no clock.

use std::time::Duration;

/// How leases are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What each extension asks for.
    pub visibility_timeout: Duration,
    /// How long after a confirmation the next extension is asked for.
    pub heartbeat_interval: Duration,
}

impl Terms {
    /// The lease counts as lost when no more than this is left of it: a sixth.
    #[must_use]
    pub fn safety_margin(self) -> Duration {
        self.visibility_timeout / 6
    }

    /// Whether a lease that was last asked for so long ago counts as lost.
    #[must_use]
    pub fn is_lost(self, age: Duration) -> bool {
        age + self.safety_margin() >= self.visibility_timeout
    }

    /// Between two tries of an extension that fails: a tenth of what lies between the first try
    /// and the safety margin.
    #[must_use]
    pub fn retry_interval(self) -> Duration {
        let room = self
            .visibility_timeout
            .saturating_sub(self.heartbeat_interval);
        (room.saturating_sub(self.safety_margin()) / 10).max(Duration::from_millis(50))
    }
}
