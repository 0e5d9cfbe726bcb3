//! When to look at which distribution, by which call, and what a look means for those who wait.
//! No I/O, no clock: the time and what was seen are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::until::Until;
use super::{Ended, Seen};
use crate::aws::AwsError;
use crate::aws::cloudfront::{Sighting, Summary};
use crate::reconcile::watch::pace::{Learned, Pace};
use crate::runtime::activity::Activity;

/// With fewer distributions to look at, each is asked for by itself: that answers all there is to
/// know, and needs no confirmation.
const FEW: usize = 3;

/// When a propagation takes unusually long, every so many looks by list one is by GetDistribution:
/// a list that lags is not believed for ever.
const LISTS_BELIEVED: u32 = 4;

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
    last: Option<Last>,
    /// The number of the look that is under way.
    looking: Option<u64>,
    /// Looks in a row that failed.
    failures: u32,
    /// No look before that.
    not_before: Option<Instant>,
    /// Looks by list since the last GetDistribution.
    listed: u32,
}

/// The last look at a distribution.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    /// It was a list that others needed.
    by_list: bool,
}

/// All of an account that is waited for.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) pace: Pace,
    pub(super) learned: Learned,
    pub(super) watches: BTreeMap<String, Watch>,
    /// The newest one.
    pub(super) listing: Option<Listing>,
    /// How many calls the last list took.
    pages: usize,
    /// Lists fail, or are not allowed: none before that.
    unlisted_until: Option<Instant>,
    number: u64,
}

/// What ListDistributions showed, on as many pages as were needed.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// When the first page was asked for.
    pub(super) at: Instant,
    pub(super) summaries: BTreeMap<String, Summary>,
    /// Whether what is not in it does not exist, as far as CloudFront knew.
    pub(super) complete: bool,
    pub(super) pages: usize,
}

/// A look to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// GetDistribution for this one.
    One(String),
    /// ListDistributions, until all of these are found.
    Listed(BTreeSet<String>),
}

/// A GetDistribution that is to be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) id: String,
    /// The look's number.
    pub(super) number: u64,
    /// When a list showed what is waited for: this confirms it.
    pub(super) shown_at: Option<Instant>,
}

