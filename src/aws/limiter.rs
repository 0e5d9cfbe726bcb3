//! How fast the calls of one service in one account may follow each other.
//!
//! AWS publishes no rates for CloudFront, so none is assumed: calls are not paced until AWS says
//! `Throttling`. Then everything of the account slows down to half its rate, changes more than
//! reads, once for each throttled call that was sent at the present rate; the SDK's own retries
//! count too. In half a minute without a throttled call the rate doubles again. So at a
//! limit that nobody knows, about one call in half a minute is throttled, however many ask.
//!
//! Not all throttling depends on the rate of these calls: others may use the account up, and a service
//! in trouble throttles by chance. A limit that throttles a rate lets less than half of the calls
//! through at twice that rate, and less than a quarter at four times that rate; so on the way down to a
//! limit hardly two are answered. Where `UNRELATED` were and a call is throttled all the same, slowing
//! down makes no difference: for `RELIEF` calls are not paced, unless most of them are throttled.
//!
//! **Guarantees.** First come, first served, reads and changes apart. One change at a time, and
//! `READS` reads. Whoever waits here has not begun its call: it may go away, and a job that is
//! told to stop does. `Pressure` is pure.
//!
//! **Not handled.** Attempts that the SDK makes by itself are not held back here: there are two more
//! for a call at the most, with its own pauses before them.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::error::AwsError;
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;

/// Reads of one service that may be under way at once. Enough that a slow one does not hold up the
/// others; few enough that a throttled account does not hear of all its jobs at once.
const READS: usize = 10;

/// The time between two reads at the first slowdown: 25 a second.
const READ_INTERVAL: Duration = Duration::from_millis(40);

/// The same for changes. CloudFront has been seen to refuse the third update within a minute.
const CHANGE_INTERVAL: Duration = Duration::from_millis(500);

/// In this time without a throttled call the rate doubles.
const RECOVERY: Duration = Duration::from_secs(30);

/// Calls of a kind are no further apart than this, which keeps a limit of two a minute
/// for both kinds together.
const LONGEST_INTERVAL: Duration = Duration::from_secs(64);

/// So many calls answered on the way down, at rates well above the one that is still throttled, are
/// twice as many as a limit would have let through.
const UNRELATED: usize = 4;

/// A rate is well above another by so many halvings.
const WELL_ABOVE: f64 = 0.75;

/// After so many calls answered in a row, slowing down has helped, whatever happened before.
const HELPED: usize = 12;

/// For so long an answer tells something about a call that is throttled later.
const MEMORY: Duration = Duration::from_secs(60);

/// A call that follows the one before it within so many intervals shows what its rate brings. One that
/// comes later would have come no earlier at any rate.
const PACED: f64 = 6.0;

/// How long calls are not paced after slowing down has made no difference. Then it is tried again.
const RELIEF: Duration = Duration::from_secs(60);

/// What a call is to the limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Read,
    /// It may change something.
    Change,
}

impl Kind {
    /// What a call of an operation is.
    pub(super) fn of(operation: &str) -> Self {
        if ["Describe", "Get", "List"]
            .iter()
            .any(|reads| operation.starts_with(reads))
        {
            Self::Read
        } else {
            Self::Change
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Read => READ_INTERVAL,
            Self::Change => CHANGE_INTERVAL,
        }
    }

    /// How often its rate can be halved.
    fn most_halvings(self) -> f64 {
        1.0 + LONGEST_INTERVAL.div_duration_f64(self.interval()).log2()
    }
}

/// What throttled calls have taught.
#[derive(Debug, Default)]
struct Pressure {
    /// The last throttled call that counted: when it was, and the halvings since then.
    throttled: Option<(Instant, f64)>,
    /// When the last read and the last change were begun.
    begun: [Option<Instant>; 2],
    /// When the last attempts of those that have been answered or throttled were sent.
    sent: [Option<Instant>; 2],
    /// What became of the reads and of the changes since slowing down last helped.
    since: [Since; 2],
    relief: Option<Relief>,
}

/// Calls of one kind that were answered.
#[derive(Debug, Default)]
struct Since {
    /// Those of late that were paced: when each was sent, and the halvings then.
    paced: VecDeque<(Instant, f64)>,
    /// How many there were since the last throttled call that counted.
    in_a_row: usize,
}

/// Calls are not paced, because slowing down has made no difference.
#[derive(Clone, Copy, Debug)]
struct Relief {
    until: Instant,
    answered: [usize; 2],
    throttled: [usize; 2],
}

/// What is new about a throttled call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lesson {
    /// Calls are paced from now on.
    SlowDown,
    /// Calls are no longer paced: slowing down has made no difference.
    Unrelated,
}

