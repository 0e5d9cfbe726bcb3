//! CodePipeline over AWS JSON 1.1: what became of the pipelines' executions.
//!
//! After the CodePipeline API reference. Every pipeline has three stages of one action each: `Deploy`,
//! `Approve` (a manual approval) and `Promote`. Only reads are spoken; what happens in a pipeline is
//! told by `review`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::exchange::{Call, Failure, Reply};

/// The stages of every pipeline, in their order; each has one action of the same name.
pub(super) const STAGES: [&str; 3] = ["Deploy", "Approve", "Promote"];

pub(super) const APPROVE: &str = STAGES[1];

/// What a page holds at most, and unless the caller says otherwise.
const PAGE: usize = 100;

/// The pipelines of one account and region, by name.
#[derive(Debug, Default)]
pub(super) struct CodePipeline {
    pub(super) pipelines: BTreeMap<String, Pipeline>,
}

#[derive(Debug, Default)]
pub(super) struct Pipeline {
    /// Oldest first.
    executions: Vec<Execution>,
}

#[derive(Debug)]
pub(super) struct Execution {
    id: String,
    started: Timestamp,
    /// How it was ended other than by its actions, and when: `Stopped` or `Superseded`.
    pub(super) ended: Option<(&'static str, Timestamp)>,
    /// In the order in which they began.
    pub(super) actions: Vec<ActionExecution>,
}

#[derive(Clone, Debug)]
pub(super) struct ActionExecution {
    pub(super) id: String,
    /// The stage, and the action.
    pub(super) stage: &'static str,
    pub(super) started: Timestamp,
    pub(super) updated: Timestamp,
    pub(super) status: &'static str,
    /// The ARN of whoever ended it.
    pub(super) by: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) error_code: Option<&'static str>,
}

pub(super) const IN_PROGRESS: &str = "InProgress";

impl ActionExecution {
    pub(super) fn begun(id: String, stage: &'static str, at: Timestamp) -> Self {
        Self {
            id,
            stage,
            started: at,
            updated: at,
            status: IN_PROGRESS,
            by: None,
            summary: None,
            error_code: None,
        }
    }

    pub(super) fn end(&mut self, status: &'static str, at: Timestamp) {
        self.status = status;
        self.updated = at.max(self.started);
    }

    fn result(&self) -> Value {
        let mut result = json!({});
        if self.status != IN_PROGRESS {
            result["externalExecutionId"] = json!(self.id);
        }
        if let Some(summary) = &self.summary {
            result["externalExecutionSummary"] = json!(summary);
        }
        if let Some(code) = self.error_code {
            result["errorDetails"] = json!({ "code": code });
        }
        result
    }

    /// As ListActionExecutions shows it.
    fn detail(&self, execution: &Execution) -> Value {
        let (category, owner, provider) = match self.stage {
            APPROVE => ("Approval", "AWS", "Manual"),
            _ => ("Build", "AWS", "CodeBuild"),
        };
        let mut detail = json!({
            "pipelineExecutionId": execution.id,
            "actionExecutionId": self.id,
            "pipelineVersion": 1,
            "stageName": self.stage,
            "actionName": self.stage,
            "startTime": time(self.started),
            "lastUpdateTime": time(self.updated),
            "status": self.status,
            "input": {
                "actionTypeId": {
                    "category": category, "owner": owner, "provider": provider, "version": "1",
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
            "lastStatusChange": time(self.updated),
        });
        if let Some(by) = &self.by {
            state["lastUpdatedBy"] = json!(by);
        }
        if let Some(summary) = &self.summary {
            state["summary"] = json!(summary);
        }
        if let Some(code) = self.error_code {
            state["errorDetails"] = json!({ "code": code });
        }
        if self.stage == APPROVE && self.status == IN_PROGRESS {
            state["token"] = json!(self.id);
        }
        state
    }
}

impl Execution {
    /// What had begun by then.
    fn begun(&self, now: Timestamp) -> impl DoubleEndedIterator<Item = &ActionExecution> {
        self.actions
            .iter()
            .filter(move |action| action.started <= now)
    }

    fn status(&self, now: Timestamp) -> &'static str {
        if let Some((status, _)) = self.ended {
            return status;
        }
        match self.begun(now).next_back() {
            Some(last) if last.status == "Abandoned" => "Stopped",
            Some(last) if last.status == "Succeeded" && last.stage != STAGES[2] => IN_PROGRESS,
            Some(last) => last.status,
            None => IN_PROGRESS,
        }
    }

    fn updated(&self, now: Timestamp) -> Timestamp {
        let ended = self.ended.map(|(_, at)| at);
        let last = self.begun(now).map(|action| action.updated).max();
        last.max(ended).unwrap_or(self.started)
    }

    fn summary(&self, now: Timestamp) -> Value {
        json!({
            "pipelineExecutionId": self.id,
            "status": self.status(now),
            "startTime": time(self.started),
            "lastUpdateTime": time(self.updated(now)),
            "executionMode": "SUPERSEDED",
            "executionType": "STANDARD",
        })
    }
}

impl Pipeline {
    /// The execution of that id, which began at that time if it is new.
    pub(super) fn execution(&mut self, id: &str, started: Timestamp) -> &mut Execution {
        let place = self.executions.iter().position(|it| it.id == id);
        let place = place.unwrap_or_else(|| {
            self.executions.push(Execution {
                id: id.to_owned(),
                started,
                ended: None,
                actions: Vec::new(),
            });
            self.executions.len() - 1
        });
        &mut self.executions[place]
    }

