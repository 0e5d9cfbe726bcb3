//! The decision core: what was observed goes in, one decision comes out.
//!
//! Nothing here does I/O or reads a clock; `docs/ARCHITECTURE.md` has the table this file is. The
//! reconciler observes, asks [`decide`], carries out the one decision, and observes again.
//!
//! **Guarantees.** Every decision passes the fences first. A staging distribution can only be
//! deleted through a [`Deletable`], which exists only for one that was observed disabled and
//! deployed. A step that this run already had accepted is never decided a second time while the
//! observation merely lags behind it; it becomes a wait.
//!
//! **Assumptions.** Reads may be stale: a reading is believed only together with its `Deployed`
//! status *and* the field that was changed.
//!
//! Two goals are decided here: what a rejection left is cleaned up, and an orphan is removed. They share the
//! order, its waits and its fences; of an orphan there is no production distribution and no parameter.
//!
//! **Not handled here.** Which staging distribution is ours ([`crate::domain::binding`]); errors of calls
//! ([`crate::reconcile`]).

mod step;

pub use step::{Deletable, Detachable, Disableable, Step, Wait};

use crate::domain::binding::{Binding, ParameterVersion, Slot};
use crate::domain::error_class::Conflict;
pub use crate::domain::refusal::Refusal;

/// What is to be taken down.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'a> {
    /// What a rejected execution left.
    Rejection(&'a Binding),
    /// What nobody owns.
    Orphan(&'a Orphan),
}

impl<'a> From<&'a Binding> for Goal<'a> {
    fn from(binding: &'a Binding) -> Self {
        Self::Rejection(binding)
    }
}

/// A staging distribution that nobody owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its id.
    pub staging_id: String,
    /// The policy that listed it, and nothing else, when it was found.
    pub policy_id: Option<String>,
}

/// The account as a job sees it, read freshly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The production distribution; `None` if there is none of that id.
    pub production: Option<Distribution>,
    /// The staging distribution; `None` if there is none of that id.
    pub staging: Option<Distribution>,
    /// Every policy that was looked at: the one production names, and all that list the staging
    /// distribution.
    pub policies: Vec<Policy>,
    /// The staging parameter's newest version; `None` if there is no such parameter.
    pub parameter: Option<ParameterVersion>,
    /// A listing that was begun after the reading shows no staging distribution of that id either, and
    /// nobody's domain that could be its own in the policy that production names.
    pub listed_gone: bool,
}

/// One distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Its id.
    pub id: String,
    /// Its `*.cloudfront.net` domain name.
    pub domain: String,
    /// The ETag to change it with.
    pub etag: String,
    /// Its status is `Deployed`: the newest configuration has propagated everywhere.
    pub deployed: bool,
    /// `Enabled`.
    pub enabled: bool,
    /// `Staging`.
    pub staging: bool,
    /// How many aliases (alternate domain names) it has.
    pub aliases: usize,
    /// `ContinuousDeploymentPolicyId`, unless it is empty.
    pub policy_id: Option<String>,
}

/// One continuous deployment policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its id.
    pub id: String,
    /// The ETag to change it with.
    pub etag: String,
    /// `StagingDistributionDnsNames`.
    pub staging_domains: Vec<String>,
}

/// What this run already did. Empty after a restart: then the observation alone decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The policy whose detach was accepted.
    pub detached: Option<String>,
    /// The policy whose deletion was accepted.
    pub policy_deleted: Option<String>,
    /// The disable was accepted.
    pub disabled: bool,
    /// The deletion of the staging distribution was accepted.
    pub staging_deleted: bool,
    /// The parameter's version that our write made.
    pub recorded: Option<i64>,
    /// What the last step ran into, until it has been waited for.
    pub conflict: Option<Conflict>,
}

impl Progress {
    /// Whether this run changed anything.
    #[must_use]
    pub fn changed_anything(&self) -> bool {
        self.changed_cloudfront() || self.recorded.is_some()
    }

