//! What becomes of a message in the end: deleted, released, or left to the redrive policy.
//!
//! **Guarantees.** This is the only file that deletes a message, and it does so in one place
//! (`Settler::delete`), reached only for a job that the ledger has as done and for a well-formed
//! event that is no rejection. Whatever else happens to a message, it stays in the queue. Its permit
//! is free again when SQS has answered for it, not earlier.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};

use super::Parts;
use super::room::CROWDED;
use crate::aws::sqs::Queue;
use crate::consumer::batch::{Batcher, SettleError};
use crate::consumer::jobs::HeldMessage;
use crate::consumer::lease::{Leases, VISIBILITY_CEILING};
use crate::domain::assignment::Assignment;
use crate::domain::history::News;
use crate::notify::{LastReceive, Notice, Notifier};
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::stop::StopReason;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Telemetry, chain, events};

/// A message that can never be handled is released at once this many times: a redrive policy has
/// usually moved it to the dead-letter queue by then. Where there is none, it must not spin.
const QUICK_RECEIVES: u32 = 10;

/// The reason of a message whose program said that it cannot be done.
pub(super) const PROGRAM_FAILED: &str = "program_failed";

/// So many messages are remembered that were given back.
const MAX_GIVEN_BACK: usize = 4096;

/// Why a message was given back.
#[derive(Clone, Copy)]
struct GivenBack {
    reason: &'static str,
    receive_count: u32,
    /// It was counted as refused.
    counted: bool,
    /// For what it was last released.
    released_for: Option<&'static str>,
}

/// A message and what is to be done with it.
pub(super) struct Settlement {
    pub(super) held: HeldMessage,
    /// Its job, if it had one.
    pub(super) job: Option<Arc<Assignment>>,
    pub(super) disposition: Disposition,
}

