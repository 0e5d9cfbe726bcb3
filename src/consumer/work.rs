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
use crate::consumer::jobs::Handle;
use crate::domain::binding::{Binding, Subject};
use crate::domain::decision::Outcome;
use crate::domain::event::Rejection;
use crate::domain::history::{News, Note, Told, Trail};
use crate::domain::targets::ResolvedTarget;
use crate::domain::verdict::Cause;
use crate::ledger::{Claim, Grant, Holder, LedgerError};
use crate::notify::End;
use crate::reconcile::{Done, Ended, Failure, Job, Refused};
use crate::runtime::lasting::Lasting;
use crate::runtime::stop::{Stop, StopReason};
use crate::telemetry::events::{self, Work};

/// Between two tries of a ledger that fails, no pause is longer.
const MAX_LEDGER_PAUSE: Duration = Duration::from_secs(20);

/// While another instance works on a job, the ledger is asked again after this, and then more rarely.
const FIRST_CLAIM_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_CLAIM_PAUSE: Duration = Duration::from_secs(10);

/// The message of an open job that was released is back within this and twice the longest backoff.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(60 * 60);

/// A ledger that is slow or throttles is looked at again after this.
const TROUBLED_PAUSE: Duration = Duration::from_secs(30);

/// Between two looks at jobs that wait for a place.
const SHORT_PAUSE: Duration = Duration::from_secs(60);

/// The reason of a job that panicked.
const PANICKED: &str = "panicked";

/// A run of a job, for its lines.
struct Run<'a> {
    work: Work,
    execution_id: &'a str,
    handle: &'a Handle,
    /// What was reported of the job before.
    told: Told,
}