    /// Whether this run changed CloudFront.
    #[must_use]
    pub fn changed_cloudfront(&self) -> bool {
        self.detached.is_some()
            || self.policy_deleted.is_some()
            || self.disabled
            || self.staging_deleted
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make this one change, then look again.
    Apply(Step),
    /// Change nothing until this is so, then look again.
    Wait(Wait),
    /// The job is done.
    Done(Outcome),
    /// The job must not be done.
    Refuse(Refusal),
}

/// How a job succeeded. Only these let a message be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Everything of the rejected deployment is gone, by our doing.
    Cleaned,
    /// There was nothing left to do.
    AlreadyClean,
    /// A newer deployment owns the staging slot; what was still ours is gone.
    Superseded,
    /// There was nothing to take down; the target's program ran.
    Ran,
    /// The rejection was taken back: its stage was retried, or approved after all. Nothing more was
    /// touched.
    Retracted,
    /// Nobody rejected: CodePipeline names nobody who decided, or the approval was not given in time and
    /// such are left alone.
    Undecided,
    /// The target is only observed: there was something to do, and nothing was done.
    Observed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cleaned,
        Self::AlreadyClean,
        Self::Superseded,
        Self::Ran,
        Self::Retracted,
        Self::Undecided,
        Self::Observed,
    ];

    /// The outcome's name in logs and in the ledger.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Cleaned => "cleaned",
            Self::AlreadyClean => "already_clean",
            Self::Superseded => "superseded",
            Self::Ran => "ran",
            Self::Retracted => "retracted",
            Self::Undecided => "undecided",
            Self::Observed => "observed",
        }
    }

    /// Whether the rejection still stood at the end: then there is more to be done for it.
    #[must_use]
    pub fn stands(self) -> bool {
        !matches!(self, Self::Retracted | Self::Undecided)
    }

    /// The outcome of that name.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        // What the ledger of an older stagesweep calls it.
        let code = if code == "expired" { "undecided" } else { code };
        Self::ALL.into_iter().find(|outcome| outcome.code() == code)
    }
}

/// Who owns the staging parameter now, seen from a job bound to `staging_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It still holds our id, as we know it.
    Us {
        /// The version that does.
        version: i64,
    },
    /// It holds `dummy` or `deleted`, or does not exist: nobody newer.
    Nobody,
    /// It has moved on to another distribution.
    SomeoneNewer,
    /// Somebody has written our very id again: they deploy into it.
    Rewritten,
    /// It holds something that is no id.
    Invalid,
}

/// Who owns the staging parameter.
#[must_use]
pub fn owner(binding: &Binding, parameter: Option<&ParameterVersion>) -> Owner {
    let Some(parameter) = parameter else {
        return Owner::Nobody;
    };
    let known = binding.evidence.known_version();
    match Slot::read(&parameter.value) {
        Slot::Vacant => Owner::Nobody,
        Slot::Distribution(id) if id != binding.staging_id => Owner::SomeoneNewer,
        Slot::Distribution(_) if parameter.version > known => Owner::Rewritten,
        Slot::Distribution(_) => Owner::Us {
            version: parameter.version,
        },
        Slot::Secure | Slot::Invalid => Owner::Invalid,
    }
}

/// Decides what a job does next.
#[must_use]
pub fn decide<'a>(goal: impl Into<Goal<'a>>, observed: &Observed, progress: &Progress) -> Decision {
    match goal.into() {
        Goal::Rejection(binding) => clean_up(binding, observed, progress),
        Goal::Orphan(orphan) => remove(orphan, observed, progress),
    }
}

