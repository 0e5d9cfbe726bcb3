//! Making, changing and deleting distributions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::services::cloudfront::errors::{
    check_distribution_config, check_if_match, illegal_update, invalid_argument, no_such_policy,
    not_disabled, not_supported_here, policy_in_use, precondition_failed, staging_in_use,
};
use crate::services::cloudfront::xml::{Document, parsed};
use crate::services::cloudfront::{CloudFront, Context, Distribution, POLICY_ID, QUOTA, Version};
use crate::wire::exchange::{Change, Failure};
use crate::wire::settings::{DeleteLag, OmittedPolicyId, Settings};
use crate::wire::time::later;

/// Fields that cannot be changed on a primary while a policy is attached to it.
const LOCKED: [&str; 6] = [
    "Enabled",
    "PriceClass",
    "HttpVersion",
    "IsIPV6Enabled",
    "ViewerCertificate",
    "WebACLId",
];

impl CloudFront {
    /// CreateDistribution, and the second half of CopyDistribution.
    pub(crate) fn create(
        &mut self,
        context: &mut Context<'_>,
        document: Document,
        tags: BTreeMap<String, String>,
    ) -> Result<&Distribution, Failure> {
        check_distribution_config(&document)?;
        if !document.text_of(POLICY_ID).unwrap_or_default().is_empty() {
            return Err(invalid_argument(
                "Continuous deployment policy is not supported during distribution creation.",
            ));
        }
        let reference = document.text_of("CallerReference").unwrap_or_default();
        if self
            .distributions()
            .any(|it| it.current.document.text_of("CallerReference") == Some(reference))
        {
            return Err(Failure::new(
                409,
                "DistributionAlreadyExists",
                "The caller reference that you are using to create a distribution is associated \
                 with another distribution.",
            ));
        }
        let staging = document.is_true("Staging");
        if staging
            && self
                .distributions()
                .filter(|it| it.current.staging())
                .count()
                >= QUOTA
        {
            return Err(Failure::new(
                400,
                "TooManyDistributions",
                "Processing your request will cause you to exceed the maximum number of staging \
                 distributions allowed.",
            ));
        }
        let aliases = document.root().items("Aliases").1;
        self.check_aliases(None, &aliases)?;
        let id = context.ids.e_id();
        let distribution = Distribution {
            arn: format!(
                "arn:aws:cloudfront::{}:distribution/{id}",
                context.settings.account
            ),
            domain_name: context.ids.domain(),
            current: Version {
                document: Arc::new(document),
                policy_id: String::new(),
                etag: context.ids.e_id(),
                modified: context.now,
                deployed_at: context.propagated(),
                by: context.by.clone(),
            },
            previous: None,
            past_etags: Vec::new(),
            tags,
            deleted_at: None,
            made_by: context.by.clone(),
            deployed_by: context.by.clone(),
            id: id.clone(),
        };
        Ok(self.distributions.entry(id).or_insert(distribution))
    }

    fn check_aliases(&self, own: Option<&str>, aliases: &[String]) -> Result<(), Failure> {
        let taken = self
            .distributions()
            .filter(|it| Some(it.id.as_str()) != own)
            .any(|it| {
                it.current
                    .document
                    .root()
                    .items("Aliases")
                    .1
                    .iter()
                    .any(|alias| aliases.contains(alias))
            });
        if taken {
            return Err(Failure::new(
                409,
                "CNAMEAlreadyExists",
                "One or more of the CNAMEs you provided are already associated with a different \
                 resource.",
            ));
        }
        Ok(())
    }

    /// CopyDistribution: a staging distribution with the primary's configuration, without aliases
    /// and without a policy.
    pub(crate) fn copy(
        &mut self,
        context: &mut Context<'_>,
        primary: &str,
        if_match: Option<&str>,
        reference: &str,
        enabled: bool,
    ) -> Result<&Distribution, Failure> {
        let source = self.distribution(primary)?;
        check_if_match(if_match, &source.current.etag, &source.past_etags)?;
        if source.current.staging() {
            return Err(invalid_argument(
                "The primary distribution is a staging distribution.",
            ));
        }
        let mut document = (*source.current.document).clone();
        for (name, value) in [
            ("CallerReference", reference),
            ("Enabled", if enabled { "true" } else { "false" }),
            ("Staging", "true"),
            (POLICY_ID, ""),
        ] {
            document = parsed(&document.with_text(name, value))?;
        }
        let none = "<Aliases><Quantity>0</Quantity></Aliases>";
        document = parsed(&document.with_raw("Aliases", Some(none)))?;
        self.create(context, document, BTreeMap::new())
    }

