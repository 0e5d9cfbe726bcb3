//! Observe, decide, apply one step, observe again: one job from its claim to its end.
//!
//! | file | what |
//! |---|---|
//! | this one | a job's run, and the loop over observe, decide, apply or wait |
//! | `bind` | which distributions a job is about |
//! | `observe` | a look at everything that a decision needs |
//! | `observing` | a job whose target is only observed |
//! | `question` | asking CodePipeline: whether the rejection stands, and who else is at work |
//! | `apply` | one step, and what its answer tells |
//! | `questioned` | a step before which CodePipeline is asked, and its turn |
//! | `delay` | holding a rejection for second thoughts, before anything is changed |
//! | `orphan` | a job that takes down what nobody owns |
//! | `hold` | waiting for somebody who is rightly at work, without the turn |
//! | `wait` | a wait for a propagation, or a pause before the next look |
//! | `record_deleted` | the first step: `deleted` in the staging parameter, and putting a value back |
//! | `program` | the target's program, after the cleanup or instead of one |
//! | `retry` | each call: again where that may help, none after a stop |
//! | `ended` | how a run ends |
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
mod hold;
mod listing;
mod observe;
mod observing;
mod orphan;
pub mod place;
mod program;
mod question;
mod questioned;
mod record_deleted;
mod retry;
mod wait;
pub mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

pub(crate) use self::bind::{bound_to, complete, production_named, staging_named};
use self::ended::Halt;
pub use self::ended::{Done, Ended, Failure, Refused};
use self::observe::Known;
pub(crate) use self::observe::{Search, named_policies};
pub use self::orphan::{FindOwner, Removal};
pub use self::program::ProgramFailure;
use self::question::Learned;
use self::retry::Calls;
use crate::aws;
use crate::config::OnTimeout;
use crate::domain::at_work::Scope;
use crate::domain::attribution::OwnStaging;
use crate::domain::binding::Binding;
use crate::domain::decision::{
    Decision, Goal, Observed, Outcome, Progress, Refusal, Step, Wait, decide,
};
use crate::domain::event::Rejection;
use crate::domain::history::{About, Kind, Note};
use crate::domain::targets::{Mode, Neighbour, Parameters, ResolvedTarget};
use crate::domain::verdict::Cause;
use crate::ledger::{Grant, Ledger, LedgerError};
use crate::notify::{Notice, Notifier};
use crate::reconcile::accounts::{Account, Accounts};
use crate::reconcile::place::Place;
use crate::runtime::activity::Activity;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::lasting::Lasting;
use crate::runtime::programs::Programs;
use crate::runtime::stop::Stop;
use crate::telemetry::{Telemetry, events};

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
    /// Its message was received for the last time: next it is a dead letter.
    pub last_receive: bool,
    /// A person began it: there is no execution to ask about.
    pub by_hand: bool,
    /// By hand: the staging distribution that the person was shown, and the version that names it.
    pub named: Option<OwnStaging>,
    /// What it goes by.
    pub cause: Cause,
    /// The pipelines that lead to the same production distribution.
    pub neighbours: Vec<Neighbour>,
    /// What an earlier claim bound it to.
    pub binding: Option<Binding>,
    /// Tells it to stop.
    pub stop: Stop,
    /// What it is doing, for those who ask.
    pub activity: Activity,
    /// Its place among those that work; it is left in waits for others.
    pub place: Place,
    /// What nobody owns is taken down instead.
    pub removal: Option<Removal>,
}

impl Job {
    /// A job that a person begins.
    #[must_use]
    pub fn by_hand(
        rejection: Rejection,
        target: ResolvedTarget,
        grant: Grant,
        stop: &Stop,
    ) -> Self {
        Self {
            rejection,
            event: None,
            target,
            grant,
            unasked: false,
            last_receive: false,
            by_hand: true,
            named: None,
            cause: Cause::Rejection,
            neighbours: Vec::new(),
            binding: None,
            stop: stop.clone(),
            activity: Activity::default(),
            place: Place::uncounted(),
            removal: None,
        }
    }
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

