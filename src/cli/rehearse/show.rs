//! What a rehearsal shows while it goes on: a line for everything that happens and, on a terminal,
//! what each service is waiting for right now.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Options, Scene};
use crate::cli::terminal::{self, describe, found, held};
use crate::telemetry::{Milestone, What};

/// How often the waits on a terminal are redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// The running commentary.
pub(super) struct Show {
    began: Instant,
    /// By execution id.
    names: HashMap<String, String>,
    width: usize,
    live: Option<Live>,
}

struct Live {
    screen: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Show {
    pub(super) fn new(scene: &Scene, began: Instant) -> Self {
        let names: HashMap<_, _> = scene
            .rejections
            .iter()
            .map(|rejection| {
                (
                    rejection.service.execution_id.clone(),
                    rejection.service.name.clone(),
                )
            })
            .collect();
        let width = names.values().map(String::len).max().unwrap_or(0);
        let live = std::io::stdout().is_terminal().then(|| Live {
            screen: MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout()),
            bars: HashMap::new(),
        });
        Self {
            began,
            names,
            width,
            live,
        }
    }

    pub(super) fn opening(&self, options: &Options, endpoint: &str) {
        self.line(&format!(
            "rehearsing {} rejection(s), propagation {}, faults {:?}, seed {}, AWS at {endpoint}",
            self.names.len(),
            humantime::format_duration(options.propagation),
            options.faults,
            options.seed,
        ));
    }

    /// Shows one milestone.
    pub(super) fn milestone(&mut self, milestone: &Milestone) {
        let Some(name) = self.names.get(&milestone.execution_id).cloned() else {
            return;
        };
        let said = match &milestone.what {
            What::Started { pipeline } => format!("rejected in {pipeline}: cleanup started"),
            What::Applied { step } => describe(step).to_owned(),
            What::Found { step } => format!("found: {}", found(step)),
            What::Waiting { wait } => {
                self.wait(&name, Some(describe(wait)));
                if self.live.is_some() {
                    return;
                }
                format!("waiting for {}", describe(wait))
            }
            What::Held { by } => {
                self.wait(&name, Some(describe("execution_at_work")));
                held(by)
            }
            What::Waited { wait, took } => {
                self.wait(&name, None);
                format!("waited {:.1} s for {}", took.as_secs_f64(), describe(wait))
            }
            What::Ended {
                code,
                took,
                success,
            } => {
                self.wait(&name, None);
                let how = if *success {
                    "job done"
                } else {
                    "job ended for now"
                };
                format!("{how}: {} ({:.1} s)", describe(code), took.as_secs_f64())
            }
            What::Deleted => "message deleted".to_owned(),
        };
        self.line(&format!("{name:width$}  {said}", width = self.width));
    }

    /// Ends a redraw interval.
    pub(super) async fn tick(&self) {
        let Some(live) = &self.live else {
            return std::future::pending().await;
        };
        tokio::time::sleep(REDRAW).await;
        for bar in live.bars.values() {
            bar.tick();
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn close(&mut self) {
        if let Some(live) = self.live.take() {
            for bar in live.bars.into_values() {
                bar.finish_and_clear();
            }
        }
    }

    fn wait(&mut self, name: &str, what: Option<&str>) {
        let Some(live) = &mut self.live else { return };
        if let Some(bar) = live.bars.remove(name) {
            bar.finish_and_clear();
        }
        let Some(what) = what else { return };
        let style = ProgressStyle::with_template("           {spinner} {msg} {elapsed}");
        let bar = live.screen.add(
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())),
        );
        bar.set_message(format!("{name}  waiting for {what}"));
        live.bars.insert(name.to_owned(), bar);
    }

    fn line(&self, text: &str) {
        let line = format!("{:>8.2} s  {text}", self.began.elapsed().as_secs_f64());
        match &self.live {
            // A terminal that went away is no reason to stop the rehearsal.
            Some(live) => drop(live.screen.println(line)),
            None => terminal::line(&line),
        }
    }
}
