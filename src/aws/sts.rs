//! STS: the credentials of a role (AssumeRole).
//!
//! The provider of `aws-config` reports a denied role and an STS that is down as one kind of error, counts no calls, and
//! logs each refusal. Caching and renewal are the SDK's, with a cache for each role: the shared one has room for 64.
//!
//! **Guarantees.** A role is assumed by one call at a time, however many clients wait for its
//! credentials: the SDK's cache sees to that. A failure has the class that its error code has, so that
//! a role that is denied is told from an STS that is down.
//!
//! **Races.** The cache hands a failure to one of those who wait and lets the next one try. So a
//! failure is remembered for a moment: whoever waited meanwhile shares it, and a role that a thousand
//! jobs ask for is not asked for a thousand times.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use super::error::{AwsError, from_sdk};
use crate::domain::error_class::ErrorClass;
use crate::domain::targets::Role;
use crate::runtime::lasting::{Failing, Phase};
use crate::telemetry::{chain, fails, ms};

const OPERATION: &str = "AssumeRole";

/// How long a failure is shared; shorter than the pause before a job tries again.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// Provides the credentials of a role.
#[derive(Debug)]
pub(super) struct AssumedRole {
    client: aws_sdk_sts::Client,
    role: Role,
    session_name: String,
    /// The last failure, unless the role could be assumed since.
    failed: Mutex<Option<(Instant, NotAssumed)>>,
    /// Since when it cannot be assumed.
    failing: Mutex<Failing>,
}

/// A role that could not be assumed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the role {role} could not be assumed")]
pub(super) struct NotAssumed {
    role: String,
    pub(super) class: ErrorClass,
    pub(super) code: Option<String>,
    #[source]
    source: Arc<AwsError>,
}

impl AssumedRole {
    pub(super) fn new(client: aws_sdk_sts::Client, role: Role, session_name: String) -> Self {
        Self {
            client,
            role,
            session_name,
            failed: Mutex::default(),
            failing: Mutex::default(),
        }
    }

    async fn credentials(&self) -> Result<Credentials, NotAssumed> {
        let failed = self.failed.lock().clone();
        if let Some((at, failure)) = &failed
            && at.elapsed() < SHARED_FOR
        {
            return Err(failure.clone());
        }
        match self.assume().await {
            Ok(credentials) => {
                *self.failed.lock() = None;
                let failed = self.failing.lock().recovered();
                let until = credentials
                    .expiry()
                    .and_then(|at| Timestamp::try_from(at).ok());
                info!(
                    role.arn = self.role.arn(),
                    role.until = until.map(tracing::field::display),
                    took_ms = failed.map(ms),
                    "role assumed"
                );
                Ok(credentials)
            }
            Err(error) => {
                let lasts = self.failing.lock().failed();
                let phase = match failed {
                    Some((_, earlier)) if earlier.class == error.class => lasts,
                    _ => Phase::Begins,
                };
                fails!(
                    warn,
                    phase,
                    role.arn = self.role.arn(),
                    error = chain(&error),
                    "the role cannot be assumed; nothing is done in its account meanwhile"
                );
                let failure = NotAssumed {
                    role: self.role.arn().to_owned(),
                    class: error.class,
                    code: error.code.clone(),
                    source: Arc::new(error),
                };
                *self.failed.lock() = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn assume(&self) -> Result<Credentials, AwsError> {
        let output = self
            .client
            .assume_role()
            .role_arn(self.role.arn())
            .set_external_id(self.role.external_id().map(str::to_owned))
            .role_session_name(&self.session_name)
            .send()
            .await
            .map_err(from_sdk(OPERATION))?;
        let issued = output
            .credentials
            .ok_or_else(|| AwsError::unusable(OPERATION, "the reply has no credentials"))?;
        let expiry = SystemTime::try_from(issued.expiration)
            .map_err(|error| AwsError::unusable(OPERATION, error))?;
        Ok(Credentials::new(
            issued.access_key_id,
            issued.secret_access_key,
            Some(issued.session_token),
            Some(expiry),
            OPERATION,
        ))
    }
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.credentials()
                .await
                .map_err(CredentialsError::provider_error)
        })
    }
}
