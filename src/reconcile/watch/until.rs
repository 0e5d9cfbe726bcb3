//! What is waited for. Pure.

use crate::domain::decision::Distribution;

/// The state of one distribution that a wait is for. One that does not exist is never waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    Deployed,
    /// It is `Deployed` and does not name this policy, where it is known.
    Detached {
        policy_id: Option<String>,
    },
    /// It does not name this policy.
    Replaced {
        policy_id: String,
    },
    /// It is `Deployed` and disabled.
    Disabled,
    /// It does not exist.
    Gone,
    /// That, or it is disabled: production that is switched off ends the wait.
    OrOff(Box<Self>),
}

impl Until {
    /// Whether what was found is what is waited for.
    #[must_use]
    pub fn is_so(&self, found: Option<&Distribution>) -> bool {
        found.is_none_or(|it| match self {
            Self::Deployed => it.deployed,
            Self::Detached { policy_id: None } => it.deployed,
            Self::Detached { policy_id } => it.deployed && it.policy_id != *policy_id,
            Self::Replaced { policy_id } => it.policy_id.as_ref() != Some(policy_id),
            Self::Disabled => it.deployed && !it.enabled,
            Self::Gone => false,
            Self::OrOff(until) => !it.enabled || until.is_so(found),
        })
    }
}
