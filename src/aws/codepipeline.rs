//! CodePipeline: what became of a pipeline's executions. Everything here only reads.

use aws_sdk_codepipeline::types::{
    ActionCategory, ActionExecutionDetail, ActionExecutionFilter, ActionExecutionStatus,
    ActionState, ExecutionMode, ExecutionType, PipelineExecutionStatus, PipelineExecutionSummary,
    StageExecutionStatus, StageState,
};
use jiff::Timestamp;

use super::error::{AwsError, from_sdk};
use super::limiter::{Gate, Kind};
use super::reply::{pages, timestamp};
use crate::domain::at_work::Activities;
use crate::domain::error_class::ErrorClass;
use crate::domain::executions::{
    Attempt, Category, Execution, Mode, Seen, Stage, StageAction, Status,
};
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;

/// CodePipeline's largest page of action executions (API reference: `ListActionExecutions`).
const PAGE: i32 = 100;

/// So many executions before the one that is asked about are looked at.
const BEFORE: usize = 100;

/// CodePipeline's largest page of pipelines (API reference: `ListPipelines`).
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

    /// What tells who is at work in a pipeline (GetPipelineState; in PARALLEL mode ListActionExecutions too).
    /// The mode is asked for (ListPipelineExecutions) where it is not known. A pipeline that does not exist
    /// runs nothing.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn activity(
        &self,
        pipeline: &str,
        mode: Option<Mode>,
    ) -> Result<Activities, AwsError> {
        let (stages, mode) = match mode {
            Some(mode) => (self.stages(pipeline).await, Ok(mode)),
            None => tokio::join!(self.stages(pipeline), self.mode(pipeline)),
        };
        let stages = match stages {
            Err(error) if error.class == ErrorClass::NotFound => return Ok(Activities::default()),
            stages => stages?,
        };
        let mode = mode?;
        let newest = match mode {
            Mode::Locked => Vec::new(),
            Mode::Parallel => self.newest_attempts(pipeline).await?,
        };
        Ok(Activities {
            stages,
            mode,
            newest,
        })
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
        let filter = ActionExecutionFilter::builder();
        let filter = filter.pipeline_execution_id(execution_id).build();
        let page = |token| self.page_of_attempts(pipeline, Some(filter.clone()), token);
        let attempts = pages("ListActionExecutions", MAX_PAGES, page).await?;
        let ours = attempts.into_iter();
        Ok(ours.filter(|it| it.execution_id == execution_id).collect())
    }

    /// The newest two hundred action executions of a pipeline, of whatever execution
    /// (ListActionExecutions).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn newest_attempts(&self, pipeline: &str) -> Result<Vec<Attempt>, AwsError> {
        let (mut newest, next) = self.page_of_attempts(pipeline, None, None).await?;
        if next.is_some() {
            let (older, _) = self.page_of_attempts(pipeline, None, next).await?;
            newest.extend(older);
        }
        Ok(newest)
    }

    async fn page_of_attempts(
        &self,
        pipeline: &str,
        filter: Option<ActionExecutionFilter>,
        token: Option<String>,
    ) -> Result<(Vec<Attempt>, Option<String>), AwsError> {
        const OPERATION: &str = "ListActionExecutions";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let page = self
            .0
            .list_action_executions()
            .pipeline_name(pipeline)
            .set_filter(filter)
            .max_results(PAGE)
            .set_next_token(token)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let details = page.action_execution_details.unwrap_or_default();
        let attempts = details.into_iter().map(attempt).collect();
        Ok((attempts, page.next_token.filter(|it| !it.is_empty())))
    }

    /// The newest hundred executions of a pipeline, the newest first (ListPipelineExecutions).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn executions(&self, pipeline: &str) -> Result<Vec<Execution>, AwsError> {
        let (executions, _) = self.page_of_executions(pipeline, PAGE, None).await?;
        Ok(executions)
    }

    /// The executions of a pipeline back to the hundredth before that one, or before the moment at which
    /// it began where the pipeline does not have it; the newest first (ListPipelineExecutions).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn executions_around(
        &self,
        pipeline: &str,
        execution_id: &str,
        began: Timestamp,
    ) -> Result<Vec<Execution>, AwsError> {
        let mut executions = Vec::new();
        let mut next_token = None;
        for _ in 0..MAX_PAGES {
            let (page, next) = self.page_of_executions(pipeline, PAGE, next_token).await?;
            executions.extend(page);
            let older = executions.iter().position(|it: &Execution| {
                it.id == execution_id || it.started_at.is_some_and(|at| at < began)
            });
            let enough = older.is_some_and(|older| executions.len() > older + BEFORE);
            next_token = next;
            if enough || next_token.is_none() {
                executions.truncate(older.map_or(usize::MAX, |older| older + 1 + BEFORE));
                return Ok(executions);
            }
        }
        Err(AwsError::endless("ListPipelineExecutions"))
    }

    /// The mode in which a pipeline runs its newest execution (ListPipelineExecutions).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn mode(&self, pipeline: &str) -> Result<Mode, AwsError> {
        let (newest, _) = self.page_of_executions(pipeline, 1, None).await?;
        Ok(newest.first().map(|it| it.mode).unwrap_or_default())
    }

    async fn page_of_executions(
        &self,
        pipeline: &str,
        size: i32,
        next_token: Option<String>,
    ) -> Result<(Vec<Execution>, Option<String>), AwsError> {
        const OPERATION: &str = "ListPipelineExecutions";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let page = self
            .0
            .list_pipeline_executions()
            .pipeline_name(pipeline)
            .max_results(size)
            .set_next_token(next_token)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let summaries = page.pipeline_execution_summaries.unwrap_or_default();
        let executions = summaries.into_iter().filter_map(execution).collect();
        Ok((executions, page.next_token.filter(|it| !it.is_empty())))
    }

    /// The names of the pipelines (ListPipelines).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn names(&self) -> Result<Vec<String>, AwsError> {
        let page = |token| self.page_of_names(token);
        pages("ListPipelines", MAX_PAGES, page).await
    }

    async fn page_of_names(
        &self,
        token: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), AwsError> {
        const OPERATION: &str = "ListPipelines";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let page = self
            .0
            .list_pipelines()
            .max_results(PAGE_OF_PIPELINES)
            .set_next_token(token)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let pipelines = page.pipelines.unwrap_or_default().into_iter();
        let names = pipelines.filter_map(|pipeline| pipeline.name).collect();
        Ok((names, page.next_token))
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
    let (external_id, summary, error) = result
        .map(|result| {
            let summary = result.external_execution_summary;
            (result.external_execution_id, summary, result.error_details)
        })
        .unwrap_or_default();
    Attempt {
        execution_id: detail.pipeline_execution_id.unwrap_or_default(),
        id: detail.action_execution_id,
        stage: detail.stage_name.unwrap_or_default(),
        action: detail.action_name.unwrap_or_default(),
        status: action_status(detail.status.as_ref()),
        started_at: detail.start_time.as_ref().and_then(timestamp),
        updated_at: detail.last_update_time.as_ref().and_then(timestamp),
        by: detail.updated_by.filter(|by| !by.is_empty()),
        summary: summary.filter(|summary| !summary.is_empty()),
        error_code: error.and_then(|error| error.code),
        category: match kind.map(|kind| kind.category) {
            Some(ActionCategory::Source) => Category::Source,
            Some(ActionCategory::Approval) => Category::Approval,
            _ => Category::Work,
        },
        external_id,
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
        actions: actions.map(stage_action).collect(),
    }
}

