//! CloudFront: distributions and continuous deployment policies.
//!
//! Reading is typed. Writing a distribution is not: the XML that was read is put back with one
//! element changed ([`super::edit`]).

mod inventory;

use std::sync::{Arc, Mutex};

use aws_sdk_cloudfront::operation::get_distribution::GetDistributionOutput;
use aws_sdk_cloudfront::types::{ContinuousDeploymentPolicy, DistributionConfig};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;

use super::edit::{self, Edit};
use super::error::{AwsError, from_sdk};
pub use inventory::{Details, Listed, ListedPolicy};

use crate::plan::{Deletable, Distribution, Policy};

/// The largest page of ListContinuousDeploymentPolicies; an account may have 20 policies.
const POLICY_PAGE: i32 = 100;

/// More pages than any account's quota fills mean that the paging goes in circles.
const MAX_POLICY_PAGES: usize = 50;

const GET_DISTRIBUTION: &str = "GetDistribution";

/// The distributions and policies of one account.
#[derive(Clone, Debug)]
pub struct CloudFront(aws_sdk_cloudfront::Client);

impl CloudFront {
    pub(super) fn new(client: aws_sdk_cloudfront::Client) -> Self {
        Self(client)
    }

    /// One distribution (GetDistribution); `None` if it does not exist.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `NoSuchDistribution`, and for a reply that lacks what
    /// decisions need.
    pub async fn distribution(&self, id: &str) -> Result<Option<Distribution>, AwsError> {
        Ok(self.details(id).await?.map(|details| details.distribution))
    }

    /// One distribution, with what people want to know of it (GetDistribution); `None` if it does
    /// not exist.
    ///
    /// # Errors
    /// As [`CloudFront::distribution`].
    pub async fn details(&self, id: &str) -> Result<Option<Details>, AwsError> {
        let reply = self.0.get_distribution().id(id).send().await;
        match reply.map_err(from_sdk(GET_DISTRIBUTION)) {
            Ok(output) => read_distribution(id, output).map(Some),
            Err(error) => error.missing_as_none(),
        }
    }

    /// One policy (GetContinuousDeploymentPolicy); `None` if it does not exist.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `NoSuchContinuousDeploymentPolicy`.
    pub async fn policy(&self, id: &str) -> Result<Option<Policy>, AwsError> {
        const OPERATION: &str = "GetContinuousDeploymentPolicy";
        let reply = self
            .0
            .get_continuous_deployment_policy()
            .id(id)
            .send()
            .await;
        let output = match reply.map_err(from_sdk(OPERATION)) {
            Ok(output) => output,
            Err(error) => return error.missing_as_none(),
        };
        let etag = output.e_tag.ok_or_else(|| lacking(OPERATION, "ETag"))?;
        let policy = output
            .continuous_deployment_policy
            .ok_or_else(|| lacking(OPERATION, "ContinuousDeploymentPolicy"))?;
        Ok(Some(Policy {
            id: policy.id.clone(),
            etag,
            staging_domains: staging_domains(policy),
        }))
    }

