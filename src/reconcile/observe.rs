//! Looking at everything that a decision needs.
//!
//! A distribution that was seen moments ago is not read again. The steps and the waits of this run keep
//! what is so remembered true, or forget it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::{Halt, Run};
use crate::aws;
use crate::aws::cloudfront::Sighting;
use crate::binding::Binding;
use crate::plan::{Observed, Policy};

/// What was seen of a distribution is looked at again after this long, if nothing that this run
/// did or met made it do so sooner. Changes are conditional on the ETag that was seen.
const FRESH: Duration = Duration::from_secs(5);

/// The last look at each distribution that still holds.
#[derive(Default)]
pub(super) struct Known {
    pub(super) production: Option<Sighting>,
    pub(super) staging: Option<Sighting>,
}

impl Run<'_> {
    /// Reads everything that a decision needs, but for a distribution that has just been seen.
    pub(super) async fn observe(&mut self, binding: &Binding) -> Result<Observed, Halt> {
        let aws::Account {
            cloudfront, ssm, ..
        } = &self.clients;
        let known = std::mem::take(&mut self.known);
        let (production, staging, parameter) = tokio::try_join!(
            self.look(&binding.production_id, known.production),
            self.look(&binding.staging_id, known.staging),
            self.calls.call(|| ssm.parameter(&self.parameters.staging)),
        )?;
        self.known = Known {
            production: Some(production.clone()),
            staging: Some(staging.clone()),
        };
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
        Ok(Observed {
            production,
            staging,
            policies,
            parameter,
        })
    }

    /// A distribution as it was seen last, if that still holds, or as it is seen now.
    async fn look(&self, id: &str, known: Option<Sighting>) -> Result<Sighting, Halt> {
        if let Some(known) = known
            && self.account.watcher.as_of(&known).elapsed() < FRESH
        {
            return Ok(known);
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
