//! One job, from its claim to its end.
//!
//! **Guarantees.** A job is worked on only under a grant of the ledger, which is renewed beside it;
//! when the grant is lost, the job is told to stop. A panic ends this job and no other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, info, warn};

use super::Parts;
use super::conclude::{Conclusion, PANICKED};
use super::intake::Intake;
use super::ledger_health::LedgerHealth;
use super::settle::{Delay, Disposition, PROGRAM_FAILED, Settler};
use crate::consumer::jobs::Handle;
use crate::domain::assignment::Assignment;
use crate::domain::binding::Binding;
use crate::domain::history::{Note, Notes};
use crate::domain::lease_terms::Terms;
use crate::domain::verdict::Cause;
use crate::ledger::{Claim, GrantedJob, Holder, Ledger, LedgerError, Past};
use crate::notify::{End, Notifier};
use crate::reconcile::{AskedBy, Ended, Failure, Ground, Job, Reconciler};
use crate::runtime::clock::Clock;
use crate::runtime::lasting::Lasting;
use crate::runtime::stop::{Stop, StopReason};
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Telemetry, events, ms};

/// While another instance works on a job, the ledger is asked again after this, and then more rarely.
const FIRST_CLAIM_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_CLAIM_PAUSE: Duration = Duration::from_secs(10);

/// The message of an open job that was released is back within this and twice the longest backoff.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(60 * 60);

/// Where a job comes from.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// A message asked for it.
    Message { id: &'a str, receive_count: u32 },
    /// It was found, and no message asked for it.
    CatchUp {
        /// What it goes by.
        cause: Cause,
    },
    /// The ledger has it as one that has changed something and is not done.
    Ledger,
}

/// Works on jobs, each under its grant.
pub(super) struct Worker {
    ledger: Arc<dyn Ledger>,
    ledger_health: Arc<LedgerHealth>,
    reconciler: Reconciler,
    notifier: Notifier,
    intake: Arc<Intake>,
    settler: Arc<Settler>,
    clock: Clock,
    telemetry: Arc<Telemetry>,
    tasks: Tasks,
    /// How grants are kept.
    terms: Terms,
    /// A message that is not back by then, after its release, exists no more.
    comes_back_within: Duration,
}

impl Worker {
    pub(super) fn new(
        parts: &Parts,
        (intake, settler): (&Arc<Intake>, &Arc<Settler>),
        ledger_health: &Arc<LedgerHealth>,
        terms: Terms,
        max_backoff: Duration,
    ) -> Self {
        Self {
            ledger: Arc::clone(&parts.ledger),
            ledger_health: Arc::clone(ledger_health),
            reconciler: parts.reconciler.clone(),
            notifier: parts.notifier.clone(),
            intake: Arc::clone(intake),
            settler: Arc::clone(settler),
            clock: parts.clock.clone(),
            telemetry: Arc::clone(&parts.telemetry),
            tasks: parts.tasks.clone(),
            terms,
            comes_back_within: COMES_BACK_WITHIN + 2 * max_backoff,
        }
    }

    /// Claims a job and works on it to its end.
    pub(super) async fn work(
        &self,
        origin: Origin<'_>,
        assignment: &Arc<Assignment>,
        handle: Handle,
    ) -> Disposition {
        let mut conclusion =
            Conclusion::new(&self.telemetry, &self.ledger_health, assignment, &handle);
        handle.activity.rest("waiting_for_room");
        tokio::select! {
            biased;
            reason = handle.stop.stopped() => return conclusion.of(&Ended::Stopped(reason)),
            () = handle.place.take() => {}
        }
        handle.activity.set("claiming");
        let (claim, claimed_at) = self.claim(&origin, assignment, &handle).await;
        let (grant, binding, past) = match claim {
            Ok(Claim::Granted {
                grant,
                binding,
                past,
            }) => (grant, binding, past),
            Ok(Claim::Done { .. }) => {
                return match origin {
                    Origin::Message { id, .. } => self.done_before(id, assignment),
                    Origin::CatchUp { .. } | Origin::Ledger => Disposition::Delete {
                        reason: "duplicate",
                    },
                };
            }
            Ok(Claim::Leased { until }) => {
                return match handle.stop.reason() {
                    Some(reason) => conclusion.of(&Ended::Stopped(reason)),
                    // Whoever works on it finishes it.
                    None => Disposition::Release {
                        delay: Delay::Until(until),
                        reason: "leased_elsewhere",
                        detail: None,
                    },
                };
            }
            Err(error) => return conclusion.of(&Ended::Failed(Failure::Ledger(error))),
        };
        self.ledger_health.worked();
        let grant = GrantedJob::new(Arc::clone(&self.ledger), grant, past.clone());
        let begins = self.not_begun(&origin, assignment, &grant, &past);
        if let Some(disposition) = begins.await {
            return disposition;
        }
        if !was_sent_back(&origin, &past.notes) {
            conclusion.told(past.notes.trail.told);
        }
        self.telemetry.emit(events::JobStarted {
            work: conclusion.work(),
            rejection: &assignment.rejection,
            event_age: self.clock.since(assignment.rejection.rejected_at),
            resumed: binding.is_some(),
            mode: assignment.target.mode,
        });
        let job = self.job(&origin, assignment, &handle, grant, binding);
        self.run(job, claimed_at, Arc::new(conclusion)).await
    }

