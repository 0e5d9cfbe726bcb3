//! Telling a job to stop, with a reason. It heeds that at its next step boundary.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why a job was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The daemon is stopping.
    ShuttingDown,
    /// No message of the job is ours any more.
    LeaseLost,
    /// SQS lets no message stay invisible for more than 12 hours after its receive.
    VisibilityCeiling,
    /// The ledger granted the job to someone else, or could not say.
    LedgerLost,
    /// It waits in the largest crowd, and there is no room left for others.
    Crowded,
}

impl StopReason {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ShuttingDown => "shutting_down",
            Self::LeaseLost => "lease_lost",
            Self::VisibilityCeiling => "visibility_ceiling",
            Self::LedgerLost => "ledger_lost",
            Self::Crowded => "crowded",
        }
    }
}

/// One job's stop signal. The first reason stays.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    reason: OnceLock<StopReason>,
    told: CancellationToken,
}

impl Stop {
    /// Tells the job to stop.
    pub fn now(&self, reason: StopReason) {
        // A later reason than the first changes nothing.
        let _ = self.0.reason.set(reason);
        self.0.told.cancel();
    }

    /// Why the job was told to stop, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.0.reason.get().copied()
    }

    /// Waits until the job is told to stop. Can be dropped at any time.
    pub async fn stopped(&self) -> StopReason {
        self.0.told.cancelled().await;
        self.reason().unwrap_or(StopReason::ShuttingDown)
    }
}
