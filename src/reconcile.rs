//! Observe, decide, apply one step, observe again: one job from its claim to its end.
//!
//! | file | what |
//! |---|---|
//! | this one | a job's run, and the loop over observe, decide, apply or wait |
//! | `bind` | which distributions a job is about |
//! | `observe` | a look at everything that a decision needs |
//! | `apply` | one step, and what its answer tells |
//! | `wait` | a wait, or a pause before the next look |
//! | `verify` | whether the rejection still stands, from CodePipeline |
//! | `record_deleted` | the last step: `deleted` in the staging parameter |
//! | `program` | the target's program, after the cleanup or instead of one |
//! | `calls` | each call: again where that may help, none after a stop |
//! | `ended` | how a run ends |
//!
//! What is decided stands in [`crate::plan`].
//!
//! **Guarantees.** A run resumes from anything, because it starts from what is observed. A change is
//! never cut off once its call has begun; a stop is heeded between steps and in waits. A job ends as
//! [`Ended::Succeeded`] only after the ledger has it as done.
//!
//! **Races.** Others change the same account. A 412 or a 409 is a fact to look at again, never an
//! error to repeat. SSM has no compare-and-set: see `record_deleted`.
//!
//! **Not handled here.** Messages and their leases ([`crate::consumer`], [`crate::lease`]).

mod apply;
mod bind;
mod calls;
mod ended;
mod observe;
mod program;
mod record_deleted;
mod verify;
mod wait;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use self::bind::complete_binding;
use self::calls::Calls;
use self::ended::Halt;
pub use self::ended::{Ended, Failure};
use self::observe::Known;
pub use self::program::ProgramFailure;
use crate::accounts::{Account, Accounts};
use crate::activity::Activity;
use crate::aws;
use crate::binding::Binding;
use crate::config::OnTimeout;
use crate::event::Rejection;
use crate::history::{About, Kind, Note};
use crate::ledger::{Grant, Ledger, LedgerError};
use crate::notify::{Notice, Notifier};
use crate::plan::{Decision, Outcome, Progress, Step, decide};
use crate::programs::Programs;
use crate::retry::Backoff;
use crate::stop::Stop;
use crate::target::{Parameters, ResolvedTarget};
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
    /// Whether CodePipeline is asked if a rejection still stands; and what becomes of an approval that
    /// timed out.
    pub verify: Option<OnTimeout>,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    /// The rejection.
    pub rejection: Rejection,
    /// The whole event, as a program reads it; `None` where no program is to be run.
    pub event: Option<Arc<str>>,
    /// Its target.
    pub target: ResolvedTarget,
    /// The right to work on it.
    pub grant: Grant,
    /// No message has asked for it.
    pub unasked: bool,
    /// What an earlier claim bound it to.
    pub binding: Option<Binding>,
    /// Tells it to stop.
    pub stop: Stop,
    /// What it is doing, for those who ask.
    pub activity: Activity,
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
    ) -> Self {
        Self {
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

    /// The same, for jobs that have no pipeline execution to ask CodePipeline about.
    #[must_use]
    pub fn without_verification(&self) -> Self {
        let mut reconciler = self.clone();
        reconciler.settings.verify = None;
        reconciler
    }

    /// Works on a job until it ends, and tells the ledger how.
    pub async fn run(&self, job: &Job) -> Ended {
        let began = Instant::now();
        let about = About {
            unasked: job.unasked,
            ..About::of(&job.rejection, &job.target.label)
        };
        self.ledger.note(&job.grant, Note::Began(about));
        let mut cleanup = job
            .target
            .parameters
            .as_ref()
            .map(|parameters| Run::new(self, job, parameters));
        let ended = match &mut cleanup {
            Some(run) => run.work().await.unwrap_or_else(Ended::from),
            None => Ended::Succeeded(Outcome::Ran),
        };
        let ended = match ended {
            // An earlier run of this job has cleaned, and was cut off then, or its program failed.
            Ended::Succeeded(Outcome::AlreadyClean) if self.has_applied(job) => {
                Ended::Succeeded(Outcome::Cleaned)
            }
            ended => ended,
        };
        let ended = match (ended, &job.target.program) {
            (Ended::Succeeded(outcome), Some(program)) if outcome.stands() => {
                let verified = cleanup.as_ref().is_some_and(|run| run.verified);
                let ran = self.run_program(job, program, outcome, verified).await;
                ran.unwrap_or_else(Ended::from)
            }
            (ended, _) => ended,
        };
        // Still holding our turn: the next job for the same production distribution must find
        // this one closed in the ledger.
        let notice = self.notifier.of_job(job, &ended, began.elapsed());
        self.close(job, ended, notice).await
    }

    fn has_applied(&self, job: &Job) -> bool {
        let trail = self.ledger.trail(&job.grant);
        trail.is_some_and(|trail| trail.has_applied())
    }

    async fn close(&self, job: &Job, ended: Ended, notice: Option<Notice>) -> Ended {
        let note = |code| self.ledger.note(&job.grant, Note::Entry(Kind::Ended, code));
        let reason = match &ended {
            Ended::Succeeded(outcome) => {
                note(outcome.code());
                if let Some(notice) = &notice {
                    self.notifier.owe(notice).await;
                }
                let completed = self.ledger.complete(&job.grant, *outcome).await;
                match (&completed, notice) {
                    // Whoever has the job now tells of its end, under the same id.
                    (_, None) | (Err(LedgerError::NotOwner { .. }), _) => {}
                    // Where it failed, it may be recorded all the same: nobody would tell of it later.
                    (Ok(()) | Err(_), Some(notice)) => self.notifier.send(notice),
                }
                return match completed {
                    Ok(()) => ended,
                    Err(error) => Ended::Failed(Failure::Ledger(error)),
                };
            }
            Ended::Refused(refusal) => refusal.code(),
            Ended::ProgramFailed { .. } => "program_failed",
            Ended::Stopped(reason) => reason.code(),
            Ended::ProductionBusy { .. } => "production_busy",
            Ended::Failed(failure) => failure.code(),
        };
        note(reason);
        if let Some(notice) = notice {
            self.notifier.tell(notice);
        }
        match self.ledger.release(&job.grant, reason).await {
            Ok(()) => ended,
            Err(error) => match ended {
                // A ledger that fails must be heard of; what else was known is in the log.
                Ended::Stopped(_)
                | Ended::ProductionBusy { .. }
                | Ended::Refused(_)
                | Ended::ProgramFailed { .. } => Ended::Failed(Failure::Ledger(error)),
                ended => ended,
            },
        }
    }
}

/// One run of one job.
struct Run<'a> {
    context: &'a Reconciler,
    calls: Calls<'a>,
    /// The account that all of it is in.
    account: Arc<Account>,
    /// Its clients, which do not wait for their turn once the job is told to stop.
    clients: aws::Account,
    job: &'a Job,
    /// What its target names.
    parameters: &'a Parameters,
    known: Known,
    progress: Progress,
    /// Nothing has told yet whether a policy lists our staging distribution.
    list_policies: bool,
    /// CloudFront says that some policy does.
    search_policies: bool,
    /// This run has heard from CodePipeline that the rejection stands.
    verified: bool,
    /// When something last moved.
    moved_at: Instant,
    /// When our last change was accepted, until its propagation is waited for.
    changed_at: Option<Instant>,
    /// Looks in a row that led to nothing.
    fruitless: u32,
    /// Our turn at the production distribution.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl<'a> Run<'a> {
    fn new(context: &'a Reconciler, job: &'a Job, parameters: &'a Parameters) -> Self {
        let account = context.accounts.get(&job.target.access);
        Self {
            context,
            calls: Calls { context, job },
            clients: account.clients.for_job(&job.stop, &job.activity),
            account,
            job,
            parameters,
            known: Known::default(),
            progress: Progress::default(),
            list_policies: true,
            search_policies: false,
            verified: false,
            moved_at: Instant::now(),
            changed_at: None,
            fruitless: 0,
            _turn: None,
        }
    }
}

