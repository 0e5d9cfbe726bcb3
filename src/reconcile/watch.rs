//! The shared look at propagation: one watcher an account, however many wait there.
//!
//! A few distributions are asked for one by one (GetDistribution). Where several are to be looked at
//! at about the same time, a list shows them all (ListDistributions), if that takes fewer calls; the
//! list knows no policy ids and may lag, so what it shows is confirmed with one GetDistribution.
//!
//! **Guarantees.** A wait ends only on a GetDistribution that was begun after the wait was. Two looks
//! at one distribution are never closer than the pace's minimum, but for the confirmation of a list.
//! The watcher's task ends with the last wait. Lists are never needed: where they fail, are denied,
//! or say for unusually long that nothing is over, each distribution is asked for.
//!
//! **Races.** A look may be stale; that is the condition's business (`Deployed` *and* the wanted
//! field). A wait that is dropped at any await leaves nothing behind.
//!
//! **Not handled here.** How long a wait may take in all: the caller sets that limit.

mod looks;
pub mod pace;
mod until;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::aws::AwsError;
use crate::aws::cloudfront::{CloudFront, Sighting};
use crate::reconcile::watch::pace::Pace;
use crate::runtime::activity::Activity;
use crate::runtime::backoff::Backoff;
use crate::runtime::lasting::Failing;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Telemetry, events};
use looks::{Ask, Listing, Look, Looks, Waiting};
pub use until::Until;

/// After a list failed, each distribution is asked for by itself for this long.
const UNLISTED: Duration = Duration::from_secs(60);

/// The same after one that would fail again, for want of permission.
const UNLISTED_DENIED: Duration = Duration::from_secs(60 * 60);

/// Looks at distributions for all who wait.
#[derive(Clone, Debug)]
pub struct Watcher {
    inner: Arc<Inner>,
    /// Whose waits these are: each look is a sign of its life.
    activity: Activity,
}

#[derive(Debug)]
struct Inner {
    cloudfront: CloudFront,
    telemetry: Arc<Telemetry>,
    pace: Pace,
    looks: Mutex<Looks>,
    /// Someone joined: the next look may be sooner.
    joined: Notify,
    tasks: Tasks,
    task: Mutex<Option<AbortHandle>>,
    /// By distribution, whether it cannot be looked at.
    failing: Mutex<BTreeMap<String, Failing>>,
    /// Whether no list can be read.
    unlisted: Mutex<Failing>,
}

/// One wait's place. The last one to go ends the watcher's task.
struct Place {
    inner: Arc<Inner>,
    id: String,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        // The looks first, as everywhere: nobody can join while the last one leaves.
        let mut looks = lock(&self.inner.looks);
        if let Some(watch) = looks.watches.get_mut(&self.id) {
            watch.waits.retain(|wait| wait.number != self.number);
            if watch.waits.is_empty() {
                looks.watches.remove(&self.id);
            }
        }
        if looks.watches.is_empty()
            && let Some(task) = lock(&self.inner.task).take()
        {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No critical section here panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When it was seen.
    pub seen: Seen,
    /// The look that showed it.
    pub sighting: Sighting,
}

/// What a wait saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// From the change, or the wait's begin, to the look that showed it everywhere.
    pub after: Duration,
    /// From there to the last look that did not, zero if there was none.
    pub unseen: Duration,
}

impl Watcher {
    /// Looks through `cloudfront`, which is one account's, at the given pace.
    #[must_use]
    pub fn new(
        cloudfront: CloudFront,
        pace: Pace,
        telemetry: Arc<Telemetry>,
        tasks: Tasks,
    ) -> Self {
        let inner = Inner {
            cloudfront,
            telemetry,
            pace,
            looks: Mutex::new(Looks::new(pace)),
            joined: Notify::new(),
            tasks,
            task: Mutex::default(),
            failing: Mutex::default(),
            unlisted: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
            activity: Activity::default(),
        }
    }

    /// The same watcher, for the waits of one job: every look that it waits for, whether it succeeds
    /// or not, is a sign of the job's life.
    #[must_use]
    pub fn for_job(&self, activity: &Activity) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            activity: activity.clone(),
        }
    }

    /// The longest time between two looks, as things stand.
    #[must_use]
    pub fn apart(&self) -> Duration {
        let looks = lock(&self.inner.looks);
        self.inner.pace.apart(&looks.learned)
    }

    /// Waits until a look at distribution `id` shows what is waited for. `changed_at` is when the
    /// change was made: looks are paced from there, by what was learned. Where it is not known, they
    /// are paced from now, as if nothing was learned.
    ///
    /// # Errors
    /// The error of a look, unless the next one may succeed: those are retried for ever.
    pub async fn wait(
        &self,
        id: &str,
        changed_at: Option<Instant>,
        until: Until,
    ) -> Result<Ended, Arc<AwsError>> {
        let (answer, answered) = oneshot::channel();
        let _place = self.join(id, changed_at, until, answer);
        match answered.await {
            Ok(answer) => answer,
            // The place keeps its sender until it is answered.
            Err(_) => std::future::pending().await,
        }
    }

    /// Remembers how long a propagation took, for the pace of later ones.
    pub fn learn(&self, seen: Seen) {
        lock(&self.inner.looks)
            .learned
            .record(seen.unseen, seen.after);
    }

    /// The moment as of which a distribution is known to be as it was seen: when it was seen, or
    /// when a later list showed that it had not changed.
    #[must_use]
    pub fn as_of(&self, sighting: &Sighting) -> Instant {
        lock(&self.inner.looks).as_of(sighting)
    }

    /// The bounds of the time between two looks.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.inner.pace
    }

    fn join(
        &self,
        id: &str,
        changed_at: Option<Instant>,
        until: Until,
        answer: oneshot::Sender<looks::Answer>,
    ) -> Place {
        let began = Instant::now();
        let mut looks = lock(&self.inner.looks);
        let number = looks.next_number();
        let watch = looks.watches.entry(id.to_owned()).or_default();
        watch.waits.push(Waiting {
            number,
            began,
            changed_at: changed_at.unwrap_or(began),
            known: changed_at.is_some(),
            until,
            unseen: None,
            activity: self.activity.clone(),
            answer,
        });
        let mut task = lock(&self.inner.task);
        if task.is_none() {
            let watching = watch_account(Arc::clone(&self.inner));
            *task = Some(self.inner.tasks.spawn(watching).abort_handle());
        }
        self.inner.joined.notify_one();
        Place {
            inner: Arc::clone(&self.inner),
            id: id.to_owned(),
            number,
        }
    }
}

