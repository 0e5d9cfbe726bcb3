//! Who wrote something: the ARN that AWS shows, and the execution that was at work in truth.

/// Whoever wrote a version of a parameter or changed a distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// The ARN with which the write was signed. Parameter Store shows it as `LastModifiedUser`.
    pub arn: String,
    /// The pipeline execution whose build wrote; none for people, other programs and the daemon.
    /// AWS shows it nowhere: it is the truth that a checker compares with.
    pub execution: Option<String>,
    /// That build is of the action that deploys, and not of a promotion that cleans up.
    pub deploys: bool,
}

impl By {
    /// Somebody who is no build.
    pub(crate) fn somebody(arn: impl Into<String>) -> Self {
        Self {
            arn: arn.into(),
            execution: None,
            deploys: false,
        }
    }

    /// A person with access keys of their own.
    pub(crate) fn operator(account: &str) -> Self {
        Self::somebody(format!("arn:aws:iam::{account}:user/operator"))
    }

    /// A firewall manager, as which a security team changes all distributions of an organisation.
    pub(crate) fn firewall_manager(account: &str) -> Self {
        Self::somebody(format!(
            "arn:aws:sts::{account}:assumed-role/AWSServiceRoleForFMS/fms"
        ))
    }
}

/// Whose credentials those are that STS did not give out.
pub(crate) fn own(account: &str) -> String {
    format!("arn:aws:iam::{account}:user/rehearsal")
}
