//! What becomes of a message in the end: deleted, released, or left to the redrive policy.
//!
//! **Guarantees.** This is the only file that deletes a message, and it does so in one place
//! (`Consumer::delete`), reached only for a job that the ledger has as done and for a well-formed
//! event that is no rejection. Whatever else happens to a message, it stays in the queue. Its permit
//! is free again when SQS has answered for it, not earlier.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Consumer, lock};
use crate::aws::sqs::Queue;
use crate::batch::{Batcher, SettleError};
use crate::jobs::{About, HeldMessage};
use crate::lease::VISIBILITY_CEILING;
use crate::notify::{LastReceive, Notice};
use crate::tasks::Tasks;
use crate::telemetry::events;

/// A message that can never be handled is released at once this many times: a redrive policy has
/// usually moved it to the dead-letter queue by then. Where there is none, it must not spin.
const QUICK_RECEIVES: u32 = 10;

/// The reason of a message whose program said that it cannot be done.
pub(super) const PROGRAM_FAILED: &str = "program_failed";

/// So many of them are remembered.
const MAX_SAID_NO: usize = 4096;

/// A message and what is to be done with it.
pub(super) struct Settlement {
    pub(super) held: HeldMessage,
    /// Its job, if it had one.
    pub(super) about: Option<Arc<About>>,
    pub(super) disposition: Disposition,
}

struct Deletion {
    held: HeldMessage,
    execution_id: Option<String>,
    reason: &'static str,
}

