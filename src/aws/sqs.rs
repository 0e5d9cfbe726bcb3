//! SQS: receiving, extending, releasing, deleting.
//!
//! Whether a message *may* be deleted is not decided here; `crate::consumer::settle` is the only caller of
//! [`Queue::delete`] for the daemon's queue, and [`crate::ops::dead_letters`] for the dead-letter queue.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry,
    DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName,
};
use jiff::Timestamp;

use super::error::{AwsError, from_sdk};
use crate::domain::arn::Arn;
use crate::domain::error_class::ErrorClass;

/// The most messages one receive returns, and the most entries one batch takes.
pub const MAX_BATCH: usize = 10;

/// One received message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Stays the same through every receive of the same message.
    pub message_id: String,
    /// Belongs to this receive; an older one may no longer delete the message.
    pub receipt_handle: String,
    pub body: String,
    /// How often the message was received, this time included. From 1.
    pub receive_count: u32,
    /// When it was sent to the queue.
    pub sent_at: Option<Timestamp>,
}

/// What the queue says of itself.
#[derive(Clone, Debug, Default)]
pub struct QueueAttributes {
    /// The queue's ARN.
    pub arn: Option<String>,
    /// After how many receives a message goes to the dead-letter queue. `None`: it never does.
    pub max_receive_count: Option<u32>,
    /// Messages that can be received now.
    pub visible: u64,
    /// Messages that were received and neither deleted nor released.
    pub in_flight: u64,
    /// Messages that were sent with a delay.
    pub delayed: u64,
    /// The ARN of the queue that they go to then.
    pub dead_letter_arn: Option<String>,
    /// How long a message stays hidden after a receive that does not say.
    pub visibility_timeout: Option<Duration>,
    /// How long messages are kept.
    pub retention: Option<Duration>,
    /// The queue's policy, a JSON document.
    pub policy: Option<String>,
    /// The KMS key that encrypts messages: its id, ARN, or alias. `None`: there is none, or it is SQS's own.
    pub key: Option<String>,
}

/// The URL of another queue, by its ARN, at the place of the one at `url`.
#[must_use]
pub fn beside(url: &str, arn: &str) -> String {
    let (Some(arn), Some((path, _))) = (Arn::parse(arn), url.rsplit_once('/')) else {
        return url.to_owned();
    };
    let (account, name) = (arn.account, arn.resource);
    match path.rsplit_once('/') {
        // A path without an account names the queue alone.
        Some((host, last)) if last.len() == 12 && last.bytes().all(|it| it.is_ascii_digit()) => {
            format!("{host}/{account}/{name}")
        }
        _ => format!("{path}/{name}"),
    }
}

#[derive(Clone, Debug)]
pub struct Queue {
    clients: Clients,
    url: String,
    wait_time: Duration,
}

/// One client for each way to wait and to try again.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    pub(super) receive: aws_sdk_sqs::Client,
    pub(super) settle: aws_sdk_sqs::Client,
    pub(super) other: aws_sdk_sqs::Client,
}

/// Why one entry of a batch failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed for this message")]
pub struct EntryError {
    operation: &'static str,
    /// The receipt handle is of no use any more: expired, replaced, or the message is gone.
    pub handle_lost: bool,
    #[source]
    source: AwsError,
}

impl EntryError {
    /// What it means.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.source.class
    }
}

/// The result of each entry of a batch, in the order of the entries.
pub type BatchResult = Vec<Result<(), EntryError>>;

impl Queue {
    pub(super) fn new(clients: Clients, url: String, wait_time: Duration) -> Self {
        Self {
            clients,
            url,
            wait_time,
        }
    }