fn stage_action(action: ActionState) -> StageAction {
    let latest = action.latest_execution.as_ref();
    StageAction {
        name: action.action_name.unwrap_or_default(),
        id: latest.and_then(|latest| latest.action_execution_id.clone()),
        status: latest.map(|latest| action_status(latest.status.as_ref())),
        updated_at: latest
            .and_then(|latest| latest.last_status_change.as_ref())
            .and_then(timestamp),
        awaits_review: latest.is_some_and(|latest| latest.token.is_some()),
    }
}

fn execution(summary: PipelineExecutionSummary) -> Option<Execution> {
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
        started_at: summary.start_time.as_ref().and_then(timestamp),
        updated_at: summary.last_update_time.as_ref().and_then(timestamp),
        mode: match summary.execution_mode {
            Some(ExecutionMode::Parallel) => Mode::Parallel,
            _ => Mode::Locked,
        },
        is_rollback: summary.execution_type == Some(ExecutionType::Rollback),
    })
}

fn action_status(status: Option<&ActionExecutionStatus>) -> Status {
    match status {
        Some(ActionExecutionStatus::InProgress) => Status::InProgress,
        Some(ActionExecutionStatus::Failed) => Status::Failed,
        Some(ActionExecutionStatus::Succeeded) => Status::Succeeded,
        Some(ActionExecutionStatus::Abandoned) => Status::Ended,
        _ => Status::Unknown,
    }
}
