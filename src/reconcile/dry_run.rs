//! What a rejection would do now, without doing any of it.
//!
//! [`look`] reads what a job would read, and is bound as a job would be, by the reconciler's own functions.
//! [`foresee`] then plays the job through: it asks the very decision core that the daemon asks
//! ([`crate::domain::decision::decide`]), applies each step to the observation as AWS would, and asks again, until the job would
//! end.
//!
//! **Assumptions.** Nobody else changes anything, every propagation comes to its end, and a listing would bear out
//! that a staging distribution which a reading does not show is gone.
//!
//! **Not handled.** A step that AWS refuses for a reason that no reading shows.

use futures_util::future::try_join_all;

use crate::aws::cloudfront::{CloudFront, Reading};
use crate::aws::{Account, AwsError};
use crate::domain::binding::{Binding, DELETED, Form, ParameterVersion};
use crate::domain::decision::{
    Decision, Observed, Outcome, Policy, Progress, Refusal, Step, Wait, decide,
};
use crate::domain::error_class::Conflict;
use crate::domain::refusal::{Place, Which};
use crate::domain::targets::Parameters;
use crate::reconcile::{
    Search, bound_to, complete, named_policies, production_named, staging_named,
};

/// No job takes as many steps and waits; more would mean that it goes in circles.
const MAX_STEPS: usize = 32;

/// What is there now.
#[derive(Clone, Debug)]
pub struct Found {
    /// The production parameter's newest version.
    pub production_parameter: Option<ParameterVersion>,
    /// The staging parameter's newest version.
    pub staging_parameter: Option<ParameterVersion>,
    /// Who wrote the staging parameter's newest version, where its history says.
    pub written_by: Option<String>,
    /// How the staging parameter is kept, as far as its history says.
    pub form: Form,
    /// The distribution that the production parameter names.
    pub production: Option<Reading>,
    /// The distribution that the staging parameter names.
    pub staging: Option<Reading>,
    /// The policies that either of them names, or that list the staging distribution.
    pub policies: Vec<Policy>,
    /// An open job of the target, which would be gone on with.
    pub resumes: Option<Binding>,
}

/// How a job would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Its steps and waits, in order.
    pub steps: Vec<Planned>,
    /// How it would end.
    pub end: End,
}

/// One thing that a job would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    Apply(Step),
    Wait(Wait),
}

impl Planned {
    /// Its name in logs and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Apply(step) => step.name(),
            Self::Wait(wait) => wait.name(),
        }
    }
}

/// How a job would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done(Outcome),
    /// A fence would refuse it.
    Refused(Refusal),
    /// It would wait for what others do.
    Open,
}

/// Reads what a job of a target with these parameters would read; one that goes on with an open job looks
/// at what that is bound to.
///
/// # Errors
/// [`AwsError`] if a call fails; the history of the staging parameter, which only tells who wrote
/// it, may be denied.
pub async fn look(
    account: &Account,
    parameters: &Parameters,
    resumes: Option<Binding>,
) -> Result<Found, AwsError> {
    let Account {
        cloudfront, ssm, ..
    } = account;
    let (production_parameter, staging_parameter) = tokio::try_join!(
        ssm.parameter(&parameters.production),
        ssm.parameter(&parameters.staging),
    )?;
    let (changes, form) = match &staging_parameter {
        None => Default::default(),
        Some(_) => ssm.kept(&parameters.staging).await.unwrap_or_default(),
    };
    let newest = staging_parameter.as_ref().map(|newest| newest.version);
    let written_by = changes
        .into_iter()
        .find(|change| Some(change.version.version) == newest)
        .and_then(|change| change.by);
    let (production_id, staging_id) = match &resumes {
        Some(bound) => (
            Some(bound.production_id.clone()),
            Some(bound.staging_id.clone()),
        ),
        None => (
            production_named(production_parameter.as_ref()).ok(),
            staging_named(staging_parameter.as_ref())
                .ok()
                .flatten()
                .map(|own| own.id),
        ),
    };
    let reading = |id: Option<String>| async move {
        match id {
            Some(id) => Ok(cloudfront.look(&id).await?.found),
            None => Ok::<_, AwsError>(None),
        }
    };
    let (production, staging) = tokio::try_join!(reading(production_id), reading(staging_id))?;
    let bound = resumes.clone().unwrap_or_default();
    let distributions = [&production, &staging].map(|it| it.as_ref().map(|it| &it.distribution));
    let ids = named_policies(&bound, distributions);
    let mut policies = read(cloudfront, ids).await?;
    if let Some(domain) = Search::default().wanted(&bound, distributions[1], &policies) {
        let found = cloudfront.policies_listing(domain).await?;
        policies.extend(read(cloudfront, found).await?);
    }
    Ok(Found {
        production_parameter,
        staging_parameter,
        written_by,
        form,
        production,
        staging,
        policies,
        resumes,
    })
}

async fn read(
    cloudfront: &CloudFront,
    ids: impl IntoIterator<Item = String>,
) -> Result<Vec<Policy>, AwsError> {
    let ids = ids.into_iter();
    let reads = ids.map(|id| async move { cloudfront.policy(&id).await });
    Ok(try_join_all(reads).await?.into_iter().flatten().collect())
}

