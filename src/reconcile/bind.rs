//! Which distributions a job is about: found out once, and kept in the ledger.
//!
//! What the execution did decides ([`crate::domain::attribution`]). Where CodePipeline is not to be asked, the start
//! of the approval decides ([`crate::domain::binding::as_of`]).
//!
//! **Not handled.** The history of the production parameter is not read: a job is bound to what that parameter names
//! when the job is first worked on.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tracing::info;

use super::run::Run;
use super::{Done, Ended, Failure, Halt};
use crate::config::OnTimeout;
use crate::domain::attribution::{
    Attribution, Candidate, Evidence as Writes, NARROW, Others, OwnStaging, TakenOver, Undecidable,
    WhyNothing, attribute, build_of, own_candidates,
};
use crate::domain::binding::{
    AsOf, Binding, Evidence, ParameterChange, ParameterVersion, Slot, Staged, Subject, as_of,
    is_uncertain,
};
use crate::domain::decision::{Observed, Outcome, Refusal};
use crate::domain::executions::{Attempt, earlier};
use crate::domain::refusal::{Place, Which};
use crate::domain::verdict::{self, Doubt};
use crate::ledger::Bound;
use crate::telemetry::events;

/// In words: what is left, to whom, and what to do if it is not his. `policy_id`: what production names.
pub(super) fn left_to(taken: &[TakenOver], policy_id: Option<&str>, pipeline: &str) -> String {
    let each = taken.iter().map(|it| {
        format!(
            "staging distribution {} was last modified at {:.0}, while execution {} was at work, which is taken for \
             the one that deployed into it",
            it.id, it.modified_at, it.execution_id
        )
    });
    let ids = taken
        .iter()
        .map(|it| format!("staging distribution {}", it.id));
    let policy = policy_id.map(|id| format!("policy {id}, which production names"));
    format!(
        "{}; left: {}; if nobody deployed into it, `stagesweep clean {pipeline}` takes it down, and \
         `stagesweep orphans` lists what no parameter names",
        each.collect::<Vec<_>>().join("; "),
        ids.chain(policy).collect::<Vec<_>>().join(", ")
    )
}

/// An attribution, and what it goes by.
pub(super) struct Attributed {
    pub(super) attribution: Attribution,
    /// The versions of the staging parameter, the oldest first.
    versions: Vec<ParameterChange>,
    /// Those that stagesweep wrote.
    ours: BTreeSet<i64>,
}

impl Attributed {
    /// The number of the staging parameter's newest version.
    pub(super) fn newest_version(&self) -> i64 {
        let newest = self.versions.last();
        newest.map_or(0, |change| change.version.version)
    }
}

