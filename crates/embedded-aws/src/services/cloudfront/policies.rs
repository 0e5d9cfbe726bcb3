//! Making, changing and deleting continuous deployment policies.

use std::sync::Arc;

use crate::services::cloudfront::errors::{
    check_if_match, check_quantities, invalid_argument, policy_in_use,
};
use crate::services::cloudfront::xml::Document;
use crate::services::cloudfront::{CloudFront, Context, Policy, QUOTA, Version};
use crate::wire::exchange::{Change, Failure};
use crate::wire::settings::{AttachedPolicyDelete, StagingAfterPolicyDelete};

impl CloudFront {
    fn check_policy_config(&self, own: Option<&str>, document: &Document) -> Result<(), Failure> {
        for required in ["StagingDistributionDnsNames", "Enabled"] {
            if document.root().child(required).is_none() {
                return Err(invalid_argument(format!(
                    "The parameter {required} is required."
                )));
            }
        }
        check_quantities(document, &["StagingDistributionDnsNames"])?;
        for domain in document.root().items("StagingDistributionDnsNames").1 {
            let staging = self.distributions().find(|it| it.domain_name == domain);
            if !staging.is_some_and(|it| it.current.staging()) {
                return Err(invalid_argument(
                    "The staging distribution domain name is not valid.",
                ));
            }
            if self
                .policy_listing(&domain)
                .is_some_and(|it| Some(it.id.as_str()) != own)
            {
                return Err(Failure::new(
                    409,
                    "StagingDistributionInUse",
                    "A continuous deployment policy for this staging distribution already exists.",
                ));
            }
        }
        Ok(())
    }

    /// Staging distributions show the policy that lists them.
    fn show_policy_on_staging(&mut self, policy: &str, domains: &[String]) {
        for it in self
            .distributions
            .values_mut()
            .filter(|it| it.current.staging())
        {
            if domains.contains(&it.domain_name) {
                policy.clone_into(&mut it.current.policy_id);
            } else if it.current.policy_id == policy {
                it.current.policy_id.clear();
            }
        }
    }

    /// CreateContinuousDeploymentPolicy.
    pub(crate) fn create_policy(
        &mut self,
        context: &mut Context<'_>,
        document: Document,
    ) -> Result<&Policy, Failure> {
        self.check_policy_config(None, &document)?;
        if self.policies.len() >= QUOTA {
            return Err(Failure::new(
                400,
                "TooManyContinuousDeploymentPolicies",
                "You have reached the maximum number of continuous deployment policies for this \
                 account.",
            ));
        }
        let id = context.ids.uuid();
        let policy = Policy {
            id: id.clone(),
            document: Arc::new(document),
            etag: context.ids.e_id(),
            past_etags: Vec::new(),
            modified: context.now,
            held_until: context.now,
            made_by: context.by.clone(),
        };
        self.show_policy_on_staging(&id, &policy.domains());
        Ok(self.policies.entry(id).or_insert(policy))
    }

    /// UpdateContinuousDeploymentPolicy.
    pub(crate) fn update_policy(
        &mut self,
        context: &mut Context<'_>,
        id: &str,
        if_match: Option<&str>,
        document: Document,
    ) -> Result<(&Policy, Option<Change>), Failure> {
        let policy = self.policy(id)?;
        check_if_match(if_match, &policy.etag, &policy.past_etags)?;
        self.check_policy_config(Some(id), &document)?;
        let before = Arc::clone(&policy.document);
        if document.same_but_for(&before, "")
            && !context.settings.switches.unchanged_put_is_a_change
        {
            return Ok((self.policy(id)?, None));
        }
        let change = Change::from_to("policy changed", before.text(), document.text());
        let deployed_at = context.propagated();
        let etag = context.ids.e_id();
        if let Some(policy) = self.policies.get_mut(id) {
            policy
                .past_etags
                .push(std::mem::replace(&mut policy.etag, etag));
            policy.document = Arc::new(document);
            policy.modified = context.now;
        }
        let domains = self.policy(id)?.domains();
        self.show_policy_on_staging(id, &domains);
        if context.settings.switches.policy_update_redeploys_primary {
            for primary in self.attached_to(id) {
                let current = &mut self.distribution_mut(&primary)?.current;
                current.deployed_at = current.deployed_at.max(deployed_at);
            }
        }
        Ok((self.policy(id)?, Some(change)))
    }

    /// DeleteContinuousDeploymentPolicy.
    pub(crate) fn delete_policy(
        &mut self,
        context: &mut Context<'_>,
        id: &str,
        if_match: Option<&str>,
    ) -> Result<Change, Failure> {
        let switches = &context.settings.switches;
        let policy = self.policy(id)?;
        check_if_match(if_match, &policy.etag, &policy.past_etags)?;
        let primaries = self.attached_to(id);
        let clears = switches.disabled_attached_policy_delete
            == AttachedPolicyDelete::ClearsPrimary
            && !policy.enabled();
        if !primaries.is_empty() && !clears {
            return Err(policy_in_use());
        }
        if primaries.is_empty()
            && switches.policy_delete_waits_for_detach
            && context.now < policy.held_until
        {
            return Err(policy_in_use());
        }
        let change = Change::from_to("policy deleted", policy.document.text(), "");
        for primary in primaries {
            let deployed_at = context.propagated();
            let etag = context.ids.e_id();
            let distribution = self.distribution_mut(&primary)?;
            let new = Version {
                policy_id: String::new(),
                etag,
                modified: context.now,
                deployed_at: deployed_at.max(distribution.current.deployed_at),
                by: context.by.clone(),
                document: Arc::clone(&distribution.current.document),
            };
            distribution.replace(new, context.now);
        }
        self.policies.remove(id);
        if switches.staging_after_policy_delete == StagingAfterPolicyDelete::Empty {
            self.show_policy_on_staging(id, &[]);
        }
        Ok(change)
    }
}