impl Pressure {
    /// How often the rate is halved at `now`; none if calls are not paced.
    fn halvings(&self, now: Instant) -> Option<f64> {
        let (at, halvings) = self.throttled?;
        let recovered = now.duration_since(at).as_secs_f64() / RECOVERY.as_secs_f64();
        Some(halvings - recovered).filter(|halvings| *halvings > 0.0)
    }

    /// What was under way already when the rate fell says nothing about the lower rate.
    fn is_late(&self, sent: Instant) -> bool {
        self.throttled.is_some_and(|(at, _)| sent <= at)
    }

    fn interval(kind: Kind, halvings: f64) -> Duration {
        let interval = kind.interval().mul_f64((halvings - 1.0).exp2());
        interval.min(LONGEST_INTERVAL)
    }

    /// A call that was sent at `sent` was answered.
    fn answered(&mut self, kind: Kind, sent: Instant) {
        let before = self.sent[kind as usize].replace(sent);
        if let Some(relief) = &mut self.relief {
            relief.answered[kind as usize] += 1;
        }
        if self.is_late(sent) {
            return;
        }
        let halvings = self.halvings(sent);
        let since = &mut self.since[kind as usize];
        since.in_a_row += 1;
        if let (Some(halvings), Some(before)) = (halvings, before)
            && sent.duration_since(before) < Self::interval(kind, halvings).mul_f64(PACED)
        {
            since.paced.push_back((sent, halvings));
            let old = since.paced.partition_point(|(at, _)| *at + MEMORY < sent);
            since.paced.drain(..old);
        }
    }

    /// A call that was sent at `sent` was throttled.
    fn throttled(&mut self, kind: Kind, sent: Instant, now: Instant) -> Option<Lesson> {
        self.sent[kind as usize] = Some(sent);
        if self.is_late(sent) {
            return None;
        }
        if let Some(relief) = &mut self.relief
            && now < relief.until
        {
            let throttled = &mut relief.throttled[kind as usize];
            *throttled += 1;
            if *throttled <= relief.answered[kind as usize] + UNRELATED {
                return None;
            }
        }
        let before = self.halvings(now);
        let halvings = before.unwrap_or(0.0);
        let since = &self.since[kind as usize];
        let well_above =
            |(at, then): &&(Instant, f64)| now < *at + MEMORY && then + WELL_ABOVE <= halvings;
        let faster = since.paced.iter().filter(well_above).count();
        if since.in_a_row < HELPED && faster >= UNRELATED {
            self.since = Default::default();
            self.throttled = None;
            self.relief = Some(Relief {
                until: now + RELIEF,
                answered: [0; 2],
                throttled: [0; 2],
            });
            return Some(Lesson::Unrelated);
        }
        for since in &mut self.since {
            if since.in_a_row >= HELPED || before.is_none() {
                *since = Since::default();
            }
            since.in_a_row = 0;
        }
        let lower = halvings.max((halvings + 1.0).min(kind.most_halvings()));
        self.throttled = Some((now, lower));
        self.relief = None;
        before.is_none().then_some(Lesson::SlowDown)
    }

    /// When the next call of a kind may begin, as things stand at `now`.
    fn next(&self, kind: Kind, now: Instant) -> Instant {
        let Some(halvings) = self.halvings(now) else {
            return now;
        };
        let interval = Self::interval(kind, halvings);
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
    pressure: Mutex<Pressure>,
    /// For each kind, how many may be under way. Fair.
    slots: [Arc<Semaphore>; 2],
    /// For each kind, the one who is next. Fair.
    front: [tokio::sync::Mutex<()>; 2],
}

/// Leave to make one call; to be kept until it has been answered.
#[derive(Debug)]
pub struct Turn {
    _slot: Option<OwnedSemaphorePermit>,
}

impl Limiter {
    /// A limiter that has not been told anything.
    pub(super) fn new(service: &'static str) -> Self {
        Self(Arc::new(Inner {
            service,
            pressure: Mutex::default(),
            slots: [READS, 1].map(|slots| Arc::new(Semaphore::new(slots))),
            front: Default::default(),
        }))
    }

    /// An attempt that was sent at `sent` has been answered, and not throttled.
    pub(super) fn answered(&self, operation: &str, sent: Instant) {
        self.0.pressure.lock().answered(Kind::of(operation), sent);
    }

    /// An attempt that was sent at `sent` has been throttled.
    pub(super) fn throttled(&self, operation: &str, sent: Instant) {
        let kind = Kind::of(operation);
        let lesson = self.0.pressure.lock().throttled(kind, sent, Instant::now());
        match lesson {
            Some(Lesson::SlowDown) => warn!(
                aws.service = self.0.service,
                aws.operation = operation,
                "throttled; all calls of the account to this service slow down"
            ),
            Some(Lesson::Unrelated) => warn!(
                aws.service = self.0.service,
                aws.operation = operation,
                "throttled whatever the rate; calls of the account to this service do not slow down"
            ),
            None => {}
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
                let mut pressure = self.0.pressure.lock();
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
