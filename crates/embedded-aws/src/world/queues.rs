//! Queues and tables: made, filled, and looked at without a protocol between.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::aws::EmbeddedAws;
use crate::services::sqs::queue::{Depth, Redrive};
use crate::wire::exchange::Failure;
use crate::wire::settings::Settings;

/// A queue and its dead-letter queue, by URL.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The queue that consumers poll.
    pub url: String,
    /// Where messages go that were received too often.
    pub dead_letter_url: String,
}

/// A message in a queue, whether or not it is visible.
#[derive(Clone, Debug)]
pub struct MessageView {
    pub id: String,
    pub body: String,
    /// How often it has been received.
    pub receives: u32,
    pub sent: Timestamp,
}

impl EmbeddedAws {
    /// Makes a standard queue `name` and a dead-letter queue `{name}-dlq`.
    pub fn create_queue_with_dlq(
        &self,
        name: &str,
        max_receive_count: u32,
        visibility: Duration,
    ) -> Queues {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        let dead_letters = format!("{name}-dlq");
        let target_arn = state
            .sqs
            .create(&state.settings, now, &dead_letters)
            .arn
            .clone();
        let queue = state.sqs.create(&state.settings, now, name);
        let redrive = serde_json::json!({
            "deadLetterTargetArn": target_arn,
            "maxReceiveCount": max_receive_count,
        });
        let set = [
            ("VisibilityTimeout", visibility.as_secs().to_string()),
            ("RedrivePolicy", redrive.to_string()),
        ];
        queue
            .attributes
            .extend(set.map(|(name, value)| (name.to_owned(), value)));
        queue.redrive = Some(Redrive {
            target_arn,
            max_receive_count,
        });
        let Settings {
            region, account, ..
        } = &state.settings;
        let base = format!("https://sqs.{region}.amazonaws.com/{account}");
        Queues {
            url: format!("{base}/{name}"),
            dead_letter_url: format!("{base}/{dead_letters}"),
        }
    }

    /// Sends a message to a queue, given by URL or name; answers the message's id.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn send(&self, queue: &str, body: impl Into<String>) -> Result<String, Failure> {
        let now = self.now();
        let id = {
            let mut state = self.state();
            let state = &mut *state;
            let queue = state.sqs.queue(queue)?;
            queue
                .send(
                    &mut state.ids,
                    now,
                    body.into(),
                    Value::Null,
                    Duration::ZERO,
                )
                .id
                .clone()
        };
        self.changed();
        Ok(id)
    }

    /// How many messages a queue holds; nothing if there is no such queue.
    #[must_use]
    pub fn depth(&self, queue: &str) -> Option<Depth> {
        let now = self.now();
        let mut state = self.state();
        let queue = state.sqs.queue(queue).ok()?;
        queue.expire(now);
        Some(queue.depth(now))
    }

    /// Every message of a queue, oldest first. Of a dead-letter queue, for instance.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<MessageView> {
        let mut state = self.state();
        let Ok(queue) = state.sqs.queue(queue) else {
            return Vec::new();
        };
        queue
            .messages()
            .map(|message| MessageView {
                id: message.id.clone(),
                body: message.body.clone(),
                receives: message.receives,
                sent: message.sent,
            })
            .collect()
    }

    /// Deletes every message of a queue.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn purge(&self, queue: &str) -> Result<(), Failure> {
        self.state().sqs.queue(queue)?.purge();
        self.changed();
        Ok(())
    }

    /// Sets a queue's policy.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn set_queue_policy(&self, queue: &str, policy: &str) -> Result<(), Failure> {
        let mut state = self.state();
        let queue = state.sqs.queue(queue)?;
        let attributes = &mut queue.attributes;
        attributes.insert("Policy".to_owned(), policy.to_owned());
        Ok(())
    }

    /// Lets the visibility timeout of every message of a queue have ended by now.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn show_messages(&self, queue: &str) -> Result<(), Failure> {
        let now = self.now();
        self.state().sqs.queue(queue)?.show_all(now);
        self.changed();
        Ok(())
    }

    /// Makes a DynamoDB table with a partition key of type String; one of that name stays.
    pub fn create_table(&self, name: &str, key: &str) {
        self.state().dynamodb.create(name, key);
    }

    /// Every item of a table, in DynamoDB's typed JSON, in the order of the keys.
    #[must_use]
    pub fn items(&self, table: &str) -> Vec<serde_json::Map<String, Value>> {
        self.state().dynamodb.items(table)
    }
}
