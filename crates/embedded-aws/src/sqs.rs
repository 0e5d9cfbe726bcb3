//! SQS over AWS JSON 1.0, query-compatible: requests to queues, results to JSON.
//!
//! After the SQS API reference. The long poll itself waits in [`super::EmbeddedAws::handle`];
//! here every call is over at once, so that a poll that is given up has taken nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::exchange::{Call, Change, Failure, Reply};
use super::faults::Tweaks;
use super::ids::Ids;
use super::settings::Settings;
use super::sqs_queue::{self, Queue, Receive, Received, Redrive};

/// Entries that one batch may hold.
const BATCH: usize = 10;

/// The longest long poll.
const MAX_WAIT: i64 = 20;

/// The largest message, 1 MiB.
const MAX_BODY: usize = 1_048_576;

/// Attributes that callers may set and that are answered as they were set.
const SETTABLE: [(&str, &str); 5] = [
    ("DelaySeconds", "0"),
    ("MaximumMessageSize", "1048576"),
    ("MessageRetentionPeriod", "345600"),
    ("ReceiveMessageWaitTimeSeconds", "0"),
    ("VisibilityTimeout", "30"),
];

/// Attributes that are kept and answered, and have no effect here.
const PASSIVE: [&str; 5] = [
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "Policy",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
];

/// The error code for clients of the older query protocol, which the JSON protocol still carries
/// in the `x-amzn-query-error` header.
pub(super) fn query_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "QueueNameExists" => "QueueAlreadyExists".to_owned(),
        "BatchEntryIdsNotDistinct"
        | "BatchRequestTooLong"
        | "EmptyBatchRequest"
        | "InvalidBatchEntryId"
        | "MessageNotInflight"
        | "PurgeQueueInProgress"
        | "QueueDeletedRecently"
        | "TooManyEntriesInBatchRequest"
        | "UnsupportedOperation" => format!("AWS.SimpleQueueService.{code}"),
        other => other.to_owned(),
    }
}

/// The queues of the account.
#[derive(Debug, Default)]
pub(super) struct Sqs {
    pub(super) queues: BTreeMap<String, Queue>,
}

/// What a rule needs besides the queues.
pub(super) struct Context<'a> {
    pub(super) now: Timestamp,
    pub(super) settings: &'a Settings,
    pub(super) ids: &'a mut Ids,
    pub(super) tweaks: &'a Tweaks,
    /// `scheme://host` under which queue URLs are answered.
    pub(super) base: &'a str,
}

/// A receive: the messages, or how to wait for some.
pub(super) enum Polled {
    Messages(Reply),
    Nothing {
        /// How long the caller is willing to wait.
        wait: Duration,
        /// When the next hidden message becomes visible.
        next_visible: Option<Timestamp>,
    },
}

fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(400, code, message)
}

fn invalid_parameter(name: &str, value: impl std::fmt::Display, reason: &str) -> Failure {
    let message = format!("Value {value} for parameter {name} is invalid. Reason: {reason}");
    failure("InvalidParameterValue", message)
}

fn missing(name: &str) -> Failure {
    failure(
        "MissingParameter",
        format!("The request must contain the parameter {name}."),
    )
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Failure> {
    body.get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| missing(name))
}

