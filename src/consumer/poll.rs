//! Polling: how many receives are under way, and what happens when they fail.
//!
//! **Guarantees.** An idle queue is asked by one long poll at a time. Each receive that comes back
//! full adds another, up to a tenth of the places, since a receive brings ten messages at most; an empty
//! one takes them back to one. A receive
//! asks for no more messages than it has places and permits, and a further one is begun only with those for
//! a whole batch. The last completed poll is never later than [`Gauges::poll_age`] says.
//!
//! **Races.** Receives that are under way when the daemon stops are dropped: messages that SQS was
//! just handing out come back when their visibility timeout ends.
//!
//! [`Gauges::poll_age`]: crate::telemetry::Gauges::poll_age

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Consumer;
use super::poll_health::Polling;
use super::room::{CROWDED, Room};
use crate::aws::sqs::{MAX_BATCH, Message};
use crate::aws::{AwsError, RECEIVE_MARGIN};
use crate::consumer::jobs::SteppedBack;
use crate::domain::error_class::ErrorClass;
use crate::runtime::backoff::Backoff;
use crate::runtime::lasting::{self, Phase};
use crate::runtime::stop::StopReason;
use crate::telemetry::{chain, events, fails, ms};

/// While receiving fails because of the network, no pause is longer.
const MAX_NETWORK_PAUSE: Duration = Duration::from_secs(20);

/// While receiving fails for any other reason, no pause is longer.
const MAX_RECEIVE_PAUSE: Duration = Duration::from_secs(120);

/// How long a receive waits that is not the only one, or while draining, at most. It still is a long
/// poll, which asks all of the queue's servers.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// Between two looks at an empty queue while draining, where long polling does not pace them.
const DRAIN_PAUSE: Duration = Duration::from_millis(250);

/// What a receive came to.
struct Received {
    room: Room,
    result: Result<Vec<Message>, AwsError>,
}

impl Consumer {
    /// Polls until `stop` is cancelled, or, with `drain`, until nothing is left to do.
    pub(super) async fn poll(self: &Arc<Self>, stop: &CancellationToken, drain: bool) {
        let mut receivers = Receivers::new(self.config.queue.max_in_flight);
        let mut failing = Failing::default();
        let mut under_way = FuturesUnordered::new();
        loop {
            let (only, more) = (under_way.is_empty(), under_way.len() < receivers.wanted);
            if !only {
                let longest = self.config.queue.wait_time + RECEIVE_MARGIN;
                self.polls.begin(Polling::Receiving(longest));
            }
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(received) = under_way.next() => received,
                room = self.ready(failing.until, only), if more => {
                    under_way.push(self.receive(room, self.wait_time(drain || !only)));
                    continue;
                }
            };
            let Received { room, result } = received;
            let messages = match result {
                Ok(messages) => messages,
                Err(error) => {
                    receivers.failed();
                    self.polls.fail(error.class);
                    let phase = failing.failed(error.class, self.backoff(), Instant::now());
                    fails!(
                        error,
                        phase,
                        error.class = error.class.code(),
                        error = chain(&error),
                        "receiving fails; trying again with backoff"
                    );
                    continue;
                }
            };
            self.polls.answer();
            if let Some((failures, took)) = failing.recovered() {
                info!(
                    receive.failures = failures,
                    took_ms = ms(took),
                    "receiving works again"
                );
            }
            receivers.received(room.permits.num_permits(), messages.len());
            if !messages.is_empty() {
                self.emit(events::MessagesReceived {
                    count: messages.len(),
                });
                self.take_in(messages, room);
            } else if drain && under_way.is_empty() {
                if self.drained().await {
                    return;
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(DRAIN_PAUSE) => {}
                }
            }
        }
    }

    /// How long a receive waits for messages.
    fn wait_time(&self, short: bool) -> Duration {
        if !self.polls.has_answered() {
            // Soon after the start it is known whether the queue answers.
            Duration::ZERO
        } else if short {
            // A drain ends soon after its last job, not a whole long poll later.
            SHORT_WAIT
        } else {
            self.config.queue.wait_time
        }
    }

    /// Room for the next receive, once one may begin: after `pause`, and while the ledger works.
    async fn ready(self: &Arc<Self>, pause: Option<Instant>, only: bool) -> Room {
        if let Some(pause) = pause {
            if only {
                let left = pause.saturating_duration_since(Instant::now());
                self.polls.begin(Polling::Pausing(left));
            }
            tokio::time::sleep_until(pause).await;
        }
        if only {
            self.polls.begin(Polling::WaitingForRoom);
        }
        let batch = MAX_BATCH.min(self.config.queue.max_in_flight);
        // The only receive makes do with one.
        let least = if only { 1 } else { batch };
        let places = self.rooms.places(least, batch).await;
        let permits = self.take_permits(least, places.number()).await;
        self.ledger_health.works(&self.polls, self.backoff()).await;
        Room { permits, places }
    }

    /// Permits from `least` to `most`. Where there is not one for the only receive, somebody steps back.
    async fn take_permits(self: &Arc<Self>, least: usize, most: usize) -> OwnedSemaphorePermit {
        if least == 1 {
            self.make_room(least);
        }
        self.rooms.permits(least, most).await
    }

    /// Makes room for so many messages: the largest crowds step back.
    fn make_room(self: &Arc<Self>, least: usize) {
        let room = self.rooms.free() + self.jobs.stepping_back();
        let back = (room..least).map_while(|_| self.jobs.step_back());
        for SteppedBack {
            crowd,
            held,
            message,
        } in back
        {
            if self.rooms.steps_back(&crowd) {
                warn!(
                    crowd,
                    messages = held,
                    "as many messages wait as may be held; those of the largest crowd are hidden for fifteen minutes \
             each, so that others are received"
                );
            }
            if let Some(message) = message {
                self.settler.let_go(message, CROWDED, StopReason::Crowded);
            }
        }
        self.rooms.forget_crowds();
    }

    async fn receive(&self, room: Room, wait: Duration) -> Received {
        let visibility = self.config.queue.visibility_timeout;
        let queue = &self.queue;
        let most = room.permits.num_permits();
        let result = queue.receive(most, visibility, wait).await;
        Received { room, result }
    }

    /// Whether nothing is left to do.
    async fn drained(&self) -> bool {
        if self.jobs.len() > 0 || !self.looked_for_unfinished.is_cancelled() {
            return false;
        }
        match self.queue.attributes().await {
            // A job that the ledger has open may have begun meanwhile.
            Ok(queue) => {
                queue.visible + queue.in_flight + queue.delayed == 0 && self.jobs.len() == 0
            }
            // Not allowed to ask: then what was released here must have come back, and nothing
            // else have come.
            Err(error) if error.class == ErrorClass::AccessDenied => {
                self.settler.is_all_back() && self.jobs.len() == 0
            }
            Err(_) => false,
        }
    }
}

