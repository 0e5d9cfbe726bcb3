//! The shared look at propagation (GetDistribution): one watcher an account, one look at a distribution for
//! all who wait for it.
//!
//! **Guarantees.** A wait ends only on a look that was begun after the wait was. Two looks at one distribution
//! are never closer than the pace's minimum. The watcher's task ends with the last wait.
//!
//! **Races.** A look may be stale; that is the condition's business (`Deployed` *and* the wanted
//! field). A wait that is dropped at any await leaves nothing behind.
//!
//! **Not handled here.** How long a wait may take in all: the caller sets that limit.

mod looks;
pub mod pace;
mod until;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::aws::AwsError;
use crate::aws::cloudfront::{CloudFront, Sighting};
use crate::reconcile::watch::pace::Pace;
use crate::runtime::activity::Activity;
use crate::runtime::backoff::Backoff;
use crate::runtime::lasting::Failing;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{chain, fails, ms};
use looks::{Ask, Looks, Waiting};
pub use until::Until;

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
    pace: Pace,
    looks: Mutex<Looks>,
    /// Someone joined: the next look may be sooner.
    joined: Notify,
    tasks: Tasks,
    task: Mutex<Option<AbortHandle>>,
    /// By distribution, whether it cannot be looked at.
    failing: Mutex<BTreeMap<String, Failing>>,
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
        let mut looks = self.inner.looks.lock();
        if let Some(watch) = looks.watches.get_mut(&self.id) {
            watch.waits.retain(|wait| wait.number != self.number);
            if watch.waits.is_empty() {
                looks.watches.remove(&self.id);
            }
        }
        if looks.watches.is_empty()
            && let Some(task) = self.inner.task.lock().take()
        {
            task.abort();
        }
    }
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
    pub fn new(cloudfront: CloudFront, pace: Pace, tasks: Tasks) -> Self {
        let inner = Inner {
            cloudfront,
            pace,
            looks: Mutex::new(Looks::new(pace)),
            joined: Notify::new(),
            tasks,
            task: Mutex::default(),
            failing: Mutex::default(),
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
        let looks = self.inner.looks.lock();
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
        self.inner
            .looks
            .lock()
            .learned
            .record(seen.unseen, seen.after);
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
        let mut looks = self.inner.looks.lock();
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
        let mut task = self.inner.task.lock();
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

/// A call that was answered, and when it was made.
type Done = (Ask, Instant, Result<Sighting, AwsError>);

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
        let next = inner.looks.lock().next();
        match next {
            Some((at, id)) if at <= now => {
                calls.push(inner.ask(&id));
                continue;
            }
            _ => {}
        }
        let due = async {
            match &next {
                Some((at, _)) => sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(done) = calls.next() => inner.take(done, backoff, &mut rng),
            () = inner.joined.notified() => {}
            () = due => {}
        }
    }
}

impl Inner {
    fn ask(&self, id: &str) -> BoxFuture<'static, Done> {
        let ask = self.looks.lock().begin(id);
        let cloudfront = self.cloudfront.clone();
        Box::pin(async move {
            let began = Instant::now();
            let answer = cloudfront.look(&ask.id).await;
            (ask, began, answer)
        })
    }

    fn take(&self, (ask, began, answer): Done, backoff: Backoff, rng: &mut fastrand::Rng) {
        match answer {
            Ok(sighting) => {
                let failed = self.failing.lock().remove(&ask.id);
                if let Some(took) = failed.and_then(|mut it| it.recovered()) {
                    let distribution_id = &ask.id;
                    info!(
                        distribution.id = distribution_id,
                        took_ms = ms(took),
                        "the distribution can be looked at again"
                    );
                }
                self.looks.lock().seen(&ask, &sighting);
            }
            Err(error) if error.class.is_transient() => {
                let pause = |failures| backoff.delay(failures, rng);
                let now = Instant::now();
                self.looks.lock().failed_for_now(&ask, began, pause, now);
                let mut failing = self.failing.lock();
                fails!(
                    warn,
                    failing.entry(ask.id.clone()).or_default().failed(),
                    distribution.id = ask.id,
                    error = chain(&error),
                    "the distribution cannot be looked at; trying again with backoff"
                );
            }
            Err(error) => {
                // Its job fails, and says so.
                self.failing.lock().remove(&ask.id);
                self.looks.lock().failed(&ask, began, &Arc::new(error));
            }
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
