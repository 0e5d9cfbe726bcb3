//! Waiting: for a propagation, for someone else, or a moment before the next look.
//!
//! **Guarantees.** A stop ends any wait. A job for which nothing has moved for the propagation timeout
//! gives up, and is resumed on its next receive. Production that is switched off ends a wait in which it is
//! looked at.
//!
//! **Not handled here.** When to look at what, and how often ([`crate::reconcile::watch`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::questioned::A_MOMENT;
use super::run::Run;
use super::{Ended, Failure, Halt};
use crate::aws::AwsError;
use crate::aws::cloudfront::Sighting;
use crate::domain::binding::Binding;
use crate::domain::decision::{Refusal, Wait};
use crate::domain::history::Kind;
use crate::reconcile::watch::{self, Until};
use crate::runtime::backoff::Backoff;
use crate::runtime::lasting::Lasting;
use crate::telemetry::{events, fails, ms};

/// Answers that contradict each other for longer are no lag, nor is a policy's use by nobody who is seen.
const CONTRADICTS_AT_MOST: Duration = Duration::from_secs(10 * 60);

/// What cuts a wait off.
enum Cut {
    /// A look failed for good.
    Failed(Arc<AwsError>),
    /// Production is switched off.
    Off(Sighting),
}

impl Run<'_> {
    /// Waits for what the core waits for, and remembers what was seen in the end.
    pub(super) async fn wait(&mut self, wait: Wait) -> Result<(), Halt> {
        if wait == Wait::Evidence {
            return self.wait_for_evidence().await;
        }
        if let Wait::PolicyUnused { policy_id } = &wait {
            return self.wait_for_policy(policy_id).await;
        }
        let binding = self.binding.about(self.index);
        if wait == Wait::LookAgain {
            self.job.activity.set(wait.name());
            self.progress.conflict = None;
            self.lookout.forget_all();
            return self.pause().await;
        }
        let execution_id = self.job.execution_id();
        let longest = self.account.watcher.apart();
        self.job.activity.set_for(wait.name(), longest);
        self.context.telemetry.emit(events::WaitStarted {
            execution_id,
            wait: wait.name(),
        });
        self.note(Kind::Waiting, wait.name());

        let mut waiting = Lasting::begin();
        let lasts = |took| {
            self.context.telemetry.emit(events::WaitLasts {
                wait: wait.name(),
                took,
            });
        };
        // Of a change that is not ours nobody here knows how old it is.
        let changed_at = self.patience.take_changed_at();
        let deadline = self
            .patience
            .ends(self.context.settings.propagation_timeout);
        let ended = tokio::select! {
            biased;
            reason = self.job.stop.stopped() => return Err(Ended::Stopped(reason).into()),
            ended = waiting.until(self.watch(&binding, &wait, changed_at), lasts) => ended,
            () = tokio::time::sleep_until(deadline) => return Err(self.gave_up(wait.name()).into()),
        };
        let (production, staging) = match ended {
            Ok(ended) => ended,
            Err(Cut::Failed(error)) => return Err(Ended::Failed(Failure::Call(error)).into()),
            Err(Cut::Off(seen)) => {
                // The next decision goes by it.
                self.lookout.see(&binding.production_id, seen);
                return Ok(());
            }
        };
        let ours = changed_at.and_then(|_| production.as_ref().or(staging.as_ref()));
        let propagation = ours.map(|ended| ended.seen);
        if let Some(seen) = propagation {
            self.account.watcher.learn(seen);
        }
        if let Some(ended) = production {
            self.lookout.see(&binding.production_id, ended.sighting);
        }
        if let Some(ended) = staging {
            self.lookout.see(&binding.staging_id, ended.sighting);
        }
        self.context.telemetry.emit(events::WaitEnded {
            execution_id,
            wait: wait.name(),
            took: waiting.took(),
            propagation: propagation.map(|seen| seen.after),
        });
        self.note(Kind::Waited, wait.name());
        self.moved();
        Ok(())
    }

    /// Watches production, the staging distribution, or both, until what is waited for is seen there, or production
    /// is switched off.
    async fn watch(
        &self,
        binding: &Binding,
        wait: &Wait,
        changed_at: Option<Instant>,
    ) -> Result<(Option<watch::Ended>, Option<watch::Ended>), Cut> {
        let (production, staging) = match wait.clone() {
            Wait::BothDeployed => (Some(Until::Deployed), Some(Until::Deployed)),
            Wait::Detached { policy_id } => (Some(Until::Detached { policy_id }), None),
            Wait::StagingDeployed => (None, Some(Until::Deployed)),
            Wait::StagingDisabled => (None, Some(Until::Disabled)),
            Wait::StagingGone => (None, Some(Until::Gone)),
            Wait::LookAgain | Wait::PolicyUnused { .. } | Wait::Evidence => (None, None),
        };
        let watcher = &self.account.watcher.for_job(&self.job.activity);
        let ended = async |id, until| {
            let ended = watcher.wait(id, changed_at, until).await;
            ended.map(Some).map_err(Cut::Failed)
        };
        let production_id = &binding.production_id;
        let was_on = binding.evidence.production_enabled;
        let production = async {
            let Some(until) = production else {
                return Ok(None);
            };
            let until = match was_on {
                true => Until::OrOff(Box::new(until)),
                false => until,
            };
            match ended(production_id, until).await? {
                Some(seen) if was_on && is_off(&seen.sighting) => Err(Cut::Off(seen.sighting)),
                seen => Ok(seen),
            }
        };
        let staging = async {
            match staging {
                Some(until) => ended(&binding.staging_id, until).await,
                None => Ok(None),
            }
        };
        tokio::try_join!(production, staging)
    }

    /// Whether production is on, seen no longer ago than a moment, if it was on when the job was bound. A change of this
    /// run that was just accepted shows that, too: it was looked at before.
    pub(super) async fn production_is_on(&mut self) -> Result<bool, Halt> {
        let just_changed = |at| self.context.clock.since(at) < A_MOMENT;
        if !self.binding.evidence.production_enabled || self.changed_at.is_some_and(just_changed) {
            return Ok(true);
        }
        let id = self.binding.production_id.clone();
        let seen = self.look_since(&id, A_MOMENT).await?;
        let is_on = !is_off(&seen);
        self.lookout.see(&id, seen);
        Ok(is_on)
    }

    /// Evidence contradicts itself: looks again for a while, then fails for now.
    async fn wait_for_evidence(&mut self) -> Result<(), Halt> {
        let (lasts, phase) = self.patience.contradicted.lags();
        let contradiction = self.lookout.contradiction();
        self.lookout.forget_all();
        let staging_id = self.binding.about(self.index).staging_id;
        if lasts > CONTRADICTS_AT_MOST {
            return Err(Ended::Failed(Failure::Contradiction {
                staging_id,
                contradiction,
            })
            .into());
        }
        fails!(
            warn,
            phase,
            staging.id = staging_id,
            found = contradiction.to_string(),
            "CloudFront's answers contradict each other: by one there is no such staging distribution; nothing \
             is taken for done"
        );
        self.job.activity.set(Wait::Evidence.name());
        self.pause().await
    }

    /// The evidence does not contradict itself, or not any more.
    pub(super) fn evidence_agrees(&mut self) {
        if let Some(took) = self.patience.contradicted.over() {
            info!(
                took_ms = ms(took),
                "CloudFront's answers agree with each other again"
            );
        }
    }

    /// Production does not name our policy, and CloudFront says that it is in use: tries again for a while, then
    /// refuses. Another distribution has it, such as the one that the production parameter named before.
    async fn wait_for_policy(&mut self, policy_id: &str) -> Result<(), Halt> {
        let (lasts, phase) = self.patience.in_use.lags();
        self.lookout.forget_all();
        self.progress.conflict = None;
        let binding = self.binding.about(self.index);
        if lasts > CONTRADICTS_AT_MOST {
            let detail = self.place().policy_in_use(policy_id, &binding);
            return Err(self.refuse(Refusal::PolicyAttachedElsewhere, detail));
        }
        fails!(
            warn,
            phase,
            policy.id = policy_id,
            production.id = binding.production_id,
            "the policy is in use, and production does not name it: detach it from the distribution that names \
             it, such as the one that the production parameter named before"
        );
        self.job.activity.set("policy_unused");
        self.pause().await
    }

    /// Something moved: the policy is not waited for any more.
    pub(super) fn policy_is_unused(&mut self) {
        if let Some(took) = self.patience.in_use.over() {
            info!(
                took_ms = ms(took),
                "the policy that was in use is not waited for any more"
            );
        }
    }

    /// The world changed under a step: look again at once, and after a pause if that goes on.
    pub(super) async fn look_again(&mut self) -> Result<(), Halt> {
        if !self.patience.is_fruitless() {
            self.patience.fruitless();
            return Ok(());
        }
        self.pause().await
    }

    /// The same of a step that is not taken now.
    pub(super) async fn defer(&mut self) -> Result<bool, Halt> {
        self.look_again().await.map(|()| false)
    }

    /// A moment, longer each time in a row.
    async fn pause(&mut self) -> Result<(), Halt> {
        let fruitless = self.patience.fruitless();
        let pace = self.account.watcher.pace();
        let backoff = Backoff {
            initial: pace.min,
            max: pace.max,
        };
        let pause = backoff.delay(fruitless, &mut fastrand::Rng::new());
        let deadline = self
            .patience
            .ends(self.context.settings.propagation_timeout);
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

/// Whether a distribution is disabled.
fn is_off(seen: &Sighting) -> bool {
    seen.distribution().is_some_and(|it| !it.enabled)
}
