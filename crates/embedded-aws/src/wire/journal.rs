//! Everything that was asked of the embedded AWS, in order.
//!
//! Tests read it for what happened and in which order; the rehearsal shows it as it grows.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::wire::exchange::{AwsService, Call, Change};

/// How far a subscriber may fall behind before it misses entries.
const SUBSCRIBER_LAG: usize = 4096;

/// One exchange.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts from zero; never reused.
    pub number: u64,
    /// When it took effect, or was refused.
    pub at: Timestamp,
    pub call: Call,
    /// What the caller got to see.
    pub seen: Seen,
    /// The AWS error code of the service's own answer, if it was a refusal.
    pub code: Option<String>,
    /// What it changed, if anything, whether or not the caller got to see the answer.
    pub change: Option<Change>,
    /// Which injected faults had a part in it.
    pub faults: Vec<String>,
}

/// What the caller got to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A response of this HTTP status.
    Status(u16),
    /// A cut connection.
    Dropped,
    /// Nothing, for as long as it waited.
    Nothing,
}

impl Entry {
    /// Whether the exchange changed anything.
    #[must_use]
    pub fn mutated(&self) -> bool {
        self.change.is_some()
    }

    /// Whether this is a call of the named operation.
    #[must_use]
    pub fn is(&self, operation: &str) -> bool {
        self.call.operation == operation
    }

    /// Whether this is about the resource: a distribution, policy, parameter or queue.
    #[must_use]
    pub fn about(&self, resource: &str) -> bool {
        self.call.resource.as_deref() == Some(resource)
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Call {
            service,
            operation,
            resource,
            ..
        } = &self.call;
        write!(f, "{:.3} {service} {operation}", self.at)?;
        if let Some(resource) = resource {
            write!(f, " {resource}")?;
        }
        match self.seen {
            Seen::Status(status) => write!(f, " -> {status}")?,
            Seen::Dropped => write!(f, " -> connection cut")?,
            Seen::Nothing => write!(f, " -> no answer")?,
        }
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(change) = &self.change {
            write!(f, ": {}", change.description)?;
        }
        if !self.faults.is_empty() {
            write!(f, " [{}]", self.faults.join(", "))?;
        }
        Ok(())
    }
}

/// The journal of a world.
#[derive(Debug)]
pub struct Journal {
    kept: Mutex<Kept>,
    sender: broadcast::Sender<Entry>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    next: u64,
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            kept: Mutex::default(),
            sender: broadcast::channel(SUBSCRIBER_LAG).0,
            capacity: capacity.max(1),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, mut entry: Entry) {
        let mut kept = self.kept();
        entry.number = kept.next;
        kept.next += 1;
        if kept.entries.len() == self.capacity {
            kept.entries.pop_front();
        }
        kept.entries.push_back(entry.clone());
        // Inside the lock, so that subscribers see entries in order. Nobody listening is fine.
        let _ = self.sender.send(entry);
    }

    /// Every entry still kept, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.kept().entries.iter().cloned().collect()
    }

    /// The entries from number `from` on.
    #[must_use]
    pub fn since(&self, from: u64) -> Vec<Entry> {
        self.kept()
            .entries
            .iter()
            .filter(|entry| entry.number >= from)
            .cloned()
            .collect()
    }

    /// The newest entry.
    #[must_use]
    pub fn latest(&self) -> Option<Entry> {
        self.kept().entries.back().cloned()
    }

    /// How many exchanges there have been.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.kept().next
    }

    /// The entries that changed something, without the traffic of queues and buses.
    #[must_use]
    pub fn mutations(&self) -> Vec<Entry> {
        let kept = self.kept();
        kept.entries
            .iter()
            .filter(|entry| entry.mutated())
            .filter(|entry| {
                !matches!(
                    entry.call.service,
                    AwsService::Sqs | AwsService::EventBridge
                )
            })
            .cloned()
            .collect()
    }

    /// How often the operation was called, on the resource if one is given.
    #[must_use]
    pub fn calls(&self, operation: &str, resource: Option<&str>) -> usize {
        let kept = self.kept();
        kept.entries
            .iter()
            .filter(|entry| entry.is(operation) && resource.is_none_or(|it| entry.about(it)))
            .count()
    }

    /// New entries as they come. A subscriber that falls thousands behind misses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Entry> {
        self.sender.subscribe()
    }
}