    /// Works on a job until it ends, and tells the ledger how.
    pub async fn run(&self, job: &Job) -> Ended {
        let began = Instant::now();
        let about = About {
            unasked: job.unasked,
            last_receive: job.last_receive,
            ..About::of(&job.rejection, &job.target.label)
        };
        self.ledger.note(&job.grant, Note::Began(about));
        let mut cleanup = job
            .target
            .parameters
            .as_ref()
            .map(|parameters| Run::new(self, job, parameters));
        let ended = match (job.target.mode, &mut cleanup) {
            (Mode::Observe, run) => {
                let observed = self.observe(job, run.as_mut()).await;
                observed.unwrap_or_else(Ended::from)
            }
            (Mode::Act, Some(run)) => run.work().await.unwrap_or_else(Ended::from),
            (Mode::Act, None) => Outcome::Ran.into(),
        };
        let program = job.target.program.as_ref();
        let ended = match (ended, program.filter(|_| job.target.mode == Mode::Act)) {
            (Ended::Succeeded(done), Some(program)) if done.outcome.stands() => {
                let known = cleanup.as_ref().map(|run| (run.delayed, run.verified));
                let known = known.unwrap_or_default();
                let ran = self.run_program(job, program, done.outcome, known).await;
                ran.unwrap_or_else(Ended::from)
            }
            (ended, _) => ended,
        };
        // Still holding our turn: the next job for the same production distribution must find
        // this one closed in the ledger.
        let about = (&job.rejection, job.target.label.as_str());
        let (run, took) = (job.grant.epoch, began.elapsed());
        let notice = ended
            .to_tell()
            .and_then(|end| self.notifier.of_run(about, run, &end, took));
        self.close(job, ended, notice).await
    }

    async fn close(&self, job: &Job, ended: Ended, notice: Option<Notice>) -> Ended {
        let ends = |code| Note::Entry(Kind::Ended, code);
        let (reason, note) = match &ended {
            Ended::Succeeded(Done { outcome, .. }) => {
                self.ledger.note(&job.grant, ends(outcome.code()));
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
            Ended::Refused(refused) => {
                let reason = refused.refusal.code();
                (reason, Note::Refused(reason))
            }
            Ended::ProgramFailed { .. } => ("program_failed", Note::Refused("program_failed")),
            Ended::Stopped(reason) => (reason.code(), ends(reason.code())),
            Ended::ProductionBusy { .. } => ("production_busy", ends("production_busy")),
            Ended::Failed(failure) => (failure.code(), Note::Failed(failure.code())),
        };
        self.ledger.note(&job.grant, note);
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
    /// What the job is bound to.
    binding: Binding,
    /// Which of the binding's staging distributions is worked on.
    index: usize,
    known: Known,
    learned: Learned,
    progress: Progress,
    search: Search,
    /// A listing has confirmed that the staging distribution is gone.
    listed_gone: bool,
    /// The target's delay is over.
    delayed: bool,
    /// CodePipeline has told this run that the rejection stands.
    verified: bool,
    /// When something last moved.
    moved_at: Instant,
    /// When our last change was accepted, until its propagation is waited for.
    changed_at: Option<Instant>,
    /// The steps that this run has shown as done.
    shown: BTreeSet<&'static str>,
    /// Looks in a row that led to nothing.
    fruitless: u32,
    /// The change that CloudFront refused last although it was fresh, and how often in a row.
    same_refused: Option<(Step, u32)>,
    /// Changes in a row that failed in a way that the next try may not.
    failures: u32,
    /// A change of CloudFront was sent, by this run or an earlier one: it may have taken effect.
    sent: bool,
    /// Since when the evidence contradicts itself.
    contradicted_at: Option<Instant>,
    /// Since when CloudFront has our policy in use although production does not name it.
    in_use_since: Option<Instant>,
    /// Our turn at the production distribution.
    turn: Option<OwnedMutexGuard<()>>,
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
            binding: Binding::default(),
            index: 0,
            known: Known::default(),
            learned: Learned::default(),
            progress: Progress::default(),
            search: Search::default(),
            listed_gone: false,
            delayed: false,
            verified: false,
            moved_at: Instant::now(),
            changed_at: None,
            shown: BTreeSet::new(),
            fruitless: 0,
            same_refused: None,
            failures: 0,
            sent: false,
            contradicted_at: None,
            in_use_since: None,
            turn: None,
        }
    }
}

