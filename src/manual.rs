//! One cleanup by hand: the daemon's own job, begun by a person instead of a message.
//!
//! **Guarantees.** It is the same [`Reconciler`] with the same fences, under a grant of the same
//! ledger: beside a running daemon, one job at a time holds a production distribution, whichever
//! process it is in. Its key names the staging distribution and the version of the parameter that
//! names it: begun again after it was cut off, it is the same job and goes on from what it finds;
//! begun for another staging distribution, it is another job. It is bound to what the parameter
//! held when the person was shown it: a deployment that writes the parameter in between is not
//! touched, and the job ends as superseded.
//!
//! **Races.** A rejection of the same staging distribution that arrives meanwhile waits for its
//! turn, and then finds that nothing is left to do. The lease is renewed beside the work; one that is
//! lost stops it at its next step boundary.
//!
//! **Not handled.** A ledger that is not the daemon's: then the guarantee is each process's own, and
//! only ETags are left between the two.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::activity::Activity;
use crate::clock::Clock;
use crate::event::{JobKey, Rejection};
use crate::lease::Terms;
use crate::ledger::{Claim, Ledger, LedgerError, keep, lease_until};
use crate::named::Named;
use crate::plan::Outcome;
use crate::reconcile::{Ended, Job, Reconciler};
use crate::stop::Stop;
use crate::target::ResolvedTarget;

/// What the keys of such jobs begin with.
const PREFIX: &str = "manual";

/// What it takes to clean by hand.
#[derive(Clone, Debug)]
pub struct ByHand {
    /// The daemon's ledger.
    pub ledger: Arc<dyn Ledger>,
    /// Carries the job out.
    pub reconciler: Reconciler,
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
    /// The staging distribution that the parameter names.
    pub staging_id: String,
    /// The parameter's version that does.
    pub version: i64,
    /// When that version was written, by AWS's clock.
    pub written_at: Option<Timestamp>,
}

/// How it ended.
#[derive(Debug)]
pub enum Cleaned {
    /// The job ran.
    Ran(Ended),
    /// The very same cleanup was done before.
    Before(Outcome),
    /// The very same cleanup is being done elsewhere, or was until its process died.
    Elsewhere {
        /// When its lease ends, unless it is renewed.
        until: Timestamp,
    },
}

impl Order {
    /// The job's key, which also stands for the pipeline execution that nobody knows.
    #[must_use]
    pub fn key(&self) -> JobKey {
        let pipeline = &self.named.pipeline.name;
        JobKey::from(format!(
            "{PREFIX}/{pipeline}/{}/{}",
            self.staging_id, self.version
        ))
    }

    fn rejection(&self, now: Timestamp) -> Rejection {
        let key = self.key();
        Rejection {
            execution_id: key.as_str().to_owned(),
            action_execution_id: None,
            key,
            pipeline: self.named.pipeline.clone(),
            stage: self.named.stage.clone().unwrap_or_default(),
            action: self.named.action.clone().unwrap_or_default(),
            // The parameter's own time: it needs no two clocks that agree.
            as_of: self.written_at.unwrap_or(now),
            as_of_uncertainty: Duration::ZERO,
            rejected_at: now,
            comment: Some("cleaned by hand".to_owned()),
        }
    }
}

impl ByHand {
    /// Cleans, until it is done or `stop` tells it to stop at its next step boundary.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot say whether the job may be worked on. Nothing was touched
    /// then.
    pub async fn clean(&self, order: &Order, stop: &Stop) -> Result<Cleaned, LedgerError> {
        let rejection = order.rejection(self.clock.now());
        let until = lease_until(&self.clock, self.terms);
        let claim = self
            .ledger
            .claim(&rejection.key, &rejection.pipeline.name, until)
            .await?;
        let (grant, binding) = match claim {
            Claim::Granted { grant, binding } => (grant, binding),
            Claim::Done { outcome } => return Ok(Cleaned::Before(outcome)),
            Claim::Leased { until } => return Ok(Cleaned::Elsewhere { until }),
        };
        let job = Job {
            rejection,
            event: None,
            // There is no event that a program could read.
            target: ResolvedTarget {
                program: None,
                ..order.named.target.clone()
            },
            grant: grant.clone(),
            unasked: false,
            binding,
            stop: stop.clone(),
            activity: Activity::default(),
        };
        // There is no execution that CodePipeline could be asked about.
        let reconciler = self.reconciler.without_verification();
        let run = reconciler.run(&job);
        tokio::pin!(run);
        let ended = tokio::select! {
            biased;
            ended = &mut run => ended,
            () = keep(&*self.ledger, &grant, self.terms, &self.clock, stop, |_| {}) => run.await,
        };
        Ok(Cleaned::Ran(ended))
    }
}
