//! CloudFront: distributions and continuous deployment policies.
//!
//! Reading is typed. Writing a distribution is not: the XML that was read is put back with one
//! element changed ([`super::edit`]).

mod inventory;

use std::sync::Arc;

use aws_sdk_cloudfront::primitives::DateTime;
use aws_sdk_cloudfront::types::{ContinuousDeploymentPolicy, DistributionConfig};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::edit::{self, Edit};
use super::error::{AwsError, from_sdk};
use super::limiter::{Gate, Kind, Turn};
use super::reply::timestamp;
pub use inventory::{Listed, ListedPolicy};

use crate::domain::binding::Modified;
use crate::domain::decision::{Deletable, Detachable, Disableable, Distribution, Policy};
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;

const UPDATE_DISTRIBUTION: &str = "UpdateDistribution";

/// A look at one distribution (GetDistribution).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When the call was made; what was answered is no older.
    pub at: Instant,
    /// What there was; `None` if it does not exist.
    pub found: Option<Reading>,
}

impl Sighting {
    /// The distribution, if it exists.
    #[must_use]
    pub fn distribution(&self) -> Option<&Distribution> {
        self.found.as_ref().map(|reading| &reading.distribution)
    }

    /// When the distribution was last modified, if it exists and that is shown.
    #[must_use]
    pub fn modified_at(&self) -> Option<Timestamp> {
        self.found.as_ref()?.modified_at
    }
}

/// What GetDistribution says of a distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The distribution.
    pub distribution: Distribution,
    /// When its configuration was last changed.
    pub modified_at: Option<Timestamp>,
    pub comment: String,
}

impl Reading {
    /// What shows whether anybody modifies the distribution from now on; `None` if no time is shown.
    #[must_use]
    pub fn modified(&self) -> Option<Modified> {
        Some(Modified {
            at: self.modified_at?,
            etag: self.distribution.etag.clone(),
        })
    }
}

/// A change of one element of a distribution's configuration, ready to be sent.
#[derive(Debug)]
pub struct PreparedUpdate {
    id: String,
    etag: String,
    body: String,
}

/// What a distribution's configuration names of other services. CloudFront may check whether whoever
/// updates it may use that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The bucket of its legacy access logs, by its domain name.
    pub log_bucket: Option<String>,
    /// The ARN of its web ACL.
    pub web_acl: Option<String>,
}

/// The distributions and policies of one account.
#[derive(Clone, Debug)]
pub struct CloudFront(aws_sdk_cloudfront::Client, Gate);

impl CloudFront {
    pub(super) fn new(client: aws_sdk_cloudfront::Client, gate: Gate) -> Self {
        Self(client, gate)
    }

    pub(super) fn for_job(&self, stop: &Stop, activity: &Activity) -> Self {
        Self(self.0.clone(), self.1.for_job(stop, activity))
    }

    /// One distribution (GetDistribution); `None` if it does not exist.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `NoSuchDistribution`, and for a reply that lacks what
    /// decisions need.
    pub async fn distribution(&self, id: &str) -> Result<Option<Distribution>, AwsError> {
        let sighting = self.look(id).await?;
        Ok(sighting.found.map(|details| details.distribution))
    }

    /// As [`CloudFront::distribution`], with when that was and when it was last modified.
    ///
    /// # Errors
    /// As [`CloudFront::distribution`].
    pub async fn look(&self, id: &str) -> Result<Sighting, AwsError> {
        const OPERATION: &str = "GetDistribution";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let at = Instant::now();
        let reply = self.0.get_distribution().id(id).send().await;
        let output = match reply.map_err(from_sdk(OPERATION)) {
            Ok(output) => output,
            Err(error) => {
                let found = error.missing_as_none()?;
                return Ok(Sighting { at, found });
            }
        };
        let etag = output.e_tag.ok_or_else(|| lacking(OPERATION, "ETag"))?;
        let distribution = output
            .distribution
            .ok_or_else(|| lacking(OPERATION, "Distribution"))?;
        let config = distribution
            .distribution_config
            .ok_or_else(|| lacking(OPERATION, "DistributionConfig"))?;
        if distribution.id != id {
            return Err(AwsError::unusable(
                OPERATION,
                "the reply is about another distribution",
            ));
        }
        let modified_at = modified_at(&distribution.last_modified_time);
        let distribution = Distribution {
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
        };
        let found = Some(Reading {
            distribution,
            modified_at,
            comment: config.comment,
        });
        Ok(Sighting { at, found })
    }

    /// What a distribution's configuration (GetDistributionConfig) names beside CloudFront. One that does
    /// not exist may be asked for, and names nothing: to learn whether one may ask.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `NoSuchDistribution`.
    pub async fn beside(&self, id: &str) -> Result<Beside, AwsError> {
        const OPERATION: &str = "GetDistributionConfig";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
        let reply = self.0.get_distribution_config().id(id).send().await;
        let config = match reply.map_err(from_sdk(OPERATION)) {
            Ok(output) => output.distribution_config,
            Err(error) => error.missing_as_none()?,
        };
        let Some(config) = config else {
            return Ok(Beside::default());
        };
        let logs = config.logging.filter(|it| it.enabled);
        Ok(Beside {
            log_bucket: logs.map(|it| it.bucket).filter(|it| !it.is_empty()),
            web_acl: config.web_acl_id.filter(|it| it.starts_with("arn:")),
        })
    }

