//! Times of the model, and how the JSON protocols write them.

use std::time::Duration;

use jiff::Timestamp;

pub(crate) fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Seconds since the epoch with a fraction.
pub(crate) fn epoch_seconds(at: Timestamp) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds fit a double for 285,000 years"
    )]
    let milliseconds = at.as_millisecond() as f64;
    milliseconds / 1000.0
}
