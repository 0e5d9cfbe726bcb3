//! Jobs that no message asked for: rejections whose events were lost ([`crate::daemon::catch_up`]).
//!
//! **Guarantees.** Such a job is one of the jobs in flight like any other, has a place and a permit like any other,
//! and is stopped with them. Messages that arrive for it meanwhile are attached to it and settled at its
//! end.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, warn};

use super::Consumer;
use super::settle::Disposition;
use super::work::Origin;
use crate::consumer::jobs::Begun;
use crate::domain::assignment::Assignment;
use crate::domain::event::JobKey;
use crate::domain::history::News;
use crate::domain::targets::{Mode, OptionArgument, Targets};
use crate::ledger::Unfinished;
use crate::telemetry::{events, span_of};

/// What is run once a job need not be begun again.
pub(crate) type WhenDone = Box<dyn FnOnce() + Send>;

impl Consumer {
    /// The targets as they are now.
    pub(crate) fn targets(&self) -> Arc<Targets> {
        self.intake.targets()
    }

    /// Whether an event of `account` may be acted on.
    pub(crate) fn allows_account(&self, account: &str) -> bool {
        self.intake.allows_account(account)
    }

    /// Whether a job of this rejection is in flight.
    pub(crate) fn works_on(&self, key: &JobKey) -> bool {
        self.jobs.has(key)
    }

    /// Goes on with the jobs that have changed something and that nobody works on: their messages may have
    /// expired, have been purged, or be dead letters. Says whether the ledger has answered.
    pub(crate) async fn take_up_unfinished(self: &Arc<Self>) -> bool {
        let unfinished = match self.ledger.unfinished().await {
            Ok(unfinished) => unfinished,
            Err(error) => {
                self.ledger_failed(&error);
                // What is not allowed is not waited for.
                if error.is_denied() {
                    self.looked_for_unfinished.cancel();
                }
                return error.is_denied();
            }
        };
        for Unfinished { key, binding, .. } in unfinished.into_iter().filter(|it| !it.leased) {
            let subject = binding.evidence.subject.as_ref();
            let Some(rejection) = subject.and_then(|subject| subject.rejection(key.clone())) else {
                continue;
            };
            if self.works_on(&key) {
                continue;
            }
            let found =
                self.targets()
                    .resolve(&rejection.pipeline, &rejection.stage, &rejection.action);
            let Ok(mut target) = found else {
                warn!(
                    execution.id = rejection.execution_id,
                    pipeline = rejection.pipeline.name,
                    staging.id = binding.staging_id,
                    "a job that has changed something has no target any more: bring the target back, or finish it \
             by hand"
                );
                continue;
            };
            // What an earlier mode has begun is finished.
            if target.mode == Mode::Observe {
                warn!(
                    execution.id = rejection.execution_id,
                    pipeline = rejection.pipeline.name,
                    staging.id = binding.staging_id,
                    "mode observe: a job that was begun in mode act has changed something, and is finished"
                );
            }
            target.mode = Mode::Act;
            let without_event = subject.is_some_and(|it| it.by_hand || it.ended);
            if without_event || target.argument_fault(&rejection).is_some() {
                target.program = None;
            }
            let assignment = Assignment::without_event(rejection, target);
            self.take_up(assignment, Origin::Ledger, Box::new(|| {}))
                .await;
        }
        self.looked_for_unfinished.cancel();
        true
    }

    /// Begins a job, as soon as there is room for one; not if there is one for that rejection. Can be
    /// dropped until then. `when_done` is run at its end if it is done, or must not be done.
    pub(crate) async fn take_up(
        self: &Arc<Self>,
        assignment: Arc<Assignment>,
        origin: Origin<'static>,
        when_done: WhenDone,
    ) {
        let rejection = &assignment.rejection;
        let span = span_of(rejection, Some(assignment.label()));
        if let Some(fault) = assignment.target.argument_fault(rejection) {
            let _about = span.enter();
            self.emit(events::JobRefused {
                work: events::Work::Program,
                execution_id: &rejection.execution_id,
                reason: OptionArgument::CODE,
                detail: &fault.to_string(),
                took: Duration::ZERO,
                news: News::First,
            });
            return when_done();
        }
        // With a permit, so that who stops waits for it, too.
        let (permit, place) = self.rooms.for_one().await;
        let begun = Begun {
            assignment: &assignment,
            place,
            span: span.clone(),
        };
        let Some(handle) = self.jobs.begin(begun) else {
            return;
        };
        let consumer = Arc::clone(self);
        let task = async move {
            let disposition = consumer.worker.work(origin, &assignment, handle).await;
            if !matches!(disposition, Disposition::Release { .. }) {
                when_done();
            }
            let settlements = consumer.end(assignment, disposition);
            consumer.settler.settle(settlements);
            drop(permit);
        };
        self.tasks.spawn(task.instrument(span));
    }
}