impl Looks {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            learned: Learned::default(),
            watches: BTreeMap::new(),
            listing: None,
            pages: 1,
            unlisted_until: None,
            number: 0,
        }
    }

    /// A number that no wait and no look has had.
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The next look, and when to make it. A look that is needed may come up to half the pace's
    /// minimum late, if that lets one list serve several.
    pub(super) fn next(&self, now: Instant) -> Option<(Instant, Look)> {
        let due: Vec<_> = self
            .watches
            .iter()
            .filter(|(_, watch)| watch.looking.is_none())
            .filter_map(|(id, watch)| Some((self.due(watch)?, id, watch)))
            .collect();
        let (first, id) = due.iter().map(|(at, id, _)| (*at, *id)).min()?;
        if self.unlisted_until.is_none_or(|until| until <= now) {
            let together = first + self.pace.min / 2;
            let group: Vec<_> = due
                .iter()
                .filter(|(at, _, watch)| *at <= together && watch.shows_in_lists())
                .collect();
            if group.len() >= FEW
                && group.len() > self.pages
                && let Some(last) = group.iter().map(|(at, ..)| *at).max()
            {
                let ids = group.iter().map(|(_, id, _)| (*id).clone()).collect();
                return Some((last, Look::Listed(ids)));
            }
        }
        Some((first, Look::One(id.clone())))
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

    /// A GetDistribution begins.
    pub(super) fn begin_one(&mut self, id: &str) -> Ask {
        let number = self.next_number();
        if let Some(watch) = self.watches.get_mut(id) {
            watch.looking = Some(number);
        }
        Ask {
            id: id.to_owned(),
            number,
            shown_at: None,
        }
    }

    /// A list begins, which serves all that have not just been looked at. Answers its number.
    pub(super) fn begin_list(&mut self, now: Instant) -> u64 {
        let number = self.next_number();
        let soonest = soonest_after(self.pace);
        for watch in self.watches.values_mut() {
            let just_now = watch.last.is_some_and(|last| now < last.at + soonest);
            if watch.looking.is_none() && !just_now && watch.shows_in_lists() {
                watch.looking = Some(number);
            }
        }
        number
    }

    /// A list came. Answers which distributions must be asked for now.
    pub(super) fn listed(&mut self, number: u64, listing: Listing) -> Vec<Ask> {
        self.pages = listing.pages;
        let mut asks = Vec::new();
        for (id, watch) in &mut self.watches {
            if watch.looking != Some(number) {
                continue;
            }
            let summary = listing.summaries.get(id);
            let told = summary.is_some() || listing.complete;
            let earlier = |wait: &&mut Waiting| wait.began <= listing.at;
            let shown = told
                && watch
                    .waits
                    .iter_mut()
                    .filter(earlier)
                    .any(|wait| wait.until.may_be_so(summary));
            watch.beat();
            watch.listed += 1;
            let late = watch.waits.iter().any(|wait| {
                let elapsed = listing.at.duration_since(wait.changed_at);
                wait.learned(&self.learned).is_late(elapsed)
            });
            if !told || shown || late && watch.listed >= LISTS_BELIEVED {
                asks.push(Ask {
                    id: id.clone(),
                    number,
                    shown_at: shown.then_some(listing.at),
                });
                continue;
            }
            for wait in watch.waits.iter_mut().filter(earlier) {
                wait.unseen = Some(listing.at);
            }
            watch.looking = None;
            watch.last = Some(Last {
                at: listing.at,
                by_list: true,
            });
        }
        self.listing = Some(listing);
        asks
    }

    /// A list failed: none before `until`. Answers which distributions must be asked for instead.
    pub(super) fn unlisted(
        &mut self,
        number: u64,
        until: Instant,
        needed: &BTreeSet<String>,
    ) -> Vec<Ask> {
        self.unlisted_until = Some(until);
        let mut asks = Vec::new();
        for (id, watch) in &mut self.watches {
            if watch.looking != Some(number) {
                continue;
            }
            if needed.contains(id) {
                asks.push(Ask {
                    id: id.clone(),
                    number,
                    shown_at: None,
                });
            } else {
                watch.looking = None;
            }
        }
        asks
    }

    /// A GetDistribution was answered: tells those who wait for that.
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
                let seen_at = ask.shown_at.filter(|at| *at >= wait.began);
                let after = |at: Instant| at.duration_since(wait.changed_at);
                let seen = Seen {
                    after: after(seen_at.unwrap_or(sighting.at)),
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

    /// A GetDistribution that was begun at `at` failed, and the next one may not: it is made no
    /// sooner than after `pause`, of the failures in a row. Answers how many those are.
    pub(super) fn failed_for_now(
        &mut self,
        ask: &Ask,
        at: Instant,
        pause: impl FnOnce(u32) -> Duration,
        now: Instant,
    ) -> u32 {
        let Some(watch) = self.watches.get_mut(&ask.id) else {
            return 0;
        };
        watch.looked(ask, at);
        watch.failures += 1;
        watch.not_before = Some(now + pause(watch.failures));
        watch.failures
    }

    /// A GetDistribution that was begun at `at` failed for good: that ends the waits.
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

    /// The moment as of which a distribution is known to be as it was seen: when it was seen, or
    /// when a later list showed that it had not changed.
    pub(super) fn as_of(&self, sighting: &Sighting) -> Instant {
        let Some(reading) = &sighting.found else {
            return sighting.at;
        };
        let (seen, version) = (&reading.distribution, reading.version);
        self.listing
            .as_ref()
            .filter(|listing| listing.at > sighting.at)
            .filter(|listing| {
                listing.summaries.get(&seen.id).is_some_and(|listed| {
                    listed.version.is(version)
                        && listed.deployed == seen.deployed
                        && listed.enabled == seen.enabled
                })
            })
            .map_or(sighting.at, |listing| listing.at)
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
    fn shows_in_lists(&self) -> bool {
        self.waits.iter().all(|wait| wait.until.shows_in_lists())
    }

    fn beat(&self) {
        for wait in &self.waits {
            wait.activity.beat();
        }
    }

    fn looked(&mut self, ask: &Ask, at: Instant) {
        if self.looking == Some(ask.number) {
            self.looking = None;
        }
        self.last = Some(Last { at, by_list: false });
        self.not_before = None;
        self.listed = 0;
        self.beat();
    }
}

/// The next look for a change made at `changed_at`: on its own grid, and not too close to the last
/// look that was made for anyone.
fn next_look(changed_at: Instant, last: Option<Last>, pace: Pace, learned: &Learned) -> Instant {
    // Looks lie on a grid: one that was made a little late must not push all later ones.
    let since = last.map_or(changed_at, |last| last.at.max(changed_at));
    let by_list = last.is_some_and(|last| last.by_list);
    let (mut previous, mut look) = (None, pace.next(None, learned));
    loop {
        // While nothing is due, a list that others needed a little earlier does as well: so those
        // that began one after the other come to share their looks.
        let gap = look - previous.unwrap_or_default();
        let early = if by_list && !learned.is_due(look) {
            gap / 4
        } else {
            Duration::ZERO
        };
        if changed_at + look > since + early {
            break;
        }
        previous = Some(look);
        look = pace.next(previous, learned);
    }
    let look = changed_at + look;
    last.map_or(look, |last| {
        let look = look.min(last.at + pace.apart(learned));
        look.max(last.at + soonest_after(pace))
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
