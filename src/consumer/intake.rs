//! What a received message is, and which job it belongs to.
//!
//! **Guarantees.** A rejection is attached to its job in the same step as it is taken in: whoever
//! stops all jobs, or counts them, misses none.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::classify::{Fate, Unhandled, classify};
use super::poll::Room;
use super::settle::{Disposition, Settlement};
use super::work::Origin;
use super::{Consumer, lock};
use crate::aws::sqs::Message;
use crate::consumer::jobs::{About, Begun, Handle, HeldMessage};
use crate::domain::event::{Failed, Rejection};
use crate::domain::targets::ResolvedTarget;
use crate::reconcile::place::Reserved;
use crate::telemetry::{chain, events, span_of};

/// So many warnings of events of the wrong kind are remembered.
const MAX_WARNED: usize = 1024;

/// A job that was made for a message, and that somebody must work on and end.
struct New {
    message_id: String,
    receive_count: u32,
    rejection: Rejection,
    /// The message's body, where a program is to read it.
    event: Option<Arc<str>>,
    target: ResolvedTarget,
    handle: Handle,
    span: Span,
}

impl Consumer {
    /// Decides what each message of one receive is, and what becomes of it. Every message takes one
    /// of the permits, and every job that is made one of the places.
    pub(super) fn take_in(self: &Arc<Self>, messages: Vec<Message>, room: Room) {
        let Room {
            mut permits,
            mut places,
        } = room;
        let received_at = Instant::now();
        let targets = self.targets();
        let (mut new, mut settled) = (Vec::new(), Vec::new());
        for message in messages {
            // No more were asked for than there are permits.
            let Some(permit) = permits.split(1) else {
                break;
            };
            let count = message.receive_count;
            let handle = message.receipt_handle;
            let Some(held) = self.hold(message.message_id, handle, received_at, count) else {
                continue;
            };
            let mut held = HeldMessage {
                message_id: held,
                receive_count: message.receive_count,
                about: None,
                span: Span::none(),
                _permit: permit,
            };
            let allows = |account: &str| self.config.allows_account(account);
            match classify(&message.body, &targets, allows) {
                Err(unhandled) => {
                    let rejection = unhandled.rejection();
                    held.span = rejection.map_or_else(Span::none, |it| span_of(it, None));
                    self.leases.about(&held.message_id, &held.span);
                    settled.push(Settlement {
                        held,
                        about: None,
                        disposition: self.disposition_of(&unhandled),
                    });
                }
                Ok((rejection, target)) => {
                    let event = target.program.is_some().then(|| message.body.into());
                    new.extend(self.attach(held, *rejection, event, target, &mut places));
                }
            }
        }
        self.settle(settled);
        self.start(new);
    }

    /// Holds a message, and answers its id. `None` if it is the very message that a job holds: its
    /// lease had run out, and the job goes on with the newer receipt handle.
    fn hold(
        &self,
        message_id: String,
        handle: String,
        received_at: Instant,
        receive_count: u32,
    ) -> Option<String> {
        let again = self.leases.hold(&message_id, handle, received_at);
        if again && self.jobs.hold(&message_id, receive_count) {
            let span = self.leases.span(&message_id);
            let _about = span.enter();
            self.emit(events::MessageRedelivered {
                message_id: &message_id,
            });
            return None;
        }
        Some(message_id)
    }

    /// What becomes of a message that makes no job.
    fn disposition_of(&self, unhandled: &Unhandled) -> Disposition {
        let reason = unhandled.code();
        if let Unhandled::WrongKind(failed) = unhandled {
            self.warn_of(failed);
        }
        match unhandled.fate() {
            Fate::Deleted => Disposition::Delete { reason },
            Fate::Refused { quick } => Disposition::Refuse {
                reason,
                detail: chain(unhandled),
                quick,
            },
        }
    }

    /// Warns of a stage or a pipeline of ours that failed as a whole: once for each pipeline and kind.
    fn warn_of(&self, failed: &Failed) {
        let mut warned = lock(&self.warned);
        if warned.len() >= MAX_WARNED {
            warned.clear();
        }
        if warned.insert((failed.code(), failed.pipeline.to_string())) {
            self.emit(events::WrongKindOfEvent {
                pipeline: &failed.pipeline,
                detail_type: failed.detail_type(),
            });
        }
    }

    /// Attaches the message to the job of its rejection. The job, if there was none.
    fn attach(
        &self,
        mut held: HeldMessage,
        rejection: Rejection,
        event: Option<Arc<str>>,
        target: ResolvedTarget,
        places: &mut Reserved,
    ) -> Option<New> {
        let (message_id, receive_count) = (held.message_id.clone(), held.receive_count);
        held.about = Some(About {
            rejection: rejection.clone(),
            target: target.label.clone(),
        });
        let span = span_of(&rejection, Some(&target.label));
        held.span = span.clone();
        self.leases.about(&message_id, &span);
        let begun = Begun {
            key: &rejection.key,
            execution_id: &rejection.execution_id,
            crowd: &target.crowd(&rejection.execution_id),
            place: places.place(),
            span: span.clone(),
        };
        let Some(handle) = self.jobs.attach(begun, held) else {
            let _about = span.enter();
            self.emit(events::DuplicateSuppressed {
                message_id: &message_id,
                execution_id: &rejection.execution_id,
                job: "running",
            });
            return None;
        };
        Some(New {
            message_id,
            receive_count,
            rejection,
            event,
            target,
            handle,
            span,
        })
    }

    /// Starts the jobs of one receive. Where there are several, the ledger is asked at once which of
    /// them are done: a backlog may be one of duplicates.
    fn start(self: &Arc<Self>, new: Vec<New>) {
        if new.len() < 2 {
            new.into_iter().for_each(|job| self.spawn(job));
            return;
        }
        let consumer = Arc::clone(self);
        self.parts.tasks.spawn(async move {
            let keys: Vec<_> = new.iter().map(|job| job.rejection.key.clone()).collect();
            // If it fails, it will fail to grant the claims as well, and then that is handled.
            let done = consumer.parts.ledger.done(&keys).await.unwrap_or_default();
            let mut settled = Vec::new();
            for job in new {
                if done.contains(&job.rejection.key) {
                    let done = || consumer.done_before(&job.message_id, &job.rejection);
                    let disposition = job.span.in_scope(done);
                    let about = About {
                        rejection: job.rejection,
                        target: job.target.label,
                    };
                    settled.extend(consumer.end(about, disposition));
                } else {
                    consumer.spawn(job);
                }
            }
            consumer.settle(settled);
        });
    }

    fn spawn(self: &Arc<Self>, job: New) {
        let New {
            message_id,
            receive_count,
            rejection,
            event,
            target,
            handle,
            span,
        } = job;
        let consumer = Arc::clone(self);
        let label = target.label.clone();
        let task = async move {
            let disposition = consumer
                .work(
                    Origin::Message {
                        id: &message_id,
                        receive_count,
                    },
                    rejection.clone(),
                    event,
                    target,
                    handle,
                )
                .await;
            let about = About {
                rejection,
                target: label,
            };
            consumer.settle(consumer.end(about, disposition));
        };
        self.parts.tasks.spawn(task.instrument(span));
    }

    /// Ends a job. All its messages are to be settled alike.
    pub(super) fn end(
        &self,
        about: About,
        disposition: Disposition,
    ) -> impl Iterator<Item = Settlement> + use<> {
        let about = Arc::new(about);
        let messages = self.jobs.end(&about.rejection.key).into_iter();
        messages.map(move |held| Settlement {
            held,
            about: Some(Arc::clone(&about)),
            disposition: disposition.clone(),
        })
    }
}