fn clean_up(binding: &Binding, observed: &Observed, progress: &Progress) -> Decision {
    let (production, own_policy) = match fences(binding, observed) {
        Ok(passed) => passed,
        Err(refusal) => return Decision::Refuse(refusal),
    };
    let owner = owner(binding, observed.parameter.as_ref());
    let began = binding.evidence.changed || progress.changed_anything();
    match owner {
        Owner::Rewritten => return Decision::Done(Outcome::Superseded),
        Owner::Invalid if !began => return Decision::Refuse(Refusal::StagingParameterInvalid),
        _ => {}
    }
    if observed.staging.is_none() && !progress.staging_deleted && !observed.listed_gone {
        return Decision::Wait(Wait::Evidence);
    }
    if let Owner::Us { version } = owner {
        return record(version, own_policy, production, observed, progress);
    }
    if let Some(policy) = own_policy {
        return if production.policy_id.as_ref() == Some(&policy.id) {
            detach(policy, production, observed.staging.as_ref(), progress)
        } else {
            // While the detach propagates, that is why it is still in use; afterwards, CloudFront lags, or
            // another distribution names it.
            let policy_id = policy.id.clone();
            let in_use = match production.deployed {
                true => Wait::PolicyUnused { policy_id },
                false => Wait::Detached {
                    policy_id: Some(policy_id),
                },
            };
            delete_policy(policy, in_use, progress)
        };
    }
    if names_a_lost_policy(observed, production) {
        return Decision::Wait(Wait::Detached {
            policy_id: production.policy_id.clone(),
        });
    }
    match &observed.staging {
        Some(_) if !production.deployed && !progress.staging_deleted => {
            // Somewhere production may still route to the staging distribution.
            Decision::Wait(Wait::Detached { policy_id: None })
        }
        Some(staging) => take_down(staging, progress),
        None if owner == Owner::SomeoneNewer => Decision::Done(Outcome::Superseded),
        None if progress.changed_anything() => Decision::Done(Outcome::Cleaned),
        None => Decision::Done(Outcome::AlreadyClean),
    }
}

/// Removes what nobody owns. Its policy must be the one that it was found with, list nothing else, and be attached
/// to nothing.
fn remove(orphan: &Orphan, observed: &Observed, progress: &Progress) -> Decision {
    let Some(staging) = &observed.staging else {
        return match progress.staging_deleted || observed.listed_gone {
            true => Decision::Done(Outcome::Cleaned),
            false => Decision::Wait(Wait::Evidence),
        };
    };
    if let Err(refusal) = may_be_taken_down(staging) {
        return Decision::Refuse(refusal);
    }
    let lists_it = |policy: &Policy| policy.staging_domains.contains(&staging.domain);
    let is_its_own = |policy: &&Policy| orphan.policy_id.as_ref() == Some(&policy.id);
    let mut policies = observed.policies.iter();
    match policies.clone().find(is_its_own) {
        Some(policy) if policy.staging_domains != [staging.domain.as_str()] => {
            Decision::Refuse(Refusal::PolicyShared)
        }
        Some(_) if progress.conflict == Some(Conflict::PolicyInUse) => {
            Decision::Refuse(Refusal::PolicyAttachedElsewhere)
        }
        Some(policy) => delete_policy(policy, Wait::LookAgain, progress),
        None if policies.any(lists_it) => Decision::Refuse(Refusal::OrphanOwned),
        None => take_down(staging, progress),
    }
}

/// The parameter names our staging distribution: that comes first. Whoever starts after it reads `deleted`.
fn record(
    version: i64,
    own_policy: Option<&Policy>,
    production: &Distribution,
    observed: &Observed,
    progress: &Progress,
) -> Decision {
    if progress.recorded.is_some_and(|ours| version < ours) {
        return Decision::Wait(Wait::LookAgain);
    }
    let staging = observed.staging.as_ref();
    let in_use = own_policy.is_some() || staging.is_some();
    if in_use && (!production.deployed || staging.is_some_and(|it| !it.deployed)) {
        return Decision::Wait(Wait::BothDeployed);
    }
    if progress.conflict.is_some() {
        return Decision::Wait(Wait::LookAgain);
    }
    Decision::Apply(Step::RecordDeleted { version })
}

