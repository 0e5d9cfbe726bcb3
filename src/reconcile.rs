//! Observe, decide, apply one step, observe again: one job from its claim to its end.
//!
//! **Guarantees.** A run resumes from anything, because it starts from what is observed. A change is
//! never cut off once its call has begun; a stop is heeded between steps and in waits. A job ends as
//! [`Ended::Succeeded`] only after the ledger has it as done.
//!
//! **Races.** Others change the same account. A 412 or a 409 is a fact to look at again, never an
//! error to repeat. SSM has no compare-and-set: see `record`.
//!
//! **Not handled here.** Messages and their leases ([`crate::consumer`], [`crate::lease`]).

mod calls;
mod program;
mod record;
mod verify;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::calls::Calls;
pub use self::program::ProgramFailure;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::accounts::{Account, Accounts};
use crate::activity::Activity;
use crate::aws::cloudfront::Sighting;
use crate::aws::edit::Edit;
use crate::aws::{self, AwsError};
use crate::binding::{AsOf, Binding, Slot, as_of, is_uncertain};
use crate::config::OnTimeout;
use crate::event::Rejection;
use crate::history::{About, Kind, Note};
use crate::ledger::{Bound, Grant, Ledger, LedgerError};
use crate::notify::{Notice, Notifier};
use crate::plan::{Decision, Observed, Outcome, Progress, Refusal, Step, Wait, decide};
use crate::programs::Programs;
use crate::retry::{Backoff, Conflict, ErrorClass};
use crate::stop::{Stop, StopReason};
use crate::target::{Parameters, ResolvedTarget};
use crate::telemetry::{Telemetry, chain, events};
use crate::verdict::Doubt;
use crate::watch::Until;

/// What was seen of a distribution is looked at again after this long, if nothing that this run
/// did or met made it do so sooner. Changes are conditional on the ETag that was seen.
const FRESH: Duration = Duration::from_secs(5);

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

/// How a run of a job ended.
#[derive(Debug)]
pub enum Ended {
    /// Done, and recorded as done: its messages may be deleted.
    Succeeded(Outcome),
    /// It must not be done.
    Refused(Refusal),
    /// The target's program says that it cannot be done.
    ProgramFailed {
        /// Its exit status.
        status: i32,
    },
    /// It was told to stop, and goes on under a later receive.
    Stopped(StopReason),
    /// Another instance works on the same production distribution.
    ProductionBusy {
        /// When its lease ends, unless it is renewed.
        until: Timestamp,
    },
    /// It failed for now.
    Failed(Failure),
}

/// Why a run failed for now.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed, and was tried often enough.
    #[error("an AWS call failed")]
    Call(#[source] Arc<AwsError>),
    /// Nothing moved for the propagation timeout.
    #[error("nothing changed for {} while waiting: {waiting_for}", humantime::format_duration(*after))]
    PropagationTimeout {
        /// The wait's name.
        waiting_for: &'static str,
        /// The propagation timeout.
        after: Duration,
    },
    /// It cannot be told whether the rejection still stands.
    #[error("it cannot be told whether the rejection still stands")]
    Unverified(#[source] Doubt),
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[source] LedgerError),
    /// The target's program did not succeed, and is run again.
    #[error(transparent)]
    Program(ProgramFailure),
}

impl Failure {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Call(error) => error.class.code(),
            Self::PropagationTimeout { .. } => "propagation_timeout",
            Self::Unverified(_) => "not_verified",
            Self::Ledger(LedgerError::NotOwner { .. }) => "ledger_not_owner",
            Self::Ledger(_) => "ledger_failed",
            Self::Program(failure) => failure.code(),
        }
    }

    /// The failure and everything that caused it, as one line.
    #[must_use]
    pub fn detail(&self) -> String {
        chain(self)
    }
}

/// Ends a run early.
enum Halt {
    Ended(Ended),
    Call(AwsError),
}

impl From<Ended> for Halt {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<AwsError> for Halt {
    fn from(error: AwsError) -> Self {
        Self::Call(error)
    }
}

impl From<Halt> for Ended {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Ended(ended) => ended,
            Halt::Call(error) => Self::Failed(Failure::Call(Arc::new(error))),
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

/// The last look at each distribution that still holds.
#[derive(Default)]
struct Known {
    production: Option<Sighting>,
    staging: Option<Sighting>,
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

