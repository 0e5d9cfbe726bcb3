//! From a message body to a rejection, a well-formed event that is none, or a malformed one.
//!
//! The body is the whole EventBridge envelope of a CodePipeline state change. Everything here is
//! parsing: no I/O, no clock, no knowledge of the configured targets.
//!
//! Shape: <https://docs.aws.amazon.com/codepipeline/latest/userguide/detect-state-changes-cloudwatch-events.html>.
//! Unknown fields are tolerated; numbers come as floats (`1.0`) or, in older events, as integers.

mod malformed;
mod rebuilt;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::malformed::Malformed;
use crate::domain::arn::{PipelineArn, is_name};
use crate::domain::partition::console_of;
use crate::domain::partition::partition_of;

/// Bodies above this many bytes are malformed. It is SQS's own limit for one message (1 MiB); the
/// depth of the JSON is bounded by serde_json (128 levels).
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// A reviewer's comment is logged up to this many characters, so that a log line stays below the
/// 16 KB at which container log drivers split it.
const MAX_COMMENT_CHARS: usize = 500;

/// No region's code is longer; the longest today has 15 characters.
const MAX_REGION: usize = 32;

/// How far the time of an event may be from the truth.
const WHOLE_SECOND: Duration = Duration::from_secs(1);

/// The `source` of every event CodePipeline emits.
const SOURCE: &str = "aws.codepipeline";

/// The `detail-type` of an action's change of state: the one kind that tells of rejections.
pub const ACTION_DETAIL_TYPE: &str = "CodePipeline Action Execution State Change";
/// That of a stage's.
pub const STAGE_DETAIL_TYPE: &str = "CodePipeline Stage Execution State Change";
/// That of a pipeline's.
pub const PIPELINE_DETAIL_TYPE: &str = "CodePipeline Pipeline Execution State Change";

/// A well-formed CodePipeline event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The account the event says it comes from. Whether that account may speak is the caller's
    /// decision.
    pub account: String,
    /// What the event says.
    pub kind: Kind,
    /// The stage or the pipeline that failed, where the event is about one of these as a whole.
    pub failed: Option<Failed>,
}

/// A stage or a pipeline that failed as a whole. No rejection comes of such an event: a rule that asks for it
/// asks for the wrong kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub pipeline: PipelineArn,
    /// The stage, where the event is about a stage.
    pub stage: Option<String>,
}

impl Failed {
    /// The event's `detail-type`, as rules name it.
    #[must_use]
    pub fn detail_type(&self) -> &'static str {
        match self.stage {
            Some(_) => STAGE_DETAIL_TYPE,
            None => PIPELINE_DETAIL_TYPE,
        }
    }

    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.stage {
            Some(_) => "failed_stage",
            None => "failed_pipeline",
        }
    }
}

/// What a well-formed CodePipeline event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A manual approval was rejected, or expired.
    Rejection(Box<Rejection>),
    /// Anything else.
    NotARejection(NotARejection),
}

/// Why a well-formed event asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotARejection {
    /// The action's state is not `FAILED`.
    NotFailed,
    /// The action that failed is no approval.
    NotAnApproval,
    /// The event is about a stage or a pipeline as a whole.
    NotAnAction,
}

impl NotARejection {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFailed => "not_failed",
            Self::NotAnApproval => "not_an_approval",
            Self::NotAnAction => "not_an_action",
        }
    }
}

/// One rejected approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What tells this rejection from every other one, and a duplicate from a new one.
    pub key: JobKey,
    /// The pipeline, with its account and region.
    pub pipeline: PipelineArn,
    pub execution_id: String,
    /// The id of the approval action's execution; older events carry none.
    pub action_execution_id: Option<String>,
    /// The stage that holds the approval.
    pub stage: String,
    pub action: String,
    /// When the rejected approval began to wait; for older events, which carry no start time, when
    /// the event was emitted. The staging parameter's value as of this moment is the job's.
    pub as_of: Timestamp,
    /// How much earlier than `as_of` that moment may have been: an event's own time is in whole
    /// seconds, and may have been rounded up.
    pub as_of_uncertainty: Duration,
    /// When the event was emitted.
    pub rejected_at: Timestamp,
    /// The reviewer's comment, or CodePipeline's words. Free text: for people, never for identity.
    pub comment: Option<String>,
}

