//! CloudFront continuous deployment: what exists, and the rules by which it changes.
//!
//! Sources are the CloudFront API reference of 2020-05-31 (errors and their statuses), the
//! developer guide's "Use continuous deployment to safely test CDN configuration changes", and
//! public reports where those are silent; each of the latter has a switch in [`Switches`].
//!
//! **Guarantees.** A refused call changes nothing. A distribution is `InProgress` until its last
//! effective change has propagated; changes propagate in the order in which they were accepted.
//! Status is computed from the clock at every look: nothing runs in the background.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cloudfront_xml::Document;
use super::exchange::{Change, Failure};
use super::ids::Ids;
use super::settings::{
    AttachedPolicyDelete, DeleteLag, OmittedPolicyId, Settings, StagingAfterPolicyDelete, Switches,
};

/// Staging distributions, and policies, that an account may have (service quotas).
pub(super) const QUOTA: usize = 20;

pub(super) const POLICY_ID: &str = "ContinuousDeploymentPolicyId";

/// Fields that cannot be changed on a primary while a policy is attached to it.
const LOCKED: [&str; 6] = [
    "Enabled",
    "PriceClass",
    "HttpVersion",
    "IsIPV6Enabled",
    "ViewerCertificate",
    "WebACLId",
];

/// The state a distribution is in at one time.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) document: Arc<Document>,
    /// The attached policy; for a staging distribution, the one that it shows.
    pub(super) policy_id: String,
    pub(super) etag: String,
    pub(super) modified: Timestamp,
    pub(super) deployed_at: Timestamp,
}

impl Version {
    pub(super) fn status(&self, now: Timestamp) -> &'static str {
        if now < self.deployed_at {
            "InProgress"
        } else {
            "Deployed"
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.document.is_true("Enabled")
    }

    pub(super) fn staging(&self) -> bool {
        self.document.is_true("Staging")
    }

    /// The policy id as a reader sees it.
    pub(super) fn shown_policy_id(&self, switches: &Switches) -> &str {
        if self.staging() && !switches.staging_shows_policy {
            ""
        } else {
            &self.policy_id
        }
    }

    /// The configuration as a reader sees it: the very bytes that were put, unless the policy id
    /// has changed by other means since.
    pub(super) fn shown(&self, switches: &Switches) -> Arc<Document> {
        let shown = self.shown_policy_id(switches);
        if self.document.text_of(POLICY_ID).unwrap_or_default() == shown {
            return Arc::clone(&self.document);
        }
        let text = self.document.with_text(POLICY_ID, shown);
        Document::parse(text.as_bytes()).map_or_else(|_| Arc::clone(&self.document), Arc::new)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Distribution {
    pub(super) id: String,
    pub(super) arn: String,
    pub(super) domain_name: String,
    pub(super) current: Version,
    /// What stale reads show, and when the change that replaced it was made.
    previous: Option<(Version, Timestamp)>,
    past_etags: Vec<String>,
    pub(super) tags: BTreeMap<String, String>,
    deleted_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) id: String,
    pub(super) document: Arc<Document>,
    pub(super) etag: String,
    past_etags: Vec<String>,
    pub(super) modified: Timestamp,
    /// Until when the last detach from a primary still propagates.
    held_until: Timestamp,
}

impl Policy {
    pub(super) fn domains(&self) -> Vec<String> {
        self.document.root().items("StagingDistributionDnsNames").1
    }

    pub(super) fn enabled(&self) -> bool {
        self.document.is_true("Enabled")
    }
}

/// Everything CloudFront holds for the account.
#[derive(Debug, Default)]
pub(super) struct CloudFront {
    distributions: BTreeMap<String, Distribution>,
    policies: BTreeMap<String, Policy>,
}

/// What a rule needs besides what exists.
pub(super) struct Context<'a> {
    pub(super) now: Timestamp,
    pub(super) settings: &'a Settings,
    pub(super) ids: &'a mut Ids,
}

