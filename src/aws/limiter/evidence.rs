//! Whether a limit would explain which calls were throttled.
//!
//! A limit throttles a call where as many as it allows were answered within its window before, and answers one
//! where fewer were. In a window that is a little longer than the limit's own, at most twice as many are answered
//! as before a call that is throttled. Of a bucket that refills that holds for the time in which it fills up: the
//! burst, and what refills meanwhile. After a call that is throttled, no more are answered than have left the window
//! since, or have refilled the bucket. So a window in which more were answered is not that of a limit; and where no
//! window is left, the rate of these calls is not why they are throttled.
//!
//! **Guarantees.** Pure, and bounded in memory.
//!
//! **Not handled.** A limit over more than the longest window; one that counts throttled calls too; one that
//! others use as well. They look like no limit at all.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Kind;

/// The shortest window, and how many there are: each is a fifth longer than the one before. The longest is 64 s,
/// which keeps a limit of two a minute.
const SHORTEST: Duration = Duration::from_millis(125);
const WINDOWS: u8 = 37;

/// So many times the one before is each window.
const LONGER: f64 = 1.19;

/// For so long a call that was throttled counts. Then what the limit was may not be so any more.
const MEMORY: Duration = Duration::from_secs(64);

/// An answered call is remembered for so long: as far back as a window reaches that ends with a call that counts.
const KEPT: Duration = Duration::from_secs(128);

/// No more answered calls are remembered, and no more throttled ones of a kind.
const MOST_ANSWERED: usize = 1024;
const MOST_THROTTLED: usize = 64;

/// Before so many calls were answered beside the throttled ones, nothing is known.
const ENOUGH: usize = 4;

/// What became of the calls of late.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// When each was sent, in this order.
    answered: VecDeque<(Instant, Kind)>,
    /// Answered calls up to this one are not remembered any more although they would count.
    forgotten: Option<Instant>,
    /// When each was sent, and when that it was throttled was known.
    throttled: [VecDeque<(Instant, Instant)>; 2],
}

impl Evidence {
    /// A call that was sent at `sent` was answered.
    pub(super) fn answered(&mut self, kind: Kind, sent: Instant, now: Instant) {
        let at = self.answered.partition_point(|(at, _)| *at <= sent);
        self.answered.insert(at, (sent, kind));
        let old = self.answered.partition_point(|(at, _)| *at + KEPT < now);
        self.answered.drain(..old);
        if self.answered.len() > MOST_ANSWERED {
            self.forgotten = self.answered.pop_front().map(|(at, _)| at);
        }
    }

    /// A call that was sent at `sent` was throttled.
    pub(super) fn throttled(&mut self, kind: Kind, sent: Instant, now: Instant) {
        let throttled = &mut self.throttled[kind as usize];
        throttled.push_back((sent, now));
        if throttled.len() > MOST_THROTTLED {
            throttled.pop_front();
        }
    }

    /// Whether calls were throttled that no limit would have throttled: neither one on all calls nor one on the
    /// calls of their kind.
    pub(super) fn refutes_a_limit(&mut self, now: Instant) -> bool {
        for throttled in &mut self.throttled {
            while throttled
                .front()
                .is_some_and(|(sent, _)| *sent + MEMORY < now)
            {
                throttled.pop_front();
            }
        }
        let all: Vec<_> = self.throttled.iter().flatten().copied().collect();
        let Some(first) = all.iter().map(|(sent, _)| *sent).min() else {
            return false;
        };
        let since = self.answered.partition_point(|(at, _)| *at <= first);
        if self.answered.len() - since < ENOUGH || self.explains(None, &all) {
            return false;
        }
        [Kind::Read, Kind::Change].into_iter().any(|kind| {
            let throttled = self.throttled[kind as usize].make_contiguous();
            let throttled = throttled.to_vec();
            !throttled.is_empty() && !self.explains(Some(kind), &throttled)
        })
    }

    /// Whether a limit on the calls of a kind, or on all, explains what was throttled.
    fn explains(&self, kind: Option<Kind>, throttled: &[(Instant, Instant)]) -> bool {
        let counts = |it: &&(Instant, Kind)| kind.is_none_or(|kind| it.1 == kind);
        let answered: Vec<Instant> = self.answered.iter().filter(counts).map(|it| it.0).collect();
        (0..WINDOWS).any(|number| {
            let window = SHORTEST.mul_f64((f64::from(number) / 4.0).exp2());
            self.explains_within(window, &answered, throttled)
        })
    }

