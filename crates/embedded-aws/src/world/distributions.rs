//! Distributions and policies: changed by people and other programs, and looked at without a protocol between;
//! and all that exists.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::aws::EmbeddedAws;
use crate::services::by::By;
use crate::services::cloudfront::xml::{Document, parsed};
use crate::services::cloudfront::{self, Context, Distribution, Policy, Version};
use crate::services::sqs::queue::Depth;
use crate::wire::exchange::Failure;
use crate::wire::settings::Settings;

/// A distribution as it is, whatever reads may show.
#[derive(Clone, Debug)]
pub struct DistributionView {
    pub id: String,
    pub arn: String,
    /// Its own name under `cloudfront.net`.
    pub domain_name: String,
    /// Whether its last change has propagated.
    pub deployed: bool,
    /// When it has propagated, or will have.
    pub deployed_at: Timestamp,
    pub enabled: bool,
    pub staging: bool,
    /// The names it serves besides its own.
    pub aliases: Vec<String>,
    /// The attached policy, or the one a staging distribution shows; empty if none.
    pub policy_id: String,
    /// The ETag that a write has to match.
    pub etag: String,
    /// When it was last written.
    pub modified: Timestamp,
    /// The configuration exactly as GetDistributionConfig answers it.
    pub config: String,
    pub tags: BTreeMap<String, String>,
    pub made_by: By,
    /// Who wrote it last.
    pub modified_by: By,
    /// The last build of a deployment that wrote it, or whoever made it.
    pub deployed_by: By,
}

/// A continuous deployment policy.
#[derive(Clone, Debug)]
pub struct PolicyView {
    pub id: String,
    /// The ETag that a write has to match.
    pub etag: String,
    pub enabled: bool,
    /// The domain names of the staging distributions that it lists.
    pub staging_domains: Vec<String>,
    /// The primary distributions that it is attached to.
    pub attached_to: Vec<String>,
    pub made_by: By,
}

/// Everything that exists in one account, its parameters in one region; and all queues.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Distributions that have not been deleted.
    pub distributions: Vec<DistributionView>,
    pub policies: Vec<PolicyView>,
    /// Parameters and what they hold now.
    pub parameters: BTreeMap<String, String>,
    /// Queues by name.
    pub queues: BTreeMap<String, Depth>,
}

impl EmbeddedAws {
    /// A distribution that exists.
    #[must_use]
    pub fn distribution(&self, id: &str) -> Option<DistributionView> {
        let mut state = self.state();
        let here = state.here(&self.place);
        here.cloudfront
            .distribution(id)
            .ok()
            .map(|it| self.distribution_view(it, &here.settings))
    }

