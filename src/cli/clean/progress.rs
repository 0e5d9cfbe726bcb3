//! What `clean` shows while it works: a line for everything that happens and, on a terminal, how
//! far it is and how long it may still take.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::cli::terminal::{describe, found, held, line, rough};
use crate::reconcile::dry_run::{Forecast, Planned};
use crate::telemetry::{Milestone, What};

/// How often the bar is redrawn.
const REDRAW: Duration = Duration::from_millis(200);

/// How far the job is.
pub(super) struct Progress {
    began: Instant,
    bar: Option<ProgressBar>,
    /// How long a propagation usually takes.
    usual: Option<Duration>,
    /// The waits for propagation that lie ahead, in order; the first may be going on.
    ahead: Vec<&'static str>,
    waiting: Option<(&'static str, Instant)>,
}

/// Waits for somebody else, which no forecast has.
fn is_foreseen(wait: &str) -> bool {
    !matches!(wait, "execution_at_work" | "production_busy")
}

fn propagates(wait: &str) -> bool {
    matches!(wait, "detach_propagated" | "disable_propagated")
}

impl Progress {
    pub(super) fn new(forecast: &Forecast, usual: Option<Duration>, began: Instant) -> Self {
        let steps = forecast.steps.iter();
        let waits = steps.filter(|step| matches!(step, Planned::Wait(_)));
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(forecast.steps.len() as u64),
                ProgressDrawTarget::stdout(),
            );
            let style = ProgressStyle::with_template("{spinner} [{bar:20}] {pos}/{len}  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        if bar.is_none() {
            line("");
        }
        Self {
            began,
            bar,
            usual,
            ahead: waits
                .map(Planned::name)
                .filter(|it| propagates(it))
                .collect(),
            waiting: None,
        }
    }

    pub(super) fn milestone(&mut self, milestone: &Milestone) {
        match &milestone.what {
            What::Applied { step } => {
                self.advance();
                self.say(describe(step));
            }
            What::Found { step } => self.say(&format!("found: {}", found(step))),
            What::Waiting { wait } => {
                self.waiting = Some((wait, Instant::now()));
                if self.bar.is_none() {
                    self.say(&format!("waiting for {}", describe(wait)));
                }
            }
            What::Held { by } => {
                self.waiting = Some(("execution_at_work", Instant::now()));
                self.say(&held(by));
            }
            What::Waited { wait, took } => {
                self.waiting = None;
                if let Some(index) = self.ahead.iter().position(|it| it == wait) {
                    self.ahead.remove(index);
                }
                if is_foreseen(wait) {
                    self.advance();
                }
                self.say(&format!("waited {} for {}", rough(*took), describe(wait)));
            }
            What::Started { .. } | What::Ended { .. } | What::Deleted => {}
        }
        self.redraw();
    }

    /// A line above the bar.
    pub(super) fn say(&self, what: &str) {
        let text = format!("{:>8.1} s  {what}", self.began.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(text),
            None => line(&text),
        }
    }

    /// Ends a redraw interval.
    pub(super) async fn tick(progress: Option<&Self>) {
        let Some(progress) = progress.filter(|it| it.bar.is_some()) else {
            return std::future::pending().await;
        };
        tokio::time::sleep(REDRAW).await;
        progress.redraw();
    }

    /// Leaves the terminal as it was.
    pub(super) fn close(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn redraw(&self) {
        let Some(bar) = &self.bar else { return };
        let elapsed = rough(self.began.elapsed());
        let doing = match &self.waiting {
            Some((wait, _)) => format!("waiting for {}", describe(wait)),
            None => "working".to_owned(),
        };
        bar.set_message(format!("{doing} · {elapsed} · {}", self.remaining()));
        bar.tick();
    }

    fn remaining(&self) -> String {
        let Some(usual) = self.usual else {
            return "each propagation usually takes minutes".to_owned();
        };
        let ahead = u32::try_from(self.ahead.len()).unwrap_or(u32::MAX);
        let waited = match &self.waiting {
            Some((wait, since)) if propagates(wait) => since.elapsed().min(usual),
            _ => Duration::ZERO,
        };
        match usual.saturating_mul(ahead).saturating_sub(waited) {
            Duration::ZERO if ahead > 0 => "longer than usual".to_owned(),
            left => format!("about {} left", rough(left)),
        }
    }
}
