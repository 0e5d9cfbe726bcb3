//! Parameters: written by people, builds and others, and looked at without a protocol between.

use jiff::Timestamp;

use super::aws::EmbeddedAws;
use super::state::Account;
use crate::services::by::By;
use crate::services::codepipeline::execution::Execution;
use crate::services::ssm::SECURE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterVersion {
    /// Counts from 1.
    pub version: u64,
    pub value: String,
    /// When it was written.
    pub at: Timestamp,
    pub by: By,
}

impl EmbeddedAws {
    /// An operator writes a parameter; answers its version.
    pub fn put_parameter(&self, name: &str, value: &str) -> u64 {
        self.put_by(name, value, &By::operator(&self.place.account))
    }

    pub(crate) fn put_by(&self, name: &str, value: &str, by: &By) -> u64 {
        let now = self.now();
        let version = self.state().here(&self.place).ssm.put(name, value, now, by);
        self.changed();
        version
    }

    /// What a parameter holds.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.parameter_history(name)
            .pop()
            .map(|latest| latest.value)
    }

    /// The versions of a parameter that are kept, oldest first.
    #[must_use]
    pub fn parameter_history(&self, name: &str) -> Vec<ParameterVersion> {
        let mut state = self.state();
        let here = state.here(&self.place);
        let versions = here
            .ssm
            .parameters
            .get(name)
            .map_or(&[][..], |it| &it.versions);
        versions
            .iter()
            .map(|it| ParameterVersion {
                version: it.number,
                value: it.value.clone(),
                at: it.at,
                by: it.by.clone(),
            })
            .collect()
    }

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

    /// Puts a parameter into the advanced tier.
    pub fn advance_parameter(&self, name: &str) {
        let mut state = self.state();
        if let Some(parameter) = state.here(&self.place).ssm.parameters.get_mut(name) {
            "Advanced".clone_into(&mut parameter.tier);
        }
        drop(state);
        self.changed();
    }

    /// Sets what every further value of a parameter must match.
    pub fn allow_in_parameter(&self, name: &str, pattern: &str) {
        let mut state = self.state();
        if let Some(parameter) = state.here(&self.place).ssm.parameters.get_mut(name) {
            parameter.allowed_pattern = Some(pattern.to_owned());
        }
        drop(state);
        self.changed();
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
}