    /// Finds out which distributions the rejection is about; or that it is about none.
    async fn resolve(&self) -> Result<Result<Binding, Ended>, Halt> {
        let (ssm, parameters) = (&self.clients.ssm, self.parameters);
        let production = self
            .calls
            .call(|| ssm.parameter(&parameters.production))
            .await?;
        let production = production
            .map(|parameter| parameter.value)
            .unwrap_or_default();
        let Slot::Distribution(production_id) = Slot::read(&production) else {
            return Ok(Err(Ended::Refused(Refusal::ProductionParameterInvalid)));
        };

        let current = self
            .calls
            .call(|| ssm.parameter(&parameters.staging))
            .await?;
        let Some(current) = current else {
            return Ok(Err(Ended::Refused(Refusal::StagingParameterInvalid)));
        };
        let mut versions = vec![current];
        let Rejection {
            as_of: moment,
            as_of_uncertainty: uncertainty,
            ..
        } = self.job.rejection;
        let earliest = moment.checked_sub(uncertainty).unwrap_or(moment);
        if as_of(&versions, earliest) == AsOf::NeedsHistory {
            versions = self.calls.call(|| ssm.history(&parameters.staging)).await?;
        }
        let AsOf::Version(version) = as_of(&versions, moment) else {
            return Ok(Err(Ended::Refused(Refusal::HistoryTooShort)));
        };
        if is_uncertain(&versions, moment, uncertainty) {
            return Ok(Err(Ended::Refused(Refusal::StagingParameterJustWritten)));
        }
        Ok(match Slot::read(&version.value) {
            Slot::Vacant => Err(Ended::Succeeded(Outcome::AlreadyClean)),
            Slot::Invalid => Err(Ended::Refused(Refusal::StagingParameterInvalid)),
            Slot::Distribution(staging_id) => Ok(Binding {
                production_id: production_id.to_owned(),
                staging_id: staging_id.to_owned(),
                staging_domain: None,
                policy_id: None,
                overwriting: None,
            }),
        })
    }

    async fn bind(&self, binding: &Binding) -> Result<(), Halt> {
        self.store(binding).await?;
        self.context.telemetry.emit(events::JobBound {
            production_id: &binding.production_id,
            staging_id: &binding.staging_id,
        });
        Ok(())
    }

    /// Has the ledger keep the binding.
    async fn store(&self, binding: &Binding) -> Result<(), Halt> {
        let bound = self.context.ledger.bind(&self.job.grant, binding).await;
        match bound.map_err(|error| Ended::Failed(Failure::Ledger(error)))? {
            Bound::Bound => Ok(()),
            Bound::ProductionBusy { until } => Err(Ended::ProductionBusy { until }.into()),
        }
    }

    /// Reads everything that a decision needs, but for a distribution that has just been seen.
    async fn observe(&mut self, binding: &Binding) -> Result<Observed, Halt> {
        let aws::Account {
            cloudfront, ssm, ..
        } = &self.clients;
        let known = std::mem::take(&mut self.known);
        let (production, staging, parameter) = tokio::try_join!(
            self.look(&binding.production_id, known.production),
            self.look(&binding.staging_id, known.staging),
            self.calls.call(|| ssm.parameter(&self.parameters.staging)),
        )?;
        self.known = Known {
            production: Some(production.clone()),
            staging: Some(staging.clone()),
        };
        let distribution = |sighting: Sighting| Some(sighting.found?.distribution);
        let (production, staging) = (distribution(production), distribution(staging));

        let named = [&production, &staging]
            .into_iter()
            .filter_map(|distribution| distribution.as_ref()?.policy_id.clone());
        let ids: BTreeSet<String> = named
            .chain(binding.policy_id.clone())
            .filter(|id| self.progress.policy_deleted.as_ref() != Some(id))
            .collect();
        let mut policies = self.policies(ids).await?;

        let domain = staging
            .as_ref()
            .map(|staging| &staging.domain)
            .or(binding.staging_domain.as_ref());
        // A staging distribution has one policy at the most: where that one is known to be gone, a
        // search would find nothing.
        let known_gone = binding
            .policy_id
            .as_ref()
            .is_some_and(|id| !policies.iter().any(|policy| policy.id == *id));
        if let Some(domain) = domain
            && (self.list_policies && !known_gone || self.search_policies)
            && !policies
                .iter()
                .any(|policy| policy.staging_domains.contains(domain))
        {
            let found = self
                .calls
                .call(|| cloudfront.policies_listing(domain))
                .await?;
            (self.list_policies, self.search_policies) = (false, false);
            policies.extend(self.policies(found).await?);
        }
        Ok(Observed {
            production,
            staging,
            policies,
            parameter,
        })
    }

