//! The time by which leases are judged: the service's, the same for all instances.
//!
//! **Assumptions.** Two readings of it differ by less than [`MARGIN`]. A write that turns out to have
//! stated a time that was off by more than [`DRIFT`] is made again, once. How long the answer takes makes no time
//! wrong: a reading is never later than the truth, so that nobody's lease is judged over too soon, and a lease of
//! our own is stated longer by what the reading may lag.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::DynamoDbLedger;
use super::item::CHECK;
use crate::aws::dynamodb::{Update, Updated, Value};
use crate::ledger::LedgerError;

/// What two readings of the service's clock may differ by: it shows whole seconds, and an answer
/// takes time to arrive.
pub(super) const MARGIN: Duration = Duration::from_secs(5);

/// What the time that a write stated may differ by from the time of its answer. With the second by
/// which the service's clock may be read wrong it is less than [`MARGIN`].
const DRIFT: Duration = Duration::from_secs(2);

impl DynamoDbLedger {
    /// The time of the service.
    pub(super) async fn now(&self) -> Result<Timestamp, LedgerError> {
        if let Some(now) = self.table.time().now() {
            return Ok(now);
        }
        self.table.item(CHECK).await.map_err(self.failed())?;
        // An answer without a date: all that is left is our own clock.
        Ok(self.table.time().now().unwrap_or_else(|| self.clock.now()))
    }

    /// How long from now this is, by our own clock; with what the reading of the service's may lag, so that a
    /// lease of ours is not over for others before it is for us.
    pub(super) fn length(&self, until: Timestamp) -> SignedDuration {
        until.duration_since(self.clock.now()) + signed(self.table.time().lag())
    }

    /// A time of the service after which a lease that ends then is over for everyone, by our own
    /// clock.
    pub(super) fn over(&self, now: Timestamp, until: i64) -> Timestamp {
        let left = SignedDuration::from_millis(until - now.as_millisecond()) + signed(MARGIN);
        self.clock.now().checked_add(left).unwrap_or(Timestamp::MAX)
    }

    /// Makes a write that states times. If the answer shows that the time was not what it was
    /// believed to be (this machine slept, for instance), the write is made again; so there are two at most.
    pub(super) async fn timed<'a>(
        &self,
        update: impl Fn(Timestamp) -> Update<'a>,
    ) -> Result<(Timestamp, Updated), LedgerError> {
        let mut again = false;
        loop {
            let (believed, lag) = (self.now().await?, self.table.time().lag());
            let sent = Instant::now();
            let updated = self.table.update(update(believed)).await;
            let updated = updated.map_err(self.failed())?;
            let now = self.now().await?;
            // It was written at some moment between the two.
            let latest = signed(sent.elapsed() + lag + DRIFT);
            let off = now.duration_since(believed);
            if again || (-signed(DRIFT)..=latest).contains(&off) {
                return Ok((now, updated));
            }
            again = true;
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Milliseconds since the epoch.
pub(super) fn later(now: Timestamp, length: SignedDuration) -> Value {
    let later = now.checked_add(length).unwrap_or(Timestamp::MAX);
    later.as_millisecond().into()
}

/// A lease that ended before this is over for everyone. Milliseconds since the epoch.
pub(crate) fn lapsed(now: Timestamp) -> i64 {
    now.checked_sub(signed(MARGIN))
        .unwrap_or(Timestamp::MIN)
        .as_millisecond()
}

/// When DynamoDB may remove the item. Seconds since the epoch.
pub(super) fn expiry(now: Timestamp, after: Duration) -> Value {
    let at = now.checked_add(signed(after)).unwrap_or(Timestamp::MAX);
    at.as_second().into()
}
