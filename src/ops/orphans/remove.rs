//! Taking one orphan down: its policy, then the distribution, disabled first.
//!
//! **Guarantees.** Each change is decided from a fresh look. Before the first one, and again before
//! the distribution is deleted, it is asked anew whether a parameter names it or a job is bound to
//! it. The removal has a record of its own in the ledger, so that two of one orphan exclude each
//! other, and one that is cut off goes on where it was, once nothing has changed for an hour.
//!
//! **Races.** Someone may attach the policy to a production distribution between the survey and its
//! deletion; CloudFront then refuses to delete it, and the orphan is left alone. A late rejection
//! may bind a job to the orphan meanwhile: both then take down the same things, each change under
//! its ETag, and what is gone already counts as done.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::Instant;

use super::survey::{Survey, SurveyError, bound};
use crate::aws::AwsError;
use crate::aws::codepipeline::CodePipeline;
use crate::domain::at_work::{self, Known, Scope};
use crate::domain::binding::Binding;
use crate::domain::decision::{Deletable, Disableable, Distribution, Outcome};
use crate::domain::error_class::{Conflict, ErrorClass};
use crate::domain::event::JobKey;
use crate::domain::history::{About, Kind, Note, Record};
use crate::domain::lease_terms::Terms;
use crate::domain::targets::Neighbour;
use crate::ledger::{Bound, Claim, Grant, Ledger, LedgerError, keep, lease_until};
use crate::reconcile::watch::{Until, Watcher};
use crate::runtime::clock::Clock;
use crate::runtime::stop::{Stop, StopReason};

/// What the keys of removals begin with.
const PREFIX: &str = "orphan/";

/// Between two tries of what CloudFront refuses for now.
const PAUSE: Duration = Duration::from_secs(5);

/// Between two questions whether an execution is at work: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Reads what the ledger knows of the jobs.
pub type ReadRecords = Box<dyn Fn() -> Reading + Send + Sync>;

/// What [`ReadRecords`] answers.
pub type Reading = BoxFuture<'static, Result<Vec<Record>, LedgerError>>;

