//! Stories in which a simpler cleanup does harm: what happened before, and how each must end.
//!
//! The embedded AWS plays what happened before, on a clock that is set back; the daemon comes in the
//! present. How a story must end is held against the embedded AWS's own record of the calls, and against
//! what there was before the daemon came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::report::Job;
use super::scene::Scene;
use crate::domain::binding::DELETED;
use crate::domain::words::counted;
use crate::runtime::clock::Clock;
use embedded_aws::{
    Definition, EmbeddedAws, Entry, Failure, Faults, Mode, Pattern, Retry, Service, Settings, Shape,
};

/// How long AWS throttles in that scenario.
pub(super) const THROTTLED: Duration = Duration::from_secs(3);

/// How long before the daemon each story begins.
const MINUTES: i64 = 180;

/// The service that all stories are about.
const SERVICE: &str = "demo-1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scenario {
    /// The daemon is killed between two steps, and a second one goes on.
    Crash,
    /// A newer execution has deployed when the older one is rejected.
    Superseded,
    /// An execution waited before its approval while a newer one deployed.
    Queued,
    /// Every deployment goes into one distribution, and the rejection comes late.
    Reused,
    /// The staging parameter names the production distribution.
    Fence,
    /// The reviewer retried the stage and approved.
    PromotedAfterAll,
    /// AWS throttles three calls in ten for a while.
    Throttled,
}

/// Something that must stay as it is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Spared {
    pub(super) id: String,
    pub(super) what: &'static str,
}

/// Who plays in a story, and how it must end.
pub(super) struct Cast {
    /// What is rejected, oldest first, each with its event.
    pub(super) rejected: Vec<(Service, String)>,
    /// Operation and resource of every change that must be made, for each rejection in its order.
    changes: Vec<Vec<(&'static str, String)>>,
    /// How each job ends.
    end: &'static str,
    dead_letters: usize,
    pub(super) spared: Vec<Spared>,
    pub(super) why: String,
}

impl Scenario {
    /// The story, in at most five lines.
    pub(super) fn story(self) -> &'static str {
        match self {
            Self::Crash => {
                "A deployment is rejected. The daemon records `deleted` and detaches the policy from\n\
                 production. Then it is killed with SIGKILL, while the detach propagates.\n\
                 Whoever only looks at production then finds no policy, and does not know what is left.\n\
                 A second daemon begins with the same ledger: it must finish, and repeat nothing."
            }
            Self::Superseded => {
                "Execution A has deployed and waits at its approval. Execution B, a newer one, deploys:\n\
                 it attaches a policy of its own and writes its own id to the staging parameter.\n\
                 Then A is rejected. The parameter names what B deployed, and nobody has reviewed.\n\
                 What is A's own must go, and nothing of B's may be touched."
            }
            Self::Queued => {
                "Executions follow one another (QUEUED): C is at the approval, and A waits before it.\n\
                 B deploys meanwhile. C is rejected; so A's approval opens, and A is rejected.\n\
                 When A's approval began, the parameter named what B deployed, and it still does.\n\
                 What is C's and A's own must go, and nothing of B's may be touched."
            }
            Self::Reused => {
                "Every deployment goes into one staging distribution, again and again; the parameter\n\
                 was written once. A is rejected, but its message is late: B has deployed into the\n\
                 distribution since, and its reviewer looks at it. The parameter names it as ever.\n\
                 The daemon must refuse and touch nothing; the message must end as a dead letter."
            }
            Self::Fence => {
                "A deployment wrote a wrong id: the staging parameter names the production distribution.\n\
                 The deployment is rejected. A script would disable and delete what it finds there.\n\
                 The daemon must refuse and touch nothing; the message must end as a dead letter."
            }
            Self::PromotedAfterAll => {
                "A reviewer rejects, thinks again, retries the stage two minutes later, and approves.\n\
                 What was rejected is promoted to production. Only now comes the rejection's message.\n\
                 The rejection does not stand any more: nothing may be touched."
            }
            Self::Throttled => {
                "A deployment is rejected, and for three seconds AWS throttles three calls in ten.\n\
                 The daemon slows down, and nothing is given up: all of the deployment must go,\n\
                 each step once, in the safe order."
            }
        }
    }

