//! Classes of errors. Pure: no I/O, no clock.

use std::fmt;

/// What an AWS error means for the work at hand.
///
/// The codes behind each class are listed where they are assigned, in the `aws` module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Too many requests; the whole account should slow down.
    Throttled,
    /// Not allowed, or not with these credentials. Someone may be mending it.
    AccessDenied,
    /// The resource does not exist.
    NotFound,
    /// The ETag is not the newest (`PreconditionFailed`, `InvalidIfMatchVersion`), or a condition does not
    /// hold (`ConditionalCheckFailedException`): look again.
    Changed,
    /// The resource's state forbids the call for now: look again.
    Conflict(Conflict),
    /// The service failed, the network failed, or the time was up.
    Unavailable,
    /// The request itself was refused, and would be again.
    Rejected,
}

/// A state that forbids a call for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// `ContinuousDeploymentPolicyInUse`: the policy is still attached somewhere.
    PolicyInUse,
    /// `StagingDistributionInUse`: a policy still lists the staging distribution.
    StagingInUse,
    /// `DistributionNotDisabled`: the disable has not propagated everywhere.
    NotDisabled,
    /// `ResourceInUse`: something else still refers to the distribution.
    ResourceInUse,
    /// `TooManyUpdates`, `ReplicatedWriteConflictException`: another write to the same parameter or item
    /// is under way.
    ConcurrentWrite,
}

impl ErrorClass {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::AccessDenied => "access_denied",
            Self::NotFound => "not_found",
            Self::Changed => "precondition_failed",
            Self::Conflict(conflict) => conflict.code(),
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
        }
    }

    /// Whether the same call may succeed a moment later, with nothing mended in between.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

impl Conflict {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::PolicyInUse => "policy_in_use",
            Self::StagingInUse => "staging_in_use",
            Self::NotDisabled => "not_disabled",
            Self::ResourceInUse => "resource_in_use",
            Self::ConcurrentWrite => "concurrent_write",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_logged_and_counted_by_a_code_of_its_own() {
        let conflicts = [
            Conflict::PolicyInUse,
            Conflict::StagingInUse,
            Conflict::NotDisabled,
            Conflict::ResourceInUse,
            Conflict::ConcurrentWrite,
        ];
        let classes = [
            ErrorClass::Throttled,
            ErrorClass::AccessDenied,
            ErrorClass::NotFound,
            ErrorClass::Changed,
            ErrorClass::Unavailable,
            ErrorClass::Rejected,
        ];
        let all = classes
            .into_iter()
            .chain(conflicts.map(ErrorClass::Conflict));
        let codes: Vec<_> = all.map(|class| class.to_string()).collect();
        assert_eq!(codes[3], "precondition_failed");
        assert_eq!(codes[6], "policy_in_use");
        let distinct: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len(), "{codes:?}");
    }
}
