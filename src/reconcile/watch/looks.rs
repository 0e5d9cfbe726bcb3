//! When to look at which distribution, and what a look means for those who wait.
//! No I/O, no clock: the time and what was seen are handed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::until::Until;
use super::{Ended, Seen};
use crate::aws::AwsError;
use crate::aws::cloudfront::Sighting;
use crate::reconcile::watch::pace::{Learned, Pace};
use crate::runtime::activity::Activity;

/// What a wait is answered with.
pub(super) type Answer = Result<Ended, Arc<AwsError>>;

/// One wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) number: u64,
    pub(super) began: Instant,
    /// When the change that is waited for was made; when the wait began, where that is not known.
    pub(super) changed_at: Instant,
    /// Whether it is known: then what was learned tells when it is due.
    pub(super) known: bool,
    pub(super) until: Until,
    /// The last look that did not see it.
    pub(super) unseen: Option<Instant>,
    /// Whose wait it is: each look is a sign of its life.
    pub(super) activity: Activity,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// One distribution that is waited for.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// In the order in which they came.
    pub(super) waits: Vec<Waiting>,
    /// When the last look was made.
    last: Option<Instant>,
    /// The number of the look that is under way.
    looking: Option<u64>,
    /// Looks in a row that failed.
    failures: u32,
    /// No look before that.
    not_before: Option<Instant>,
}

/// All of an account that is waited for.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) pace: Pace,
    pub(super) learned: Learned,
    pub(super) watches: BTreeMap<String, Watch>,
    number: u64,
}

/// A look that is to be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) id: String,
    pub(super) number: u64,
}

impl Looks {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            learned: Learned::default(),
            watches: BTreeMap::new(),
            number: 0,
        }
    }

    /// A number that no wait and no look has had.
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The next distribution to look at, and when.
    pub(super) fn next(&self) -> Option<(Instant, String)> {
        self.watches
            .iter()
            .filter(|(_, watch)| watch.looking.is_none())
            .filter_map(|(id, watch)| Some((self.due(watch)?, id.clone())))
            .min()
    }

    fn due(&self, watch: &Watch) -> Option<Instant> {
        let due = watch
            .waits
            .iter()
            .map(|wait| {
                let learned = wait.learned(&self.learned);
                next_look(wait.changed_at, watch.last, self.pace, learned)
            })
            .min()?;
        Some(
            watch
                .not_before
                .map_or(due, |not_before| due.max(not_before)),
        )
    }

    pub(super) fn begin(&mut self, id: &str) -> Ask {
        let number = self.next_number();
        if let Some(watch) = self.watches.get_mut(id) {
            watch.looking = Some(number);
        }
        Ask {
            id: id.to_owned(),
            number,
        }
    }

    /// A look was answered: ends the waits for what it showed.
    pub(super) fn seen(&mut self, ask: &Ask, sighting: &Sighting) {
        let Some(watch) = self.watches.get_mut(&ask.id) else {
            return;
        };
        watch.looked(ask, sighting.at);
        watch.failures = 0;
        for mut wait in std::mem::take(&mut watch.waits) {
            if wait.began > sighting.at {
                watch.waits.push(wait);
            } else if wait.until.is_so(sighting.distribution()) {
                let after = |at: Instant| at.duration_since(wait.changed_at);
                let seen = Seen {
                    after: after(sighting.at),
                    unseen: wait.unseen.map(after).unwrap_or_default(),
                };
                let sighting = sighting.clone();
                // Nobody waits any more: then there is nobody to tell.
                let _ = wait.answer.send(Ok(Ended { seen, sighting }));
            } else {
                wait.unseen = Some(sighting.at);
                watch.waits.push(wait);
            }
        }
    }

    /// A look that was begun at `at` failed, and the next one may not: it is made no
    /// sooner than after `pause`, of the failures in a row.
    pub(super) fn failed_for_now(
        &mut self,
        ask: &Ask,
        at: Instant,
        pause: impl FnOnce(u32) -> Duration,
        now: Instant,
    ) {
        let Some(watch) = self.watches.get_mut(&ask.id) else {
            return;
        };
        watch.looked(ask, at);
        watch.failures += 1;
        watch.not_before = Some(now + pause(watch.failures));
    }

    /// A look that was begun at `at` failed for good: that ends the waits.
    pub(super) fn failed(&mut self, ask: &Ask, at: Instant, error: &Arc<AwsError>) {
        let Some(watch) = self.watches.get_mut(&ask.id) else {
            return;
        };
        watch.looked(ask, at);
        for wait in std::mem::take(&mut watch.waits) {
            if wait.began > at {
                watch.waits.push(wait);
            } else {
                let _ = wait.answer.send(Err(Arc::clone(error)));
            }
        }
    }
}

impl Waiting {
    /// What earlier propagations say of this one.
    fn learned<'a>(&self, learned: &'a Learned) -> &'a Learned {
        const NOTHING: &Learned = &Learned::NOTHING;
        if self.known { learned } else { NOTHING }
    }
}

impl Watch {
    fn looked(&mut self, ask: &Ask, at: Instant) {
        if self.looking == Some(ask.number) {
            self.looking = None;
        }
        self.last = Some(at);
        self.not_before = None;
        for wait in &self.waits {
            wait.activity.beat();
        }
    }
}

/// The next look for a change made at `changed_at`: on its own grid, and not too close to the last
/// look that was made for anyone.
fn next_look(changed_at: Instant, last: Option<Instant>, pace: Pace, learned: &Learned) -> Instant {
    // Looks lie on a grid: one that was made a little late must not push all later ones.
    let since = last.map_or(changed_at, |last| last.max(changed_at));
    let mut look = pace.next(None, learned);
    while changed_at + look <= since {
        look = pace.next(Some(look), learned);
    }
    let look = changed_at + look;
    last.map_or(look, |last| {
        let look = look.min(last + pace.apart(learned));
        look.max(last + soonest_after(pace))
    })
}

/// The shortest time between two looks, less a slack: a timer that fired a moment late would
/// otherwise shift the grid by that moment each time.
fn soonest_after(pace: Pace) -> Duration {
    pace.min - pace.min / 20
}

#[cfg(test)]
#[path = "looks_tests.rs"]
mod tests;
