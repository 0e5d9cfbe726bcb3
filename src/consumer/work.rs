//! One job, from its claim to its end.
//!
//! **Guarantees.** A job is worked on only under a grant of the ledger, which is renewed beside it;
//! when the grant is lost, the job is told to stop. A panic ends this job and no other. While the
//! ledger fails, no more messages are asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::settle::{Delay, Disposition, PROGRAM_FAILED};
use super::{Consumer, lock};
use crate::event::Rejection;
use crate::jobs::Handle;
use crate::ledger::{Claim, Grant, LedgerError, keep, lease_until};
use crate::notify::End;
use crate::reconcile::{Ended, Failure, Job};
use crate::stop::{Stop, StopReason};
use crate::target::ResolvedTarget;
use crate::telemetry::events::{self, Work};

/// Between two tries of a ledger that fails, no pause is longer.
const MAX_LEDGER_PAUSE: Duration = Duration::from_secs(20);

/// Where a job comes from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// A message asked for it.
    Message {
        /// The message's id.
        id: &'a str,
        receive_count: u32,
    },
    /// It was found, and no message asked for it.
    CatchUp {
        /// Whether CodePipeline is asked before anything is changed, where that is configured.
        verify: bool,
    },
}

impl Consumer {
    /// Claims a job and works on it to its end.
    pub(super) async fn work(
        self: &Arc<Self>,
        origin: Origin<'_>,
        rejection: Rejection,
        event: Option<Arc<str>>,
        target: ResolvedTarget,
        handle: Handle,
    ) -> Disposition {
        let work = Work::of(&target);
        let ledger = &self.parts.ledger;
        let until = lease_until(&self.parts.clock, self.terms);
        let claim = ledger
            .claim(&rejection.key, &rejection.pipeline.name, until)
            .await;
        let execution_id = rejection.execution_id.clone();
        let (grant, binding) = match claim {
            Ok(Claim::Granted { grant, binding }) => (grant, binding),
            Ok(Claim::Done { .. }) => {
                return match origin {
                    Origin::Message { id, .. } => self.done_before(id, &rejection),
                    Origin::CatchUp { .. } => Disposition::Delete {
                        reason: "duplicate",
                    },
                };
            }
            Ok(Claim::Leased { until }) => {
                if let Origin::Message { id, .. } = origin {
                    self.emit(events::DuplicateSuppressed {
                        message_id: id,
                        execution_id: &execution_id,
                        job: "leased_elsewhere",
                    });
                }
                let delay = Delay::Until(until);
                return Disposition::Release {
                    delay,
                    reason: "leased_elsewhere",
                };
            }
            Err(error) => {
                return self.failed(work, &execution_id, &Failure::Ledger(error), &handle);
            }
        };
        self.ledger_worked();
        if let Origin::CatchUp { verify } = origin {
            if let Some(reason) = self.asked_for(&grant) {
                // Its message comes back, or is a dead letter for somebody to send back: what the ledger
                // says of it stays as it is.
                self.give_up(&grant, &reason).await;
                return Disposition::Delete {
                    reason: "asked_for",
                };
            }
            self.emit(events::LostRejectionFound {
                rejection: &rejection,
                ended_without: !verify,
                age: self.parts.clock.since(rejection.rejected_at),
            });
        }
        if let Origin::Message {
            id: message_id,
            receive_count,
        } = origin
            && target.program.is_some()
            && self.has_said_no(message_id, receive_count)
        {
            self.give_up(&grant, PROGRAM_FAILED).await;
            return Disposition::Reject {
                reason: PROGRAM_FAILED,
                detail: "the program has said so at an earlier receive".to_owned(),
            };
        }
        self.emit(events::JobStarted {
            work,
            rejection: &rejection,
            event_age: self.parts.clock.since(rejection.rejected_at),
            resumed: binding.is_some(),
        });

        let about = (rejection.clone(), target.label.clone());
        let job = Job {
            rejection,
            event,
            target,
            grant: grant.clone(),
            unasked: matches!(origin, Origin::CatchUp { .. }),
            binding,
            stop: handle.stop.clone(),
            activity: handle.activity.clone(),
        };
        let reconciler = match origin {
            Origin::CatchUp { verify: false } => self.parts.reconciler.without_verification(),
            _ => self.parts.reconciler.clone(),
        };
        // A task of its own, so that a panic ends this job and no other.
        let run = self
            .parts
            .tasks
            .spawn(tracing::Instrument::in_current_span(async move {
                reconciler.run(&job).await
            }));
        let ended = {
            tokio::pin!(run);
            tokio::select! {
                biased;
                ended = &mut run => ended,
                () = self.keep_grant(&grant, &handle.stop) => run.await,
            }
        };
        match ended {
            Ok(Some(ended)) => self.disposition(work, &execution_id, ended, &handle),
            // The daemon has ended, and this task with it.
            Ok(None) => Disposition::Release {
                delay: Delay::None,
                reason: StopReason::ShuttingDown.code(),
            },
            Err(error) => {
                let took = handle.started.elapsed();
                let detail = panic_message(error);
                self.emit(events::JobPanicked {
                    work,
                    execution_id: &execution_id,
                    detail: &detail,
                    took,
                });
                let end = End::Failed {
                    reason: "panicked",
                    detail,
                };
                let notifier = &self.parts.notifier;
                let about = (&about.0, about.1.as_str());
                if let Some(notice) = notifier.of_run(about, grant.epoch, &end, took) {
                    notifier.tell(notice);
                }
                if let Err(error) = ledger.release(&grant, "panicked").await {
                    self.ledger_failed(&error);
                }
                Disposition::Release {
                    delay: Delay::Backoff,
                    reason: "panicked",
                }
            }
        }
    }

