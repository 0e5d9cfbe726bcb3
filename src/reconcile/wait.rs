//! Waiting: for a propagation, for someone else, or a moment before the next look.
//!
//! **Guarantees.** A stop ends any wait. A job for which nothing has moved for the propagation timeout
//! gives up, and is resumed on its next receive.
//!
//! **Not handled here.** When to look at what, and how often ([`crate::watch`]).

use tokio::time::Instant;

use super::observe::Known;
use super::{Ended, Failure, Halt, Run};
use crate::binding::Binding;
use crate::history::Kind;
use crate::plan::Wait;
use crate::retry::Backoff;
use crate::telemetry::events;
use crate::watch::Until;

impl Run<'_> {
    /// Waits for what the core waits for, and remembers what was seen in the end.
    pub(super) async fn wait(&mut self, binding: &Binding, wait: Wait) -> Result<(), Halt> {
        if wait == Wait::LookAgain {
            self.job.activity.set(wait.name());
            self.progress.conflict = None;
            self.known = Known::default();
            return self.pause().await;
        }
        let execution_id = &self.job.rejection.execution_id;
        let longest = self.account.watcher.apart();
        self.job.activity.set_for(wait.name(), longest);
        self.context.telemetry.emit(events::WaitStarted {
            execution_id,
            wait: wait.name(),
        });
        self.note(Kind::Waiting, wait.name());

        let began = Instant::now();
        let watcher = &self.account.watcher.for_job(&self.job.activity);
        let (production, staging) = (&binding.production_id, &binding.staging_id);
        // Of a change that is not ours nobody here knows how old it is.
        let changed_at = self.changed_at.take();
        let (id, until) = match wait.clone() {
            Wait::BothDeployed => (production, Until::Deployed),
            Wait::Detached { policy_id } => (production, Until::Detached { policy_id }),
            Wait::PolicyReplaced { policy_id } => (production, Until::Replaced { policy_id }),
            Wait::StagingDeployed => (staging, Until::Deployed),
            Wait::StagingDisabled => (staging, Until::Disabled),
            Wait::StagingGone => (staging, Until::Gone),
            Wait::LookAgain => unreachable!("handled above"),
        };
        let looks = async {
            if wait == Wait::BothDeployed {
                let (production, staging) = tokio::try_join!(
                    watcher.wait(production, changed_at, Until::Deployed),
                    watcher.wait(staging, changed_at, Until::Deployed)
                )?;
                Ok((production, Some(staging)))
            } else {
                Ok((watcher.wait(id, changed_at, until).await?, None))
            }
        };
        let deadline = self.moved_at + self.context.settings.propagation_timeout;
        let seen = tokio::select! {
            biased;
            reason = self.job.stop.stopped() => return Err(Ended::Stopped(reason).into()),
            seen = looks => seen,
            () = tokio::time::sleep_until(deadline) => return Err(self.gave_up(wait.name()).into()),
        };
        let (ended, other) = seen.map_err(|error| Ended::Failed(Failure::Call(error)))?;
        let seen = ended.seen;
        if changed_at.is_some() {
            watcher.learn(seen);
        }
        if id == production {
            self.known.production = Some(ended.sighting);
        } else {
            self.known.staging = Some(ended.sighting);
        }
        if let Some(staging) = other {
            self.known.staging = Some(staging.sighting);
        }
        self.context.telemetry.emit(events::WaitEnded {
            execution_id,
            wait: wait.name(),
            took: began.elapsed(),
            propagation: changed_at.map(|_| seen.after),
        });
        self.note(Kind::Waited, wait.name());
        self.moved();
        Ok(())
    }

    /// The world changed under a step: look again at once, and after a pause if that goes on.
    pub(super) async fn look_again(&mut self) -> Result<(), Halt> {
        if self.fruitless == 0 {
            self.fruitless = 1;
            return Ok(());
        }
        self.pause().await
    }

    /// A moment, longer each time in a row.
    async fn pause(&mut self) -> Result<(), Halt> {
        self.fruitless += 1;
        let pace = self.account.watcher.pace();
        let backoff = Backoff {
            initial: pace.min,
            max: pace.max,
        };
        let pause = backoff.delay(self.fruitless, &mut fastrand::Rng::new());
        let deadline = self.moved_at + self.context.settings.propagation_timeout;
        if Instant::now() + pause > deadline {
            return Err(self.gave_up(self.job.activity.get()).into());
        }
        let activity = &self.job.activity;
        activity.set_for(activity.get(), pause);
        self.calls.unless_stopped(tokio::time::sleep(pause)).await
    }

    fn gave_up(&self, waiting_for: &'static str) -> Ended {
        Ended::Failed(Failure::PropagationTimeout {
            waiting_for,
            after: self.context.settings.propagation_timeout,
        })
    }
}
