//! Writing `deleted` to the staging parameter, which deployments write too.
//!
//! SSM has no compare-and-set, but it numbers its versions. If our write is not the one after the
//! version that was read, the history tells whose value it covered, and that value is put back. The
//! ledger keeps the version that was read from before the write, so that a run that resumes after a
//! crash can do the same.
//!
//! **Not guaranteed.** That anyone puts a value back whose covering no ledger knows of: the ledger
//! was lost, or the process that resumes has another one.

use super::calls::CALL_TRIES;
use super::{Halt, Run};
use crate::aws::AwsError;
use crate::binding::{Binding, DELETED, ParameterVersion, Slot};
use crate::telemetry::events;

impl Run<'_> {
    /// Writes `deleted` to the staging parameter while its version `read` is the newest and holds
    /// our staging distribution's id. Returns the version that was written.
    pub(super) async fn record_deleted(
        &self,
        binding: &mut Binding,
        read: i64,
    ) -> Result<i64, Halt> {
        binding.overwriting = Some(read);
        self.store(binding).await?;

        let ssm = &self.clients.ssm;
        let name = &self.parameters.staging;
        let current = self.calls.call(|| ssm.parameter(name)).await?;
        let still_ours = current.is_some_and(|current| {
            current.version == read
                && Slot::read(&current.value) == Slot::Distribution(&binding.staging_id)
        });
        if !still_ours {
            return Err(
                AwsError::changed("GetParameter", "the parameter was written since").into(),
            );
        }
        self.calls.heed_stop()?;
        let written = match ssm.overwrite(name, DELETED).await {
            Ok(written) => written,
            Err(error) if error.class.is_transient() => {
                // It may have taken effect all the same.
                let current = self.calls.call(|| ssm.parameter(name)).await?;
                match current.filter(|now| now.version > read && now.value == DELETED) {
                    Some(ours) => ours.version,
                    None if self.fruitless < CALL_TRIES => {
                        return Err(AwsError::changed("PutParameter", "not written").into());
                    }
                    None => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        if written > read + 1 {
            let history = self.calls.call(|| ssm.history(name)).await?;
            if let Some(theirs) = overwritten(&history, read, written) {
                self.put_back(&history, &theirs.value, written).await?;
            }
        }
        Ok(written)
    }

    /// Puts back what an earlier run of the job covered, if it was cut off before it could: whoever
    /// is named there still exists, although the parameter says `deleted`.
    pub(super) async fn mend_overwritten(&self, read: i64) -> Result<(), Halt> {
        let account = &self.clients;
        let name = &self.parameters.staging;
        let history = self.calls.call(|| account.ssm.history(name)).await?;
        let Some(newest) = newest(&history).filter(|newest| newest.value == DELETED) else {
            return Ok(());
        };
        let Some(theirs) = overwritten(&history, read, newest.version) else {
            return Ok(());
        };
        let Slot::Distribution(id) = Slot::read(&theirs.value) else {
            return Ok(());
        };
        let named = self
            .calls
            .call(|| account.cloudfront.distribution(id))
            .await?;
        if !named.is_some_and(|named| named.staging) {
            // The `deleted` is the one of its own cleanup.
            return Ok(());
        }
        self.put_back(&history, &theirs.value, newest.version).await
    }

    /// Writes `theirs` again over our `written`, unless someone has written since: that stands.
    async fn put_back(
        &self,
        history: &[ParameterVersion],
        theirs: &str,
        written: i64,
    ) -> Result<(), Halt> {
        let ssm = &self.clients.ssm;
        let name = &self.parameters.staging;
        let covered = newest(history).is_some_and(|newest| newest.version == written);
        if covered {
            self.calls.call(|| ssm.overwrite(name, theirs)).await?;
        }
        self.context.telemetry.emit(events::ParameterRaced {
            parameter: name,
            restored: covered.then_some(theirs),
        });
        Ok(())
    }
}

fn newest(history: &[ParameterVersion]) -> Option<&ParameterVersion> {
    history.iter().max_by_key(|version| version.version)
}

/// The value of someone else that our write of version `written` covered, if there is one. Versions
/// in between that hold `deleted` are our own: a first try whose answer was lost.
fn overwritten(history: &[ParameterVersion], read: i64, written: i64) -> Option<&ParameterVersion> {
    history
        .iter()
        .filter(|version| read < version.version && version.version < written)
        .filter(|version| version.value != DELETED)
        .max_by_key(|version| version.version)
}