impl Found {
    /// What a rejection would be bound to whose approval began now; or how it would end at once.
    ///
    /// # Errors
    /// The end, where there is nothing to be bound to.
    pub fn binding(&self) -> Result<Binding, End> {
        if let Some(bound) = &self.resumes {
            return Ok(bound.clone());
        }
        let production_id =
            production_named(self.production_parameter.as_ref()).map_err(End::Refused)?;
        match staging_named(self.staging_parameter.as_ref()).map_err(End::Refused)? {
            Some(own) => Ok(bound_to(&production_id, &[own])),
            None => Err(End::Done(Outcome::AlreadyClean)),
        }
    }

    /// What a rejection would do now.
    #[must_use]
    pub fn forecast(&self) -> Forecast {
        match self.binding() {
            Err(end) => Forecast {
                steps: Vec::new(),
                end,
            },
            Ok(mut binding) => {
                let observed = self.observed();
                complete(&mut binding, 0, &observed);
                let forecast = foresee(&binding, observed);
                let is_record =
                    |it: &Planned| matches!(it, Planned::Apply(Step::RecordDeleted { .. }));
                match forecast.steps.iter().any(is_record) && self.form.forbids(DELETED).is_some() {
                    true => Forecast {
                        steps: Vec::new(),
                        end: End::Refused(Refusal::DeletedNotAllowed),
                    },
                    false => forecast,
                }
            }
        }
    }

    /// Why it would be refused, in words.
    #[must_use]
    pub fn refused(&self, refusal: Refusal, place: Place<'_>) -> String {
        let production = self.production_parameter.as_ref();
        if refusal == Refusal::DeletedNotAllowed {
            return place.forbids_deleted(self.form.allowed_pattern.as_deref());
        }
        match self.binding() {
            Err(_) if production_named(production).is_err() => {
                place.misleads(Which::Production, production)
            }
            Err(_) => place.misleads(Which::Staging, self.staging_parameter.as_ref()),
            Ok(binding) => place.fence(refusal, &binding, &self.observed()),
        }
    }

    fn observed(&self) -> Observed {
        let distribution =
            |reading: &Option<Reading>| reading.as_ref().map(|it| it.distribution.clone());
        Observed {
            production: distribution(&self.production),
            staging: distribution(&self.staging),
            policies: self.policies.clone(),
            parameter: self.staging_parameter.clone(),
            listed_gone: true,
        }
    }
}

/// Plays a job through from what is observed now.
#[must_use]
pub fn foresee(binding: &Binding, mut observed: Observed) -> Forecast {
    let mut progress = Progress::default();
    let mut steps = Vec::new();
    while steps.len() < MAX_STEPS {
        match decide(binding, &observed, &progress) {
            Decision::Done(outcome) => {
                let end = End::Done(outcome);
                return Forecast { steps, end };
            }
            Decision::Refuse(refusal) => {
                let end = End::Refused(refusal);
                return Forecast { steps, end };
            }
            Decision::Wait(wait) => {
                pass(&wait, &mut observed, &mut progress);
                // A mere second look is nothing that a person plans with.
                if wait != Wait::LookAgain {
                    steps.push(Planned::Wait(wait));
                }
            }
            // It is tried, costs nothing, and is refused until the detach has propagated.
            Decision::Apply(Step::DeletePolicy { .. }) if in_progress(&observed) => {
                progress.conflict = Some(Conflict::PolicyInUse);
            }
            Decision::Apply(step) => {
                apply(&step, &mut observed, &mut progress);
                steps.push(Planned::Apply(step));
            }
        }
    }
    Forecast {
        steps,
        end: End::Open,
    }
}

fn in_progress(observed: &Observed) -> bool {
    observed.production.as_ref().is_some_and(|it| !it.deployed)
}

/// What the account shows after a change was accepted.
fn apply(step: &Step, observed: &mut Observed, progress: &mut Progress) {
    progress.conflict = None;
    match step {
        Step::Detach(detachable) => {
            progress.detached = Some(detachable.policy_id().to_owned());
            if let Some(production) = &mut observed.production {
                production.policy_id = None;
                production.deployed = false;
            }
        }
        Step::DeletePolicy { policy_id, .. } => {
            progress.policy_deleted = Some(policy_id.clone());
            observed.policies.retain(|policy| policy.id != *policy_id);
        }
        Step::DisableStaging(_) => {
            progress.disabled = true;
            if let Some(staging) = &mut observed.staging {
                staging.enabled = false;
                staging.deployed = false;
            }
        }
        Step::DeleteStaging(_) => {
            progress.staging_deleted = true;
            observed.staging = None;
        }
        Step::RecordDeleted { version } => {
            progress.recorded = Some(version + 1);
            observed.parameter = Some(ParameterVersion {
                value: DELETED.to_owned(),
                version: version + 1,
                modified_at: None,
            });
        }
    }
}

