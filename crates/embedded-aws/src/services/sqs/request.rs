//! Fields of a request, and the refusals of those that are missing or wrong.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::services::Tweaks;
use crate::wire::exchange::Failure;
use crate::wire::ids::Ids;
use crate::wire::settings::Settings;

/// What a rule needs besides the queues.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) settings: &'a Settings,
    pub(crate) ids: &'a mut Ids,
    pub(crate) tweaks: &'a Tweaks,
}

/// The error code for clients of the older query protocol, which the JSON protocol still carries
/// in the `x-amzn-query-error` header.
pub(crate) fn query_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "BatchEntryIdsNotDistinct"
        | "EmptyBatchRequest"
        | "InvalidBatchEntryId"
        | "MessageNotInflight"
        | "TooManyEntriesInBatchRequest"
        | "UnsupportedOperation" => format!("AWS.SimpleQueueService.{code}"),
        other => other.to_owned(),
    }
}

pub(super) fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(400, code, message)
}

pub(super) fn invalid_parameter(
    name: &str,
    value: impl std::fmt::Display,
    reason: &str,
) -> Failure {
    let message = format!("Value {value} for parameter {name} is invalid. Reason: {reason}");
    failure("InvalidParameterValue", message)
}

pub(super) fn missing(name: &str) -> Failure {
    failure(
        "MissingParameter",
        format!("The request must contain the parameter {name}."),
    )
}

pub(super) fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Failure> {
    body.get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| missing(name))
}

pub(super) fn number(
    body: &Value,
    name: &str,
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<i64>, Failure> {
    match body.get(name).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let reason = format!(
                    "Must be between {} and {}, if provided.",
                    range.start(),
                    range.end()
                );
                Err(invalid_parameter(name, value, &reason))
            }
        },
    }
}

pub(super) fn seconds(number: Option<i64>) -> Option<Duration> {
    number
        .and_then(|number| u64::try_from(number).ok())
        .map(Duration::from_secs)
}
