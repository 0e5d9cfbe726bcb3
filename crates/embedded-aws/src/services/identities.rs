//! Who calls: roles that can be assumed, the credentials that STS gave out, and whose they are.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::by::{By, own};
use crate::wire::exchange::{AwsService, Call, Failure};

/// A role that can be assumed.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) external_id: Option<String>,
}

/// Credentials that STS gave out.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) account: String,
    /// The ARN of the assumed role with its session's name.
    pub(crate) arn: String,
    pub(crate) token: String,
    pub(crate) until: Timestamp,
}

/// The roles and the sessions of a world.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// The account of whoever has no credentials of a role.
    pub(crate) home: String,
    /// By ARN.
    pub(crate) roles: BTreeMap<String, Role>,
    /// By access key id.
    pub(crate) sessions: BTreeMap<String, Session>,
}

impl Identities {
    /// The account that a caller's credentials belong to.
    pub(crate) fn account_of(&self, caller: Option<&str>) -> String {
        let session = caller.and_then(|key| self.sessions.get(key));
        let account = session.map_or(&self.home, |session| &session.account);
        account.clone()
    }

    /// Refuses credentials that STS did not give out so, or that have ended; and a caller of another
    /// account where its own has nothing.
    pub(crate) fn admit(
        &self,
        call: &Call,
        token: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        if let Some(session) = call.caller.as_ref().and_then(|key| self.sessions.get(key)) {
            if token != Some(session.token.as_str()) {
                return Err(Failure::new(
                    403,
                    "InvalidClientTokenId",
                    "The security token included in the request is invalid.",
                ));
            }
            if now >= session.until {
                let code = match call.service {
                    AwsService::CloudFront | AwsService::Iam | AwsService::Sts => "ExpiredToken",
                    _ => "ExpiredTokenException",
                };
                let message = "The security token included in the request is expired";
                return Err(Failure::new(403, code, message));
            }
        }
        let at_home = call.account == self.home;
        match call.service {
            AwsService::Sqs | AwsService::DynamoDb | AwsService::EventBridge if !at_home => {
                Err(Failure::access_denied(call))
            }
            _ => Ok(()),
        }
    }

    /// Who calls, as STS has it.
    pub(crate) fn caller_of(&self, call: &Call) -> By {
        let session = call.caller.as_ref().and_then(|key| self.sessions.get(key));
        By::somebody(session.map_or_else(|| own(&call.account), |session| session.arn.clone()))
    }
}