    /// So often a message is received at most.
    pub(super) fn max_receives(self) -> u32 {
        match self {
            Self::Fence | Self::Reused => 3,
            _ => 20,
        }
    }

    /// What goes wrong with calls.
    pub(super) fn faults(self) -> Faults {
        Faults {
            throttle: if self == Self::Throttled { 0.3 } else { 0.0 },
            ..Faults::none()
        }
    }

    /// Plays what happened before the daemon came.
    pub(super) fn play(self, past: &Past) -> anyhow::Result<Cast> {
        let played = match self {
            Self::Crash => past
                .rejected("the ledger says what the job is about, and the account how far it is"),
            Self::Throttled => past.rejected("a throttled call changes nothing, and is made again"),
            Self::Superseded => past.superseded(),
            Self::Queued => past.queued(),
            Self::Reused => past.reused(),
            Self::Fence => past.fence(),
            Self::PromotedAfterAll => past.promoted_after_all(),
        };
        past.ahead_ms.store(0, Ordering::Relaxed);
        played.map_err(|failure| anyhow::anyhow!("{}: {}", failure.code, failure.message))
    }
}

/// An embedded AWS before the daemon came.
pub(super) struct Past {
    pub(super) aws: EmbeddedAws,
    /// How far its clock is ahead of the real one: less than zero until the present.
    ahead_ms: Arc<AtomicI64>,
}

impl Past {
    pub(super) fn new(settings: Settings) -> Self {
        let ahead_ms = Arc::new(AtomicI64::new(-MINUTES * 60_000));
        let now = Clock::following_tokio(Clock::system().now());
        let clock = now.on_another_machine(Arc::clone(&ahead_ms));
        Self {
            aws: EmbeddedAws::new(clock, settings),
            ahead_ms,
        }
    }

    fn minutes_pass(&self, minutes: i64) {
        self.ahead_ms.fetch_add(minutes * 60_000, Ordering::Relaxed);
    }

    /// A service whose first deployment waits at its approval.
    fn service(&self, mode: Mode) -> Result<Service, Failure> {
        let shape = Shape {
            definition: Definition::default().in_mode(mode),
            ..Shape::default()
        };
        self.aws.create_service_as(SERVICE, &shape)
    }

    /// Another execution, which deploys and goes as far as it may.
    fn deployed(&self, of: &Service) -> Result<Service, Failure> {
        self.minutes_pass(1);
        let execution = self.aws.start_execution(of);
        self.minutes_pass(1);
        let deployed = self.aws.run_to(&execution, "Approve")?;
        self.minutes_pass(10);
        Ok(deployed)
    }

    /// Another execution, which deploys into the distribution that there is.
    fn deployed_into(&self, of: &Service) -> Result<Service, Failure> {
        self.minutes_pass(1);
        let execution = self.aws.start_execution(of);
        self.minutes_pass(1);
        self.aws.run_to(&execution, "Deploy")?;
        self.minutes_pass(1);
        let deployed = self.aws.deploy(&execution, Pattern::ReuseRecordedOnce)?;
        self.minutes_pass(10);
        Ok(deployed)
    }

    fn rejects(&self, service: &Service) -> Result<(Service, String), Failure> {
        let body = self.aws.reject(service)?;
        Ok((self.aws.current(service), body))
    }

    fn rejected(&self, why: &str) -> Result<Cast, Failure> {
        let a = self.service(Mode::Superseded)?;
        let mut changes = vec![
            ("PutParameter", a.staging_parameter.clone()),
            ("UpdateDistribution", a.production_id.clone()),
        ];
        changes.extend(own_changes(&a));
        Ok(Cast {
            changes: vec![changes],
            end: "cleaned",
            dead_letters: 0,
            spared: vec![Spared {
                id: a.production_id.clone(),
                what: "the production distribution, but for its policy's id",
            }],
            why: why.to_owned(),
            rejected: vec![self.rejects(&a)?],
        })
    }

    fn superseded(&self) -> Result<Cast, Failure> {
        let a = self.service(Mode::Superseded)?;
        let b = self.deployed(&a)?;
        let rejected = vec![self.rejects(&a)?];
        Ok(overtaken(rejected, &b))
    }