impl Rejection {
    /// What stands for the rejection where a person begins the job of this key.
    #[must_use]
    pub fn by_hand(key: JobKey, pipeline: PipelineArn, now: Timestamp, comment: &str) -> Self {
        Self {
            execution_id: key.as_str().to_owned(),
            action_execution_id: None,
            key,
            pipeline,
            stage: String::new(),
            action: String::new(),
            as_of: now,
            as_of_uncertainty: Duration::ZERO,
            rejected_at: now,
            comment: Some(comment.to_owned()),
        }
    }

    /// Where a person can look at the execution. `None` where the partition's console is not public.
    #[must_use]
    pub fn console_url(&self) -> Option<String> {
        let host = console_of(&self.pipeline.partition)?;
        Some(format!(
            "https://{host}/codesuite/codepipeline/pipelines/{}/executions/{}/timeline?region={}",
            self.pipeline.name, self.execution_id, self.pipeline.region
        ))
    }
}

/// The identity of a rejection.
///
/// The pipeline execution's id, told apart by the action execution's id or, where the event has
/// none, by the execution's attempt: a stage can be retried within one execution and be rejected
/// again. The oldest events carry neither; then only the stage and action are left to tell two
/// approvals of one execution apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey(String);

impl JobKey {
    /// The key as it is stored in the ledger.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of a rejection whose attempt's id is known.
    #[must_use]
    pub fn of_attempt(execution_id: &str, action_execution_id: &str) -> Self {
        Self(format!("{execution_id}/{action_execution_id}"))
    }

    /// The key of the same rejection where it is only observed.
    #[must_use]
    pub fn observed(&self) -> Self {
        Self(format!("{}/observe", self.0))
    }

    fn new(
        execution_id: &str,
        stage: &str,
        action: &str,
        action_execution_id: Option<&str>,
        attempt: Option<u32>,
    ) -> Self {
        match (action_execution_id, attempt) {
            (Some(id), _) => Self::of_attempt(execution_id, id),
            (None, Some(attempt)) => {
                Self(format!("{execution_id}/{stage}/{action}/attempt-{attempt}"))
            }
            (None, None) => Self(format!("{execution_id}/{stage}/{action}")),
        }
    }
}

impl From<String> for JobKey {
    /// A key as read back from a ledger.
    fn from(stored: String) -> Self {
        Self(stored)
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Deserialize)]
struct WireEnvelope {
    source: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    account: Option<String>,
    region: Option<String>,
    time: Option<String>,
    resources: Option<Vec<String>>,
    detail: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireAction {
    pipeline: Option<String>,
    execution_id: Option<String>,
    start_time: Option<String>,
    stage: Option<String>,
    action: Option<String>,
    state: Option<String>,
    action_execution_id: Option<String>,
    pipeline_execution_attempt: Option<Value>,
    #[serde(rename = "type")]
    action_type: Option<WireActionType>,
    execution_result: Option<WireResult>,
}

#[derive(Deserialize)]
struct WireActionType {
    category: Option<String>,
}

#[derive(Deserialize)]
struct WireResult {
    #[serde(rename = "external-execution-summary")]
    summary: Option<String>,
}

/// Reads one message body.
///
/// # Errors
/// [`Malformed`] when the body is not an EventBridge envelope of a CodePipeline state change, or
/// lacks what such an event must carry.
pub fn parse(body: &str) -> Result<Event, Malformed> {
    if body.len() > MAX_BODY_BYTES {
        return Err(Malformed::TooLarge { bytes: body.len() });
    }
    read(body).map_err(|error| malformed::wrapper(body).unwrap_or(error))
}

fn read(body: &str) -> Result<Event, Malformed> {
    // For serde an array is a struct without names.
    let start = body.trim_start().as_bytes().first();
    if start.is_some_and(|first| *first != b'{') {
        return Err(Malformed::not_an_object(body));
    }
    let envelope: WireEnvelope =
        serde_json::from_str(body).map_err(|error| Malformed::not_an_envelope(&error))?;
    if required(envelope.source.as_deref(), "source")? != SOURCE {
        return Err(Malformed::ForeignSource);
    }
    let account = required(envelope.account.as_deref(), "account")?;
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Malformed::Invalid {
            field: "account",
            expected: "an account id of 12 digits",
        });
    }
    let (kind, failed) = match required(envelope.detail_type.as_deref(), "detail-type")? {
        detail_type @ (STAGE_DETAIL_TYPE | PIPELINE_DETAIL_TYPE) => {
            let is_stage = detail_type == STAGE_DETAIL_TYPE;
            (
                Kind::NotARejection(NotARejection::NotAnAction),
                failed(&envelope, account, is_stage)?,
            )
        }
        ACTION_DETAIL_TYPE => (parse_action(&envelope, account)?, None),
        _ => return Err(Malformed::UnknownDetailType),
    };
    Ok(Event {
        account: account.to_owned(),
        kind,
        failed,
    })
}

