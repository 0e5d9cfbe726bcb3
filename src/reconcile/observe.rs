//! Looking at everything that a decision needs.
//!
//! A distribution that was seen moments ago is not read again. The steps and the waits of this run keep
//! what is so remembered true, or forget it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Halt;
use super::listing::Listing;
use super::run::Run;
use crate::aws;
use crate::aws::cloudfront::Sighting;
use crate::domain::binding::{Binding, Modified};
use crate::domain::decision::{Distribution, Observed, Policy};
use crate::telemetry::chain;

/// What was seen of a distribution is looked at again after this long, if nothing that this run
/// did or met made it do so sooner. Changes are conditional on the ETag that was seen.
const FRESH: Duration = Duration::from_secs(5);

/// What a run has seen of one staging distribution and of production, as far as it still holds.
#[derive(Default)]
pub(super) struct Lookout {
    /// The last look at each distribution, by id.
    seen: BTreeMap<String, Look>,
    search: Search,
    /// A listing has confirmed that the staging distribution is gone.
    listed_gone: bool,
    /// What the last look found against its being gone.
    contradiction: Option<Contradiction>,
}

/// A look at one distribution.
struct Look {
    sighting: Sighting,
    /// Nothing that this run did or met says that it holds no longer.
    holds: bool,
}

/// What contradicts a reading that shows no staging distribution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A listing shows it.
    #[error("a listing of the account's distributions shows it")]
    Listed,
    /// No listing could be had.
    #[error("the account's distributions could not be listed: {0}")]
    NotListable(String),
    /// What production names may be its policy.
    #[error(
        "production {production_id} names the policy {policy_id}, which lists a domain name that no distribution of \
         the account has: if that is the staging distribution's, detach the policy from production"
    )]
    PolicyLeft {
        /// Production.
        production_id: String,
        /// The policy.
        policy_id: String,
    },
}

impl Lookout {
    /// What the last look found against the staging distribution's being gone.
    pub(super) fn contradiction(&self) -> Contradiction {
        self.contradiction.clone().unwrap_or(Contradiction::Listed)
    }

    /// A distribution was seen. A reading that is older than one before, by when the distribution was last modified,
    /// is a stale answer.
    pub(super) fn see(&mut self, id: &str, sighting: Sighting) {
        let known = self.modified_at(id);
        let is_stale = sighting.modified_at().is_some_and(|at| Some(at) < known);
        if !is_stale {
            let look = Look {
                sighting,
                holds: true,
            };
            self.seen.insert(id.to_owned(), look);
        }
    }

    /// What was seen of a distribution holds no longer.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(look) = self.seen.get_mut(id) {
            look.holds = false;
        }
    }

    /// What was seen of any distribution holds no longer.
    pub(super) fn forget_all(&mut self) {
        for look in self.seen.values_mut() {
            look.holds = false;
        }
    }

    /// When a distribution was last modified, as far as was seen.
    pub(super) fn modified_at(&self, id: &str) -> Option<Timestamp> {
        self.seen.get(id)?.sighting.modified_at()
    }

    /// The same with its ETag then.
    pub(super) fn modified(&self, id: &str) -> Option<Modified> {
        let reading = self.seen.get(id)?.sighting.found.as_ref()?;
        reading.modified()
    }

    /// A distribution as it was seen no longer ago than that.
    fn seen_within(&self, id: &str, ago: Duration) -> Option<&Sighting> {
        let look = self.seen.get(id).filter(|look| look.holds);
        look.map(|look| &look.sighting)
            .filter(|seen| seen.at.elapsed() < ago)
    }

    /// Some policy lists the staging distribution: it is searched for, if it is not among those that were read.
    pub(super) fn policy_exists(&mut self) {
        self.search = Search::Told;
    }

    /// The policy is deleted: a search would find nothing, unless CloudFront says otherwise.
    pub(super) fn policy_is_gone(&mut self) {
        if self.search == Search::Untold {
            self.search = Search::Done;
        }
    }
}

/// Whether the account's policies are searched for one that lists the staging distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Search {
    /// Nothing has told yet whether one does.
    #[default]
    Untold,
    /// CloudFront says that one does.
    Told,
    /// There is nothing more to be found.
    Done,
}

