//! The executions that were open beside the rejected one, and what they ran: asked for where a write's writer does not tell.
//!
//! **Guarantees.** More than [`MAX_OTHERS`] of them are refused, never cut short.

use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::Halt;
use super::run::Run;
use crate::domain::attribution::{MAX_OTHERS, NARROW, Others, others_candidates};
use crate::domain::decision::Refusal;
use crate::domain::error_class::ErrorClass;
use crate::domain::executions::{Attempt, earlier, later};
use crate::domain::targets::Neighbour;

impl Run<'_> {
    /// The executions, of every pipeline that leads to this slot, that were open at any time between two
    /// moments, and what they ran.
    pub(super) async fn others(&self, from: Timestamp, until: Timestamp) -> Result<Others, Halt> {
        self.job.activity.set("asking_codepipeline");
        let grace = self.context.settings.grace.max(NARROW);
        let (from, to) = (earlier(from, grace), later(until, grace));
        let mut others = Others {
            until: Some(until),
            ..Others::default()
        };
        let mut asked = 0;
        let neighbours = self.calls.call(|| self.calls.neighbours(&self.learned));
        for neighbour in neighbours.await? {
            let open = self.open_beside(&neighbour, from, to).await?;
            asked += open.len();
            if asked > MAX_OTHERS {
                let detail = self.place().too_many(from, to);
                return Err(self.refuse(Refusal::TooManyExecutions, detail));
            }
            if open.is_empty() {
                continue;
            }
            let pipelines = self.calls.pipelines(&neighbour.access);
            let name = &neighbour.pipeline.name;
            let stages: Vec<String> = match neighbour.deploy_stage {
                Some(_) => Vec::new(),
                None => {
                    let stages = self.calls.call(|| pipelines.stages(name)).await?;
                    stages.into_iter().map(|stage| stage.name).collect()
                }
            };
            let attempts = open
                .iter()
                .map(|id| self.calls.call(|| pipelines.attempts(name, id)));
            for attempts in try_join_all(attempts).await? {
                let builds = attempts.iter().filter_map(|it: &Attempt| {
                    Some((it.build()?.to_owned(), it.execution_id.clone()))
                });
                others.builds.extend(builds);
                others.candidates.extend(others_candidates(
                    &attempts,
                    &stages,
                    neighbour.stage.as_deref(),
                    neighbour.deploy_stage.as_deref(),
                ));
            }
        }
        Ok(others)
    }

    async fn open_beside(
        &self,
        neighbour: &Neighbour,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<String>, Halt> {
        let own = self.job.rejection();
        let pipelines = self.calls.pipelines(&neighbour.access);
        let name = &neighbour.pipeline.name;
        let executions = self
            .calls
            .call(|| pipelines.executions_around(name, &own.execution_id, from))
            .await;
        let executions = match executions {
            // A pipeline that does not exist ran nothing.
            Err(Halt::Call(error))
                if error.class == ErrorClass::NotFound && neighbour.pipeline != own.pipeline =>
            {
                return Ok(Vec::new());
            }
            executions => executions?,
        };
        let open = executions.into_iter().filter(|it| it.was_open(from, to));
        Ok(open
            .map(|it| it.id)
            .filter(|id| *id != own.execution_id)
            .collect())
    }
}
