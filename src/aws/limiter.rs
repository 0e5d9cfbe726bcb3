//! How fast the calls of one service in one account may follow each other.
//!
//! AWS publishes no rates for CloudFront, so none is assumed: calls are not paced until AWS says
//! `Throttling`. Then everything of the account slows down to half its rate, changes more than
//! reads, once for each throttled call that was sent at the present rate; the SDK's own retries
//! count too. In half a minute without a throttled call the rate doubles again. So at a
//! limit that nobody knows, about one call in half a minute is throttled, however many ask.
//!
//! **Guarantees.** First come, first served, reads and changes apart. One change at a time, and
//! `READS` reads. Whoever waits here has not begun its call: it may go away, and a job that is
//! told to stop does. `Pressure` is pure.
//!
//! **Not handled.** Attempts that the SDK makes by itself are not held back here: there are two more
//! for a call at the most, with its own pauses before them.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

use super::error::AwsError;
use crate::activity::Activity;
use crate::stop::Stop;
use crate::telemetry::{Telemetry, events};

/// Reads of one service that may be under way at once. Enough that a slow one does not hold up the
/// others; few enough that a throttled account does not hear of all its jobs at once.
const READS: usize = 10;

/// The time between two reads at the first slowdown: 25 a second.
const READ_INTERVAL: Duration = Duration::from_millis(40);

/// The same for changes. CloudFront has been seen to refuse the third update within a minute.
const CHANGE_INTERVAL: Duration = Duration::from_millis(500);

/// In this time without a throttled call the rate doubles.
const RECOVERY: Duration = Duration::from_secs(30);

/// Beyond so many halvings a rate does not fall: a read every 2.56 s, a change every 32 s.
const MOST_HALVINGS: f64 = 7.0;

/// What a call is to the limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Read,
    /// It may change something.
    Change,
}

impl Kind {
    fn interval(self) -> Duration {
        match self {
            Self::Read => READ_INTERVAL,
            Self::Change => CHANGE_INTERVAL,
        }
    }
}

/// What throttled calls have taught.
#[derive(Clone, Copy, Debug, Default)]
struct Pressure {
    /// The last throttled call that counted: when it was, and the halvings since then.
    throttled: Option<(Instant, f64)>,
    /// When the last read and the last change were begun.
    begun: [Option<Instant>; 2],
}

impl Pressure {
    /// How often the rate is halved at `now`; none if calls are not paced.
    fn halvings(&self, now: Instant) -> Option<f64> {
        let (at, halvings) = self.throttled?;
        let recovered = now.duration_since(at).as_secs_f64() / RECOVERY.as_secs_f64();
        Some(halvings - recovered).filter(|halvings| *halvings > 0.0)
    }

    /// A call that was sent at `sent` was throttled. Answers whether that was news: calls had not
    /// been paced until then.
    fn throttled(&mut self, sent: Instant, now: Instant) -> bool {
        // What was under way already when the rate fell says nothing about the lower rate.
        if self.throttled.is_some_and(|(at, _)| sent <= at) {
            return false;
        }
        let before = self.halvings(now);
        let halvings = (before.unwrap_or(0.0) + 1.0).min(MOST_HALVINGS);
        self.throttled = Some((now, halvings));
        before.is_none()
    }

    /// When the next call of a kind may begin, as things stand at `now`.
    fn next(&self, kind: Kind, now: Instant) -> Instant {
        let Some(halvings) = self.halvings(now) else {
            return now;
        };
        let interval = kind.interval().mul_f64((halvings - 1.0).exp2());
        let throttled = self.throttled.map(|(at, _)| at);
        let last = self.begun[kind as usize].max(throttled);
        last.map_or(now, |last| now.max(last + interval))
    }

    fn begin(&mut self, kind: Kind, now: Instant) {
        self.begun[kind as usize] = Some(now);
    }
}

/// The limiter of one service in one account. Clones are the same.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: &'static str,
    telemetry: Arc<Telemetry>,
    pressure: Mutex<Pressure>,
    /// For each kind, how many may be under way. Fair.
    slots: [Arc<Semaphore>; 2],
    /// For each kind, the one who is next. Fair.
    front: [tokio::sync::Mutex<()>; 2],
}

/// Leave to make one call; to be kept until it has been answered.
#[derive(Debug)]
pub(super) struct Turn {
    _slot: Option<OwnedSemaphorePermit>,
}

impl Limiter {
    /// A limiter that has not been told anything.
    pub(super) fn new(service: &'static str, telemetry: Arc<Telemetry>) -> Self {
        Self(Arc::new(Inner {
            service,
            telemetry,
            pressure: Mutex::default(),
            slots: [READS, 1].map(|slots| Arc::new(Semaphore::new(slots))),
            front: Default::default(),
        }))
    }

    fn pressure(&self) -> std::sync::MutexGuard<'_, Pressure> {
        // Every critical section here is a few assignments; none leaves a half-made state.
        self.0
            .pressure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt that was sent at `sent` has been throttled.
    pub(super) fn throttled(&self, operation: &str, sent: Instant) {
        let news = self.pressure().throttled(sent, Instant::now());
        if news {
            self.0.telemetry.emit(events::AccountThrottled {
                service: self.0.service,
                operation,
            });
        }
    }

    /// Waits until a call may begin. Can be dropped at any time.
    async fn turn(&self, kind: Kind) -> Turn {
        let slots = Arc::clone(&self.0.slots[kind as usize]);
        // The semaphore is never closed.
        let slot = slots.acquire_owned().await.ok();
        let _front = self.0.front[kind as usize].lock().await;
        loop {
            let now = Instant::now();
            let next = {
                let mut pressure = self.pressure();
                let next = pressure.next(kind, now);
                if next <= now {
                    pressure.begin(kind, now);
                    return Turn { _slot: slot };
                }
                next
            };
            // Whether it has been throttled again meanwhile shows afterwards.
            sleep_until(next).await;
        }
    }
}

/// How often a job that waits for its turn shows that it lives.
const BEAT: Duration = Duration::from_secs(20);

/// The way to a limiter: everyone's, or that of one job, which gives up when it is told to stop.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    limiter: Limiter,
    job: Option<(Stop, Activity)>,
}

impl Gate {
    pub(super) fn new(limiter: Limiter) -> Self {
        Self { limiter, job: None }
    }

    /// The same for a job.
    pub(super) fn for_job(&self, stop: &Stop, activity: &Activity) -> Self {
        Self {
            limiter: self.limiter.clone(),
            job: Some((stop.clone(), activity.clone())),
        }
    }

    /// Waits until a call of `operation` may begin.
    ///
    /// # Errors
    /// The job was told to stop: the call must not be made.
    pub(super) async fn turn(&self, kind: Kind, operation: &'static str) -> Result<Turn, AwsError> {
        let Some((stop, activity)) = &self.job else {
            return Ok(self.limiter.turn(kind).await);
        };
        let mut turn = pin!(self.limiter.turn(kind));
        loop {
            tokio::select! {
                biased;
                _ = stop.stopped() => return Err(AwsError::not_begun(operation)),
                turn = &mut turn => {
                    activity.beat();
                    return Ok(turn);
                }
                () = sleep(BEAT) => activity.beat(),
            }
        }
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
