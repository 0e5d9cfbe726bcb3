//! When to look at a propagation again. Pure: no I/O, no clock.
//!
//! The first time, looks follow a fixed grid that thins out as the wait grows longer: the error it
//! adds stays a small part of the wait. Once propagations have been seen to the end, looks are rare
//! before one is due and lie where the last ones ended.

use std::collections::VecDeque;
use std::time::Duration;

/// How many past propagations are remembered.
const REMEMBERED: usize = 16;

/// Added to the first look, so that looks fall just behind the round times at which a propagation
/// tends to end, and not just before them.
const BEHIND: Duration = Duration::from_millis(100);

/// The longest first delay.
const FIRST: Duration = Duration::from_secs(1);

/// The bounds within which looks are paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// No two looks at one distribution are closer.
    pub min: Duration,
    /// No two looks of one wait are farther apart.
    pub max: Duration,
}

/// What earlier propagations took.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Each lay between the last look that did not see it and the first that did.
    seen: VecDeque<(Duration, Duration)>,
}

impl Learned {
    /// Remembers a propagation that was unseen at `unseen` and seen at `seen`, both counted from
    /// the change.
    pub fn record(&mut self, unseen: Duration, seen: Duration) {
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((unseen, seen));
    }

    /// When the next propagation is due: not before the first, probably at the second.
    #[must_use]
    pub fn due(&self) -> Option<(Duration, Duration)> {
        let earliest = self.seen.iter().map(|(unseen, _)| *unseen).min()?;
        let mut ends: Vec<Duration> = self.seen.iter().map(|(_, seen)| *seen).collect();
        ends.sort_unstable();
        Some((earliest, ends[ends.len() / 2]))
    }
}

impl Pace {
    /// The next look, counted from the change that is waited for. `previous` is the look before
    /// it, `None` for the first.
    #[must_use]
    pub fn next(self, previous: Option<Duration>, learned: &Learned) -> Duration {
        let from = previous.unwrap_or(Duration::ZERO);
        if let Some((earliest, expected)) = learned.due()
            && from < expected
        {
            if from + self.max < earliest {
                return from + self.max;
            }
            if previous.is_none() || expected >= from + self.min {
                return expected.min(from + self.max).max(self.first());
            }
        }
        match previous {
            None => self.first(),
            Some(previous) => previous + self.interval(previous),
        }
    }

    fn first(self) -> Duration {
        self.min.min(FIRST) + BEHIND
    }

    fn interval(self, elapsed: Duration) -> Duration {
        let interval = match elapsed.as_secs() {
            ..5 => self.min,
            5..30 => self.min.mul_f64(1.25),
            30..120 => self.min.mul_f64(2.5),
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
        for (seconds, allowed) in [(5, 0.5), (30, 0.04 * 60.0), (170, 0.03 * 340.0)] {
            let mut learned = Learned::default();
            let propagation = Duration::from_secs(seconds);
            let (first, _) = watch(DEFAULT, propagation, &mut learned);
            let (second, looks) = watch(DEFAULT, propagation, &mut learned);
            assert!(
                (first + second).as_secs_f64() <= allowed,
                "{seconds} s: {first:?} {second:?}"
            );
            assert!(
                looks <= 13,
                "{seconds} s took {looks} looks although it was known"
            );
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
                prop_assert!(gap <= pace.max.max(FIRST + BEHIND));
                previous = Some(next);
            }
        }
    }
}
