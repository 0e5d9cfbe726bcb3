//! The steps before which CodePipeline is asked: the record, the detach and the disable.
//!
//! The ledger's note and a fresh reading of the parameter come first, then the question, then the
//! limiter's turn to make a change. Where the turn comes late, the question is asked again under it.
//!
//! **Guarantees.** No such change is sent more than [`STAYS_TRUE`] after CodePipeline's answer, but for the
//! time that the one call takes. A change is sent once: what became of a lost answer, the next look tells,
//! and CodePipeline is asked again before the next try.
//!
//! **Races.** An approval in those seconds. The promotion that it starts reads `deleted`, since the record
//! comes first; whoever read the id before is an action that CodePipeline shows at work.
//!
//! **Not handled.** After the disable nothing is asked: a retry of the stage finds its staging distribution being
//! taken down.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::question::Answer;
use super::run::Run;
use super::{Ended, Failure, Halt};
use crate::aws::AwsError;
use crate::aws::cloudfront::PreparedUpdate;
use crate::aws::limiter::Turn;
use crate::domain::at_work::Scope;
use crate::domain::decision::{Observed, Owner, Step, owner};
use crate::telemetry::events;

/// For so long an answer of CodePipeline counts.
const STAYS_TRUE: Duration = Duration::from_secs(5);

/// What was read so long before CodePipeline's answer counts as read with it.
pub(super) const A_MOMENT: Duration = Duration::from_secs(1);

/// Under a turn that others wait for, a question may take so long.
const UNDER_TURN: Duration = Duration::from_secs(3);

/// So often the turn is given back because the question took too long.
const TRIES: u32 = 3;

/// A change that is ready to be sent.
enum Prepared {
    Record { read: i64 },
    Update(PreparedUpdate),
}

