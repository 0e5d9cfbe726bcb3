//! What is asked of pipelines through CodePipeline's own API: an execution is started, a stage is retried, an
//! approval is decided.
//!
//! After the CodePipeline API reference. An execution that was started so deploys at once and waits at its
//! approval; the event of the decision is on the default bus in the same moment.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::builds::Key;
use crate::services::Tweaks;
use crate::services::codepipeline::definition::Category;
use crate::services::codepipeline::execution::ActionExecution;
use crate::services::codepipeline::failure;
use crate::services::codepipeline::flow::{Pipeline, Retry};
use crate::services::codepipeline::script::{Decision, Script};
use crate::services::eventbridge;
use crate::wire::exchange::{Call, Change, Failure, Reply};
use crate::wire::settings::Place;
use crate::wire::time::epoch_seconds;
use crate::world::events::{EventOptions, Outcome, envelope};
use crate::world::state::State;

impl State {
    /// Carries out one request to CodePipeline.
    pub(crate) fn pipelines(
        &mut self,
        place: Place,
        now: Timestamp,
        call: &Call,
        body: &Value,
    ) -> Result<Reply, Failure> {
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = |name: &str| Key {
            place: place.clone(),
            name: text(name).to_owned(),
        };
        match call.operation.as_str() {
            "StartPipelineExecution" => self.start_asked(&key("name"), now),
            "RetryStageExecution" => {
                let which = match text("retryMode") {
                    "ALL_ACTIONS" => Retry::AllActions,
                    _ => Retry::FailedActions,
                };
                let (key, id) = (key("pipelineName"), text("pipelineExecutionId"));
                self.asked(&key)?;
                let pipeline = self.pipeline(&key);
                let begun = pipeline.retry(id, text("stageName"), which, now)?;
                self.schedule(&key, begun, now);
                let said = format!("stage of execution {id} retried");
                let reply = Reply::json(&json!({ "pipelineExecutionId": id }));
                Ok(reply.changed(Change::new(said)))
            }
            "PutApprovalResult" => self.decide_asked(&key("pipelineName"), now, body),
            _ => {
                let account = self.accounts.entry(place.account).or_default();
                account.codepipeline(&place.region).call(now, call, body)
            }
        }
    }

    /// The pipeline that a request names.
    fn asked(&self, key: &Key) -> Result<&Pipeline, Failure> {
        self.known_pipeline(key).ok_or_else(|| {
            let message = format!("Account does not have a pipeline with name '{}'", key.name);
            failure("PipelineNotFoundException", message)
        })
    }

    fn start_asked(&mut self, key: &Key, now: Timestamp) -> Result<Reply, Failure> {
        let Some(latest) = self.asked(key)?.executions.last() else {
            let message = "The pipeline has never run: nothing says what it deploys.";
            return Err(failure("ValidationException", message));
        };
        let (service, things) = (latest.service.clone(), latest.things.clone());
        let at_once = Script {
            source: Duration::ZERO,
            build: Duration::ZERO,
            pace: Duration::ZERO,
            ..Script::default()
        };
        let id = self
            .start(&service, &things, |it| it.script = Some(at_once), "", now)
            .execution_id;
        self.catch_up(now);
        let said = format!("execution {id} started");
        Ok(Reply::json(&json!({ "pipelineExecutionId": id })).changed(Change::new(said)))
    }

    fn decide_asked(&mut self, key: &Key, now: Timestamp, body: &Value) -> Result<Reply, Failure> {
        let text = |at: &str| body.pointer(at).and_then(Value::as_str);
        let wanted = |it: &&ActionExecution| {
            it.category == Category::Approval
                && text("/stageName") == Some(it.stage.as_str())
                && text("/actionName") == Some(it.action.as_str())
                && text("/token") == Some(it.id.as_str())
        };
        let mut executions = self.asked(key)?.executions.iter();
        let found = executions.find_map(|it| Some((it, it.begun(now).find(wanted)?)));
        let Some((execution, approval)) = found else {
            let message = "The approval request token is not valid.";
            return Err(failure("InvalidApprovalTokenException", message));
        };
        if !approval.runs() {
            let message = "The approval action has already been approved or rejected.";
            return Err(failure("ApprovalAlreadyCompletedException", message));
        }
        let (service, approval) = (execution.service.clone(), approval.clone());
        let summary = text("/result/summary").map(str::to_owned);
        let (decision, outcome) = match text("/result/status") {
            Some("Approved") => (Decision::Approved, Outcome::Approved),
            Some("Rejected") => (Decision::Rejected(summary.clone()), Outcome::Rejected),
            _ => {
                let message = "The result's status is neither Approved nor Rejected.";
                return Err(failure("ValidationException", message));
            }
        };
        let id = &service.execution_id;
        self.decide(key, id, &approval.id, decision.review(), now);
        let options = EventOptions {
            outcome,
            attempt: approval.attempt,
            start_time: Some(approval.started),
            summary,
            ..EventOptions::default()
        };
        let names = [approval.stage.as_str(), approval.action.as_str()];
        let event = envelope(&service, &options, names, self.ids.uuid(), now);
        let mut context = eventbridge::Context {
            now,
            settings: &self.settings,
            ids: &mut self.ids,
            tweaks: &Tweaks::default(),
            sqs: &mut self.sqs,
        };
        self.events.take(&mut context, event);
        let said = format!("approval of execution {id}: {decision:?}");
        let reply = Reply::json(&json!({ "approvedAt": epoch_seconds(now) }));
        Ok(reply.changed(Change::new(said)))
    }
}
