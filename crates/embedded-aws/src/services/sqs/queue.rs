//! One standard queue: messages, visibility, receipt handles.
//!
//! After the SQS developer guide, "Amazon SQS visibility timeout" and "Using dead-letter queues".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::wire::exchange::Failure;
use crate::wire::ids::{Ids, md5_hex, stable_hash};
use crate::wire::time::later;

/// The longest time between a receive and the last end of its visibility timeout.
pub(crate) const CEILING: Duration = Duration::from_secs(43_200);

/// Messages that a standard queue may have in flight; beyond it nothing is delivered.
const MAX_IN_FLIGHT: usize = 120_000;

/// What is recorded about one message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) md5: String,
    pub(crate) sent: Timestamp,
    pub(crate) attributes: Value,
    pub(crate) receives: u32,
    pub(crate) first_received: Option<Timestamp>,
    pub(crate) dead_letter_source: Option<String>,
    /// From when on it can be received.
    visible_at: Timestamp,
    /// The receive it is under, or was under last.
    received_at: Timestamp,
    nonce: u32,
}

/// A received message and the handle of that receive.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) handle: String,
}

/// What a receive asks for and which faults go with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receive {
    pub(crate) max: usize,
    pub(crate) visibility: Duration,
    /// Deliver, and leave a copy to be delivered again.
    pub(crate) duplicate: bool,
    /// Deliver the newest first.
    pub(crate) reorder: bool,
}

/// Where too often received messages go.
#[derive(Clone, Debug)]
pub(crate) struct Redrive {
    pub(crate) target_arn: String,
    pub(crate) max_receive_count: u32,
}

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Can be received now.
    pub visible: usize,
    /// Received and not yet deleted.
    pub in_flight: usize,
    /// Sent with a delay that has not passed.
    pub delayed: usize,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) arn: String,
    pub(crate) created: Timestamp,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) redrive: Option<Redrive>,
    messages: BTreeMap<u64, Message>,
    /// Every message by when it becomes visible, then by arrival.
    order: BTreeSet<(Timestamp, u64)>,
    next: u64,
}

fn invalid_handle(handle: &str) -> Failure {
    let message = format!("The input receipt handle \"{handle}\" is not a valid receipt handle.");
    Failure::new(400, "ReceiptHandleIsInvalid", message)
}

fn invalid_visibility(value: i64, reason: &str) -> Failure {
    let message =
        format!("Value {value} for parameter VisibilityTimeout is invalid. Reason: {reason}");
    Failure::new(400, "InvalidParameterValue", message)
}

/// A visibility timeout as given by a caller.
pub(crate) fn visibility(seconds: i64) -> Result<Duration, Failure> {
    u64::try_from(seconds)
        .ok()
        .map(Duration::from_secs)
        .filter(|timeout| *timeout <= CEILING)
        .ok_or_else(|| invalid_visibility(seconds, "Must be between 0 and 43200, if provided."))
}

impl Queue {
    pub(crate) fn new(arn: String, created: Timestamp) -> Self {
        Self {
            arn,
            created,
            attributes: BTreeMap::new(),
            redrive: None,
            messages: BTreeMap::new(),
            order: BTreeSet::new(),
            next: 0,
        }
    }

    fn seconds(&self, attribute: &str, otherwise: u64) -> Duration {
        let set = self
            .attributes
            .get(attribute)
            .and_then(|text| text.parse().ok());
        Duration::from_secs(set.unwrap_or(otherwise))
    }

    pub(crate) fn visibility(&self) -> Duration {
        self.seconds("VisibilityTimeout", 30)
    }

    pub(crate) fn wait(&self) -> Duration {
        self.seconds("ReceiveMessageWaitTimeSeconds", 0)
    }

    pub(crate) fn delay(&self) -> Duration {
        self.seconds("DelaySeconds", 0)
    }