/// How many receives are to be under way. Pure.
#[derive(Debug)]
struct Receivers {
    wanted: usize,
    most: usize,
}

impl Receivers {
    fn new(max_in_flight: usize) -> Self {
        Self {
            wanted: 1,
            most: (max_in_flight / MAX_BATCH).max(1),
        }
    }

    /// A receive that asked for so many messages brought so many. A few of them are no sign: SQS
    /// may hand out fewer than it has.
    fn received(&mut self, asked: usize, brought: usize) {
        if brought == 0 {
            self.wanted = 1;
        } else if brought >= asked {
            self.wanted = (self.wanted + 1).min(self.most);
        }
    }

    /// What fails is tried by one.
    fn failed(&mut self) {
        self.wanted = 1;
    }
}

/// Receives that fail, one after the other.
#[derive(Debug, Default)]
struct Failing {
    /// What they failed for.
    classes: Vec<ErrorClass>,
    lasting: lasting::Failing,
    failures: u32,
    /// Failures in a row, where those that were under way together count as one.
    rounds: u32,
    /// No receive begins before.
    until: Option<Instant>,
}

impl Failing {
    /// A receive has failed. The first of each kind is told as one.
    fn failed(&mut self, class: ErrorClass, backoff: Backoff, now: Instant) -> Phase {
        self.failures += 1;
        if self.until.is_none_or(|until| until <= now) {
            self.rounds += 1;
            self.until = Some(now + self.pause(class, backoff));
        }
        let phase = self.lasting.failed();
        if self.classes.contains(&class) {
            return phase;
        }
        self.classes.push(class);
        Phase::Begins
    }

    /// After a success: how many failures it ended, and for how long they went on.
    fn recovered(&mut self) -> Option<(u32, Duration)> {
        let mut ended = std::mem::take(self);
        let took = ended.lasting.recovered()?;
        Some((ended.failures, took))
    }

    /// How long to stay away. A network comes back by itself; what is denied or gone, someone
    /// must mend.
    fn pause(&self, class: ErrorClass, backoff: Backoff) -> Duration {
        let (initial, max) = match class {
            ErrorClass::Unavailable => (Duration::from_millis(500), MAX_NETWORK_PAUSE),
            _ => (backoff.initial, MAX_RECEIVE_PAUSE),
        };
        let backoff = Backoff {
            initial: initial.min(backoff.initial),
            max: max.min(backoff.max),
        };
        backoff.delay(self.rounds, &mut fastrand::Rng::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_receives_add_receivers_and_an_empty_one_leaves_one() {
        let mut receivers = Receivers::new(64);
        assert_eq!(receivers.wanted, 1);
        for wanted in [2, 3, 4, 5, 6, 6] {
            receivers.received(10, 10);
            assert_eq!(receivers.wanted, wanted);
        }
        receivers.received(10, 3);
        assert_eq!(receivers.wanted, 6);
        receivers.received(10, 0);
        assert_eq!(receivers.wanted, 1);
        receivers.received(4, 4);
        assert_eq!(receivers.wanted, 2);
        receivers.failed();
        assert_eq!(receivers.wanted, 1);
        let mut few = Receivers::new(9);
        few.received(9, 9);
        assert_eq!(few.wanted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_were_under_way_together_lengthen_the_pause_once() {
        let backoff = Backoff {
            initial: Duration::from_secs(5),
            max: Duration::from_secs(600),
        };
        let class = ErrorClass::Rejected;
        let start = Instant::now();
        let mut failing = Failing::default();
        assert_eq!(failing.failed(class, backoff, start), Phase::Begins);
        let first = failing.until.unwrap();
        for _ in 0..5 {
            assert_eq!(failing.failed(class, backoff, start), Phase::Quiet);
        }
        assert_eq!(failing.until, Some(first));
        assert_eq!(failing.failed(class, backoff, first), Phase::Quiet);
        assert!(failing.until.unwrap() - first <= 2 * backoff.initial);
        let other = ErrorClass::Unavailable;
        assert_eq!(failing.failed(other, backoff, first), Phase::Begins);
        assert_eq!(failing.failed(class, backoff, first), Phase::Quiet);
        assert_eq!(failing.failed(other, backoff, first), Phase::Quiet);
        assert_eq!(failing.recovered(), Some((10, Duration::ZERO)));
        assert_eq!(failing.recovered(), None);
        assert_eq!(failing.until, None);
    }
}