/// What a person is told while an orphan is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A step was made.
    Did(&'static str),
    /// A wait began.
    WaitsFor(&'static str),
    /// An execution is at work, which is waited for: which one, and where.
    Held(&'a str),
}

/// Tells a person what happens to an orphan, by its id.
pub type Say = Box<dyn Fn(&str, Said<'_>) + Send + Sync>;

/// Takes orphans down.
pub struct Remover {
    /// The account.
    pub survey: Survey,
    /// Waits for propagation.
    pub watcher: Watcher,
    /// The daemon's ledger.
    pub ledger: Arc<dyn Ledger>,
    /// What the ledger knows of the jobs, read anew each time.
    pub records: ReadRecords,
    /// Wall-clock time.
    pub clock: Clock,
    /// How long the grant is asked for, and how often it is renewed.
    pub terms: Terms,
    /// How long the propagation of the disable may take.
    pub propagation_timeout: Duration,
    /// The pipelines whose executions may still use an orphan.
    pub pipelines: Vec<(CodePipeline, Neighbour)>,
    /// How a person is told of each step.
    pub say: Say,
}

/// How the removal of one orphan ended.
#[derive(Debug)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// It was left, or left half way.
    Left(Why),
}

/// Why an orphan was left.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It is no orphan any more.
    #[error("{0}")]
    Owned(String),
    /// Someone else takes it down.
    #[error("it is being removed elsewhere, until {until} at least")]
    Elsewhere {
        /// When that lease ends, unless it is renewed.
        until: Timestamp,
    },
    /// It was told to stop.
    #[error("stopped at a step boundary ({})", .0.code())]
    Stopped(StopReason),
    /// The disable did not propagate in time.
    #[error("nothing changed for {} while waiting", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// A call failed, or the ledger.
    #[error(transparent)]
    Failed(#[from] SurveyError),
    /// A look failed.
    #[error("a call failed")]
    Look(#[source] Arc<AwsError>),
}

impl From<AwsError> for Why {
    fn from(error: AwsError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<LedgerError> for Why {
    fn from(error: LedgerError) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether a job is the removal of an orphan.
pub(super) fn is_removal(key: &JobKey) -> bool {
    key.as_str().starts_with(PREFIX)
}

impl Remover {
    /// Takes a staging distribution down, and its policy before it.
    pub async fn staging(&self, id: &str, policy_id: Option<&str>, stop: &Stop) -> Removed {
        match self.under_a_grant(id, policy_id, stop).await {
            Ok(()) => Removed::Gone,
            Err(why) => Removed::Left(why),
        }
    }

    /// Deletes a policy that lists no staging distribution that exists.
    pub async fn policy(&self, id: &str) -> Removed {
        match self.delete_policy(id, &[]).await {
            Ok(()) => Removed::Gone,
            Err(why) => Removed::Left(why),
        }
    }

    async fn under_a_grant(
        &self,
        id: &str,
        policy_id: Option<&str>,
        stop: &Stop,
    ) -> Result<(), Why> {
        let key = JobKey::from(format!("{PREFIX}{id}"));
        let claimed_at = Instant::now();
        let until = lease_until(&self.clock, self.terms);
        let grant = match self.ledger.claim(&key, "", until).await? {
            Claim::Granted { grant, .. } => grant,
            Claim::Leased { until } => return Err(Why::Elsewhere { until }),
            Claim::Done { .. } => {
                let said = "the ledger has it as removed; look again in a minute";
                return Err(Why::Owned(said.to_owned()));
            }
        };
        self.ledger.note(
            &grant,
            Note::Began(About {
                execution_id: key.as_str().to_owned(),
                target: String::new(),
                comment: Some("orphan removed by hand".to_owned()),
                rejected_at_ms: self.clock.now_ms(),
                unasked: false,
                last_receive: false,
            }),
        );
        let work = self.take_down(id, policy_id, &grant, stop);
        tokio::pin!(work);
        let ended = tokio::select! {
            biased;
            ended = &mut work => ended,
            () = keep(&*self.ledger, &grant, claimed_at, self.terms, &self.clock, stop, |_| {}) => work.await,
        };
        match ended {
            Ok(()) => {
                self.ledger
                    .note(&grant, Note::Entry(Kind::Ended, Outcome::Cleaned.code()));
                self.ledger.complete(&grant, Outcome::Cleaned).await?;
                Ok(())
            }
            Err(why) => {
                self.ledger.note(&grant, Note::Entry(Kind::Ended, "left"));
                // The lease ends by itself; what is to be told is why it was left.
                let _ = self.ledger.release(&grant, "left").await;
                Err(why)
            }
        }
    }

    async fn take_down(
        &self,
        id: &str,
        policy_id: Option<&str>,
        grant: &Grant,
        stop: &Stop,
    ) -> Result<(), Why> {
        // It has no production distribution: its own id is what two removals share.
        let binding = Binding {
            production_id: id.to_owned(),
            staging_id: id.to_owned(),
            staging_domain: None,
            policy_id: policy_id.map(str::to_owned),
            overwriting: None,
            evidence: Default::default(),
        };
        if let Bound::ProductionBusy { until } = self.ledger.bind(grant, &binding).await? {
            return Err(Why::Elsewhere { until });
        }
        self.still_an_orphan(id).await?;
        let Some(seen) = self.look(id).await? else {
            return Ok(());
        };
        if let Some(policy_id) = policy_id {
            heed(stop)?;
            self.delete_policy(policy_id, &[seen.domain.as_str()])
                .await?;
            self.did(grant, id, "delete_policy");
        }
        let mut deadline = Instant::now() + self.propagation_timeout;
        // Unless we disabled it, nobody knows when that was.
        let mut disabled_at = None;
        loop {
            heed(stop)?;
            let Some(staging) = self.look(id).await? else {
                return Ok(());
            };
            let result =
                if let Some(disableable) = Disableable::of(&staging).filter(|_| staging.enabled) {
                    if let Some(held) = self.nobody_at_work(id, grant, stop).await? {
                        // That may have taken longer than any propagation.
                        deadline += held;
                        self.still_an_orphan(id).await?;
                    }
                    let disabled = self.disable(&disableable).await;
                    if disabled.is_ok() {
                        disabled_at = Some(Instant::now());
                        self.did(grant, id, "disable_staging");
                    }
                    disabled
                } else if let Some(deletable) = Deletable::of(&staging) {
                    self.still_an_orphan(id).await?;
                    let cloudfront = &self.survey.account.cloudfront;
                    let deleted = cloudfront.delete_distribution(&deletable).await;
                    if deleted.is_ok() {
                        self.did(grant, id, "delete_staging");
                    }
                    deleted
                } else {
                    self.wait(id, disabled_at, deadline, grant, stop).await?;
                    continue;
                };
            match result {
                Ok(()) => {}
                // Gone, or changed since: the next look tells.
                Err(error) if matches!(error.class, ErrorClass::NotFound | ErrorClass::Changed) => {
                }
                Err(error)
                    if matches!(error.class, ErrorClass::Conflict(_))
                        || error.class.is_transient() =>
                {
                    let in_use = error.class == ErrorClass::Conflict(Conflict::StagingInUse);
                    if in_use && self.is_listed(&staging.domain).await? {
                        let said = "a policy lists it that did not before";
                        return Err(Why::Owned(said.to_owned()));
                    }
                    if Instant::now() > deadline {
                        return Err(error.into());
                    }
                    tokio::select! {
                        reason = stop.stopped() => return Err(Why::Stopped(reason)),
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until no execution is at work that may have read the orphan's id before it was overwritten.
    /// Answers for how long, if anybody was.
    async fn nobody_at_work(
        &self,
        id: &str,
        grant: &Grant,
        stop: &Stop,
    ) -> Result<Option<Duration>, Why> {
        const HELD: &str = "execution_at_work";
        let (mut since, mut pause) = (None, FIRST_PAUSE);
        for (pipelines, neighbour) in &self.pipelines {
            loop {
                let name = &neighbour.pipeline.name;
                let shown = pipelines.activity(name, None).await?;
                let question = at_work::Question {
                    execution_id: None,
                    approval_stage: neighbour.stage.as_deref(),
                    deploy_stage: neighbour.deploy_stage.as_deref(),
                    scope: Scope::BehindApproval,
                    now: self.clock.now(),
                };
                let known = Known::of(&shown.newest);
                let Some(busy) = at_work::find(question, &shown, &known) else {
                    break;
                };
                if since.is_none() {
                    since = Some(Instant::now());
                    self.ledger.note(grant, Note::Entry(Kind::Waiting, HELD));
                    (self.say)(id, Said::Held(&busy.said(name)));
                }
                tokio::select! {
                    biased;
                    reason = stop.stopped() => return Err(Why::Stopped(reason)),
                    () = tokio::time::sleep(pause) => {}
                }
                pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            }
        }
        if since.is_some() {
            self.ledger.note(grant, Note::Entry(Kind::Waited, HELD));
        }
        Ok(since.map(|since| since.elapsed()))
    }

    async fn disable(&self, staging: &Disableable) -> Result<(), AwsError> {
        let cloudfront = &self.survey.account.cloudfront;
        let update = cloudfront.prepare_disable(staging).await?;
        let turn = cloudfront.change_turn().await?;
        cloudfront.update(update, turn).await
    }

    fn did(&self, grant: &Grant, id: &str, step: &'static str) {
        self.ledger.note(grant, Note::Entry(Kind::Applied, step));
        (self.say)(id, Said::Did(step));
    }

    /// The distribution, as long as it is a staging one without aliases.
    async fn look(&self, id: &str) -> Result<Option<Distribution>, Why> {
        let seen = self.survey.account.cloudfront.distribution(id).await?;
        match seen {
            Some(seen) if !seen.staging => {
                Err(Why::Owned("it is no staging distribution".to_owned()))
            }
            Some(seen) if seen.aliases > 0 => Err(Why::Owned("it has aliases".to_owned())),
            seen => Ok(seen),
        }
    }

    async fn still_an_orphan(&self, id: &str) -> Result<(), Why> {
        if let Some(parameter) = self.survey.naming(id).await? {
            return Err(Why::Owned(format!("{parameter} names it by now")));
        }
        let records = (self.records)().await?;
        match bound(&records).get(id) {
            Some(key) => Err(Why::Owned(format!("the job {key} is bound to it by now"))),
            None => Ok(()),
        }
    }

    async fn is_listed(&self, domain: &str) -> Result<bool, Why> {
        let cloudfront = &self.survey.account.cloudfront;
        Ok(!cloudfront.policies_listing(domain).await?.is_empty())
    }

    /// Deletes a policy that lists nothing but `domains`.
    async fn delete_policy(&self, id: &str, domains: &[&str]) -> Result<(), Why> {
        let cloudfront = &self.survey.account.cloudfront;
        let Some(policy) = cloudfront.policy(id).await? else {
            return Ok(());
        };
        if !domains.is_empty() && policy.staging_domains != domains {
            let said = format!("the policy {id} lists others too by now");
            return Err(Why::Owned(said));
        }
        match cloudfront.delete_policy(id, &policy.etag).await {
            Ok(()) => Ok(()),
            Err(error) if error.class == ErrorClass::NotFound => Ok(()),
            Err(error) if error.class == ErrorClass::Conflict(Conflict::PolicyInUse) => {
                Err(Why::Owned(format!("the policy {id} is attached by now")))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn wait(
        &self,
        id: &str,
        from: Option<Instant>,
        deadline: Instant,
        grant: &Grant,
        stop: &Stop,
    ) -> Result<(), Why> {
        const WAIT: &str = "disable_propagated";
        self.ledger.note(grant, Note::Entry(Kind::Waiting, WAIT));
        (self.say)(id, Said::WaitsFor(WAIT));
        tokio::select! {
            biased;
            reason = stop.stopped() => return Err(Why::Stopped(reason)),
            seen = self.watcher.wait(id, from, Until::Disabled) => {
                seen.map_err(Why::Look)?;
            }
            () = tokio::time::sleep_until(deadline) => {
                return Err(Why::Timeout(self.propagation_timeout));
            }
        }
        self.ledger.note(grant, Note::Entry(Kind::Waited, WAIT));
        Ok(())
    }
}

fn heed(stop: &Stop) -> Result<(), Why> {
    match stop.reason() {
        Some(reason) => Err(Why::Stopped(reason)),
        None => Ok(()),
    }
}