impl Search {
    /// The domain name to search for, if none of the policies that were read lists it. A staging distribution has one
    /// policy at the most: where that one is known to be gone, a search would find nothing.
    pub(crate) fn wanted<'a>(
        self,
        binding: &'a Binding,
        staging: Option<&'a Distribution>,
        policies: &[Policy],
    ) -> Option<&'a String> {
        let domain = staging.map(|staging| &staging.domain);
        let domain = domain.or(binding.staging_domain.as_ref())?;
        let listed = |policy: &Policy| policy.staging_domains.contains(domain);
        let is_read = |id: &String| policies.iter().any(|policy| policy.id == *id);
        let searches = match self {
            Self::Untold => binding.policy_id.as_ref().is_none_or(is_read),
            Self::Told => true,
            Self::Done => false,
        };
        (searches && !policies.iter().any(listed)).then_some(domain)
    }
}

/// The policies that are read in any case: those that the distributions and the binding name.
pub(crate) fn named_policies(
    binding: &Binding,
    distributions: [Option<&Distribution>; 2],
) -> BTreeSet<String> {
    let named = distributions.into_iter().flatten();
    named
        .filter_map(|distribution| distribution.policy_id.clone())
        .chain(binding.policy_id.clone())
        .collect()
}

/// Nothing contradicts that the staging distribution does not exist if it is not listed, and the policy that
/// production names lists nothing that could have been its domain.
fn contradicted_by(
    listing: &Listing,
    observed: &Observed,
    binding: &Binding,
) -> Option<Contradiction> {
    if listing.contains_key(&binding.staging_id) {
        return Some(Contradiction::Listed);
    }
    if binding.staging_domain.is_some() {
        return None;
    }
    let named = observed.production.as_ref()?.policy_id.as_ref()?;
    let attached = observed.policies.iter().find(|it| it.id == *named)?;
    let is_listed = |domain: &String| listing.values().any(|listed| listed == domain);
    let left = !attached.staging_domains.iter().all(is_listed);
    left.then(|| Contradiction::PolicyLeft {
        production_id: binding.production_id.clone(),
        policy_id: named.clone(),
    })
}

