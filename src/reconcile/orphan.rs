//! The job that takes down a staging distribution which nobody owns, instead of what a rejection left.
//!
//! **Guarantees.** It is decided and carried out as every other job. Before each change it is asked anew who owns
//! the distribution: then no further step is taken. Nothing is bound in the ledger: the job's key names the
//! distribution, so that two removals of one exclude each other, and no production distribution is held.
//!
//! **Races.** A late rejection may be bound to the distribution meanwhile: both then take down the same things, each
//! change under its ETag, and what is gone counts as done.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::run::Run;
use super::{Ended, Failure, Ground, Halt, Job, Refused};
use crate::domain::arn::PipelineArn;
use crate::domain::assignment::Assignment;
use crate::domain::attribution::NARROW;
use crate::domain::decision::{Orphan, Refusal};
use crate::domain::event::Rejection;
use crate::domain::executions::later;
use crate::domain::targets::{Access, Mode, Neighbour, Parameters, ResolvedTarget};
use crate::ledger::GrantedJob;
use crate::runtime::stop::Stop;

/// Finds out, anew each time, who owns a staging distribution, in words.
pub type FindOwner =
    Box<dyn Fn() -> BoxFuture<'static, Result<Option<String>, Failure>> + Send + Sync>;

/// What takes an orphan down.
pub struct Removal {
    pub orphan: Orphan,
    /// When it had last been modified as it was found to be one.
    pub modified_at: Option<Timestamp>,
    /// Finds out whether it still is one.
    pub owner: FindOwner,
    /// As whom, and where, it is changed.
    pub access: Access,
    /// The pipelines whose executions may still use it.
    pub neighbours: Vec<Neighbour>,
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.orphan.fmt(f)
    }
}

impl Job {
    /// The job of a removal that begins now. There is no event, no pipeline and no parameter.
    #[must_use]
    pub fn of_removal(removal: Removal, grant: GrantedJob, stop: &Stop, now: Timestamp) -> Self {
        let (access, none) = (removal.access.clone(), String::new);
        let pipeline = PipelineArn {
            partition: none(),
            region: access.region.clone(),
            account: none(),
            name: none(),
        };
        let key = grant.key().clone();
        let target = ResolvedTarget {
            label: none(),
            parameters: Some(Parameters {
                production: none(),
                staging: none(),
            }),
            pipeline_access: access.clone(),
            access,
            stage: None,
            deploy_stage: None,
            mode: Mode::Act,
            delay: Duration::ZERO,
            program: None,
        };
        let rejection = Rejection::by_hand(key, pipeline, now, "orphan removed by hand");
        let assignment = Assignment::without_event(rejection, target);
        Self::by_hand(assignment, grant, Ground::Orphan(removal), stop)
    }
}

impl Removal {
    /// Ends the job if somebody owns the distribution by now.
    pub(super) async fn is_unowned(&self) -> Result<(), Halt> {
        match (self.owner)().await {
            Ok(None) => Ok(()),
            Ok(Some(detail)) => Err(Ended::Refused(Refused {
                refusal: Refusal::OrphanOwned,
                detail,
            })
            .into()),
            Err(failure) => Err(Ended::Failed(failure).into()),
        }
    }

    /// Ends the job if somebody has modified the distribution since it was found to be an orphan: it may be
    /// somebody's again. What lies within [`NARROW`] of a change of ours is ours.
    pub(super) fn is_as_found(
        &self,
        now: Option<Timestamp>,
        changed_at: Option<Timestamp>,
    ) -> Result<(), Halt> {
        let ours = changed_at.map(|at| later(at, NARROW));
        match (self.modified_at.max(ours), now) {
            (Some(found), Some(now)) if now > found => Err(Ended::Refused(Refused {
                refusal: Refusal::OrphanOwned,
                detail: format!("it was modified at {now}, after it was looked at"),
            })
            .into()),
            _ => Ok(()),
        }
    }

    /// A fence in words.
    pub(super) fn fence(&self, refusal: Refusal) -> String {
        let policy = self.orphan.policy_id.as_deref().unwrap_or_default();
        match refusal {
            Refusal::NotAStagingDistribution => "it is no staging distribution".to_owned(),
            Refusal::StagingHasAliases => "it has aliases".to_owned(),
            Refusal::PolicyShared => format!("the policy {policy} lists others too by now"),
            Refusal::PolicyAttachedElsewhere => format!("the policy {policy} is attached by now"),
            _ => "a policy lists it that did not before".to_owned(),
        }
    }
}

impl Run<'_> {
    /// Takes the orphan down.
    pub(super) async fn remove(&mut self, orphan: &Orphan) -> Result<Ended, Halt> {
        self.binding.staging_id.clone_from(&orphan.staging_id);
        self.binding.policy_id.clone_from(&orphan.policy_id);
        Ok(self.take_down().await?.into())
    }
}
