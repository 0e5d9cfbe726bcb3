//! SSM Parameter Store: the parameters that name the distributions.

use aws_sdk_ssm::types::{ParameterTier, ParameterType};
use aws_smithy_types::retry::RetryConfig;

use super::error::{AwsError, from_sdk};
use super::limiter::{Gate, Kind, Turn};
use super::reply::{pages, timestamp};
use crate::domain::binding::{Form, ParameterChange, ParameterVersion, SECURE};
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;

/// An account may have 100,000 parameters; twice that many pages' worth means the paging goes in
/// circles.
const MAX_NAME_PAGES: usize = 4_000;

/// SSM's largest page of a parameter's history, and of the list of parameters.
const HISTORY_PAGE: i32 = 50;

/// SSM keeps 100 versions; twice that many pages' worth means the paging goes in circles.
const MAX_HISTORY_PAGES: usize = 20;

/// The parameters of one account.
#[derive(Clone, Debug)]
pub struct ParameterStore(aws_sdk_ssm::Client, Gate);

impl ParameterStore {
    pub(super) fn new(client: aws_sdk_ssm::Client, gate: Gate) -> Self {
        Self(client, gate)
    }

    pub(super) fn for_job(&self, stop: &Stop, activity: &Activity) -> Self {
        Self(self.0.clone(), self.1.for_job(stop, activity))
    }

    /// The parameter's newest version (GetParameter); `None` if it does not exist.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `ParameterNotFound`.
    pub async fn parameter(&self, name: &str) -> Result<Option<ParameterVersion>, AwsError> {
        let _turn = self.1.turn(Kind::Read, "GetParameter").await?;
        let reply = self.0.get_parameter().name(name).send().await;
        let output = match reply.map_err(from_sdk("GetParameter")) {
            Ok(output) => output,
            Err(error) => return error.missing_as_none(),
        };
        let parameter = output
            .parameter
            .ok_or_else(|| AwsError::unusable("GetParameter", "the reply has no parameter"))?;
        Ok(Some(ParameterVersion {
            value: plain(parameter.r#type.as_ref(), parameter.value),
            version: parameter.version,
            modified_at: parameter.last_modified_date.as_ref().and_then(timestamp),
        }))
    }

    /// All versions that SSM still keeps (GetParameterHistory), in SSM's order; empty if the
    /// parameter does not exist.
    ///
    /// # Errors
    /// [`AwsError`] for every failure but `ParameterNotFound`.
    pub async fn history(&self, name: &str) -> Result<Vec<ParameterVersion>, AwsError> {
        let changes = self.changes(name).await?;
        Ok(changes.into_iter().map(|change| change.version).collect())
    }

    /// As [`ParameterStore::history`], with who wrote each version.
    ///
    /// # Errors
    /// As [`ParameterStore::history`].
    pub async fn changes(&self, name: &str) -> Result<Vec<ParameterChange>, AwsError> {
        Ok(self.kept(name).await?.0)
    }

    /// As [`ParameterStore::changes`], with how the newest version is kept.
    ///
    /// # Errors
    /// As [`ParameterStore::history`].
    pub async fn kept(&self, name: &str) -> Result<(Vec<ParameterChange>, Form), AwsError> {
        const OPERATION: &str = "GetParameterHistory";
        let versions = pages(OPERATION, MAX_HISTORY_PAGES, |token| async move {
            let _turn = self.1.turn(Kind::Read, OPERATION).await?;
            let request = self.0.get_parameter_history().name(name);
            let request = request.max_results(HISTORY_PAGE).set_next_token(token);
            let page = request.send().await.map_err(from_sdk(OPERATION))?;
            Ok((page.parameters.unwrap_or_default(), page.next_token))
        })
        .await
        .or_else(|error| error.missing_as_none().map(Option::unwrap_or_default))?;
        let newest = versions.iter().max_by_key(|version| version.version);
        let form = newest.map_or_else(Form::default, |newest| Form {
            tier: newest.tier.as_ref().map(|tier| tier.as_str().to_owned()),
            allowed_pattern: newest.allowed_pattern.clone(),
        });
        let changes = versions.into_iter().map(|version| ParameterChange {
            version: ParameterVersion {
                value: plain(version.r#type.as_ref(), version.value),
                version: version.version,
                modified_at: version.last_modified_date.as_ref().and_then(timestamp),
            },
            by: version.last_modified_user,
        });
        Ok((changes.collect(), form))
    }

    /// The names of all parameters (DescribeParameters).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn names(&self) -> Result<Vec<String>, AwsError> {
        const OPERATION: &str = "DescribeParameters";
        pages(OPERATION, MAX_NAME_PAGES, |token| async move {
            let _turn = self.1.turn(Kind::Read, OPERATION).await?;
            let request = self.0.describe_parameters().max_results(HISTORY_PAGE);
            let page = request.set_next_token(token).send().await;
            let page = page.map_err(from_sdk(OPERATION))?;
            let parameters = page.parameters.unwrap_or_default().into_iter();
            let names = parameters.filter_map(|parameter| parameter.name);
            Ok((names.collect(), page.next_token))
        })
        .await
    }

    /// Waits until a change may be made.
    ///
    /// # Errors
    /// The job was told to stop: the change must not be made.
    pub async fn change_turn(&self) -> Result<Turn, AwsError> {
        self.1.turn(Kind::Change, "PutParameter").await
    }

    /// Overwrites the parameter (PutParameter), in the tier that it has, and returns the version that this made.
    /// Without a tier, an account's default decides, which an advanced parameter may not fit.
    ///
    /// SSM has no compare-and-set: the caller must compare the version with the one it read. The
    /// call is made once: whether one whose reply was lost took effect, the parameter tells.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn overwrite(
        &self,
        name: &str,
        value: &str,
        form: &Form,
        _turn: Turn,
    ) -> Result<i64, AwsError> {
        let output = self
            .0
            .put_parameter()
            .name(name)
            .value(value)
            .overwrite(true)
            .set_tier(form.tier.as_deref().map(ParameterTier::from))
            .customize()
            .config_override(
                aws_sdk_ssm::config::Builder::new().retry_config(RetryConfig::disabled()),
            )
            .send()
            .await
            .map_err(from_sdk("PutParameter"))?;
        Ok(output.version)
    }
}

/// The value, or what stands for that of a SecureString.
fn plain(kind: Option<&ParameterType>, value: Option<String>) -> String {
    match kind {
        Some(ParameterType::SecureString) => SECURE.to_owned(),
        _ => value.unwrap_or_default(),
    }
}
