//! When to look at a propagation again. Pure: no I/O, no clock.
//!
//! The first time, looks follow a fixed grid that thins out as the wait grows longer, and closes up
//! again where CloudFront's propagations tend to end. Once propagations have been seen to the end,
//! looks are rare until one is due; then they follow each other closely, and one lies where half of
//! the last ones had ended.

use std::collections::VecDeque;
use std::time::Duration;

/// How many past propagations are remembered.
const REMEMBERED: usize = 16;

/// Added to the first look, so that looks fall just behind the round times at which a propagation
/// tends to end, and not just before them.
const BEHIND: Duration = Duration::from_millis(100);

/// The longest first delay.
const FIRST: Duration = Duration::from_secs(2);

/// Between two looks when a propagation is due, as a part of what propagations take: a look that is
/// late by that much is late by 3 %.
const WHEN_DUE: f64 = 0.03;

/// Before a propagation is due, looks may be this part of the shortest remembered one apart: one
/// that is over unusually soon is noticed before the usual time all the same.
const BEFORE_DUE: f64 = 0.6;

/// From here on a propagation of which nothing is known may be over any moment: of seven measured,
/// none took less than 156 s or more than 217 s.
const USUAL: Duration = Duration::from_secs(150);

/// From here on it takes unusually long.
const UNUSUAL: Duration = Duration::from_secs(240);

/// The bounds within which looks are paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// No two looks at one distribution are closer.
    pub min: Duration,
    /// No two looks of one wait are farther apart, but before it is known to be due.
    pub max: Duration,
}

/// What earlier propagations took.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Each lay between the last look that did not see it and the first that did.
    seen: VecDeque<(Duration, Duration)>,
}

/// When a propagation can be said not to have been over. The look that did not see it may have been a
/// long time before the one that did: then a part of that time is enough, and if it was over sooner,
/// the next one shows more.
fn not_before((unseen, seen): &(Duration, Duration)) -> Duration {
    let between = seen.saturating_sub(*unseen);
    let back = (between / 4).max(seen.mul_f64(2.0 * WHEN_DUE));
    seen.saturating_sub(back).max(*unseen)
}

/// When a propagation is due, counted from the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Hardly any was over by then.
    pub earliest: Duration,
    /// Half of them were.
    pub expected: Duration,
    /// All of them were.
    pub latest: Duration,
}

impl Learned {
    pub const NOTHING: Self = Self {
        seen: VecDeque::new(),
    };

    /// Remembers a propagation that was unseen at `unseen` and seen at `seen`, both counted from
    /// the change.
    pub fn record(&mut self, unseen: Duration, seen: Duration) {
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((unseen, seen));
    }

    /// When the next propagation is due, if any is remembered.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        let mut ends: Vec<Duration> = self.seen.iter().map(|(_, seen)| *seen).collect();
        ends.sort_unstable();
        Some(Due {
            earliest: self.seen.iter().map(not_before).min()?,
            expected: ends[ends.len() / 2],
            latest: *ends.last()?,
        })
    }
}

impl Pace {
    /// The next look, counted from the change that is waited for. `previous` is the look before
    /// it, `None` for the first.
    #[must_use]
    pub fn next(self, previous: Option<Duration>, learned: &Learned) -> Duration {
        match (learned.due(), previous) {
            (Some(due), _) => self.next_known(previous, due),
            (None, None) => self.first(),
            (None, Some(previous)) => previous + self.interval(previous),
        }
    }

    /// The next look where it is known when propagations are over.
    fn next_known(self, previous: Option<Duration>, due: Due) -> Duration {
        let from = previous.unwrap_or_default();
        if from >= due.expected {
            return from + self.when_due(from);
        }
        // One look lies at the expected end, the others before it at equal distances.
        let soonest = previous.map_or(self.first(), |previous| previous + self.min);
        let soonest = soonest.max((due.earliest + self.min / 2).min(due.expected));
        let step = self.when_due(due.expected);
        let ahead = due.expected.saturating_sub(soonest);
        let steps = u32::try_from(ahead.as_nanos() / step.as_nanos().max(1)).unwrap_or(0);
        let look = if due.expected < soonest {
            soonest
        } else {
            due.expected - step * steps
        };
        look.min(from + self.apart_until(due))
    }

    /// The longest time between two looks.
    #[must_use]
    pub fn apart(self, learned: &Learned) -> Duration {
        learned.due().map_or(self.max, |due| self.apart_until(due))
    }

    fn apart_until(self, due: Due) -> Duration {
        self.max.max(due.earliest.mul_f64(BEFORE_DUE))
    }

    fn when_due(self, elapsed: Duration) -> Duration {
        elapsed.mul_f64(WHEN_DUE).clamp(self.min, self.max)
    }

    fn first(self) -> Duration {
        self.min.min(FIRST) + BEHIND
    }