impl Run<'_> {
    /// Finds out which distributions the job is about; or that it is about none.
    pub(super) async fn resolve(&mut self) -> Result<Binding, Halt> {
        let production_id = self.production_id().await?;
        self.learned.is_about(&production_id);
        let mut binding = if let Some(named) = self.job.named() {
            bound_to(&production_id, &[OwnStaging::clone(named)])
        } else if self.context.settings.verify.is_some() {
            self.by_execution(&production_id).await?
        } else {
            self.by_time(&production_id).await?
        };
        let ended = self.job.cause() == verdict::Cause::EndedExecution;
        binding.evidence.subject = Some(Subject::of(
            self.job.rejection(),
            self.job.is_by_hand(),
            ended,
        ));
        Ok(binding)
    }

    async fn production_id(&self) -> Result<String, Halt> {
        let name = &self.parameters.production;
        let parameter = self.calls.call(|| self.clients.ssm.parameter(name)).await?;
        let parameter = parameter.as_ref();
        production_named(parameter).map_err(|refusal| {
            let detail = self.place().misleads(Which::Production, parameter);
            self.refuse(refusal, detail)
        })
    }

    /// Where the job's parameters are.
    pub(super) fn place(&self) -> Place<'_> {
        let access = &self.job.target().access;
        self.context.accounts.place(self.parameters, access)
    }

    /// By what the execution did.
    async fn by_execution(&mut self, production_id: &str) -> Result<Binding, Halt> {
        let Attributed {
            attribution,
            versions,
            ours,
        } = self.attributed().await?;
        if let Attribution::Own {
            staging,
            superseded,
            taken,
        } = attribution
        {
            let mut binding = bound_to(production_id, &staging);
            binding.evidence.left = self.left_to_others(production_id, &taken).await?;
            binding.evidence.superseded = superseded;
            binding.evidence.withdrawn = versions.last().is_some_and(|newest| {
                Slot::read(&newest.version.value) == Slot::Vacant
                    && ours.contains(&newest.version.version)
            });
            for index in 0..binding.count() {
                let seen = self.lookout.modified(&binding.about(index).staging_id);
                if let Some(modified) = seen {
                    binding.see(index, &modified);
                }
            }
            return Ok(binding);
        }
        if let Some(begun) = self.begun_before(production_id).await? {
            return Ok(begun);
        }
        Err(match attribution {
            Attribution::Nothing(why) => self.nothing(production_id, &versions, &why).await?,
            Attribution::Refused(undecidable) => self.undecidable(&undecidable),
            Attribution::Superseded { taken } => Ended::Succeeded(Done {
                outcome: Outcome::Superseded,
                detail: self.left_to_others(production_id, &taken).await?,
            })
            .into(),
            Attribution::Own { .. } | Attribution::AskOthers { .. } => {
                Ended::from(Outcome::Superseded).into()
            }
        })
    }

    /// Says of what is left because others are taken to have deployed into it, that it is: it may be the
    /// execution's after all, and nobody else takes it down then.
    async fn left_to_others(
        &self,
        production_id: &str,
        taken: &[TakenOver],
    ) -> Result<Option<String>, Halt> {
        if taken.is_empty() {
            return Ok(None);
        }
        let production = self
            .calls
            .call(|| self.clients.cloudfront.distribution(production_id))
            .await?;
        let policy = production.and_then(|production| production.policy_id);
        let pipeline = &self.job.rejection().pipeline.name;
        let detail = left_to(taken, policy.as_deref(), pipeline);
        self.context
            .telemetry
            .emit(events::LeftToOthers { detail: &detail });
        Ok(Some(detail))
    }

    /// What, of what is there, is the execution's own.
    pub(super) async fn attributed(&mut self) -> Result<Attributed, Halt> {
        self.job.activity.set("asking_codepipeline");
        let attempts = self.calls.call(|| self.calls.own_attempts()).await?;
        let ours = match verdict::attempt(self.job.rejection(), self.job.cause(), &attempts) {
            Ok((ours, true)) if self.context.settings.verify == Some(OnTimeout::Ignore) => {
                let code = ours.error_code.clone();
                return Err(self.ended_by(verdict::Verdict::Expired { code }));
            }
            Ok((ours, _)) => ours,
            Err(verdict) => return Err(self.ended_by(verdict)),
        };
        let Some(began) = ours.started_at else {
            return Err(self.calls.doubtful(Doubt::NoTime).into());
        };
        self.learned.learn(&attempts);
        let deploy_stage = self.job.target().deploy_stage.as_deref();
        let approval = (self.job.rejection().stage.as_str(), began);
        let own = own_candidates(&attempts, approval, deploy_stage);
        self.job.activity.set("reading_parameters");
        let versions = self.versions().await?;
        let ids = interesting(&versions, &own);
        let modified = self.modified(ids).await?;
        let ours = self.written_by_us(&versions).await;
        if own.is_empty() && self.is_rollback(&attempts, approval).await? {
            return Ok(Attributed {
                attribution: Attribution::Nothing(WhyNothing::RolledBack),
                versions,
                ours,
            });
        }
        let mut others = Others::default();
        loop {
            let evidence = Writes {
                versions: &versions,
                own: &own,
                others: &others,
                modified: &modified,
                written_by_us: &ours,
                grace: self.context.settings.grace,
            };
            let until = match attribute(&evidence) {
                Attribution::AskOthers { until } => until,
                attribution => {
                    return Ok(Attributed {
                        attribution,
                        versions,
                        ours,
                    });
                }
            };
            if others.until.is_some_and(|known| known >= until) {
                // Never: what is known of the others answers the question.
                return Err(self.calls.doubtful(Doubt::NoTime).into());
            }
            let first = own.first().map_or(until, |own| own.from);
            others = self.others(first, until).await?;
        }
    }

    /// The execution has no action that may have deployed: whether CodePipeline shows it as a rollback
    /// (ListPipelineExecutions). If it is none, and only the `deploy_stage` leaves out what it ran, that is refused.
    async fn is_rollback(
        &self,
        attempts: &[Attempt],
        approval: (&str, Timestamp),
    ) -> Result<bool, Halt> {
        let own = self.calls.own_pipeline();
        let pipelines = self.calls.pipelines(&own.access);
        let (name, id) = (&own.pipeline.name, self.job.execution_id());
        let began = attempts.iter().filter_map(|it| it.started_at).min();
        let began = began.unwrap_or(approval.1);
        let executions = || pipelines.executions_around(name, id, began);
        let executions = self.calls.call(executions).await?;
        if executions.iter().any(|it| it.id == id && it.is_rollback) {
            return Ok(true);
        }
        let ran = own_candidates(attempts, approval, None);
        match own.deploy_stage.as_deref().zip(ran.first()) {
            None => Ok(false),
            Some((stage, ran)) => {
                let detail = self.place().not_in_deploy_stage(stage, &ran.place);
                Err(self.refuse(Refusal::StagingNotWrittenByExecution, detail))
            }
        }
    }

    /// What an open job of the same execution is bound to, about an earlier attempt of its approval, if that
    /// one has changed CloudFront: what is seen there does not tell any more whose it was.
    async fn begun_before(&self, production_id: &str) -> Result<Option<Binding>, Halt> {
        let open = self.context.ledger.unfinished().await;
        let open = open.map_err(|error| Ended::Failed(Failure::Ledger(error)))?;
        let rejection = self.job.rejection();
        let begun = open.into_iter().find(|it| {
            let evidence = &it.binding.evidence;
            let subject = evidence.subject.as_ref();
            let same = |subject: &Subject| {
                subject.execution_id == rejection.execution_id
                    && subject.pipeline == rejection.pipeline.to_string()
            };
            let another = it.key != *self.job.grant.key();
            another && evidence.touched && subject.is_some_and(same)
        });
        let begun = begun.map(|it| it.binding);
        let begun = begun.filter(|it| it.production_id == production_id);
        Ok(begun.map(|begun| Binding {
            overwriting: None,
            evidence: Evidence {
                version: begun.evidence.version,
                more: begun.evidence.more,
                touched: true,
                detaching: begun.evidence.detaching,
                modified_at_ms: begun.evidence.modified_at_ms,
                etag: begun.evidence.etag,
                restored: begun.evidence.restored,
                withdrawn: true,
                ..Evidence::default()
            },
            ..begun
        }))
    }

    fn ended_by(&self, verdict: verdict::Verdict) -> Halt {
        match self.calls.ends("bind", verdict) {
            Err(Some(ended)) => ended.into(),
            Ok(()) | Err(None) => self.calls.doubtful(Doubt::NotFailed).into(),
        }
    }

    /// The versions of the staging parameter, the oldest first. The newest must name a distribution, or say
    /// that there is none.
    async fn versions(&mut self) -> Result<Vec<ParameterChange>, Halt> {
        let name = &self.parameters.staging;
        let kept = self.calls.call(|| self.clients.ssm.kept(name)).await?;
        let (mut versions, form) = kept;
        self.form = Some(form);
        versions.sort_by_key(|change| change.version.version);
        let newest = versions.last().map(|change| &change.version);
        staging_named(newest).map_err(|refusal| {
            let detail = self.place().misleads(Which::Staging, newest);
            self.refuse(refusal, detail)
        })?;
        Ok(versions)
    }

    /// When the distributions that exist were last modified.
    async fn modified(
        &mut self,
        ids: BTreeSet<String>,
    ) -> Result<BTreeMap<String, Option<Timestamp>>, Halt> {
        let (cloudfront, calls) = (&self.clients.cloudfront, self.calls);
        let looks = ids.into_iter().map(|id| async move {
            let seen = calls.call(|| cloudfront.look(&id)).await?;
            Ok::<_, Halt>((id, seen))
        });
        let mut modified = BTreeMap::new();
        for (id, seen) in try_join_all(looks).await? {
            if let Some(reading) = &seen.found {
                // A stale answer does not undo what was seen before.
                let at = reading.modified_at.max(self.lookout.modified_at(&id));
                modified.insert(id.clone(), at);
            }
            self.lookout.see(&id, seen);
        }
        Ok(modified)
    }

    /// The versions that stagesweep wrote, by the role of whoever wrote them.
    pub(super) async fn written_by_us(&self, versions: &[ParameterChange]) -> BTreeSet<i64> {
        let mut ours = BTreeSet::new();
        for change in versions {
            // A build is told by its UUID; nobody need ask whether it is stagesweep.
            if let Some(by) = change.by.as_deref().filter(|by| build_of(by).is_none())
                && self.context.accounts.is_ours(&self.account, by).await
            {
                ours.insert(change.version.version);
            }
        }
        ours
    }

    /// Nothing is the execution's: already clean, unless production names a policy while the slot is empty.
    async fn nothing(
        &self,
        production_id: &str,
        versions: &[ParameterChange],
        why: &WhyNothing,
    ) -> Result<Halt, Halt> {
        let newest = versions.last();
        let vacant = newest.is_some_and(|it| Slot::read(&it.version.value) == Slot::Vacant);
        if vacant {
            let production = self
                .calls
                .call(|| self.clients.cloudfront.distribution(production_id))
                .await?;
            if let Some(policy_id) = production.and_then(|production| production.policy_id) {
                let detail = self.place().policy_left(production_id, &policy_id);
                return Ok(self.refuse(Refusal::StagingNotWrittenByExecution, detail));
            }
        }
        info!(
            parameter = self.parameters.staging,
            owner.execution.id = match why {
                WhyNothing::RolledBack => None,
                WhyNothing::SlotOf(execution_id) => Some(execution_id),
            },
            "the rejected execution made no staging distribution"
        );
        Ok(Ended::from(Outcome::AlreadyClean).into())
    }

    pub(super) fn undecidable(&self, why: &Undecidable) -> Halt {
        let refusal = match why {
            Undecidable::WriterUnclear { .. } => Refusal::StagingWriterUnclear,
            Undecidable::NotWritten { .. } => Refusal::StagingNotWrittenByExecution,
            Undecidable::HistoryTooShort { .. } => Refusal::HistoryTooShort,
        };
        self.refuse(refusal, self.place().undecidable(why))
    }

    /// By the start of the approval: what the parameter held then.
    async fn by_time(&mut self, production_id: &str) -> Result<Binding, Halt> {
        let changes = self.versions().await?;
        let versions: Vec<_> = changes.iter().map(|it| it.version.clone()).collect();
        let rejection = self.job.rejection();
        let (moment, uncertainty) = (rejection.as_of, rejection.as_of_uncertainty);
        let AsOf::Version(version) = as_of(&versions, moment) else {
            let detail = self.place().begins_later(moment);
            return Err(self.refuse(Refusal::HistoryTooShort, detail));
        };
        if is_uncertain(&versions, moment, uncertainty) {
            let detail = self.place().just_written(moment, versions.last());
            return Err(self.refuse(Refusal::StagingParameterJustWritten, detail));
        }
        match staging_named(Some(version)) {
            Ok(Some(own)) => Ok(bound_to(production_id, &[own])),
            Ok(None) => match self.put_back_after(&changes, version).await {
                Some(own) => Ok(bound_to(production_id, &[own])),
                None => Err(Ended::from(Outcome::AlreadyClean).into()),
            },
            Err(refusal) => {
                let detail = self.place().misleads(Which::Staging, Some(version));
                Err(self.refuse(refusal, detail))
            }
        }
    }

    /// What the parameter names again after `version`, in which stagesweep had withdrawn it for a while.
    async fn put_back_after(
        &self,
        changes: &[ParameterChange],
        version: &ParameterVersion,
    ) -> Option<OwnStaging> {
        let around = changes.windows(3);
        let mut around = around.filter(|it| it[1].version.version == version.version);
        let [before, withdrawn, after] = around.next()? else {
            return None;
        };
        let both = [withdrawn.clone(), after.clone()];
        let ours = self.written_by_us(&both).await;
        if before.version.value != after.version.value || ours.len() < both.len() {
            return None;
        }
        staging_named(Some(&after.version)).ok().flatten()
    }

    /// Has the ledger keep the binding, and hold the production distribution.
    pub(super) async fn store(&self) -> Result<(), Halt> {
        match self.try_store().await? {
            Bound::Bound => Ok(()),
            Bound::ProductionBusy { until } => Err(Ended::ProductionBusy { until }.into()),
        }
    }

    pub(super) async fn try_store(&self) -> Result<Bound, Halt> {
        let bound = self.job.grant.bind(&self.binding).await;
        Ok(bound.map_err(|error| Ended::Failed(Failure::Ledger(error)))?)
    }
}