impl Context<'_> {
    fn propagated(&mut self) -> Timestamp {
        let settings = self.settings;
        later(
            self.now,
            settings.propagation + self.ids.up_to(settings.propagation_jitter),
        )
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

pub(super) fn no_such_distribution() -> Failure {
    Failure::new(
        404,
        "NoSuchDistribution",
        "The specified distribution does not exist.",
    )
}

pub(super) fn no_such_policy() -> Failure {
    Failure::new(
        404,
        "NoSuchContinuousDeploymentPolicy",
        "The specified continuous deployment policy does not exist.",
    )
}

pub(super) fn invalid_argument(message: impl Into<String>) -> Failure {
    Failure::new(400, "InvalidArgument", message)
}

fn illegal_update(message: &str) -> Failure {
    Failure::new(400, "IllegalUpdate", message)
}

fn not_supported_here() -> Failure {
    illegal_update("One or more fields updated are not supported for continuous deployment")
}

fn staging_in_use() -> Failure {
    Failure::new(
        409,
        "StagingDistributionInUse",
        "The specified staging distribution is currently used by a continuous deployment policy. \
         Please update the policy before deleting.",
    )
}

fn policy_in_use() -> Failure {
    Failure::new(
        409,
        "ContinuousDeploymentPolicyInUse",
        "The specified continuous deployment policy is currently associated with a distribution.",
    )
}

fn not_disabled() -> Failure {
    Failure::new(
        409,
        "DistributionNotDisabled",
        "The distribution you are trying to delete has not been disabled.",
    )
}

fn precondition_failed() -> Failure {
    Failure::new(
        412,
        "PreconditionFailed",
        "The request failed because it didn't meet the preconditions in one or more \
         request-header fields.",
    )
}

/// An ETag that this object once had is a failed precondition; any other is no version of it.
fn check_if_match(given: Option<&str>, current: &str, past: &[String]) -> Result<(), Failure> {
    match given {
        Some(given) if given == current => Ok(()),
        Some(given) if past.iter().any(|etag| etag == given) => Err(precondition_failed()),
        _ => Err(Failure::new(
            400,
            "InvalidIfMatchVersion",
            "The If-Match version is missing or not valid for the resource.",
        )),
    }
}

fn check_distribution_config(document: &Document) -> Result<(), Failure> {
    let root = document.root();
    for required in [
        "CallerReference",
        "Origins",
        "DefaultCacheBehavior",
        "Comment",
        "Enabled",
    ] {
        if root.child(required).is_none() {
            return Err(invalid_argument(format!(
                "The parameter {required} is required."
            )));
        }
    }
    check_quantities(document, &["Aliases", "Origins"])?;
    if document.is_true("Staging") && !root.items("Aliases").1.is_empty() {
        return Err(invalid_argument(
            "A staging distribution can't have any aliases.",
        ));
    }
    Ok(())
}

fn check_quantities(document: &Document, lists: &[&str]) -> Result<(), Failure> {
    for list in lists {
        let (quantity, items) = document.root().items(list);
        if document.root().child(list).is_some() && quantity != Some(items.len()) {
            return Err(Failure::new(
                400,
                "InconsistentQuantities",
                "The value of Quantity and the size of Items don't match.",
            ));
        }
    }
    Ok(())
}

impl CloudFront {
    // ---- reading ----

    fn visible<'a>(
        &'a self,
        now: Timestamp,
        switches: &Switches,
    ) -> impl Iterator<Item = &'a Distribution> + use<'a> {
        let linger = switches.deleted_stays_visible;
        self.distributions.values().filter(move |it| {
            it.deleted_at
                .is_none_or(|deleted| now < later(deleted, linger))
        })
    }

    /// A distribution as a read shows it: possibly a version that is out of date, possibly one
    /// that has just been deleted. `stale` asks for the version before the last write.
    pub(super) fn read(
        &self,
        id: &str,
        now: Timestamp,
        switches: &Switches,
        stale: bool,
    ) -> Result<(&Distribution, &Version), Failure> {
        let found = self
            .visible(now, switches)
            .find(|distribution| distribution.id == id)
            .ok_or_else(no_such_distribution)?;
        Ok((
            found,
            found.seen(
                now,
                if stale {
                    STALE_FAULT
                } else {
                    switches.stale_reads
                },
            ),
        ))
    }

    /// Distributions after `marker` as ListDistributions shows them, in the order of their ids.
    pub(super) fn list(
        &self,
        marker: &str,
        now: Timestamp,
        switches: &Switches,
    ) -> Vec<(&Distribution, &Version)> {
        let stale = if switches.stale_lists {
            switches.stale_reads
        } else {
            Duration::ZERO
        };
        self.visible(now, switches)
            .filter(|distribution| distribution.id.as_str() > marker)
            .map(|distribution| (distribution, distribution.seen(now, stale)))
            .collect()
    }

    /// Distributions that exist, as they are.
    pub(super) fn distributions(&self) -> impl Iterator<Item = &Distribution> {
        self.distributions
            .values()
            .filter(|distribution| distribution.deleted_at.is_none())
    }

    /// A distribution that exists, as it is.
    pub(super) fn distribution(&self, id: &str) -> Result<&Distribution, Failure> {
        self.distributions
            .get(id)
            .filter(|distribution| distribution.deleted_at.is_none())
            .ok_or_else(no_such_distribution)
    }

    pub(super) fn distribution_mut(&mut self, id: &str) -> Result<&mut Distribution, Failure> {
        self.distributions
            .get_mut(id)
            .filter(|distribution| distribution.deleted_at.is_none())
            .ok_or_else(no_such_distribution)
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    pub(super) fn policy(&self, id: &str) -> Result<&Policy, Failure> {
        self.policies.get(id).ok_or_else(no_such_policy)
    }

    /// The primaries that a policy is attached to. The API allows one.
    pub(super) fn attached_to(&self, policy: &str) -> Vec<String> {
        self.distributions()
            .filter(|it| !it.current.staging() && it.current.policy_id == policy)
            .map(|it| it.id.clone())
            .collect()
    }

    fn policy_listing(&self, domain: &str) -> Option<&Policy> {
        self.policies
            .values()
            .find(|policy| policy.domains().iter().any(|it| it == domain))
    }

    /// When the next change by mere passing of time is due.
    pub(super) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.distributions()
            .map(|it| it.current.deployed_at)
            .filter(|at| *at > now)
            .min()
    }

    // ---- distributions ----

    /// CreateDistribution, and the second half of CopyDistribution.
    pub(super) fn create(
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
            },
            previous: None,
            past_etags: Vec::new(),
            tags,
            deleted_at: None,
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
    pub(super) fn copy(
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
            document = reparsed(&document.with_text(name, value))?;
        }
        let none = "<Aliases><Quantity>0</Quantity></Aliases>";
        document = reparsed(&document.with_raw("Aliases", Some(none)))?;
        self.create(context, document, BTreeMap::new())
    }

    /// UpdateDistribution.
    pub(super) fn update(
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
            Some(given) if given == shown => Ok(old.policy_id.clone()),
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

    /// UpdateDistributionWithStagingConfig: the primary takes the staging configuration over, but
    /// keeps its aliases and its policy, which ends up disabled.
    pub(super) fn promote(
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
        if !listed {
            return Err(invalid_argument(
                "The staging distribution is not associated with the primary distribution.",
            ));
        }
        let before = Arc::clone(&primary.current.document);
        let mut document = (*staging.current.document).clone();
        for keep in [
            "CallerReference",
            "Aliases",
            "Staging",
            "Enabled",
            POLICY_ID,
        ] {
            document = reparsed(&document.with_raw(keep, before.raw_of(keep)))?;
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
        };
        primary.replace(new, context.now);
        if let Some(policy) = self.policies.get_mut(&policy_id) {
            let text = policy.document.with_text("Enabled", "false");
            policy.document = Arc::new(reparsed(&text)?);
            policy
                .past_etags
                .push(std::mem::replace(&mut policy.etag, policy_etag));
            policy.modified = context.now;
        }
        Ok((self.distribution(id)?, change))
    }

    /// DeleteDistribution.
    pub(super) fn delete(
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

    // ---- continuous deployment policies ----

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
    pub(super) fn create_policy(
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
        };
        self.show_policy_on_staging(&id, &policy.domains());
        Ok(self.policies.entry(id).or_insert(policy))
    }

    /// UpdateContinuousDeploymentPolicy.
    pub(super) fn update_policy(
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
    pub(super) fn delete_policy(
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

    /// Makes everything `Deployed` now and, as far as anyone can tell, since `since`.
    pub(super) fn settle(&mut self, id: &str, since: Timestamp) {
        if let Ok(distribution) = self.distribution_mut(id) {
            distribution.current.deployed_at = since;
            distribution.current.modified = distribution.current.modified.min(since);
            distribution.previous = None;
        }
        for policy in self.policies.values_mut() {
            policy.held_until = policy.held_until.min(since);
        }
    }
}

/// How long after a write an injected stale read may still show the version before it.
const STALE_FAULT: Duration = Duration::from_secs(30);

impl Distribution {
    fn replace(&mut self, new: Version, now: Timestamp) {
        let old = std::mem::replace(&mut self.current, new);
        self.past_etags.push(old.etag.clone());
        self.previous = Some((old, now));
    }

    fn seen(&self, now: Timestamp, stale: Duration) -> &Version {
        match &self.previous {
            Some((previous, replaced)) if now < later(*replaced, stale) => previous,
            _ => &self.current,
        }
    }
}

fn reparsed(text: &str) -> Result<Document, Failure> {
    Document::parse(text.as_bytes()).map_err(|error| Failure::new(400, "MalformedXML", error))
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
    let names = before
        .root()
        .children
        .iter()
        .chain(&after.root().children)
        .map(|it| &it.name);
    let mut seen = std::collections::BTreeSet::new();
    for name in names.filter(|name| *name != POLICY_ID && seen.insert((*name).clone())) {
        let raw = |document: &Document| document.raw_of(name).map(str::to_owned);
        let (was, now) = (raw(before), raw(after));
        if was == now {
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
