//! Making one step, and what its answer tells of the account.
//!
//! **Races.** Someone else may have changed, or have done, what the step is about: then nothing is
//! forced, and all is looked at again.

use super::Halt;
use super::retry::CALL_TRIES;
use super::run::Run;
use crate::aws::AwsError;
use crate::domain::decision::{Observed, Step};
use crate::domain::error_class::{Conflict, ErrorClass};
use crate::domain::found::done_already;
use crate::domain::history::Kind;
use crate::domain::refusal::Refusal;
use crate::telemetry::events;

/// So often a change that is refused is decided upon anew, as long as every look shows the same.
const SAME_REFUSED: u32 = 3;

/// The code of a value that a parameter's AllowedPattern does not allow (API reference: `PutParameter`).
const PATTERN_MISMATCH: &str = "ParameterPatternMismatchException";

/// The code of a policy that does not exist (API reference: `DeleteContinuousDeploymentPolicy`,
/// `UpdateDistribution`).
const NO_SUCH_POLICY: &str = "NoSuchContinuousDeploymentPolicy";

impl Run<'_> {
    /// Makes one change before which nobody is asked. Answers whether it was accepted; if not, all is
    /// looked at again.
    pub(super) async fn apply(&mut self, step: Step, observed: &Observed) -> Result<bool, Halt> {
        self.job.activity.set(step.name());
        self.about_to_change(true).await?;
        if !self.staging_is(observed).await? {
            return self.defer().await;
        }
        if !self.production_is_on().await? {
            return Ok(false);
        }
        self.sent = true;
        let cloudfront = &self.clients.cloudfront;
        let result = match &step {
            Step::DeletePolicy { policy_id, etag } => {
                self.calls
                    .call(|| cloudfront.delete_policy(policy_id, etag))
                    .await
            }
            Step::DeleteStaging(staging) => {
                self.calls
                    .call(|| cloudfront.delete_distribution(staging))
                    .await
            }
            Step::RecordDeleted { .. } | Step::Detach(_) | Step::DisableStaging(_) => {
                unreachable!("CodePipeline is asked before these")
            }
        };
        match result {
            Ok(()) => {
                self.accepted(step);
                Ok(true)
            }
            Err(Halt::Call(error)) => self.refused(&step, error).await.map(|()| false),
            Err(halt) => Err(halt),
        }
    }

    /// Has the ledger know, before the first change of the job, that there is one; and before the first one
    /// of CloudFront, that there is one.
    pub(super) async fn about_to_change(&mut self, cloudfront: bool) -> Result<(), Halt> {
        if let Some(removal) = self.job.removal() {
            return removal.is_unowned().await;
        }
        let evidence = &mut self.binding.evidence;
        if evidence.changed && (evidence.touched || !cloudfront) {
            return Ok(());
        }
        evidence.changed = true;
        evidence.touched |= cloudfront;
        self.store().await
    }

    /// The first change of all was refused for good: the ledger need not finish the job.
    async fn nothing_was_changed(&mut self) -> Result<(), Halt> {
        let evidence = &mut self.binding.evidence;
        if evidence.touched || evidence.recorded.is_some() || evidence.restored.is_some() {
            return Ok(());
        }
        evidence.changed = false;
        self.binding.overwriting = None;
        self.store().await
    }

    /// AWS accepted a change.
    pub(super) fn accepted(&mut self, step: Step) {
        self.changed_at = Some(self.context.clock.now());
        self.context.telemetry.emit(events::StepApplied {
            execution_id: self.job.execution_id(),
            step: step.name(),
        });
        self.note(Kind::Applied, step.name());
        self.shown.insert(step.name());
        self.accept(step);
    }

    /// Shows which steps are done without this run having seen it, each once.
    pub(super) fn show_done(&mut self, observed: &Observed) {
        if self.job.removal().is_some() {
            return;
        }
        for step in done_already(&self.binding.about(self.index), observed) {
            self.found(step);
        }
    }

    /// A step is found done. What an earlier run has noted of it is not noted again.
    fn found(&mut self, step: &'static str) {
        if !self.shown.insert(step) {
            return;
        }
        self.context.telemetry.emit(events::StepFound {
            execution_id: self.job.execution_id(),
            step,
        });
        if self.index > 0 || !self.job.grant.trail().has_done(step) {
            self.note(Kind::Found, step);
        }
    }

    /// AWS did not accept a change: what is to be done about it.
    pub(super) async fn refused(&mut self, step: &Step, error: AwsError) -> Result<(), Halt> {
        let name = step.name();
        self.lookout.forget_all();
        match error.class {
            // It stands in the configuration that was sent back, and does not exist: the step is not done.
            ErrorClass::NotFound
                if step.is_questioned() && error.code.as_deref() == Some(NO_SUCH_POLICY) =>
            {
                self.policy_is_gone = matches!(step, Step::DisableStaging(_));
                self.refused_though_fresh(step, error).await
            }
            ErrorClass::NotFound => {
                self.found(name);
                // Of a distribution one answer is not enough: it is observed again.
                if matches!(step, Step::DeletePolicy { .. }) {
                    self.policy_said_gone = true;
                    self.accept(step.clone());
                    return Ok(());
                }
                self.look_again().await
            }
            // By a pattern that could not be read here.
            ErrorClass::Rejected if error.code.as_deref() == Some(PATTERN_MISMATCH) => {
                self.nothing_was_changed().await?;
                let pattern = self.form().await?.allowed_pattern;
                let detail = self.place().forbids_deleted(pattern.as_deref());
                Err(self.refuse(Refusal::DeletedNotAllowed, detail))
            }
            ErrorClass::Changed | ErrorClass::Rejected if error.code.is_some() => {
                self.refused_though_fresh(step, error).await
            }
            ErrorClass::Changed => {
                self.context.telemetry.emit(events::StepDeferred {
                    step: name,
                    conflict: None,
                });
                self.look_again().await
            }
            ErrorClass::Conflict(conflict) => {
                if !self.patience.is_fruitless() {
                    self.context.telemetry.emit(events::StepDeferred {
                        step: name,
                        conflict: Some(conflict),
                    });
                }
                self.progress.conflict = Some(conflict);
                // Some policy lists our staging distribution after all: one that was said not to exist may be it.
                if conflict == Conflict::StagingInUse {
                    if std::mem::take(&mut self.policy_said_gone) {
                        self.progress.policy_deleted = None;
                    }
                    self.lookout.policy_exists();
                }
                Ok(())
            }
            class if class.is_transient() && step.is_questioned() => {
                // It may have taken effect all the same: the next look tells. Nothing is sent again before
                // CodePipeline is asked again.
                let failures = self.patience.failed();
                if failures >= CALL_TRIES {
                    return Err(error.into());
                }
                self.calls.pause(&error, failures).await
            }
            _ => Err(error.into()),
        }
    }

    /// AWS itself refused a change. If the very same change, decided upon a fresh look, is refused a few times,
    /// no look will change that: the job fails for now, in AWS's own words.
    async fn refused_though_fresh(&mut self, step: &Step, error: AwsError) -> Result<(), Halt> {
        if self.patience.refused(step) > SAME_REFUSED {
            return Err(error.into());
        }
        self.context.telemetry.emit(events::StepDeferred {
            step: step.name(),
            conflict: None,
        });
        self.look_again().await
    }

    /// Notes what a step that is done has changed.
    fn accept(&mut self, step: Step) {
        match step {
            // Its version was noted where it is known.
            Step::RecordDeleted { .. } => {}
            Step::Detach(production) => {
                self.progress.detached = Some(production.policy_id().to_owned());
            }
            Step::DeletePolicy { policy_id, .. } => {
                self.progress.policy_deleted = Some(policy_id);
                self.lookout.policy_is_gone();
            }
            Step::DisableStaging(_) => self.progress.disabled = true,
            Step::DeleteStaging(staging) => {
                self.progress.staging_deleted = true;
                self.lookout.forget(staging.id());
                // Success goes by a look at production after the last change.
                self.lookout.forget(&self.binding.production_id);
            }
        }
        self.moved();
    }
}
