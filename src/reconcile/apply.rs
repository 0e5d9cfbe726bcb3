//! Making one step, and what its answer tells of the account.
//!
//! **Races.** Someone else may have changed, or have done, what the step is about: then nothing is
//! forced, and all is looked at again.

use super::observe::{Known, Search};
use super::retry::CALL_TRIES;
use super::{Halt, Run};
use crate::aws::AwsError;
use crate::domain::decision::{Observed, Step};
use crate::domain::error_class::{Conflict, ErrorClass};
use crate::domain::found::done_already;
use crate::domain::history::Kind;
use crate::telemetry::events;

/// So often a change that is refused is decided upon anew, as long as every look shows the same.
const SAME_REFUSED: u32 = 3;

impl Run<'_> {
    /// Makes one change before which nobody is asked. Answers whether it was accepted; if not, all is
    /// looked at again.
    pub(super) async fn apply(&mut self, step: Step) -> Result<bool, Halt> {
        self.job.activity.set(step.name());
        self.about_to_change(true).await?;
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
        if let Some(removal) = &self.job.removal {
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

    /// AWS accepted a change.
    pub(super) fn accepted(&mut self, step: Step) {
        self.context.telemetry.emit(events::StepApplied {
            execution_id: &self.job.rejection.execution_id,
            step: step.name(),
        });
        self.note(Kind::Applied, step.name());
        self.shown.insert(step.name());
        self.accept(step);
    }

    /// Shows which steps are done without this run having seen it, each once.
    pub(super) fn show_done(&mut self, observed: &Observed) {
        if self.job.removal.is_some() {
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
            execution_id: &self.job.rejection.execution_id,
            step,
        });
        let trail = self.context.ledger.trail(&self.job.grant);
        if self.index > 0 || !trail.is_some_and(|trail| trail.has_done(step)) {
            self.note(Kind::Found, step);
        }
    }

    /// AWS did not accept a change: what is to be done about it.
    pub(super) async fn refused(&mut self, step: &Step, error: AwsError) -> Result<(), Halt> {
        let name = step.name();
        self.known = Known::default();
        match error.class {
            ErrorClass::NotFound => {
                self.found(name);
                // Of a distribution one answer is not enough: it is observed again.
                if matches!(step, Step::DeletePolicy { .. }) {
                    self.accept(step.clone());
                    return Ok(());
                }
                self.look_again().await
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
                if self.fruitless == 0 {
                    self.context.telemetry.emit(events::StepDeferred {
                        step: name,
                        conflict: Some(conflict),
                    });
                }
                self.progress.conflict = Some(conflict);
                // Some policy lists our staging distribution after all.
                if conflict == Conflict::StagingInUse {
                    self.search = Search::Told;
                }
                Ok(())
            }
            class if class.is_transient() && step.is_questioned() => {
                // It may have taken effect all the same: the next look tells. Nothing is sent again before
                // CodePipeline is asked again.
                self.failures += 1;
                if self.failures >= CALL_TRIES {
                    return Err(error.into());
                }
                let delay = self.calls.delay(self.failures);
                self.context.telemetry.emit(events::CallRetried {
                    error: &error,
                    delay,
                });
                self.calls.unless_stopped(tokio::time::sleep(delay)).await
            }
            _ => Err(error.into()),
        }
    }

    /// AWS itself refused a change. If the very same change, decided upon a fresh look, is refused a few times,
    /// no look will change that: the job fails for now, in AWS's own words.
    async fn refused_though_fresh(&mut self, step: &Step, error: AwsError) -> Result<(), Halt> {
        let times = match self.same_refused.take() {
            Some((same, times)) if same == *step => times + 1,
            _ => 1,
        };
        if times > SAME_REFUSED {
            return Err(error.into());
        }
        self.same_refused = Some((step.clone(), times));
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
                if self.search == Search::Untold {
                    self.search = Search::Done;
                }
            }
            Step::DisableStaging(_) => self.progress.disabled = true,
            Step::DeleteStaging(staging) => {
                self.progress.staging_deleted = true;
                self.known.forget(staging.id());
            }
        }
        self.moved();
    }
}
