//! The account of the model: one production distribution, into which two executions deployed, the newer after the older.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{EXECUTIONS, NEWER};
use crate::domain::binding::{Binding, Evidence, ParameterVersion};
use crate::domain::decision::{
    Decision, Distribution, Observed, Outcome, Policy, Progress, Step, decide,
};

const PRODUCTION: &str = "EPRODUCTION";
const STAGING: [&str; EXECUTIONS] = ["EOLDER", "ENEWER"];
const DOMAINS: [&str; EXECUTIONS] = ["older.cloudfront.net", "newer.cloudfront.net"];
const POLICY: &str = "policy";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Staging {
    pub(super) enabled: bool,
    pub(super) deployed: bool,
}

/// The policy lists the newer staging distribution, which the parameter names in its second version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) named: bool,
    pub(super) deployed: bool,
    pub(super) policy: bool,
    pub(super) recorded: bool,
    pub(super) staging: [Option<Staging>; EXECUTIONS],
}

/// What a job does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Next {
    Record,
    Detach,
    DeletePolicy,
    Disable,
    Delete,
    Finish(Outcome),
}

/// What a run has seen accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Accepted(u8);

impl Accepted {
    pub(super) fn with(self, step: Next) -> Self {
        Self(self.0 | Self::bit(step))
    }

    fn has(self, step: Next) -> bool {
        self.0 & Self::bit(step) != 0
    }

    fn bit(step: Next) -> u8 {
        match step {
            Next::Record => 1,
            Next::Detach => 2,
            Next::DeletePolicy => 4,
            Next::Disable => 8,
            Next::Delete => 16,
            Next::Finish(_) => 0,
        }
    }
}

/// What a call to the account came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Done,
    /// It is refused: what was seen is no more.
    Conflict,
    /// It is not about what the execution made, or was made before.
    Forbidden,
}

pub(super) fn binding(execution: usize, changed: bool) -> Binding {
    Binding {
        production_id: PRODUCTION.to_owned(),
        staging_id: STAGING[execution].to_owned(),
        staging_domain: Some(DOMAINS[execution].to_owned()),
        policy_id: None,
        overwriting: None,
        evidence: Evidence {
            version: 1 + i64::from(execution == NEWER),
            changed,
            production_enabled: true,
            ..Evidence::default()
        },
    }
}

/// What the job of an execution decides: a world, the execution, whether it is known to have changed something, and
/// what this run has seen accepted.
type Question = (World, usize, bool, Accepted);

/// What was decided, or nothing for now; a refusal is an error.
type Decided = Result<Option<Next>, ()>;

/// The program's decisions, made once for each different question.
#[derive(Debug, Default)]
pub(super) struct Decisions(Mutex<HashMap<Question, Decided>>);

impl Decisions {
    pub(super) fn next(
        &self,
        world: World,
        execution: usize,
        changed: bool,
        accepted: Accepted,
    ) -> Decided {
        let question = (world, execution, changed, accepted);
        let mut known = self.0.lock();
        *known
            .entry(question)
            .or_insert_with(|| world.next(execution, changed, accepted))
    }
}

impl World {
    pub(super) const fn new() -> Self {
        let staging = Some(Staging {
            enabled: true,
            deployed: true,
        });
        Self {
            named: true,
            deployed: true,
            policy: true,
            recorded: false,
            staging: [staging; EXECUTIONS],
        }
    }

    /// Production is left: the name is recorded, and the policy detached and deleted.
    pub(super) const fn detached() -> Self {
        Self {
            named: false,
            policy: false,
            recorded: true,
            ..Self::new()
        }
    }

    /// And the staging distributions are disabled.
    pub(super) const fn disabled() -> Self {
        let staging = Some(Staging {
            enabled: false,
            deployed: true,
        });
        Self {
            staging: [staging; EXECUTIONS],
            ..Self::detached()
        }
    }

    /// Everything has propagated.
    pub(super) fn propagate(&mut self) {
        self.deployed = true;
        for staging in self.staging.iter_mut().flatten() {
            staging.deployed = true;
        }
    }

    fn next(&self, execution: usize, changed: bool, accepted: Accepted) -> Decided {
        let progress = Progress {
            detached: accepted.has(Next::Detach).then(|| POLICY.to_owned()),
            policy_deleted: accepted.has(Next::DeletePolicy).then(|| POLICY.to_owned()),
            disabled: accepted.has(Next::Disable),
            staging_deleted: accepted.has(Next::Delete),
            recorded: accepted.has(Next::Record).then_some(3),
            conflict: None,
        };
        match decide(
            &binding(execution, changed),
            &self.observed(execution),
            &progress,
        ) {
            Decision::Apply(step) => Ok(Some(match step {
                Step::RecordDeleted { .. } => Next::Record,
                Step::Detach(_) => Next::Detach,
                Step::DeletePolicy { .. } => Next::DeletePolicy,
                Step::DisableStaging(_) => Next::Disable,
                Step::DeleteStaging(_) => Next::Delete,
            })),
            Decision::Wait(_) => Ok(None),
            Decision::Done(outcome) => Ok(Some(Next::Finish(outcome))),
            Decision::Refuse(_) => Err(()),
        }
    }

    fn observed(&self, execution: usize) -> Observed {
        let distribution = |id: &str, domain: &str, staging, enabled, deployed| Distribution {
            id: id.to_owned(),
            domain: domain.to_owned(),
            etag: String::new(),
            deployed,
            enabled,
            staging,
            aliases: 0,
            policy_id: None,
        };
        let mut production = distribution(
            PRODUCTION,
            "shop.cloudfront.net",
            false,
            true,
            self.deployed,
        );
        production.policy_id = self.named.then(|| POLICY.to_owned());
        let policy = self.policy.then(|| Policy {
            id: POLICY.to_owned(),
            etag: String::new(),
            staging_domains: vec![DOMAINS[NEWER].to_owned()],
        });
        let own = self.staging[execution];
        Observed {
            production: Some(production),
            staging: own.map(|it| {
                distribution(
                    STAGING[execution],
                    DOMAINS[execution],
                    true,
                    it.enabled,
                    it.deployed,
                )
            }),
            policies: policy.into_iter().collect(),
            parameter: Some(ParameterVersion {
                value: if self.recorded {
                    "deleted"
                } else {
                    STAGING[NEWER]
                }
                .to_owned(),
                version: if self.recorded { 3 } else { 2 },
                modified_at: None,
            }),
            listed_gone: own.is_none(),
        }
    }

    /// Makes a change; each is conditional on the one state that it was decided upon.
    pub(super) fn change(&mut self, execution: usize, step: Next) -> Effect {
        let of_production = matches!(step, Next::Record | Next::Detach | Next::DeletePolicy);
        if of_production && execution != NEWER || step == Next::Record && self.recorded {
            return Effect::Forbidden;
        }
        let own = &mut self.staging[execution];
        match (step, own) {
            (Next::Record, _) => self.recorded = true,
            (Next::Detach, _) if self.named => (self.named, self.deployed) = (false, false),
            (Next::DeletePolicy, _) if self.policy && !self.named => self.policy = false,
            (Next::Disable, Some(own)) if own.enabled => {
                (own.enabled, own.deployed) = (false, false)
            }
            (
                Next::Delete,
                own @ Some(Staging {
                    enabled: false,
                    deployed: true,
                }),
            ) => *own = None,
            _ => return Effect::Conflict,
        }
        Effect::Done
    }
}
