//! SQS over AWS JSON 1.0, query-compatible: requests to queues, results to JSON.
//!
//! After the SQS API reference. The long poll itself waits in [`EmbeddedAws::handle`](crate::EmbeddedAws::handle);
//! here every call is over at once, so that a poll that is given up has taken nothing.

mod attributes;
mod messages;
pub(crate) mod queue;
pub(crate) mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::queue::{Queue, Receive};
pub(crate) use self::request::Context;
use self::request::{failure, number, query_code, seconds, text};
use crate::wire::exchange::{Call, Change, Failure, Reply};
use crate::wire::settings::Settings;

/// Entries that one batch may hold.
const BATCH: usize = 10;

/// The longest long poll.
const MAX_WAIT: i64 = 20;

/// The queues of the account.
#[derive(Debug, Default)]
pub(crate) struct Sqs {
    pub(crate) queues: BTreeMap<String, Queue>,
}

/// A receive: the messages, or how to wait for some.
pub(crate) enum Polled {
    Messages(Reply),
    Nothing {
        /// How long the caller is willing to wait.
        wait: Duration,
        /// When the next hidden message becomes visible.
        next_visible: Option<Timestamp>,
    },
}

impl Sqs {
    pub(crate) fn queue(&mut self, url: &str) -> Result<&mut Queue, Failure> {
        let name = url.rsplit('/').next().unwrap_or_default();
        self.queues
            .get_mut(name)
            .ok_or_else(|| failure("QueueDoesNotExist", "The specified queue does not exist."))
    }

    /// When the next hidden message of any queue becomes visible.
    pub(crate) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.queues
            .values()
            .filter_map(|queue| queue.next_visible(now))
            .min()
    }

    /// Makes a queue, or finds the one of that name.
    pub(crate) fn create(&mut self, settings: &Settings, now: Timestamp, name: &str) -> &mut Queue {
        self.queues.entry(name.to_owned()).or_insert_with(|| {
            let arn = format!(
                "arn:aws:sqs:{}:{}:{name}",
                settings.region, settings.account
            );
            Queue::new(arn, now)
        })
    }

    /// ReceiveMessage, once and without waiting.
    pub(crate) fn receive(
        &mut self,
        context: &mut Context<'_>,
        body: &Value,
    ) -> Result<Polled, Failure> {
        let max = number(body, "MaxNumberOfMessages", 1..=10)?.unwrap_or(1);
        let wait = number(body, "WaitTimeSeconds", 0..=MAX_WAIT)?;
        let visibility = match body.get("VisibilityTimeout").and_then(Value::as_i64) {
            Some(seconds) => Some(queue::visibility(seconds)?),
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
        let wanted = messages::wanted_attributes(body);
        let named = body.get("MessageAttributeNames").and_then(Value::as_array);
        let messages: Vec<Value> = received
            .iter()
            .map(|it| messages::received_json(it, &wanted, named.is_some()))
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
    pub(crate) fn call(
        &mut self,
        context: &mut Context<'_>,
        call: &Call,
        body: &Value,
    ) -> Result<Reply, Failure> {
        let now = context.now;
        match call.operation.as_str() {
            "SendMessage" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                let sent = messages::send(queue, context, body)?;
                let said = format!("{} sent", sent["MessageId"].as_str().unwrap_or_default());
                Ok(Reply::json(&sent).changed(Change::new(said)))
            }
            "SendMessageBatch" => self.batch(body, |queue, entry| {
                let sent = messages::send(queue, context, entry)?;
                let id = sent["MessageId"].as_str().unwrap_or_default();
                Ok((format!("{id} sent"), sent))
            }),
            "DeleteMessage" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                let said = messages::delete(queue, context, body)?;
                let reply = Reply::new(200, b"{}".to_vec());
                Ok(Reply {
                    change: said.map(Change::new),
                    ..reply
                })
            }
            "DeleteMessageBatch" => self.batch(body, |queue, entry| {
                let said = messages::delete(queue, context, entry)?;
                Ok((said.unwrap_or_default(), json!({})))
            }),
            "ChangeMessageVisibility" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                let said = messages::change_visibility(queue, now, body)?;
                Ok(Reply::new(200, b"{}".to_vec()).changed(Change::new(said)))
            }
            "ChangeMessageVisibilityBatch" => self.batch(body, |queue, entry| {
                Ok((messages::change_visibility(queue, now, entry)?, json!({})))
            }),
            "GetQueueAttributes" => {
                let queue = self.queue(text(body, "QueueUrl")?)?;
                queue.expire(now);
                attributes::get(queue, now, body)
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
        let reply = Reply::json(&json!({ "Successful": successful, "Failed": failed }));
        Ok(if said.is_empty() {
            reply
        } else {
            reply.changed(Change::new(said.join(", ")))
        })
    }
}