/// The distribution that the production parameter names.
pub(crate) fn production_named(parameter: Option<&ParameterVersion>) -> Result<String, Refusal> {
    match parameter.map(|it| Slot::read(&it.value)) {
        Some(Slot::Distribution(id)) => Ok(id.to_owned()),
        Some(Slot::Secure) => Err(Refusal::ParameterIsSecureString),
        None | Some(Slot::Vacant | Slot::Invalid) => Err(Refusal::ProductionParameterInvalid),
    }
}

/// The distribution that a version of the staging parameter names; `None` if it says that there is none.
pub(crate) fn staging_named(
    parameter: Option<&ParameterVersion>,
) -> Result<Option<OwnStaging>, Refusal> {
    let Some(ParameterVersion { value, version, .. }) = parameter else {
        return Err(Refusal::StagingParameterInvalid);
    };
    match Slot::read(value) {
        Slot::Distribution(id) => Ok(Some(OwnStaging {
            id: id.to_owned(),
            version: *version,
        })),
        Slot::Vacant => Ok(None),
        Slot::Secure => Err(Refusal::ParameterIsSecureString),
        Slot::Invalid => Err(Refusal::StagingParameterInvalid),
    }
}

pub(crate) fn bound_to(production_id: &str, staging: &[OwnStaging]) -> Binding {
    let staged = |own: &OwnStaging| Staged {
        id: own.id.clone(),
        domain: None,
        policy_id: None,
        version: own.version,
        modified_at_ms: None,
        etag: None,
        detaching: false,
    };
    let (newest, more) = match staging {
        [newest, more @ ..] => (Some(newest), more),
        [] => (None, staging),
    };
    Binding {
        production_id: production_id.to_owned(),
        staging_id: newest.map(|own| own.id.clone()).unwrap_or_default(),
        staging_domain: None,
        policy_id: None,
        overwriting: None,
        evidence: Evidence {
            version: newest.map_or(0, |own| own.version),
            more: more.iter().map(staged).collect(),
            ..Evidence::default()
        },
    }
}

