//! What a received message is, and which job it belongs to.
//!
//! **Guarantees.** A rejection is attached to its job in the same step as it is taken in: whoever
//! stops all jobs, or counts them, misses none.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::poll::Room;
use super::settle::{Disposition, Settlement};
use super::work::Origin;
use super::{Consumer, lock};
use crate::aws::sqs::Message;
use crate::event::{self, Event, Failed, Kind, Rejection};
use crate::jobs::{About, Begun, Handle, HeldMessage};
use crate::place::Reserved;
use crate::target::{OptionArgument, PipelineArn, ResolveError, ResolvedTarget, Targets};
use crate::telemetry::{events, span_of};

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

/// A message that makes no job.
struct Unfit {
    disposition: Disposition,
    /// For what is logged of it.
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
            match self.read(&message.body) {
                Err(Unfit { disposition, span }) => {
                    self.leases.about(&held.message_id, &span);
                    held.span = span;
                    settled.push(Settlement {
                        held,
                        about: None,
                        disposition,
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

    /// A rejection and its target, or what to do with a message that has none.
    fn read(&self, body: &str) -> Result<(Box<Rejection>, ResolvedTarget), Unfit> {
        let event = match event::parse(body) {
            Ok(event) => event,
            Err(error) => {
                return Err(Unfit {
                    disposition: Disposition::Refuse {
                        reason: error.code(),
                        detail: crate::telemetry::chain(&error),
                        quick: true,
                    },
                    span: Span::none(),
                });
            }
        };
        let span = match &event.kind {
            Kind::Rejection(rejection) => span_of(rejection, None),
            Kind::NotARejection(_) => Span::none(),
        };
        self.target_of(event)
            .map_err(|disposition| Unfit { disposition, span })
    }

    fn target_of(&self, event: Event) -> Result<(Box<Rejection>, ResolvedTarget), Disposition> {
        let refuse = |reason, detail| Disposition::Refuse {
            reason,
            detail,
            quick: true,
        };
        // What the configuration says may change: a rolling update may bring the target.
        let no_target = |reason, detail| Disposition::Refuse {
            reason,
            detail,
            quick: false,
        };
        if !self.config.allows_account(&event.account) {
            let detail = format!(
                "the event comes from account {}, which is neither the queue's nor in \
                 events.allowed_accounts",
                event.account
            );
            return Err(refuse("foreign_account", detail));
        }
        let mut rejection = match event.kind {
            Kind::Rejection(rejection) => rejection,
            Kind::NotARejection(why) => {
                let failed = event.failed.filter(|failed| self.is_ours(&failed.pipeline));
                let reason = match failed {
                    Some(failed) => self.wrong_kind(&failed),
                    None => why.code(),
                };
                return Err(Disposition::Delete { reason });
            }
        };
        let targets = self.present_targets();
        let what = || {
            format!(
                "pipeline {}, stage {}, action {}",
                rejection.pipeline, rejection.stage, rejection.action
            )
        };
        match targets.resolve(&rejection.pipeline, &rejection.stage, &rejection.action) {
            Ok(target) => match target.argument_fault(&rejection) {
                None => {
                    rejection.key = target.key(&rejection.key);
                    Ok((rejection, target))
                }
                Some(fault) => Err(refuse(
                    OptionArgument::CODE,
                    format!(
                        "the program of the target {} cannot be run for {}: {fault}",
                        target.label,
                        what()
                    ),
                )),
            },
            Err(error) => Err(no_target(error.code(), format!("{}: {error}", what()))),
        }
    }

    fn present_targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a target is for this pipeline, whatever its stage and action.
    fn is_ours(&self, pipeline: &PipelineArn) -> bool {
        let targets = self.present_targets();
        let mut targets = targets.iter();
        targets.any(|target| target.resolve(pipeline) != Err(ResolveError::NoTarget))
    }

    /// A stage or a pipeline of ours failed as a whole: said once for each pipeline and kind. The reason.
    fn wrong_kind(&self, failed: &Failed) -> &'static str {
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
        failed.code()
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