    fn queued(&self) -> Result<Cast, Failure> {
        let c = self.service(Mode::Queued)?;
        let a = self.deployed(&c)?;
        let b = self.deployed(&c)?;
        let first = self.rejects(&c)?;
        self.minutes_pass(10);
        Ok(overtaken(vec![first, self.rejects(&a)?], &b))
    }

    fn reused(&self) -> Result<Cast, Failure> {
        let first = self.service(Mode::Superseded)?;
        self.aws.approve(&first)?;
        self.minutes_pass(60);
        let a = self.deployed_into(&first)?;
        let late = self.rejects(&a)?;
        let b = self.deployed_into(&first)?;
        let why = format!(
            "execution B ({}) was the last to deploy into {}",
            b.execution_id, b.staging_id
        );
        Ok(Cast {
            rejected: vec![late],
            changes: vec![Vec::new()],
            end: "staging_not_written_by_execution",
            dead_letters: 1,
            spared: all_of(&b),
            why,
        })
    }

    fn fence(&self) -> Result<Cast, Failure> {
        let a = self.service(Mode::Superseded)?;
        // As its deployment did: in the session of the build that wrote the right id.
        let versions = self.aws.parameter_history(&a.staging_parameter);
        let by = versions.last().map_or("", |latest| &latest.by.arn);
        self.aws
            .put_parameter_as(&a.staging_parameter, &a.production_id, by);
        self.minutes_pass(1);
        let mut spared = all_of(&a);
        spared.push(production(&a));
        Ok(Cast {
            changes: vec![Vec::new()],
            end: "staging_is_production",
            dead_letters: 1,
            spared,
            why: format!("both parameters name {}", a.production_id),
            rejected: vec![self.rejects(&a)?],
        })
    }

    fn promoted_after_all(&self) -> Result<Cast, Failure> {
        let a = self.service(Mode::Superseded)?;
        let rejected = self.rejects(&a)?;
        self.minutes_pass(2);
        self.aws.retry(&a, "Approve", Retry::FailedActions)?;
        self.minutes_pass(1);
        self.aws.approve(&a)?;
        self.minutes_pass(30);
        let mut spared = all_of(&a);
        spared.push(production(&a));
        Ok(Cast {
            rejected: vec![rejected],
            changes: vec![Vec::new()],
            end: "retracted",
            dead_letters: 0,
            spared,
            why: "the approval was given in its second attempt".to_owned(),
        })
    }
}

/// The rejected ones go, and what the newer execution B deployed is spared.
fn overtaken(rejected: Vec<(Service, String)>, b: &Service) -> Cast {
    Cast {
        changes: rejected.iter().map(|it| own_changes(&it.0)).collect(),
        end: "superseded",
        dead_letters: 0,
        spared: all_of(b),
        why: format!(
            "execution B ({}) wrote {} to the parameter, in a build of its own",
            b.execution_id, b.staging_id
        ),
        rejected,
    }
}

/// What is changed of a deployment whose policy production does not name.
fn own_changes(of: &Service) -> Vec<(&'static str, String)> {
    vec![
        ("DeleteContinuousDeploymentPolicy", of.policy_id.clone()),
        ("UpdateDistribution", of.staging_id.clone()),
        ("DeleteDistribution", of.staging_id.clone()),
    ]
}

fn production(of: &Service) -> Spared {
    Spared {
        id: of.production_id.clone(),
        what: "the production distribution",
    }
}

fn all_of(service: &Service) -> Vec<Spared> {
    let things = [
        (&service.staging_id, "the staging distribution"),
        (&service.policy_id, "its policy, attached to production"),
        (&service.staging_parameter, "the staging parameter"),
    ];
    things
        .map(|(id, what)| Spared {
            id: id.clone(),
            what,
        })
        .into()
}

/// Everything that there is, by its id or name: a distribution's and a policy's ETag, a parameter's value.
pub(super) fn everything(aws: &EmbeddedAws) -> BTreeMap<String, String> {
    let inventory = aws.inventory();
    let distributions = inventory
        .distributions
        .into_iter()
        .map(|it| (it.id, it.etag));
    let policies = inventory.policies.into_iter().map(|it| (it.id, it.etag));
    let things = distributions.chain(policies);
    things.chain(inventory.parameters).collect()
}

