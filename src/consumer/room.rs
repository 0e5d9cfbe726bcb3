//! Room for messages and jobs: a permit for every message that is held, a place for every job that works.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::info;

use crate::reconcile::place::{Place, Places, Reserved};
use crate::runtime::lasting::Lasting;
use crate::telemetry::ms;

/// So many messages wait for each job that may work, at most.
const WAITING: usize = 10;

/// Between two looks at jobs that wait for a place.
const SHORT_PAUSE: Duration = Duration::from_secs(60);

/// For so long a message of the largest crowd is hidden, while there is no room for others.
pub(super) const CROWDED: Duration = Duration::from_secs(15 * 60);

/// Where the messages of one receive go.
pub(super) struct Room {
    /// One for each message.
    pub(super) permits: OwnedSemaphorePermit,
    /// One for each job that they make.
    pub(super) places: Reserved,
}

/// All the room that one consumer has.
pub(super) struct Rooms {
    places: Places,
    permits: Arc<Semaphore>,
    /// How many permits there are: those of the jobs that work, and ten times as many that wait.
    all: usize,
    /// The crowds that have stepped back, and when each last did.
    crowds: Mutex<HashMap<String, Instant>>,
}

impl Rooms {
    pub(super) fn new(max_in_flight: usize) -> Self {
        let all = max_in_flight.saturating_mul(1 + WAITING);
        Self {
            places: Places::new(max_in_flight),
            permits: Arc::new(Semaphore::new(all)),
            all,
            crowds: Mutex::default(),
        }
    }

    /// Places for jobs still to come, from `least` to `most`.
    pub(super) async fn places(&self, least: usize, most: usize) -> Reserved {
        self.places.reserve(least, most).await
    }

    /// Permits for messages still to come, from `least` to `most`.
    pub(super) async fn permits(&self, least: usize, most: usize) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.permits).acquire_many_owned(whole(least));
        // The semaphore is never closed.
        let Ok(mut permits) = permits.await else {
            return std::future::pending().await;
        };
        while permits.num_permits() < most {
            let Ok(another) = Arc::clone(&self.permits).try_acquire_owned() else {
                break;
            };
            permits.merge(another);
        }
        permits
    }

    /// Room for a job that no message asked for. What is reserved for messages still to come does not keep it from
    /// beginning.
    pub(super) async fn for_one(&self) -> (OwnedSemaphorePermit, Place) {
        let permit = self.permits(1, 1).await;
        let place = self.places.none_yet();
        place.take().await;
        (permit, place)
    }

    /// How many permits are free.
    pub(super) fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// How many messages are held.
    pub(super) fn held(&self) -> usize {
        self.all - self.free()
    }

    /// Waits until no message is held.
    pub(super) async fn is_empty(&self) {
        // Dropped at once; the semaphore is never closed.
        let _ = self.permits.acquire_many(whole(self.all)).await;
    }

    /// A crowd steps back: whether that is news.
    pub(super) fn steps_back(&self, crowd: &str) -> bool {
        let mut crowds = self.crowds.lock();
        crowds.insert(crowd.to_owned(), Instant::now()).is_none()
    }

    /// Forgets the crowds that have not stepped back for a while.
    pub(super) fn forget_crowds(&self) {
        let mut crowds = self.crowds.lock();
        crowds.retain(|_, last| last.elapsed() < 2 * CROWDED);
    }

    /// Says when there is always a job that waits for a place, and when none does any more.
    pub(super) async fn watch(&self) {
        let places = &self.places;
        loop {
            places.are_short().await;
            tokio::time::sleep(SHORT_PAUSE).await;
            let mut lasting: Option<Lasting> = None;
            while let Some(since) = places.short_for().filter(|it| *it >= SHORT_PAUSE) {
                if lasting.as_mut().is_none_or(|it| it.again().is_some()) {
                    let waiting = places.waiting();
                    info!(
                        jobs = waiting,
                        took_ms = ms(since),
                        "jobs wait: as many work as queue.max_in_flight allows"
                    );
                }
                lasting.get_or_insert_with(Lasting::begin);
                tokio::time::sleep(SHORT_PAUSE).await;
            }
            if lasting.is_some() {
                info!("no job waits for long any more for others to end");
            }
        }
    }
}

fn whole(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
