//! Places: how many jobs work at once. Who waits for somebody else leaves his to another.
//!
//! **Guarantees.** No more jobs have a place than there are places. Who left his place takes one before he
//! goes on. Places that are reserved for messages still to come keep nobody from going on.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The places of one consumer. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    count: Mutex<Count>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Count {
    taken: usize,
    reserved: usize,
    waiting: usize,
    /// Since when there was always one that waits.
    short_since: Option<Instant>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Inner {
            most,
            count: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    fn change(&self, change: impl FnOnce(&mut Count)) {
        change(&mut self.0.count.lock());
        self.0.freed.notify_waiters();
    }

    /// Waits until `get` gets something.
    async fn wait<T>(&self, get: impl Fn() -> Option<T>) -> T {
        loop {
            let freed = self.0.freed.notified();
            if let Some(got) = get() {
                return got;
            }
            freed.await;
        }
    }

    /// Reserves places for jobs still to come, from `least` to `most`, as soon as there are `least`.
    pub(crate) async fn reserve(&self, least: usize, most: usize) -> Reserved {
        let reserved = self.wait(|| {
            let mut count = self.0.count.lock();
            let free = self.0.most.saturating_sub(count.taken + count.reserved);
            (free >= least).then(|| {
                let number = free.min(most);
                count.reserved += number;
                number
            })
        });
        Reserved {
            number: reserved.await,
            places: self.clone(),
        }
    }

    /// For how long there was always a job that waits for a place, if one does.
    pub(crate) fn short_for(&self) -> Option<Duration> {
        let since = self.0.count.lock().short_since;
        since.map(|since| since.elapsed())
    }

    /// How many jobs wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.0.count.lock().waiting
    }

    /// Returns as soon as a job waits for a place.
    pub(crate) async fn are_short(&self) {
        self.wait(|| (self.waiting() > 0).then_some(())).await;
    }

    /// A job that has no place yet.
    pub(crate) fn none_yet(&self) -> Place {
        Place(Some(Arc::new(Seat {
            places: self.clone(),
            taken: Mutex::new(false),
        })))
    }
}

/// A job that waits for a place, until it is dropped.
struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    fn begin(places: &'a Places) -> Self {
        places.change(|count| {
            count.waiting += 1;
            count.short_since.get_or_insert_with(Instant::now);
        });
        Self(places)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(|count| {
            count.waiting -= 1;
            count.short_since = count.short_since.filter(|_| count.waiting > 0);
        });
    }
}

/// Places for jobs still to come. Those that are not used are free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    number: usize,
    places: Places,
}

impl Reserved {
    /// How many are left.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The place of a job; it may be that somebody who goes on has taken it.
    pub(crate) fn place(&mut self) -> Place {
        let place = self.places.none_yet();
        if self.number > 0 {
            self.number -= 1;
            self.places.0.count.lock().reserved -= 1;
        }
        place.try_take();
        place
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.places.change(|count| count.reserved -= self.number);
    }
}

/// The place of one job. Clones are the same; the place is free once the last is gone.
#[derive(Clone, Debug)]
pub struct Place(Option<Arc<Seat>>);

#[derive(Debug)]
struct Seat {
    places: Places,
    taken: Mutex<bool>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if *self.taken.lock() {
            self.places.change(|count| count.taken -= 1);
        }
    }
}

impl Place {
    /// For a job that nobody counts: one begun by hand.
    #[must_use]
    pub fn uncounted() -> Self {
        Self(None)
    }

    /// Whether the job waits, without a place.
    pub(crate) fn is_left(&self) -> bool {
        self.0.as_ref().is_some_and(|seat| !*seat.taken.lock())
    }

    /// Leaves the place to others, while the job waits for somebody.
    pub fn leave(&self) {
        if let Some(seat) = &self.0
            && std::mem::take(&mut *seat.taken.lock())
        {
            seat.places.change(|count| count.taken -= 1);
        }
    }

    /// Takes a place, as soon as there is one. Can be dropped until then.
    pub async fn take(&self) {
        if let Some(seat) = &self.0
            && !self.try_take()
        {
            let _waiting = Waiting::begin(&seat.places);
            seat.places.wait(|| self.try_take().then_some(())).await;
        }
    }

    fn try_take(&self) -> bool {
        let Some(seat) = &self.0 else {
            return true;
        };
        let mut taken = seat.taken.lock();
        if !*taken {
            let mut count = seat.places.0.count.lock();
            *taken = count.taken < seat.places.0.most;
            count.taken += usize::from(*taken);
        }
        *taken
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_leaves_his_place_and_takes_one_to_go_on() {
        let places = Places::new(2);
        let mut reserved = places.reserve(1, 10).now_or_never().unwrap();
        assert_eq!(reserved.number(), 2);
        assert!(places.reserve(1, 10).now_or_never().is_none());
        let [first, second] = [reserved.place(), reserved.place()];
        assert!(!first.is_left() && !second.is_left());
        first.leave();
        assert!(first.is_left());
        let reserved = places.reserve(1, 10).now_or_never().unwrap();
        assert_eq!(reserved.number(), 1);
        // What is only reserved keeps nobody from going on.
        first.take().now_or_never().unwrap();
        let mut reserved = reserved;
        let late = reserved.place();
        assert!(late.is_left());
        assert!(late.take().now_or_never().is_none());
        drop(second.clone());
        assert!(late.take().now_or_never().is_none());
        drop(second);
        late.take().now_or_never().unwrap();
        assert!(places.reserve(1, 1).now_or_never().is_none());
        drop((late, first));
        drop(reserved);
        assert!(places.reserve(2, 2).now_or_never().is_some());
        assert!(places.reserve(3, 3).now_or_never().is_none());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_is_woken() {
        let places = Places::new(1);
        let [working, waiting] = [places.none_yet(), places.none_yet()];
        working.take().await;
        let goes_on = tokio::spawn(async move { waiting.take().await });
        tokio::task::yield_now().await;
        assert!(!goes_on.is_finished());
        working.leave();
        goes_on.await.unwrap();
        let uncounted = Place::uncounted();
        uncounted.leave();
        uncounted.take().await;
        assert!(!uncounted.is_left());
    }
}
