//! Why a body is no event that the daemon can read, and what to set so that the next one is.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{ACTION_DETAIL_TYPE, MAX_BODY_BYTES, SOURCE};

/// Why a body is no CodePipeline event that this daemon can read. Such a message is never deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Above [`MAX_BODY_BYTES`].
    #[error("the body has {bytes} bytes, more than the {MAX_BODY_BYTES} that SQS carries")]
    TooLarge {
        /// The body's length.
        bytes: usize,
    },
    /// Not JSON, nested too deeply, or of the wrong shape. Says where and not what: an error of
    /// serde_json may quote the body, and bodies are not logged.
    #[error("the body is not an EventBridge envelope: {problem} at line {line}, column {column}")]
    NotAnEnvelope {
        /// What is wrong there.
        problem: &'static str,
        /// From 1; 0 where the place is not known.
        line: usize,
        /// From 1; 0 where the place is not known.
        column: usize,
    },
    /// A field that every such event carries is missing.
    #[error("the event has no `{field}`")]
    Missing {
        /// The field's name, dotted.
        field: &'static str,
    },
    /// A field holds what it cannot hold.
    #[error("the event's `{field}` is not {expected}")]
    Invalid {
        /// The field's name, dotted.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The event was not emitted by CodePipeline.
    #[error(
        "the event's source is not `{SOURCE}`: set the rule's source to `{SOURCE}`; a test event of PutEvents \
         cannot have that source, send its text to the queue itself"
    )]
    ForeignSource,
    /// A kind of CodePipeline event that is not known here.
    #[error(
        "the event's detail-type is none that is known here: set the rule's detail-type to \
         `{ACTION_DETAIL_TYPE}`"
    )]
    UnknownDetailType,
    /// What SNS delivers where it wraps the message.
    #[error(
        "the body is an SNS notification with the event as a text in it: enable raw message delivery on the \
         queue's subscription to the topic"
    )]
    SnsNotification,
    /// What SNS sends when somebody subscribes a queue, or ends a subscription.
    #[error(
        "the body is an SNS subscription's confirmation and no event: confirm the subscription with its \
         SubscribeURL, and enable raw message delivery on it"
    )]
    SnsConfirmation,
    /// Several events in one body.
    #[error(
        "the body is a JSON array, such as a batch of EventBridge Pipes: send each event as a message of its \
         own, by a rule with the queue as its target, or with a batch size of 1 and no array in the input template"
    )]
    Array,
    /// The event's `detail` was encoded once more.
    #[error(
        "the event's `detail` is a text and no object: take the input transformer off the rule's target, or \
         whatever else encodes `detail` on the way"
    )]
    DetailIsText,
    /// The `detail` of an event alone.
    #[error(
        "the body is an event's `detail` alone: take InputPath off the rule's target, so that the whole event \
         comes"
    )]
    DetailAlone,
    /// A notification of the developer tools console, which has fields of other names.
    #[error(
        "the body is a CodeStar notification (`detailType`), which does not say all that is needed: give an \
         EventBridge rule for `{ACTION_DETAIL_TYPE}` the queue as its target, in place of the notification rule"
    )]
    CodeStarNotification,
}

impl Malformed {
    pub(super) fn not_an_envelope(error: &serde_json::Error) -> Self {
        let problem = match error.classify() {
            serde_json::error::Category::Io => "it cannot be read",
            serde_json::error::Category::Syntax => "it is not JSON",
            serde_json::error::Category::Data => "a field is of another type",
            serde_json::error::Category::Eof => "it ends in the middle",
        };
        Self::NotAnEnvelope {
            problem,
            line: error.line(),
            column: error.column(),
        }
    }

    /// Of a body that does not begin as an object does.
    pub(super) fn not_an_object(body: &str) -> Self {
        match serde_json::from_str::<IgnoredAny>(body) {
            Err(error) => Self::not_an_envelope(&error),
            Ok(IgnoredAny) if body.trim_start().starts_with('[') => Self::Array,
            Ok(IgnoredAny) => Self::NotAnEnvelope {
                problem: "it is JSON, but no object",
                line: 1,
                column: 1,
            },
        }
    }

    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotAnEnvelope { .. } => "not_an_envelope",
            Self::Missing { .. } => "missing_field",
            Self::Invalid { .. } => "invalid_field",
            Self::ForeignSource => "foreign_source",
            Self::UnknownDetailType => "unknown_detail_type",
            Self::SnsNotification => "sns_notification",
            Self::SnsConfirmation => "sns_confirmation",
            Self::Array => "array",
            Self::DetailIsText => "detail_is_text",
            Self::DetailAlone => "detail_alone",
            Self::CodeStarNotification => "codestar_notification",
        }
    }
}

/// What a body is that is no event as EventBridge emits it, where its fields tell what has wrapped or changed
/// the event on the way.
pub(super) fn wrapper(body: &str) -> Option<Malformed> {
    let fields: Map<String, Value> = serde_json::from_str(body).ok()?;
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let has = |field: &str| fields.contains_key(field);
    if has("TopicArn") && !has("source") {
        return match text("Type")? {
            "Notification" => Some(Malformed::SnsNotification),
            "SubscriptionConfirmation" | "UnsubscribeConfirmation" => {
                Some(Malformed::SnsConfirmation)
            }
            _ => None,
        };
    }
    if has("detailType") && !has("detail-type") {
        return Some(Malformed::CodeStarNotification);
    }
    if text("source") == Some(SOURCE) && text("detail").is_some() {
        return Some(Malformed::DetailIsText);
    }
    let is_detail = has("pipeline") && has("execution-id") && has("state");
    (is_detail && !has("source") && !has("detail")).then_some(Malformed::DetailAlone)
}
