//! The dead-letter queue: what lies in it, why, and back to the queue with it.
//!
//! [`reason`] is pure: it reads a body as the daemon would, and asks the ledger's records for the
//! rest.
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
use crate::event::{self, Kind};
use crate::history::{Record, State};
use crate::ledger::LedgerError;
use crate::target::OptionArgument;
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
    /// A bounded code: the one that the daemon logged.
    pub code: String,
    /// What a person needs to know.
    pub detail: String,
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
    let unread = |code: &str, detail: String| Reason {
        pipeline: None,
        execution_id: None,
        code: code.to_owned(),
        detail,
    };
    let event = match event::parse(body) {
        Ok(event) => event,
        Err(error) => return unread(error.code(), chain(&error)),
    };
    if !config.allows_account(&event.account) {
        let detail = format!(
            "the event comes from account {}, which is neither the queue's nor in \
             events.allowed_accounts",
            event.account
        );
        return unread("foreign_account", detail);
    }
    let rejection = match event.kind {
        Kind::Rejection(rejection) => rejection,
        Kind::NotARejection(why) => {
            return unread(why.code(), "the event is no rejection".to_owned());
        }
    };
    let of = |code: &str, detail: String| Reason {
        pipeline: Some(rejection.pipeline.name.clone()),
        execution_id: Some(rejection.execution_id.clone()),
        code: code.to_owned(),
        detail,
    };
    match config
        .targets
        .resolve(&rejection.pipeline, &rejection.stage, &rejection.action)
    {
        Ok(target) => {
            if let Some(fault) = target.argument_fault(&rejection) {
                let detail = format!(
                    "the program of the target {} cannot be run for it: {fault}",
                    target.label
                );
                return of(OptionArgument::CODE, detail);
            }
        }
        Err(error) => return of(error.code(), error.to_string()),
    }
    let records = match records {
        Ok(records) => records,
        Err(error) => {
            let detail = format!("the ledger could not be read: {}", chain(error));
            return of("ledger_unreadable", detail);
        }
    };
    let record = records.iter().find(|record| record.key == rejection.key);
    match record.map(|record| &record.state) {
        None => of(
            "unknown",
            "the ledger knows nothing of it: it was never worked on, or too long ago".to_owned(),
        ),
        Some(State::Done(outcome)) => of(
            outcome.code(),
            "its job is done; sent back, it would be deleted as a duplicate".to_owned(),
        ),
        Some(State::Working) => of("working", "its job is being worked on".to_owned()),
        Some(State::Open(None)) => of("open", "its job was begun and never ended".to_owned()),
        Some(State::Open(Some(code))) => {
            of(code, "the reason for which its job ended last".to_owned())
        }
    }
}