    fn explains_within(
        &self,
        window: Duration,
        answered: &[Instant],
        throttled: &[(Instant, Instant)],
    ) -> bool {
        let up_to = |then: Instant| answered.partition_point(|at| *at <= then);
        let before = |then: Instant| then.checked_sub(window);
        let mut least = usize::MAX;
        for (sent, known) in throttled {
            let from = before(*sent);
            if from < self.forgotten {
                // How many there were cannot be told.
                return true;
            }
            // Those that were sent meanwhile may have been answered before it was throttled.
            least = least.min(up_to(*known) - from.map_or(0, up_to));
        }
        let first = throttled.iter().min();
        if first.is_some_and(|first| refills_too_soon(window, answered, *first)) {
            return false;
        }
        let mut from = 0;
        for (index, at) in answered.iter().enumerate() {
            while answered[from] + window <= *at {
                from += 1;
            }
            if is_more_than_twice(index - from, least) {
                return false;
            }
        }
        true
    }
}

/// Whether more was answered after a throttled call than what has left the window since, or has refilled a bucket.
fn refills_too_soon(
    window: Duration,
    answered: &[Instant],
    (sent, known): (Instant, Instant),
) -> bool {
    let up_to =
        |then: Option<Instant>| then.map_or(0, |then| answered.partition_point(|at| *at <= then));
    // The limit's own window is shorter, by this at the most.
    let least = window.div_f64(LONGER);
    let (begins, full) = (up_to(sent.checked_sub(window)), up_to(Some(known)));
    let refills = LONGER * (full - begins) as f64 / window.as_secs_f64();
    let after = answered[full..].iter().take_while(|at| **at < sent + least);
    after.enumerate().any(|(index, at)| {
        let left = up_to(at.checked_sub(least)).saturating_sub(begins);
        let refilled = (*at - sent).as_secs_f64() * refills;
        index as f64 > left as f64 + 1.0 + refilled
    })
}

/// Twice as many as were answered before a throttled call, the call itself counted, and a fifth for the window.
fn is_more_than_twice(answered: usize, throttled: usize) -> bool {
    (answered + 1) * 5 > throttled.saturating_mul(11)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many calls at random moments, of which a service throttles some. After how many no limit explained it.
    fn refuted_after(
        calls: usize,
        seed: u64,
        mut throttles: impl FnMut(&mut fastrand::Rng, Instant) -> bool,
    ) -> Option<usize> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut evidence, mut at) = (Evidence::default(), Instant::now());
        // Calls come in bursts, and at all distances.
        let slowest = 16.0_f64.powf(rng.f64() * 2.0 - 1.0);
        (0..calls).find(|_| {
            at += Duration::from_secs_f64(slowest * rng.f64().powi(3));
            let kind = [Kind::Read, Kind::Change][usize::from(rng.u8(..4) == 0)];
            let known = at + Duration::from_millis(rng.u64(5..80));
            match throttles(&mut rng, at) {
                true => evidence.throttled(kind, at, known),
                false => evidence.answered(kind, at, known),
            }
            evidence.refutes_a_limit(known)
        })
    }

    #[test]
    fn a_limit_explains_what_it_throttles_whatever_it_is() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (most, window) = (rng.usize(1..40), 64.0 * rng.f64().powi(3));
            let window = Duration::from_secs_f64(window.max(0.15));
            let mut answered = VecDeque::new();
            let found = refuted_after(800, seed, |_, at| {
                let old = answered.partition_point(|it| *it + window <= at);
                answered.drain(..old);
                let full = answered.len() >= most;
                if !full {
                    answered.push_back(at);
                }
                full
            });
            assert_eq!(found, None, "{most} in {window:?}, seed {seed}");
        }
    }

    #[test]
    fn so_does_a_bucket_that_refills_within_the_longest_window() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = 20.0 * rng.f64().powi(2) + 0.2;
            // Empty again after at most 20 s.
            let burst = (1.0 + rng.f64() * (rate * 20.0 - 1.0)).round();
            let (mut level, mut last) = (burst, None);
            let found = refuted_after(800, seed, |_, at| {
                let since = last
                    .replace(at)
                    .map_or(0.0, |last| (at - last).as_secs_f64());
                level = (level + since * rate).min(burst);
                let empty = level < 1.0;
                if !empty {
                    level -= 1.0;
                }
                empty
            });
            assert_eq!(found, None, "{rate} a second, {burst} at once, seed {seed}");
        }
    }

    #[test]
    fn chance_is_found_out_soon() {
        let mut after: Vec<_> = (0..200)
            .map(|seed| refuted_after(200, seed, |rng, _| rng.f64() < 0.3))
            .map(|found| found.unwrap_or(usize::MAX))
            .collect();
        after.sort_unstable();
        let (half, most) = (after[100], after[190]);
        assert!(
            half <= 20 && most <= 100,
            "half after {half}, most after {most}"
        );
    }
}