    /// A continuous deployment policy.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<PolicyView> {
        let mut state = self.state();
        let cloudfront = &*state.here(&self.place).cloudfront;
        let policy = cloudfront.policy(id).ok()?;
        Some(policy_view(policy, cloudfront))
    }

    /// An operator sets one element of a distribution's configuration, under CloudFront's rules and with the
    /// ETag that is current: an operator who comes between.
    ///
    /// # Errors
    /// What UpdateDistribution refuses with.
    pub fn edit_distribution(&self, id: &str, element: &str, value: &str) -> Result<(), Failure> {
        self.update_distribution(id, |document| document.with_text(element, value))
    }

    pub(crate) fn update_distribution(
        &self,
        id: &str,
        edit: impl FnOnce(&Document) -> String,
    ) -> Result<(), Failure> {
        let now = self.now();
        let by = By::operator(&self.place.account);
        self.state().edit(&self.place, id, None, &by, now, edit)?;
        self.changed();
        Ok(())
    }

    /// Deletes a policy under CloudFront's rules: an operator who comes between.
    ///
    /// # Errors
    /// What DeleteContinuousDeploymentPolicy refuses with.
    pub fn delete_policy(&self, id: &str) -> Result<(), Failure> {
        let now = self.now();
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            let etag = here.cloudfront.policy(id)?.etag.clone();
            let by = By::operator(&here.settings.account);
            let mut context = Context {
                now,
                settings: &here.settings,
                ids: here.ids,
                by: &by,
            };
            here.cloudfront
                .delete_policy(&mut context, id, Some(&etag))?;
        }
        self.changed();
        Ok(())
    }

    /// Deletes a distribution under CloudFront's rules: an operator who comes between.
    ///
    /// # Errors
    /// What DeleteDistribution refuses with.
    pub fn delete_distribution(&self, id: &str) -> Result<(), Failure> {
        let now = self.now();
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            let etag = here.cloudfront.distribution(id)?.current.etag.clone();
            let by = By::operator(&here.settings.account);
            let context = Context {
                now,
                settings: &here.settings,
                ids: here.ids,
                by: &by,
            };
            here.cloudfront.delete(&context, id, Some(&etag))?;
        }
        self.changed();
        Ok(())
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

    /// Lets every change have propagated by now.
    pub fn settle(&self) {
        let now = self.now();
        {
            let mut state = self.state();
            let cloudfront = state.here(&self.place).cloudfront;
            let ids: Vec<String> = cloudfront.distributions().map(|it| it.id.clone()).collect();
            for id in ids {
                cloudfront.settle(&id, now);
            }
        }
        self.changed();
    }

    /// Lets everything in CloudFront and Parameter Store have been written so much earlier.
    pub fn backdate(&self, by: Duration) {
        let earlier = |at: &mut Timestamp| *at = at.checked_sub(by).unwrap_or(Timestamp::MIN);
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            for distribution in here.cloudfront.distributions.values_mut() {
                earlier(&mut distribution.current.modified);
            }
            for policy in here.cloudfront.policies.values_mut() {
                earlier(&mut policy.modified);
            }
            for parameter in here.ssm.parameters.values_mut() {
                for version in &mut parameter.versions {
                    earlier(&mut version.at);
                }
            }
        }
        self.changed();
    }

    /// Everything that exists.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let now = self.now();
        let mut state = self.state();
        let queues = state
            .sqs
            .queues
            .iter()
            .map(|(name, it)| (name.clone(), it.depth(now)))
            .collect();
        let here = state.here(&self.place);
        let cloudfront = &*here.cloudfront;
        let latest = |parameter: &crate::services::ssm::Parameter| {
            parameter.latest().map(|it| it.value.clone())
        };
        Inventory {
            distributions: cloudfront
                .distributions()
                .map(|it| self.distribution_view(it, &here.settings))
                .collect(),
            policies: cloudfront
                .policies()
                .map(|it| policy_view(it, cloudfront))
                .collect(),
            parameters: here
                .ssm
                .parameters
                .iter()
                .filter_map(|(name, parameter)| Some((name.clone(), latest(parameter)?)))
                .collect(),
            queues,
        }
    }

    fn distribution_view(
        &self,
        distribution: &Distribution,
        settings: &Settings,
    ) -> DistributionView {
        let current = &distribution.current;
        DistributionView {
            id: distribution.id.clone(),
            arn: distribution.arn.clone(),
            domain_name: distribution.domain_name.clone(),
            deployed: current.deployed_at <= self.now(),
            deployed_at: current.deployed_at,
            enabled: current.enabled(),
            staging: current.staging(),
            aliases: current.document.root().items("Aliases").1,
            policy_id: current.shown_policy_id(&settings.switches).to_owned(),
            etag: current.etag.clone(),
            modified: current.shown_modified(self.now(), &settings.switches),
            config: current.shown(&settings.switches).text().to_owned(),
            tags: distribution.tags.clone(),
            made_by: distribution.made_by.clone(),
            modified_by: current.by.clone(),
            deployed_by: distribution.deployed_by.clone(),
        }
    }
}

fn policy_view(policy: &Policy, cloudfront: &cloudfront::CloudFront) -> PolicyView {
    PolicyView {
        id: policy.id.clone(),
        etag: policy.etag.clone(),
        enabled: policy.enabled(),
        staging_domains: policy.domains(),
        attached_to: cloudfront.attached_to(&policy.id),
        made_by: policy.made_by.clone(),
    }
}