    /// Puts a new message in.
    pub(crate) fn send(
        &mut self,
        ids: &mut Ids,
        now: Timestamp,
        body: String,
        attributes: Value,
        delay: Duration,
    ) -> &Message {
        let message = Message {
            id: ids.uuid(),
            md5: md5_hex(body.as_bytes()),
            body,
            sent: now,
            attributes,
            receives: 0,
            first_received: None,
            dead_letter_source: None,
            visible_at: later(now, delay),
            received_at: now,
            nonce: 0,
        };
        let key = self.insert(message);
        &self.messages[&key]
    }

    fn insert(&mut self, message: Message) -> u64 {
        let key = self.next;
        self.next += 1;
        self.order.insert((message.visible_at, key));
        self.messages.insert(key, message);
        key
    }

    /// Takes over a message that another queue gave up on.
    pub(crate) fn take_over(&mut self, mut message: Message, source: &str, now: Timestamp) {
        message.dead_letter_source = Some(source.to_owned());
        message.visible_at = now;
        self.insert(message);
    }

    fn remove(&mut self, key: u64) -> Option<Message> {
        let message = self.messages.remove(&key)?;
        self.order.remove(&(message.visible_at, key));
        Some(message)
    }

    fn set_visible_at(&mut self, key: u64, at: Timestamp) {
        if let Some(message) = self.messages.get_mut(&key) {
            self.order.remove(&(message.visible_at, key));
            message.visible_at = at;
            self.order.insert((at, key));
        }
    }

    /// Makes every message visible.
    pub(crate) fn show_all(&mut self, now: Timestamp) {
        let keys: Vec<u64> = self.messages.keys().copied().collect();
        for key in keys {
            self.set_visible_at(key, now);
        }
    }