    /// What the last run of a job came to that a message has asked for; `None` if none has.
    fn asked_for(&self, grant: &Grant) -> Option<String> {
        let trail = self.parts.ledger.trail(grant)?;
        let asked = trail.about.as_ref().is_some_and(|about| !about.unasked);
        asked.then(|| trail.last_end().unwrap_or("asked_for").to_owned())
    }

    /// Gives a grant back that nothing was done under.
    async fn give_up(&self, grant: &Grant, reason: &str) {
        if let Err(error) = self.parts.ledger.release(grant, reason).await {
            self.ledger_failed(&error);
        }
    }

    /// For a message of a job that the ledger has as done.
    pub(super) fn done_before(&self, message_id: &str, rejection: &Rejection) -> Disposition {
        self.emit(events::DuplicateSuppressed {
            message_id,
            execution_id: &rejection.execution_id,
            job: "done",
        });
        Disposition::Delete {
            reason: "duplicate",
        }
    }

    fn disposition(
        &self,
        work: Work,
        execution_id: &str,
        ended: Ended,
        handle: &Handle,
    ) -> Disposition {
        let took = handle.started.elapsed();
        match ended {
            Ended::Succeeded(outcome) => {
                self.emit(events::JobSucceeded {
                    work,
                    execution_id,
                    outcome,
                    took,
                });
                Disposition::Delete {
                    reason: outcome.code(),
                }
            }
            Ended::Refused(refusal) => self.refused(
                work,
                execution_id,
                refusal.code(),
                refusal.to_string(),
                took,
            ),
            Ended::ProgramFailed { status } => {
                let detail = format!("the program's exit status is {status}");
                self.refused(Work::Program, execution_id, PROGRAM_FAILED, detail, took)
            }
            Ended::Stopped(reason) => {
                self.emit(events::JobStopped {
                    work,
                    execution_id,
                    reason: reason.code(),
                    took,
                });
                let delay = match reason {
                    StopReason::LedgerLost => Delay::Backoff,
                    _ => Delay::None,
                };
                Disposition::Release {
                    delay,
                    reason: reason.code(),
                }
            }
            Ended::ProductionBusy { until } => {
                let reason = "production_busy";
                self.emit(events::JobStopped {
                    work,
                    execution_id,
                    reason,
                    took,
                });
                Disposition::Release {
                    delay: Delay::Until(until),
                    reason,
                }
            }
            Ended::Failed(failure) => self.failed(work, execution_id, &failure, handle),
        }
    }

    fn refused(
        &self,
        work: Work,
        execution_id: &str,
        reason: &'static str,
        detail: String,
        took: Duration,
    ) -> Disposition {
        self.emit(events::JobRefused {
            work,
            execution_id,
            reason,
            detail: &detail,
            took,
        });
        Disposition::Reject { reason, detail }
    }

    fn failed(
        &self,
        work: Work,
        execution_id: &str,
        failure: &Failure,
        handle: &Handle,
    ) -> Disposition {
        if let Failure::Ledger(error) = failure {
            self.ledger_failed(error);
        }
        let work = match failure {
            Failure::Program(_) => Work::Program,
            _ => work,
        };
        self.emit(events::JobFailed {
            work,
            execution_id,
            reason: failure.code(),
            detail: &failure.detail(),
            took: handle.started.elapsed(),
        });
        Disposition::Release {
            delay: Delay::Backoff,
            reason: failure.code(),
        }
    }

    /// Renews the right to work on a job. Returns when that right is lost, having told the job.
    async fn keep_grant(&self, grant: &Grant, stop: &Stop) {
        let (ledger, clock) = (&*self.parts.ledger, &self.parts.clock);
        let heard = |renewed: Result<(), &LedgerError>| match renewed {
            Ok(()) => self.ledger_worked(),
            Err(error) => self.ledger_failed(error),
        };
        keep(ledger, grant, self.terms, clock, stop, heard).await;
    }

    fn ledger_failed(&self, error: &LedgerError) {
        if matches!(error, LedgerError::NotOwner { .. }) {
            // It works, and says no.
            return;
        }
        let first = lock(&self.ledger_failing).replace(Instant::now()).is_none();
        self.emit(events::LedgerFailing { error, first });
    }

    fn ledger_worked(&self) {
        if lock(&self.ledger_failing).take().is_some() {
            self.emit(events::LedgerRecovered);
        }
    }

    /// Returns at once if the ledger works, else as soon as it does again.
    pub(super) async fn ledger_works(&self) {
        let mut failures = 0;
        while lock(&self.ledger_failing).is_some() {
            failures += 1;
            let pause = self.backoff().delay(failures, &mut fastrand::Rng::new());
            self.polling
                .set_for("waiting_for_the_ledger", MAX_LEDGER_PAUSE);
            tokio::time::sleep(pause.min(MAX_LEDGER_PAUSE)).await;
            match self.parts.ledger.check().await {
                Ok(()) => self.ledger_worked(),
                Err(error) => self.ledger_failed(&error),
            }
        }
    }
}

/// What every log line of a job carries.
pub(super) fn job_span(rejection: &Rejection, target: &ResolvedTarget) -> tracing::Span {
    tracing::info_span!(
        "job",
        execution.id = rejection.execution_id,
        pipeline = rejection.pipeline.name,
        target = target.label,
    )
}

fn panic_message(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned()),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_in_its_own_words() {
        let jobs: [(tokio::task::JoinHandle<()>, &str); 2] = [
            (tokio::spawn(async { panic!("a defect") }), "a defect"),
            (tokio::spawn(async { panic!("defect {}", 7) }), "defect 7"),
        ];
        for (job, words) in jobs {
            assert_eq!(panic_message(job.await.unwrap_err()), words);
        }
    }
}
