//! CloudFront: everything that an account has.

use jiff::Timestamp;

use super::{
    AwsError, CloudFront, Kind, from_sdk, lacking, modified_at, staging_domains, timestamp,
};
use crate::aws::reply::pages;

/// The largest page of ListDistributions.
const DISTRIBUTION_PAGE: i32 = 100;

/// The largest page of ListContinuousDeploymentPolicies; an account may have 20 policies.
const POLICY_PAGE: i32 = 100;

/// More pages than any account's quota fills.
const MAX_POLICY_PAGES: usize = 50;

/// More pages than any account's quota fills.
const MAX_DISTRIBUTION_PAGES: usize = 1000;

/// A distribution as the list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    /// Its `*.cloudfront.net` domain name.
    pub domain: String,
    pub staging: bool,
    pub enabled: bool,
    /// When its configuration was last changed.
    pub modified_at: Option<Timestamp>,
    pub comment: String,
}

/// A policy as the list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPolicy {
    pub id: String,
    /// `StagingDistributionDnsNames`.
    pub staging_domains: Vec<String>,
    /// When it was last changed.
    pub modified_at: Option<Timestamp>,
}

impl CloudFront {
    /// All distributions of the account (ListDistributions), in CloudFront's order.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn distributions(&self) -> Result<Vec<Listed>, AwsError> {
        const OPERATION: &str = "ListDistributions";
        pages(OPERATION, MAX_DISTRIBUTION_PAGES, |marker| async move {
            let _turn = self.1.turn(Kind::Read, OPERATION).await?;
            let request = self.0.list_distributions().max_items(DISTRIBUTION_PAGE);
            let reply = request.set_marker(marker).send().await;
            let list = reply
                .map_err(from_sdk(OPERATION))?
                .distribution_list
                .ok_or_else(|| lacking(OPERATION, "DistributionList"))?;
            let next = list
                .next_marker
                .filter(|it| list.is_truncated && !it.is_empty());
            if list.is_truncated && next.is_none() {
                return Err(lacking(OPERATION, "NextMarker"));
            }
            let items = list.items.unwrap_or_default().into_iter();
            let items = items.map(|item| Listed {
                id: item.id,
                domain: item.domain_name,
                staging: item.staging,
                enabled: item.enabled,
                modified_at: modified_at(&item.last_modified_time),
                comment: item.comment,
            });
            Ok((items.collect(), next))
        })
        .await
    }

    /// All continuous deployment policies of the account (ListContinuousDeploymentPolicies).
    ///
    /// The call has no paginator and no `IsTruncated`: `NextMarker` is followed while there is one.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn policies(&self) -> Result<Vec<ListedPolicy>, AwsError> {
        const OPERATION: &str = "ListContinuousDeploymentPolicies";
        pages(OPERATION, MAX_POLICY_PAGES, |marker| async move {
            let _turn = self.1.turn(Kind::Read, OPERATION).await?;
            let request = self.0.list_continuous_deployment_policies();
            let request = request.max_items(POLICY_PAGE).set_marker(marker);
            let list = request
                .send()
                .await
                .map_err(from_sdk(OPERATION))?
                .continuous_deployment_policy_list
                .ok_or_else(|| lacking(OPERATION, "ContinuousDeploymentPolicyList"))?;
            let items = list.items.unwrap_or_default().into_iter();
            let policies = items.filter_map(|summary| summary.continuous_deployment_policy);
            let policies = policies.map(|policy| ListedPolicy {
                id: policy.id.clone(),
                modified_at: timestamp(&policy.last_modified_time),
                staging_domains: staging_domains(policy),
            });
            Ok((policies.collect(), list.next_marker))
        })
        .await
    }
}
