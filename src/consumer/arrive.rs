//! The messages of a receive: each is held, read, and attached to the job that it belongs to, or settled at once.
//!
//! **Guarantees.** A rejection is attached to its job in the same step as it is taken in: whoever
//! stops all jobs, or counts them, misses none.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{Instrument, Span, warn};

use super::Consumer;
use super::classify::{Fate, Unhandled};
use super::room::Room;
use super::settle::{Disposition, Settlement};
use super::work::Origin;
use crate::aws::sqs::Message;
use crate::consumer::jobs::{Begun, Handle, HeldMessage};
use crate::domain::assignment::Assignment;
use crate::domain::event::ACTION_DETAIL_TYPE;
use crate::reconcile::place::Reserved;
use crate::telemetry::{chain, events, span_of};

/// A job that was made for a message, and that somebody must work on and end.
struct New {
    message_id: String,
    receive_count: u32,
    assignment: Arc<Assignment>,
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
        let targets = self.intake.targets();
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
                assignment: None,
                span: Span::none(),
                _permit: permit,
            };
            match self.intake.read(&targets, message.body) {
                Err(unhandled) => {
                    let rejection = unhandled.rejection();
                    held.span = rejection.map_or_else(Span::none, |it| span_of(it, None));
                    self.leases.about(&held.message_id, &held.span);
                    settled.push(Settlement {
                        held,
                        job: None,
                        disposition: self.disposition_of(&unhandled),
                    });
                }
                Ok(assignment) => new.extend(self.attach(held, assignment, &mut places)),
            }
        }
        self.settler.settle(settled);
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
        if let Unhandled::WrongKind(failed) = unhandled
            && self.intake.is_first(failed)
        {
            warn!(
                pipeline = failed.pipeline.name,
                event.account = failed.pipeline.account,
                event.detail_type = failed.detail_type(),
                "the rule asks for the wrong kind of event: this one says no rejection and is deleted; set the rule's \
             detail-type to `{ACTION_DETAIL_TYPE}`"
            );
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

    /// Attaches the message to the job of its rejection. The job, if there was none.
    fn attach(
        &self,
        mut held: HeldMessage,
        assignment: Arc<Assignment>,
        places: &mut Reserved,
    ) -> Option<New> {
        let (message_id, receive_count) = (held.message_id.clone(), held.receive_count);
        let span = span_of(&assignment.rejection, Some(assignment.label()));
        held.assignment = Some(Arc::clone(&assignment));
        held.span = span.clone();
        self.leases.about(&message_id, &span);
        let begun = Begun {
            assignment: &assignment,
            place: places.place(),
            span: span.clone(),
        };
        let Some(handle) = self.jobs.attach(begun, held) else {
            let _about = span.enter();
            self.emit(events::DuplicateSuppressed {
                message_id: &message_id,
                execution_id: assignment.execution_id(),
                job: "running",
            });
            return None;
        };
        Some(New {
            message_id,
            receive_count,
            assignment,
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
        self.tasks.spawn(async move {
            let keys: Vec<_> = new.iter().map(|job| job.assignment.key().clone()).collect();
            // If it fails, it will fail to grant the claims as well, and then that is handled.
            let done = consumer.ledger.done(&keys).await.unwrap_or_default();
            let mut settled = Vec::new();
            for job in new {
                if done.contains(job.assignment.key()) {
                    let worker = &consumer.worker;
                    let done = || worker.done_before(&job.message_id, &job.assignment);
                    let disposition = job.span.in_scope(done);
                    settled.extend(consumer.end(job.assignment, disposition));
                } else {
                    consumer.spawn(job);
                }
            }
            consumer.settler.settle(settled);
        });
    }

    fn spawn(self: &Arc<Self>, job: New) {
        let New {
            message_id,
            receive_count,
            assignment,
            handle,
            span,
        } = job;
        let consumer = Arc::clone(self);
        let task = async move {
            let origin = Origin::Message {
                id: &message_id,
                receive_count,
            };
            let working = consumer.worker.work(origin, &assignment, handle);
            let disposition = working.await;
            let settlements = consumer.end(assignment, disposition);
            consumer.settler.settle(settlements);
        };
        self.tasks.spawn(task.instrument(span));
    }

    /// Ends a job. All its messages are to be settled alike.
    pub(super) fn end(
        &self,
        job: Arc<Assignment>,
        disposition: Disposition,
    ) -> impl Iterator<Item = Settlement> + use<> {
        let messages = self.jobs.end(job.key()).into_iter();
        messages.map(move |held| Settlement {
            held,
            job: Some(Arc::clone(&job)),
            disposition: disposition.clone(),
        })
    }
}