fn number(
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

fn seconds(number: Option<i64>) -> Option<Duration> {
    number
        .and_then(|number| u64::try_from(number).ok())
        .map(Duration::from_secs)
}

impl Sqs {
    pub(super) fn queue(&mut self, url: &str) -> Result<&mut Queue, Failure> {
        let name = url.rsplit('/').next().unwrap_or_default();
        self.queues
            .get_mut(name)
            .ok_or_else(|| failure("QueueDoesNotExist", "The specified queue does not exist."))
    }

    /// When the next hidden message of any queue becomes visible.
    pub(super) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.queues
            .values()
            .filter_map(|queue| queue.next_visible(now))
            .min()
    }

    /// Makes a queue, or finds the one of that name.
    pub(super) fn create(&mut self, settings: &Settings, now: Timestamp, name: &str) -> &mut Queue {
        self.queues.entry(name.to_owned()).or_insert_with(|| {
            let arn = format!(
                "arn:aws:sqs:{}:{}:{name}",
                settings.region, settings.account
            );
            Queue::new(name.to_owned(), arn, now)
        })
    }

    /// ReceiveMessage, once and without waiting.
    pub(super) fn receive(
        &mut self,
        context: &mut Context<'_>,
        body: &Value,
    ) -> Result<Polled, Failure> {
        let max = number(body, "MaxNumberOfMessages", 1..=10)?.unwrap_or(1);
        let wait = number(body, "WaitTimeSeconds", 0..=MAX_WAIT)?;
        let visibility = match body.get("VisibilityTimeout").and_then(Value::as_i64) {
            Some(seconds) => Some(sqs_queue::visibility(seconds)?),
            None => None,
        };
        let queue = self.queue(text(body, "QueueUrl")?)?;
        let ask = Receive {
            max: usize::try_from(max).unwrap_or(1),
            visibility: visibility.unwrap_or_else(|| queue.visibility()),
            duplicate: context.tweaks.duplicate,
            reorder: context.tweaks.reorder,
        };
        let wait = seconds(wait).unwrap_or_else(|| queue.wait());
        let (received, dead) = queue.receive(context.ids, context.now, ask);
        let next_visible = queue.next_visible(context.now);
        let source = queue.arn.clone();
        let target = queue
            .redrive
            .as_ref()
            .map(|redrive| redrive.target_arn.clone());
        let moved: Vec<String> = dead.iter().map(|message| message.id.clone()).collect();
        let dead_letters = target.and_then(|arn| self.queues.values_mut().find(|it| it.arn == arn));
        if let Some(dead_letters) = dead_letters {
            for message in dead {
                dead_letters.take_over(message, &source, context.now);
            }
        }
        if received.is_empty() && moved.is_empty() {
            return Ok(Polled::Nothing { wait, next_visible });
        }
        let wanted = wanted_attributes(body);
        let named = body.get("MessageAttributeNames").and_then(Value::as_array);
        let messages: Vec<Value> = received
            .iter()
            .map(|it| received_json(it, &wanted, named.is_some()))
            .collect();
        let mut said: Vec<String> = received
            .iter()
            .map(|it| {
                format!(
                    "{} received (receive {})",
                    it.message.id, it.message.receives
                )
            })
            .collect();
        said.extend(
            moved
                .iter()
                .map(|id| format!("{id} moved to the dead-letter queue")),
        );
        let body = if messages.is_empty() {
            json!({})
        } else {
            json!({ "Messages": messages })
        };
        Ok(Polled::Messages(
            Reply::json(&body).changed(Change::new(said.join(", "))),
        ))
    }

    /// Every other operation.
    pub(super) fn call(
        &mut self,
        context: &mut Context<'_>,
        call: &Call,
        body: &Value,
    ) -> Result<Reply, Failure> {
        let now = context.now;
        match call.operation.as_str() {
            "SendMessage" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                let sent = send(queue, context, body)?;
                let said = format!("{} sent", sent["MessageId"].as_str().unwrap_or_default());
                Ok(Reply::json(&sent).changed(Change::new(said)))
            }
            "SendMessageBatch" => self.batch(body, |queue, entry| {
                let sent = send(queue, context, entry)?;
                let id = sent["MessageId"].as_str().unwrap_or_default();
                Ok((format!("{id} sent"), sent))
            }),
            "DeleteMessage" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                let said = delete(queue, context, body)?;
                let reply = Reply::new(200, b"{}".to_vec());
                Ok(Reply {
                    change: said.map(Change::new),
                    ..reply
                })
            }
            "DeleteMessageBatch" => self.batch(body, |queue, entry| {
                let said = delete(queue, context, entry)?;
                Ok((said.unwrap_or_default(), json!({})))
            }),
            "ChangeMessageVisibility" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                let said = change_visibility(queue, now, body)?;
                Ok(Reply::new(200, b"{}".to_vec()).changed(Change::new(said)))
            }
            "ChangeMessageVisibilityBatch" => self.batch(body, |queue, entry| {
                Ok((change_visibility(queue, now, entry)?, json!({})))
            }),
            "GetQueueUrl" => {
                let name = text(body, "QueueName")?;
                self.queue(name)?;
                Ok(Reply::json(&json!({ "QueueUrl": url(context, name) })))
            }
            "ListQueues" => {
                let prefix = body
                    .get("QueueNamePrefix")
                    .and_then(Value::as_str)
                    .unwrap_or("");
                let urls: Vec<String> = self
                    .queues
                    .keys()
                    .filter(|name| name.starts_with(prefix))
                    .map(|name| url(context, name))
                    .collect();
                Ok(Reply::json(&json!({ "QueueUrls": urls })))
            }
            "CreateQueue" => {
                let name = text(body, "QueueName")?.to_owned();
                let legal = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
                if name.is_empty() || name.len() > 80 || !name.chars().all(legal) {
                    return Err(invalid_parameter(
                        "QueueName",
                        &name,
                        "Can only include alphanumeric characters, hyphens, or underscores. 1 to \
                         80 in length.",
                    ));
                }
                let new = !self.queues.contains_key(&name);
                let set = attributes_in(body)?;
                set_attributes(self.create(context.settings, now, &name), set)?;
                let reply = Reply::json(&json!({ "QueueUrl": url(context, &name) }));
                Ok(if new {
                    reply.changed(Change::new("queue created"))
                } else {
                    reply
                })
            }
            "GetQueueAttributes" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                queue.expire(now);
                get_attributes(queue, now, body)
            }
            "SetQueueAttributes" => {
                let set = attributes_in(body)?;
                set_attributes(self.queue(text(body, "QueueUrl")?)?, set)?;
                Ok(Reply::new(200, b"{}".to_vec()).changed(Change::new("queue attributes set")))
            }
            "PurgeQueue" => {
                self.queue(text(body, "QueueUrl")?)?.purge();
                Ok(Reply::new(200, b"{}".to_vec()).changed(Change::new("queue purged")))
            }
            "DeleteQueue" => {
                let name = self.queue(text(body, "QueueUrl")?)?.name.clone();
                self.queues.remove(&name);
                Ok(Reply::new(200, b"{}".to_vec()).changed(Change::new("queue deleted")))
            }
            other => Err(failure(
                "UnknownOperationException",
                format!("{other} is not an operation of the embedded SQS."),
            )),
        }
    }

    /// Runs a batch entry by entry; an entry that fails does not fail the batch.
    fn batch(
        &mut self,
        body: &Value,
        mut each: impl FnMut(&mut Queue, &Value) -> Result<(String, Value), Failure>,
    ) -> Result<Reply, Failure> {
        let entries = body.get("Entries").and_then(Value::as_array);
        let entries = entries.map_or(&[][..], Vec::as_slice);
        if entries.is_empty() {
            let message = "There should be at least one entry in the request.";
            return Err(failure("EmptyBatchRequest", message));
        }
        if entries.len() > BATCH {
            let message = format!(
                "Maximum number of entries per request are {BATCH}. You have sent {}.",
                entries.len()
            );
            return Err(failure("TooManyEntriesInBatchRequest", message));
        }
        let mut ids = BTreeSet::new();
        for entry in entries {
            let id = text(entry, "Id")?;
            let legal = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
            if id.is_empty() || id.len() > 80 || !id.chars().all(legal) {
                let message = "A batch entry id can only contain alphanumeric characters, hyphens \
                               and underscores. It can be at most 80 letters long.";
                return Err(failure("InvalidBatchEntryId", message));
            }
            if !ids.insert(id) {
                return Err(failure(
                    "BatchEntryIdsNotDistinct",
                    format!("Id {id} repeated."),
                ));
            }
        }
        let queue = self.queue(text(body, "QueueUrl")?)?;
        let (mut successful, mut failed, mut said) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let id = &entry["Id"];
            match each(queue, entry) {
                Ok((line, mut result)) => {
                    result["Id"] = id.clone();
                    successful.push(result);
                    said.extend(Some(line).filter(|line| !line.is_empty()));
                }
                Err(failure) => failed.push(json!({
                    "Id": id,
                    "SenderFault": failure.status < 500,
                    "Code": query_code(&failure.code),
                    "Message": failure.message,
                })),
            }
        }
        let mut result = json!({ "Successful": successful });
        if !failed.is_empty() {
            result["Failed"] = Value::Array(failed);
        }
        let reply = Reply::json(&result);
        Ok(if said.is_empty() {
            reply
        } else {
            reply.changed(Change::new(said.join(", ")))
        })
    }
}

