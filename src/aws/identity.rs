//! STS: who the credentials belong to (GetCallerIdentity), which needs no permission.

use std::sync::Arc;

use jiff::Timestamp;

use super::dynamodb::ServerTime;
use super::error::{AwsError, from_sdk};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The account's id.
    pub account: String,
    /// The ARN of the user or the assumed role.
    pub arn: String,
    /// The time by the service's clock, to the second.
    pub at: Option<Timestamp>,
}

/// The identity service.
#[derive(Clone, Debug)]
pub struct Identity {
    client: aws_sdk_sts::Client,
    time: Arc<ServerTime>,
}

impl Identity {
    pub(super) fn new(client: aws_sdk_sts::Client, time: Arc<ServerTime>) -> Self {
        Self { client, time }
    }

    /// Who calls (GetCallerIdentity).
    ///
    /// # Errors
    /// [`AwsError`] for every failure; credentials that cannot be had are one.
    pub async fn caller(&self) -> Result<Caller, AwsError> {
        const OPERATION: &str = "GetCallerIdentity";
        let reply = self.client.get_caller_identity().send().await;
        let output = reply.map_err(from_sdk(OPERATION))?;
        let lacking = |what| AwsError::unusable(OPERATION, format!("the reply has no {what}"));
        Ok(Caller {
            account: output.account.ok_or_else(|| lacking("Account"))?,
            arn: output.arn.ok_or_else(|| lacking("Arn"))?,
            at: self.time.now(),
        })
    }
}
