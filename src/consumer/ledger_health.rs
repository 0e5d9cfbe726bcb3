//! Whether the ledger works, and what is reported of it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{info, warn};

use super::poll_health::{PollHealth, Polling};
use crate::ledger::{Ledger, LedgerError};
use crate::runtime::backoff::Backoff;
use crate::runtime::health::{LedgerTrouble, Trouble};
use crate::runtime::lasting::{Failing, Lasting};
use crate::telemetry::{Telemetry, events, ms};

/// Between two tries of a ledger that fails, no pause is longer.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// A ledger that is slow or throttles is looked at again after this.
const TROUBLED_PAUSE: Duration = Duration::from_secs(30);

/// The ledger's health.
pub(super) struct LedgerHealth {
    ledger: Arc<dyn Ledger>,
    telemetry: Arc<Telemetry>,
    failing: Mutex<Failing>,
}

impl LedgerHealth {
    pub(super) fn new(ledger: Arc<dyn Ledger>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            ledger,
            telemetry,
            failing: Mutex::default(),
        }
    }

    /// The ledger answered with an error: whether that is a failure of it, which is reported as such.
    pub(super) fn failed(&self, error: &LedgerError) -> bool {
        if matches!(error, LedgerError::NotOwner { .. }) {
            // It works, and says no.
            return false;
        }
        let phase = self.failing.lock().failed();
        self.telemetry.emit(events::LedgerFailing { error, phase });
        true
    }

    pub(super) fn worked(&self) {
        let recovered = self.failing.lock().recovered();
        if let Some(took) = recovered {
            info!(took_ms = ms(took), "the ledger works again");
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.lock().is_so()
    }

    /// Returns at once if the ledger works, else as soon as it does again. The poll loop waits for it.
    pub(super) async fn works(&self, polls: &PollHealth, backoff: Backoff) {
        let mut failures = 0;
        while self.is_failing() {
            failures += 1;
            let pause = backoff.delay(failures, &mut fastrand::Rng::new());
            polls.begin(Polling::WaitingForLedger(MAX_PAUSE));
            tokio::time::sleep(pause.min(MAX_PAUSE)).await;
            match self.ledger.check().await {
                Ok(()) => self.worked(),
                Err(error) => {
                    self.failed(&error);
                }
            }
        }
    }

    /// Says when the ledger's table is slow or throttles, that it still is, and when it is not any more.
    pub(super) async fn watch(&self) {
        loop {
            let trouble = self.ledger.troubled().await;
            let mut lasting = Lasting::begin();
            warn_of(&trouble, None);
            loop {
                tokio::time::sleep(TROUBLED_PAUSE).await;
                // Nobody else may ask for hours.
                if let Err(error) = self.ledger.check().await {
                    self.failed(&error);
                }
                let Some(still) = self.ledger.trouble() else {
                    break;
                };
                if let Some(took) = lasting.again() {
                    warn_of(&still, Some(took));
                }
            }
            info!(
                ledger.table = trouble.table,
                took_ms = ms(lasting.took()),
                "the ledger's table {} answers at once again",
                trouble.table
            );
        }
    }
}

/// The ledger's table is slow, or throttles; work goes on. `since`: how long that has lasted, where it was said before.
fn warn_of(trouble: &LedgerTrouble, since: Option<Duration>) {
    let (latency, remedy) = match trouble.what {
        Trouble::Slow { latency } => (
            Some(ms(latency)),
            "look at the network, and at the table's latency",
        ),
        Trouble::Throttled => (None, "give it more capacity, or on-demand billing"),
    };
    warn!(
        ledger.table = trouble.table,
        ledger.trouble = trouble.what.code(),
        ledger.latency_ms = latency,
        took_ms = since.map(ms),
        "{trouble}; {remedy}"
    );
}
