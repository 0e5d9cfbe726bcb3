//! The events that EventBridge delivers for a service's pipeline.
//!
//! Shapes are those of "Amazon EventBridge event reference: CodePipeline" and of captures of real
//! deliveries, where numbers are floats and older events lack several fields.

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use crate::services::codepipeline::execution::action_id;
use crate::services::codepipeline::script::Review;
use crate::services::codepipeline::service::Service;
use crate::world::aws::EmbeddedAws;
use crate::world::pipeline::builds::Key;

/// What the event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// The approval action.
    #[default]
    Action,
    /// The stage as a whole.
    Stage,
    /// The pipeline as a whole.
    Pipeline,
}

/// How the approval ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// `FAILED`: a reviewer rejected.
    #[default]
    Rejected,
    /// `SUCCEEDED`: a reviewer approved.
    Approved,
    /// `FAILED`: nobody decided in time.
    Expired,
    /// `FAILED`: CodePipeline could tell nobody of it.
    Misconfigured,
    /// `STARTED`: it waits for a reviewer.
    Started,
}

/// Which generation of the event's schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// With `start-time`, `action-execution-id` and `pipeline-execution-attempt`; floats.
    #[default]
    Current,
    /// Without those; integers.
    Older,
}

/// What to say in an event. The default is a rejection of the first attempt, now.
#[derive(Clone, Debug, Default)]
pub struct EventOptions {
    /// What it is about.
    pub level: Level,
    pub outcome: Outcome,
    /// Which schema.
    pub form: Form,
    /// The attempt, counted from 1; 0 means the first. Each has an action execution of its own.
    pub attempt: u32,
    /// When the approval action started, if not at the service's `start_time`, or at the moment of the
    /// attempt if that is not the first.
    pub start_time: Option<Timestamp>,
    /// When the event happened, if not now.
    pub time: Option<Timestamp>,
    /// The reviewer's comment.
    pub summary: Option<String>,
    /// The account it claims to be from, if not the service's.
    pub account: Option<String>,
    /// The stage and the action, if not those of the pipeline's first approval.
    pub approval: Option<(String, String)>,
}

impl EmbeddedAws {
    /// The whole envelope, as the body of the message that the queue gets.
    ///
    /// The same service and attempt always have the same execution ids; the event's own id is
    /// new every time. CodePipeline is told what an action's event says happened.
    #[must_use]
    pub fn rejection_event(&self, service: &Service, options: &EventOptions) -> String {
        let event_id = self.state().ids.uuid();
        let attempt = options.attempt.max(1);
        let start = options.start_time.unwrap_or(service.start_time);
        let time = options.time;
        let time = time.unwrap_or_else(|| self.now().max(start));
        let review = match options.outcome {
            Outcome::Rejected => Some(Review::Rejected(options.summary.as_deref())),
            Outcome::Approved => Some(Review::Approved),
            Outcome::Expired => Some(Review::Expired),
            Outcome::Misconfigured => Some(Review::Misconfigured),
            Outcome::Started => None,
        };
        if let (Level::Action, Some(review), None) = (options.level, review, &options.approval) {
            self.review_at(service, attempt, review, time);
        }
        let (stage, action) = options.approval.clone().unwrap_or_else(|| {
            let state = self.state();
            let pipeline = state.known_pipeline(&Key::of(service));
            let approval = pipeline.map_or(("Approve", "Approve"), |it| it.definition.approval());
            (approval.0.to_owned(), approval.1.to_owned())
        });
        envelope(service, options, [&stage, &action], event_id, time).to_string()
    }
}

/// The whole event, as a value.
pub(crate) fn envelope(
    service: &Service,
    options: &EventOptions,
    approval: [&str; 2],
    event_id: String,
    time: Timestamp,
) -> Value {
    let account = options.account.as_ref().unwrap_or(&service.account);
    let (region, name) = (&service.region, &service.pipeline);
    let start = options.start_time.unwrap_or(service.start_time);
    let time = time.round(Unit::Second).unwrap_or(time);
    let what = match options.level {
        Level::Action => "Action",
        Level::Stage => "Stage",
        Level::Pipeline => "Pipeline",
    };
    let arn = format!("arn:aws:codepipeline:{region}:{account}:{name}");
    json!({
        "version": "0",
        "id": event_id,
        "detail-type": format!("CodePipeline {what} Execution State Change"),
        "source": "aws.codepipeline",
        "account": account,
        "time": format!("{time:.0}"),
        "region": region,
        "resources": [arn],
        "detail": detail(service, options, approval, start, account),
    })
}

impl Service {
    /// The id of the approval action's execution in the given attempt, counted from 1.
    #[must_use]
    pub fn action_execution_id(&self, attempt: u32) -> String {
        action_id(&self.execution_id, "Approve", "Approve", attempt)
    }
}

fn detail(
    service: &Service,
    options: &EventOptions,
    [stage, action]: [&str; 2],
    start: Timestamp,
    account: &str,
) -> Value {
    let attempt = options.attempt.max(1);
    let state = match options.outcome {
        Outcome::Rejected | Outcome::Expired | Outcome::Misconfigured => "FAILED",
        Outcome::Approved => "SUCCEEDED",
        Outcome::Started => "STARTED",
    };
    let mut detail = json!({
        "pipeline": service.pipeline,
        "execution-id": service.execution_id,
        "state": state,
    });
    if options.level != Level::Pipeline {
        detail["stage"] = json!(stage);
    }
    if options.level == Level::Action {
        detail["action"] = json!(action);
        detail["region"] = json!(service.region);
        detail["type"] = json!({
            "owner": "AWS", "provider": "Manual", "category": "Approval", "version": "1",
        });
    }
    if options.form == Form::Older {
        detail["version"] = json!(1);
        return detail;
    }
    detail["version"] = json!(2.0);
    detail["start-time"] = json!(format!("{start:.3}"));
    detail["pipeline-execution-attempt"] = json!(f64::from(attempt));
    if options.level == Level::Action {
        let id = action_id(&service.execution_id, stage, action, attempt);
        if let Some(result) = execution_result(&id, options, account) {
            detail["execution-result"] = result;
        }
        detail["action-execution-id"] = json!(id);
    }
    detail
}

fn execution_result(id: &str, options: &EventOptions, account: &str) -> Option<Value> {
    let (summary, code) = match options.outcome {
        Outcome::Rejected => {
            let by = format!("Rejected by arn:aws:sts::{account}:assumed-role/reviewer/alex");
            (options.summary.clone().unwrap_or(by), "JobFailed")
        }
        Outcome::Misconfigured => {
            let said = "The topic of the approval does not exist.".to_owned();
            (said, "ConfigurationError")
        }
        Outcome::Approved | Outcome::Expired | Outcome::Started => return None,
    };
    Some(json!({
        "external-execution-summary": summary,
        "external-execution-id": id,
        "error-code": code,
    }))
}