/// What failed as a whole, if anything did and the event says which.
fn failed(
    envelope: &WireEnvelope,
    account: &str,
    is_stage: bool,
) -> Result<Option<Failed>, Malformed> {
    let detail: Value = detail(envelope)?;
    let text = |field: &str| detail.get(field).and_then(Value::as_str);
    let stage = text("stage").filter(|stage| is_name(stage));
    if text("state") != Some("FAILED") || is_stage != stage.is_some() {
        return Ok(None);
    }
    // Nothing is done for such an event, so that one which contradicts itself only goes without a warning.
    let pipeline = pipeline(envelope, text("pipeline"), account).ok();
    Ok(pipeline.map(|pipeline| Failed {
        pipeline,
        stage: stage.map(str::to_owned),
    }))
}

fn parse_action(envelope: &WireEnvelope, account: &str) -> Result<Kind, Malformed> {
    let action: WireAction = detail(envelope)?;
    // What says whether this is a rejection at all comes first: an approval, or a build that
    // failed, may lack what only a rejection needs.
    if required(action.state.as_deref(), "detail.state")? != "FAILED" {
        return Ok(Kind::NotARejection(NotARejection::NotFailed));
    }
    let category = action
        .action_type
        .as_ref()
        .and_then(|kind| kind.category.as_deref());
    if required(category, "detail.type.category")? != "Approval" {
        return Ok(Kind::NotARejection(NotARejection::NotAnApproval));
    }

    let execution_id = execution_id(action.execution_id.as_deref())?;
    let action_execution_id = action
        .action_execution_id
        .as_deref()
        .map(|id| identifier(Some(id), "detail.action-execution-id"))
        .transpose()?;
    // Where the action has an id of its own, the attempt's number says nothing more.
    let attempt = action
        .pipeline_execution_attempt
        .as_ref()
        .filter(|_| action_execution_id.is_none())
        .map(attempt)
        .transpose()?;
    let stage = name(action.stage.as_deref(), "detail.stage")?;
    let action_name = name(action.action.as_deref(), "detail.action")?;
    let rejected_at = timestamp(required(envelope.time.as_deref(), "time")?, "time")?;
    let started_at = action
        .start_time
        .as_deref()
        .map(|text| timestamp(text, "detail.start-time"))
        .transpose()?;

    Ok(Kind::Rejection(Box::new(Rejection {
        key: JobKey::new(
            execution_id,
            stage,
            action_name,
            action_execution_id,
            attempt,
        ),
        pipeline: pipeline(envelope, action.pipeline.as_deref(), account)?,
        execution_id: execution_id.to_owned(),
        action_execution_id: action_execution_id.map(str::to_owned),
        stage: stage.to_owned(),
        action: action_name.to_owned(),
        as_of: started_at.unwrap_or(rejected_at),
        as_of_uncertainty: match started_at {
            Some(_) => Duration::ZERO,
            None => WHOLE_SECOND,
        },
        rejected_at,
        comment: action
            .execution_result
            .and_then(|result| result.summary)
            .filter(|summary| !summary.is_empty())
            .map(|summary| summary.chars().take(MAX_COMMENT_CHARS).collect()),
    })))
}

