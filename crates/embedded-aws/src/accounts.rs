//! The accounts of a world, and who may look at which.
//!
//! Whatever credentials come in belong to the account of the settings, unless STS gave them out:
//! those belong to their role's account, until they end. Queues, buses and tables exist in the account of
//! the settings only.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::cloudfront::CloudFront;
use super::codepipeline::CodePipeline;
use super::exchange::{AwsService, Call, Failure};
use super::ids::Ids;
use super::pipeline::Pipeline;
use super::rates::Rates;
use super::settings::Settings;
use super::ssm::Ssm;
use super::{EmbeddedAws, State};

/// An account and a region in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) account: String,
    pub(super) region: String,
}

impl Place {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            account: settings.account.clone(),
            region: settings.region.clone(),
        }
    }
}

/// What one account holds.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) cloudfront: CloudFront,
    pub(super) rates: Rates,
    parameters: BTreeMap<String, Ssm>,
    pipelines: BTreeMap<String, CodePipeline>,
}

impl Account {
    /// The pipelines of a region.
    pub(super) fn codepipeline(&mut self, region: &str) -> &mut CodePipeline {
        self.pipelines.entry(region.to_owned()).or_default()
    }

    pub(super) fn pipeline(&self, region: &str, name: &str) -> Option<&Pipeline> {
        self.pipelines.get(region)?.pipelines.get(name)
    }

    /// All pipelines of all regions.
    pub(super) fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.pipelines.values().flat_map(|it| it.pipelines.values())
    }
}

/// What there is at one place, and what its rules need.
pub(super) struct Here<'a> {
    /// Those of the world, with this account and region.
    pub(super) settings: Settings,
    pub(super) cloudfront: &'a mut CloudFront,
    pub(super) ssm: &'a mut Ssm,
    pub(super) ids: &'a mut Ids,
}

/// A role that can be assumed.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) external_id: Option<String>,
}

/// Credentials that STS gave out.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) account: String,
    /// The ARN of the assumed role with its session's name.
    pub(super) arn: String,
    pub(super) token: String,
    pub(super) until: Timestamp,
}

impl State {
    pub(super) fn here(&mut self, place: &Place) -> Here<'_> {
        let account = self.accounts.entry(place.account.clone()).or_default();
        Here {
            settings: Settings {
                account: place.account.clone(),
                region: place.region.clone(),
                ..self.settings.clone()
            },
            cloudfront: &mut account.cloudfront,
            ssm: account.parameters.entry(place.region.clone()).or_default(),
            ids: &mut self.ids,
        }
    }

    /// The account that a caller's credentials belong to.
    pub(super) fn account_of(&self, caller: Option<&str>) -> String {
        let session = caller.and_then(|key| self.sessions.get(key));
        let account = session.map_or(&self.settings.account, |session| &session.account);
        account.clone()
    }

    /// Refuses credentials that STS did not give out so, or that have ended; and a caller of another
    /// account where its own has nothing.
    pub(super) fn admit(
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
        let at_home = call.account == self.settings.account;
        match call.service {
            AwsService::Sqs | AwsService::DynamoDb | AwsService::EventBridge if !at_home => {
                Err(Failure::access_denied(call))
            }
            _ => Ok(()),
        }
    }
}

impl EmbeddedAws {
    /// The same world as it looks from another account and region: what is made or looked at through
    /// the answer is there. Calls that come in through a door go by their credentials instead.
    #[must_use]
    pub fn in_account(&self, account: &str, region: &str) -> Self {
        Self {
            inner: self.inner.clone(),
            place: Place {
                account: account.to_owned(),
                region: region.to_owned(),
            },
        }
    }

    /// The account that this looks at.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.place.account
    }

    /// The region that this looks at.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.place.region
    }

    /// Makes a role that everyone may assume who presents the external id, if there is one.
    pub fn create_role(&self, arn: &str, external_id: Option<&str>) {
        let role = Role {
            external_id: external_id.map(str::to_owned),
        };
        self.state().roles.insert(arn.to_owned(), role);
    }

    /// Deletes a role. Credentials that were given out stay valid.
    pub fn delete_role(&self, arn: &str) {
        self.state().roles.remove(arn);
    }
}