    /// Drops what has been kept longer than the queue's retention period.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let retention = self.seconds("MessageRetentionPeriod", 345_600);
        while let Some((&key, oldest)) = self.messages.first_key_value()
            && later(oldest.sent, retention) <= now
        {
            self.remove(key);
        }
    }

    /// Receives up to `ask.max` visible messages. The second part is what exceeded the redrive
    /// policy's count and has to move to the dead-letter queue.
    pub(crate) fn receive(
        &mut self,
        ids: &mut Ids,
        now: Timestamp,
        ask: Receive,
    ) -> (Vec<Received>, Vec<Message>) {
        self.expire(now);
        let (mut received, mut dead) = (Vec::new(), Vec::new());
        if self.order.len() > MAX_IN_FLIGHT && self.depth(now).in_flight >= MAX_IN_FLIGHT {
            return (received, dead);
        }
        let mut taken = BTreeSet::new();
        while received.len() < ask.max {
            let mut visible = self
                .order
                .range(..=(now, u64::MAX))
                .filter(|it| !taken.contains(&it.1));
            let found = if ask.reorder {
                visible.next_back()
            } else {
                visible.next()
            };
            let Some(&(_, key)) = found else { break };
            taken.insert(key);
            let limit = self
                .redrive
                .as_ref()
                .map(|redrive| redrive.max_receive_count);
            let exceeded = self
                .messages
                .get(&key)
                .is_some_and(|message| limit.is_some_and(|limit| message.receives >= limit));
            if exceeded {
                dead.extend(self.remove(key));
                continue;
            }
            if ask.duplicate
                && let Some(message) = self.messages.get(&key)
            {
                // A copy of its own, as on another of the queue's servers: it has its own receipt
                // handles, and deleting the one leaves the other.
                let copy = message.clone();
                taken.insert(self.insert(copy));
            }
            let nonce = ids.u32();
            if let Some(message) = self.messages.get_mut(&key) {
                message.receives += 1;
                message.first_received.get_or_insert(now);
                message.received_at = now;
                message.nonce = nonce;
                let handle = self.handle(key, nonce);
                received.push(Received {
                    message: self.messages[&key].clone(),
                    handle,
                });
            }
            self.set_visible_at(key, later(now, ask.visibility));
        }
        (received, dead)
    }

    /// A receipt handle: opaque to callers, but it names the message and the receive.
    fn handle(&self, key: u64, nonce: u32) -> String {
        let check = self.check(key, nonce);
        format!(
            "AQEB{key:016x}{nonce:08x}{check:016x}{:016x}",
            check.rotate_left(23)
        )
    }

    fn check(&self, key: u64, nonce: u32) -> u64 {
        let parts: [&[u8]; 3] = [
            self.arn.as_bytes(),
            &key.to_be_bytes(),
            &nonce.to_be_bytes(),
        ];
        stable_hash(&parts)
    }

    /// The message and the receive that a handle of this queue names.
    fn parse(&self, handle: &str) -> Result<(u64, u32), Failure> {
        let fields = || {
            let rest = handle.strip_prefix("AQEB")?;
            let key = u64::from_str_radix(rest.get(..16)?, 16).ok()?;
            let nonce = u32::from_str_radix(rest.get(16..24)?, 16).ok()?;
            Some((key, nonce)).filter(|(key, nonce)| self.handle(*key, *nonce) == handle)
        };
        fields().ok_or_else(|| invalid_handle(handle))
    }

    /// Deletes by handle; answers the id of what was deleted. A message that is gone already, or
    /// a handle of an earlier receive, is success without effect.
    pub(crate) fn delete(
        &mut self,
        handle: &str,
        old_receipt_is_ignored: bool,
    ) -> Result<Option<String>, Failure> {
        let (key, nonce) = self.parse(handle)?;
        let current = self
            .messages
            .get(&key)
            .is_some_and(|message| message.nonce == nonce);
        if !current && old_receipt_is_ignored {
            return Ok(None);
        }
        Ok(self.remove(key).map(|message| message.id))
    }

    /// Makes a message visible that a delete has just been answered for, as standard queues
    /// rarely do.
    pub(crate) fn resurface(&mut self, handle: &str, now: Timestamp) -> Result<(), Failure> {
        let (key, _) = self.parse(handle)?;
        self.set_visible_at(key, now);
        Ok(())
    }

    /// ChangeMessageVisibility; answers the message's id. The total since the receive may not
    /// exceed twelve hours: beyond it the call fails, it is not clamped.
    pub(crate) fn change_visibility(
        &mut self,
        handle: &str,
        seconds: i64,
        now: Timestamp,
    ) -> Result<String, Failure> {
        let (key, nonce) = self.parse(handle)?;
        let timeout = visibility(seconds)?;
        let message = self.messages.get(&key).filter(|message| message.nonce == nonce).ok_or_else(|| {
            let message = format!(
                "Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not \
                 exist or is not available for visibility timeout change."
            );
            Failure::new(400, "InvalidParameterValue", message)
        })?;
        if message.visible_at <= now {
            let message = "The specified message isn't in flight.";
            return Err(Failure::new(400, "MessageNotInflight", message));
        }
        let until = later(now, timeout);
        if until > later(message.received_at, CEILING) {
            let reason =
                "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
            return Err(invalid_visibility(seconds, reason));
        }
        let id = message.id.clone();
        self.set_visible_at(key, until);
        Ok(id)
    }

    pub(crate) fn purge(&mut self) {
        self.messages.clear();
        self.order.clear();
    }

    pub(crate) fn depth(&self, now: Timestamp) -> Depth {
        let visible = self.order.range(..=(now, u64::MAX)).count();
        let mut depth = Depth {
            visible,
            ..Depth::default()
        };
        for (_, key) in self.order.range((now, u64::MAX)..) {
            match self.messages.get(key) {
                Some(message) if message.receives == 0 => depth.delayed += 1,
                _ => depth.in_flight += 1,
            }
        }
        depth
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// When the next message that is hidden now becomes visible.
    pub(crate) fn next_visible(&self, now: Timestamp) -> Option<Timestamp> {
        self.order
            .range((now, u64::MAX)..)
            .next()
            .map(|(at, _)| *at)
    }
}