/// The ids that may be the execution's: what was written since its first action began, and what the parameter
/// held then.
fn interesting(versions: &[ParameterChange], own: &[Candidate]) -> BTreeSet<String> {
    let Some(first) = own.first() else {
        return BTreeSet::new();
    };
    let from = earlier(first.from, NARROW);
    let since = |change: &&ParameterChange| {
        let at = change.version.modified_at;
        at.is_none_or(|at| at >= from)
    };
    let before = versions.iter().rfind(|change| !since(change));
    versions
        .iter()
        .filter(since)
        .chain(before)
        .filter_map(|change| match Slot::read(&change.version.value) {
            Slot::Distribution(id) => Some(id.to_owned()),
            _ => None,
        })
        .collect()
}

/// Notes what an observation tells beyond the parameters: where to find the policy later, when neither
/// production nor the staging distribution can tell any more.
pub(crate) fn complete(binding: &mut Binding, index: usize, observed: &Observed) {
    let known = binding.about(index).staging_domain;
    let domain = observed
        .staging
        .as_ref()
        .map(|it| it.domain.clone())
        .or(known);
    let own = domain.as_ref().and_then(|domain| {
        let mut policies = observed.policies.iter();
        policies.find(|policy| policy.staging_domains.contains(domain))
    });
    binding.learn(index, domain.as_ref(), own.map(|policy| &policy.id));
    if index == 0
        && let Some(production) = &observed.production
    {
        binding.evidence.production_enabled |= production.enabled;
    }
}
