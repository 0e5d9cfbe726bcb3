//! Reading the account: what there is, and who owns it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::{Inventory, Past};
use crate::aws::{Account, AwsError};
use crate::domain::binding::{ParameterVersion, Slot};
use crate::domain::history::{Record, State};
use crate::domain::targets::Targets;

/// How many calls of one kind are under way at once: CloudFront throttles soon.
const AT_ONCE: usize = 4;

/// Reads an account for one configuration.
#[derive(Clone, Debug)]
pub struct Survey {
    pub account: Account,
    /// Whose parameters are looked at.
    pub targets: Targets,
}

/// A parameter that a target's pattern may render, and what it says.
struct Parameter {
    name: String,
    value: String,
}

impl Survey {
    /// Everything that [`super::judge`] needs; `records` are the jobs that the ledger knows.
    ///
    /// # Errors
    /// [`AwsError`] if a call fails: nothing is an orphan by ignorance.
    pub async fn inventory(&self, records: &[Record]) -> Result<Inventory, AwsError> {
        let cloudfront = &self.account.cloudfront;
        let (all, policies) = tokio::try_join!(cloudfront.distributions(), cloudfront.policies())?;
        let (staging, productions): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.staging);
        let attached = self
            .attached(
                policies.iter().map(|policy| policy.id.clone()).collect(),
                productions.into_iter().map(|it| it.id).collect(),
            )
            .await?;
        let parameters = self.parameters().await?;
        let named: BTreeMap<_, _> = parameters
            .iter()
            .filter_map(|parameter| match Slot::read(&parameter.value) {
                Slot::Distribution(id) => Some((id.to_owned(), parameter.name.clone())),
                Slot::Vacant | Slot::Secure | Slot::Invalid => None,
            })
            .collect();
        let unnamed = staging.iter().any(|it| !named.contains_key(&it.id));
        let past = match unnamed {
            true => self.past(&parameters, records).await?,
            false => BTreeMap::new(),
        };
        Ok(Inventory {
            staging,
            policies,
            attached,
            named,
            bound: bound(records),
            past,
        })
    }

    /// The parameter that names a staging distribution now, if any does.
    ///
    /// # Errors
    /// [`AwsError`] if a call fails.
    pub async fn naming(&self, staging_id: &str) -> Result<Option<String>, AwsError> {
        let parameters = self.parameters().await?;
        Ok(parameters
            .into_iter()
            .find(|it| Slot::read(&it.value) == Slot::Distribution(staging_id))
            .map(|it| it.name))
    }

    /// The names of all staging parameters.
    ///
    /// # Errors
    /// [`AwsError`] if a call fails.
    pub async fn slots(&self) -> Result<Vec<String>, AwsError> {
        let parameters = self.parameters().await?;
        Ok(parameters.into_iter().map(|it| it.name).collect())
    }

    /// By policy, the production distribution that names it. The list of distributions does not
    /// say, so each is asked until every policy has been found.
    async fn attached(
        &self,
        policies: BTreeSet<String>,
        productions: Vec<String>,
    ) -> Result<BTreeMap<String, String>, AwsError> {
        let mut attached = BTreeMap::new();
        let cloudfront = &self.account.cloudfront;
        let mut readings = stream::iter(productions)
            .map(|id| async move { cloudfront.distribution(&id).await })
            .buffer_unordered(AT_ONCE);
        while attached.len() < policies.len() {
            let Some(reading) = readings.try_next().await? else {
                break;
            };
            if let Some(production) = reading
                && let Some(policy) = production.policy_id
                && policies.contains(&policy)
            {
                attached.insert(policy, production.id);
            }
        }
        Ok(attached)
    }

    /// Every parameter whose name a target may render for its staging distribution.
    async fn parameters(&self) -> Result<Vec<Parameter>, AwsError> {
        let ssm = &self.account.ssm;
        let names = ssm.names().await?;
        let names = names.into_iter().filter(|name| {
            let mut targets = self.targets.iter();
            targets.any(|target| target.may_name_staging(name))
        });
        stream::iter(names)
            .map(|name| async move {
                let version = ssm.parameter(&name).await?;
                let value = version.map(|version| version.value).unwrap_or_default();
                Ok(Parameter { name, value })
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// By distribution, which parameter named it before, and which execution it was of.
    async fn past(
        &self,
        parameters: &[Parameter],
        records: &[Record],
    ) -> Result<BTreeMap<String, Past>, AwsError> {
        let mut past: BTreeMap<String, Past> = BTreeMap::new();
        let ssm = &self.account.ssm;
        let mut histories = stream::iter(parameters)
            .map(|parameter| async move {
                let history = ssm.history(&parameter.name).await?;
                Ok::<_, AwsError>((&parameter.name, history))
            })
            .buffer_unordered(AT_ONCE);
        while let Some((name, mut history)) = histories.try_next().await? {
            history.sort_by_key(|version| version.version);
            for (id, replaced_at) in replaced(&history) {
                let past = past.entry(id).or_default();
                past.parameter = Some(name.clone());
                past.replaced_at = past.replaced_at.max(replaced_at);
            }
        }
        for record in records {
            if let Some(id) = &record.staging_id {
                let past = past.entry(id.clone()).or_default();
                past.execution_id = Some(record.execution_id().to_owned());
                past.record = Some(record.clone());
            }
        }
        Ok(past)
    }
}

/// The distributions that a parameter named and names no longer, with the time of that.
fn replaced(history: &[ParameterVersion]) -> Vec<(String, Option<Timestamp>)> {
    history
        .windows(2)
        .filter_map(|pair| match Slot::read(&pair[0].value) {
            Slot::Distribution(id) if pair[0].value != pair[1].value => {
                Some((id.to_owned(), pair[1].modified_at))
            }
            _ => None,
        })
        .collect()
}

/// By distribution, the open job that is bound to it.
pub(super) fn bound(records: &[Record]) -> BTreeMap<String, String> {
    records
        .iter()
        .filter(|record| !matches!(record.state, State::Done(_)))
        .filter(|record| super::removed_by(record.key.as_str()).is_none())
        .flat_map(|record| {
            let more = record.evidence.more.iter().map(|staged| &staged.id);
            let ids = record.staging_id.iter().chain(more);
            ids.map(|id| (id.clone(), record.key.as_str().to_owned()))
        })
        .collect()
}