    /// After `elapsed`, where nothing is known. With the shortest interval of 2 s, looks come after
    /// 2, 5, 10, 20, 30 and 45 s, then every 15 s up to 150 s, and then every 10 s.
    fn interval(self, elapsed: Duration) -> Duration {
        let interval = match elapsed.as_secs() {
            ..5 => self.min.mul_f64(1.5),
            5..10 => self.min.mul_f64(2.5),
            10..30 => self.min * 5,
            _ if elapsed < USUAL || elapsed > UNUSUAL => self.min.mul_f64(7.5),
            _ => self.min * 5,
        };
        interval.min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULT: Pace = Pace {
        min: Duration::from_secs(2),
        max: Duration::from_secs(15),
    };

    /// How late the end of a propagation is seen, and after how many looks.
    fn watch(pace: Pace, propagation: Duration, learned: &mut Learned) -> (Duration, usize) {
        let (mut previous, mut looks) = (None, 0);
        loop {
            let look = pace.next(previous, learned);
            looks += 1;
            if look >= propagation {
                learned.record(previous.unwrap_or_default(), look);
                return (look - propagation, looks);
            }
            previous = Some(look);
        }
    }

    #[test]
    fn both_waits_of_a_cleanup_are_seen_soon_after_they_end() {
        for (seconds, most_first, most_second) in [(5, 2, 2), (30, 5, 6), (170, 15, 3)] {
            let mut learned = Learned::default();
            let propagation = Duration::from_secs(seconds);
            let (first, unknown) = watch(DEFAULT, propagation, &mut learned);
            let (second, known) = watch(DEFAULT, propagation, &mut learned);
            assert!(
                first + second <= Duration::from_millis(250),
                "{seconds} s: {first:?} {second:?}"
            );
            assert!(
                unknown <= most_first && known <= most_second,
                "{seconds} s: {unknown} and {known} looks"
            );
        }
    }

    #[test]
    fn what_varies_is_seen_within_three_percent_once_it_is_known() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut learned = Learned::default();
        let (mut late, mut all, mut looks) = (0.0, 0.0, 0);
        for number in 0..200 {
            // The range that was measured.
            let propagation = Duration::from_secs(156) + Duration::from_secs(61).mul_f64(rng.f64());
            let (lateness, needed) = watch(DEFAULT, propagation, &mut learned);
            if number >= 16 {
                late += lateness.as_secs_f64();
                all += propagation.as_secs_f64();
                looks += needed;
            }
        }
        assert!(late / all < 0.03, "{}", late / all);
        assert!(looks / 184 <= 13, "{} looks each", looks / 184);
    }

    #[test]
    fn one_that_is_over_unusually_soon_is_noticed_before_the_usual_time() {
        let mut learned = Learned::default();
        for _ in 0..4 {
            watch(DEFAULT, Duration::from_secs(170), &mut learned);
        }
        // And the more so the next time.
        for allowed in [40, 20, 10, 5] {
            let (late, looks) = watch(DEFAULT, Duration::from_secs(60), &mut learned);
            assert!(late < Duration::from_secs(allowed), "{late:?}");
            assert!(looks <= 10, "{looks}");
        }
    }

    proptest! {
        #[test]
        fn looks_keep_their_distance_and_never_stop(
            min in 50u64..5_000, extra in 0u64..30_000, propagation in 0u64..600_000,
            earlier in proptest::collection::vec(1u64..600_000, 0..5),
        ) {
            let pace = Pace {
                min: Duration::from_millis(min),
                max: Duration::from_millis(min + extra),
            };
            let mut learned = Learned::default();
            for earlier in earlier {
                watch(pace, Duration::from_millis(earlier), &mut learned);
            }
            let mut previous = None;
            while previous < Some(Duration::from_millis(propagation)) {
                let next = pace.next(previous, &learned);
                let gap = next - previous.unwrap_or_default();
                prop_assert!(previous.is_none() || gap >= pace.min);
                let known = learned.due().map_or(Duration::ZERO, |due| due.earliest);
                let apart = pace.max.max(FIRST + BEHIND).max(known.mul_f64(BEFORE_DUE));
                prop_assert!(gap <= apart);
                previous = Some(next);
            }
        }
    }

    /// The looks up to that many, in seconds after the change.
    fn looks(learned: &Learned, count: usize) -> Vec<f64> {
        std::iter::successors(Some(DEFAULT.next(None, learned)), |previous| {
            Some(DEFAULT.next(Some(*previous), learned))
        })
        .take(count)
        .map(|look| (look.as_secs_f64() * 1000.0).round() / 1000.0)
        .collect()
    }

    #[test]
    fn looks_follow_the_grid_until_a_propagation_is_known_and_that_from_then_on() {
        let mut grid = vec![2.1, 5.1, 10.1, 20.1, 30.1];
        grid.extend((3..=10).map(|n| f64::from(n) * 15.0 + 0.1));
        grid.extend((16..=24).map(|n| f64::from(n) * 10.0 + 0.1));
        grid.extend([255.1, 270.1]);
        assert_eq!(looks(&Learned::NOTHING, grid.len()), grid);

        let mut learned = Learned::default();
        learned.record(Duration::from_secs(100), Duration::from_secs(170));
        let due = Due {
            earliest: Duration::from_millis(152_500),
            expected: Duration::from_secs(170),
            latest: Duration::from_secs(170),
        };
        assert_eq!(learned.due(), Some(due));
        let known = [91.5, 154.7, 159.8, 164.9, 170.0, 175.1, 180.353];
        assert_eq!(looks(&learned, known.len()), known);
        assert_eq!(DEFAULT.apart(&learned), Duration::from_millis(91_500));
        // Just before the expected end there is no room for another look.
        let next = DEFAULT.next(Some(Duration::from_secs(169)), &learned);
        assert_eq!(next, Duration::from_secs(171));
    }

    #[test]
    fn the_last_sixteen_are_remembered() {
        let mut learned = Learned::default();
        for seconds in 1..=20 {
            let seen = Duration::from_secs(seconds);
            learned.record(seen, seen);
        }
        let due = learned.due().unwrap();
        assert_eq!(due.earliest, Duration::from_secs(5));
        assert_eq!(due.expected, Duration::from_secs(13));
    }
}