/// The pipeline's ARN, from `resources` where the event carries it.
///
/// An envelope whose parts contradict each other is malformed: which pipeline it is about decides
/// what is deleted.
fn pipeline(
    envelope: &WireEnvelope,
    name: Option<&str>,
    account: &str,
) -> Result<PipelineArn, Malformed> {
    let name = required(name, "detail.pipeline")?;
    let region = required(envelope.region.as_deref(), "region")?;
    if region.len() > MAX_REGION {
        return Err(Malformed::Invalid {
            field: "region",
            expected: "a region's code",
        });
    }
    let partition = partition_of(region);
    let assembled: PipelineArn = format!("arn:{partition}:codepipeline:{region}:{account}:{name}")
        .parse()
        .map_err(|_| Malformed::Invalid {
            field: "detail.pipeline",
            expected: "a pipeline's name",
        })?;
    let mut stated: Option<PipelineArn> = None;
    let resources = envelope.resources.as_deref().unwrap_or_default();
    for resource in resources
        .iter()
        .filter(|arn| arn.contains(":codepipeline:"))
    {
        let agrees = |arn: &PipelineArn| {
            arn.account == assembled.account
                && arn.region == assembled.region
                && arn.name == assembled.name
                && stated.as_ref().is_none_or(|stated| stated == arn)
        };
        let arn = resource.parse().ok().filter(agrees);
        stated = Some(arn.ok_or(Malformed::Invalid {
            field: "resources",
            expected: "the ARN of the pipeline that the rest of the event names",
        })?);
    }
    // Not every partition can be told by the region's name.
    Ok(stated.unwrap_or(assembled))
}

fn detail<T: DeserializeOwned>(envelope: &WireEnvelope) -> Result<T, Malformed> {
    let detail = envelope
        .detail
        .as_ref()
        .ok_or(Malformed::Missing { field: "detail" })?;
    if !detail.is_object() {
        return Err(Malformed::Invalid {
            field: "detail",
            expected: "an object",
        });
    }
    T::deserialize(detail).map_err(|error| Malformed::not_an_envelope(&error))
}

fn required<'a>(value: Option<&'a str>, field: &'static str) -> Result<&'a str, Malformed> {
    match value {
        None => Err(Malformed::Missing { field }),
        Some("") => Err(Malformed::Invalid {
            field,
            expected: "a text of at least one character",
        }),
        Some(text) => Ok(text),
    }
}

/// The pipeline execution's id: a UUID as CodePipeline writes it, in small letters.
fn execution_id(value: Option<&str>) -> Result<&str, Malformed> {
    const FIELD: &str = "detail.execution-id";
    let id = required(value, FIELD)?;
    if !is_uuid(id) {
        return Err(Malformed::Invalid {
            field: FIELD,
            expected: "a UUID in small letters",
        });
    }
    Ok(id)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// The id of an action's execution. It becomes part of the ledger's key: CodePipeline's are UUIDs, which it
/// does not document; anything of the same alphabet and at most 100 characters is accepted.
fn identifier<'a>(value: Option<&'a str>, field: &'static str) -> Result<&'a str, Malformed> {
    let id = required(value, field)?;
    if id.len() > 100
        || !id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return Err(Malformed::Invalid {
            field,
            expected: "an action execution's id",
        });
    }
    Ok(id)
}

/// A stage's or an action's name. It becomes part of the ledger's key and of log lines.
fn name<'a>(value: Option<&'a str>, field: &'static str) -> Result<&'a str, Malformed> {
    let name = required(value, field)?;
    if !is_name(name) {
        return Err(Malformed::Invalid {
            field,
            expected: "a name that CodePipeline allows",
        });
    }
    Ok(name)
}

fn attempt(number: &Value) -> Result<u32, Malformed> {
    let invalid = || Malformed::Invalid {
        field: "detail.pipeline-execution-attempt",
        expected: "a whole number from 1",
    };
    let value = number.as_f64().ok_or_else(invalid)?;
    if value.fract() != 0.0 || !(1.0..=f64::from(u32::MAX)).contains(&value) {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    Ok(value as u32)
}

fn timestamp(text: &str, field: &'static str) -> Result<Timestamp, Malformed> {
    text.parse().map_err(|_| Malformed::Invalid {
        field,
        expected: "an RFC 3339 time",
    })
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