/// Refuses whatever is not provably the job's own. Returns production and our policy, if there is
/// one: a policy is ours if it lists our staging distribution and nothing else.
fn fences<'a>(
    binding: &Binding,
    observed: &'a Observed,
) -> Result<(&'a Distribution, Option<&'a Policy>), Refusal> {
    if binding.staging_id == binding.production_id {
        return Err(Refusal::StagingIsProduction);
    }
    let production = observed
        .production
        .as_ref()
        .ok_or(Refusal::ProductionMissing)?;
    if production.staging {
        return Err(Refusal::ProductionIsStaging);
    }
    if is_switched_off(binding, observed) {
        return Err(Refusal::ProductionDisabled);
    }
    if let Some(staging) = &observed.staging {
        may_be_taken_down(staging)?;
    }
    let domain = observed
        .staging
        .as_ref()
        .map(|staging| &staging.domain)
        .or(binding.staging_domain.as_ref());
    let Some(domain) = domain else {
        return Ok((production, None));
    };
    let own = observed
        .policies
        .iter()
        .find(|policy| policy.staging_domains.contains(domain));
    if own.is_some_and(|policy| policy.staging_domains.iter().any(|listed| listed != domain)) {
        return Err(Refusal::PolicyShared);
    }
    Ok((production, own))
}

/// Whether production was on when the job was bound, and is not any more.
#[must_use]
pub fn is_switched_off(binding: &Binding, observed: &Observed) -> bool {
    let production = observed.production.as_ref();
    binding.evidence.production_enabled && production.is_some_and(|it| !it.enabled)
}

fn may_be_taken_down(staging: &Distribution) -> Result<(), Refusal> {
    if !staging.staging {
        return Err(Refusal::NotAStagingDistribution);
    }
    if staging.aliases > 0 {
        return Err(Refusal::StagingHasAliases);
    }
    Ok(())
}

fn detach(
    policy: &Policy,
    production: &Distribution,
    staging: Option<&Distribution>,
    progress: &Progress,
) -> Decision {
    if progress.detached.as_ref() == Some(&policy.id) {
        // Accepted already: this reading is older than that.
        return Decision::Wait(Wait::Detached {
            policy_id: Some(policy.id.clone()),
        });
    }
    if staging.is_some_and(|staging| !staging.deployed) {
        return Decision::Wait(Wait::BothDeployed);
    }
    match Detachable::of(production, policy) {
        None => Decision::Wait(Wait::BothDeployed),
        Some(_) if progress.conflict.is_some() => Decision::Wait(Wait::LookAgain),
        Some(detachable) => Decision::Apply(Step::Detach(detachable)),
    }
}

fn delete_policy(policy: &Policy, in_use: Wait, progress: &Progress) -> Decision {
    if progress.policy_deleted.as_ref() == Some(&policy.id) {
        return Decision::Wait(Wait::LookAgain);
    }
    if progress.conflict.is_some() {
        return Decision::Wait(in_use);
    }
    Decision::Apply(Step::DeletePolicy {
        policy_id: policy.id.clone(),
        etag: policy.etag.clone(),
    })
}

/// Production names a policy that no longer exists. CloudFront deletes none that is attached, so
/// this reading of production is older than the detach.
fn names_a_lost_policy(observed: &Observed, production: &Distribution) -> bool {
    production
        .policy_id
        .as_ref()
        .is_some_and(|named| observed.policies.iter().all(|policy| policy.id != *named))
}

/// The policy is gone: disable the staging distribution, then delete it.
fn take_down(staging: &Distribution, progress: &Progress) -> Decision {
    if progress.staging_deleted {
        return Decision::Wait(Wait::StagingGone);
    }
    if staging.enabled {
        if progress.disabled {
            return Decision::Wait(Wait::StagingDisabled);
        }
        return match Disableable::of(staging) {
            None => Decision::Wait(Wait::StagingDeployed),
            Some(_) if progress.conflict.is_some() => Decision::Wait(Wait::LookAgain),
            Some(disableable) => Decision::Apply(Step::DisableStaging(disableable)),
        };
    }
    match Deletable::of(staging) {
        None => Decision::Wait(Wait::StagingDisabled),
        Some(_) if progress.conflict.is_some() => Decision::Wait(Wait::LookAgain),
        Some(deletable) => Decision::Apply(Step::DeleteStaging(deletable)),
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
