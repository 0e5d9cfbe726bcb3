//! Rejections that were looked for.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{info, warn};

use super::{Event, fails, ms};
use crate::domain::event::Rejection;
use crate::runtime::lasting::Phase;
use crate::telemetry::chain;
use crate::telemetry::metrics::Metrics;

/// A round of catching up is over.
pub struct CaughtUp {
    /// How many pipelines were looked at.
    pub pipelines: usize,
    /// How many are left to the next round.
    pub left: usize,
    /// How many calls of CodePipeline it took.
    pub calls: usize,
    /// How many rejections were found that may not be cleaned up yet.
    pub found: usize,
}

impl Event for CaughtUp {
    fn record(&self, _metrics: &Metrics) {
        info!(
            pipelines = self.pipelines,
            pipelines.left = self.left,
            aws.calls = self.calls,
            found = self.found,
            "looked for lost rejections"
        );
    }
}

/// A pipeline, or the list of them, could not be looked at for lost rejections.
pub struct CatchUpFailed<'a> {
    /// The pipeline; empty for what concerns all.
    pub pipeline: &'a str,
    /// Why.
    pub error: &'a dyn StdError,
    /// What is to be logged.
    pub phase: Phase,
}

impl Event for CatchUpFailed<'_> {
    fn record(&self, _metrics: &Metrics) {
        fails!(
            warn,
            self.phase,
            pipeline = self.pipeline,
            error = chain(self.error),
            "lost rejections cannot be looked for; trying again in the next round"
        );
    }
}

/// A pipeline, or the list of them, could be looked at again.
pub struct CatchUpRecovered<'a> {
    /// The pipeline; empty for what concerns all.
    pub pipeline: &'a str,
    /// For how long it could not.
    pub took: Duration,
}

impl Event for CatchUpRecovered<'_> {
    fn record(&self, _metrics: &Metrics) {
        info!(
            pipeline = self.pipeline,
            took_ms = ms(self.took),
            "lost rejections can be looked for again"
        );
    }
}

/// An approval was not given, the ledger does not have it as done, and no message is in flight for it: the
/// job of that begins.
pub struct LostRejectionFound<'a> {
    /// As its event would tell it.
    pub rejection: &'a Rejection,
    /// Its execution ended without a rejection.
    pub ended_without: bool,
    /// How long ago that was.
    pub age: Duration,
}

impl Event for LostRejectionFound<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            execution.id = self.rejection.execution_id,
            execution.url = self.rejection.console_url(),
            pipeline = self.rejection.pipeline.name,
            approval = if self.ended_without {
                "ended"
            } else {
                "rejected"
            },
            age_ms = ms(self.age),
            "an approval was not given, and what it left is there; its event may be lost: cleaning up"
        );
    }
}

/// An execution that ended without a rejection left a staging distribution behind.
pub struct RemainsFound<'a> {
    /// The pipeline execution.
    pub execution_id: &'a str,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The staging distribution.
    pub staging_id: &'a str,
    /// How long ago the execution ended.
    pub age: Duration,
}

impl Event for RemainsFound<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            execution.id = self.execution_id,
            pipeline = self.pipeline,
            staging.id = self.staging_id,
            age_ms = ms(self.age),
            "an execution that ended without a rejection left its staging distribution; `stagesweep \
             clean` takes it down, and so does catch_up.reclaim"
        );
    }
}

/// A job that has changed something is finished although its target is only observed by now.
pub struct FinishesWhatWasBegun<'a> {
    /// The rejection.
    pub rejection: &'a Rejection,
    /// The staging distribution that the job is bound to.
    pub staging_id: &'a str,
}

impl Event for FinishesWhatWasBegun<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            execution.id = self.rejection.execution_id,
            pipeline = self.rejection.pipeline.name,
            staging.id = self.staging_id,
            "mode observe: a job that was begun in mode act has changed something, and is finished"
        );
    }
}

/// A job that has changed something leads to no target any more: nobody finishes it.
pub struct UnfinishedWithoutTarget<'a> {
    /// The rejection.
    pub rejection: &'a Rejection,
    /// The staging distribution that the job is bound to.
    pub staging_id: &'a str,
}

impl Event for UnfinishedWithoutTarget<'_> {
    fn record(&self, _metrics: &Metrics) {
        warn!(
            execution.id = self.rejection.execution_id,
            pipeline = self.rejection.pipeline.name,
            staging.id = self.staging_id,
            "a job that has changed something has no target any more: bring the target back, or finish it \
             by hand"
        );
    }
}
