//! Waiting for somebody who is rightly at work: another execution, or another job of the same production
//! distribution.
//!
//! **Guarantees.** Whoever waits for an execution holds no turn, neither in this process nor in the ledger,
//! and whoever waits has no place among those that work.
//! Of those who wait for the executions of one production distribution only the first asks CodePipeline. A
//! stop ends any wait, and nothing is done because a wait took long.

use std::time::Duration;

use tokio::time::sleep;

use super::question::{Answer, Obstacle};
use super::run::Run;
use super::{Ended, Halt};
use crate::domain::at_work::{SHOWN_AFTER, Scope};
use crate::domain::history::Kind;
use crate::ledger::Bound;
use crate::runtime::lasting::Lasting;
use crate::telemetry::events;

/// Between two questions: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Between two attempts to take a production distribution that another instance, or a person, holds.
const FIRST_TRY: Duration = Duration::from_secs(1);
const LONGEST_TRY: Duration = Duration::from_secs(10);

/// The name of the wait for executions, in logs and in a job's history.
const HELD: &str = "execution_at_work";

/// The name of the wait for the production distribution.
const BUSY: &str = "production_busy";

/// Pauses of a wait, each half as long again.
pub(super) struct Pauses {
    pub(super) next: Duration,
    pub(super) longest: Duration,
}

impl Pauses {
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.mul_f64(1.5).min(self.longest);
        pause
    }
}

impl Run<'_> {
    /// Waits, without the turn, until nobody is at work; then takes the turn again.
    pub(super) async fn hold(
        &mut self,
        before: &'static str,
        scope: Scope,
        mut obstacle: Obstacle,
    ) -> Result<(), Halt> {
        let has_turn = self.job.removal().is_none();
        if has_turn {
            self.give_turn_back().await?;
        }
        self.note(Kind::Waiting, HELD);
        let mut waiting = Lasting::begin();
        let mut pauses = Pauses {
            next: FIRST_PAUSE,
            longest: LONGEST_PAUSE,
        };
        self.say(before, &obstacle, None);
        self.rest(HELD);
        let own_execution = obstacle.busy.execution_id == self.job.execution_id();
        // Who waits for his own execution waits for nobody else.
        let _first = match own_execution {
            true => None,
            false => {
                let queues = &self.context.queues;
                let line = queues.first_in_line(&self.binding.production_id, scope);
                let say = |took| self.say(before, &obstacle, Some(took));
                let line = waiting.until(line, say);
                Some(self.calls.unless_stopped(line).await?)
            }
        };
        loop {
            let pause = {
                let say = |took| self.say(before, &obstacle, Some(took));
                let pause = waiting.until(sleep(pauses.pause()), say);
                self.calls.unless_stopped(pause).await
            };
            pause?;
            let asked = self.asked(scope);
            let reply = self
                .calls
                .call(|| self.calls.ask(asked, &self.learned))
                .await?;
            match self.calls.answer(before, reply) {
                Answer::Yes => break,
                Answer::Ends(ended) => return Err(self.fall_away(ended).await),
                Answer::NotNow(still) => obstacle = still,
            }
            self.rest(HELD);
        }
        drop(_first);
        if !own_execution {
            // Its end may lie in the future of our clock, by which the answer goes.
            let shown = sleep(SHOWN_AFTER);
            self.calls.unless_stopped(shown).await?;
        }
        self.context.telemetry.emit(events::HoldEnded {
            job: self.job.execution_id(),
            waiting_for: HELD,
            took: waiting.took(),
        });
        self.note(Kind::Waited, HELD);
        if has_turn {
            self.take_turn().await?;
            self.hold_production().await?;
        }
        self.go_on().await?;
        self.lookout.forget_all();
        self.moved();
        Ok(())
    }

    fn say(&self, before: &'static str, obstacle: &Obstacle, since: Option<Duration>) {
        self.context.telemetry.emit(events::HeldForExecution {
            job: self.job.execution_id(),
            step: before,
            pipeline: &obstacle.pipeline,
            busy: &obstacle.busy,
            since,
        });
    }

    async fn give_turn_back(&mut self) -> Result<(), Halt> {
        self.turn = None;
        let yielded = self.job.grant.yield_production().await;
        yielded.map_err(|error| Ended::Failed(super::Failure::Ledger(error)).into())
    }

    /// Takes the production distribution in the ledger, as soon as no other job holds it. A person is told at
    /// once instead.
    pub(super) async fn hold_production(&mut self) -> Result<(), Halt> {
        let mut waiting: Option<Lasting> = None;
        let mut pauses = Pauses {
            next: FIRST_TRY,
            longest: LONGEST_TRY,
        };
        loop {
            let until = match self.try_store().await? {
                Bound::Bound => break,
                Bound::ProductionBusy { until } if self.job.is_by_hand() => {
                    return Err(Ended::ProductionBusy { until }.into());
                }
                Bound::ProductionBusy { until } => until,
            };
            if waiting.is_none() {
                self.note(Kind::Waiting, BUSY);
            }
            let first = waiting.is_none();
            let since = waiting.get_or_insert_with(Lasting::begin).again();
            if first || since.is_some() {
                self.context.telemetry.emit(events::HeldForProduction {
                    job: self.job.execution_id(),
                    production_id: &self.binding.production_id,
                    until,
                    since,
                });
            }
            self.rest(BUSY);
            let pause = sleep(pauses.pause());
            self.calls.unless_stopped(pause).await?;
        }
        if let Some(waiting) = waiting {
            self.go_on().await?;
            self.note(Kind::Waited, BUSY);
            self.context.telemetry.emit(events::HoldEnded {
                job: self.job.execution_id(),
                waiting_for: BUSY,
                took: waiting.took(),
            });
            self.lookout.forget_all();
            self.moved();
        }
        Ok(())
    }
}
