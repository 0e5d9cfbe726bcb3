//! Jobs that no message asked for: rejections whose events were lost ([`crate::catch_up`]).
//!
//! **Guarantees.** Such a job is one of the jobs in flight like any other, holds a permit until it ends,
//! and is stopped with them. Messages that arrive for it meanwhile are attached to it and settled at its
//! end.

use std::sync::{Arc, PoisonError};

use super::Consumer;
use super::settle::Disposition;
use super::work::{Origin, job_span};
use crate::event::{JobKey, Rejection};
use crate::jobs::About;
use crate::target::{ResolvedTarget, Targets};

/// What is run once a job need not be begun again.
pub(crate) type WhenDone = Box<dyn FnOnce() + Send>;

impl Consumer {
    /// The targets as they are now.
    pub(crate) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether an event of `account` may be acted on.
    pub(crate) fn allows_account(&self, account: &str) -> bool {
        self.config.allows_account(account)
    }

    /// Whether a job of this rejection is in flight.
    pub(crate) fn works_on(&self, key: &JobKey) -> bool {
        self.jobs.has(key)
    }

    /// Begins a job, as soon as there is room for one; not if there is one for that rejection. Can be
    /// dropped until then. `verify` has CodePipeline asked where that is configured. `when_done` is run
    /// at its end if it is done, or must not be done.
    pub(crate) async fn take_up(
        self: &Arc<Self>,
        rejection: Rejection,
        event: Option<Arc<str>>,
        target: ResolvedTarget,
        verify: bool,
        when_done: WhenDone,
    ) {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return;
        };
        let Some(handle) = self.jobs.begin(&rejection.key, &rejection.execution_id) else {
            return;
        };
        let span = job_span(&rejection, &target);
        let consumer = Arc::clone(self);
        let label = target.label.clone();
        let task = async move {
            let origin = Origin::CatchUp { verify };
            let disposition = consumer
                .work(origin, rejection.clone(), event, target, handle)
                .await;
            if !matches!(disposition, Disposition::Release { .. }) {
                when_done();
            }
            let about = About {
                rejection,
                target: label,
            };
            consumer.settle(consumer.end(about, disposition));
            drop(permit);
        };
        self.parts
            .tasks
            .spawn(tracing::Instrument::instrument(task, span));
    }
}