/// What the account shows once the wait is over.
fn pass(wait: &Wait, observed: &mut Observed, progress: &mut Progress) {
    progress.conflict = None;
    let (production, staging) = (&mut observed.production, &mut observed.staging);
    let deployed = |distribution: &mut Option<crate::domain::decision::Distribution>| {
        if let Some(distribution) = distribution {
            distribution.deployed = true;
        }
    };
    match wait {
        Wait::BothDeployed => {
            deployed(production);
            deployed(staging);
        }
        Wait::Detached { policy_id } => {
            deployed(production);
            if let Some(production) = production
                && production.policy_id == *policy_id
            {
                production.policy_id = None;
            }
        }
        Wait::StagingDeployed | Wait::StagingDisabled => deployed(staging),
        Wait::StagingGone => *staging = None,
        Wait::LookAgain | Wait::PolicyUnused { .. } | Wait::Evidence => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::binding::Evidence;
    use crate::domain::decision::Distribution;
    use proptest::prelude::*;

    fn distribution(id: &str, staging: bool, deployed: bool) -> Distribution {
        Distribution {
            id: id.to_owned(),
            domain: format!("{id}.cloudfront.net"),
            etag: "ETAG".to_owned(),
            deployed,
            enabled: true,
            staging,
            aliases: 0,
            policy_id: None,
        }
    }

    fn binding() -> Binding {
        Binding {
            production_id: "EPRODUCTION".to_owned(),
            staging_id: "ESTAGING".to_owned(),
            staging_domain: Some("ESTAGING.cloudfront.net".to_owned()),
            policy_id: None,
            overwriting: None,
            evidence: Evidence {
                version: 2,
                ..Evidence::default()
            },
        }
    }

    fn observed() -> Observed {
        let mut production = distribution("EPRODUCTION", false, true);
        production.policy_id = Some("policy".to_owned());
        Observed {
            production: Some(production),
            staging: Some(distribution("ESTAGING", true, true)),
            policies: vec![Policy {
                id: "policy".to_owned(),
                etag: "ETAG".to_owned(),
                staging_domains: vec!["ESTAGING.cloudfront.net".to_owned()],
            }],
            parameter: Some(ParameterVersion {
                value: "ESTAGING".to_owned(),
                version: 2,
                modified_at: None,
            }),
            listed_gone: true,
        }
    }

    fn names(forecast: &Forecast) -> Vec<&'static str> {
        forecast.steps.iter().map(Planned::name).collect()
    }

    #[test]
    fn a_whole_cleanup_is_foreseen_in_the_safe_order() {
        let forecast = foresee(&binding(), observed());
        let whole = [
            "record_deleted",
            "detach_policy",
            "detach_propagated",
            "delete_policy",
            "disable_staging",
            "disable_propagated",
            "delete_staging",
        ];
        assert_eq!(names(&forecast), whole);
        assert_eq!(forecast.end, End::Done(Outcome::Cleaned));

        // Stopped in the middle: what is left of it.
        let mut stopped = observed();
        stopped.policies.clear();
        let production = stopped.production.as_mut().unwrap();
        (production.policy_id, production.deployed) = (None, false);
        stopped.parameter.as_mut().unwrap().value = "deleted".to_owned();
        let forecast = foresee(&binding(), stopped);
        assert_eq!(names(&forecast)[0], "detach_propagated");
        assert_eq!(names(&forecast)[1..], whole[4..]);
    }

    #[test]
    fn a_fence_is_foreseen_too() {
        let mut shared = observed();
        shared.policies[0]
            .staging_domains
            .push("other.cloudfront.net".to_owned());
        let forecast = foresee(&binding(), shared);
        assert_eq!(forecast.end, End::Refused(Refusal::PolicyShared));
        assert_eq!(forecast.steps, []);
    }

    proptest! {
        /// Whatever is found, the forecast ends, and never in the open.
        #[test]
        fn every_forecast_ends(
            production in prop::option::of((any::<bool>(), any::<bool>(), any::<bool>())),
            staging in prop::option::of((any::<bool>(), any::<bool>(), any::<bool>())),
            policy in prop::option::of(any::<bool>()),
            value in prop::option::of(prop::sample::select(vec!["ESTAGING", "deleted", "EOTHER1"])),
        ) {
            let observed = Observed {
                production: production.map(|(deployed, named, staging)| Distribution {
                    policy_id: named.then(|| "policy".to_owned()),
                    ..distribution("EPRODUCTION", staging, deployed)
                }),
                staging: staging.map(|(deployed, enabled, staging)| Distribution {
                    enabled,
                    ..distribution("ESTAGING", staging, deployed)
                }),
                policies: policy.into_iter().map(|ours| Policy {
                    id: "policy".to_owned(),
                    etag: "ETAG".to_owned(),
                    staging_domains: vec![if ours { "ESTAGING.cloudfront.net" } else { "other" }.to_owned()],
                }).collect(),
                parameter: value.map(|value| ParameterVersion {
                    value: value.to_owned(),
                    version: 2,
                    modified_at: None,
                }),
                listed_gone: true,
            };
            let forecast = foresee(&binding(), observed);
            prop_assert!(forecast.steps.len() < MAX_STEPS);
            prop_assert_ne!(forecast.end, End::Open);
        }
    }
}
