//! Keeping a grant beside the work that is done under it.
//!
//! **Guarantees.** The work is told to stop while the lease still has its safety margin, at once if the
//! grant is void, and not before that: a ledger that fails for a while stops nothing.

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Grant, Ledger, LedgerError};
use crate::domain::lease_terms::Terms;
use crate::runtime::clock::Clock;
use crate::runtime::stop::{Stop, StopReason};

/// Renews a grant for as long as it is polled. Returns when the grant is lost, having told the work. It was
/// asked for at `claimed_at`. `heard` is told what the ledger answered, each time.
pub async fn keep(
    ledger: &dyn Ledger,
    grant: &Grant,
    claimed_at: Instant,
    terms: Terms,
    clock: &Clock,
    stop: &Stop,
    heard: impl Fn(Result<(), &LedgerError>),
) {
    let mut valid_until = claimed_at + terms.visibility_timeout;
    let mut next = terms
        .heartbeat_interval
        .saturating_sub(claimed_at.elapsed());
    loop {
        tokio::time::sleep(next).await;
        let asked_at = Instant::now();
        let renewed = ledger.renew(grant, lease_until(clock, terms)).await;
        heard(renewed.as_ref().copied());
        match renewed {
            Ok(()) => {
                valid_until = asked_at + terms.visibility_timeout;
                next = terms.heartbeat_interval;
            }
            Err(LedgerError::NotOwner { .. }) => break,
            Err(_) if Instant::now() + terms.safety_margin() >= valid_until => break,
            Err(_) => next = terms.heartbeat_interval / 10,
        }
    }
    stop.now(StopReason::LedgerLost);
}

/// Until when a grant is asked for now.
#[must_use]
pub fn lease_until(clock: &Clock, terms: Terms) -> Timestamp {
    let now = clock.now();
    now.checked_add(terms.visibility_timeout)
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::time::Duration;

    use async_trait::async_trait;

    use super::super::{Bound, Claim, Unfinished};
    use super::*;
    use crate::domain::binding::Binding;
    use crate::domain::decision::Outcome;
    use crate::domain::event::JobKey;

    const SECOND: Duration = Duration::from_secs(1);

    /// The lease has its margin until 20 seconds before its end.
    const TERMS: Terms = Terms {
        visibility_timeout: Duration::from_secs(120),
        heartbeat_interval: Duration::from_secs(30),
    };

    /// A ledger whose answers depend on the second in which it is asked.
    #[derive(Debug)]
    struct Weather {
        began: Instant,
        fails: Range<u64>,
        void_from: u64,
        takes: Duration,
    }

    #[async_trait]
    impl Ledger for Weather {
        async fn renew(&self, grant: &Grant, _until: Timestamp) -> Result<(), LedgerError> {
            let asked = self.began.elapsed().as_secs();
            tokio::time::sleep(self.takes).await;
            if asked >= self.void_from {
                let key = grant.key.clone();
                return Err(LedgerError::NotOwner { key });
            }
            if self.fails.contains(&asked) {
                return Err(LedgerError::Ended);
            }
            Ok(())
        }

        async fn claim(&self, _: &JobKey, _: &str, _: Timestamp) -> Result<Claim, LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn bind(&self, _: &Grant, _: &Binding) -> Result<Bound, LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn yield_production(&self, _: &Grant) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn complete(&self, _: &Grant, _: Outcome) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn release(&self, _: &Grant, _: &str) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn check(&self) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn prune(&self) -> Result<usize, LedgerError> {
            unreachable!("it is only renewed")
        }
    }

    /// In which second the work is told to stop, within ten minutes.
    async fn told(fails: Range<u64>, void_from: u64, takes: Duration) -> Option<u64> {
        told_after(Duration::ZERO, fails, void_from, takes).await
    }

    /// The same, where the claim itself took a while.
    async fn told_after(
        claim: Duration,
        fails: Range<u64>,
        void_from: u64,
        takes: Duration,
    ) -> Option<u64> {
        let began = Instant::now();
        tokio::time::advance(claim).await;
        let ledger = Weather {
            began,
            fails,
            void_from,
            takes,
        };
        let grant = Grant {
            key: JobKey::from("job".to_owned()),
            owner: "one".to_owned(),
            epoch: 1,
        };
        let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
        let stop = Stop::default();
        let kept = keep(&ledger, &grant, began, TERMS, &clock, &stop, |_| {});
        let lost = tokio::time::timeout(600 * SECOND, kept).await.is_ok();
        assert_eq!(stop.reason(), lost.then_some(StopReason::LedgerLost));
        lost.then(|| began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_goes_on_for_as_long_as_the_lease_allows_and_no_longer() {
        const NEVER: u64 = u64::MAX;
        let at_once = Duration::ZERO;
        assert_eq!(told(0..0, NEVER, at_once).await, None);
        // A void grant is heard of at the next renewal.
        assert_eq!(told(0..0, 45, at_once).await, Some(60));
        // A ledger that fails until shortly before the margin is reached.
        assert_eq!(told(0..99, NEVER, at_once).await, None);
        // Tried every three seconds, it is given up with the first try within the margin: of the lease of
        // the claim, and of the one that was renewed after a minute.
        assert_eq!(told(0..NEVER, NEVER, at_once).await, Some(102));
        assert_eq!(told(61..NEVER, NEVER, at_once).await, Some(162));
        // The lease runs from when it was asked for at 30, not from the answer at 40.
        let slowly = 10 * SECOND;
        assert_eq!(told(31..NEVER, NEVER, slowly).await, Some(132));
        // And that of the claim from when the claim was asked for.
        let claim = 10 * SECOND;
        assert_eq!(told_after(claim, 0..NEVER, NEVER, at_once).await, Some(102));
    }
}
