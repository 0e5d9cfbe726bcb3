//! The dead-letter queue: what lies in it, why, and back to the queue with it.
//!
//! [`reason`] is pure: it reads a body as the daemon does (`consumer::classify`), and asks the ledger's records
//! for the rest.
//!
//! **Guarantees.** A message is taken out of the dead-letter queue only after the queue has confirmed
//! that it has it: cut off in between it is in both, and the daemon suppresses the duplicate. Nothing is
//! taken out of any other queue here. What was only looked at is given back.
//!
//! **Races.** While it is looked at, a message is hidden from others for [`HIDDEN`] at most.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::aws::AwsError;
use crate::aws::sqs::{EntryError, MAX_BATCH, Message, Queue};
use crate::config::Config;
use crate::consumer::classify::{Fate, classify};
use crate::domain::event::Rejection;
use crate::domain::history::{Record, State};
use crate::ledger::LedgerError;
use crate::telemetry::chain;

/// How long messages are hidden while they are looked at.
pub const HIDDEN: Duration = Duration::from_secs(60);

/// How long a look waits for messages: long polling asks all of the queue's servers.
const WAIT: Duration = Duration::from_secs(1);

/// Why a message is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The pipeline's name, where the body tells.
    pub pipeline: Option<String>,
    /// The pipeline execution's id, where the body tells.
    pub execution_id: Option<String>,
    /// The rejection, where the body is one.
    pub rejection: Option<Rejection>,
    /// Its target's pipeline as written, where it has one.
    pub target: Option<String>,
    /// A bounded code: the one that the daemon logged.
    pub code: String,
    /// What a person needs to know.
    pub detail: String,
    /// Sent back now, it would be refused by the configuration or its own form.
    pub refused_again: bool,
}

/// One message.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The message.
    pub message: Message,
    /// Why it is there.
    pub reason: Reason,
}

/// Why a message could not be sent back.
#[derive(Debug, thiserror::Error)]
pub enum NotRedriven {
    /// It is still in the dead-letter queue alone.
    #[error("it could not be sent")]
    NotSent(#[source] AwsError),
    /// It is in both queues.
    #[error("it was sent, and could not be taken out of the dead-letter queue")]
    NotTaken(#[source] AwsError),
    /// It is in both queues.
    #[error("it was sent, and could not be taken out of the dead-letter queue")]
    EntryNotTaken(#[source] EntryError),
}

/// Looks at up to `limit` messages. Each stays hidden until it is given back.
///
/// # Errors
/// [`AwsError`] if the queue cannot be asked.
pub async fn look(dead: &Queue, limit: usize) -> Result<Vec<Message>, AwsError> {
    let mut messages: Vec<Message> = Vec::new();
    let mut seen = BTreeSet::new();
    while messages.len() < limit {
        let received = dead
            .receive((limit - messages.len()).min(MAX_BATCH), HIDDEN, WAIT)
            .await?;
        let before = messages.len();
        // One that comes twice has been hidden for too short a time, or comes by chance.
        messages.extend(
            received
                .into_iter()
                .filter(|message| seen.insert(message.message_id.clone())),
        );
        if messages.len() == before {
            break;
        }
    }
    Ok(messages)
}

/// Gives back what was looked at.
///
/// # Errors
/// [`AwsError`] if the queue cannot be asked; it gives them back by itself after [`HIDDEN`].
pub async fn give_back(dead: &Queue, messages: &[&Message]) -> Result<(), AwsError> {
    for batch in messages.chunks(MAX_BATCH) {
        let entries: Vec<_> = batch
            .iter()
            .map(|message| (message.receipt_handle.clone(), Duration::ZERO))
            .collect();
        dead.change_visibility(&entries).await?;
    }
    Ok(())
}

/// Sends one message back to the queue that it came from.
///
/// # Errors
/// [`NotRedriven`], which says where it is now.
pub async fn redrive(dead: &Queue, queue: &Queue, message: &Message) -> Result<(), NotRedriven> {
    queue
        .send(&message.body)
        .await
        .map_err(NotRedriven::NotSent)?;
    let taken = dead
        .delete(std::slice::from_ref(&message.receipt_handle))
        .await
        .map_err(NotRedriven::NotTaken)?;
    for entry in taken {
        entry.map_err(NotRedriven::EntryNotTaken)?;
    }
    Ok(())
}

/// Why a message with this body was left to the redrive policy; `records` is what the ledger knows of the
/// jobs, or why it could not be read.
#[must_use]
pub fn reason(body: &str, config: &Config, records: Result<&[Record], &LedgerError>) -> Reason {
    let allows = |account: &str| config.allows_account(account);
    let of = |rejection: Option<&Rejection>, code: &str, detail: String| Reason {
        pipeline: rejection.map(|it| it.pipeline.name.clone()),
        execution_id: rejection.map(|it| it.execution_id.clone()),
        rejection: rejection.cloned(),
        target: None,
        code: code.to_owned(),
        detail,
        refused_again: false,
    };
    let (rejection, target) = match classify(body, &config.targets, allows) {
        Ok((rejection, target)) => (rejection, target.label),
        Err(unhandled) => {
            return Reason {
                refused_again: matches!(unhandled.fate(), Fate::Refused { .. }),
                ..of(unhandled.rejection(), unhandled.code(), chain(&unhandled))
            };
        }
    };
    let record = records.map(|records| records.iter().find(|it| it.key == rejection.key));
    let said;
    let record = match record {
        Err(error) => {
            return of(Some(&rejection), "ledger_unreadable", chain(error));
        }
        Ok(record) => record,
    };
    let (code, detail) = match record.map(|record| (&record.state, record)) {
        None => (
            "unknown",
            "the ledger knows nothing of it: it was never worked on, or too long ago",
        ),
        Some((State::Done(outcome), _)) => (
            outcome.code(),
            "its job is done; sent back, it would be deleted as a duplicate",
        ),
        Some((State::Working, _)) => ("working", "its job is being worked on"),
        Some((State::Open(None), _)) => ("open", "its job was begun and never ended"),
        Some((State::Open(Some(code)), record)) => {
            said = last_end(record);
            (code.as_str(), said.as_str())
        }
    };
    Reason {
        target: Some(target),
        ..of(Some(&rejection), code, detail.to_owned())
    }
}

/// Why a job ended last, and when.
fn last_end(record: &Record) -> String {
    let why = record.trail.why.as_deref();
    format!(
        "{}; tried last at {}",
        why.unwrap_or("the reason for which its job ended last"),
        record.updated.strftime("%Y-%m-%d %H:%M:%SZ")
    )
}
