//! Whose everything is, from the world: what every change of a daemon is compared with.
//!
//! The world knows which execution's build made a distribution and which one last deployed into it. A
//! daemon sees of that what AWS shows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use embedded_aws::{Category, Decision, EmbeddedAws, Service};
use jiff::Timestamp;

use super::checker::{Checker, Deployment, Effect, Truth};
use super::executions::APPROVE;
use super::wire::Life;

/// Between the question and the change that it is asked for lies no more: five seconds in the limiter's
/// queue, three under its turn, and what the wire takes.
const ASKED_WITHIN: Duration = Duration::from_secs(12);

/// What stood in the way when a daemon asked who is at work.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Timestamp,
    /// Executions that ran an action from the deployment on, and those that ran one behind the approval.
    busy: Vec<String>,
    behind: Vec<String>,
    /// By distribution, whose it was then.
    owners: BTreeMap<String, String>,
}

impl Checker {
    /// What daemons are told of a world.
    pub(crate) fn knows(&self, deploy_stage: bool, times_tell: bool) {
        let mut truth = self.truth();
        (truth.deploy_stage, truth.times_tell) = (deploy_stage, times_tell);
    }

    /// The approval of a deployment was decided.
    pub(crate) fn decided(&self, number: usize, decision: &Decision) {
        let deployment = &mut self.truth().deployments[number];
        match decision {
            Decision::Rejected(_) | Decision::Expired => {
                deployment.rejected_again |= deployment.rejected || deployment.undecided;
                deployment.rejected = true;
                deployment.undecided = false;
            }
            Decision::Approved => deployment.approved = true,
            Decision::Misconfigured => {
                (deployment.undecided, deployment.undecided_once) = (true, true);
            }
        }
    }

    /// Somebody has done something to a service after which it cannot be told any more whose everything
    /// is, or should not be.
    pub(crate) fn excuse(&self, production_id: &str) {
        for deployment in &mut self.truth().deployments {
            deployment.excused |= deployment.service.production_id == production_id;
        }
    }
}

impl Truth {
    /// Looks at whose everything is now.
    pub(super) fn watch_owners(&mut self, aws: &EmbeddedAws) {
        for deployment in &mut self.deployments {
            deployment.service = aws.current(&deployment.service);
        }
        for distribution in aws.inventory().distributions {
            let (id, by) = (distribution.id, distribution.deployed_by.execution);
            if let Some(execution) = by.filter(|_| distribution.staging)
                && self.owners.get(&id) != Some(&execution)
            {
                // What a cleanup did to it before is undone.
                self.effects.retain(|(what, _), _| *what != id);
                self.owners.insert(id, execution);
            }
        }
        let told = self.deployments.iter().filter(|it| !it.excused);
        let all: BTreeSet<_> = told.map(|it| it.service.production_id.clone()).collect();
        for id in all {
            // Who asks nobody may disable what a promotion is about to copy; so may a pipeline's own cleanup.
            if aws.distribution(&id).is_none_or(|it| it.enabled) {
                self.off_without_us.remove(&id);
            } else if !self.disabled_beside(&id) {
                self.off_without_us.insert(id);
            } else if self.verify && !self.off_without_us.contains(&id) {
                self.fail(format!("production {id} is switched off"));
            }
        }
    }

    /// A daemon asks who is at work in a pipeline.
    pub(super) fn looked(&mut self, aws: &EmbeddedAws, life: &Life, pipeline: &str) {
        self.watch_owners(aws);
        let at = aws.now();
        let (mut busy, mut behind) = (Vec::new(), Vec::new());
        for execution in aws.executions(pipeline) {
            let mut passed = false;
            for run in &execution.actions {
                passed |= run.stage == APPROVE;
                let counts = !self.deploy_stage || run.stage != "Build";
                let works =
                    counts && !matches!(run.category, Category::Source | Category::Approval);
                if works && run.status == "InProgress" {
                    busy.push(execution.id.clone());
                    if passed {
                        behind.push(execution.id.clone());
                    }
                }
            }
        }
        let owners = self.owners.clone();
        let place = (life.owner.clone(), pipeline.to_owned());
        let look = Look {
            at,
            busy,
            behind,
            owners,
        };
        self.looks.insert(place, look);
    }