    /// What becomes of the messages of a job that was granted and is not begun; `None` if it is to be begun.
    async fn not_begun(
        &self,
        origin: &Origin<'_>,
        assignment: &Assignment,
        grant: &GrantedJob,
        past: &Past,
    ) -> Option<Disposition> {
        match *origin {
            Origin::CatchUp { cause } => {
                if let Some(reason) = self.asked_for(past) {
                    // Its message comes back, or is a dead letter for somebody to send back: what the ledger
                    // says of it stays as it is.
                    self.give_up(grant, &reason).await;
                    return Some(Disposition::Release {
                        delay: Delay::Backoff,
                        reason: "asked_for",
                        detail: None,
                    });
                }
                if past.notes.trail.about.is_none() {
                    warn!(
                        execution.id = assignment.rejection.execution_id,
                        execution.url = assignment.rejection.console_url(),
                        pipeline = assignment.rejection.pipeline.name,
                        approval = if cause == Cause::EndedExecution {
                            "ended"
                        } else {
                            "rejected"
                        },
                        age_ms = ms(self.clock.since(assignment.rejection.rejected_at)),
                        "an approval was not given, and what it left is there; its event may be lost: cleaning up"
                    );
                }
                None
            }
            Origin::Message { id, receive_count }
                if assignment.target.program.is_some()
                    && self.settler.has_said_no(id, receive_count) =>
            {
                self.give_up(grant, PROGRAM_FAILED).await;
                Some(Disposition::Refuse {
                    reason: PROGRAM_FAILED,
                    detail: "the program has said so at an earlier receive".to_owned(),
                    quick: true,
                })
            }
            Origin::Message { .. } | Origin::Ledger => None,
        }
    }

    fn job(
        &self,
        origin: &Origin<'_>,
        assignment: &Arc<Assignment>,
        handle: &Handle,
        grant: GrantedJob,
        binding: Option<Binding>,
    ) -> Job {
        let bound = binding.as_ref();
        let subject = bound.and_then(|it| it.evidence.subject.as_ref());
        let cause = match origin {
            Origin::CatchUp { cause } => *cause,
            Origin::Ledger if subject.is_some_and(|it| it.ended) => Cause::EndedExecution,
            Origin::Message { .. } | Origin::Ledger => Cause::Rejection,
        };
        Job {
            assignment: Arc::clone(assignment),
            grant,
            asked_by: match *origin {
                Origin::Message { receive_count, .. } => AskedBy::Message {
                    last_receive: self.notifier.is_last_receive(receive_count),
                },
                Origin::CatchUp { .. } => AskedBy::CatchUp,
                Origin::Ledger => AskedBy::EarlierRun,
            },
            ground: match subject.is_some_and(|it| it.by_hand) {
                true => Ground::Person {
                    named: None,
                    shown: None,
                },
                false => Ground::Execution(cause),
            },
            targets: self.intake.targets(),
            binding,
            stop: handle.stop.clone(),
            activity: handle.activity.clone(),
            place: handle.place.clone(),
        }
    }

