//! How a table answers: whether it is slow, or throttles.
//!
//! **Guarantees.** Trouble begins with the first answer that is slow or throttles, and is over with the first
//! that is neither, once none was for [`CLEARS`].

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::runtime::health::Trouble;

/// A call that takes as long, its retries included, is slow. DynamoDB answers within some ten milliseconds.
pub const SLOW: Duration = Duration::from_secs(1);

/// Trouble that has not shown for so long is over.
pub const CLEARS: Duration = Duration::from_secs(60);

/// The answers of one table.
#[derive(Debug, Default)]
pub struct Pulse {
    seen: Mutex<Option<(Trouble, Instant)>>,
    begun: Notify,
}

impl Pulse {
    fn see(&self, trouble: Trouble) {
        *self.seen.lock() = Some((trouble, Instant::now()));
        self.begun.notify_one();
    }

    /// An answer throttled.
    pub(super) fn throttled(&self) {
        self.see(Trouble::Throttled);
    }

    /// The call, timed.
    pub(super) async fn of<T>(&self, call: impl Future<Output = T>) -> T {
        let sent = Instant::now();
        let reply = call.await;
        let latency = sent.elapsed();
        if latency >= SLOW {
            let throttled =
                |(trouble, at): &(Trouble, Instant)| *trouble == Trouble::Throttled && *at >= sent;
            // What was throttled was slow because of that.
            if !self.seen.lock().as_ref().is_some_and(throttled) {
                self.see(Trouble::Slow { latency });
            }
        } else {
            let mut seen = self.seen.lock();
            if seen.is_some_and(|(_, at)| at.elapsed() >= CLEARS) {
                *seen = None;
            }
        }
        reply
    }

    /// What is wrong now.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.seen.lock().map(|(trouble, _)| trouble)
    }

    /// Waits until something is wrong.
    pub async fn troubled(&self) -> Trouble {
        loop {
            if let Some(trouble) = self.trouble() {
                return trouble;
            }
            self.begun.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn call(pulse: &Pulse, takes: Duration) {
        pulse.of(tokio::time::sleep(takes)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_lasts_until_a_good_answer_comes_a_minute_after_the_last_bad_one() {
        let pulse = Pulse::default();
        call(&pulse, SLOW / 2).await;
        assert_eq!(pulse.trouble(), None);
        let latency = 3 * SLOW;
        call(&pulse, latency).await;
        let slow = Trouble::Slow { latency };
        assert_eq!(pulse.troubled().await, slow);
        tokio::time::advance(CLEARS / 2).await;
        call(&pulse, SLOW / 2).await;
        assert_eq!(pulse.trouble(), Some(slow));
        tokio::time::advance(CLEARS).await;
        assert_eq!(pulse.trouble(), Some(slow), "nobody has asked since");
        call(&pulse, SLOW / 2).await;
        assert_eq!(pulse.trouble(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_throttles_and_is_slow_for_it_throttles() {
        let pulse = Pulse::default();
        let throttled = async {
            pulse.throttled();
            tokio::time::sleep(2 * SLOW).await;
        };
        pulse.of(throttled).await;
        assert_eq!(pulse.trouble(), Some(Trouble::Throttled));
        call(&pulse, 2 * SLOW).await;
        assert_eq!(pulse.trouble().map(|it| it.code()), Some("slow"));
    }
}
