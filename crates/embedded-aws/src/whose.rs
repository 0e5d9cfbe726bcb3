//! Who wrote something: the ARN that AWS shows, and the execution that was at work in truth.

use super::EmbeddedAws;
use super::State;
use super::accounts::Account;
use super::cloudfront::{Context, Version};
use super::exchange::{Call, Failure};
use super::pipeline::{Execution, parsed};
use super::ssm::SECURE;

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
    pub(super) fn somebody(arn: impl Into<String>) -> Self {
        Self {
            arn: arn.into(),
            execution: None,
            deploys: false,
        }
    }

    /// A person with access keys of their own.
    pub(super) fn operator(account: &str) -> Self {
        Self::somebody(format!("arn:aws:iam::{account}:user/operator"))
    }

    /// A firewall manager, as which a security team changes all distributions of an organisation.
    pub(super) fn firewall_manager(account: &str) -> Self {
        Self::somebody(format!(
            "arn:aws:sts::{account}:assumed-role/AWSServiceRoleForFMS/fms"
        ))
    }
}

impl State {
    /// Who calls, as STS has it.
    pub(super) fn caller_of(&self, call: &Call) -> By {
        let session = call.caller.as_ref().and_then(|key| self.sessions.get(key));
        By::somebody(session.map_or_else(|| own(&call.account), |session| session.arn.clone()))
    }
}

/// Whose credentials those are that STS did not give out.
pub(super) fn own(account: &str) -> String {
    format!("arn:aws:iam::{account}:user/rehearsal")
}

impl EmbeddedAws {
    /// The ARN of a person who signed in through IAM Identity Center, in this account.
    #[must_use]
    pub fn person(&self, name: &str) -> String {
        format!(
            "arn:aws:sts::{}:assumed-role/AWSReservedSSO_Operators_0a1b2c3d4e5f6071/{name}",
            self.account()
        )
    }

    /// Somebody of this ARN writes a parameter; answers its version. If it is the ARN of a build, the
    /// version is that of its execution.
    pub fn put_parameter_as(&self, name: &str, value: &str, arn: &str) -> u64 {
        let build = arn.rsplit_once("/AWSCodeBuild-").map(|(_, build)| build);
        let execution = build.and_then(|build| {
            let state = self.state();
            let mut all = state.accounts.values().flat_map(Account::pipelines);
            all.find_map(|pipeline| {
                let mut all = pipeline.executions.iter();
                let has = |it: &&Execution| it.actions.iter().any(|run| run.build() == Some(build));
                all.find(has).map(|it| it.id.clone())
            })
        });
        let arn = arn.to_owned();
        let by = By {
            arn,
            deploys: execution.is_some(),
            execution,
        };
        self.put_by(name, value, &by)
    }

    /// Makes a parameter a SecureString: who reads it without decryption sees ciphertext.
    pub fn secure_parameter(&self, name: &str) {
        let mut state = self.state();
        if let Some(parameter) = state.here(&self.place).ssm.parameters.get_mut(name) {
            SECURE.clone_into(&mut parameter.kind);
        }
        drop(state);
        self.changed();
    }

    /// A firewall manager puts another web ACL on a distribution, which it may at any time: the ETag
    /// and `LastModifiedTime` are new, and the change propagates.
    ///
    /// # Errors
    /// `NoSuchDistribution`.
    pub fn modify_as_firewall_manager(&self, id: &str) -> Result<(), Failure> {
        let now = self.now();
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            let acl = format!(
                "arn:aws:wafv2:us-east-1:{}:global/webacl/managed/{}",
                here.settings.account,
                here.ids.uuid()
            );
            let by = By::firewall_manager(&here.settings.account);
            let mut context = Context {
                now,
                settings: &here.settings,
                ids: here.ids,
                by: &by,
            };
            let propagated = context.propagated();
            let etag = context.ids.e_id();
            let distribution = here.cloudfront.distribution_mut(id)?;
            let current = &distribution.current;
            let document = parsed(&current.document.with_text("WebACLId", &acl))?;
            let new = Version {
                document: document.into(),
                policy_id: current.policy_id.clone(),
                etag,
                modified: now,
                deployed_at: propagated.max(current.deployed_at),
                by,
            };
            distribution.replace(new, now);
        }
        self.changed();
        Ok(())
    }
}
