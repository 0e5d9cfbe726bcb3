//! GetQueueAttributes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::queue::Queue;
use super::request::failure;
use crate::wire::exchange::{Failure, Reply};

/// What attributes are that were not set.
const DEFAULTS: [(&str, &str); 5] = [
    ("DelaySeconds", "0"),
    ("MaximumMessageSize", "1048576"),
    ("MessageRetentionPeriod", "345600"),
    ("ReceiveMessageWaitTimeSeconds", "0"),
    ("VisibilityTimeout", "30"),
];

/// Attributes that are answered if they were set, and have no effect here.
const PASSIVE: [&str; 5] = [
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "Policy",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
];

pub(super) fn get(queue: &Queue, now: Timestamp, body: &Value) -> Result<Reply, Failure> {
    let depth = queue.depth(now);
    let mut all: BTreeMap<String, String> = DEFAULTS
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    all.extend(queue.attributes.clone());
    all.retain(|_, value| !value.is_empty());
    let created = queue.created.as_second().to_string();
    all.extend(
        [
            ("ApproximateNumberOfMessages", depth.visible.to_string()),
            (
                "ApproximateNumberOfMessagesDelayed",
                depth.delayed.to_string(),
            ),
            (
                "ApproximateNumberOfMessagesNotVisible",
                depth.in_flight.to_string(),
            ),
            ("CreatedTimestamp", created.clone()),
            ("LastModifiedTimestamp", created),
            ("QueueArn", queue.arn.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let names = body.get("AttributeNames").and_then(Value::as_array);
    let names: Vec<&str> = names
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for name in &names {
        let known = *name == "All"
            || *name == "RedrivePolicy"
            || PASSIVE.contains(name)
            || all.contains_key(*name);
        if !known {
            return Err(failure(
                "InvalidAttributeName",
                format!("Unknown Attribute {name}."),
            ));
        }
    }
    all.retain(|name, _| names.contains(&"All") || names.contains(&name.as_str()));
    let body = if all.is_empty() {
        json!({})
    } else {
        json!({ "Attributes": all })
    };
    Ok(Reply::json(&body))
}