    /// A distribution as it was seen last, if that still holds, or as it is seen now.
    async fn look(&self, id: &str, known: Option<Sighting>) -> Result<Sighting, Halt> {
        if let Some(known) = known
            && self.account.watcher.as_of(&known).elapsed() < FRESH
        {
            return Ok(known);
        }
        self.calls.call(|| self.clients.cloudfront.look(id)).await
    }

    async fn policies(
        &self,
        ids: impl IntoIterator<Item = String>,
    ) -> Result<Vec<crate::plan::Policy>, Halt> {
        let cloudfront = &self.clients.cloudfront;
        let reads = ids
            .into_iter()
            .map(|id| async move { self.calls.call(|| cloudfront.policy(&id)).await });
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }

    /// Makes one change. Answers whether it was accepted; if not, all is looked at again.
    async fn apply(&mut self, binding: &mut Binding, step: Step) -> Result<bool, Halt> {
        let name = step.name();
        self.job.activity.set(name);
        let cloudfront = &self.clients.cloudfront;
        let result = match &step {
            Step::Detach { etag, policy_id } => {
                let edit = Edit::detach(policy_id);
                self.calls
                    .call(|| cloudfront.update(&binding.production_id, etag, edit))
                    .await
            }
            Step::DeletePolicy { policy_id, etag } => {
                self.calls
                    .call(|| cloudfront.delete_policy(policy_id, etag))
                    .await
            }
            Step::DisableStaging { etag } => {
                self.calls
                    .call(|| cloudfront.update(&binding.staging_id, etag, Edit::disable()))
                    .await
            }
            Step::DeleteStaging(staging) => {
                self.calls
                    .call(|| cloudfront.delete_distribution(staging))
                    .await
            }
            Step::RecordDeleted { version } => match self.record_deleted(binding, *version).await {
                Ok(recorded) => {
                    self.progress.recorded = Some(recorded);
                    Ok(())
                }
                Err(halt) => Err(halt),
            },
        };
        let error = match result {
            Ok(()) => {
                self.context.telemetry.emit(events::StepApplied {
                    execution_id: &self.job.rejection.execution_id,
                    step: name,
                });
                self.note(Kind::Applied, name);
                self.accept(step);
                return Ok(true);
            }
            Err(Halt::Call(error)) => error,
            Err(halt) => return Err(halt),
        };
        self.known = Known::default();
        match error.class {
            ErrorClass::NotFound => {
                self.context
                    .telemetry
                    .emit(events::StepWasDone { step: name });
                self.note(Kind::WasDone, name);
                // Not for the distribution of an update: that one is observed again.
                if matches!(step, Step::DeletePolicy { .. } | Step::DeleteStaging(_)) {
                    self.accept(step);
                } else {
                    self.look_again().await?;
                }
                Ok(false)
            }
            ErrorClass::Changed => {
                self.context.telemetry.emit(events::StepDeferred {
                    step: name,
                    conflict: None,
                });
                self.look_again().await?;
                Ok(false)
            }
            ErrorClass::Conflict(conflict) => {
                if self.fruitless == 0 {
                    self.context.telemetry.emit(events::StepDeferred {
                        step: name,
                        conflict: Some(conflict),
                    });
                }
                self.progress.conflict = Some(conflict);
                // Some policy lists our staging distribution after all.
                self.search_policies |= conflict == Conflict::StagingInUse;
                Ok(false)
            }
            _ => Err(error.into()),
        }
    }

    fn note(&self, kind: Kind, name: &'static str) {
        let note = Note::Entry(kind, name);
        self.context.ledger.note(&self.job.grant, note);
    }

    fn accept(&mut self, step: Step) {
        match step {
            Step::Detach { policy_id, .. } => self.progress.detached = Some(policy_id),
            Step::DeletePolicy { policy_id, .. } => {
                self.progress.policy_deleted = Some(policy_id);
                self.list_policies = false;
            }
            Step::DisableStaging { .. } => self.progress.disabled = true,
            Step::DeleteStaging(_) => {
                self.progress.staging_deleted = true;
                self.known.staging = None;
            }
            // Its version was noted where it is known.
            Step::RecordDeleted { .. } => {}
        }
        self.moved();
    }

    fn moved(&mut self) {
        self.moved_at = Instant::now();
        self.fruitless = 0;
        self.progress.conflict = None;
    }

