//! CloudFront continuous deployment: what exists, and the rules by which it changes.
//!
//! Sources are the CloudFront API reference of 2020-05-31 (errors and their statuses), the
//! developer guide's "Use continuous deployment to safely test CDN configuration changes", and
//! public reports where those are silent; each of the latter has a switch in [`Switches`].
//!
//! **Guarantees.** A refused call changes nothing. A distribution is `InProgress` until its last
//! effective change has propagated; changes propagate in the order in which they were accepted.
//! Status is computed from the clock at every look: nothing runs in the background.

pub(crate) mod api;
mod distributions;
pub(crate) mod errors;
mod policies;
pub(crate) mod rates;
mod render;
pub(crate) mod xml;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::services::by::By;
use crate::services::cloudfront::errors::{no_such_distribution, no_such_policy};
use crate::services::cloudfront::xml::Document;
use crate::wire::exchange::Failure;
use crate::wire::ids::Ids;
use crate::wire::settings::{Settings, Switches};
use crate::wire::time::later;

/// Staging distributions, and policies, that an account may have (service quotas).
pub(crate) const QUOTA: usize = 20;

pub(crate) const POLICY_ID: &str = "ContinuousDeploymentPolicyId";

/// The state a distribution is in at one time.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) document: Arc<Document>,
    /// The attached policy; for a staging distribution, the one that it shows.
    pub(crate) policy_id: String,
    pub(crate) etag: String,
    pub(crate) modified: Timestamp,
    pub(crate) deployed_at: Timestamp,
    /// Who made this version of it.
    pub(crate) by: By,
}

impl Version {
    pub(crate) fn status(&self, now: Timestamp) -> &'static str {
        if now < self.deployed_at {
            "InProgress"
        } else {
            "Deployed"
        }
    }

    /// `LastModifiedTime` as a reader sees it.
    pub(crate) fn shown_modified(&self, now: Timestamp, switches: &Switches) -> Timestamp {
        if switches.modified_when_deployed && self.deployed_at <= now {
            self.modified.max(self.deployed_at)
        } else {
            self.modified
        }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.document.is_true("Enabled")
    }

    pub(crate) fn staging(&self) -> bool {
        self.document.is_true("Staging")
    }

    /// The policy id as a reader sees it.
    pub(crate) fn shown_policy_id(&self, switches: &Switches) -> &str {
        if self.staging() && !switches.staging_shows_policy {
            ""
        } else {
            &self.policy_id
        }
    }

    /// The configuration as a reader sees it: the very bytes that were put, unless the policy id
    /// has changed by other means since.
    pub(crate) fn shown(&self, switches: &Switches) -> Arc<Document> {
        let shown = self.shown_policy_id(switches);
        if self.document.text_of(POLICY_ID).unwrap_or_default() == shown {
            return Arc::clone(&self.document);
        }
        let text = self.document.with_text(POLICY_ID, shown);
        Document::parse(text.as_bytes()).map_or_else(|_| Arc::clone(&self.document), Arc::new)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Distribution {
    pub(crate) id: String,
    pub(crate) arn: String,
    pub(crate) domain_name: String,
    pub(crate) current: Version,
    /// What stale reads show, and when the change that replaced it was made.
    pub(crate) previous: Option<(Version, Timestamp)>,
    pub(crate) past_etags: Vec<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) deleted_at: Option<Timestamp>,
    pub(crate) made_by: By,
    /// The last build of a deployment that wrote it.
    pub(crate) deployed_by: By,
}

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) id: String,
    pub(crate) document: Arc<Document>,
    pub(crate) etag: String,
    pub(crate) past_etags: Vec<String>,
    pub(crate) modified: Timestamp,
    /// Until when the last detach from a primary still propagates.
    pub(crate) held_until: Timestamp,
    pub(crate) made_by: By,
}

impl Policy {
    pub(crate) fn domains(&self) -> Vec<String> {
        self.document.root().items("StagingDistributionDnsNames").1
    }

    pub(crate) fn enabled(&self) -> bool {
        self.document.is_true("Enabled")
    }
}

/// Everything CloudFront holds for the account.
#[derive(Debug, Default)]
pub(crate) struct CloudFront {
    pub(crate) distributions: BTreeMap<String, Distribution>,
    pub(crate) policies: BTreeMap<String, Policy>,
}

/// What a rule needs besides what exists.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) settings: &'a Settings,
    pub(crate) ids: &'a mut Ids,
    pub(crate) by: &'a By,
}

impl Context<'_> {
    pub(crate) fn propagated(&mut self) -> Timestamp {
        let settings = self.settings;
        later(
            self.now,
            settings.propagation + self.ids.up_to(settings.propagation_jitter),
        )
    }
}

impl CloudFront {
    // ---- reading ----

    pub(crate) fn visible<'a>(
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
    pub(crate) fn read(
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
    pub(crate) fn list(
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
    pub(crate) fn distributions(&self) -> impl Iterator<Item = &Distribution> {
        self.distributions
            .values()
            .filter(|distribution| distribution.deleted_at.is_none())
    }

    /// A distribution that exists, as it is.
    pub(crate) fn distribution(&self, id: &str) -> Result<&Distribution, Failure> {
        self.distributions
            .get(id)
            .filter(|distribution| distribution.deleted_at.is_none())
            .ok_or_else(no_such_distribution)
    }

    pub(crate) fn distribution_mut(&mut self, id: &str) -> Result<&mut Distribution, Failure> {
        self.distributions
            .get_mut(id)
            .filter(|distribution| distribution.deleted_at.is_none())
            .ok_or_else(no_such_distribution)
    }

    pub(crate) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    pub(crate) fn policy(&self, id: &str) -> Result<&Policy, Failure> {
        self.policies.get(id).ok_or_else(no_such_policy)
    }

    /// The primaries that a policy is attached to. The API allows one.
    pub(crate) fn attached_to(&self, policy: &str) -> Vec<String> {
        self.distributions()
            .filter(|it| !it.current.staging() && it.current.policy_id == policy)
            .map(|it| it.id.clone())
            .collect()
    }

    pub(crate) fn policy_listing(&self, domain: &str) -> Option<&Policy> {
        self.policies
            .values()
            .find(|policy| policy.domains().iter().any(|it| it == domain))
    }

    /// When the next change by mere passing of time is due.
    pub(crate) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.distributions()
            .map(|it| it.current.deployed_at)
            .filter(|at| *at > now)
            .min()
    }

    /// Makes everything `Deployed` now and, as far as anyone can tell, since `since`.
    pub(crate) fn settle(&mut self, id: &str, since: Timestamp) {
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
    pub(crate) fn replace(&mut self, new: Version, now: Timestamp) {
        if new.by.deploys {
            self.deployed_by = new.by.clone();
        }
        let mut old = std::mem::replace(&mut self.current, new);
        if old.deployed_at > now {
            // It will never be `Deployed`, so a stale read may not say so.
            old.deployed_at = Timestamp::MAX;
        }
        self.past_etags.push(old.etag.clone());
        self.previous = Some((old, now));
    }

    pub(crate) fn seen(&self, now: Timestamp, stale: Duration) -> &Version {
        match &self.previous {
            Some((previous, replaced)) if now < later(*replaced, stale) => previous,
            _ => &self.current,
        }
    }
}