fn url(context: &Context<'_>, name: &str) -> String {
    format!("{}/{}/{name}", context.base, context.settings.account)
}

fn send(queue: &mut Queue, context: &mut Context<'_>, body: &Value) -> Result<Value, Failure> {
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

fn delete(
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

fn change_visibility(queue: &mut Queue, now: Timestamp, body: &Value) -> Result<String, Failure> {
    let handle = text(body, "ReceiptHandle")?;
    let timeout = body.get("VisibilityTimeout").and_then(Value::as_i64);
    let timeout = timeout.ok_or_else(|| missing("VisibilityTimeout"))?;
    let id = queue.change_visibility(handle, timeout, now)?;
    Ok(format!("{id} hidden for {timeout} s"))
}

fn wanted_attributes(body: &Value) -> BTreeSet<String> {
    ["MessageSystemAttributeNames", "AttributeNames"]
        .iter()
        .filter_map(|name| body.get(*name)?.as_array())
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

fn received_json(received: &Received, wanted: &BTreeSet<String>, with_attributes: bool) -> Value {
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

fn attributes_in(body: &Value) -> Result<BTreeMap<String, String>, Failure> {
    let given = body.get("Attributes").and_then(Value::as_object);
    given
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let known = name == "RedrivePolicy"
                || PASSIVE.contains(&name.as_str())
                || SETTABLE.iter().any(|(settable, _)| settable == name);
            let value = value.as_str().filter(|_| known);
            value
                .map(|value| (name.clone(), value.to_owned()))
                .ok_or_else(|| {
                    failure("InvalidAttributeName", format!("Unknown Attribute {name}."))
                })
        })
        .collect()
}

fn set_attributes(queue: &mut Queue, set: BTreeMap<String, String>) -> Result<(), Failure> {
    let invalid = |name: &str| {
        failure(
            "InvalidAttributeValue",
            format!("Invalid value for the parameter {name}."),
        )
    };
    for (name, value) in &set {
        if SETTABLE.iter().any(|(settable, _)| settable == name) && value.parse::<u32>().is_err() {
            return Err(invalid(name));
        }
    }
    if let Some(text) = set.get("RedrivePolicy") {
        queue.redrive = if text.is_empty() {
            None
        } else {
            let policy: Value = serde_json::from_str(text).map_err(|_| invalid("RedrivePolicy"))?;
            // Both a number and a number in quotes are in use.
            let count = &policy["maxReceiveCount"];
            let count = count.as_u64().or_else(|| count.as_str()?.parse().ok());
            let target_arn = policy["deadLetterTargetArn"].as_str();
            let parts = count.and_then(|it| u32::try_from(it).ok()).zip(target_arn);
            let (max_receive_count, arn) = parts.ok_or_else(|| invalid("RedrivePolicy"))?;
            Some(Redrive {
                target_arn: arn.to_owned(),
                max_receive_count,
            })
        };
    }
    queue.attributes.extend(set);
    Ok(())
}

fn get_attributes(queue: &Queue, now: Timestamp, body: &Value) -> Result<Reply, Failure> {
    let depth = queue.depth(now);
    let mut all: BTreeMap<String, String> = SETTABLE
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
