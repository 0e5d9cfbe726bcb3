//! The events that EventBridge delivers for a service's pipeline.
//!
//! Shapes are those of "Amazon EventBridge event reference: CodePipeline" and of captures of real
//! deliveries, where numbers are floats and older events lack several fields.

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use super::EmbeddedAws;
use super::ids::stable_hash;
use super::review::Review;
use super::service::Service;

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
    /// How it ended.
    pub outcome: Outcome,
    /// Which schema.
    pub form: Form,
    /// The attempt, counted from 1; 0 means the first. Each has an action execution of its own.
    pub attempt: u32,
    /// When the approval action started, if not at the service's `start_time`.
    pub start_time: Option<Timestamp>,
    /// When the event happened, if not now.
    pub time: Option<Timestamp>,
    /// The reviewer's comment.
    pub summary: Option<String>,
    /// The account it claims to be from, if not the service's.
    pub account: Option<String>,
}

impl EmbeddedAws {
    /// The whole envelope, as the body of the message that the queue gets.
    ///
    /// The same service and attempt always have the same execution ids; the event's own id is
    /// new every time. CodePipeline is told what an action's event says happened.
    #[must_use]
    pub fn rejection_event(&self, service: &Service, options: &EventOptions) -> String {
        let event_id = self.state().ids.uuid();
        let account = options.account.as_ref().unwrap_or(&service.account).clone();
        let region = &service.region;
        let attempt = options.attempt.max(1);
        let start = options.start_time.unwrap_or(service.start_time);
        let time = options
            .time
            .unwrap_or_else(|| self.clock().now().max(start));
        let review = match options.outcome {
            Outcome::Rejected => Some(Review::Rejected(options.summary.as_deref())),
            Outcome::Approved => Some(Review::Approved),
            Outcome::Expired => Some(Review::Expired),
            Outcome::Started => None,
        };
        if let (Level::Action, Some(review)) = (options.level, review) {
            self.review_at(service, attempt, review, time);
        }
        let time = time.round(Unit::Second).unwrap_or(time);
        let (what, state) = match (options.level, options.outcome) {
            (Level::Action, Outcome::Rejected | Outcome::Expired) => ("Action", "FAILED"),
            (Level::Stage, Outcome::Rejected | Outcome::Expired) => ("Stage", "FAILED"),
            (Level::Pipeline, Outcome::Rejected | Outcome::Expired) => ("Pipeline", "FAILED"),
            (Level::Action, Outcome::Approved) => ("Action", "SUCCEEDED"),
            (Level::Stage, Outcome::Approved) => ("Stage", "SUCCEEDED"),
            (Level::Pipeline, Outcome::Approved) => ("Pipeline", "SUCCEEDED"),
            (Level::Action, Outcome::Started) => ("Action", "STARTED"),
            (Level::Stage, Outcome::Started) => ("Stage", "STARTED"),
            (Level::Pipeline, Outcome::Started) => ("Pipeline", "STARTED"),
        };
        let arn = format!(
            "arn:aws:codepipeline:{region}:{account}:{}",
            service.pipeline
        );
        let mut detail = json!({
            "pipeline": service.pipeline,
            "execution-id": service.execution_id,
            "state": state,
        });
        if options.level != Level::Pipeline {
            detail["stage"] = json!("Approve");
        }
        if options.level == Level::Action {
            detail["action"] = json!("Approve");
            detail["region"] = json!(region);
            detail["type"] = json!({
                "owner": "AWS", "provider": "Manual", "category": "Approval", "version": "1",
            });
        }
        if options.form == Form::Older {
            detail["version"] = json!(1);
        } else {
            detail["version"] = json!(2.0);
            detail["start-time"] = json!(format!("{start:.3}"));
            detail["pipeline-execution-attempt"] = json!(f64::from(attempt));
            if options.level == Level::Action {
                detail["action-execution-id"] = json!(service.action_execution_id(attempt));
                if options.outcome == Outcome::Rejected {
                    detail["execution-result"] =
                        execution_result(service, attempt, options, &account);
                }
            }
        }
        json!({
            "version": "0",
            "id": event_id,
            "detail-type": format!("CodePipeline {what} Execution State Change"),
            "source": "aws.codepipeline",
            "account": account,
            "time": format!("{time:.0}"),
            "region": region,
            "resources": [arn],
            "detail": detail,
        })
        .to_string()
    }
}

impl Service {
    /// The id of the approval action's execution in the given attempt, counted from 1.
    #[must_use]
    pub fn action_execution_id(&self, attempt: u32) -> String {
        self.id_of(attempt, &[])
    }

    /// The same of the action of another stage.
    pub(super) fn action_execution_id_of(&self, stage: &str, attempt: u32) -> String {
        self.id_of(attempt, stage.as_bytes())
    }

    fn id_of(&self, attempt: u32, stage: &[u8]) -> String {
        let half = |part: u8| {
            let (attempt, part) = (attempt.to_be_bytes(), [part]);
            let all: [&[u8]; 4] = [self.execution_id.as_bytes(), &attempt, &part, stage];
            let used = if stage.is_empty() { 3 } else { 4 };
            stable_hash(&all[..used])
        };
        let bytes = (u128::from(half(0)) << 64 | u128::from(half(1))).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }
}

fn execution_result(
    service: &Service,
    attempt: u32,
    options: &EventOptions,
    account: &str,
) -> Value {
    let by = format!("Rejected by arn:aws:sts::{account}:assumed-role/reviewer/alex");
    json!({
        "external-execution-summary": options.summary.clone().unwrap_or(by),
        "external-execution-id": service.action_execution_id(attempt),
        "error-code": "JobFailed",
    })
}