impl Run<'_> {
    /// Finds out what the job is about, and waits until the delay is over.
    async fn find_out(&mut self) -> Result<(), Halt> {
        self.job.activity.set("reading_parameters");
        self.binding = match &self.job.binding {
            Some(binding) => binding.clone(),
            None => self.resolve().await?,
        };
        if self.calls.hold_for_delay().await? {
            // Others may have written since.
            self.known = Known::default();
            self.binding = self.resolve().await?;
        }
        self.delayed = true;
        Ok(())
    }

    /// Cleans up, from whatever is found to the end.
    async fn work(&mut self) -> Result<Ended, Halt> {
        if let Some(removal) = &self.job.removal {
            return self.remove(&removal.orphan).await;
        }
        self.find_out().await?;
        self.sent = self.binding.evidence.touched;
        self.take_turn().await?;
        let mut superseded = self.binding.evidence.superseded;
        let mut changed = self.binding.evidence.changed;
        for index in 0..self.binding.count() {
            if index > 0 {
                self.turn_to(index);
            }
            superseded |= self.take_down().await? == Outcome::Superseded;
            changed |= self.progress.changed_anything();
        }
        Ok(match (superseded, changed) {
            (true, _) => Outcome::Superseded,
            (false, true) => Outcome::Cleaned,
            (false, false) => Outcome::AlreadyClean,
        }
        .into())
    }

    /// Goes on to another staging distribution of the job.
    fn turn_to(&mut self, index: usize) {
        self.index = index;
        self.progress = Progress::default();
        self.known = Known::default();
        self.search = Search::default();
        self.listed_gone = false;
        self.shown.clear();
    }

    /// Waits for its turn at the production distribution, within this process.
    async fn take_turn(&mut self) -> Result<(), Halt> {
        let turn = self.context.queues.turn(&self.binding.production_id);
        tokio::pin!(turn);
        self.turn = match (&mut turn).now_or_never() {
            Some(turn) => Some(turn),
            None => {
                self.rest("waiting_for_its_turn");
                let production_id = &self.binding.production_id;
                let telemetry = &self.context.telemetry;
                let say = |since| {
                    telemetry.emit(events::HeldForTurn {
                        production_id,
                        since,
                    });
                };
                say(None);
                let mut waiting = Lasting::begin();
                let turn = waiting.until(turn, |took| say(Some(took)));
                let turn = self.calls.unless_stopped(turn).await?;
                telemetry.emit(events::TurnTaken {
                    production_id,
                    took: waiting.took(),
                });
                self.go_on().await?;
                Some(turn)
            }
        };
        self.moved_at = Instant::now();
        Ok(())
    }

    /// Begins to wait for others, for as long as they take.
    fn rest(&self, what: &'static str) {
        self.job.activity.rest(what);
        self.job.place.leave();
    }

    /// Goes on after such a wait, as soon as there is a place.
    async fn go_on(&self) -> Result<(), Halt> {
        self.calls.unless_stopped(self.job.place.take()).await
    }

    /// Takes one staging distribution down.
    async fn take_down(&mut self) -> Result<Outcome, Halt> {
        let mut bound = self.job.removal.is_some();
        let mut before_change = None;
        loop {
            self.calls.heed_stop()?;
            let observed = match before_change.take() {
                Some(observed) => observed,
                None => {
                    self.job.activity.set("observing");
                    self.observe().await?
                }
            };
            if self.is_modified_by_others().await? {
                return Ok(Outcome::Superseded);
            }
            let binding = self.binding.about(self.index);
            let goal = match &self.job.removal {
                Some(removal) => Goal::Orphan(&removal.orphan),
                None => Goal::Rejection(&binding),
            };
            let decision = decide(goal, &observed, &self.progress);
            if !bound && !matches!(decision, Decision::Refuse(_)) {
                complete(&mut self.binding, self.index, &observed);
                self.hold_production().await?;
                self.context.telemetry.emit(events::JobBound {
                    production_id: &self.binding.production_id,
                    staging_id: &self.binding.about(self.index).staging_id,
                });
                bound = true;
                if let Some(version) = self.binding.overwriting
                    && self.index == 0
                {
                    self.restore_overwritten(version).await?;
                    continue;
                }
            }
            if decision != Decision::Wait(Wait::Evidence) {
                self.contradicted_at = None;
                self.show_done(&observed);
            }
            match decision {
                Decision::Done(outcome) => return Ok(outcome),
                Decision::Refuse(refusal) => return Err(self.fence(refusal, &observed)),
                Decision::Apply(step) => {
                    // What propagates cannot show yet: the core waits for it, whatever a look at
                    // once would say.
                    let propagates = matches!(step, Step::Detach(_) | Step::DisableStaging(_));
                    let accepted = match step.is_questioned() {
                        true => self.apply_questioned(step, &observed).await?,
                        false => self.apply(step).await?,
                    };
                    if accepted && propagates {
                        before_change = Some(observed);
                        self.changed_at = Some(Instant::now());
                    }
                }
                Decision::Wait(wait) => self.wait(wait).await?,
            }
        }
    }

    /// A fence in words: what was found, where.
    fn fence(&self, refusal: Refusal, observed: &Observed) -> Halt {
        if let Some(removal) = &self.job.removal {
            return self.refuse(refusal, removal.fence(refusal));
        }
        let Binding {
            production_id,
            staging_id,
            ..
        } = &self.binding.about(self.index);
        let Parameters {
            production,
            staging,
        } = self.parameters;
        if refusal == Refusal::ProductionDisabled {
            let trail = self.context.ledger.trail(&self.job.grant);
            let news = trail.unwrap_or_default().told.refusal(refusal.code());
            self.context.telemetry.emit(events::ProductionSwitchedOff {
                production_id,
                news,
            });
        }
        let parameter = observed.parameter.as_ref();
        let held = parameter.map_or("nothing", |it| it.value.trim());
        let found = match refusal {
            Refusal::StagingParameterInvalid => {
                format!(
                    "{staging} holds \"{held}\"; write `deleted` if there is no staging distribution"
                )
            }
            Refusal::PolicyShared => format!("staging {staging_id}, production {production_id}"),
            Refusal::ProductionMissing
            | Refusal::ProductionIsStaging
            | Refusal::ProductionDisabled => format!("{production} holds {production_id}"),
            _ => format!("{staging} led to {staging_id}"),
        };
        self.refuse(refusal, format!("{refusal}: {found}"))
    }

    fn note(&self, kind: Kind, name: &'static str) {
        let note = Note::Entry(kind, name);
        self.context.ledger.note(&self.job.grant, note);
    }

    /// Something moved: the propagation timeout begins anew, and so do the pauses.
    fn moved(&mut self) {
        self.moved_at = Instant::now();
        self.fruitless = 0;
        self.failures = 0;
        self.in_use_since = None;
        self.progress.conflict = None;
    }
}

/// One at a time for each production distribution, in the order of asking.
#[derive(Debug, Default)]
struct ProductionQueues(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl ProductionQueues {
    /// The turn to work on a production distribution.
    fn turn(&self, production_id: &str) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        self.queue(production_id.to_owned())
    }

    /// The first place among those who wait for executions that are at work there: only who has it asks.
    fn first_in_line(
        &self,
        production_id: &str,
        scope: Scope,
    ) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        self.queue(format!("{production_id} {scope:?}"))
    }

    fn queue(&self, name: String) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are of no use.
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        Arc::clone(queues.entry(name).or_default()).lock_owned()
    }
}
