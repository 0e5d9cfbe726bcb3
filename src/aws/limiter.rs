//! How fast the calls of one service in one account may follow each other.
//!
//! AWS publishes no rates for CloudFront, so none is assumed: calls are not paced until AWS says
//! `Throttling`. Then everything of the account slows down to half its rate, changes more than
//! reads, once for each throttled call that was sent at the present rate; the SDK's own retries
//! count too. In half a minute without a throttled call the rate doubles again. So at a
//! limit that nobody knows, about one call in half a minute is throttled, however many ask.
//!
//! Not all throttling depends on the rate of these calls: others may use the account up, and a service
//! in trouble throttles by chance. Where no limit explains which calls were throttled (`evidence`), slowing down
//! makes no difference: for `RELIEF` calls are not paced, unless most of them are throttled. Then the evidence
//! was misleading, and is not gone by for `MISLED`.
//!
//! **Guarantees.** First come, first served, reads and changes apart. One change at a time, and
//! `READS` reads. Whoever waits here has not begun its call: it may go away, and a job that is
//! told to stop does. `Pressure` is pure.
//!
//! **Not handled.** Attempts that the SDK makes by itself are not held back here: there are two more
//! for a call at the most, with its own pauses before them.

mod evidence;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use self::evidence::Evidence;
use super::error::AwsError;
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;
use crate::telemetry::events::ms;

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

/// How long calls are not paced after slowing down has made no difference. Then it is tried again.
const RELIEF: Duration = Duration::from_secs(60);

/// While calls are not paced, so many more may be throttled than are answered: where three of ten are by chance,
/// that hardly ever happens.
const MORE_THROTTLED: usize = 8;

/// How long calls are paced whatever the evidence, after most of those that were not were throttled.
const MISLED: Duration = Duration::from_secs(600);

/// Throttling is over once calls have been as fast as ever for so long.
const CALM: Duration = Duration::from_secs(60);

/// What lasts is said again after this.
const SAY_AGAIN: Duration = Duration::from_secs(5 * 60);

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
    evidence: Evidence,
    relief: Option<Relief>,
    /// When most calls were last throttled although, by the evidence, no limit did it.
    misled: Option<Instant>,
    /// When it was last said that calls are not paced.
    said: Option<Instant>,
    lasts: Option<Throttling>,
}

/// A time with throttled calls, until the rate has recovered.
#[derive(Clone, Copy, Debug)]
struct Throttling {
    began: Instant,
    said: Instant,
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
    /// Calls are paced.
    SlowDown {
        /// Since when, if that has been said.
        lasts: Option<Duration>,
    },
    /// Calls are no longer paced: slowing down has made no difference.
    Unrelated {
        /// It is to be said.
        is_news: bool,
    },
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
    fn answered(&mut self, kind: Kind, sent: Instant, now: Instant) -> Option<Lesson> {
        self.evidence.answered(kind, sent, now);
        if let Some(relief) = &mut self.relief {
            relief.answered[kind as usize] += 1;
        }
        self.halvings(now)?;
        self.is_unrelated(now).then(|| self.relieve(now))
    }

    /// A call that was sent at `sent` was throttled.
    fn throttled(&mut self, kind: Kind, sent: Instant, now: Instant) -> Option<Lesson> {
        self.evidence.throttled(kind, sent, now);
        if self.is_late(sent) {
            return None;
        }
        if let Some(relief) = &mut self.relief
            && now < relief.until
        {
            let throttled = &mut relief.throttled[kind as usize];
            *throttled += 1;
            if *throttled <= relief.answered[kind as usize] + MORE_THROTTLED {
                return None;
            }
            self.misled = Some(now);
            self.relief = None;
        }
        let before = self.halvings(now);
        if self.is_unrelated(now) {
            return Some(self.relieve(now));
        }
        let halvings = before.unwrap_or(0.0);
        let lower = halvings.max((halvings + 1.0).min(kind.most_halvings()));
        self.throttled = Some((now, lower));
        let Some(lasting) = &mut self.lasts else {
            self.lasts = Some(Throttling {
                began: now,
                said: now,
            });
            return Some(Lesson::SlowDown { lasts: None });
        };
        (now >= lasting.said + SAY_AGAIN).then(|| {
            lasting.said = now;
            let lasts = Some(now - lasting.began);
            Lesson::SlowDown { lasts }
        })
    }

