//! A job whose rejection does not stand any more.
//!
//! **Guarantees.** What the record withdrew is named again, as long as no change of CloudFront has taken effect. Where a
//! job is refused, which may pass, it is not.

use tracing::warn;

use super::run::Run;
use super::{Done, Ended, Halt};

impl Run<'_> {
    /// The rejection does not stand any more. What the record withdrew is named again, as long as nothing of
    /// CloudFront was changed; what was done, and what is left, is told.
    pub(super) async fn fall_away(&mut self, ended: Ended) -> Halt {
        let Ended::Succeeded(Done { outcome, .. }) = ended else {
            return ended.into();
        };
        if !self.binding.evidence.changed {
            return Ended::from(outcome).into();
        }
        let restored = match self.restore_before_detach().await {
            Ok(restored) => restored,
            Err(halt) => return halt,
        };
        let detail = format!(
            "the rejection does not stand any more; {}",
            self.halfway(restored).unwrap_or_default()
        );
        warn!(
            outcome = outcome.code(),
            detail, "the rejection fell away half way"
        );
        self.binding.evidence.left = Some(detail.clone());
        // For `history`; whether it can be kept, the end of the job tells.
        let _ = self.try_store().await;
        let detail = Some(detail);
        Ended::Succeeded(Done { outcome, detail }).into()
    }

    /// Names our own staging distribution again, unless a change of CloudFront has taken effect by now. Answers
    /// whether it is named again.
    async fn restore_before_detach(&mut self) -> Result<bool, Halt> {
        let Some(recorded) = self.withdrawn().await? else {
            return Ok(false);
        };
        if self.sent {
            self.lookout.forget_all();
            let observed = self.observe().await?;
            if self.has_changed_cloudfront(&observed) {
                return Ok(false);
            }
        }
        self.restore_own(recorded).await
    }
}
