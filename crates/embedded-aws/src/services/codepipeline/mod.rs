//! CodePipeline over AWS JSON 1.1: what became of the pipelines' executions.
//!
//! After the CodePipeline API reference. Only reads are here; what happens in a pipeline is done by
//! `pipeline`, whether it is told by `review` or asked for through the API.

pub(crate) mod definition;
pub(crate) mod execution;
pub(crate) mod flow;
pub(crate) mod script;
pub(crate) mod service;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::services::codepipeline::definition::{ActionDefinition, Category, StageDefinition};
use crate::services::codepipeline::execution::{ActionExecution, Execution, IN_PROGRESS};
use crate::services::codepipeline::flow::Pipeline;
use crate::wire::exchange::{Call, Failure, Reply};
use crate::wire::time::epoch_seconds;

/// What a page holds at most, and unless the caller says otherwise.
const PAGE: usize = 100;

/// The pipelines of one account and region, by name.
#[derive(Debug, Default)]
pub(crate) struct CodePipeline {
    pub(crate) pipelines: BTreeMap<String, Pipeline>,
}

impl ActionExecution {
    /// What carries it out calls it so; an approval's only once it is over.
    fn external_id(&self) -> Option<String> {
        match self.category {
            Category::Approval => (self.status != IN_PROGRESS).then(|| self.id.clone()),
            Category::Source => Some(self.id.replace('-', "")),
            Category::Build | Category::Deploy => self.external.clone(),
        }
    }

    fn error(&self) -> Option<Value> {
        let code = self.error_code?;
        let mut error = json!({ "code": code });
        if let Some(summary) = &self.summary {
            error["message"] = json!(summary);
        }
        Some(error)
    }

    fn result(&self) -> Value {
        let mut result = json!({});
        if let Some(id) = self.external_id() {
            result["externalExecutionId"] = json!(id);
        }
        if let Some(summary) = &self.summary {
            result["externalExecutionSummary"] = json!(summary);
        }
        if let Some(error) = self.error() {
            result["errorDetails"] = error;
        }
        result
    }

    /// As ListActionExecutions shows it.
    fn detail(&self, execution: &Execution) -> Value {
        let mut detail = json!({
            "pipelineExecutionId": execution.id,
            "actionExecutionId": self.id,
            "pipelineVersion": 1,
            "stageName": self.stage,
            "actionName": self.action,
            "startTime": epoch_seconds(self.started),
            "lastUpdateTime": epoch_seconds(self.updated),
            "status": self.status,
            "input": {
                "actionTypeId": {
                    "category": self.category.name(),
                    "owner": "AWS",
                    "provider": self.provider,
                    "version": "1",
                },
                "configuration": {},
                "inputArtifacts": [],
            },
            "output": { "outputArtifacts": [], "executionResult": self.result() },
        });
        if let Some(by) = &self.by {
            detail["updatedBy"] = json!(by);
        }
        detail
    }

    /// As GetPipelineState shows it.
    fn state(&self) -> Value {
        let mut state = json!({
            "actionExecutionId": self.id,
            "status": self.status,
            "lastStatusChange": epoch_seconds(self.updated),
        });
        if let Some(by) = &self.by {
            state["lastUpdatedBy"] = json!(by);
        }
        if let Some(summary) = &self.summary {
            state["summary"] = json!(summary);
        }
        if let Some(error) = self.error() {
            state["errorDetails"] = error;
        }
        match self.category {
            Category::Approval if self.status == IN_PROGRESS => state["token"] = json!(self.id),
            Category::Build | Category::Deploy => {
                state["externalExecutionId"] = json!(self.external_id());
            }
            Category::Approval | Category::Source => {}
        }
        state
    }
}

impl Execution {
    fn summary(&self, pipeline: &Pipeline, now: Timestamp) -> Value {
        json!({
            "pipelineExecutionId": self.id,
            "status": self.status(&pipeline.definition, now),
            "startTime": epoch_seconds(self.started),
            "lastUpdateTime": epoch_seconds(self.updated(now)),
            "executionMode": self.mode.name(),
            "executionType": self.kind.name(),
        })
    }
}

impl Pipeline {
    /// As GetPipelineState shows it: of the execution that came into the stage last.
    fn stage(&self, stage: &StageDefinition, now: Timestamp) -> Value {
        let place = self.definition.place_of(&stage.name);
        let waits = |it: &&Execution| it.waits.map(|(at, _)| at) == place;
        let mut waiting: Vec<_> = self.executions.iter().filter(waits).collect();
        waiting.sort_by_key(|it| it.waits.map(|(_, since)| since));
        let inbound = waiting.iter().map(|it| {
            json!({ "pipelineExecutionId": it.id, "status": IN_PROGRESS, "type": it.kind.name() })
        });
        let inbound: Vec<_> = inbound.collect();
        let enabled = !self.disabled.contains(&stage.name);
        let mut state = json!({
            "stageName": stage.name,
            "inboundTransitionState": { "enabled": enabled },
        });
        if let Some(first) = inbound.first() {
            state["inboundExecution"] = first.clone();
        }
        state["inboundExecutions"] = json!(inbound);
        let entered = |execution: &Execution| {
            let of_stage = execution.begun(now).filter(|it| it.stage == stage.name);
            of_stage.map(|it| it.started).max()
        };
        let latest = self
            .executions
            .iter()
            .filter_map(|execution| Some((execution, entered(execution)?)))
            .max_by_key(|(_, entered)| *entered)
            .map(|(execution, _)| execution);
        if let Some(execution) = latest {
            state["latestExecution"] = json!({
                "pipelineExecutionId": execution.id,
                "status": execution.stage_status(stage, now),
                "type": execution.kind.name(),
            });
            let runs = execution.begun(now).filter(|it| it.stage == stage.name);
            let retries = runs.map(|it| it.attempt).max().unwrap_or(1) - 1;
            if retries > 0 {
                state["retryStageMetadata"] = json!({
                    "manualStageRetryAttempt": retries,
                    "latestRetryTrigger": "ManualStageRetry",
                });
            }
        }
        let actions = stage.actions.iter();
        let actions = actions.map(|it| self.action(stage, it, latest, now));
        state["actionStates"] = actions.collect();
        state
    }

