//! One run of a job that has a cleanup: the loop over observe, decide, apply or wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tracing::info;

use super::accounts::Account;
use super::bind::complete;
use super::ended::Halt;
use super::job::Job;
use super::observe::Lookout;
use super::patience::Patience;
use super::program::Cleared;
use super::question::Learned;
use super::retry::Calls;
use super::{Done, Ended, Reconciler, Refused};
use crate::aws;
use crate::domain::binding::{Binding, Form};
use crate::domain::decision::{
    Decision, Goal, Observed, Outcome, Progress, Refusal, Step, Wait, decide, is_switched_off,
};
use crate::domain::history::{Kind, Note};
use crate::domain::targets::Parameters;
use crate::runtime::lasting::Lasting;
use crate::telemetry::{ms, report};

/// One run of one job.
pub(super) struct Run<'a> {
    pub(super) context: &'a Reconciler,
    pub(super) calls: Calls<'a>,
    /// The account that all of it is in.
    pub(super) account: Arc<Account>,
    /// Its clients, which do not wait for their turn once the job is told to stop.
    pub(super) clients: aws::Account,
    pub(super) job: &'a Job,
    /// What its target names.
    pub(super) parameters: &'a Parameters,
    /// What the job is bound to.
    pub(super) binding: Binding,
    /// Which of the binding's staging distributions is worked on.
    pub(super) index: usize,
    pub(super) lookout: Lookout,
    pub(super) learned: Learned,
    pub(super) progress: Progress,
    pub(super) cleared: Cleared,
    pub(super) patience: Patience,
    /// How the staging parameter is kept, once its history was read.
    pub(super) form: Option<Form>,
    /// The steps that this run has shown as done.
    pub(super) shown: BTreeSet<&'static str>,
    /// A change of CloudFront was sent, by this run or an earlier one: it may have taken effect.
    pub(super) sent: bool,
    /// The answer to this run's last change of CloudFront was lost: it may still take effect.
    pub(super) unanswered: bool,
    /// CloudFront says that the policy which the staging distribution names does not exist.
    pub(super) policy_is_gone: bool,
    /// CloudFront said to a deletion that our policy does not exist: one answer, which may be wrong.
    pub(super) policy_said_gone: bool,
    /// The version of the parameter that was looked into for a record whose answer was lost.
    pub(super) traced: Option<i64>,
    /// The version over which an earlier run began to write, until what became of that was looked into.
    pub(super) resumed_over: Option<i64>,
    /// When this run's last change was accepted.
    pub(super) changed_at: Option<Timestamp>,
    /// Our turn at the production distribution.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(context: &'a Reconciler, job: &'a Job, parameters: &'a Parameters) -> Self {
        let account = context.accounts.get(&job.target().access);
        Self {
            context,
            calls: Calls { context, job },
            clients: account.clients.for_job(&job.stop, &job.activity),
            account,
            job,
            parameters,
            binding: Binding::default(),
            index: 0,
            lookout: Lookout::default(),
            learned: Learned::default(),
            progress: Progress::default(),
            cleared: Cleared::default(),
            patience: Patience::new(),
            form: None,
            shown: BTreeSet::new(),
            sent: false,
            unanswered: false,
            policy_is_gone: false,
            policy_said_gone: false,
            traced: None,
            resumed_over: None,
            changed_at: None,
            turn: None,
        }
    }
}

