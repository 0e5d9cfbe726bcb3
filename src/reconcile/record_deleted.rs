//! Writing `deleted` to the staging parameter, which deployments write too, and putting values back.
//!
//! SSM has no compare-and-set, but it numbers its versions. If our write is not the one after the
//! version that was read, the history tells whose value it covered. That value is put back; so is what this covers
//! in its turn. The ledger keeps the version that was read from before the first write, so that a run that resumes
//! after a crash or a lost answer can do the same. The history also tells how the parameter is kept: a value that its
//! AllowedPattern forbids is found before anything is changed, and the tier is kept.
//!
//! **Guarantees.** A value is put back only over a version that is ours and still the newest.
//!
//! **Not guaranteed.** That anyone puts a value back whose covering no ledger knows of: the ledger
//! was lost, or the process that resumes has another one.

use std::collections::BTreeSet;

use tracing::warn;

use super::run::Run;
use super::{Ended, Failure, Halt};
use crate::aws::AwsError;
use crate::aws::limiter::Turn;
use crate::domain::binding::{DELETED, Form, ParameterChange, ParameterVersion, Slot};
use crate::domain::decision::{Observed, Owner, owner};
use crate::domain::error_class::ErrorClass;
use crate::domain::refusal::Refusal;

impl Run<'_> {
    /// Writes `deleted` to the staging parameter, whose version `read` holds our staging distribution's id;
    /// once.
    ///
    /// # Errors
    /// What the write failed with; a halt where what came after it failed.
    pub(super) async fn record_deleted(
        &mut self,
        read: i64,
        turn: Turn,
    ) -> Result<Result<(), AwsError>, Halt> {
        let name = &self.parameters.staging;
        let form = self.form().await?;
        let ssm = &self.clients.ssm;
        let written = match ssm.overwrite(name, DELETED, &form, turn).await {
            Ok(written) => written,
            Err(error) if error.class.is_transient() => {
                // It may have taken effect all the same.
                let current = self.calls.call(|| self.clients.ssm.parameter(name)).await?;
                match current.filter(|now| now.value == DELETED) {
                    Some(ours) if ours.version == read + 1 => ours.version,
                    Some(_) => {
                        self.restore_overwritten(read).await?;
                        return Ok(Err(error));
                    }
                    None => return Ok(Err(error)),
                }
            }
            Err(error) => return Ok(Err(error)),
        };
        self.progress.recorded = Some(written);
        self.binding.evidence.recorded = Some(written);
        if written > read + 1 {
            let history = self.calls.call(|| self.clients.ssm.changes(name)).await?;
            if let Some(theirs) = overwritten(&history, read, written, DELETED) {
                self.put_back(&history, theirs, &form, written).await?;
            }
        }
        Ok(Ok(()))
    }

    /// After a restart or a lost answer: what became of the writes that began over version `read`. Puts back what the newest
    /// of them covered, if the run was cut off before it could: whoever is named there still exists, although the
    /// parameter does not say so.
    pub(super) async fn restore_overwritten(&mut self, read: i64) -> Result<(), Halt> {
        let name = &self.parameters.staging;
        let history = self.calls.call(|| self.clients.ssm.changes(name)).await?;
        let Some(newest) = newest(&history).filter(|newest| newest.version.version > read) else {
            return Ok(());
        };
        if !self.is_ours(newest).await {
            return Ok(());
        }
        let number = newest.version.version;
        let is_record = newest.version.value == DELETED;
        let ours = self.written_by_us(&history).await;
        let Some(theirs) = covered(&history, read, &ours) else {
            if is_record && self.binding.evidence.recorded.is_none() {
                self.binding.evidence.recorded = Some(number);
            }
            return Ok(());
        };
        match Slot::read(&theirs.version.value) {
            Slot::Distribution(id) => {
                let named = self
                    .calls
                    .call(|| self.clients.cloudfront.distribution(id))
                    .await?;
                // The `deleted` may be the one of its own cleanup.
                if !named.is_some_and(|named| named.staging)
                    || is_record
                        && self
                            .withdrawn_by_another(id, theirs.version.version)
                            .await?
                {
                    return Ok(());
                }
            }
            // It says as much.
            _ if is_record => return Ok(()),
            _ => {}
        }
        let form = self.form().await?;
        self.put_back(&history, theirs, &form, number).await
    }

    /// Another job of the same distribution has put its id back since this one was bound, as its own rejection fell
    /// away: such versions are nobody's, and the id is ours as before.
    pub(super) async fn learn_put_back(&mut self, observed: &Observed) -> Result<(), Halt> {
        let view = self.binding.about(self.index);
        let Some(now) = &observed.parameter else {
            return Ok(());
        };
        if owner(&view, Some(now)) != Owner::Rewritten {
            return Ok(());
        }
        let name = &self.parameters.staging;
        let mut since = self.calls.call(|| self.clients.ssm.changes(name)).await?;
        let known = view.evidence.known_version();
        since.retain(|it| it.version.version > known && it.version.value.trim() == view.staging_id);
        let ours = self.written_by_us(&since).await;
        if ours.len() == since.len() && ours.contains(&now.version) {
            self.binding.name(self.index, now.version);
        }
        Ok(())
    }

    /// The version over which a record was sent whose answer is not known, if the parameter may hold by now what it
    /// wrote. It is answered once for each version that is seen. The same for an earlier run's writes, of which one may have
    /// covered something.
    pub(super) fn unknown_record(&mut self, observed: &Observed) -> Option<i64> {
        let read = self.binding.overwriting?;
        let seen = observed.parameter.as_ref()?;
        let earlier = self.resumed_over.take();
        if earlier.is_some_and(|read| seen.version > read + 1) {
            self.traced = Some(seen.version);
            return earlier;
        }
        let may_be_ours = self.binding.evidence.recorded.is_none()
            && seen.value == DELETED
            && seen.version > read;
        let is_new = may_be_ours && self.traced.replace(seen.version) != Some(seen.version);
        is_new.then_some(read)
    }

    /// The version by which the job has withdrawn the name of the staging distribution that is worked on.
    pub(super) async fn withdrawn(&mut self) -> Result<Option<i64>, Halt> {
        let named = self.binding.about(self.index).evidence.version;
        let read = self.binding.overwriting;
        // The record may have been that of another one of the job's.
        let Some(read) = read.filter(|read| self.index == 0 || *read <= named) else {
            return Ok(None);
        };
        if self.binding.evidence.recorded.is_none() {
            self.restore_overwritten(read).await?;
        }
        Ok(self.binding.evidence.recorded)
    }

    /// Whether another job set out to withdraw the name of `staging_id` over version `named`, or a later one.
    async fn withdrawn_by_another(&self, staging_id: &str, named: i64) -> Result<bool, Halt> {
        let open = self.context.ledger.unfinished().await;
        let open = open.map_err(|error| Ended::Failed(Failure::Ledger(error)))?;
        let mut others = open.iter().filter(|it| it.key != *self.job.grant.key());
        Ok(others.any(|other| {
            let set_out = other.binding.overwriting.is_some_and(|it| it >= named);
            set_out && other.binding.staging_id == staging_id
        }))
    }

    /// Names our own staging distribution again, which the record of version `recorded` withdrew. Answers
    /// whether it does.
    pub(super) async fn restore_own(&mut self, recorded: i64) -> Result<bool, Halt> {
        let name = &self.parameters.staging;
        let id = self.binding.about(self.index).staging_id;
        let form = self.form().await?;
        // Under the turn, so that nothing is waited for between the look and the write.
        let turn = self.clients.ssm.change_turn().await?;
        let current = self.calls.call(|| self.clients.ssm.parameter(name)).await?;
        let Some(current) = current else {
            return Ok(false);
        };
        let is_restored = |now: &ParameterVersion, restored: Option<i64>| {
            Some(now.version) == restored && now.value == id
        };
        if is_restored(&current, self.binding.evidence.restored) {
            return Ok(true);
        }
        if current.version != recorded || current.value != DELETED {
            if self.binding.evidence.restored.is_some() {
                self.restore_overwritten(recorded).await?;
            }
            return Ok(false);
        }
        // Noted before: whoever resumes must not take our own write for somebody else's.
        let next = Some(recorded + 1);
        self.binding.evidence.restored = next;
        self.store().await?;
        match self.clients.ssm.overwrite(name, &id, &form, turn).await {
            Ok(written) => {
                self.binding.evidence.restored = Some(written);
                if written > recorded + 1 {
                    let history = self.calls.call(|| self.clients.ssm.changes(name)).await?;
                    if let Some(theirs) = overwritten(&history, recorded, written, &id) {
                        self.put_back(&history, theirs, &form, written).await?;
                        return Ok(false);
                    }
                }
            }
            Err(error) if error.class.is_transient() => {
                let now = self.calls.call(|| self.clients.ssm.parameter(name)).await?;
                if !now.is_some_and(|now| is_restored(&now, next)) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        warn!(
            parameter = name,
            value = id,
            "staging distribution named again: the rejection fell away"
        );
        Ok(true)
    }

    /// How the staging parameter is kept. Where that may not be read, nothing is known of it.
    pub(super) async fn form(&mut self) -> Result<Form, Halt> {
        if let Some(form) = &self.form {
            return Ok(form.clone());
        }
        let name = &self.parameters.staging;
        let form = match self.calls.call(|| self.clients.ssm.kept(name)).await {
            Ok((_, form)) => form,
            Err(Halt::Call(error)) if error.class == ErrorClass::AccessDenied => Form::default(),
            Err(halt) => return Err(halt),
        };
        Ok(self.form.insert(form).clone())
    }

    /// Ends the job, before anything is changed, if the parameter takes no `deleted`.
    pub(super) async fn takes_deleted(&mut self) -> Result<(), Halt> {
        let form = self.form().await?;
        match form.forbids(DELETED) {
            None => Ok(()),
            Some(pattern) => {
                let detail = self.place().forbids_deleted(Some(pattern));
                Err(self.refuse(Refusal::DeletedNotAllowed, detail))
            }
        }
    }

    /// Whether a version is of stagesweep's own writing; one whose writer is not shown may be.
    async fn is_ours(&self, change: &ParameterChange) -> bool {
        match &change.by {
            Some(by) => self.context.accounts.is_ours(&self.account, by).await,
            None => true,
        }
    }

    /// Writes `theirs` again over our `written`, unless someone has written since: that stands. What this covers is written
    /// again too.
    async fn put_back(
        &self,
        history: &[ParameterChange],
        theirs: &ParameterChange,
        form: &Form,
        written: i64,
    ) -> Result<(), Halt> {
        let ssm = &self.clients.ssm;
        let name = &self.parameters.staging;
        let (mut theirs, mut over) = (theirs.clone(), written);
        let mut history = history.to_vec();
        let mut restored = None;
        while newest(&history).is_some_and(|it| it.version.version == over) {
            let value = theirs.version.value.clone();
            let turn = ssm.change_turn().await?;
            let written = ssm.overwrite(name, &value, form, turn).await?;
            restored = Some(value.clone());
            if written == over + 1 {
                break;
            }
            history = self.calls.call(|| ssm.changes(name)).await?;
            let Some(more) = overwritten(&history, over, written, &value) else {
                break;
            };
            (theirs, over) = (more.clone(), written);
        }
        warn!(
            parameter = name,
            restored,
            "the staging parameter was written by someone else at the same moment; their value \
             stands"
        );
        Ok(())
    }
}

fn newest(history: &[ParameterChange]) -> Option<&ParameterChange> {
    history.iter().max_by_key(|change| change.version.version)
}

/// The value of someone else that our write of version `written`, of the value `ours`, covered, if there is one. Versions in
/// between that hold our value are our own: a first try whose answer was lost.
fn overwritten<'a>(
    history: &'a [ParameterChange],
    read: i64,
    written: i64,
    ours: &str,
) -> Option<&'a ParameterChange> {
    history
        .iter()
        .filter(|change| read < change.version.version && change.version.version < written)
        .filter(|change| change.version.value != ours)
        .max_by_key(|change| change.version.version)
}

/// What the newest version, which is ours, covered behind version `read`: every write of ours is meant to be over one of ours.
/// Further versions of the same value are tries whose answers were lost.
fn covered<'a>(
    history: &'a [ParameterChange],
    read: i64,
    ours: &BTreeSet<i64>,
) -> Option<&'a ParameterChange> {
    let newest = newest(history)?;
    let is_ours = |it: &ParameterChange| ours.contains(&it.version.version);
    let is_a_try = |it: &ParameterChange| {
        it.version.value == newest.version.value && (is_ours(it) || it.by.is_none())
    };
    let before = history
        .iter()
        .filter(|it| it.version.version > read && it.version.version < newest.version.version);
    let mut before: Vec<_> = before.collect();
    before.sort_by_key(|it| std::cmp::Reverse(it.version.version));
    let covered = before.into_iter().find(|it| !is_a_try(it))?;
    (!is_ours(covered)).then_some(covered)
}
