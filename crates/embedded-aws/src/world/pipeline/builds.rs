//! What pipelines are still to do, by when.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::services::codepipeline::script::{Decision, Pattern};
use crate::services::codepipeline::service::Service;
use crate::wire::settings::Place;

/// Which pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn of(service: &Service) -> Self {
        Self {
            place: Place {
                account: service.account.clone(),
                region: service.region.clone(),
            },
            name: service.pipeline.clone(),
        }
    }
}

/// What is still to happen, by when and in which order.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    pub(crate) due: BTreeMap<(Timestamp, u64), Build>,
    planned: u64,
}

impl Builds {
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn plan(&mut self, at: Timestamp, build: Build) {
        self.planned += 1;
        self.due.insert((at, self.planned), build);
    }
}

/// What carries out an action.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) key: Key,
    pub(crate) execution: String,
    pub(crate) action: String,
    pub(crate) task: Task,
}

#[derive(Clone, Debug)]
pub(crate) enum Task {
    Ends,
    Decides(Decision),
    Deploys(Deployment),
    Promotes(Promotion),
}

/// What comes after a step of a build.
pub(crate) enum Next {
    After(Duration),
    Succeeds,
    Fails(String),
}

/// A deployment under way.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    pub(crate) pattern: Pattern,
    pub(crate) pace: Duration,
    pub(crate) step: DeploymentStep,
    /// Production's ETag, read before the copy.
    pub(crate) etag: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum DeploymentStep {
    Reads,
    Copies,
    MakesPolicy,
    Attaches,
    Records,
    Enables,
    Changes,
    RecordsAgain,
    Ends,
}

impl Deployment {
    pub(crate) fn new(pattern: Pattern, pace: Duration) -> Self {
        Self {
            pattern,
            pace,
            step: DeploymentStep::Reads,
            etag: None,
        }
    }
}

/// A promotion under way.
#[derive(Clone, Debug)]
pub(crate) struct Promotion {
    pub(crate) step: PromotionStep,
    pub(crate) looks: u32,
    pub(crate) cleans: bool,
    /// What the parameter held when the build started.
    pub(crate) staging_id: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum PromotionStep {
    Starts,
    Promotes,
    Detaches,
    DeletesPolicy,
    Disables,
    Deletes,
    Ends,
}

impl Promotion {
    pub(crate) fn new(cleans: bool) -> Self {
        Self {
            step: PromotionStep::Starts,
            looks: 0,
            cleans,
            staging_id: String::new(),
        }
    }
}