struct Deletion {
    held: HeldMessage,
    job: Option<Arc<Assignment>>,
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
        /// The same in words, where there is more to say.
        detail: Option<String>,
    },
    /// To the dead-letter queue, by way of the redrive policy.
    Refuse {
        reason: &'static str,
        detail: String,
        /// What is wrong lies in the message itself, or its program said no: no time changes that.
        quick: bool,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Delay {
    None,
    Backoff,
    Until(Timestamp),
    /// For the sake of others.
    Crowded,
}

/// Settles messages: the one owner of their receipt handles from the end of their leases on.
pub(super) struct Settler {
    leases: Leases,
    notifier: Notifier,
    clock: Clock,
    telemetry: Arc<Telemetry>,
    tasks: Tasks,
    backoff: Backoff,
    deletes: Batcher<()>,
    releases: Batcher<Duration>,
    /// By message, why it was last given back.
    given_back: Mutex<HashMap<String, GivenBack>>,
    /// When the last message that was released with a delay comes back.
    released_until: Mutex<Option<Instant>>,
    /// Cancelled once the daemon stops.
    stopping: CancellationToken,
}

/// Deletes in batches.
fn deletes(queue: Queue, tasks: &Tasks) -> Batcher<()> {
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
fn releases(queue: Queue, tasks: &Tasks) -> Batcher<Duration> {
    Batcher::start(
        Arc::new(move |entries: Vec<(String, Duration)>| {
            let queue = queue.clone();
            async move { queue.change_visibility(&entries).await }.boxed()
        }),
        tasks,
    )
}

impl Settler {
    pub(super) fn new(parts: &Parts, leases: Leases, backoff: Backoff) -> Arc<Self> {
        Arc::new(Self {
            leases,
            notifier: parts.notifier.clone(),
            clock: parts.clock.clone(),
            telemetry: Arc::clone(&parts.telemetry),
            tasks: parts.tasks.clone(),
            backoff,
            deletes: deletes(parts.queue.clone(), &parts.tasks),
            releases: releases(parts.queue.clone(), &parts.tasks),
            given_back: Mutex::default(),
            released_until: Mutex::default(),
            stopping: CancellationToken::new(),
        })
    }

    /// The daemon stops: what stepped back for others comes back at once.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Whether every message that was released has come back.
    pub(super) fn is_all_back(&self) -> bool {
        let until = *self.released_until.lock();
        until.is_none_or(|until| until < Instant::now())
    }

    /// Settles messages as their jobs, or the messages themselves, demand.
    pub(super) fn settle(self: &Arc<Self>, settlements: impl IntoIterator<Item = Settlement>) {
        let mut deletions = Vec::new();
        for settlement in settlements {
            let Settlement {
                held,
                job,
                disposition,
            } = settlement;
            let span = held.span.clone();
            let _about = span.enter();
            match disposition {
                Disposition::Delete { reason } => deletions.push(Deletion { held, job, reason }),
                Disposition::Release {
                    delay,
                    reason,
                    detail,
                } => {
                    let delay = match delay {
                        Delay::None => Duration::ZERO,
                        Delay::Backoff => self
                            .backoff
                            .delay(held.receive_count, &mut fastrand::Rng::new()),
                        Delay::Until(until) => self.until(until),
                        // Another instance may have room for it at once.
                        Delay::Crowded if self.stopping.is_cancelled() => Duration::ZERO,
                        Delay::Crowded => CROWDED,
                    };
                    let detail = detail.as_deref();
                    let notice = self.dead_letter(&held, job.as_deref(), reason, detail);
                    self.release(held, delay, reason, notice);
                }
                Disposition::Refuse {
                    reason,
                    detail,
                    quick,
                } => {
                    let news = self.refuses(&held, reason, job.is_some());
                    self.telemetry.emit(events::MessageRefused {
                        message_id: &held.message_id,
                        receive_count: held.receive_count,
                        max_receive_count: self.notifier.max_receives(),
                        reason,
                        detail: &detail,
                        news,
                    });
                    let at_once = if quick { QUICK_RECEIVES } else { 0 };
                    let delay = match held.receive_count.checked_sub(at_once) {
                        None | Some(0) => Duration::ZERO,
                        Some(more) => self.backoff.delay(more, &mut fastrand::Rng::new()),
                    };
                    let notice = self.dead_letter(&held, job.as_deref(), reason, Some(&detail));
                    self.release(held, delay, reason, notice);
                }
            }
        }
        if !deletions.is_empty() {
            self.delete(deletions);
        }
    }

    /// A message is refused: what that says. Of one with a job the job's refusal is reported. What was said
    /// of a message elsewhere, or before a restart, is not known: its first receive is the one that counts.
    fn refuses(&self, held: &HeldMessage, reason: &'static str, has_job: bool) -> News {
        let mut given_back = self.lock_given_back();
        let earlier = given_back.get(&held.message_id).copied();
        let news = match earlier {
            _ if has_job => News::Known,
            _ if held.receive_count <= 1 => News::First,
            Some(earlier) if earlier.reason == reason => News::Known,
            Some(earlier) if earlier.counted => News::Another,
            Some(_) => News::First,
            None => News::Unsure,
        };
        let this = GivenBack {
            reason,
            receive_count: held.receive_count,
            counted: news == News::First || earlier.is_some_and(|earlier| earlier.counted),
            released_for: earlier.and_then(|earlier| earlier.released_for),
        };
        given_back.insert(held.message_id.clone(), this);
        news
    }

    /// A message is given back, to come again. What it was refused for is remembered rather than that. Answers
    /// whether it was last given back for the same.
    fn given_back(&self, held: &HeldMessage, reason: &'static str) -> bool {
        let this = GivenBack {
            reason,
            receive_count: held.receive_count,
            counted: false,
            released_for: None,
        };
        let mut given_back = self.lock_given_back();
        let kept = given_back.entry(held.message_id.clone()).or_insert(this);
        kept.released_for.replace(reason) == Some(reason)
    }

    fn lock_given_back(&self) -> MutexGuard<'_, HashMap<String, GivenBack>> {
        let mut given_back = self.given_back.lock();
        if given_back.len() >= MAX_GIVEN_BACK {
            given_back.clear();
        }
        given_back
    }

    /// Whether the program of this message has said no at an earlier receive: it is not asked again at each
    /// one on the way to the dead-letter queue. A message that was sent back from there is received for the
    /// first time again.
    pub(super) fn has_said_no(&self, message_id: &str, receive_count: u32) -> bool {
        let given_back = self.given_back.lock();
        let earlier = given_back.get(message_id);
        earlier.is_some_and(|it| it.reason == PROGRAM_FAILED && it.receive_count < receive_count)
    }

    /// The only place that deletes messages.
    fn delete(self: &Arc<Self>, deletions: Vec<Deletion>) {
        let settler = Arc::clone(self);
        self.tasks.spawn(async move {
            for deletion in deletions {
                let Deletion { held, job, reason } = deletion;
                let Some(taken) = settler.leases.take(&held.message_id).await else {
                    continue;
                };
                let telemetry = Arc::clone(&settler.telemetry);
                settler.deletes.push(
                    taken,
                    (),
                    Box::new(move |result| {
                        // The whole of it, with its permit: only now is the message settled.
                        let HeldMessage {
                            message_id,
                            span,
                            _permit,
                            ..
                        } = held;
                        let _about = span.enter();
                        match result {
                            Ok(()) => telemetry.emit(events::MessageDeleted {
                                message_id: &message_id,
                                execution_id: job.as_deref().map(Assignment::execution_id),
                                reason,
                            }),
                            Err(SettleError::Superseded) => {}
                            Err(error) => warn!(
            message.id = message_id,
            error = chain(&error),
            "the message could not be deleted; it will come back and be deleted then"
        ),
                        }
                    }),
                );
            }
        });
    }

    /// What there is to tell of a message that is given back for the last time.
    fn dead_letter(
        &self,
        held: &HeldMessage,
        job: Option<&Assignment>,
        reason: &'static str,
        detail: Option<&str>,
    ) -> Option<Notice> {
        let last = LastReceive {
            message_id: &held.message_id,
            receive_count: held.receive_count,
            reason,
            detail,
        };
        self.notifier.of_last_receive(last, job)
    }

    /// Gives a message back, to come again after `delay`. What there is to tell of it is kept before that.
    fn release(
        self: &Arc<Self>,
        held: HeldMessage,
        delay: Duration,
        reason: &'static str,
        notice: Option<Notice>,
    ) {
        let again = self.given_back(&held, reason);
        let settler = Arc::clone(self);
        let delay = delay.min(VISIBILITY_CEILING - Duration::from_secs(60 * 60));
        // SQS takes whole seconds: rather too late by less than one than too soon.
        let delay = Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
        {
            let mut until = self.released_until.lock();
            *until = (*until).max(Some(Instant::now() + delay));
        }
        let span = held.span.clone();
        let released = async move {
            if let Some(notice) = notice {
                let notifier = &settler.notifier;
                notifier.enqueue(&notice).await;
                notifier.send(notice);
            }
            let Some(taken) = settler.leases.take(&held.message_id).await else {
                return;
            };
            let telemetry = Arc::clone(&settler.telemetry);
            settler.releases.push(
                taken,
                delay,
                Box::new(move |result| {
                    let HeldMessage {
                        message_id,
                        span,
                        _permit,
                        ..
                    } = held;
                    let _about = span.enter();
                    match result {
                        Ok(()) => telemetry.emit(events::MessageReleased {
                            message_id: &message_id,
                            delay,
                            reason,
                            again,
                        }),
                        Err(SettleError::Superseded) => {}
                        Err(error) => warn!(
            message.id = message_id,
            error = chain(&error),
            "the message could not be released; it comes back when its visibility timeout ends"
        ),
                    }
                }),
            );
        };
        self.tasks.spawn(released.instrument(span));
    }

    /// Gives back a message whose job goes on without it.
    pub(super) fn let_go(self: &Arc<Self>, held: HeldMessage, delay: Duration, why: StopReason) {
        let notice = self.dead_letter(&held, held.assignment.as_deref(), why.code(), None);
        self.release(held, delay, why.code(), notice);
    }

    /// From now until then, and a second more, so that what ends then has ended.
    fn until(&self, then: Timestamp) -> Duration {
        let left = then.duration_since(self.clock.now());
        Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
    }
}
