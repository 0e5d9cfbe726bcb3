//! Whether somebody else has modified the staging distribution since the job was bound: it is theirs by now.
//!
//! **Guarantees.** That is looked at before each change, until a change of CloudFront of the job's own has taken
//! effect: one that this run had accepted, or one that may have been made and that an observation shows. From then on
//! modification times say nothing. What the record withdrew is named again.
//!
//! **Races.** A modification after CodePipeline's answer, by whoever was not at work then.

use jiff::Timestamp;

use super::Halt;
use super::bind::left_to;
use super::questioned::A_MOMENT;
use super::run::Run;
use crate::domain::attribution::{Attribution, Candidate, TakenOver, Undecidable, WhyNothing};
use crate::domain::binding::Modified;
use crate::domain::decision::{Observed, Outcome};
use crate::domain::found::took_effect;
use crate::domain::refusal::Refusal;
use crate::telemetry::events;

impl Run<'_> {
    /// Whether somebody else has modified the staging distribution since the job was bound.
    pub(super) async fn is_modified_by_others(
        &mut self,
        observed: &Observed,
    ) -> Result<bool, Halt> {
        if let Some(removal) = self.job.removal() {
            let disabled = observed.staging.as_ref().is_none_or(|it| !it.enabled);
            if !(self.progress.disabled || self.sent && disabled) {
                let now = self.lookout.modified_at(&self.binding.staging_id);
                removal.is_as_found(now, self.changed_at)?;
            }
            return Ok(false);
        }
        if self.has_changed_cloudfront(observed) {
            return Ok(false);
        }
        let Some((bound_at, modified)) = self.modified_since_bound() else {
            return Ok(false);
        };
        let now = modified.at;
        if self.job.is_by_hand() {
            return Err(self.is_not_as_shown(bound_at, now).await?);
        }
        if self.context.settings.verify.is_none() {
            return Ok(false);
        }
        let others = self.others(now, now).await?;
        let other = others.at(now, self.context.settings.grace);
        // Our execution may have run at that moment too, and a modification that is nobody's may hide one of
        // somebody else's.
        if !self.is_still_ours(other, bound_at, now).await? {
            if let Some(other) = other {
                let taken = TakenOver {
                    id: self.binding.about(self.index).staging_id,
                    execution_id: other.execution_id.clone(),
                    modified_at: now,
                };
                let policy = observed.production.as_ref();
                let policy = policy.and_then(|it| it.policy_id.as_deref());
                let pipeline = &self.job.rejection().pipeline.name;
                let detail = left_to(&[taken], policy, pipeline);
                self.context
                    .telemetry
                    .emit(events::LeftToOthers { detail: &detail });
                self.binding.evidence.left = Some(detail);
            }
            return Ok(true);
        }
        self.binding.see(self.index, &modified);
        Ok(false)
    }

    /// When the staging distribution had been modified as the job was bound, and how it was since. An older time is
    /// that of a stale answer; a newer one with the same ETag that of the end of a propagation.
    pub(super) fn modified_since_bound(&self) -> Option<(Timestamp, Modified)> {
        let view = self.binding.about(self.index);
        let bound_at = Timestamp::from_millisecond(view.evidence.modified_at_ms?).ok()?;
        let now = self.lookout.modified(&view.staging_id)?;
        let is_later = now.at.as_millisecond() > bound_at.as_millisecond();
        let is_another = view.evidence.etag.as_ref() != Some(&now.etag);
        (is_later && is_another).then_some((bound_at, now))
    }

    /// Attributes anew. Where nothing but the modification has shown that the distribution is the execution's, the
    /// earlier one still does, unless another execution may have deployed into it since.
    async fn is_still_ours(
        &mut self,
        other: Option<&Candidate>,
        bound_at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Halt> {
        let view = self.binding.about(self.index);
        let attributed = self.attributed().await?;
        let newest = attributed.newest_version();
        let why = match attributed.attribution {
            Attribution::Own { staging, .. } => {
                return Ok(staging.iter().any(|own| own.id == view.staging_id));
            }
            Attribution::Refused(why @ Undecidable::NotWritten { .. }) => why,
            // Of an earlier execution, by which the job's own found the distribution.
            Attribution::Nothing(WhyNothing::SlotOf(execution_id))
                if newest <= view.evidence.version =>
            {
                Undecidable::NotWritten {
                    value: view.staging_id,
                    by: format!("a build of execution {execution_id}"),
                }
            }
            Attribution::Refused(why) => return Err(self.undecidable(&why)),
            Attribution::Superseded { .. }
            | Attribution::Nothing(WhyNothing::SlotOf(_) | WhyNothing::RolledBack)
            | Attribution::AskOthers { .. } => return Ok(false),
        };
        if other.is_some() {
            return Ok(false);
        }
        let since = self.others(bound_at, now).await?;
        match since.any_between(bound_at, now, self.context.settings.grace) {
            true => Err(self.undecidable(&why)),
            false => Ok(true),
        }
    }

    /// Whether a change of CloudFront of the job's own has taken effect.
    pub(super) fn has_changed_cloudfront(&self, observed: &Observed) -> bool {
        let binding = self.binding.about(self.index);
        self.progress.changed_cloudfront() || self.sent && took_effect(&binding, observed)
    }

    /// Whether nobody has modified the staging distribution since a moment ago, as long as that counts.
    pub(super) async fn staging_is(&mut self, observed: &Observed) -> Result<bool, Halt> {
        if self.has_changed_cloudfront(observed) {
            return Ok(true);
        }
        let id = self.binding.about(self.index).staging_id;
        let before = self.lookout.modified_at(&id);
        let seen = self.look_since(&id, A_MOMENT).await?;
        // A stale answer tells nothing of this moment.
        let same = seen.modified_at() == before;
        self.lookout.see(&id, seen);
        Ok(same)
    }

    /// A person was shown something else. What the record withdrew is named again, so that nothing is left of the job;
    /// unless a change of CloudFront was sent whose answer is not known. That one may still show, and the ledger
    /// finishes the job then.
    async fn is_not_as_shown(&mut self, shown: Timestamp, now: Timestamp) -> Result<Halt, Halt> {
        if !self.unanswered {
            self.name_again().await?;
            let evidence = &mut self.binding.evidence;
            if evidence.changed {
                (evidence.changed, evidence.touched, evidence.detaching) = (false, false, false);
                evidence.recorded = None;
                self.binding.overwriting = None;
                self.store().await?;
            }
        }
        let staging_id = &self.binding.staging_id;
        let detail = self.place().modified(staging_id, shown, now);
        Ok(self.refuse(Refusal::StagingModified, detail))
    }

    /// Leaves the staging distribution to whoever deploys into it.
    pub(super) async fn give_way(&mut self) -> Result<Outcome, Halt> {
        self.name_again().await?;
        Ok(Outcome::Superseded)
    }

    /// Names the staging distribution again, if the record has withdrawn its name.
    async fn name_again(&mut self) -> Result<(), Halt> {
        if self.binding.overwriting.is_some() {
            self.hold_production().await?;
            if let Some(read) = self.resumed_over.take() {
                self.restore_overwritten(read).await?;
            }
            if let Some(recorded) = self.withdrawn().await? {
                self.restore_own(recorded).await?;
            }
        }
        Ok(())
    }
}
