//! What the operations on one message do, alone or as an entry of a batch.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::queue::{Queue, Received};
use super::request::{Context, failure, missing, number, seconds, text};
use crate::wire::exchange::Failure;

/// The largest message, 1 MiB.
const MAX_BODY: usize = 1_048_576;

pub(super) fn send(
    queue: &mut Queue,
    context: &mut Context<'_>,
    body: &Value,
) -> Result<Value, Failure> {
    let message = text(body, "MessageBody")?;
    if message.is_empty() || message.len() > MAX_BODY {
        let reason = format!("Message must be between 1 and {MAX_BODY} bytes long.");
        return Err(failure("InvalidParameterValue", reason));
    }
    let delay = number(body, "DelaySeconds", 0..=900)?;
    let delay = seconds(delay).unwrap_or_else(|| queue.delay());
    let attributes = body
        .get("MessageAttributes")
        .cloned()
        .unwrap_or(Value::Null);
    let sent = queue.send(
        context.ids,
        context.now,
        message.to_owned(),
        attributes,
        delay,
    );
    Ok(json!({ "MessageId": sent.id, "MD5OfMessageBody": sent.md5 }))
}

pub(super) fn delete(
    queue: &mut Queue,
    context: &Context<'_>,
    body: &Value,
) -> Result<Option<String>, Failure> {
    let handle = text(body, "ReceiptHandle")?;
    if context.tweaks.undelete {
        queue.resurface(handle, context.now)?;
        return Ok(None);
    }
    let ignored = context.settings.switches.old_receipt_is_ignored;
    Ok(queue
        .delete(handle, ignored)?
        .map(|id| format!("{id} deleted")))
}

pub(super) fn change_visibility(
    queue: &mut Queue,
    now: Timestamp,
    body: &Value,
) -> Result<String, Failure> {
    let handle = text(body, "ReceiptHandle")?;
    let timeout = body.get("VisibilityTimeout").and_then(Value::as_i64);
    let timeout = timeout.ok_or_else(|| missing("VisibilityTimeout"))?;
    let id = queue.change_visibility(handle, timeout, now)?;
    Ok(format!("{id} hidden for {timeout} s"))
}

pub(super) fn wanted_attributes(body: &Value) -> BTreeSet<String> {
    ["MessageSystemAttributeNames", "AttributeNames"]
        .iter()
        .filter_map(|name| body.get(*name)?.as_array())
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

pub(super) fn received_json(
    received: &Received,
    wanted: &BTreeSet<String>,
    with_attributes: bool,
) -> Value {
    let message = &received.message;
    let first = message.first_received.unwrap_or(message.sent);
    let mut all = vec![
        (
            "ApproximateFirstReceiveTimestamp",
            first.as_millisecond().to_string(),
        ),
        ("ApproximateReceiveCount", message.receives.to_string()),
        ("SenderId", "AIDAIENQZJOLO23YVJ4VO".to_owned()),
        ("SentTimestamp", message.sent.as_millisecond().to_string()),
    ];
    if let Some(source) = &message.dead_letter_source {
        all.push(("DeadLetterQueueSourceArn", source.clone()));
    }
    let attributes: Map<String, Value> = all
        .into_iter()
        .filter(|(name, _)| wanted.contains("All") || wanted.contains(*name))
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect();
    let mut out = json!({
        "MessageId": message.id,
        "ReceiptHandle": received.handle,
        "MD5OfBody": message.md5,
        "Body": message.body,
    });
    if !attributes.is_empty() {
        out["Attributes"] = Value::Object(attributes);
    }
    if with_attributes && message.attributes.is_object() {
        out["MessageAttributes"] = message.attributes.clone();
    }
    out
}
