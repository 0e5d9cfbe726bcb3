//! Observe, decide, apply one step, observe again: one job from its claim to its end.
//!
//! | file | what |
//! |---|---|
//! | this one | a job from its begin to what the ledger is told of its end |
//! | `job` | what a job is handed over with |
//! | `run` | the loop over observe, decide, apply or wait |
//! | `patience` | how long a run goes on with what leads to nothing |
//! | `queues` | whose turn it is at a production distribution |
//! | `bind` | which distributions a job is about |
//! | `observe` | a look at everything that a decision needs |
//! | `observing` | a job whose target is only observed |
//! | `others` | what other executions ran beside the rejected one |
//! | `modified` | whether somebody modified a distribution since the bind |
//! | `neighbours` | which other pipelines lead to the production distribution |
//! | `question` | asking CodePipeline: whether the rejection stands, and who else is at work |
//! | `apply` | one step, and what its answer tells |
//! | `questioned` | a step before which CodePipeline is asked, and its turn |
//! | `delay` | holding a rejection for second thoughts, before anything is changed |
//! | `orphan` | a job that takes down what nobody owns |
//! | `halfway` | what a run that ends early has done, and what it leaves |
//! | `hold` | waiting for somebody who is rightly at work, without the turn |
//! | `wait` | a wait for a propagation, or a pause before the next look |
//! | `record_deleted` | the first step: `deleted` in the staging parameter, and putting a value back |
//! | `program` | the target's program, after the cleanup or instead of one |
//! | `retry` | each call: again where that may help, none after a stop |
//! | `ended` | how a run ends |
//! | `fallen_away` | the rejection does not stand any more: what was withdrawn is named again |
//! | `place` | how many jobs work at once |
//! | `accounts` | the clients of each account, and what its jobs share |
//! | `listing` | one listing of an account's distributions for all of its jobs |
//! | `watch` | one look at a propagation for all who wait for it |
//! | `dry_run` | a job played through without a change, for the verb `plan` |
//!
//! What is decided stands in [`crate::domain::decision`].
//!
//! **Guarantees.** A run resumes from anything, because it starts from what is observed. A change is
//! never cut off once its call has begun; a stop is heeded between steps and in waits. A job ends as
//! [`Ended::Succeeded`] only after the ledger has it as done.
//!
//! **Races.** Others change the same account. A 412 or a 409 is a fact to look at again, never an
//! error to repeat. SSM has no compare-and-set: see `record_deleted`.
//!
//! **Not handled here.** Messages and their leases ([`crate::consumer`], [`crate::consumer::lease`]).

pub mod accounts;
mod apply;
mod bind;
mod delay;
pub mod dry_run;
mod ended;
mod fallen_away;
mod halfway;
mod hold;
mod job;
mod listing;
mod modified;
mod neighbours;
mod observe;
mod observing;
mod orphan;
mod others;
mod patience;
pub mod place;
mod program;
mod question;
mod questioned;
mod queues;
mod record_deleted;
mod retry;
mod run;
mod wait;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::accounts::Accounts;
pub(crate) use self::bind::{bound_to, complete, production_named, staging_named};
use self::ended::Halt;
pub use self::ended::{Done, Ended, Failure, Refused};
pub use self::job::{AskedBy, Ground, Job};
pub(crate) use self::observe::{Search, named_policies};
pub use self::orphan::{FindOwner, Removal};
pub use self::program::ProgramFailure;
use self::queues::ProductionQueues;
use self::run::Run;
use crate::config::OnTimeout;
use crate::domain::decision::Outcome;
use crate::domain::history::{About, Kind, Note};
use crate::domain::targets::Mode;
use crate::ledger::{Ledger, LedgerError};
use crate::notify::{Notice, Notifier};
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::programs::Programs;
use crate::telemetry::Telemetry;

/// Carries out jobs.
#[derive(Clone, Debug)]
pub struct Reconciler {
    accounts: Accounts,
    ledger: Arc<dyn Ledger>,
    telemetry: Arc<Telemetry>,
    programs: Arc<dyn Programs>,
    settings: Settings,
    notifier: Notifier,
    clock: Clock,
    queues: Arc<ProductionQueues>,
}

/// What a [`Reconciler`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A job that sees no progress for this long gives up and is resumed on its next receive.
    pub propagation_timeout: Duration,
    /// Between two tries of a call that failed.
    pub backoff: Backoff,
    /// How long a program may go on once the daemon is stopping, its end included.
    pub grace_period: Duration,
    /// Whether CodePipeline is asked; and what becomes of an approval that timed out.
    pub verify: Option<OnTimeout>,
    /// How far a write may be from the action of another execution that made it.
    pub grace: Duration,
}