    /// Waits for up to `max` messages (ReceiveMessage), for `wait` but no longer than the wait time
    /// that the client was made for. They stay invisible to others for `visibility`.
    ///
    /// # Errors
    /// [`AwsError`] for every failure, also when the connection is dead.
    pub async fn receive(
        &self,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, AwsError> {
        let output = self
            .clients
            .receive
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(whole(max.clamp(1, MAX_BATCH) as u64))
            .wait_time_seconds(whole(wait.min(self.wait_time).as_secs()))
            .visibility_timeout(whole(visibility.as_secs()))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .send()
            .await
            .map_err(from_sdk("ReceiveMessage"))?;
        Ok(output
            .messages
            .unwrap_or_default()
            .into_iter()
            .filter_map(read_message)
            .collect())
    }

    /// What the queue says of itself (GetQueueAttributes).
    ///
    /// # Errors
    /// [`AwsError`]; of class [`ErrorClass::NotFound`] if there is no such queue.
    pub async fn attributes(&self) -> Result<QueueAttributes, AwsError> {
        let output = self
            .clients
            .other
            .get_queue_attributes()
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .map_err(from_sdk("GetQueueAttributes"))?;
        let attributes = output.attributes.unwrap_or_default();
        let count = |name| {
            attributes
                .get(&name)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        let seconds = |name| {
            let text: &String = attributes.get(&name)?;
            text.parse().ok().map(Duration::from_secs)
        };
        let redrive = attributes.get(&QueueAttributeName::RedrivePolicy);
        Ok(QueueAttributes {
            arn: attributes.get(&QueueAttributeName::QueueArn).cloned(),
            dead_letter_arn: redrive.and_then(|policy| dead_letter_arn(policy)),
            visibility_timeout: seconds(QueueAttributeName::VisibilityTimeout),
            retention: seconds(QueueAttributeName::MessageRetentionPeriod),
            policy: attributes.get(&QueueAttributeName::Policy).cloned(),
            key: attributes
                .get(&QueueAttributeName::KmsMasterKeyId)
                .filter(|key| !key.is_empty())
                .cloned(),
            max_receive_count: attributes
                .get(&QueueAttributeName::RedrivePolicy)
                .and_then(|policy| max_receive_count(policy)),
            visible: count(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: count(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
        })
    }

    /// Makes messages visible again after the given time, counted from now
    /// (ChangeMessageVisibilityBatch): extends a lease, or with a short time releases a message.
    ///
    /// # Errors
    /// [`AwsError`] if the whole batch failed. Each entry has its own result besides.
    pub async fn change_visibility(
        &self,
        entries: &[(String, Duration)],
    ) -> Result<BatchResult, AwsError> {
        const OPERATION: &str = "ChangeMessageVisibilityBatch";
        let mut request = self
            .clients
            .settle
            .change_message_visibility_batch()
            .queue_url(&self.url);
        for (index, (receipt_handle, visibility)) in entries.iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(entry_id(index))
                .receipt_handle(receipt_handle)
                .visibility_timeout(whole(visibility.as_secs()))
                .build()
                .map_err(|error| AwsError::unusable(OPERATION, error))?;
            request = request.entries(entry);
        }
        let output = request.send().await.map_err(from_sdk(OPERATION))?;
        let confirmed = output.successful.into_iter().map(|entry| entry.id);
        Ok(results(OPERATION, entries.len(), confirmed, output.failed))
    }

    /// Sends a message (SendMessage).
    ///
    /// # Errors
    /// [`AwsError`] for every failure; the message may have been sent all the same.
    pub async fn send(&self, body: &str) -> Result<(), AwsError> {
        self.clients
            .other
            .send_message()
            .queue_url(&self.url)
            .message_body(body)
            .send()
            .await
            .map_err(from_sdk("SendMessage"))?;
        Ok(())
    }

    /// Deletes messages (DeleteMessageBatch).
    ///
    /// # Errors
    /// [`AwsError`] if the whole batch failed. Each entry has its own result besides.
    pub async fn delete(&self, receipt_handles: &[String]) -> Result<BatchResult, AwsError> {
        const OPERATION: &str = "DeleteMessageBatch";
        let mut request = self
            .clients
            .settle
            .delete_message_batch()
            .queue_url(&self.url);
        for (index, receipt_handle) in receipt_handles.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(entry_id(index))
                .receipt_handle(receipt_handle)
                .build()
                .map_err(|error| AwsError::unusable(OPERATION, error))?;
            request = request.entries(entry);
        }
        let output = request.send().await.map_err(from_sdk(OPERATION))?;
        let confirmed = output.successful.into_iter().map(|entry| entry.id);
        Ok(results(
            OPERATION,
            receipt_handles.len(),
            confirmed,
            output.failed,
        ))
    }
}

fn entry_id(index: usize) -> String {
    format!("m{index}")
}

/// Success is what the reply confirms: an entry that it mentions nowhere has failed.
fn results(
    operation: &'static str,
    entries: usize,
    confirmed: impl Iterator<Item = String>,
    failed: Vec<BatchResultErrorEntry>,
) -> BatchResult {
    let confirmed: HashSet<String> = confirmed.collect();
    let mut failed: BTreeMap<_, _> = failed
        .into_iter()
        .map(|entry| (entry.id.clone(), entry))
        .collect();
    (0..entries)
        .map(entry_id)
        .map(|id| match failed.remove(&id) {
            None if confirmed.contains(&id) => Ok(()),
            None => Err(EntryError {
                operation,
                handle_lost: false,
                source: AwsError::unusable(operation, "the reply does not mention the entry"),
            }),
            Some(entry) => Err(EntryError {
                operation,
                handle_lost: is_handle_lost(&entry.code),
                source: AwsError::entry(operation, &entry.code, entry.message.as_deref()),
            }),
        })
        .collect()
}

/// The codes come bare, or in the older form with the service's name in front.
fn is_handle_lost(code: &str) -> bool {
    let bare = code.rsplit(['.', '#']).next().unwrap_or(code);
    matches!(
        bare,
        "ReceiptHandleIsInvalid"
            | "MessageNotInflight"
            | "InvalidParameterValue"
            | "InvalidIdFormat"
    )
}

fn read_message(message: aws_sdk_sqs::types::Message) -> Option<Message> {
    let attributes = message.attributes.unwrap_or_default();
    let attribute = |name| attributes.get(&name).map(String::as_str);
    Some(Message {
        message_id: message.message_id?,
        receipt_handle: message.receipt_handle?,
        body: message.body.unwrap_or_default(),
        receive_count: attribute(MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1),
        sent_at: attribute(MessageSystemAttributeName::SentTimestamp)
            .and_then(|text| text.parse().ok())
            .and_then(|millis| Timestamp::from_millisecond(millis).ok()),
    })
}

/// `maxReceiveCount` of a redrive policy, which comes as a number or as a text.
fn max_receive_count(policy: &str) -> Option<u32> {
    let policy: serde_json::Value = serde_json::from_str(policy).ok()?;
    let count = policy.get("maxReceiveCount")?;
    count
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .or_else(|| count.as_str()?.parse().ok())
}

fn dead_letter_arn(policy: &str) -> Option<String> {
    let policy: serde_json::Value = serde_json::from_str(policy).ok()?;
    policy
        .get("deadLetterTargetArn")?
        .as_str()
        .map(str::to_owned)
}

fn whole(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_beside_another_is_at_the_same_place() {
        let arn = "arn:aws:sqs:eu-west-1:210987654321:dead";
        assert_eq!(
            beside("https://sqs.eu-west-1.amazonaws.com/123456789012/live", arn),
            "https://sqs.eu-west-1.amazonaws.com/210987654321/dead"
        );
        assert_eq!(
            beside("http://127.0.0.1:9324/live", arn),
            "http://127.0.0.1:9324/dead"
        );
    }
}