    /// One policy (GetContinuousDeploymentPolicy); `None` if it does not exist.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `NoSuchContinuousDeploymentPolicy`.
    pub async fn policy(&self, id: &str) -> Result<Option<Policy>, AwsError> {
        const OPERATION: &str = "GetContinuousDeploymentPolicy";
        let _turn = self.1.turn(Kind::Read, OPERATION).await?;
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
    /// # Errors
    /// As [`CloudFront::policies`].
    pub async fn policies_listing(&self, domain: &str) -> Result<Vec<String>, AwsError> {
        let policies = self.policies().await?.into_iter();
        let listing = policies.filter(|it| it.staging_domains.iter().any(|it| it == domain));
        Ok(listing.map(|policy| policy.id).collect())
    }

    /// Waits until a change may be made.
    ///
    /// # Errors
    /// The job was told to stop: the change must not be made.
    pub async fn change_turn(&self) -> Result<Turn, AwsError> {
        self.1.turn(Kind::Change, UPDATE_DISTRIBUTION).await
    }

    /// Reads the configuration from which a policy is to be detached (GetDistributionConfig), and changes
    /// that one element. Every other byte is as it was read.
    ///
    /// # Errors
    /// [`AwsError`]; of class [`Changed`](crate::domain::error_class::ErrorClass::Changed) if the configuration
    /// is no longer the one that was decided upon.
    pub async fn prepare_detach(
        &self,
        production: &Detachable,
    ) -> Result<PreparedUpdate, AwsError> {
        let edit = Edit::detach(production.policy_id());
        self.prepare(production.id(), production.etag(), &[edit])
            .await
    }

    /// As [`CloudFront::prepare_detach`], for a staging distribution that is to be disabled. With `policy_is_gone` the id
    /// of a policy that it still names is emptied too.
    ///
    /// # Errors
    /// As [`CloudFront::prepare_detach`].
    pub async fn prepare_disable(
        &self,
        staging: &Disableable,
        policy_is_gone: bool,
    ) -> Result<PreparedUpdate, AwsError> {
        let named = staging.policy_id().filter(|_| policy_is_gone);
        let edits: Vec<_> = [Edit::disable()]
            .into_iter()
            .chain(named.map(Edit::detach))
            .collect();
        self.prepare(staging.id(), staging.etag(), &edits).await
    }

    async fn prepare(
        &self,
        id: &str,
        etag: &str,
        edits: &[Edit<'_>],
    ) -> Result<PreparedUpdate, AwsError> {
        const READ: &str = "GetDistributionConfig";
        let _turn = self.1.turn(Kind::Read, READ).await?;
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
        let mut body = raw.take().ok_or_else(|| lacking(READ, "body"))?;
        for edit in edits {
            body = edit::apply(&body, *edit).map_err(|error| AwsError::unusable(READ, error))?;
        }
        Ok(PreparedUpdate {
            id: id.to_owned(),
            etag: etag.to_owned(),
            body,
        })
    }

    /// Makes a prepared change (UpdateDistribution with `If-Match`), once: whether a change whose reply was
    /// lost took effect, the distribution tells.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn update(&self, update: PreparedUpdate, _turn: Turn) -> Result<(), AwsError> {
        let PreparedUpdate { id, etag, body } = update;
        self.0
            .update_distribution()
            .id(id)
            .if_match(etag)
            .customize()
            .config_override(
                aws_sdk_cloudfront::config::Builder::new().retry_config(RetryConfig::disabled()),
            )
            .mutate_request(move |request| {
                let headers = request.headers_mut();
                headers.insert("content-type", "application/xml");
                headers.insert("content-length", body.len().to_string());
                *request.body_mut() = SdkBody::from(body.clone());
            })
            .send()
            .await
            .map_err(from_sdk(UPDATE_DISTRIBUTION))?;
        Ok(())
    }

    /// Deletes a policy (DeleteContinuousDeploymentPolicy with `If-Match`).
    ///
    /// # Errors
    /// [`AwsError`]; a policy that does not exist is one, of class
    /// [`NotFound`](crate::domain::error_class::ErrorClass::NotFound).
    pub async fn delete_policy(&self, id: &str, etag: &str) -> Result<(), AwsError> {
        const OPERATION: &str = "DeleteContinuousDeploymentPolicy";
        let _turn = self.1.turn(Kind::Change, OPERATION).await?;
        self.0
            .delete_continuous_deployment_policy()
            .id(id)
            .if_match(etag)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        Ok(())
    }

    /// Deletes a staging distribution (DeleteDistribution with `If-Match`).
    ///
    /// # Errors
    /// [`AwsError`]; a distribution that does not exist is one, of class
    /// [`NotFound`](crate::domain::error_class::ErrorClass::NotFound).
    pub async fn delete_distribution(&self, staging: &Deletable) -> Result<(), AwsError> {
        const OPERATION: &str = "DeleteDistribution";
        let _turn = self.1.turn(Kind::Change, OPERATION).await?;
        self.0
            .delete_distribution()
            .id(staging.id())
            .if_match(staging.etag())
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        Ok(())
    }
}

/// `LastModifiedTime`; the SDK puts 0 where the reply has none.
fn modified_at(time: &DateTime) -> Option<Timestamp> {
    timestamp(time).filter(|at| at.as_second() != 0)
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
        self.0.lock().take()
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
        *self.0.lock() = text;
        Ok(())
    }
}
