//! Which distributions a job is about: read from its target's parameters once, and kept in the ledger.
//!
//! What a parameter says is read as of the approval, never as it is now ([`crate::binding`]).

use super::{Ended, Failure, Halt, Run};
use crate::binding::{AsOf, Binding, Slot, as_of, is_uncertain};
use crate::event::Rejection;
use crate::ledger::Bound;
use crate::plan::{Observed, Outcome, Refusal};
use crate::telemetry::events;

impl Run<'_> {
    /// Finds out which distributions the rejection is about; or that it is about none.
    pub(super) async fn resolve(&self) -> Result<Result<Binding, Ended>, Halt> {
        let (ssm, parameters) = (&self.clients.ssm, self.parameters);
        let production = self
            .calls
            .call(|| ssm.parameter(&parameters.production))
            .await?;
        let production = production
            .map(|parameter| parameter.value)
            .unwrap_or_default();
        let Slot::Distribution(production_id) = Slot::read(&production) else {
            return Ok(Err(Ended::Refused(Refusal::ProductionParameterInvalid)));
        };

        let current = self
            .calls
            .call(|| ssm.parameter(&parameters.staging))
            .await?;
        let Some(current) = current else {
            return Ok(Err(Ended::Refused(Refusal::StagingParameterInvalid)));
        };
        let mut versions = vec![current];
        let Rejection {
            as_of: moment,
            as_of_uncertainty: uncertainty,
            ..
        } = self.job.rejection;
        let earliest = moment.checked_sub(uncertainty).unwrap_or(moment);
        if as_of(&versions, earliest) == AsOf::NeedsHistory {
            versions = self.calls.call(|| ssm.history(&parameters.staging)).await?;
        }
        let AsOf::Version(version) = as_of(&versions, moment) else {
            return Ok(Err(Ended::Refused(Refusal::HistoryTooShort)));
        };
        if is_uncertain(&versions, moment, uncertainty) {
            return Ok(Err(Ended::Refused(Refusal::StagingParameterJustWritten)));
        }
        Ok(match Slot::read(&version.value) {
            Slot::Vacant => Err(Ended::Succeeded(Outcome::AlreadyClean)),
            Slot::Invalid => Err(Ended::Refused(Refusal::StagingParameterInvalid)),
            Slot::Distribution(staging_id) => Ok(Binding {
                production_id: production_id.to_owned(),
                staging_id: staging_id.to_owned(),
                staging_domain: None,
                policy_id: None,
                overwriting: None,
            }),
        })
    }

    pub(super) async fn bind(&self, binding: &Binding) -> Result<(), Halt> {
        self.store(binding).await?;
        self.context.telemetry.emit(events::JobBound {
            production_id: &binding.production_id,
            staging_id: &binding.staging_id,
        });
        Ok(())
    }

    /// Has the ledger keep the binding.
    pub(super) async fn store(&self, binding: &Binding) -> Result<(), Halt> {
        let bound = self.context.ledger.bind(&self.job.grant, binding).await;
        match bound.map_err(|error| Ended::Failed(Failure::Ledger(error)))? {
            Bound::Bound => Ok(()),
            Bound::ProductionBusy { until } => Err(Ended::ProductionBusy { until }.into()),
        }
    }
}

/// Notes what the first observation tells beyond the parameters: where to find the policy later,
/// when neither production nor the staging distribution can tell any more.
pub(super) fn complete_binding(binding: &mut Binding, observed: &Observed) {
    if let Some(staging) = &observed.staging {
        binding.staging_domain = Some(staging.domain.clone());
    }
    let Some(domain) = &binding.staging_domain else {
        return;
    };
    if let Some(own) = observed
        .policies
        .iter()
        .find(|policy| policy.staging_domains.contains(domain))
    {
        binding.policy_id = Some(own.id.clone());
    }
}
