//! Working under a grant: asking for it, and keeping it beside the work.
//!
//! **Guarantees.** The work is told to stop while the lease still has its safety margin, at once if the
//! grant is void, and not before that: a ledger that fails for a while stops nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Claim, GrantedJob, Ledger, LedgerError};
use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::lease_terms::Terms;
use crate::runtime::clock::Clock;
use crate::runtime::stop::{Stop, StopReason};

/// A grant is first renewed after this, where the ledger remembers what is noted of its job: the renewal takes the
/// first notes along, so that `history` has them.
const FIRST_NOTES: Duration = Duration::from_secs(5);

/// Asks for the grant of one job, and works under it.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    pub ledger: &'a Arc<dyn Ledger>,
    pub clock: &'a Clock,
    /// How long the grant is asked for, and how often it is renewed.
    pub terms: Terms,
    /// Tells the work to stop.
    pub stop: &'a Stop,
}

/// What became of a job that was asked for.
#[derive(Debug)]
pub enum Claimed<T> {
    /// It was granted, and worked on.
    Ran(T),
    /// It was done before.
    Before(Outcome),
    /// It is worked on elsewhere, or was until that process died.
    Elsewhere {
        /// When that lease ends, unless it is renewed.
        until: Timestamp,
    },
}

impl Holder<'_> {
    /// Asks for the job, and works on it if it is granted: `work` is handed the grant, and what an earlier
    /// claim bound the job to.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot say whether the job may be worked on.
    pub async fn under_grant<T>(
        self,
        key: &JobKey,
        pipeline: &str,
        work: impl AsyncFnOnce(GrantedJob, Option<Binding>) -> T,
    ) -> Result<Claimed<T>, LedgerError> {
        let claimed_at = Instant::now();
        Ok(match self.claim(key, pipeline).await? {
            Claim::Granted {
                grant,
                binding,
                past,
            } => {
                let job = GrantedJob::new(Arc::clone(self.ledger), grant, past);
                let work = work(job.clone(), binding);
                Claimed::Ran(self.keeping(&job, claimed_at, |_| {}, work).await)
            }
            Claim::Leased { until } => Claimed::Elsewhere { until },
            Claim::Done { outcome } => Claimed::Before(outcome),
        })
    }

    /// Asks for the job.
    ///
    /// # Errors
    /// As [`Ledger::claim`].
    pub async fn claim(self, key: &JobKey, pipeline: &str) -> Result<Claim, LedgerError> {
        self.ledger.claim(key, pipeline, self.until()).await
    }

    /// Works to the end, and renews the grant beside it, which was asked for at `claimed_at`. When the grant
    /// is lost, the work is told to stop. `heard` is told what the ledger answered, each time.
    pub async fn keeping<T>(
        self,
        job: &GrantedJob,
        claimed_at: Instant,
        heard: impl Fn(Result<(), &LedgerError>),
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => done,
            () = self.keep(job, claimed_at, heard) => work.await,
        }
    }

    async fn keep(
        self,
        job: &GrantedJob,
        claimed_at: Instant,
        heard: impl Fn(Result<(), &LedgerError>),
    ) {
        let terms = self.terms;
        let mut granted_at = claimed_at;
        let first = terms.heartbeat_interval.min(FIRST_NOTES);
        let mut next = first.saturating_sub(claimed_at.elapsed());
        loop {
            tokio::time::sleep(next).await;
            let asked_at = Instant::now();
            let renewed = job.renew(self.until()).await;
            heard(renewed.as_ref().copied());
            match renewed {
                Ok(()) => {
                    granted_at = asked_at;
                    next = terms.heartbeat_interval;
                }
                Err(LedgerError::NotOwner { .. }) => break,
                Err(_) if terms.is_lost(granted_at.elapsed()) => break,
                Err(_) => next = terms.heartbeat_interval / 10,
            }
        }
        self.stop.now(StopReason::LedgerLost);
    }

    /// Until when a grant is asked for now.
    fn until(self) -> Timestamp {
        let until = self.clock.now().checked_add(self.terms.visibility_timeout);
        until.unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Range;

    use async_trait::async_trait;

    use super::super::{Bound, Grant, Past, Unfinished};
    use super::*;
    use crate::domain::history::Notes;
    use crate::runtime::health::LedgerTrouble;

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
        async fn renew(&self, grant: &Grant, _: Timestamp, _: &Notes) -> Result<(), LedgerError> {
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

        async fn bind(&self, _: &Grant, _: &Binding, _: &Notes) -> Result<Bound, LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn yield_production(&self, _: &Grant, _: &Notes) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn complete(&self, _: &Grant, _: Outcome, _: &Notes) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn release(&self, _: &Grant, _: &str, _: &Notes) -> Result<(), LedgerError> {
            unreachable!("it is only renewed")
        }

        async fn done(&self, _: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
            unreachable!("it is only renewed")
        }

        fn now(&self) -> Timestamp {
            unreachable!("it is only renewed")
        }

        fn trouble(&self) -> Option<LedgerTrouble> {
            unreachable!("it is only renewed")
        }

        async fn troubled(&self) -> LedgerTrouble {
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
        let ledger: Arc<dyn Ledger> = Arc::new(Weather {
            began,
            fails,
            void_from,
            takes,
        });
        let grant = Grant {
            key: JobKey::from("job".to_owned()),
            owner: "one".to_owned(),
            epoch: 1,
        };
        let past = Past {
            first_claimed_at: Timestamp::UNIX_EPOCH,
            last_reason: None,
            notes: Notes::default(),
        };
        let job = GrantedJob::new(Arc::clone(&ledger), grant, past);
        let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
        let stop = Stop::default();
        let holder = Holder {
            ledger: &ledger,
            clock: &clock,
            terms: TERMS,
            stop: &stop,
        };
        let kept = holder.keeping(&job, began, |_| {}, stop.stopped());
        let lost = tokio::time::timeout(600 * SECOND, kept).await.is_ok();
        assert_eq!(stop.reason(), lost.then_some(StopReason::LedgerLost));
        lost.then(|| began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_goes_on_for_as_long_as_the_lease_allows_and_no_longer() {
        const NEVER: u64 = u64::MAX;
        let at_once = Duration::ZERO;
        assert_eq!(told(0..0, NEVER, at_once).await, None);
        // It is renewed at 5, 35, 65: a void grant is noticed at the next renewal.
        assert_eq!(told(0..0, 45, at_once).await, Some(65));
        // A ledger that fails until shortly before the margin is reached.
        assert_eq!(told(0..99, NEVER, at_once).await, None);
        // Tried every three seconds, it is given up with the first try within the margin: of the lease of
        // the claim, and of the one that was renewed at 35.
        assert_eq!(told(0..NEVER, NEVER, at_once).await, Some(101));
        assert_eq!(told(61..NEVER, NEVER, at_once).await, Some(137));
        // The lease runs from when it was asked for at 5, not from the answer at 15.
        let slowly = 10 * SECOND;
        assert_eq!(told(31..NEVER, NEVER, slowly).await, Some(107));
        // And that of the claim from when the claim was asked for.
        let claim = 10 * SECOND;
        assert_eq!(told_after(claim, 0..NEVER, NEVER, at_once).await, Some(100));
    }
}
