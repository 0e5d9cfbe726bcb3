//! CodePipeline: what became of a pipeline's executions. Everything here only reads.

use aws_sdk_codepipeline::primitives::DateTime;
use aws_sdk_codepipeline::types::{
    ActionCategory, ActionExecutionDetail, ActionExecutionFilter, ActionExecutionStatus,
    PipelineExecutionStatus, StageExecutionStatus, StageState,
};
use jiff::Timestamp;

use super::error::{AwsError, from_sdk};
use super::limiter::{Gate, Kind};
use crate::activity::Activity;
use crate::catch_up::Execution;
use crate::stop::Stop;
use crate::verdict::{Attempt, Seen, Stage, Status};

/// CodePipeline's largest page of action executions (API reference: `ListActionExecutions`).
const PAGE: i32 = 100;

/// CodePipeline's largest page of pipelines (API reference: `ListPipelines`). An account has 1000 in a
/// region unless more are granted.
const PAGE_OF_PIPELINES: i32 = 1000;

/// A pipeline has at most 1000 actions; that many pages' worth are ten attempts of each.
const MAX_PAGES: usize = 100;

/// The pipelines of one account and region.
#[derive(Clone, Debug)]
pub struct CodePipeline(aws_sdk_codepipeline::Client, Gate);

impl CodePipeline {
    pub(super) fn new(client: aws_sdk_codepipeline::Client, gate: Gate) -> Self {
        Self(client, gate)
    }

    pub(super) fn for_job(&self, stop: &Stop, activity: &Activity) -> Self {
        Self(self.0.clone(), self.1.for_job(stop, activity))
    }

    /// What is to be seen of an execution (ListActionExecutions) and of its pipeline
    /// (GetPipelineState).
    ///
    /// # Errors
    /// [`AwsError`] for every failure; a pipeline or an execution that does not exist is one.
    pub async fn look(&self, pipeline: &str, execution_id: &str) -> Result<Seen, AwsError> {
        let (attempts, stages) =
            tokio::try_join!(self.attempts(pipeline, execution_id), self.stages(pipeline))?;
        Ok(Seen { attempts, stages })
    }

    /// Every action execution of a pipeline's execution (ListActionExecutions).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn attempts(
        &self,
        pipeline: &str,
        execution_id: &str,
    ) -> Result<Vec<Attempt>, AwsError> {
        const OPERATION: &str = "ListActionExecutions";
        let filter = ActionExecutionFilter::builder()
            .pipeline_execution_id(execution_id)
            .build();
        let mut attempts = Vec::new();
        let mut next_token = None;
        for _ in 0..MAX_PAGES {
            let _turn = self.1.turn(Kind::Read, OPERATION).await?;
            let page = self
                .0
                .list_action_executions()
                .pipeline_name(pipeline)
                .filter(filter.clone())
                .max_results(PAGE)
                .set_next_token(next_token)
                .send()
                .await
                .map_err(from_sdk(OPERATION))?;
            let details = page.action_execution_details.unwrap_or_default();
            let ours = details
                .into_iter()
                .filter(|detail| detail.pipeline_execution_id.as_deref() == Some(execution_id));
            attempts.extend(ours.map(attempt));
            next_token = page.next_token.filter(|token| !token.is_empty());
            if next_token.is_none() {
                return Ok(attempts);
            }
        }
        Err(AwsError::unusable(OPERATION, "the pages do not end"))
    }

    /// The newest hundred executions of a pipeline, the newest first (ListPipelineExecutions).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn executions(&self, pipeline: &str) -> Result<Vec<Execution>, AwsError> {
        const OPERATION: &str = "ListPipelineExecutions";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let page = self
            .0
            .list_pipeline_executions()
            .pipeline_name(pipeline)
            .max_results(PAGE)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let summaries = page.pipeline_execution_summaries.unwrap_or_default();
        let executions = summaries.into_iter().filter_map(|summary| {
            Some(Execution {
                id: summary.pipeline_execution_id?,
                status: match summary.status? {
                    PipelineExecutionStatus::InProgress => Status::InProgress,
                    PipelineExecutionStatus::Failed => Status::Failed,
                    PipelineExecutionStatus::Succeeded => Status::Succeeded,
                    PipelineExecutionStatus::Stopping => Status::Ending,
                    PipelineExecutionStatus::Cancelled
                    | PipelineExecutionStatus::Stopped
                    | PipelineExecutionStatus::Superseded => Status::Ended,
                    _ => Status::Unknown,
                },
                updated_at: summary.last_update_time.as_ref().and_then(timestamp),
            })
        });
        Ok(executions.collect())
    }

    /// The names of the pipelines (ListPipelines), of the first thousand of them.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn names(&self) -> Result<Vec<String>, AwsError> {
        const OPERATION: &str = "ListPipelines";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let page = self
            .0
            .list_pipelines()
            .max_results(PAGE_OF_PIPELINES)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let pipelines = page.pipelines.unwrap_or_default().into_iter();
        Ok(pipelines.filter_map(|pipeline| pipeline.name).collect())
    }

    /// The stages of a pipeline as it is now, with their actions (GetPipelineState).
    ///
    /// # Errors
    /// [`AwsError`] for every failure; a pipeline that does not exist is one.
    pub async fn stages(&self, pipeline: &str) -> Result<Vec<Stage>, AwsError> {
        const OPERATION: &str = "GetPipelineState";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let state = self
            .0
            .get_pipeline_state()
            .name(pipeline)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let stages = state.stage_states.unwrap_or_default();
        Ok(stages.into_iter().map(stage).collect())
    }
}