    /// The ids of the account's policies that list `domain` (ListContinuousDeploymentPolicies).
    ///
    /// The call has no paginator and no `IsTruncated`: `NextMarker` is followed while there is one.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn policies_listing(&self, domain: &str) -> Result<Vec<String>, AwsError> {
        const OPERATION: &str = "ListContinuousDeploymentPolicies";
        let mut found = Vec::new();
        let mut marker = None;
        for _ in 0..MAX_POLICY_PAGES {
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
            found.extend(
                list.items
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|summary| summary.continuous_deployment_policy)
                    .map(|policy| (policy.id.clone(), staging_domains(policy)))
                    .filter(|(_, domains)| domains.iter().any(|listed| listed == domain))
                    .map(|(id, _)| id),
            );
            marker = list.next_marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(found);
            }
        }
        Err(AwsError::unusable(OPERATION, "the pages do not end"))
    }

    /// Changes one element of a distribution's configuration (GetDistributionConfig, then
    /// UpdateDistribution with `If-Match`). Every other byte is put back as it was read.
    ///
    /// # Errors
    /// [`AwsError`]; of class [`Changed`](crate::retry::ErrorClass::Changed) if the configuration
    /// is no longer the one of `etag`.
    pub async fn update(&self, id: &str, etag: &str, edit: Edit<'_>) -> Result<(), AwsError> {
        const READ: &str = "GetDistributionConfig";
        const WRITE: &str = "UpdateDistribution";

        let raw = RawBody::default();
        let output = self
            .0
            .get_distribution_config()
            .id(id)
            .customize()
            .interceptor(raw.clone())
            .send()
            .await
            .map_err(from_sdk(READ))?;
        if output.e_tag.as_deref() != Some(etag) {
            return Err(AwsError::changed(
                READ,
                "the ETag is not the one that was decided upon",
            ));
        }
        let xml = raw.take().ok_or_else(|| lacking(READ, "body"))?;
        let edited = edit::apply(&xml, edit).map_err(|error| AwsError::unusable(READ, error))?;

        self.0
            .update_distribution()
            .id(id)
            .if_match(etag)
            .customize()
            .mutate_request(move |request| {
                let headers = request.headers_mut();
                headers.insert("content-type", "application/xml");
                headers.insert("content-length", edited.len().to_string());
                *request.body_mut() = SdkBody::from(edited.clone());
            })
            .send()
            .await
            .map_err(from_sdk(WRITE))?;
        Ok(())
    }

    /// Deletes a policy (DeleteContinuousDeploymentPolicy with `If-Match`).
    ///
    /// # Errors
    /// [`AwsError`]; a policy that does not exist is one, of class
    /// [`NotFound`](crate::retry::ErrorClass::NotFound).
    pub async fn delete_policy(&self, id: &str, etag: &str) -> Result<(), AwsError> {
        self.0
            .delete_continuous_deployment_policy()
            .id(id)
            .if_match(etag)
            .send()
            .await
            .map_err(from_sdk("DeleteContinuousDeploymentPolicy"))?;
        Ok(())
    }

    /// Deletes a staging distribution (DeleteDistribution with `If-Match`).
    ///
    /// # Errors
    /// [`AwsError`]; a distribution that does not exist is one, of class
    /// [`NotFound`](crate::retry::ErrorClass::NotFound).
    pub async fn delete_distribution(&self, staging: &Deletable) -> Result<(), AwsError> {
        self.0
            .delete_distribution()
            .id(staging.id())
            .if_match(staging.etag())
            .send()
            .await
            .map_err(from_sdk("DeleteDistribution"))?;
        Ok(())
    }
}

fn read_distribution(id: &str, output: GetDistributionOutput) -> Result<Details, AwsError> {
    let lacking = |what| lacking(GET_DISTRIBUTION, what);
    let etag = output.e_tag.ok_or_else(|| lacking("ETag"))?;
    let distribution = output.distribution.ok_or_else(|| lacking("Distribution"))?;
    let modified_at = inventory::timestamp(&distribution.last_modified_time);
    let config = distribution
        .distribution_config
        .ok_or_else(|| lacking("DistributionConfig"))?;
    if distribution.id != id {
        return Err(AwsError::unusable(
            GET_DISTRIBUTION,
            "the reply is about another distribution",
        ));
    }
    Ok(Details {
        modified_at,
        distribution: Distribution {
            id: distribution.id,
            domain: distribution.domain_name,
            etag,
            deployed: distribution.status == "Deployed",
            enabled: config.enabled,
            staging: config.staging.unwrap_or(false),
            aliases: aliases(&config),
            policy_id: config
                .continuous_deployment_policy_id
                .filter(|id| !id.is_empty()),
        },
        comment: config.comment,
    })
}

fn lacking(operation: &'static str, what: &str) -> AwsError {
    AwsError::unusable(operation, format!("the reply has no {what}"))
}

/// The larger of the stated quantity and the items that are there: an alias must not be overlooked.
fn aliases(config: &DistributionConfig) -> usize {
    config.aliases.as_ref().map_or(0, |aliases| {
        aliases
            .items()
            .len()
            .max(usize::try_from(aliases.quantity).unwrap_or(0))
    })
}

fn staging_domains(policy: ContinuousDeploymentPolicy) -> Vec<String> {
    policy
        .continuous_deployment_policy_config
        .and_then(|config| config.staging_distribution_dns_names)
        .and_then(|names| names.items)
        .unwrap_or_default()
}

/// Keeps the raw body of the last response: the SDK's own types forget what they do not know.
#[derive(Clone, Debug, Default)]
struct RawBody(Arc<Mutex<Option<String>>>);

impl RawBody {
    fn take(&self) -> Option<String> {
        self.0.lock().ok()?.take()
    }
}

impl Intercept for RawBody {
    fn name(&self) -> &'static str {
        "RawBody"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().map(<[u8]>::to_vec);
        let text = body.map(String::from_utf8).transpose()?;
        if let Ok(mut kept) = self.0.lock() {
            *kept = text;
        }
        Ok(())
    }
}