    /// Runs the job, and renews its grant beside it.
    async fn run(&self, job: Job, claimed_at: Instant, conclusion: Arc<Conclusion>) -> Disposition {
        let (grant, stop) = (job.grant.clone(), job.stop.clone());
        let assignment = Arc::clone(&job.assignment);
        let reconciler = self.reconciler.clone();
        // A task of its own, so that a panic ends this job and no other.
        let reporter = Arc::clone(&conclusion);
        let report = move |ended: &Ended| reporter.report(ended);
        let task = async move { reconciler.run(&job, report).await };
        let task = self.tasks.spawn(task.in_current_span());
        let on_renewed = |renewed: Result<(), &LedgerError>| match renewed {
            Ok(()) => self.ledger_health.worked(),
            Err(error) => {
                self.ledger_health.failed(error);
            }
        };
        let holder = self.holder(&stop);
        match holder.keeping(&grant, claimed_at, on_renewed, task).await {
            Ok(Some(ended)) => Conclusion::disposition(&ended),
            // The daemon has ended, and this task with it.
            Ok(None) => Disposition::Release {
                delay: Delay::None,
                reason: StopReason::ShuttingDown.code(),
                detail: None,
            },
            Err(error) => {
                let detail = panic_message(error);
                let disposition = conclusion.panicked(&detail);
                let end = End::Failed {
                    reason: PANICKED,
                    detail,
                };
                let took = conclusion.took();
                let notifier = &self.notifier;
                if let Some(notice) = notifier.of_run(&assignment, grant.epoch(), &end, took) {
                    notifier.tell(notice);
                }
                grant.note(Note::Failed(PANICKED));
                self.give_up(&grant, PANICKED).await;
                disposition
            }
        }
    }

    /// Asks for the job, and says when it asked last. A message waits while another instance works on it, and so
    /// finds it done, or takes it over.
    async fn claim(
        &self,
        origin: &Origin<'_>,
        assignment: &Assignment,
        handle: &Handle,
    ) -> (Result<Claim, LedgerError>, Instant) {
        let holder = self.holder(&handle.stop);
        let mut pause = FIRST_CLAIM_PAUSE;
        let mut waiting: Option<Lasting> = None;
        loop {
            let asked_at = Instant::now();
            let pipeline = &assignment.rejection.pipeline.name;
            let claim = holder.claim(assignment.key(), pipeline).await;
            let (Ok(Claim::Leased { until }), Origin::Message { .. }) = (&claim, origin) else {
                if let Some(waiting) = waiting {
                    info!(
                        took_ms = ms(waiting.took()),
                        "no other instance works on this job any more"
                    );
                }
                return (claim, asked_at);
            };
            let since = waiting.as_mut().and_then(Lasting::again);
            if waiting.is_none() || since.is_some() {
                info!(
                    execution.id = assignment.execution_id(),
                    lease.until = until.to_string(),
                    took_ms = since.map(ms),
                    "held: another instance works on this job"
                );
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
    fn asked_for(&self, past: &Past) -> Option<String> {
        let asked = past.notes.asked?;
        let silent = self.clock.now_ms().saturating_sub(asked.at_ms);
        let comes_back = self.comes_back_within.as_millis();
        let gone = !asked.last_receive && u128::try_from(silent).is_ok_and(|it| it > comes_back);
        let reason = past.last_reason.as_deref();
        (!gone).then(|| reason.unwrap_or("asked_for").to_owned())
    }

    /// Gives a grant back that nothing was done under.
    async fn give_up(&self, grant: &GrantedJob, reason: &str) {
        if let Err(error) = grant.release(reason).await {
            self.ledger_health.failed(&error);
        }
    }

    /// For a message of a job that the ledger has as done.
    pub(super) fn done_before(&self, message_id: &str, assignment: &Assignment) -> Disposition {
        self.telemetry.emit(events::DuplicateSuppressed {
            message_id,
            execution_id: assignment.execution_id(),
            job: "done",
        });
        Disposition::Delete {
            reason: "duplicate",
        }
    }

    fn holder<'a>(&'a self, stop: &'a Stop) -> Holder<'a> {
        Holder {
            ledger: &self.ledger,
            clock: &self.clock,
            terms: self.terms,
            stop,
        }
    }
}

/// Whether somebody has sent a dead letter back: what it meets then is news.
fn was_sent_back(origin: &Origin<'_>, notes: &Notes) -> bool {
    let was_last = notes.asked.is_some_and(|it| it.last_receive);
    was_last
        && matches!(
            origin,
            Origin::Message {
                receive_count: 1,
                ..
            }
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