/// Where a job comes from.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// A message asked for it.
    Message {
        /// The message's id.
        id: &'a str,
        receive_count: u32,
    },
    /// It was found, and no message asked for it.
    CatchUp {
        /// What it goes by.
        cause: Cause,
    },
    /// The ledger has it as one that has changed something and is not done.
    Ledger,
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
        let ledger = &self.parts.ledger;
        let execution_id = rejection.execution_id.clone();
        let mut run = Run {
            work: Work::of(&target),
            execution_id: &execution_id,
            handle: &handle,
            told: Told::default(),
        };
        handle.activity.rest("waiting_for_room");
        tokio::select! {
            biased;
            reason = handle.stop.stopped() => {
                return self.disposition(&run, Ended::Stopped(reason));
            }
            () = handle.place.take() => {}
        }
        handle.activity.set("claiming");
        let (claim, claimed_at) = self.claim(&origin, &rejection, &handle).await;
        let (grant, binding) = match claim {
            Ok(Claim::Granted { grant, binding }) => (grant, binding),
            Ok(Claim::Done { .. }) => {
                return match origin {
                    Origin::Message { id, .. } => self.done_before(id, &rejection),
                    Origin::CatchUp { .. } | Origin::Ledger => Disposition::Delete {
                        reason: "duplicate",
                    },
                };
            }
            Ok(Claim::Leased { until }) => {
                return match handle.stop.reason() {
                    Some(reason) => self.disposition(&run, Ended::Stopped(reason)),
                    // Whoever works on it finishes it.
                    None => Disposition::Release {
                        delay: Delay::Until(until),
                        reason: "leased_elsewhere",
                    },
                };
            }
            Err(error) => {
                return self.failed(&run, &Failure::Ledger(error));
            }
        };
        self.ledger_worked();
        let trail = ledger.trail(&grant).unwrap_or_default();
        if !was_sent_back(&origin, &trail) {
            run.told = trail.told;
        }
        if let Origin::CatchUp { cause } = origin {
            if let Some(reason) = self.asked_for(&grant) {
                // Its message comes back, or is a dead letter for somebody to send back: what the ledger
                // says of it stays as it is.
                self.give_up(&grant, &reason).await;
                return Disposition::Release {
                    delay: Delay::Backoff,
                    reason: "asked_for",
                };
            }
            if trail.about.is_none() {
                self.emit(events::LostRejectionFound {
                    rejection: &rejection,
                    ended_without: cause == Cause::EndedExecution,
                    age: self.parts.clock.since(rejection.rejected_at),
                });
            }
        }
        if let Origin::Message {
            id: message_id,
            receive_count,
        } = origin
            && target.program.is_some()
            && self.has_said_no(message_id, receive_count)
        {
            self.give_up(&grant, PROGRAM_FAILED).await;
            return Disposition::Refuse {
                reason: PROGRAM_FAILED,
                detail: "the program has said so at an earlier receive".to_owned(),
                quick: true,
            };
        }
        self.emit(events::JobStarted {
            work: run.work,
            rejection: &rejection,
            event_age: self.parts.clock.since(rejection.rejected_at),
            resumed: binding.is_some(),
            mode: target.mode,
        });

        let about = (rejection.clone(), target.label.clone());
        let neighbours = self.neighbours(&target);
        let job = Job {
            rejection,
            event,
            target,
            grant: grant.clone(),
            unasked: matches!(origin, Origin::CatchUp { .. }),
            last_receive: match origin {
                Origin::Message { receive_count, .. } => {
                    self.parts.notifier.is_last_receive(receive_count)
                }
                Origin::CatchUp { .. } | Origin::Ledger => false,
            },
            by_hand: bound_by_hand(binding.as_ref()),
            named: None,
            cause: match origin {
                Origin::CatchUp { cause } => cause,
                Origin::Message { .. } => Cause::Rejection,
                Origin::Ledger => cause_of(binding.as_ref()),
            },
            neighbours,
            binding,
            stop: handle.stop.clone(),
            activity: handle.activity.clone(),
            place: handle.place.clone(),
            removal: None,
        };
        let reconciler = self.parts.reconciler.clone();
        // A task of its own, so that a panic ends this job and no other.
        let task = self
            .parts
            .tasks
            .spawn(tracing::Instrument::in_current_span(async move {
                reconciler.run(&job).await
            }));
        let heard = |renewed: Result<(), &LedgerError>| match renewed {
            Ok(()) => self.ledger_worked(),
            Err(error) => {
                self.ledger_failed(error);
            }
        };
        let holder = self.holder(&handle.stop);
        let ended = holder.keeping(&grant, claimed_at, heard, task).await;
        match ended {
            Ok(Some(ended)) => self.disposition(&run, ended),
            // The daemon has ended, and this task with it.
            Ok(None) => Disposition::Release {
                delay: Delay::None,
                reason: StopReason::ShuttingDown.code(),
            },
            Err(error) => {
                let took = handle.started.elapsed();
                let detail = panic_message(error);
                self.emit(events::JobPanicked {
                    work: run.work,
                    execution_id: &execution_id,
                    detail: &detail,
                    took,
                    news: run.told.failure(PANICKED),
                });
                let end = End::Failed {
                    reason: PANICKED,
                    detail,
                };
                let notifier = &self.parts.notifier;
                let about = (&about.0, about.1.as_str());
                if let Some(notice) = notifier.of_run(about, grant.epoch, &end, took) {
                    notifier.tell(notice);
                }
                ledger.note(&grant, Note::Failed(PANICKED));
                if let Err(error) = ledger.release(&grant, PANICKED).await {
                    self.ledger_failed(&error);
                }
                Disposition::Release {
                    delay: Delay::Backoff,
                    reason: PANICKED,
                }
            }
        }
    }

    /// Asks for the job, and says when it asked last. A message waits while another instance works on it, and so
    /// finds it done, or takes it over.
    async fn claim(
        &self,
        origin: &Origin<'_>,
        rejection: &Rejection,
        handle: &Handle,
    ) -> (Result<Claim, LedgerError>, Instant) {
        let holder = self.holder(&handle.stop);
        let mut pause = FIRST_CLAIM_PAUSE;
        let mut waiting: Option<Lasting> = None;
        loop {
            let asked_at = Instant::now();
            let claim = holder.claim(&rejection.key, &rejection.pipeline.name).await;
            let (Ok(Claim::Leased { until }), Origin::Message { .. }) = (&claim, origin) else {
                if let Some(waiting) = waiting {
                    self.emit(events::HeldElsewhereEnded {
                        took: waiting.took(),
                    });
                }
                return (claim, asked_at);
            };
            let since = waiting.as_mut().and_then(Lasting::again);
            if waiting.is_none() || since.is_some() {
                self.emit(events::HeldElsewhere {
                    execution_id: &rejection.execution_id,
                    until: *until,
                    since,
                });
            }
            waiting.get_or_insert_with(Lasting::begin);
            handle.activity.rest("leased_elsewhere");
            handle.place.leave();
            let again = async {
                tokio::time::sleep(pause).await;
                handle.place.take().await;
            };
            tokio::select! {
                biased;
                _ = handle.stop.stopped() => return (claim, asked_at),
                () = again => {}
            }
            pause = pause.mul_f64(1.5).min(LONGEST_CLAIM_PAUSE);
        }
    }

    /// What the last run of a job came to that a message has asked for; `None` if none has.
    ///
    /// A message that has not come back for so long, and was not received for the last time, exists no more:
    /// then none does.
    fn asked_for(&self, grant: &Grant) -> Option<String> {
        let trail = self.parts.ledger.trail(grant)?;
        let about = trail.about.as_ref().filter(|about| !about.unasked)?;
        let last = trail.entries.last().map_or(0, |entry| entry.at_ms);
        let silent = self.parts.clock.now_ms().saturating_sub(last);
        let comes_back = (COMES_BACK_WITHIN + 2 * self.config.retry.max_backoff).as_millis();
        let gone = !about.last_receive && u128::try_from(silent).is_ok_and(|it| it > comes_back);
        (!gone).then(|| trail.last_end().unwrap_or("asked_for").to_owned())
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

    fn disposition(&self, run: &Run<'_>, ended: Ended) -> Disposition {
        let Run {
            work, execution_id, ..
        } = *run;
        let took = run.handle.started.elapsed();
        match ended {
            Ended::Succeeded(Done { outcome, detail }) => {
                self.emit(events::JobSucceeded {
                    work,
                    execution_id,
                    outcome,
                    // What was left half way is a warning of its own.
                    detail: detail.as_deref().filter(|_| outcome == Outcome::Observed),
                    took,
                });
                Disposition::Delete {
                    reason: outcome.code(),
                }
            }
            Ended::Refused(Refused { refusal, detail }) => {
                self.refused(run, work, refusal.code(), detail)
            }
            Ended::ProgramFailed { status } => {
                let detail = format!("the program's exit status is {status}");
                self.refused(run, Work::Program, PROGRAM_FAILED, detail)
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
                    StopReason::Crowded => Delay::Crowded,
                    StopReason::ShuttingDown
                    | StopReason::LeaseLost
                    | StopReason::VisibilityCeiling => Delay::None,
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
            Ended::Failed(failure) => self.failed(run, &failure),
        }
    }

    fn refused(
        &self,
        run: &Run<'_>,
        work: Work,
        reason: &'static str,
        detail: String,
    ) -> Disposition {
        self.emit(events::JobRefused {
            work,
            execution_id: run.execution_id,
            reason,
            detail: &detail,
            took: run.handle.started.elapsed(),
            news: run.told.refusal(reason),
        });
        Disposition::Refuse {
            reason,
            detail,
            // What AWS shows may lag; what a program says is final.
            quick: reason == PROGRAM_FAILED,
        }
    }

    fn failed(&self, run: &Run<'_>, failure: &Failure) -> Disposition {
        let reason = failure.code();
        let mut news = run.told.failure(reason);
        if let Failure::Ledger(error) = failure
            && self.ledger_failed(error)
        {
            news = News::Known;
        }
        let work = match failure {
            Failure::Program(_) => Work::Program,
            _ => run.work,
        };
        self.emit(events::JobFailed {
            work,
            execution_id: run.execution_id,
            reason,
            detail: &failure.detail(),
            took: run.handle.started.elapsed(),
            news,
        });
        Disposition::Release {
            delay: Delay::Backoff,
            reason,
        }
    }

    fn holder<'a>(&'a self, stop: &'a Stop) -> Holder<'a> {
        Holder {
            ledger: &*self.parts.ledger,
            clock: &self.parts.clock,
            terms: self.terms,
            stop,
        }
    }

    /// The ledger answered with an error: whether that is a failure of it, which is reported as such.
    pub(crate) fn ledger_failed(&self, error: &LedgerError) -> bool {
        if matches!(error, LedgerError::NotOwner { .. }) {
            // It works, and says no.
            return false;
        }
        let phase = lock(&self.ledger_failing).failed();
        self.emit(events::LedgerFailing { error, phase });
        true
    }

    fn ledger_worked(&self) {
        let recovered = lock(&self.ledger_failing).recovered();
        if let Some(took) = recovered {
            self.emit(events::LedgerRecovered { took });
        }
    }

    /// Says when the ledger's table is slow or throttles, that it still is, and when it is not any more.
    pub(super) async fn watch_ledger(&self) {
        let ledger = &self.parts.ledger;
        loop {
            let trouble = ledger.troubled().await;
            let mut lasting = Lasting::begin();
            self.emit(events::LedgerTroubled {
                trouble: &trouble,
                since: None,
            });
            loop {
                tokio::time::sleep(TROUBLED_PAUSE).await;
                // Nobody else may ask for hours.
                if let Err(error) = ledger.check().await {
                    self.ledger_failed(&error);
                }
                let Some(still) = ledger.trouble() else { break };
                if let Some(took) = lasting.again() {
                    self.emit(events::LedgerTroubled {
                        trouble: &still,
                        since: Some(took),
                    });
                }
            }
            self.emit(events::LedgerUntroubled {
                table: &trouble.table,
                took: lasting.took(),
            });
        }
    }

    /// Says when there is always a job that waits for a place, and when none does any more.
    pub(super) async fn watch_places(&self) {
        let places = &self.places;
        loop {
            places.are_short().await;
            tokio::time::sleep(SHORT_PAUSE).await;
            let mut lasting: Option<Lasting> = None;
            while let Some(since) = places.short_for().filter(|it| *it >= SHORT_PAUSE) {
                if lasting.as_mut().is_none_or(|it| it.again().is_some()) {
                    let waiting = places.waiting();
                    self.emit(events::PlacesShort { waiting, since });
                }
                lasting.get_or_insert_with(Lasting::begin);
                tokio::time::sleep(SHORT_PAUSE).await;
            }
            if lasting.is_some() {
                self.emit(events::PlacesEnough);
            }
        }
    }

    /// Returns at once if the ledger works, else as soon as it does again.
    pub(super) async fn ledger_works(&self) {
        let mut failures = 0;
        while lock(&self.ledger_failing).is_so() {
            failures += 1;
            let pause = self.backoff().delay(failures, &mut fastrand::Rng::new());
            self.polling
                .set_for("waiting_for_the_ledger", MAX_LEDGER_PAUSE);
            tokio::time::sleep(pause.min(MAX_LEDGER_PAUSE)).await;
            match self.parts.ledger.check().await {
                Ok(()) => self.ledger_worked(),
                Err(error) => {
                    self.ledger_failed(&error);
                }
            }
        }
    }
}

/// Whether somebody has sent a dead letter back: what it meets then is news.
fn was_sent_back(origin: &Origin<'_>, trail: &Trail) -> bool {
    let was_last = trail.about.as_ref().is_some_and(|it| it.last_receive);
    was_last
        && matches!(
            origin,
            Origin::Message {
                receive_count: 1,
                ..
            }
        )
}

/// Whether a person began the job that is bound so.
fn bound_by_hand(binding: Option<&Binding>) -> bool {
    subject(binding).is_some_and(|subject| subject.by_hand)
}

fn cause_of(binding: Option<&Binding>) -> Cause {
    match subject(binding).is_some_and(|subject| subject.ended) {
        true => Cause::EndedExecution,
        false => Cause::Rejection,
    }
}

fn subject(binding: Option<&Binding>) -> Option<&Subject> {
    binding?.evidence.subject.as_ref()
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