impl Run<'_> {
    /// Finds out what the job is about, and waits until the delay is over.
    pub(super) async fn find_out(&mut self) -> Result<(), Halt> {
        self.job.activity.set("reading_parameters");
        self.binding = match &self.job.binding {
            Some(binding) => {
                self.learned.is_about(&binding.production_id);
                binding.clone()
            }
            None => self.resolve().await?,
        };
        if self.calls.hold_for_delay().await? {
            // Others may have written since.
            self.lookout.forget_all();
            self.binding = match self.resolve().await {
                // Where only the last modification had shown whose it is, that is looked at before the first change.
                Err(Halt::Ended(ended))
                    if ended.found_nothing() && self.modified_since_bound().is_some() =>
                {
                    self.binding.clone()
                }
                resolved => resolved?,
            };
        }
        if let Some(shown) = self.job.shown() {
            self.binding.see(0, shown);
        }
        self.cleared.delayed = true;
        Ok(())
    }

    /// Cleans up, from whatever is found to the end.
    pub(super) async fn work(&mut self) -> Result<Ended, Halt> {
        if let Some(removal) = self.job.removal() {
            return self.remove(&removal.orphan).await;
        }
        self.find_out().await?;
        self.sent = self.binding.evidence.touched;
        self.resumed_over = self.binding.overwriting;
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
        let outcome = match (superseded, changed) {
            (true, _) => Outcome::Superseded,
            (false, true) => Outcome::Cleaned,
            (false, false) => Outcome::AlreadyClean,
        };
        let detail = self.binding.evidence.left.clone();
        let detail = detail.filter(|_| superseded);
        Ok(Ended::Succeeded(Done { outcome, detail }))
    }

    /// Goes on to another staging distribution of the job.
    pub(super) fn turn_to(&mut self, index: usize) {
        self.index = index;
        self.progress = Progress::default();
        self.lookout = Lookout::default();
        self.shown.clear();
    }

    /// Waits for its turn at the production distribution, within this process.
    pub(super) async fn take_turn(&mut self) -> Result<(), Halt> {
        let turn = self.context.queues.turn(&self.binding.production_id);
        tokio::pin!(turn);
        self.turn = match (&mut turn).now_or_never() {
            Some(turn) => Some(turn),
            None => {
                self.rest("waiting_for_its_turn");
                let production_id = &self.binding.production_id;
                let say = |since: Option<Duration>| {
                    info!(
                        production.id = production_id,
                        took_ms = since.map(ms),
                        "held: another job has its turn at the production distribution"
                    );
                };
                say(None);
                let mut waiting = Lasting::begin();
                let turn = waiting.until(turn, |took| say(Some(took)));
                let turn = self.calls.unless_stopped(turn).await?;
                info!(
                    production.id = production_id,
                    took_ms = ms(waiting.took()),
                    "the job has its turn"
                );
                self.go_on().await?;
                Some(turn)
            }
        };
        self.patience.begin();
        Ok(())
    }

    /// Begins to wait for others, for as long as they take.
    pub(super) fn rest(&self, what: &'static str) {
        self.job.activity.rest(what);
        self.job.place.leave();
    }

    /// Goes on after such a wait, as soon as there is a place.
    pub(super) async fn go_on(&self) -> Result<(), Halt> {
        self.calls.unless_stopped(self.job.place.take()).await
    }

    /// Takes one staging distribution down.
    pub(super) async fn take_down(&mut self) -> Result<Outcome, Halt> {
        let mut bound = self.job.removal().is_some();
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
            let binding = self.binding.about(self.index);
            if self.job.removal().is_none() && is_switched_off(&binding, &observed) {
                return Err(self.fence(Refusal::ProductionDisabled, &observed));
            }
            if self.is_modified_by_others(&observed).await? {
                return self.give_way().await;
            }
            let goal = match self.job.removal() {
                Some(removal) => Goal::Orphan(&removal.orphan),
                None => Goal::Rejection(&binding),
            };
            let decision = decide(goal, &observed, &self.progress);
            if !bound && !matches!(decision, Decision::Refuse(_)) {
                complete(&mut self.binding, self.index, &observed);
                self.hold_production().await?;
                info!(
                    production.id = self.binding.production_id,
                    staging.id = &self.binding.about(self.index).staging_id,
                    "bound"
                );
                bound = true;
            }
            if bound && let Some(read) = self.unknown_record(&observed) {
                self.restore_overwritten(read).await?;
                continue;
            }
            if decision != Decision::Wait(Wait::Evidence) {
                self.evidence_agrees();
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
                        false => self.apply(step, &observed).await?,
                    };
                    if accepted && propagates {
                        before_change = Some(observed);
                        self.patience.changed();
                    }
                }
                Decision::Wait(wait) => self.wait(wait).await?,
            }
        }
    }

    /// A fence in words: what was found, where.
    pub(super) fn fence(&self, refusal: Refusal, observed: &Observed) -> Halt {
        if let Some(removal) = self.job.removal() {
            return self.refuse(refusal, removal.fence(refusal));
        }
        let binding = self.binding.about(self.index);
        if refusal == Refusal::ProductionDisabled {
            let trail = self.job.grant.trail();
            let news = trail.told.refusal(refusal.code());
            report!(
                news,
                production.id = binding.production_id,
                "production was switched off while this job ran; viewers get errors. The job takes no further \
             step. Enable the distribution and find out who disabled it"
            );
        }
        let detail = self.place().fence(refusal, &binding, observed);
        self.refuse(refusal, detail)
    }

    pub(super) fn refuse(&self, refusal: Refusal, detail: String) -> Halt {
        Ended::Refused(Refused { refusal, detail }).into()
    }

    pub(super) fn note(&self, kind: Kind, name: &'static str) {
        let note = Note::Entry(kind, name);
        self.job.grant.note(note);
    }

    /// Something moved: the propagation timeout begins anew, and so do the pauses.
    pub(super) fn moved(&mut self) {
        self.patience.moved();
        self.policy_is_unused();
        self.progress.conflict = None;
    }
}