    /// Whose something is that a daemon is about to change: the deployment's number. At the moment of the
    /// question somebody else may have had no part in it yet.
    pub(super) fn whose(&self, life: &Life, distribution: &str) -> Result<usize, String> {
        let number = |execution: &String| {
            let all = self.deployments.iter();
            let mut all = all.enumerate();
            let found = all.find(|(_, it)| it.service.execution_id == *execution);
            found
                .filter(|(_, it)| it.rejected)
                .map(|(number, _)| number)
        };
        let owner = self.owners.get(distribution);
        let then = self
            .looks
            .iter()
            .filter(|((owner, _), _)| *owner == life.owner);
        let then = then.filter_map(|(_, look)| look.owners.get(distribution));
        owner
            .into_iter()
            .chain(then)
            .find_map(number)
            .ok_or_else(|| match owner {
                Some(owner) => {
                    format!("{distribution} is of execution {owner}, which was not rejected")
                }
                None => format!("{distribution} is nobody's"),
            })
    }

    /// Where pipelines play: the rejection stood, and nobody else was at work, when the daemon asked for
    /// this change.
    pub(super) fn questioned(
        &mut self,
        aws: &EmbeddedAws,
        life: &Life,
        number: usize,
        effect: Effect,
        (changed, distribution): (&str, &str),
    ) {
        let deployment = &self.deployments[number];
        let service = deployment.service.clone();
        let sent = (life.owner.clone(), changed.to_owned());
        let sent = self.sent.get(&sent).copied();
        let sent = sent.unwrap_or_else(|| aws.now());
        let late = |asked: Timestamp| sent.duration_since(asked).unsigned_abs() > ASKED_WITHIN;
        let asked = self
            .asked
            .get(&(life.owner.clone(), service.execution_id.clone()));
        match asked.copied() {
            // Of what a person began there is no rejection to ask about.
            _ if self.works_by_hand(life, number) => {}
            None => return self.fail(format!("{effect:?}: CodePipeline was not asked before")),
            Some(asked) if late(asked) => {
                let why = format!("{effect:?}: CodePipeline was asked at {asked}, sent at {sent}");
                return self.fail(why);
            }
            Some(asked) => {
                if let Some(since) = taken_back(aws, &service).filter(|since| *since < asked) {
                    let why = format!("{effect:?}: was taken back at {since}, asked at {asked}");
                    return self.fail(why);
                }
            }
        }
        let looks = self.looks.iter();
        let of_it =
            |it: &(&(String, String), &Look)| it.0.0 == life.owner && leads_to(&service, &it.0.1);
        let looks: Vec<_> = looks.filter(of_it).collect();
        let withdrawn = withdrawn_by_us(aws, &service.staging_parameter, distribution);
        let mut why = None;
        if looks.iter().all(|(_, look)| late(look.at)) {
            why = Some("nobody asked who is at work".to_owned());
        }
        for ((_, pipeline), look) in looks {
            // A distribution that the parameter does not name is nobody's to deploy into.
            let busy = match effect {
                Effect::Disabled if !withdrawn => &look.behind,
                _ => &look.busy,
            };
            let other = busy.iter().find(|it| **it != service.execution_id);
            if let Some(other) = other.filter(|_| !late(look.at)) {
                let at = look.at;
                why = Some(format!("{other} of {pipeline} was at work at {at}"));
            }
        }
        if let Some(why) = why {
            self.fail(format!("{effect:?} of {distribution}: {why}"));
        }
    }