impl Run<'_> {
    /// Cleans up, from whatever is found to the end.
    async fn work(&mut self) -> Result<Ended, Halt> {
        self.job.activity.set("reading_parameters");
        let mut binding = match &self.job.binding {
            Some(binding) => binding.clone(),
            None => match self.resolve().await? {
                Ok(binding) => binding,
                Err(ended) => return Ok(ended),
            },
        };
        self.job.activity.rest("waiting_for_its_turn");
        let turn = self.context.queues.turn(&binding.production_id);
        self._turn = Some(self.calls.unless_stopped(turn).await?);
        self.moved_at = Instant::now();

        let mut bound = false;
        let mut before_change = None;
        loop {
            self.calls.heed_stop()?;
            let observed = match before_change.take() {
                Some(observed) => observed,
                None => {
                    self.job.activity.set("observing");
                    self.observe(&binding).await?
                }
            };
            let decision = decide(&binding, &observed, &self.progress);
            if !bound && !matches!(decision, Decision::Refuse(_)) {
                complete_binding(&mut binding, &observed);
                self.bind(&binding).await?;
                bound = true;
                if let Some(version) = binding.overwriting {
                    self.mend_overwritten(version).await?;
                    continue;
                }
            }
            match decision {
                Decision::Done(outcome) => return Ok(Ended::Succeeded(outcome)),
                Decision::Refuse(refusal) => return Ok(Ended::Refused(refusal)),
                Decision::Apply(step) => {
                    self.verify_before(&step).await?;
                    // What propagates cannot show yet: the core waits for it, whatever a look at
                    // once would say.
                    let propagates =
                        matches!(step, Step::Detach { .. } | Step::DisableStaging { .. });
                    let accepted = self.apply(&mut binding, step).await?;
                    if accepted && propagates {
                        before_change = Some(observed);
                        self.changed_at = Some(Instant::now());
                    }
                }
                Decision::Wait(wait) => self.wait(&binding, wait).await?,
            }
        }
    }

    fn note(&self, kind: Kind, name: &'static str) {
        let note = Note::Entry(kind, name);
        self.context.ledger.note(&self.job.grant, note);
    }

    /// Something moved: the propagation timeout begins anew, and so do the pauses.
    fn moved(&mut self) {
        self.moved_at = Instant::now();
        self.fruitless = 0;
        self.progress.conflict = None;
    }
}

/// One at a time for each production distribution, in the order of asking.
#[derive(Debug, Default)]
struct ProductionQueues(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl ProductionQueues {
    fn turn(&self, production_id: &str) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are of no use.
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        Arc::clone(queues.entry(production_id.to_owned()).or_default()).lock_owned()
    }
}
