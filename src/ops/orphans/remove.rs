//! Taking one orphan down: its policy, then the distribution, disabled first.
//!
//! **Guarantees.** The reconciler does it ([`crate::reconcile::Removal`]), under a record of its own in the ledger,
//! so that two removals of one orphan exclude each other, and one that is cut off goes on where it was, once nothing
//! has changed for an hour. Before each change it is asked anew whether a parameter names the orphan or a job is
//! bound to it.
//!
//! **Races.** Someone may attach the policy to a production distribution between the survey and its
//! deletion; CloudFront then refuses to delete it, and the orphan is left alone.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::survey::{Survey, bound};
use crate::domain::decision::Orphan;
use crate::domain::error_class::{Conflict, ErrorClass};
use crate::domain::event::JobKey;
use crate::domain::history::Record;
use crate::domain::lease_terms::Terms;
use crate::domain::targets::{Access, Neighbour};
use crate::ledger::{Claimed, GrantedJob, Holder, Ledger, LedgerError};
use crate::reconcile::{Ended, Failure, FindOwner, Job, Reconciler, Removal};
use crate::runtime::clock::Clock;
use crate::runtime::stop::Stop;
use crate::telemetry::chain;

/// What the keys of removals begin with.
const PREFIX: &str = "orphan/";

/// Reads what the ledger knows of the jobs.
pub type ReadRecords = Arc<dyn Fn() -> Reading + Send + Sync>;

/// What [`ReadRecords`] answers.
pub type Reading = BoxFuture<'static, Result<Vec<Record>, LedgerError>>;

/// Takes orphans down.
pub struct Remover {
    /// The account.
    pub survey: Survey,
    /// Carries each removal out.
    pub reconciler: Reconciler,
    /// The daemon's ledger.
    pub ledger: Arc<dyn Ledger>,
    /// What the ledger knows of the jobs, read anew each time.
    pub records: ReadRecords,
    /// Wall-clock time.
    pub clock: Clock,
    /// How long the grant is asked for, and how often it is renewed.
    pub terms: Terms,
    /// As whom, and where, orphans are changed.
    pub access: Access,
    /// The pipelines whose executions may still use an orphan.
    pub neighbours: Vec<Neighbour>,
}

/// How the removal of one orphan ended.
#[derive(Debug)]
pub enum Removed {
    Gone,
    /// It was left, or left half way: why.
    Left(String),
}

/// The staging distribution whose removal is the job of this key.
#[must_use]
pub fn removed_by(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)
}

impl Remover {
    /// Takes a staging distribution down, and its policy before it. It is left if it was modified after
    /// `modified_at`.
    pub async fn staging(
        &self,
        orphan: Orphan,
        modified_at: Option<Timestamp>,
        stop: &Stop,
    ) -> Removed {
        let key = JobKey::from(format!("{PREFIX}{}", orphan.staging_id));
        let holder = Holder {
            ledger: &self.ledger,
            clock: &self.clock,
            terms: self.terms,
            stop,
        };
        let removal = Removal {
            owner: self.owner(&orphan.staging_id),
            orphan,
            modified_at,
            access: self.access.clone(),
            neighbours: self.neighbours.clone(),
        };
        let work = async |grant: GrantedJob, _| {
            let job = Job::of_removal(removal, grant, stop, self.clock.now());
            self.reconciler.run(&job, |_| {}).await
        };
        Removed::Left(match holder.under_grant(&key, "", work).await {
            Ok(Claimed::Ran(ended)) => match ended {
                Ended::Succeeded(_) => return Removed::Gone,
                Ended::Refused(refused) => refused.detail,
                Ended::Stopped(reason) => {
                    format!("stopped at a step boundary ({})", reason.code())
                }
                Ended::Failed(failure) => failure.detail(),
                ended @ (Ended::ProgramFailed { .. } | Ended::ProductionBusy { .. }) => {
                    unreachable!("an orphan has no production and no program: {ended:?}")
                }
            },
            Ok(Claimed::Elsewhere { until }) => {
                format!("it is being removed elsewhere, until {until} at least")
            }
            Ok(Claimed::Before(_)) => {
                "the ledger has it as removed; look again in a minute".to_owned()
            }
            Err(error) => chain(&error),
        })
    }

    /// Deletes a policy that listed these staging distributions, none of which exists. It is left if it lists
    /// others by now.
    pub async fn policy(&self, id: &str, listed: &[String], stop: &Stop) -> Removed {
        if let Some(reason) = stop.reason() {
            return Removed::Left(format!("not begun ({})", reason.code()));
        }
        let cloudfront = &self.survey.account.cloudfront;
        let policy = match cloudfront.policy(id).await {
            Ok(Some(policy)) => policy,
            Ok(None) => return Removed::Gone,
            Err(error) => return Removed::Left(chain(&error)),
        };
        if policy.staging_domains.iter().any(|it| !listed.contains(it)) {
            return Removed::Left(format!("the policy {id} lists others by now"));
        }
        match cloudfront.delete_policy(id, &policy.etag).await {
            Ok(()) => Removed::Gone,
            Err(error) if error.class == ErrorClass::NotFound => Removed::Gone,
            Err(error) if error.class == ErrorClass::Conflict(Conflict::PolicyInUse) => {
                Removed::Left(format!("the policy {id} is attached by now"))
            }
            Err(error) => Removed::Left(chain(&error)),
        }
    }

    /// Finds out who owns a staging distribution by now: a parameter that names it, or an open job.
    fn owner(&self, id: &str) -> FindOwner {
        let (survey, records) = (self.survey.clone(), Arc::clone(&self.records));
        let id = id.to_owned();
        Box::new(move || {
            let (survey, records, id) = (survey.clone(), records(), id.clone());
            async move {
                let named = survey.naming(&id).await;
                if let Some(parameter) = named.map_err(|it| Failure::Call(Arc::new(it)))? {
                    return Ok(Some(format!("{parameter} names it by now")));
                }
                let records = records.await.map_err(Failure::Ledger)?;
                let key = bound(&records).remove(&id);
                Ok(key.map(|key| format!("the job {key} is bound to it by now")))
            }
            .boxed()
        })
    }
}
