//! All that a world holds, behind one lock.

use std::collections::BTreeMap;

use super::pipeline::builds::{Builds, Key};
use crate::services::cloudfront::CloudFront;
use crate::services::cloudfront::rates::Rates;
use crate::services::codepipeline::CodePipeline;
use crate::services::codepipeline::execution::Execution;
use crate::services::codepipeline::flow::Pipeline;
use crate::services::dynamodb::DynamoDb;
use crate::services::eventbridge::EventBridge;
use crate::services::identities::Identities;
use crate::services::sqs::Sqs;
use crate::services::ssm::Ssm;
use crate::wire::ids::Ids;
use crate::wire::settings::{Place, Settings};

pub(crate) struct State {
    pub(crate) settings: Settings,
    /// By account id.
    pub(crate) accounts: BTreeMap<String, Account>,
    pub(crate) identities: Identities,
    /// What pipelines are still to do.
    pub(crate) builds: Builds,
    pub(crate) dynamodb: DynamoDb,
    pub(crate) sqs: Sqs,
    pub(crate) events: EventBridge,
    pub(crate) ids: Ids,
    /// Request ids draw from their own source: looking does not change what is made later.
    pub(crate) request_ids: Ids,
}

/// What one account holds.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) cloudfront: CloudFront,
    pub(crate) rates: Rates,
    pub(crate) parameters: BTreeMap<String, Ssm>,
    pipelines: BTreeMap<String, CodePipeline>,
}

impl Account {
    /// The pipelines of a region.
    pub(crate) fn codepipeline(&mut self, region: &str) -> &mut CodePipeline {
        self.pipelines.entry(region.to_owned()).or_default()
    }

    pub(crate) fn pipeline(&self, region: &str, name: &str) -> Option<&Pipeline> {
        self.pipelines.get(region)?.pipelines.get(name)
    }

    /// All pipelines of all regions.
    pub(crate) fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.pipelines.values().flat_map(|it| it.pipelines.values())
    }
}

/// What there is at one place, and what its rules need.
pub(crate) struct Here<'a> {
    /// Those of the world, with this account and region.
    pub(crate) settings: Settings,
    pub(crate) cloudfront: &'a mut CloudFront,
    pub(crate) ssm: &'a mut Ssm,
    pub(crate) ids: &'a mut Ids,
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        let seed = settings.seed;
        Self {
            identities: Identities {
                home: settings.account.clone(),
                ..Identities::default()
            },
            settings,
            accounts: BTreeMap::new(),
            builds: Builds::default(),
            dynamodb: DynamoDb::default(),
            sqs: Sqs::default(),
            events: EventBridge::default(),
            ids: Ids::new(seed),
            request_ids: Ids::new(!seed),
        }
    }

    pub(crate) fn here(&mut self, place: &Place) -> Here<'_> {
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

    pub(crate) fn pipeline(&mut self, key: &Key) -> &mut Pipeline {
        let account = self.accounts.entry(key.place.account.clone()).or_default();
        let pipelines = &mut account.codepipeline(&key.place.region).pipelines;
        pipelines.entry(key.name.clone()).or_default()
    }

    pub(crate) fn known_pipeline(&self, key: &Key) -> Option<&Pipeline> {
        let account = self.accounts.get(&key.place.account)?;
        account.pipeline(&key.place.region, &key.name)
    }

    pub(crate) fn execution(&mut self, key: &Key, id: &str) -> Option<&mut Execution> {
        self.pipeline(key).execution_mut(id)
    }
}