    async fn wait(&mut self, binding: &Binding, wait: Wait) -> Result<(), Halt> {
        if wait == Wait::LookAgain {
            self.job.activity.set(wait.name());
            self.progress.conflict = None;
            self.known = Known::default();
            return self.pause().await;
        }
        let execution_id = &self.job.rejection.execution_id;
        let longest = self.account.watcher.apart();
        self.job.activity.set_for(wait.name(), longest);
        self.context.telemetry.emit(events::WaitStarted {
            execution_id,
            wait: wait.name(),
        });
        self.note(Kind::Waiting, wait.name());

        let began = Instant::now();
        let watcher = &self.account.watcher.for_job(&self.job.activity);
        let (production, staging) = (&binding.production_id, &binding.staging_id);
        // Of a change that is not ours nobody here knows how old it is.
        let changed_at = self.changed_at.take();
        let (id, until) = match wait.clone() {
            Wait::BothDeployed => (production, Until::Deployed),
            Wait::Detached { policy_id } => (production, Until::Detached { policy_id }),
            Wait::PolicyReplaced { policy_id } => (production, Until::Replaced { policy_id }),
            Wait::StagingDeployed => (staging, Until::Deployed),
            Wait::StagingDisabled => (staging, Until::Disabled),
            Wait::StagingGone => (staging, Until::Gone),
            Wait::LookAgain => unreachable!("handled above"),
        };
        let looks = async {
            if wait == Wait::BothDeployed {
                let (production, staging) = tokio::try_join!(
                    watcher.wait(production, changed_at, Until::Deployed),
                    watcher.wait(staging, changed_at, Until::Deployed)
                )?;
                Ok((production, Some(staging)))
            } else {
                Ok((watcher.wait(id, changed_at, until).await?, None))
            }
        };
        let deadline = self.moved_at + self.context.settings.propagation_timeout;
        let seen = tokio::select! {
            biased;
            reason = self.job.stop.stopped() => return Err(Ended::Stopped(reason).into()),
            seen = looks => seen,
            () = tokio::time::sleep_until(deadline) => return Err(self.gave_up(wait.name()).into()),
        };
        let (ended, other) = seen.map_err(|error| Ended::Failed(Failure::Call(error)))?;
        let seen = ended.seen;
        if changed_at.is_some() {
            watcher.learn(seen);
        }
        if id == production {
            self.known.production = Some(ended.sighting);
        } else {
            self.known.staging = Some(ended.sighting);
        }
        if let Some(staging) = other {
            self.known.staging = Some(staging.sighting);
        }
        self.context.telemetry.emit(events::WaitEnded {
            execution_id,
            wait: wait.name(),
            took: began.elapsed(),
            propagation: changed_at.map(|_| seen.after),
        });
        self.note(Kind::Waited, wait.name());
        self.moved();
        Ok(())
    }

    /// The world changed under a step: look again at once, and after a pause if that goes on.
    async fn look_again(&mut self) -> Result<(), Halt> {
        if self.fruitless == 0 {
            self.fruitless = 1;
            return Ok(());
        }
        self.pause().await
    }

    /// A moment, longer each time in a row.
    async fn pause(&mut self) -> Result<(), Halt> {
        self.fruitless += 1;
        let pace = self.account.watcher.pace();
        let backoff = Backoff {
            initial: pace.min,
            max: pace.max,
        };
        let pause = backoff.delay(self.fruitless, &mut fastrand::Rng::new());
        let deadline = self.moved_at + self.context.settings.propagation_timeout;
        if Instant::now() + pause > deadline {
            return Err(self.gave_up(self.job.activity.get()).into());
        }
        let activity = &self.job.activity;
        activity.set_for(activity.get(), pause);
        self.calls.unless_stopped(tokio::time::sleep(pause)).await
    }

    fn gave_up(&self, waiting_for: &'static str) -> Ended {
        Ended::Failed(Failure::PropagationTimeout {
            waiting_for,
            after: self.context.settings.propagation_timeout,
        })
    }
}

/// Notes what the first observation tells beyond the parameters: where to find the policy later,
/// when neither production nor the staging distribution can tell any more.
fn complete_binding(binding: &mut Binding, observed: &Observed) {
    if let Some(staging) = &observed.staging {
        binding.staging_domain = Some(staging.domain.clone());
    }
    let Some(domain) = &binding.staging_domain else {
        return;
    };
    if let Some(own) = observed
        .policies
        .iter()
        .find(|policy| policy.staging_domains.contains(domain))
    {
        binding.policy_id = Some(own.id.clone());
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