    /// The newest run of an action: of the execution that is shown, or else of any.
    fn action(
        &self,
        stage: &StageDefinition,
        action: &ActionDefinition,
        shown: Option<&Execution>,
        now: Timestamp,
    ) -> Value {
        let of_action = |it: &&ActionExecution| it.stage == stage.name && it.action == action.name;
        let runs = |it: &Execution| it.begun(now).rfind(of_action).cloned();
        let mut all = self.executions.iter().rev();
        let latest = shown.and_then(runs).or_else(|| all.find_map(runs));
        let mut state = json!({ "actionName": action.name });
        if let Some(latest) = latest {
            state["latestExecution"] = latest.state();
            if action.category == Category::Source {
                state["currentRevision"] = json!({
                    "revisionId": latest.external_id(),
                    "revisionChangeId": latest.external_id(),
                    "created": epoch_seconds(latest.started),
                });
            }
        }
        state
    }

    /// The runs of actions, the newest first: of one execution, or of all.
    fn details(&self, of: Option<&str>, now: Timestamp) -> Vec<Value> {
        let executions = self.executions.iter();
        let executions = executions.filter(|it| of.is_none_or(|id| it.id == id));
        let runs = executions.flat_map(|it| it.begun(now).map(move |run| (it, run)));
        let mut runs: Vec<_> = runs.collect();
        // Of those that began at the same moment, the one that was told last.
        runs.reverse();
        runs.sort_by_key(|(_, run)| std::cmp::Reverse(run.started));
        let details = runs.into_iter();
        details
            .map(|(execution, run)| run.detail(execution))
            .collect()
    }
}

impl CodePipeline {
    /// Carries out one request.
    pub(crate) fn call(&self, now: Timestamp, call: &Call, body: &Value) -> Result<Reply, Failure> {
        match call.operation.as_str() {
            "GetPipelineState" => {
                let (name, pipeline) = self.pipeline(body, "name")?;
                let stages = pipeline.definition.stages.iter();
                let stages: Vec<_> = stages.map(|stage| pipeline.stage(stage, now)).collect();
                Ok(Reply::json(&json!({
                    "pipelineName": name, "pipelineVersion": 1, "stageStates": stages,
                })))
            }
            "ListActionExecutions" => {
                let (name, pipeline) = self.pipeline(body, "pipelineName")?;
                let id = body.pointer("/filter/pipelineExecutionId");
                let id = id.and_then(Value::as_str);
                if let Some(id) = id {
                    known(name, pipeline, id)?;
                }
                page(body, "actionExecutionDetails", pipeline.details(id, now))
            }
            "ListPipelineExecutions" => {
                let (_, pipeline) = self.pipeline(body, "pipelineName")?;
                let executions = pipeline.executions.iter().rev();
                let summaries = executions.map(|it| it.summary(pipeline, now)).collect();
                page(body, "pipelineExecutionSummaries", summaries)
            }
            "ListPipelines" => {
                let names = self.pipelines.keys();
                let pipelines = names.map(|name| json!({ "name": name, "version": 1 }));
                page(body, "pipelines", pipelines.collect())
            }
            other => Err(failure(
                "UnknownOperationException",
                format!("{other} is not an operation of the embedded CodePipeline."),
            )),
        }
    }

    fn pipeline<'a>(&self, body: &'a Value, field: &str) -> Result<(&'a str, &Pipeline), Failure> {
        let name = body.get(field).and_then(Value::as_str).unwrap_or_default();
        let pipeline = self.pipelines.get(name).ok_or_else(|| {
            let message = format!("Account does not have a pipeline with name '{name}'");
            failure("PipelineNotFoundException", message)
        })?;
        Ok((name, pipeline))
    }
}

fn known<'a>(name: &str, pipeline: &'a Pipeline, id: &str) -> Result<&'a Execution, Failure> {
    pipeline.execution(id).ok_or_else(|| {
        let message = format!("No pipeline execution {id} of {name} was found.");
        failure("PipelineExecutionNotFoundException", message)
    })
}
/// One page of a list. The token is the place of the next one.
fn page(body: &Value, field: &str, all: Vec<Value>) -> Result<Reply, Failure> {
    let size = body.get("maxResults").and_then(Value::as_u64);
    let size = size.map_or(PAGE, |size| usize::try_from(size).unwrap_or(PAGE));
    if !(1..=1000).contains(&size) {
        return Err(failure(
            "ValidationException",
            "maxResults is out of range.",
        ));
    }
    let token = body.get("nextToken").and_then(Value::as_str);
    let from: usize = match token {
        None => 0,
        Some(token) => token
            .parse()
            .map_err(|_| failure("InvalidNextTokenException", "The token is invalid."))?,
    };
    let total = all.len();
    let page: Vec<Value> = all.into_iter().skip(from).take(size).collect();
    let next = from + page.len();
    let mut reply = json!({ field: page });
    if next < total {
        reply["nextToken"] = json!(next.to_string());
    }
    Ok(Reply::json(&reply))
}

pub(crate) fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(400, code, message)
}
