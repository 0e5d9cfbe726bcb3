//! What is waited for. Pure.

use crate::aws::cloudfront::Summary;
use crate::domain::decision::Distribution;

/// The state of one distribution that a wait is for. One that does not exist is never waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// It is `Deployed`.
    Deployed,
    /// It is `Deployed` and does not name this policy, where it is known.
    Detached {
        /// The policy.
        policy_id: Option<String>,
    },
    /// It does not name this policy.
    Replaced {
        /// The policy.
        policy_id: String,
    },
    /// It is `Deployed` and disabled.
    Disabled,
    /// It does not exist.
    Gone,
}

impl Until {
    /// Whether what GetDistribution found is what is waited for.
    #[must_use]
    pub fn is_so(&self, found: Option<&Distribution>) -> bool {
        found.is_none_or(|it| match self {
            Self::Deployed => it.deployed,
            Self::Detached { policy_id: None } => it.deployed,
            Self::Detached { policy_id } => it.deployed && it.policy_id != *policy_id,
            Self::Replaced { policy_id } => it.policy_id.as_ref() != Some(policy_id),
            Self::Disabled => it.deployed && !it.enabled,
            Self::Gone => false,
        })
    }

    /// Whether what ListDistributions shows leaves it possible: then GetDistribution is asked.
    #[must_use]
    pub fn may_be_so(&self, listed: Option<&Summary>) -> bool {
        listed.is_none_or(|it| match self {
            Self::Deployed | Self::Detached { .. } => it.deployed,
            Self::Replaced { .. } => true,
            Self::Disabled => it.deployed && !it.enabled,
            Self::Gone => false,
        })
    }

    /// Whether a list says anything about it: it knows nothing of policies.
    #[must_use]
    pub fn shows_in_lists(&self) -> bool {
        !matches!(self, Self::Replaced { .. })
    }
}
