//! Asking CodePipeline whether a rejection still stands, before anything is changed for it.
//!
//! Before the first change of each run, and again before the staging distribution is disabled: until
//! then a retry could still be approved. Before a program, where nothing was asked for until then. What
//! it decides is [`crate::verdict`].

use super::calls::Calls;
use super::{Ended, Failure, Halt, Run};
use crate::config::OnTimeout;
use crate::plan::{Outcome, Step};
use crate::target::Access;
use crate::telemetry::events;
use crate::verdict::{Verdict, judge};

impl Run<'_> {
    /// Passes if the step may be taken; ends or fails the job as [`Calls::verify`] does.
    pub(super) async fn verify_before(&mut self, step: &Step) -> Result<(), Halt> {
        if !self.verified || matches!(step, Step::DisableStaging { .. }) {
            self.verified = self.calls.verify(step.name()).await?;
        }
        Ok(())
    }
}

impl Calls<'_> {
    /// Asks CodePipeline, and answers whether it was asked. Ends the job if its rejection was taken
    /// back, or is none of ours; fails it if that cannot be told.
    pub(super) async fn verify(&self, before: &'static str) -> Result<bool, Halt> {
        let Some(on_timeout) = self.context.settings.verify else {
            return Ok(false);
        };
        let rejection = &self.job.rejection;
        self.job.activity.set("asking_codepipeline");
        let access = Access {
            role: self.job.target.access.role.clone(),
            region: rejection.pipeline.region.clone(),
        };
        let account = self.context.accounts.get(&access);
        let clients = account.clients.for_job(&self.job.stop, &self.job.activity);
        let codepipeline = &clients.codepipeline;
        let (pipeline, execution_id) = (&rejection.pipeline.name, &rejection.execution_id);
        let seen = self
            .call(|| codepipeline.look(pipeline, execution_id))
            .await?;
        let verdict = judge(rejection, &seen);
        self.context.telemetry.emit(events::RejectionChecked {
            execution_id,
            before,
            verdict,
        });
        match verdict {
            Verdict::Stands { timed_out: true } if on_timeout == OnTimeout::Ignore => {
                Err(Ended::Succeeded(Outcome::Expired).into())
            }
            Verdict::Stands { .. } => Ok(true),
            Verdict::Retracted(_) => Err(Ended::Succeeded(Outcome::Retracted).into()),
            Verdict::Doubtful(doubt) => Err(Ended::Failed(Failure::Unverified(doubt)).into()),
        }
    }
}