    /// Whether no limit explains what was throttled.
    fn is_unrelated(&mut self, now: Instant) -> bool {
        let misled = self.misled.is_some_and(|at| now < at + MISLED);
        !misled && self.evidence.refutes_a_limit(now)
    }

    /// Calls are not paced for a while.
    fn relieve(&mut self, now: Instant) -> Lesson {
        self.throttled = None;
        let begins = Throttling {
            began: now,
            said: now,
        };
        self.lasts.get_or_insert(begins);
        self.relief = Some(Relief {
            until: now + RELIEF,
            answered: [0; 2],
            throttled: [0; 2],
        });
        let is_news = self.said.is_none_or(|said| said + SAY_AGAIN <= now);
        if is_news {
            self.said = Some(now);
        }
        Lesson::Unrelated { is_news }
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

    /// Answers how long calls were throttled, if that is over and was not told.
    fn begin(&mut self, kind: Kind, now: Instant) -> Option<Duration> {
        self.begun[kind as usize] = Some(now);
        let recovered = self
            .throttled
            .map(|(at, halvings)| at + RECOVERY.mul_f64(halvings));
        let ended = recovered.max(self.relief.map(|relief| relief.until));
        let ended = ended.filter(|ended| *ended + CALM <= now)?;
        let throttling = self.lasts.take()?;
        Some(ended - throttling.began)
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
    /// Calls are not paced any more.
    relieved: Notify,
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
            relieved: Notify::new(),
        }))
    }

    /// An attempt that was sent at `sent` has been answered, and not throttled.
    pub(super) fn answered(&self, operation: &str, sent: Instant) {
        let kind = Kind::of(operation);
        let lesson = self.0.pressure.lock().answered(kind, sent, Instant::now());
        self.learned(lesson, operation);
    }

    /// An attempt that was sent at `sent` has been throttled.
    pub(super) fn throttled(&self, operation: &str, sent: Instant) {
        let kind = Kind::of(operation);
        let lesson = self.0.pressure.lock().throttled(kind, sent, Instant::now());
        self.learned(lesson, operation);
    }

    fn learned(&self, lesson: Option<Lesson>, operation: &str) {
        match lesson {
            Some(Lesson::SlowDown { lasts: None }) => warn!(
                aws.service = self.0.service,
                aws.operation = operation,
                "throttled; all calls of the account to this service slow down"
            ),
            Some(Lesson::SlowDown { lasts: Some(took) }) => warn!(
                aws.service = self.0.service,
                aws.operation = operation,
                wait.took_ms = ms(took),
                "still throttled; all calls of the account to this service are slow"
            ),
            Some(Lesson::Unrelated { is_news }) => {
                self.0.relieved.notify_waiters();
                if is_news {
                    warn!(
                        aws.service = self.0.service,
                        aws.operation = operation,
                        "throttled whatever the rate; calls of the account to this service do not slow down"
                    );
                }
            }
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
            let relieved = self.0.relieved.notified();
            let now = Instant::now();
            let next = {
                let mut pressure = self.0.pressure.lock();
                let next = pressure.next(kind, now);
                if next > now {
                    Err(next)
                } else {
                    Ok(pressure.begin(kind, now))
                }
            };
            let next = match next {
                Err(next) => next,
                Ok(over) => {
                    if let Some(took) = over {
                        info!(
                            aws.service = self.0.service,
                            wait.took_ms = ms(took),
                            "no longer throttled"
                        );
                    }
                    return Turn { _slot: slot };
                }
            };
            // Whether it has been throttled again meanwhile shows afterwards.
            let _ = timeout_at(next, relieved).await;
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
