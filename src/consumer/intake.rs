//! What a received message is, and which job it belongs to.
//!
//! **Guarantees.** A rejection is attached to its job in the same step as it is taken in: whoever
//! stops all jobs, or counts them, misses none.

use std::sync::{Arc, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Consumer;
use super::settle::{Disposition, Settlement};
use super::work::{Origin, job_span};
use crate::aws::sqs::Message;
use crate::event::{self, Kind, Rejection};
use crate::jobs::{About, Handle, HeldMessage};
use crate::target::{Resolution, ResolvedTarget};
use crate::telemetry::events;

/// A job that was made for a message, and that somebody must work on and end.
struct New {
    message_id: String,
    receive_count: u32,
    rejection: Rejection,
    /// The message's body, where a program is to read it.
    event: Option<Arc<str>>,
    target: ResolvedTarget,
    handle: Handle,
}

impl Consumer {
    /// Decides what each message of one receive is, and what becomes of it. Every message takes one
    /// of the permits.
    pub(super) fn take_in(
        self: &Arc<Self>,
        messages: Vec<Message>,
        mut permits: OwnedSemaphorePermit,
    ) {
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
            let held = HeldMessage {
                message_id: held,
                receive_count: message.receive_count,
                about: None,
                _permit: permit,
            };
            match self.read(&message.body) {
                Err(disposition) => settled.push(Settlement {
                    held,
                    about: None,
                    disposition,
                }),
                Ok((rejection, target)) => {
                    let event = target.program.is_some().then(|| message.body.into());
                    new.extend(self.attach(held, *rejection, event, target));
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
            self.emit(events::MessageRedelivered {
                message_id: &message_id,
            });
            return None;
        }
        Some(message_id)
    }

    /// A rejection and its target, or what to do with a message that has none.
    fn read(&self, body: &str) -> Result<(Box<Rejection>, ResolvedTarget), Disposition> {
        let reject = |reason, detail| Disposition::Reject { reason, detail };
        let event = event::parse(body)
            .map_err(|error| reject(error.code(), crate::telemetry::chain(&error)))?;
        if !self.config.allows_account(&event.account) {
            let detail = format!(
                "the event comes from account {}, which is neither the queue's nor in \
                 events.allowed_accounts",
                event.account
            );
            return Err(reject("foreign_account", detail));
        }
        let rejection = match event.kind {
            Kind::Rejection(rejection) => rejection,
            Kind::NotARejection(why) => return Err(Disposition::Delete { reason: why.code() }),
        };
        let targets = Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner));
        let what = || {
            format!(
                "pipeline {}, stage {}, action {}",
                rejection.pipeline, rejection.stage, rejection.action
            )
        };
        match targets.resolve(&rejection.pipeline, &rejection.stage, &rejection.action) {
            Resolution::Target(target) => Ok((rejection, target)),
            Resolution::InvalidAccess { label, error } => Err(reject(
                error.code(),
                format!("the target {label} cannot be used for {}: {error}", what()),
            )),
            Resolution::NoTarget => Err(reject("no_target", format!("no target for {}", what()))),
            Resolution::Ambiguous { label } => Err(reject(
                "ambiguous_target",
                format!(
                    "the target {label} can be read in more than one way for {}",
                    what()
                ),
            )),
            Resolution::InvalidParameter { label, error } => Err(reject(
                "invalid_parameter_name",
                format!(
                    "the target {label} names no valid parameters for {}: {error}",
                    what()
                ),
            )),
        }
    }

    /// Attaches the message to the job of its rejection. The job, if there was none.
    fn attach(
        &self,
        mut held: HeldMessage,
        rejection: Rejection,
        event: Option<Arc<str>>,
        target: ResolvedTarget,
    ) -> Option<New> {
        let (message_id, receive_count) = (held.message_id.clone(), held.receive_count);
        held.about = Some(About {
            rejection: rejection.clone(),
            target: target.label.clone(),
        });
        let attached = self
            .jobs
            .attach(&rejection.key, &rejection.execution_id, held);
        let Some(handle) = attached else {
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
                    let disposition = consumer.done_before(&job.message_id, &job.rejection);
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
        } = job;
        let span = job_span(&rejection, &target);
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
        self.parts
            .tasks
            .spawn(tracing::Instrument::instrument(task, span));
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
