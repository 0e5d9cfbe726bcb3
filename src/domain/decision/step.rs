//! What a decision may be about: a change, which carries what was observed, or a wait.
//!
//! **Guarantees.** [`Detachable`], [`Disableable`] and [`Deletable`] have one constructor each, which checks the state that
//! was observed.

use super::{Distribution, Policy};

/// One change to the account. Each carries what the call needs, taken from one observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write `deleted` to the staging parameter.
    RecordDeleted {
        /// The version that still holds our staging distribution's id.
        version: i64,
    },
    /// Empty production's `ContinuousDeploymentPolicyId`.
    Detach(Detachable),
    /// Delete our policy.
    DeletePolicy {
        /// Our policy.
        policy_id: String,
        /// The ETag that was observed.
        etag: String,
    },
    /// Set the staging distribution's `Enabled` to false.
    DisableStaging(Disableable),
    /// Delete the staging distribution.
    DeleteStaging(Deletable),
}

impl Step {
    /// The step's name in logs and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RecordDeleted { .. } => "record_deleted",
            Self::Detach(_) => "detach_policy",
            Self::DeletePolicy { .. } => "delete_policy",
            Self::DisableStaging(_) => "disable_staging",
            Self::DeleteStaging(_) => "delete_staging",
        }
    }

    /// Whether CodePipeline is asked before it.
    #[must_use]
    pub fn is_questioned(&self) -> bool {
        matches!(
            self,
            Self::RecordDeleted { .. } | Self::Detach(_) | Self::DisableStaging(_)
        )
    }
}

/// A production distribution from which our policy may be detached: it was observed as one, deployed, and
/// naming that policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detachable {
    id: String,
    etag: String,
    policy_id: String,
}

impl Detachable {
    /// `None` unless the distribution is no staging one, is deployed, and names this policy.
    pub(crate) fn of(distribution: &Distribution, policy: &Policy) -> Option<Self> {
        let detachable = !distribution.staging
            && distribution.deployed
            && distribution.policy_id.as_ref() == Some(&policy.id);
        detachable.then(|| Self {
            id: distribution.id.clone(),
            etag: distribution.etag.clone(),
            policy_id: policy.id.clone(),
        })
    }

    /// The distribution's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The ETag of the configuration that was observed.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The policy that the configuration names.
    #[must_use]
    pub fn policy_id(&self) -> &str {
        &self.policy_id
    }
}

/// A staging distribution that may be disabled: it was observed as one, without aliases, and deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disableable {
    id: String,
    etag: String,
    policy_id: Option<String>,
}

impl Disableable {
    /// `None` unless the distribution says that it is a staging one without aliases, and is deployed.
    pub(crate) fn of(distribution: &Distribution) -> Option<Self> {
        let disableable =
            distribution.staging && distribution.aliases == 0 && distribution.deployed;
        disableable.then(|| Self {
            id: distribution.id.clone(),
            etag: distribution.etag.clone(),
            policy_id: distribution.policy_id.clone(),
        })
    }

    /// The distribution's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The ETag of the configuration that was observed.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The policy that the configuration names, if any.
    #[must_use]
    pub fn policy_id(&self) -> Option<&str> {
        self.policy_id.as_deref()
    }
}

/// A staging distribution that may be deleted: it was observed as one, disabled, and deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletable {
    id: String,
    etag: String,
}

impl Deletable {
    /// `None` unless the distribution says that it is a staging one without aliases, is disabled,
    /// and has that state deployed everywhere.
    pub(crate) fn of(distribution: &Distribution) -> Option<Self> {
        let deletable = distribution.staging
            && distribution.aliases == 0
            && !distribution.enabled
            && distribution.deployed;
        deletable.then(|| Self {
            id: distribution.id.clone(),
            etag: distribution.etag.clone(),
        })
    }

    /// The distribution's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The ETag to delete it with.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Both distributions to be `Deployed`, before anything is changed.
    BothDeployed,
    /// Production to be `Deployed` and to name our policy no longer.
    Detached {
        /// Our policy, where it is known.
        policy_id: Option<String>,
    },
    /// The staging distribution to be `Deployed`, still enabled.
    StagingDeployed,
    /// The staging distribution to be `Deployed` and disabled.
    StagingDisabled,
    /// The staging distribution to be gone.
    StagingGone,
    /// A state that forbade the last step to pass, or a reading that lags behind to catch up.
    LookAgain,
    /// Our policy to be in use nowhere: production does not name it.
    PolicyUnused { policy_id: String },
    /// Evidence that contradicts itself to agree: one reading shows no staging distribution, and another
    /// source does not bear that out.
    Evidence,
}

impl Wait {
    /// The wait's name in logs and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::BothDeployed => "both_deployed",
            Self::Detached { .. } => "detach_propagated",
            Self::StagingDeployed => "staging_deployed",
            Self::StagingDisabled => "disable_propagated",
            Self::StagingGone => "staging_gone",
            Self::LookAgain => "look_again",
            Self::PolicyUnused { .. } => "policy_unused",
            Self::Evidence => "evidence_agrees",
        }
    }
}