fn attempt(detail: ActionExecutionDetail) -> Attempt {
    let kind = detail.input.and_then(|input| input.action_type_id);
    let result = detail.output.and_then(|output| output.execution_result);
    let (summary, error) = result
        .map(|result| (result.external_execution_summary, result.error_details))
        .unwrap_or_default();
    Attempt {
        id: detail.action_execution_id,
        stage: detail.stage_name.unwrap_or_default(),
        action: detail.action_name.unwrap_or_default(),
        status: match detail.status {
            Some(ActionExecutionStatus::InProgress) => Status::InProgress,
            Some(ActionExecutionStatus::Failed) => Status::Failed,
            Some(ActionExecutionStatus::Succeeded) => Status::Succeeded,
            Some(ActionExecutionStatus::Abandoned) => Status::Ended,
            _ => Status::Unknown,
        },
        started_at: detail.start_time.as_ref().and_then(timestamp),
        updated_at: detail.last_update_time.as_ref().and_then(timestamp),
        by: detail.updated_by.filter(|by| !by.is_empty()),
        summary: summary.filter(|summary| !summary.is_empty()),
        error_code: error.and_then(|error| error.code),
        approval: kind.is_some_and(|kind| kind.category == ActionCategory::Approval),
    }
}

fn stage(state: StageState) -> Stage {
    let inbound = state.inbound_executions.unwrap_or_default().into_iter();
    let inbound = inbound.chain(state.inbound_execution);
    let actions = state.action_states.unwrap_or_default().into_iter();
    Stage {
        name: state.stage_name.unwrap_or_default(),
        latest: state.latest_execution.map(|latest| {
            let status = match latest.status {
                StageExecutionStatus::InProgress => Status::InProgress,
                StageExecutionStatus::Failed => Status::Failed,
                StageExecutionStatus::Succeeded => Status::Succeeded,
                StageExecutionStatus::Cancelled
                | StageExecutionStatus::Skipped
                | StageExecutionStatus::Stopped => Status::Ended,
                StageExecutionStatus::Stopping => Status::Ending,
                _ => Status::Unknown,
            };
            (latest.pipeline_execution_id, status)
        }),
        inbound: inbound.map(|it| it.pipeline_execution_id).collect(),
        actions: actions
            .map(|action| {
                let latest = action.latest_execution;
                let id = latest.and_then(|latest| latest.action_execution_id);
                (action.action_name.unwrap_or_default(), id)
            })
            .collect(),
    }
}

fn timestamp(at: &DateTime) -> Option<Timestamp> {
    at.to_millis()
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
}