    /// A write of the parameter: whose distribution it takes out of the slot; none if it puts one back.
    pub(super) fn withdrawn(
        &mut self,
        life: &Life,
        parameter: &str,
        value: &str,
        held: &str,
        aws: &EmbeddedAws,
    ) -> Result<Option<(usize, String)>, String> {
        if value == "deleted" {
            return match held {
                // A first try whose answer was lost.
                "deleted" | "dummy" => Ok(None),
                held => {
                    // If it was withdrawn before, somebody has named it again since.
                    let recorded = (held.to_owned(), Effect::Recorded);
                    self.effects.remove(&recorded);
                    self.whose(life, held)
                        .map(|number| Some((number, recorded.0)))
                }
            };
        }
        // What stood there before we wrote `deleted`: covered in a race, or ours again.
        let history = aws.parameter_history(parameter);
        let mut before = history.iter().rev().skip(1);
        let covering = before.next().is_some_and(|it| it.value == "deleted");
        let back = before.any(|it| it.value == value);
        if !covering || !back {
            return Err(format!("wrote {value} over {held}"));
        }
        if aws.distribution(value).is_none() {
            return Err(format!("wrote {value} back, which is gone"));
        }
        self.effects
            .retain(|(what, effect), _| what != value || *effect != Effect::Recorded);
        Ok(None)
    }
}

/// When a rejection was taken back: the newest attempt of an approval is another than a failed one.
pub(crate) fn taken_back(aws: &EmbeddedAws, service: &Service) -> Option<Timestamp> {
    let execution = aws.execution(service)?;
    let mut runs = execution.actions.iter();
    let latest = runs.rfind(|it| it.category == Category::Approval)?;
    match latest.status {
        "InProgress" => Some(latest.started),
        "Succeeded" => Some(latest.started),
        _ => None,
    }
}

impl Truth {
    /// Whether a daemon has disabled a staging distribution of a production distribution.
    fn disabled_beside(&self, production_id: &str) -> bool {
        let deployments = self.deployments.iter();
        let of_it = deployments.filter(|it| it.service.production_id == production_id);
        let executions: Vec<_> = of_it.map(|it| &it.service.execution_id).collect();
        let disabled = self.effects.keys();
        let mut disabled = disabled.filter(|(_, effect)| *effect == Effect::Disabled);
        disabled.any(|(id, _)| match self.owners.get(id) {
            Some(owner) => executions.contains(&owner),
            None => true,
        })
    }
}

/// Whether the parameter names a distribution, or named it until a cleanup withdrew it.
fn withdrawn_by_us(aws: &EmbeddedAws, parameter: &str, distribution: &str) -> bool {
    let history = aws.parameter_history(parameter);
    let mut history = history
        .iter()
        .rev()
        .skip_while(|it| it.value == "deleted" && it.by.execution.is_none());
    history.next().is_some_and(|it| it.value == distribution)
}

fn leads_to(service: &Service, pipeline: &str) -> bool {
    pipeline
        .strip_prefix(service.name.as_str())
        .is_some_and(|rest| rest.starts_with('-'))
}

/// What there still is of a deployment and is its own.
pub(crate) fn left_behind(aws: &EmbeddedAws, deployment: &Deployment) -> Option<String> {
    let execution = Some(&deployment.service.execution_id);
    let inventory = aws.inventory();
    let named = inventory
        .parameters
        .get(&deployment.service.staging_parameter);
    for distribution in &inventory.distributions {
        if distribution.staging && distribution.deployed_by.execution.as_ref() == execution {
            return Some(format!("staging distribution {}", distribution.id));
        }
    }
    for policy in &inventory.policies {
        let lists =
            |it: &&embedded_aws::DistributionView| policy.staging_domains.contains(&it.domain_name);
        let listed = inventory.distributions.iter().find(lists);
        if policy.made_by.execution.as_ref() == execution && listed.is_none() {
            return Some(format!("policy {}", policy.id));
        }
    }
    let gone = |id: &&String| {
        let mut all = inventory.distributions.iter();
        deployment.service.staging_id == **id && all.all(|it| it.id != **id)
    };
    named
        .filter(gone)
        .map(|_| format!("parameter {}", deployment.service.staging_parameter))
}
