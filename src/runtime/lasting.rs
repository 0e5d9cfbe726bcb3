//! What lasts is logged when it begins, every five minutes, and when it ends.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What lasts is logged again after this.
const SAY_AGAIN: Duration = Duration::from_secs(5 * 60);

/// What may be a mere lag is logged once it has lasted for so long.
const MORE_THAN_A_LAG: Duration = Duration::from_secs(20);

/// Something that lasts, from its begin on.
#[derive(Clone, Copy, Debug)]
pub struct Lasting {
    began: Instant,
    next: Instant,
}

impl Lasting {
    #[must_use]
    pub fn begin() -> Self {
        let began = Instant::now();
        Self {
            began,
            next: began + SAY_AGAIN,
        }
    }

    /// For how long it has lasted.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// For how long it has lasted, if that is to be logged now.
    pub fn again(&mut self) -> Option<Duration> {
        let now = Instant::now();
        (now >= self.next).then(|| {
            self.next = now + SAY_AGAIN;
            now - self.began
        })
    }

    /// Waits for its end, and calls `say` with its duration every five minutes until then.
    pub async fn until<T>(&mut self, end: impl Future<Output = T>, say: impl Fn(Duration)) -> T {
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                ended = &mut end => return ended,
                () = sleep_until(self.next) => {}
            }
            self.again().into_iter().for_each(&say);
        }
    }
}

/// What is to be logged of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// That it has begun.
    Begins,
    /// That it goes on, and since how long.
    Lasts(Duration),
    /// Nothing.
    Quiet,
}

impl Phase {
    /// For how long it has lasted, where that is to be logged.
    #[must_use]
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Self::Lasts(duration) => Some(duration),
            Self::Begins | Self::Quiet => None,
        }
    }
}

/// What may fail, and for how long it has.
#[derive(Debug, Default)]
pub struct Failing(Option<Lasting>);

impl Failing {
    pub fn failed(&mut self) -> Phase {
        match &mut self.0 {
            Some(lasting) => lasting.again().map_or(Phase::Quiet, Phase::Lasts),
            None => {
                self.0 = Some(Lasting::begin());
                Phase::Begins
            }
        }
    }

    /// It works: for how long it failed, if it did.
    pub fn recovered(&mut self) -> Option<Duration> {
        self.0.take().map(|lasting| lasting.took())
    }

    /// Whether it fails.
    #[must_use]
    pub fn is_so(&self) -> bool {
        self.0.is_some()
    }
}

/// What passes by itself where it is a mere lag: it is logged only where it lasts for longer.
#[derive(Debug, Default)]
pub struct Lagging {
    since: Option<Instant>,
    logged: Failing,
}

impl Lagging {
    /// It is so: for how long it has been, and what is to be logged.
    pub fn lags(&mut self) -> (Duration, Phase) {
        let lasts = self.since.get_or_insert_with(Instant::now).elapsed();
        let phase = match lasts < MORE_THAN_A_LAG {
            true => Phase::Quiet,
            false => self.logged.failed(),
        };
        (lasts, phase)
    }

    /// It is over: for how long it lasted, where that it was so is logged.
    pub fn over(&mut self) -> Option<Duration> {
        let since = self.since.take()?;
        self.logged.recovered().map(|_| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::{advance, sleep};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_said_at_its_begin_every_five_minutes_and_at_its_end() {
        let mut failing = Failing::default();
        assert_eq!(failing.recovered(), None);
        let mut said = Vec::new();
        for minute in 0..12 {
            said.push((minute, failing.failed()));
            advance(MINUTE).await;
        }
        said.retain(|(_, phase)| *phase != Phase::Quiet);
        let expected = [
            (0, Phase::Begins),
            (5, Phase::Lasts(5 * MINUTE)),
            (10, Phase::Lasts(10 * MINUTE)),
        ];
        assert_eq!(said, expected);
        assert_eq!(failing.recovered(), Some(12 * MINUTE));
        assert_eq!(failing.failed(), Phase::Begins);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lag_is_logged_only_where_it_lasts() {
        let mut lagging = Lagging::default();
        assert_eq!(lagging.over(), None);
        assert_eq!(lagging.lags(), (Duration::ZERO, Phase::Quiet));
        advance(MORE_THAN_A_LAG / 2).await;
        assert_eq!(lagging.lags(), (MORE_THAN_A_LAG / 2, Phase::Quiet));
        assert_eq!(lagging.over(), None);

        assert_eq!(lagging.lags(), (Duration::ZERO, Phase::Quiet));
        advance(MORE_THAN_A_LAG).await;
        assert_eq!(lagging.lags(), (MORE_THAN_A_LAG, Phase::Begins));
        assert_eq!(lagging.lags(), (MORE_THAN_A_LAG, Phase::Quiet));
        advance(5 * MINUTE).await;
        let lasts = MORE_THAN_A_LAG + 5 * MINUTE;
        assert_eq!(lagging.lags(), (lasts, Phase::Lasts(5 * MINUTE)));
        assert_eq!(lagging.over(), Some(lasts));
        assert_eq!(lagging.over(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_said_every_five_minutes_until_its_end() {
        let said = RefCell::new(Vec::new());
        let say = |lasts| said.borrow_mut().push(lasts);
        let mut wait = Lasting::begin();
        assert_eq!(
            wait.until(
                async {
                    sleep(12 * MINUTE).await;
                    7
                },
                say
            )
            .await,
            7
        );
        assert_eq!(*said.borrow(), [5 * MINUTE, 10 * MINUTE]);
        assert_eq!(wait.took(), 12 * MINUTE);
    }
}