impl Cast {
    /// What is not as the story must end. `before` is [`everything`] before the daemon came.
    pub(super) fn deviations(
        &self,
        aws: &EmbeddedAws,
        before: &BTreeMap<String, String>,
        jobs: &[Job],
        (queued, dead): (usize, usize),
    ) -> Vec<String> {
        let mut found = Vec::new();
        for job in jobs {
            if job.reason != Some(self.end) {
                let end = job.reason.unwrap_or("nothing");
                found.push(format!(
                    "{} of execution {} came to {end}, not to {}",
                    job.pipeline, job.execution_id, self.end
                ));
            }
        }
        let made = aws.journal().mutations();
        for changes in &self.changes {
            let about = |entry: &&Entry| changes.iter().any(|it| entry.about(&it.1));
            let mut made = made.iter().filter(about).map(change);
            let expected = changes
                .iter()
                .map(|(operation, id)| (*operation, id.as_str()));
            if !made.by_ref().eq(expected) {
                let made: Vec<_> = aws
                    .journal()
                    .mutations()
                    .iter()
                    .map(Entry::to_string)
                    .collect();
                found.push(format!("the changes are not the expected ones: {made:?}"));
            }
        }
        for entry in made.iter().filter(|it| it.is("UpdateDistribution")) {
            let said = entry.change.as_ref().map_or("", |it| &it.description);
            // One element, and no other.
            if said.contains(',') || !said.ends_with(" detached") && said != "Enabled true -> false"
            {
                found.push(format!("more was changed than must be: {entry}"));
            }
        }
        let mut changed = self.changes.iter().flatten();
        if made.len() != changed.clone().count() {
            found.push(format!("{} changes were made", made.len()));
        }
        let now = everything(aws);
        for (id, was) in before {
            let spared = !changed.clone().any(|(_, it)| it == id);
            if spared && now.get(id) != Some(was) {
                found.push(format!("{id} is not as it was"));
            }
        }
        for (operation, id) in changed.by_ref() {
            let left = operation.starts_with("Delete") && now.contains_key(id);
            if left || *operation == "PutParameter" && now.get(id).is_none_or(|it| it != DELETED) {
                found.push(format!("{id} is still there"));
            }
        }
        if (queued, dead) != (0, self.dead_letters) {
            found.push(format!(
                "{queued} messages are on the queue and {dead} in the dead-letter queue, instead of 0 and {}",
                self.dead_letters
            ));
        }
        found
    }
}

fn change(entry: &Entry) -> (&str, &str) {
    let resource = entry.call.resource.as_deref().unwrap_or_default();
    (&entry.call.operation, resource)
}

/// The messages that are left.
pub(super) fn in_queues((queued, dead): (usize, usize)) -> Option<String> {
    (queued + dead > 0).then(|| {
        format!(
            "{} on the queue, {dead} in the dead-letter queue",
            counted(queued, "message")
        )
    })
}

/// Everything that a finished cleanup would have taken down: there is none at the end of any other rehearsal.
pub(super) fn left_behind(
    aws: &EmbeddedAws,
    scene: &Scene,
    waiting: (usize, usize),
) -> Vec<String> {
    let mut left = Vec::new();
    let services = scene.rejections.iter().map(|it| &it.service);
    let accounts: BTreeSet<&str> = services.map(|it| it.account.as_str()).collect();
    for account in accounts {
        let inventory = aws.in_account(account, aws.region()).inventory();
        for distribution in inventory
            .distributions
            .iter()
            .filter(|distribution| distribution.staging)
        {
            left.push(format!("staging distribution {}", distribution.id));
        }
        for policy in &inventory.policies {
            left.push(format!("continuous deployment policy {}", policy.id));
        }
    }
    for rejection in &scene.rejections {
        let service = &rejection.service;
        let aws = aws.in_account(&service.account, &service.region);
        let production = aws.distribution(&service.production_id);
        if production.is_none_or(|production| !production.policy_id.is_empty()) {
            left.push(format!(
                "a policy on production distribution {}",
                service.production_id
            ));
        }
        let value = aws.parameter(&service.staging_parameter);
        if value.as_deref() != Some(DELETED) {
            left.push(format!(
                "{} = {}",
                service.staging_parameter,
                value.unwrap_or_default()
            ));
        }
    }
    left.extend(in_queues(waiting));
    left
}
