//! Looking at everything that a decision needs.
//!
//! A distribution that was seen moments ago is not read again. The steps and the waits of this run keep
//! what is so remembered true, or forget it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Halt, Run};
use crate::aws;
use crate::aws::cloudfront::Sighting;
use crate::domain::decision::{Observed, Policy};
use crate::telemetry::events;

/// What was seen of a distribution is looked at again after this long, if nothing that this run
/// did or met made it do so sooner. Changes are conditional on the ETag that was seen.
const FRESH: Duration = Duration::from_secs(5);

/// The last look at each distribution that still holds, by id.
#[derive(Default)]
pub(super) struct Known(BTreeMap<String, Sighting>);

impl Known {
    /// A distribution was seen.
    pub(super) fn see(&mut self, id: &str, sighting: Sighting) {
        self.0.insert(id.to_owned(), sighting);
    }

    /// What was seen of a distribution holds no longer.
    pub(super) fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// When a distribution was last modified, as it was last seen.
    pub(super) fn modified_at(&self, id: &str) -> Option<Timestamp> {
        let reading = self.0.get(id)?.found.as_ref()?;
        reading.modified_at
    }
}

impl Run<'_> {
    /// Reads everything that a decision needs, but for a distribution that has just been seen.
    pub(super) async fn observe(&mut self) -> Result<Observed, Halt> {
        let binding = &self.binding.about(self.index);
        let aws::Account {
            cloudfront, ssm, ..
        } = &self.clients;
        let (production, staging, parameter) = tokio::try_join!(
            self.look(&binding.production_id),
            self.look(&binding.staging_id),
            self.calls.call(|| ssm.parameter(&self.parameters.staging)),
        )?;
        self.known.see(&binding.production_id, production.clone());
        self.known.see(&binding.staging_id, staging.clone());
        let distribution = |sighting: Sighting| Some(sighting.found?.distribution);
        let (production, staging) = (distribution(production), distribution(staging));

        let named = [&production, &staging]
            .into_iter()
            .filter_map(|distribution| distribution.as_ref()?.policy_id.clone());
        let ids: BTreeSet<String> = named
            .chain(binding.policy_id.clone())
            .filter(|id| self.progress.policy_deleted.as_ref() != Some(id))
            .collect();
        let mut policies = self.policies(ids).await?;

        let domain = staging
            .as_ref()
            .map(|staging| &staging.domain)
            .or(binding.staging_domain.as_ref());
        // A staging distribution has one policy at the most: where that one is known to be gone, a
        // search would find nothing.
        let known_gone = binding
            .policy_id
            .as_ref()
            .is_some_and(|id| !policies.iter().any(|policy| policy.id == *id));
        if let Some(domain) = domain
            && (self.list_policies && !known_gone || self.search_policies)
            && !policies
                .iter()
                .any(|policy| policy.staging_domains.contains(domain))
        {
            let found = self
                .calls
                .call(|| cloudfront.policies_listing(domain))
                .await?;
            (self.list_policies, self.search_policies) = (false, false);
            policies.extend(self.policies(found).await?);
        }
        let mut observed = Observed {
            production,
            staging,
            policies,
            parameter,
            listed_gone: self.listed_gone,
        };
        if observed.staging.is_none() && !self.progress.staging_deleted && !self.listed_gone {
            self.listed_gone = self.is_listed_gone(&observed).await?;
            observed.listed_gone = self.listed_gone;
        }
        Ok(observed)
    }

    /// Whether a listing bears out that the staging distribution does not exist: it is not listed, and the
    /// policy that production names lists nothing that could have been its domain. A listing that cannot be
    /// had bears nothing out.
    async fn is_listed_gone(&self, observed: &Observed) -> Result<bool, Halt> {
        let binding = self.binding.about(self.index);
        let listing = self
            .account
            .listing
            .since(&self.clients.cloudfront, Instant::now())
            .await;
        self.calls.heed_stop()?;
        let listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                self.context.telemetry.emit(events::NotConfirmed {
                    staging_id: &binding.staging_id,
                    error: &error,
                });
                return Ok(false);
            }
        };
        if listing.contains_key(&binding.staging_id) {
            return Ok(false);
        }
        let named = observed
            .production
            .as_ref()
            .and_then(|it| it.policy_id.as_ref());
        let mut policies = observed.policies.iter();
        let attached = policies.find(|policy| Some(&policy.id) == named);
        Ok(match (binding.staging_domain, attached) {
            (None, Some(policy)) => {
                let mut domains = policy.staging_domains.iter();
                domains.all(|domain| listing.values().any(|listed| listed == domain))
            }
            _ => true,
        })
    }

    /// A distribution as it was seen last, if that still holds, or as it is seen now.
    async fn look(&self, id: &str) -> Result<Sighting, Halt> {
        self.look_since(id, FRESH).await
    }

    /// A distribution as it was seen no longer ago than that, or as it is seen now.
    pub(super) async fn look_since(&self, id: &str, ago: Duration) -> Result<Sighting, Halt> {
        if let Some(known) = self.known.0.get(id)
            && known.at.elapsed() < ago
        {
            return Ok(known.clone());
        }
        self.calls.call(|| self.clients.cloudfront.look(id)).await
    }

    async fn policies(&self, ids: impl IntoIterator<Item = String>) -> Result<Vec<Policy>, Halt> {
        let cloudfront = &self.clients.cloudfront;
        let reads = ids
            .into_iter()
            .map(|id| async move { self.calls.call(|| cloudfront.policy(&id)).await });
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }
}
