//! A job that ends half way: its rejection does not stand any more, or it must not go on. What was done by then, and
//! what is left, is said.
//!
//! **Guarantees.** What the record withdrew is named again where the rejection falls away, as long as no change of
//! CloudFront has taken effect. Where a job is refused, which may pass, it is not: the words say that it is withdrawn.

use tracing::warn;

use super::run::Run;
use super::{Done, Ended, Halt, Refused};
use crate::domain::decision::{Progress, Refusal};

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
        let done = self.done_by_then(restored);
        let detail = format!(
            "the rejection does not stand any more; done by then: {}; left: {}",
            match done.is_empty() {
                true => "nothing".to_owned(),
                false => done.join(", "),
            },
            self.left().join(", ")
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

    /// Ends the job, and says what is left of one that has begun.
    pub(super) fn refuse(&self, refusal: Refusal, mut detail: String) -> Halt {
        // The words of that one say it already.
        let says_so = refusal == Refusal::PolicyAttachedElsewhere;
        if self.binding.evidence.recorded.is_some() && !says_so {
            detail.push_str(&format!(
                ". Done by then: {}; left: {}; once it may, the job goes on by itself within fifteen minutes",
                self.done_by_then(false).join(", "),
                self.left().join(", ")
            ));
        }
        Ended::Refused(Refused { refusal, detail }).into()
    }

    /// What the job has changed, in words; `restored`, whether the name that it withdrew is written again.
    fn done_by_then(&self, restored: bool) -> Vec<String> {
        let mut done = Vec::new();
        let name = &self.parameters.staging;
        if restored {
            done.push(format!(
                "{name} said `deleted` for a while and names the distribution again"
            ));
        } else if self.binding.evidence.recorded.is_some() {
            done.push(format!("{name} says `deleted`"));
        }
        if self.progress.detached.is_some() {
            done.push(format!(
                "policy detached from {}",
                self.binding.production_id
            ));
        }
        if let Some(policy_id) = &self.progress.policy_deleted {
            done.push(format!("policy {policy_id} deleted"));
        }
        if self.sent && self.progress == Progress::default() && !restored {
            done.push("CloudFront was changed by an earlier run".to_owned());
        }
        done
    }

    /// The staging distributions that are not taken down yet, and their policies.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for index in self.index..self.binding.count() {
            let view = self.binding.about(index);
            left.push(format!("staging distribution {}", view.staging_id));
            let policy_id = view
                .policy_id
                .filter(|id| self.progress.policy_deleted.as_ref() != Some(id));
            left.extend(policy_id.map(|id| format!("policy {id}")));
        }
        left
    }
}