    /// UpdateDistribution.
    pub(crate) fn update(
        &mut self,
        context: &mut Context<'_>,
        id: &str,
        if_match: Option<&str>,
        document: Document,
    ) -> Result<(&Distribution, Option<Change>), Failure> {
        let distribution = self.distribution(id)?;
        let old = &distribution.current;
        check_if_match(if_match, &old.etag, &distribution.past_etags)?;
        check_distribution_config(&document)?;
        if document.text_of("CallerReference") != old.document.text_of("CallerReference") {
            return Err(illegal_update(
                "You cannot update Origin or CallerReference",
            ));
        }
        if document.is_true("Staging") != old.staging() {
            return Err(not_supported_here());
        }
        self.check_aliases(Some(id), &document.root().items("Aliases").1)?;
        let policy_id = if old.staging() {
            self.check_staging_update(context.settings, distribution, &document)?
        } else {
            self.check_primary_update(context.settings, distribution, &document)?
        };
        let shown = old.shown(&context.settings.switches);
        let unchanged = policy_id == old.policy_id && document.same_but_for(&shown, POLICY_ID);
        let description = describe(old, &document, &policy_id);
        let detached =
            (policy_id != old.policy_id && !old.staging()).then(|| old.policy_id.clone());
        let change = Change::from_to(description, shown.text(), document.text());
        let document = Arc::new(document);
        if unchanged && !context.settings.switches.unchanged_put_is_a_change {
            let distribution = self.distribution_mut(id)?;
            distribution.current.document = document;
            return Ok((distribution, None));
        }
        let deployed_at = context.propagated();
        let distribution = self.distribution_mut(id)?;
        let new = Version {
            document,
            policy_id: policy_id.clone(),
            etag: context.ids.e_id(),
            modified: context.now,
            deployed_at: deployed_at.max(distribution.current.deployed_at),
            by: context.by.clone(),
        };
        let held_until = new.deployed_at;
        distribution.replace(new, context.now);
        if let Some(policy) = detached.and_then(|policy| self.policies.get_mut(&policy)) {
            policy.held_until = held_until;
        }
        Ok((self.distribution(id)?, Some(change)))
    }

    /// What a staging distribution may change; answers the policy id it shows afterwards.
    fn check_staging_update(
        &self,
        settings: &Settings,
        distribution: &Distribution,
        document: &Document,
    ) -> Result<String, Failure> {
        let switches = &settings.switches;
        let old = &distribution.current;
        let listing = self.policy_listing(&distribution.domain_name);
        if old.enabled() && !document.is_true("Enabled") {
            let blocks = listing.is_some_and(|policy| {
                switches.unattached_policy_blocks_disable
                    || !self.attached_to(&policy.id).is_empty()
            });
            if blocks {
                return Err(staging_in_use());
            }
        }
        let shown = old.shown_policy_id(switches);
        match document.text_of(POLICY_ID) {
            None if switches.staging_update_needs_policy_id && !shown.is_empty() => {
                Err(not_supported_here())
            }
            None => Ok(old.policy_id.clone()),
            Some(given)
                if given == shown
                    && (given.is_empty()
                        || !switches.staging_policy_is_looked_up
                        || self.policies.contains_key(given)) =>
            {
                Ok(old.policy_id.clone())
            }
            Some("") if listing.is_none() => Ok(String::new()),
            Some(given) if !given.is_empty() && !self.policies.contains_key(given) => {
                Err(no_such_policy())
            }
            Some(_) => Err(not_supported_here()),
        }
    }

    /// What a primary may change; answers the policy that is attached to it afterwards.
    fn check_primary_update(
        &self,
        settings: &Settings,
        distribution: &Distribution,
        document: &Document,
    ) -> Result<String, Failure> {
        let old = &distribution.current;
        let wanted = match document.text_of(POLICY_ID) {
            Some(given) => given.to_owned(),
            None => match settings.switches.omitted_policy_id {
                OmittedPolicyId::Keeps => old.policy_id.clone(),
                OmittedPolicyId::Clears => String::new(),
            },
        };
        if wanted != old.policy_id && !wanted.is_empty() {
            self.policy(&wanted)?;
            if self
                .attached_to(&wanted)
                .iter()
                .any(|id| *id != distribution.id)
            {
                return Err(policy_in_use());
            }
        }
        if !wanted.is_empty() && !document.is_true("Enabled") {
            return Err(not_supported_here());
        }
        let locked = |name| !document.same_child(&old.document, name);
        if !old.policy_id.is_empty() && LOCKED.into_iter().any(locked) {
            return Err(not_supported_here());
        }
        Ok(wanted)
    }