    /// As GetPipelineState shows it.
    fn stage(&self, stage: &str, now: Timestamp) -> Value {
        let begun = |execution: &Execution| -> Vec<ActionExecution> {
            let of_stage = execution.begun(now).filter(|it| it.stage == stage);
            of_stage.cloned().collect()
        };
        let mut action = json!({ "actionName": stage });
        let mut state = json!({
            "stageName": stage,
            "inboundExecutions": [],
            "inboundTransitionState": { "enabled": true },
        });
        let latest = self
            .executions
            .iter()
            .filter_map(|execution| Some((execution, begun(execution).pop()?)))
            .max_by_key(|(_, action)| action.started);
        if let Some((execution, last)) = latest {
            let status = match last.status {
                "Abandoned" => "Stopped",
                status => status,
            };
            state["latestExecution"] =
                json!({ "pipelineExecutionId": execution.id, "status": status });
            action["latestExecution"] = last.state();
            let retries = begun(execution).len().saturating_sub(1);
            if retries > 0 {
                state["retryStageMetadata"] = json!({
                    "manualStageRetryAttempt": retries,
                    "latestRetryTrigger": "ManualStageRetry",
                });
            }
        }
        state["actionStates"] = json!([action]);
        state
    }
}

impl CodePipeline {
    /// Carries out one request.
    pub(super) fn call(&self, now: Timestamp, call: &Call, body: &Value) -> Result<Reply, Failure> {
        match call.operation.as_str() {
            "GetPipelineState" => {
                let (name, pipeline) = self.pipeline(body, "name")?;
                let stages = STAGES.map(|stage| pipeline.stage(stage, now));
                Ok(Reply::json(&json!({
                    "pipelineName": name, "pipelineVersion": 1, "stageStates": stages,
                })))
            }
            "ListActionExecutions" => {
                let (name, pipeline) = self.pipeline(body, "pipelineName")?;
                let id = body.pointer("/filter/pipelineExecutionId");
                let id = id.and_then(Value::as_str);
                if let Some(id) = id
                    && pipeline.executions.iter().all(|it| it.id != id)
                {
                    let message = format!("No pipeline execution {id} of {name} was found.");
                    return Err(failure("PipelineExecutionNotFoundException", message));
                }
                let executions = pipeline.executions.iter().rev();
                let executions = executions.filter(|it| id.is_none_or(|id| it.id == id));
                let details = executions
                    .flat_map(|it| it.begun(now).rev().map(move |action| action.detail(it)))
                    .collect();
                page(body, "actionExecutionDetails", details)
            }
            "ListPipelineExecutions" => {
                let (_, pipeline) = self.pipeline(body, "pipelineName")?;
                let executions = pipeline.executions.iter().rev();
                let summaries = executions.map(|it| it.summary(now)).collect();
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

fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(400, code, message)
}

/// Times are seconds since the epoch with a fraction.
fn time(at: Timestamp) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds fit a double for 285,000 years"
    )]
    let milliseconds = at.as_millisecond() as f64;
    milliseconds / 1000.0
}