impl Run<'_> {
    /// Makes one change if CodePipeline does not stand against it. Answers whether it was accepted; if not,
    /// all is looked at again.
    pub(super) async fn apply_questioned(
        &mut self,
        step: Step,
        observed: &Observed,
    ) -> Result<bool, Halt> {
        let name = step.name();
        let scope = self.scope(&step, observed);
        for _ in 0..TRIES {
            self.job.activity.set(name);
            self.note_change(&step).await?;
            let read_at = Instant::now();
            if !self.parameter_is(observed).await? {
                self.context.telemetry.emit(events::StepDeferred {
                    step: name,
                    conflict: None,
                });
                return self.defer().await;
            }
            let prepared = match self.prepare(&step).await {
                Ok(prepared) => prepared,
                Err(Halt::Call(error)) => {
                    self.refused(&step, error).await?;
                    return Ok(false);
                }
                Err(halt) => return Err(halt),
            };
            // The first part of an answer is as old as the question.
            let asked_at = Instant::now();
            if !self.may(name, scope).await? {
                return Ok(false);
            }
            if !self.is_unchanged(&step, observed, read_at).await?
                || !self.production_is(&step, observed).await?
            {
                return self.defer().await;
            }
            let turn = self.change_turn(&step).await?;
            if let Some(asked) = self.asked(scope)
                && asked_at.elapsed() > STAYS_TRUE
            {
                match timeout(UNDER_TURN, self.calls.ask(Some(asked), &self.learned)).await {
                    Ok(Ok(reply)) => match self.calls.answer(name, reply) {
                        Answer::Yes => {}
                        Answer::Ends(ended) => {
                            drop(turn);
                            return Err(self.fall_away(ended).await);
                        }
                        // It is waited for before the next try.
                        Answer::NotNow(_) => return Ok(false),
                    },
                    Ok(Err(_)) | Err(_) => continue,
                }
                match timeout(UNDER_TURN, self.is_unchanged(&step, observed, read_at)).await {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) => {
                        drop(turn);
                        return self.defer().await;
                    }
                    Ok(Err(_)) | Err(_) => continue,
                }
            }
            self.calls.heed_stop()?;
            return self.send(step, prepared, turn).await;
        }
        Err(Ended::Failed(Failure::NotAnswered { step: name }).into())
    }

    /// Asks, before the turn, and waits for whoever is at work. Answers whether the step may be taken now;
    /// after a wait all is looked at again.
    async fn may(&mut self, name: &'static str, scope: Scope) -> Result<bool, Halt> {
        let Some(asked) = self.asked(scope) else {
            return Ok(true);
        };
        let reply = self
            .calls
            .call(|| self.calls.ask(Some(asked), &self.learned))
            .await?;
        match self.calls.answer(name, reply) {
            Answer::Yes => {
                self.cleared.verified = !self.job.is_by_hand();
                Ok(true)
            }
            Answer::Ends(ended) => Err(self.fall_away(ended).await),
            Answer::NotNow(obstacle) => {
                self.hold(name, scope, obstacle).await?;
                Ok(false)
            }
        }
    }

    /// The scope of the question, if CodePipeline is asked at all.
    pub(super) fn asked(&self, scope: Scope) -> Option<Scope> {
        self.context.settings.verify.map(|_| scope)
    }

    /// Which stages of others count. Nobody deploys into a distribution that the parameter never named, or
    /// names no longer by somebody else's write: for its disable only those behind the approval do.
    fn scope(&self, step: &Step, observed: &Observed) -> Scope {
        let binding = self.binding.about(self.index);
        let unnamed = match owner(&binding, observed.parameter.as_ref()) {
            Owner::Us { .. } | Owner::Rewritten => false,
            Owner::SomeoneNewer => true,
            Owner::Nobody | Owner::Invalid => {
                binding.evidence.recorded.is_none() && !binding.evidence.withdrawn
            }
        };
        let never_named = binding.evidence.version == 0;
        match step {
            Step::DisableStaging(_) if unnamed || never_named => Scope::BehindApproval,
            _ => Scope::FromDeployment,
        }
    }

    async fn note_change(&mut self, step: &Step) -> Result<(), Halt> {
        let Step::RecordDeleted { version } = step else {
            let is_noted = self.binding.about(self.index).evidence.detaching;
            if matches!(step, Step::Detach(_)) && !is_noted {
                self.binding.detach(self.index);
                // Noted once more, if a change of another kind was noted.
                self.binding.evidence.touched = false;
            }
            return self.about_to_change(true).await;
        };
        self.takes_deleted().await?;
        let evidence = &mut self.binding.evidence;
        if self.binding.overwriting == Some(*version) && evidence.changed {
            return Ok(());
        }
        evidence.changed = true;
        // What an earlier record came to says nothing of this one.
        evidence.recorded = None;
        self.binding.overwriting = Some(*version);
        self.store().await
    }

    /// Whether the staging parameter is as it was observed.
    async fn parameter_is(&self, observed: &Observed) -> Result<bool, Halt> {
        if self.job.removal().is_some() {
            return Ok(true);
        }
        let name = &self.parameters.staging;
        let now = self.calls.call(|| self.clients.ssm.parameter(name)).await?;
        let seen = |it: &crate::domain::binding::ParameterVersion| (it.version, it.value.clone());
        Ok(now.as_ref().map(seen) == observed.parameter.as_ref().map(seen))
    }

    /// Before the record and the detach, on which AWS sets no condition that is about the staging distribution: whether
    /// that and the parameter are as they were observed, where CodePipeline's answer took its time. Whoever was at work
    /// before the question has written before it.
    async fn is_unchanged(
        &mut self,
        step: &Step,
        observed: &Observed,
        read_at: Instant,
    ) -> Result<bool, Halt> {
        let is_record = matches!(step, Step::RecordDeleted { .. });
        if is_record && read_at.elapsed() > A_MOMENT && !self.parameter_is(observed).await? {
            return Ok(false);
        }
        match step {
            Step::DisableStaging(_) => Ok(true),
            _ => self.staging_is(observed).await,
        }
    }

    /// Whether production is as it was observed, long before the disable; before the record, whether it is on. The
    /// detach is sent under its ETag. Not asked again under the turn, which others wait for.
    async fn production_is(&mut self, step: &Step, observed: &Observed) -> Result<bool, Halt> {
        match step {
            Step::RecordDeleted { .. } => return self.production_is_on().await,
            Step::DisableStaging(_) if self.job.removal().is_none() => {}
            _ => return Ok(true),
        }
        let id = self.binding.production_id.clone();
        let seen = self
            .calls
            .call(|| self.clients.cloudfront.look(&id))
            .await?;
        let same = seen.distribution() == observed.production.as_ref();
        self.lookout.see(&id, seen);
        Ok(same)
    }

    async fn prepare(&self, step: &Step) -> Result<Prepared, Halt> {
        let cloudfront = &self.clients.cloudfront;
        let update = match step {
            Step::RecordDeleted { version } => return Ok(Prepared::Record { read: *version }),
            Step::Detach(production) => {
                let prepare = || cloudfront.prepare_detach(production);
                self.calls.call(prepare).await?
            }
            Step::DisableStaging(staging) => {
                let prepare = || cloudfront.prepare_disable(staging, self.policy_is_gone);
                self.calls.call(prepare).await?
            }
            Step::DeletePolicy { .. } | Step::DeleteStaging(_) => {
                unreachable!("nobody is asked before these")
            }
        };
        Ok(Prepared::Update(update))
    }

    async fn change_turn(&self, step: &Step) -> Result<Turn, Halt> {
        let turn = match step {
            Step::RecordDeleted { .. } => self.clients.ssm.change_turn().await,
            _ => self.clients.cloudfront.change_turn().await,
        };
        self.calls.heed_stop()?;
        Ok(turn?)
    }

    async fn send(&mut self, step: Step, prepared: Prepared, turn: Turn) -> Result<bool, Halt> {
        let sent = match prepared {
            Prepared::Update(update) => {
                self.sent = true;
                let sent = self.clients.cloudfront.update(update, turn).await;
                let lost = |error: &AwsError| error.class.is_transient();
                self.unanswered = sent.as_ref().is_err_and(lost);
                sent
            }
            Prepared::Record { read } => self.record_deleted(read, turn).await?,
        };
        match sent {
            Ok(()) => {
                self.accepted(step);
                Ok(true)
            }
            Err(error) => {
                // The job may have been told to stop before the call was begun.
                self.calls.heed_stop()?;
                self.refused(&step, error).await.map(|()| false)
            }
        }
    }
}
