//! CloudFront: everything that an account has.

use jiff::Timestamp;

use super::{
    AwsError, CloudFront, Kind, LIST_DISTRIBUTIONS, MAX_POLICY_PAGES, POLICY_PAGE, from_sdk,
    lacking, staging_domains, timestamp,
};

/// More pages than any account's quota fills mean that the paging goes in circles.
const MAX_DISTRIBUTION_PAGES: usize = 1000;

/// A distribution as the list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its `*.cloudfront.net` domain name.
    pub domain: String,
    /// `Staging`.
    pub staging: bool,
    /// `Enabled`.
    pub enabled: bool,
    /// When its configuration was last changed.
    pub modified_at: Option<Timestamp>,
    /// Its `Comment`.
    pub comment: String,
}

/// A policy as the list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPolicy {
    /// Its id.
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
        let mut all = Vec::new();
        let mut marker = None;
        for _ in 0..MAX_DISTRIBUTION_PAGES {
            let page = self.list(marker).await?;
            all.extend(page.summaries.into_iter().map(|(id, summary)| Listed {
                id,
                domain: summary.domain,
                staging: summary.staging,
                enabled: summary.enabled,
                modified_at: summary.version.time(),
                comment: summary.comment,
            }));
            marker = page.next;
            if marker.is_none() {
                return Ok(all);
            }
        }
        Err(AwsError::endless(LIST_DISTRIBUTIONS))
    }

    /// All continuous deployment policies of the account (ListContinuousDeploymentPolicies).
    ///
    /// The call has no paginator and no `IsTruncated`: `NextMarker` is followed while there is one.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn policies(&self) -> Result<Vec<ListedPolicy>, AwsError> {
        const OPERATION: &str = "ListContinuousDeploymentPolicies";
        let mut all = Vec::new();
        let mut marker = None;
        for _ in 0..MAX_POLICY_PAGES {
            let _turn = self.1.turn(Kind::Read, OPERATION).await?;
            let output = self
                .0
                .list_continuous_deployment_policies()
                .max_items(POLICY_PAGE)
                .set_marker(marker)
                .send()
                .await
                .map_err(from_sdk(OPERATION))?;
            let list = output
                .continuous_deployment_policy_list
                .ok_or_else(|| lacking(OPERATION, "ContinuousDeploymentPolicyList"))?;
            all.extend(
                list.items
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|summary| summary.continuous_deployment_policy)
                    .map(|policy| ListedPolicy {
                        id: policy.id.clone(),
                        modified_at: timestamp(&policy.last_modified_time),
                        staging_domains: staging_domains(policy),
                    }),
            );
            marker = list.next_marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(all);
            }
        }
        Err(AwsError::endless(OPERATION))
    }
}