/// What a call came to.
enum Done {
    Asked {
        ask: Ask,
        began: Instant,
        answer: Result<Sighting, AwsError>,
    },
    Listed {
        number: u64,
        needed: BTreeSet<String>,
        answer: Result<Listing, AwsError>,
    },
}

type Calls = FuturesUnordered<BoxFuture<'static, Done>>;

/// Looks for all who wait, until it is aborted.
async fn watch_account(inner: Arc<Inner>) {
    let backoff = Backoff {
        initial: inner.pace.min,
        max: inner.pace.max,
    };
    let mut rng = fastrand::Rng::new();
    let mut calls = Calls::new();
    loop {
        let now = Instant::now();
        let next = lock(&inner.looks).next(now);
        match next {
            Some((at, look)) if at <= now => {
                inner.begin(look, now, &calls);
                continue;
            }
            _ => {}
        }
        let due = async {
            match next {
                Some((at, _)) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(done) = calls.next() => inner.take(done, backoff, &mut rng, &calls),
            () = inner.joined.notified() => {}
            () = due => {}
        }
    }
}

impl Inner {
    fn begin(&self, look: Look, now: Instant, calls: &Calls) {
        match look {
            Look::One(id) => {
                let ask = lock(&self.looks).begin_one(&id);
                self.ask(ask, calls);
            }
            Look::Listed(needed) => {
                let number = lock(&self.looks).begin_list(now);
                let cloudfront = self.cloudfront.clone();
                calls.push(Box::pin(async move {
                    let answer = list(&cloudfront, &needed).await;
                    Done::Listed {
                        number,
                        needed,
                        answer,
                    }
                }));
            }
        }
    }

    fn ask(&self, ask: Ask, calls: &Calls) {
        let cloudfront = self.cloudfront.clone();
        calls.push(Box::pin(async move {
            let began = Instant::now();
            let answer = cloudfront.look(&ask.id).await;
            Done::Asked { ask, began, answer }
        }));
    }

    fn take(&self, done: Done, backoff: Backoff, rng: &mut fastrand::Rng, calls: &Calls) {
        let now = Instant::now();
        match done {
            Done::Asked { ask, began, answer } => match answer {
                Ok(sighting) => {
                    let failed = lock(&self.failing).remove(&ask.id);
                    if let Some(took) = failed.and_then(|mut it| it.recovered()) {
                        let distribution_id = &ask.id;
                        self.telemetry.emit(events::LookRecovered {
                            distribution_id,
                            took,
                        });
                    }
                    lock(&self.looks).seen(&ask, &sighting);
                }
                Err(error) if error.class.is_transient() => {
                    let pause = |failures| backoff.delay(failures, rng);
                    lock(&self.looks).failed_for_now(&ask, began, pause, now);
                    let mut failing = lock(&self.failing);
                    self.telemetry.emit(events::LookFailing {
                        distribution_id: &ask.id,
                        error: &error,
                        phase: failing.entry(ask.id.clone()).or_default().failed(),
                    });
                }
                Err(error) => {
                    // Its job fails, and says so.
                    lock(&self.failing).remove(&ask.id);
                    lock(&self.looks).failed(&ask, began, &Arc::new(error));
                }
            },
            Done::Listed {
                number,
                needed,
                answer,
            } => {
                let asks = match answer {
                    Ok(listing) => {
                        let recovered = lock(&self.unlisted).recovered();
                        if let Some(took) = recovered {
                            self.telemetry.emit(events::ListingRecovered { took });
                        }
                        lock(&self.looks).listed(number, listing)
                    }
                    Err(error) => {
                        self.telemetry.emit(events::ListingFailed {
                            error: &error,
                            phase: lock(&self.unlisted).failed(),
                        });
                        let unlisted = if error.class.is_transient() {
                            UNLISTED
                        } else {
                            UNLISTED_DENIED
                        };
                        lock(&self.looks).unlisted(number, now + unlisted, &needed)
                    }
                };
                for ask in asks {
                    self.ask(ask, calls);
                }
            }
        }
    }
}

/// Reads pages until all of `needed` are found, or it would have been cheaper to ask for each.
async fn list(cloudfront: &CloudFront, needed: &BTreeSet<String>) -> Result<Listing, AwsError> {
    let first = cloudfront.list(None).await?;
    let at = first.at;
    let mut summaries: BTreeMap<_, _> = first.summaries.into_iter().collect();
    let (mut next, mut pages) = (first.next, 1);
    while next.is_some() && !needed.iter().all(|id| summaries.contains_key(id)) {
        if pages == needed.len() {
            // One more than were read, at the least.
            pages += 1;
            break;
        }
        let page = cloudfront.list(next).await?;
        summaries.extend(page.summaries);
        (next, pages) = (page.next, pages + 1);
    }
    Ok(Listing {
        at,
        summaries,
        complete: next.is_none(),
        pages,
    })
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