impl Run<'_> {
    /// Reads everything that a decision needs, but for a distribution that has just been seen.
    pub(super) async fn observe(&mut self) -> Result<Observed, Halt> {
        let binding = &self.binding.about(self.index);
        let aws::Account {
            cloudfront, ssm, ..
        } = &self.clients;
        let slot = async {
            if self.job.removal().is_some() {
                return Ok((None, None));
            }
            tokio::try_join!(
                async { self.look(&binding.production_id).await.map(Some) },
                self.calls.call(|| ssm.parameter(&self.parameters.staging)),
            )
        };
        let ((production, parameter), staging) =
            tokio::try_join!(slot, self.look(&binding.staging_id))?;
        if let Some(production) = &production {
            self.lookout.see(&binding.production_id, production.clone());
        }
        self.lookout.see(&binding.staging_id, staging.clone());
        let distribution = |sighting: Sighting| Some(sighting.found?.distribution);
        let (production, staging) = (production.and_then(distribution), distribution(staging));

        let mut ids = named_policies(binding, [production.as_ref(), staging.as_ref()]);
        if let Some(deleted) = &self.progress.policy_deleted {
            ids.remove(deleted);
        }
        let mut policies = self.policies(ids).await?;
        if self.job.removal().is_some() {
            // Whoever attaches an orphan to production makes a policy for it.
            self.lookout.policy_exists();
        }
        if let Some(domain) = self
            .lookout
            .search
            .wanted(binding, staging.as_ref(), &policies)
        {
            let found = self
                .calls
                .call(|| cloudfront.policies_listing(domain))
                .await?;
            self.lookout.search = Search::Done;
            policies.extend(self.policies(found).await?);
        }
        let mut observed = Observed {
            production,
            staging,
            policies,
            parameter,
            listed_gone: self.lookout.listed_gone,
        };
        if observed.staging.is_none() && !self.progress.staging_deleted && !observed.listed_gone {
            self.lookout.contradiction = self.contradiction(&observed).await?;
            observed.listed_gone = self.lookout.contradiction.is_none();
            self.lookout.listed_gone = observed.listed_gone;
        }
        self.learn_put_back(&observed).await?;
        Ok(observed)
    }

    /// What contradicts that the staging distribution does not exist.
    async fn contradiction(&self, observed: &Observed) -> Result<Option<Contradiction>, Halt> {
        let listing = self
            .account
            .listing
            .since(&self.clients.cloudfront, Instant::now())
            .await;
        self.calls.heed_stop()?;
        Ok(match listing {
            Ok(listing) => contradicted_by(&listing, observed, &self.binding.about(self.index)),
            Err(error) => Some(Contradiction::NotListable(chain(&error))),
        })
    }

    /// A distribution as it was seen last, if that still holds, or as it is seen now.
    pub(super) async fn look(&self, id: &str) -> Result<Sighting, Halt> {
        self.look_since(id, FRESH).await
    }

    /// A distribution as it was seen no longer ago than that, or as it is seen now.
    pub(super) async fn look_since(&self, id: &str, ago: Duration) -> Result<Sighting, Halt> {
        if let Some(seen) = self.lookout.seen_within(id, ago) {
            return Ok(seen.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::cloudfront::Reading;

    #[test]
    fn a_stale_answer_does_not_undo_what_was_seen() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let sighting = |modified_at: Option<Timestamp>| Sighting {
            at: Instant::now(),
            found: modified_at.map(|at| Reading {
                distribution: Distribution {
                    id: "staging".to_owned(),
                    domain: String::new(),
                    etag: String::new(),
                    deployed: true,
                    enabled: true,
                    staging: true,
                    aliases: 0,
                    policy_id: None,
                },
                modified_at: Some(at),
                comment: String::new(),
            }),
        };
        let mut lookout = Lookout::default();
        lookout.see("staging", sighting(Some(at(20))));
        lookout.see("staging", sighting(Some(at(10))));
        assert_eq!(lookout.modified_at("staging"), Some(at(20)));
        lookout.forget_all();
        assert!(lookout.seen_within("staging", FRESH).is_none());
        lookout.see("staging", sighting(Some(at(10))));
        assert_eq!(lookout.modified_at("staging"), Some(at(20)));
        assert!(lookout.seen_within("staging", FRESH).is_none());
        lookout.see("staging", sighting(Some(at(20))));
        assert!(lookout.seen_within("staging", FRESH).is_some());
        lookout.see("staging", sighting(None));
        assert_eq!(lookout.modified_at("staging"), None);
    }

    #[test]
    fn what_contradicts_that_a_distribution_is_gone_is_named() {
        let distribution = |id: &str, policy: &str| Distribution {
            id: id.to_owned(),
            domain: format!("{id}.cloudfront.net"),
            etag: String::new(),
            deployed: true,
            enabled: true,
            staging: false,
            aliases: 0,
            policy_id: Some(policy.to_owned()),
        };
        let policy = Policy {
            id: "policy".to_owned(),
            etag: String::new(),
            staging_domains: vec!["staging.cloudfront.net".to_owned()],
        };
        let observed = Observed {
            production: Some(distribution("production", "policy")),
            staging: None,
            policies: vec![policy],
            parameter: None,
            listed_gone: false,
        };
        let mut binding = Binding {
            production_id: "production".to_owned(),
            staging_id: "staging".to_owned(),
            ..Binding::default()
        };
        let listing = |ids: &[&str]| -> Listing {
            let domain = |id: &&str| ((*id).to_owned(), format!("{id}.cloudfront.net"));
            ids.iter().map(domain).collect()
        };
        let found = |ids: &[&str], binding: &Binding| {
            let found = contradicted_by(&listing(ids), &observed, binding);
            found.map_or(String::new(), |found| found.to_string())
        };
        assert!(found(&["production", "staging"], &binding).contains("shows it"));
        let left = found(&["production"], &binding);
        assert!(left.contains("production production names the policy policy"));
        // Its domain is known, and is not the one.
        binding.staging_domain = Some("other.cloudfront.net".to_owned());
        assert_eq!(found(&["production"], &binding), "");
    }
}
