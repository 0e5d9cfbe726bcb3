//! Many small requests, few calls: entries that wait are sent together.
//!
//! A batch waits for a few milliseconds to be full: the messages of one receive are settled by several
//! tasks, and each call costs as much as one of ten entries. An entry that fails is tried again, unless its message was received
//! again meanwhile: then the older receipt handle is nobody's business any more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::aws::AwsError;
use crate::aws::sqs::{BatchResult, EntryError, MAX_BATCH};
use crate::consumer::lease::Taken;
use crate::runtime::backoff::Backoff;
use crate::runtime::tasks::Tasks;

/// Calls of one kind that are under way at once.
const CALLS: usize = 8;

/// How long an entry waits for others, at most. Next to the time of a call it is small.
const LINGER: Duration = Duration::from_millis(5);

/// Tries of one entry.
const TRIES: u32 = 8;

const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(200),
    max: Duration::from_secs(2),
};

/// Sends the entries of one batch: receipt handles, and what else each needs. The result has one
/// element for each entry, in their order.
pub(crate) type Call<E> = Arc<
    dyn Fn(Vec<(String, E)>) -> BoxFuture<'static, Result<BatchResult, AwsError>> + Send + Sync,
>;

/// What is told when an entry is through.
pub(crate) type Done = Box<dyn FnOnce(Result<(), SettleError>) + Send>;

/// Why an entry was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    /// The whole call failed.
    #[error(transparent)]
    Call(Arc<AwsError>),
    #[error(transparent)]
    Entry(EntryError),
    /// The message was received again: it will be settled by its newer receipt handle.
    #[error("the message was received again meanwhile")]
    Superseded,
}

struct Entry<E> {
    taken: Taken,
    with: E,
    done: Done,
}

/// Takes entries and sends them in batches.
pub(crate) struct Batcher<E> {
    sender: mpsc::UnboundedSender<Entry<E>>,
}

impl<E: Clone + Send + Sync + 'static> Batcher<E> {
    /// Starts sending, until the batcher is dropped and all is sent.
    pub(crate) fn start(call: Call<E>, tasks: &Tasks) -> Self {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let spawner = tasks.clone();
        tasks.spawn(async move {
            let calls = Arc::new(Semaphore::new(CALLS));
            loop {
                let Ok(permit) = Arc::clone(&calls).acquire_owned().await else {
                    return;
                };
                let entries = next_batch(&mut receiver).await;
                if entries.is_empty() {
                    return;
                }
                let call = Arc::clone(&call);
                spawner.spawn(async move {
                    send(&call, entries).await;
                    drop(permit);
                });
            }
        });
        Self { sender }
    }

    /// Hands an entry over; `done` hears what became of it.
    pub(crate) fn push(&self, taken: Taken, with: E, done: Done) {
        // The receiver lives as long as this sender.
        let _ = self.sender.send(Entry { taken, with, done });
    }
}

/// The next entries to be sent together; none once the batcher is dropped and all is sent.
async fn next_batch<E>(receiver: &mut mpsc::UnboundedReceiver<E>) -> Vec<E> {
    let mut entries = Vec::with_capacity(MAX_BATCH);
    let mut more = receiver.recv_many(&mut entries, MAX_BATCH).await;
    let deadline = Instant::now() + LINGER;
    while more > 0 && entries.len() < MAX_BATCH {
        let room = MAX_BATCH - entries.len();
        let received = receiver.recv_many(&mut entries, room);
        more = tokio::time::timeout_at(deadline, received)
            .await
            .unwrap_or(0);
    }
    entries
}

async fn send<E: Clone>(call: &Call<E>, mut entries: Vec<Entry<E>>) {
    let mut rng = fastrand::Rng::new();
    for attempt in 1.. {
        let (older, newest): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|entry| entry.taken.is_superseded());
        for entry in older {
            (entry.done)(Err(SettleError::Superseded));
        }
        if newest.is_empty() {
            return;
        }
        let last = attempt == TRIES;
        let handles = newest
            .iter()
            .map(|entry| (entry.taken.receipt_handle().to_owned(), entry.with.clone()));
        let reply = call(handles.collect()).await;
        entries = match reply {
            Ok(results) => {
                let mut again = Vec::new();
                for (entry, result) in newest.into_iter().zip(results) {
                    match result {
                        Err(error) if !error.handle_lost && !last => again.push(entry),
                        result => (entry.done)(result.map_err(SettleError::Entry)),
                    }
                }
                again
            }
            Err(error) if last || !error.class.is_transient() => {
                let error = Arc::new(error);
                for entry in newest {
                    (entry.done)(Err(SettleError::Call(Arc::clone(&error))));
                }
                return;
            }
            Err(_) => newest,
        };
        if entries.is_empty() {
            return;
        }
        tokio::time::sleep(BACKOFF.delay(attempt, &mut rng)).await;
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