impl Reconciler {
    /// A reconciler for all accounts.
    #[must_use]
    pub fn new(
        accounts: Accounts,
        ledger: Arc<dyn Ledger>,
        telemetry: Arc<Telemetry>,
        programs: Arc<dyn Programs>,
        settings: Settings,
        clock: Clock,
    ) -> Self {
        Self {
            clock,
            accounts,
            ledger,
            telemetry,
            programs,
            settings,
            notifier: Notifier::default(),
            queues: Arc::default(),
        }
    }

    /// The same, telling somebody of each end.
    #[must_use]
    pub fn notifying(mut self, notifier: Notifier) -> Self {
        self.notifier = notifier;
        self
    }

    /// Works on a job until it ends, and tells the ledger how. `report` comes before the ledger keeps that an
    /// end which is no success was reported: a process that is killed in between reports once more.
    pub async fn run(&self, job: &Job, report: impl Fn(&Ended)) -> Ended {
        let began = Instant::now();
        let about = About {
            unasked: job.asked_by == AskedBy::CatchUp,
            last_receive: job.asked_by == AskedBy::Message { last_receive: true },
            ..About::of(job.rejection(), job.assignment.label())
        };
        job.grant.note(Note::Began(about));
        let target = job.target();
        let parameters = target.parameters.as_ref();
        let mut cleanup = parameters.map(|parameters| Run::new(self, job, parameters));
        let ended = match (target.mode, &mut cleanup) {
            (Mode::Observe, run) => {
                let observed = self.observe(job, run.as_mut()).await;
                observed.unwrap_or_else(Ended::from)
            }
            (Mode::Act, Some(run)) => {
                let ended = run.work().await.unwrap_or_else(Ended::from);
                ended.leaving(run.halfway(false))
            }
            (Mode::Act, None) => Outcome::Ran.into(),
        };
        let program = target.program.as_ref();
        let ended = match (ended, program.filter(|_| target.mode == Mode::Act)) {
            (Ended::Succeeded(done), Some(program)) if done.outcome.stands() => {
                let cleared = cleanup.as_ref().map(|run| run.cleared);
                let cleared = cleared.unwrap_or_default();
                let ran = self.run_program(job, program, done.outcome, cleared).await;
                ran.unwrap_or_else(Ended::from)
            }
            (ended, _) => ended,
        };
        // Still holding our turn: the next job for the same production distribution must find
        // this one closed in the ledger.
        let (run, took) = (job.grant.epoch(), began.elapsed());
        let notice = ended
            .to_tell()
            .and_then(|end| self.notifier.of_run(&job.assignment, run, &end, took));
        self.close(job, ended, notice, report).await
    }

    async fn close(
        &self,
        job: &Job,
        ended: Ended,
        notice: Option<Notice>,
        report: impl Fn(&Ended),
    ) -> Ended {
        let ends = |code| Note::Entry(Kind::Ended, code);
        let (reason, note) = match &ended {
            Ended::Succeeded(Done { outcome, detail }) => {
                job.grant.note(ends(outcome.code()));
                if let Some(words) = detail.as_ref().filter(|_| *outcome == Outcome::Superseded) {
                    job.grant.note(Note::Why(words.clone()));
                }
                if let Some(notice) = &notice {
                    self.notifier.enqueue(notice).await;
                }
                let completed = job.grant.complete(*outcome).await;
                match (&completed, notice) {
                    // Whoever has the job now tells of its end, under the same id.
                    (_, None) | (Err(LedgerError::NotOwner { .. }), _) => {}
                    // Where it failed, it may be recorded all the same: nobody would tell of it later.
                    (Ok(()) | Err(_), Some(notice)) => self.notifier.send(notice),
                }
                let ended = match completed {
                    Ok(()) => ended,
                    Err(error) => Ended::Failed(Failure::Ledger(error)),
                };
                report(&ended);
                return ended;
            }
            Ended::Refused(refused) => {
                let reason = refused.refusal.code();
                (reason, Note::Refused(reason))
            }
            Ended::ProgramFailed { .. } => ("program_failed", Note::Refused("program_failed")),
            Ended::Stopped(reason) => (reason.code(), ends(reason.code())),
            Ended::ProductionBusy { .. } => ("production_busy", ends("production_busy")),
            Ended::Failed(failure) => (failure.code(), Note::Failed(failure.code())),
        };
        report(&ended);
        job.grant.note(note);
        if let Some(words) = ended
            .to_tell()
            .and_then(|end| end.detail().map(str::to_owned))
        {
            job.grant.note(Note::Why(words));
        }
        if let Some(notice) = notice {
            self.notifier.tell(notice);
        }
        match (job.grant.release(reason).await, ended) {
            // What else was known is in the log.
            (
                Err(error),
                Ended::Stopped(_)
                | Ended::ProductionBusy { .. }
                | Ended::Refused(_)
                | Ended::ProgramFailed { .. },
            ) => {
                let ended = Ended::Failed(Failure::Ledger(error));
                report(&ended);
                ended
            }
            (_, ended) => ended,
        }
    }
}