/// What is done with the messages of a job that has ended.
#[derive(Clone)]
pub(super) enum Disposition {
    Delete {
        reason: &'static str,
    },
    /// To come back after a delay.
    Release {
        delay: Delay,
        reason: &'static str,
    },
    /// To the dead-letter queue, by way of the redrive policy.
    Reject {
        reason: &'static str,
        detail: String,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Delay {
    None,
    /// By receive count.
    Backoff,
    Until(Timestamp),
}

/// Deletes in batches.
pub(super) fn deletes(queue: Queue, tasks: &Tasks) -> Batcher<()> {
    Batcher::start(
        Arc::new(move |entries: Vec<(String, ())>| {
            let queue = queue.clone();
            let handles: Vec<_> = entries.into_iter().map(|(handle, ())| handle).collect();
            async move { queue.delete(&handles).await }.boxed()
        }),
        tasks,
    )
}

/// Releases in batches.
pub(super) fn releases(queue: Queue, tasks: &Tasks) -> Batcher<Duration> {
    Batcher::start(
        Arc::new(move |entries: Vec<(String, Duration)>| {
            let queue = queue.clone();
            async move { queue.change_visibility(&entries).await }.boxed()
        }),
        tasks,
    )
}

impl Consumer {
    /// Settles messages as their jobs, or the messages themselves, demand.
    pub(super) fn settle(self: &Arc<Self>, settlements: impl IntoIterator<Item = Settlement>) {
        let mut deletions = Vec::new();
        for settlement in settlements {
            let Settlement {
                held,
                about,
                disposition,
            } = settlement;
            match disposition {
                Disposition::Delete { reason } => deletions.push(Deletion {
                    held,
                    execution_id: about.map(|about| about.rejection.execution_id.clone()),
                    reason,
                }),
                Disposition::Release { delay, reason } => {
                    let delay = match delay {
                        Delay::None => Duration::ZERO,
                        Delay::Backoff => self
                            .backoff()
                            .delay(held.receive_count, &mut fastrand::Rng::new()),
                        Delay::Until(until) => self.until(until),
                    };
                    let notice = self.dead_letter(&held, about.as_deref(), reason, None);
                    self.release(held, delay, reason, notice);
                }
                Disposition::Reject { reason, detail } => {
                    if reason == PROGRAM_FAILED {
                        self.remember_no(&held);
                    }
                    self.emit(events::MessageRejected {
                        message_id: &held.message_id,
                        receive_count: held.receive_count,
                        reason,
                        detail: &detail,
                    });
                    let delay = match held.receive_count.checked_sub(QUICK_RECEIVES) {
                        None | Some(0) => Duration::ZERO,
                        Some(more) => self.backoff().delay(more, &mut fastrand::Rng::new()),
                    };
                    let notice = self.dead_letter(&held, about.as_deref(), reason, Some(&detail));
                    self.release(held, delay, reason, notice);
                }
            }
        }
        if !deletions.is_empty() {
            self.delete(deletions);
        }
    }

    /// A program that says no is not asked again at each receive on the way to the dead-letter queue.
    fn remember_no(&self, held: &HeldMessage) {
        let mut said_no = lock(&self.said_no);
        if said_no.len() >= MAX_SAID_NO {
            said_no.clear();
        }
        said_no.insert(held.message_id.clone(), held.receive_count);
    }

    /// Whether the program of this message has said no at an earlier receive. One that was sent back from
    /// the dead-letter queue is received for the first time again.
    pub(super) fn has_said_no(&self, message_id: &str, receive_count: u32) -> bool {
        lock(&self.said_no)
            .get(message_id)
            .is_some_and(|earlier| *earlier < receive_count)
    }

    /// The only place that deletes messages.
    fn delete(self: &Arc<Self>, deletions: Vec<Deletion>) {
        let consumer = Arc::clone(self);
        self.parts.tasks.spawn(async move {
            for deletion in deletions {
                let Deletion {
                    held,
                    execution_id,
                    reason,
                } = deletion;
                let Some(taken) = consumer.leases.take(&held.message_id).await else {
                    continue;
                };
                let telemetry = Arc::clone(&consumer.parts.telemetry);
                consumer.deletes.push(
                    taken,
                    (),
                    Box::new(move |result| {
                        // The whole of it, with its permit: only now is the message settled.
                        let HeldMessage {
                            message_id,
                            _permit,
                            ..
                        } = held;
                        match result {
                            Ok(()) => telemetry.emit(events::MessageDeleted {
                                message_id: &message_id,
                                execution_id: execution_id.as_deref(),
                                reason,
                            }),
                            Err(SettleError::Superseded) => {}
                            Err(error) => telemetry.emit(events::DeleteFailed {
                                message_id: &message_id,
                                error: &error,
                            }),
                        }
                    }),
                );
            }
        });
    }

    /// What there is to tell of a message that is given back for the last time.
    pub(super) fn dead_letter(
        &self,
        held: &HeldMessage,
        about: Option<&About>,
        reason: &'static str,
        detail: Option<&str>,
    ) -> Option<Notice> {
        let last = LastReceive {
            message_id: &held.message_id,
            receive_count: held.receive_count,
            reason,
            detail,
        };
        let job = about.map(|about| (&about.rejection, about.target.as_str()));
        self.parts.notifier.of_last_receive(last, job)
    }

    /// Gives a message back, to come again after `delay`. What there is to tell of it is kept before that.
    pub(super) fn release(
        self: &Arc<Self>,
        held: HeldMessage,
        delay: Duration,
        reason: &'static str,
        notice: Option<Notice>,
    ) {
        let consumer = Arc::clone(self);
        let delay = delay.min(VISIBILITY_CEILING - Duration::from_secs(60 * 60));
        // SQS takes whole seconds: rather too late by less than one than too soon.
        let delay = Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
        {
            let mut until = lock(&self.released_until);
            *until = (*until).max(Some(Instant::now() + delay));
        }
        self.parts.tasks.spawn(async move {
            if let Some(notice) = notice {
                let notifier = &consumer.parts.notifier;
                notifier.owe(&notice).await;
                notifier.send(notice);
            }
            let Some(taken) = consumer.leases.take(&held.message_id).await else {
                return;
            };
            let telemetry = Arc::clone(&consumer.parts.telemetry);
            consumer.releases.push(
                taken,
                delay,
                Box::new(move |result| {
                    let HeldMessage {
                        message_id,
                        _permit,
                        ..
                    } = held;
                    match result {
                        Ok(()) => telemetry.emit(events::MessageReleased {
                            message_id: &message_id,
                            delay,
                            reason,
                        }),
                        Err(SettleError::Superseded) => {}
                        Err(error) => telemetry.emit(events::ReleaseFailed {
                            message_id: &message_id,
                            error: &error,
                        }),
                    }
                }),
            );
        });
    }

    /// From now until then, and a second more, so that what ends then has ended.
    fn until(&self, then: Timestamp) -> Duration {
        let left = then.duration_since(self.parts.clock.now());
        Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
    }
}