    /// UpdateDistributionWithStagingConfig: the primary takes the staging configuration over, `Enabled`
    /// included, but keeps its aliases and its policy, which ends up disabled.
    pub(crate) fn promote(
        &mut self,
        context: &mut Context<'_>,
        id: &str,
        staging_id: &str,
        if_match: Option<&str>,
    ) -> Result<(&Distribution, Change), Failure> {
        let primary = self.distribution(id)?;
        let staging = self.distribution(staging_id)?;
        let (primary_tag, staging_tag) = if_match
            .and_then(|tags| tags.split_once(','))
            .map_or((None, None), |(first, second)| {
                (Some(first.trim()), Some(second.trim()))
            });
        check_if_match(primary_tag, &primary.current.etag, &primary.past_etags)?;
        check_if_match(staging_tag, &staging.current.etag, &staging.past_etags)?;
        let policy_id = primary.current.policy_id.clone();
        let listed = self
            .policies
            .get(&policy_id)
            .is_some_and(|policy| policy.domains().contains(&staging.domain_name));
        if !listed && context.settings.switches.promotion_needs_policy {
            return Err(invalid_argument(
                "The staging distribution is not associated with the primary distribution.",
            ));
        }
        let before = Arc::clone(&primary.current.document);
        let mut document = (*staging.current.document).clone();
        for keep in ["CallerReference", "Aliases", "Staging", POLICY_ID] {
            document = parsed(&document.with_raw(keep, before.raw_of(keep)))?;
        }
        let description = format!("took over the configuration of staging {staging_id}");
        let change = Change::from_to(description, before.text(), document.text());
        let deployed_at = context.propagated();
        let policy_etag = context.ids.e_id();
        let primary = self.distribution_mut(id)?;
        let new = Version {
            document: Arc::new(document),
            policy_id: policy_id.clone(),
            etag: context.ids.e_id(),
            modified: context.now,
            deployed_at: deployed_at.max(primary.current.deployed_at),
            by: context.by.clone(),
        };
        primary.replace(new, context.now);
        if let Some(policy) = self.policies.get_mut(&policy_id).filter(|_| listed) {
            let text = policy.document.with_text("Enabled", "false");
            policy.document = Arc::new(parsed(&text)?);
            policy
                .past_etags
                .push(std::mem::replace(&mut policy.etag, policy_etag));
            policy.modified = context.now;
        }
        Ok((self.distribution(id)?, change))
    }

    /// DeleteDistribution.
    pub(crate) fn delete(
        &mut self,
        context: &Context<'_>,
        id: &str,
        if_match: Option<&str>,
    ) -> Result<Change, Failure> {
        let switches = &context.settings.switches;
        let distribution = self.distribution(id)?;
        let current = &distribution.current;
        check_if_match(if_match, &current.etag, &distribution.past_etags)?;
        if current.enabled() || context.now < current.deployed_at {
            return Err(not_disabled());
        }
        if context.now < later(current.deployed_at, switches.delete_lag) {
            return Err(match switches.delete_lag_error {
                DeleteLag::NotDisabled => not_disabled(),
                DeleteLag::PreconditionFailed => precondition_failed(),
            });
        }
        if switches.listed_staging_delete_refused
            && self.policy_listing(&distribution.domain_name).is_some()
        {
            return Err(Failure::new(
                409,
                "ResourceInUse",
                "Cannot delete this resource because it is in use.",
            ));
        }
        let kind = if current.staging() {
            "staging"
        } else {
            "primary"
        };
        let description = format!("{kind} distribution deleted");
        let change = Change::from_to(description, current.document.text(), "");
        let distribution = self.distribution_mut(id)?;
        distribution.deleted_at = Some(context.now);
        let linger = switches.deleted_stays_visible;
        self.distributions.retain(|_, it| {
            it.deleted_at
                .is_none_or(|at| context.now < later(at, linger))
        });
        Ok(change)
    }
}

/// Which elements an update changes, for the journal.
fn describe(old: &Version, new: &Document, policy_id: &str) -> String {
    let mut said = Vec::new();
    if old.policy_id != policy_id {
        said.push(match (old.policy_id.as_str(), policy_id) {
            (was, "") => format!("policy {was} detached"),
            ("", now) => format!("policy {now} attached"),
            (was, now) => format!("policy {was} replaced by {now}"),
        });
    }
    let (before, after) = (&old.document, new);
    let mut seen = BTreeSet::new();
    for name in before
        .root()
        .children
        .iter()
        .chain(&after.root().children)
        .map(|it| &it.name)
    {
        if name == POLICY_ID || !seen.insert(name) || before.same_child(after, name) {
            continue;
        }
        said.push(match (before.text_of(name), after.text_of(name)) {
            (Some(was), Some(now)) if was.len() + now.len() < 60 && was != now => {
                format!("{name} {was} -> {now}")
            }
            (Some(_), None) => format!("{name} removed"),
            (None, Some(_)) => format!("{name} added"),
            _ => format!("{name} changed"),
        });
    }
    if said.is_empty() {
        "put again unchanged".to_owned()
    } else {
        said.join(", ")
    }
}
