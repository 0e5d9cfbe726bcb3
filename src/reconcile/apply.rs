//! Making one step, and what its answer tells of the account.
//!
//! **Races.** Someone else may have changed, or have done, what the step is about: then nothing is
//! forced, and all is looked at again.

use super::observe::Known;
use super::{Halt, Run};
use crate::aws::edit::Edit;
use crate::binding::Binding;
use crate::history::Kind;
use crate::plan::Step;
use crate::retry::{Conflict, ErrorClass};
use crate::telemetry::events;

impl Run<'_> {
    /// Makes one change. Answers whether it was accepted; if not, all is looked at again.
    pub(super) async fn apply(&mut self, binding: &mut Binding, step: Step) -> Result<bool, Halt> {
        let name = step.name();
        self.job.activity.set(name);
        let cloudfront = &self.clients.cloudfront;
        let result = match &step {
            Step::Detach { etag, policy_id } => {
                let edit = Edit::detach(policy_id);
                self.calls
                    .call(|| cloudfront.update(&binding.production_id, etag, edit))
                    .await
            }
            Step::DeletePolicy { policy_id, etag } => {
                self.calls
                    .call(|| cloudfront.delete_policy(policy_id, etag))
                    .await
            }
            Step::DisableStaging { etag } => {
                self.calls
                    .call(|| cloudfront.update(&binding.staging_id, etag, Edit::disable()))
                    .await
            }
            Step::DeleteStaging(staging) => {
                self.calls
                    .call(|| cloudfront.delete_distribution(staging))
                    .await
            }
            Step::RecordDeleted { version } => match self.record_deleted(binding, *version).await {
                Ok(recorded) => {
                    self.progress.recorded = Some(recorded);
                    Ok(())
                }
                Err(halt) => Err(halt),
            },
        };
        let error = match result {
            Ok(()) => {
                self.context.telemetry.emit(events::StepApplied {
                    execution_id: &self.job.rejection.execution_id,
                    step: name,
                });
                self.note(Kind::Applied, name);
                self.accept(step);
                return Ok(true);
            }
            Err(Halt::Call(error)) => error,
            Err(halt) => return Err(halt),
        };
        self.known = Known::default();
        match error.class {
            ErrorClass::NotFound => {
                self.context
                    .telemetry
                    .emit(events::StepWasDone { step: name });
                self.note(Kind::WasDone, name);
                // Not for the distribution of an update: that one is observed again.
                if matches!(step, Step::DeletePolicy { .. } | Step::DeleteStaging(_)) {
                    self.accept(step);
                } else {
                    self.look_again().await?;
                }
                Ok(false)
            }
            ErrorClass::Changed => {
                self.context.telemetry.emit(events::StepDeferred {
                    step: name,
                    conflict: None,
                });
                self.look_again().await?;
                Ok(false)
            }
            ErrorClass::Conflict(conflict) => {
                if self.fruitless == 0 {
                    self.context.telemetry.emit(events::StepDeferred {
                        step: name,
                        conflict: Some(conflict),
                    });
                }
                self.progress.conflict = Some(conflict);
                // Some policy lists our staging distribution after all.
                self.search_policies |= conflict == Conflict::StagingInUse;
                Ok(false)
            }
            _ => Err(error.into()),
        }
    }

    /// Notes what a step that is done has changed.
    fn accept(&mut self, step: Step) {
        match step {
            Step::Detach { policy_id, .. } => self.progress.detached = Some(policy_id),
            Step::DeletePolicy { policy_id, .. } => {
                self.progress.policy_deleted = Some(policy_id);
                self.list_policies = false;
            }
            Step::DisableStaging { .. } => self.progress.disabled = true,
            Step::DeleteStaging(_) => {
                self.progress.staging_deleted = true;
                self.known.staging = None;
            }
            // Its version was noted where it is known.
            Step::RecordDeleted { .. } => {}
        }
        self.moved();
    }
}
