//! The shared look at propagation: one watcher a distribution, however many wait for it.
//!
//! **Guarantees.** A wait ends only on a reading that was begun after the wait was. Two looks at one
//! distribution are never closer than the pace's minimum. A watcher ends with its last wait.
//!
//! **Races.** A reading may be stale; that is the condition's business (`Deployed` *and* the wanted
//! field). A wait that is dropped at any await leaves nothing behind.
//!
//! **Not handled here.** How long a wait may take in all: the caller sets that limit.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::activity::Activity;
use crate::aws::AwsError;
use crate::aws::cloudfront::CloudFront;
use crate::pace::{Learned, Pace};
use crate::plan::Distribution;
use crate::retry::Backoff;
use crate::tasks::Tasks;
use crate::telemetry::{Telemetry, events};

/// One look at a distribution; `None` if it does not exist.
type Reading = Result<Option<Distribution>, Arc<AwsError>>;

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
    telemetry: Arc<Telemetry>,
    learned: Mutex<Learned>,
    watches: Mutex<HashMap<String, Arc<Watch>>>,
    tasks: Tasks,
}

/// What all waits for one distribution share.
#[derive(Debug)]
struct Watch {
    /// The newest one, and when it was begun.
    reading: Mutex<Option<(Instant, Reading)>>,
    /// There was a look. Wakes those who wait in the order in which they came.
    read: Notify,
    /// When the changes that are waited for were made: one entry for each wait.
    changes: Mutex<Vec<Instant>>,
    joined: Notify,
    task: Mutex<Option<AbortHandle>>,
}

/// One wait's share in a watch. The last one to go ends it.
struct Share {
    inner: Arc<Inner>,
    id: String,
    changed_at: Instant,
    watch: Arc<Watch>,
}

impl Drop for Share {
    fn drop(&mut self) {
        // The map first, as everywhere: nobody can join while the last one leaves.
        let mut watches = lock(&self.inner.watches);
        let mut changes = lock(&self.watch.changes);
        if let Some(index) = changes.iter().position(|at| *at == self.changed_at) {
            changes.swap_remove(index);
        }
        if changes.is_empty() {
            watches.remove(&self.id);
            if let Some(task) = lock(&self.watch.task).take() {
                task.abort();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few assignments; none leaves a half-made state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a wait saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// From the change to the reading that showed it everywhere.
    pub after: Duration,
    /// From the change to the last reading that did not, zero if there was none.
    pub unseen: Duration,
}

impl Watcher {
    /// Looks through `cloudfront` at the given pace.
    #[must_use]
    pub fn new(
        cloudfront: CloudFront,
        pace: Pace,
        telemetry: Arc<Telemetry>,
        tasks: Tasks,
    ) -> Self {
        let inner = Inner {
            cloudfront,
            pace,
            telemetry,
            learned: Mutex::default(),
            watches: Mutex::default(),
            tasks,
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

    /// Waits until a look at distribution `id` fulfils `condition`. `changed_at` is when the change
    /// that is waited for was made; looks are paced from there.
    ///
    /// # Errors
    /// The error of a look, unless the next one may succeed: those are retried for ever.
    pub async fn wait(
        &self,
        id: &str,
        changed_at: Instant,
        condition: impl Fn(Option<&Distribution>) -> bool,
    ) -> Result<Seen, Arc<AwsError>> {
        let began = Instant::now();
        let share = self.join(id, changed_at);
        let mut unseen = Duration::ZERO;
        loop {
            // Listening before the look, so that no reading is missed between the two.
            let mut read = pin!(share.watch.read.notified());
            read.as_mut().enable();
            let reading = lock(&share.watch.reading).clone();
            if let Some((at, reading)) = reading
                && at >= began
            {
                let after = at.duration_since(changed_at);
                if condition(reading?.as_ref()) {
                    return Ok(Seen { after, unseen });
                }
                unseen = after;
            }
            read.await;
            self.activity.beat();
        }
    }

    /// Remembers how long a propagation took, for the pace of later ones.
    pub fn learn(&self, seen: Seen) {
        lock(&self.inner.learned).record(seen.unseen, seen.after);
    }

    /// The shortest time between two looks.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.inner.pace
    }

    fn join(&self, id: &str, changed_at: Instant) -> Share {
        let mut watches = lock(&self.inner.watches);
        let watch = watches.entry(id.to_owned()).or_insert_with(|| {
            let watch = Arc::new(Watch {
                reading: Mutex::default(),
                read: Notify::new(),
                changes: Mutex::default(),
                joined: Notify::new(),
                task: Mutex::default(),
            });
            let looks = look(Arc::clone(&self.inner), id.to_owned(), Arc::clone(&watch));
            let task = self.inner.tasks.spawn(looks);
            *lock(&watch.task) = Some(task.abort_handle());
            watch
        });
        lock(&watch.changes).push(changed_at);
        watch.joined.notify_one();
        Share {
            inner: Arc::clone(&self.inner),
            id: id.to_owned(),
            changed_at,
            watch: Arc::clone(watch),
        }
    }
}

/// Looks at one distribution until it is aborted.
async fn look(inner: Arc<Inner>, id: String, watch: Arc<Watch>) {
    let backoff = Backoff {
        initial: inner.pace.min,
        max: inner.pace.max,
    };
    let mut rng = fastrand::Rng::new();
    let mut last_look: Option<Instant> = None;
    let mut failures = 0_u32;
    loop {
        let due = {
            let learned = lock(&inner.learned);
            lock(&watch.changes)
                .iter()
                .map(|changed_at| next_look(*changed_at, last_look, inner.pace, &learned))
                .min()
        };
        let Some(mut due) = due else {
            watch.joined.notified().await;
            continue;
        };
        if failures > 0 {
            due = due.max(Instant::now() + backoff.delay(failures, &mut rng));
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(due) => {}
            () = watch.joined.notified() => continue,
        }
        let at = Instant::now();
        last_look = Some(at);
        match inner.cloudfront.distribution(&id).await {
            Err(error) if error.class.is_transient() => {
                failures += 1;
                if failures == 1 {
                    inner.telemetry.emit(events::LookFailing {
                        distribution_id: &id,
                        error: &error,
                    });
                }
            }
            reading => {
                failures = 0;
                *lock(&watch.reading) = Some((at, reading.map_err(Arc::new)));
            }
        }
        watch.read.notify_waiters();
    }
}

/// The next look for a change made at `changed_at`: on its own grid, and not too close to the last
/// look that was made for anyone.
fn next_look(
    changed_at: Instant,
    last_look: Option<Instant>,
    pace: Pace,
    learned: &Learned,
) -> Instant {
    // Looks lie on a grid: one that was made a little late must not push all later ones.
    let now = last_look.unwrap_or(changed_at).max(changed_at);
    let mut look = changed_at + pace.next(None, learned);
    while look <= now {
        look = changed_at + pace.next(Some(look - changed_at), learned);
    }
    last_look.map_or(look, |last| {
        // A timer that fired a moment late would otherwise shift the grid by that moment each time.
        let slack = pace.min / 20;
        look.max(last + pace.min - slack)
    })
}

#[cfg(test)]
#[cfg(feature = "rehearsal")]
#[path = "watch_tests.rs"]
mod tests;
