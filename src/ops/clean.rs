//! One cleanup by hand: the daemon's own job, begun by a person instead of a message.
//!
//! **Guarantees.** It is the same [`Reconciler`] with the same fences, under a grant of the same
//! ledger: beside a running daemon, one job at a time holds a production distribution, whichever
//! process it is in. Its key names the staging distribution and the version of the parameter that
//! names it: begun again after it was cut off, it is the same job and goes on from what it finds;
//! begun for another staging distribution, it is another job. An open job of the target that has changed
//! something, a rejection's too, is gone on with instead, as the daemon would, its program included. It is bound to what the parameter
//! held when the person was shown it: a deployment that writes the parameter in between is not
//! touched, and the job ends as superseded; a staging distribution that anybody modifies in between is left, with words.
//!
//! **Races.** A rejection of the same staging distribution that arrives meanwhile waits for its
//! turn, and then finds that nothing is left to do. The lease is renewed beside the work; one that is
//! lost stops it at its next step boundary.
//!
//! **Not handled.** A ledger that is not the daemon's: then the guarantee is each process's own, and
//! only ETags are left between the two.

use std::sync::Arc;

use jiff::Timestamp;

use crate::domain::assignment::Assignment;
use crate::domain::attribution::OwnStaging;
use crate::domain::binding::{Binding, Modified, Subject};
use crate::domain::event::{JobKey, Rejection};
use crate::domain::lease_terms::Terms;
use crate::domain::targets::lookup::Named;
use crate::domain::targets::{Mode, ResolvedTarget, Targets};
use crate::domain::verdict::Cause;
use crate::ledger::{Claimed, GrantedJob, Holder, Ledger, LedgerError, Unfinished};
use crate::reconcile::{Ended, Ground, Job, Reconciler};
use crate::runtime::clock::Clock;
use crate::runtime::stop::Stop;

/// What the keys of such jobs begin with.
const PREFIX: &str = "manual";

/// What it takes to clean by hand.
#[derive(Clone, Debug)]
pub struct ByHand {
    /// The daemon's ledger.
    pub ledger: Arc<dyn Ledger>,
    /// Carries the job out.
    pub reconciler: Reconciler,
    /// The targets: which pipelines lead to the same production distribution.
    pub targets: Arc<Targets>,
    /// Wall-clock time.
    pub clock: Clock,
    /// How long the grant is asked for, and how often it is renewed.
    pub terms: Terms,
}

/// What is to be cleaned: as it was shown to whoever asked for it.
#[derive(Clone, Debug)]
pub struct Order {
    /// The target.
    pub named: Named,
    /// The staging distribution that the parameter names; of an open job, the one it is bound to.
    pub staging_id: String,
    /// The parameter's version that does.
    pub version: i64,
    /// The staging distribution as it was shown, if it exists.
    pub shown: Option<Modified>,
    /// The open job that is gone on with: the parameter may say `deleted` already.
    pub resumes: Option<Unfinished>,
}

/// How it ended.
pub type Cleaned = Claimed<Ended>;

impl Order {
    /// The job's key. Of a new one it also stands for the pipeline execution that nobody knows.
    #[must_use]
    pub fn key(&self) -> JobKey {
        if let Some(open) = &self.resumes {
            return open.key.clone();
        }
        let pipeline = &self.named.pipeline.name;
        JobKey::from(format!(
            "{PREFIX}/{pipeline}/{}/{}",
            self.staging_id, self.version
        ))
    }

    fn subject(&self) -> Option<&Subject> {
        self.resumes.as_ref()?.binding.evidence.subject.as_ref()
    }

    /// The target. Its program is run at the end of a job that is gone on with, as the daemon would; of one
    /// that is begun by hand there is no event that a program could read.
    fn target(&self, rejection: &Rejection) -> ResolvedTarget {
        let mut target = self.named.target.clone();
        // A person said yes to what was shown.
        target.mode = Mode::Act;
        let rejected = |subject: &Subject| !subject.by_hand && !subject.ended;
        if !self.subject().is_some_and(rejected) || target.argument_fault(rejection).is_some() {
            target.program = None;
        }
        target
    }

    fn rejection(&self, now: Timestamp) -> Rejection {
        let key = self.key();
        let resumed = self.subject().and_then(|it| it.rejection(key.clone()));
        resumed.unwrap_or_else(|| Rejection {
            stage: self.named.stage.clone().unwrap_or_default(),
            action: self.named.action.clone().unwrap_or_default(),
            ..Rejection::by_hand(key, self.named.pipeline.clone(), now, "cleaned by hand")
        })
    }
}

impl ByHand {
    /// An open job of the target that has changed something and that nobody works on.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    pub async fn open_job(
        ledger: &dyn Ledger,
        named: &Named,
    ) -> Result<Option<Unfinished>, LedgerError> {
        let of_target = |it: &Unfinished| {
            let subject = it.binding.evidence.subject.as_ref();
            !it.leased && subject.is_some_and(|subject| named.is_about(subject))
        };
        Ok(ledger.unfinished().await?.into_iter().find(of_target))
    }

    /// Cleans, until it is done or `stop` tells it to stop at its next step boundary.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot say whether the job may be worked on. Nothing was touched
    /// then.
    pub async fn clean(&self, order: &Order, stop: &Stop) -> Result<Cleaned, LedgerError> {
        let rejection = order.rejection(self.clock.now());
        let (key, pipeline) = (rejection.key.clone(), rejection.pipeline.name.clone());
        let holder = Holder {
            ledger: &self.ledger,
            clock: &self.clock,
            terms: self.terms,
            stop,
        };
        let work = async |grant, binding| {
            let job = self.job(order, rejection, grant, binding, stop);
            self.reconciler.run(&job, |_| {}).await
        };
        holder.under_grant(&key, &pipeline, work).await
    }

    fn job(
        &self,
        order: &Order,
        rejection: Rejection,
        grant: GrantedJob,
        binding: Option<Binding>,
        stop: &Stop,
    ) -> Job {
        let target = order.target(&rejection);
        let subject = order.subject();
        let ground = match subject.is_none_or(|subject| subject.by_hand) {
            true => Ground::Person {
                named: order.resumes.is_none().then(|| OwnStaging {
                    id: order.staging_id.clone(),
                    version: order.version,
                }),
                shown: order.shown.clone(),
            },
            false => Ground::Execution(match subject.is_some_and(|subject| subject.ended) {
                true => Cause::EndedExecution,
                false => Cause::Rejection,
            }),
        };
        Job {
            targets: Arc::clone(&self.targets),
            binding,
            ..Job::by_hand(
                Assignment::without_event(rejection, target),
                grant,
                ground,
                stop,
            )
        }
    }
}
