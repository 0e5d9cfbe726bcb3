//! One run: the world, the script, the daemons, and the verdict.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use embedded_aws::{
    Action, EmbeddedAws, EventOptions, Faults, Form, Level, MessageView, Outcome, Queues, Review,
    Rule, RuleId, Service, Settings,
};
use stagesweep::aws::Connector;
use stagesweep::config::Config;
use stagesweep::daemon::Daemon;
use stagesweep::ledger::{DynamoDbLedger, Records, Store};
use stagesweep::runtime::clock::Clock;
use stagesweep::telemetry::Telemetry;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::checker::{Checker, Figures, Kind};
use super::executions::{APPROVE, CHECK, stage_of_check};
use super::ledger::SimulatedLedger;
use super::notices::{BUS, Outlet, Teller, Trouble};
use super::pipeline::another;
use super::sabotage::Sabotage;
use super::scenario::{Happening, Junk, Meddling, Scenario};
use super::whose::{left_behind, taken_back};
use super::wire::{Fate, Life, Wire};

/// Faults are over: so long may it take until every message is settled. Longer than the longest
/// release and the 12 hours of SQS's ceiling.
const PATIENCE: Duration = Duration::from_secs(30 * 60 * 60);
/// What a ledger is looked through every fifteen minutes for is done by then.
const FROM_LEDGER: Duration = Duration::from_secs(45 * 60);

/// Everyone listens: so long may it take until everything is told, a stop included.
const TIME_TO_TELL: Duration = Duration::from_secs(5 * 60);

/// The table of a shared ledger that is one.
const TABLE: &str = "ledger";

/// A target: an approval of one of the pipelines that lead to the parameters of a service.
fn target(pipeline: &str, stage: &str, action: &str, more: &str) -> String {
    format!(
        r#"
[[targets]]
pipeline = "{{service}}-{pipeline}-pipeline"
stage = "{stage}"
action = "{action}"
production_parameter = "/{{service}}/cloudfront/cfcd-production"
staging_parameter = "/{{service}}/cloudfront/cfcd-staging"
{more}
"#
    )
}

/// The attempt that a retry makes: none that a rejection has.
const RETRY: u32 = 7;

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) violation: Option<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) figures: Figures,
    /// Rejections that came to the dead-letter queue and were sent back.
    pub(crate) redriven: usize,
    /// Values of a newer deployment that a race overwrote and a kill kept from being put back.
    pub(crate) lost_races: usize,
}

/// Runs a scenario in a runtime of its own, under virtual time.
pub(crate) fn run(scenario: &Scenario, trace: bool, sabotage: Option<Sabotage>) -> Report {
    // The SDK's and the daemon's jitter draw from this thread's generator.
    fastrand::seed(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (deaths, heard) = unbounded_channel();
        let mut play = Play::new(scenario, trace, sabotage, deaths);
        play.perform(heard).await
    })
}

pub(super) struct Play<'a> {
    pub(super) scenario: &'a Scenario,
    sabotage: Option<Sabotage>,
    pub(super) aws: EmbeddedAws,
    pub(super) clock: Clock,
    queues: Queues,
    pub(super) checker: Arc<Checker>,
    pub(super) services: Vec<Story>,
    daemons: Vec<Slot>,
    records: Arc<Mutex<Records>>,
    pub(super) deaths: UnboundedSender<usize>,
    /// Those who clean by hand.
    pub(super) persons: Vec<Arc<Life>>,
    /// What is still to happen, with the moment; the next one last.
    agenda: Vec<(Instant, Next)>,
    lives: u32,
    /// What ails the event bus.
    bus: Option<RuleId>,
    /// What ails the program that is told.
    program: Arc<Mutex<Option<Trouble>>>,
}

/// What a daemon or a person works with in one life.
pub(super) struct Means {
    pub(super) connector: Connector,
    pub(super) clock: Clock,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) programs: Arc<Teller>,
    simulated: Arc<SimulatedLedger>,
    /// As whom, where the ledger is a table.
    table: Option<String>,
}

impl Means {
    pub(super) async fn ledger(&self) -> anyhow::Result<Arc<dyn Store>> {
        let Some(owner) = self.table.clone() else {
            return Ok(self.simulated.clone());
        };
        let table = self.connector.table(TABLE);
        let clock = self.clock.clone();
        Ok(Arc::new(DynamoDbLedger::open(table, owner, clock).await?))
    }
}

/// A service's deployments.
pub(super) struct Story {
    pub(super) name: String,
    /// The deployments of this service by their numbers, oldest first.
    pub(super) deployments: Vec<usize>,
    /// One that is under way.
    pub(super) deploying: Option<(Service, usize)>,
    /// The bodies and numbers of its rejections so far.
    pub(super) rejections: Vec<(String, usize)>,
}

struct Slot {
    fate: Arc<Fate>,
    life: Option<(Arc<Life>, CancellationToken)>,
    /// How long it stays down after a kill.
    down: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum Next {
    Happens(Happening),
    Deploys { service: usize, gap: Duration },
    Arrives { body: String, kind: Kind },
    Approved(Box<Service>),
    Starts(usize),
    Heals(usize, super::wire::Peer),
    LedgerHeals(usize),
    OutletHeals(Outlet),
}

impl<'a> Play<'a> {
    fn new(
        scenario: &'a Scenario,
        trace: bool,
        sabotage: Option<Sabotage>,
        deaths: UnboundedSender<usize>,
    ) -> Self {
        let clock = Clock::following_tokio("2026-08-24T06:30:00Z".parse().unwrap());
        let settings = Settings {
            propagation: scenario.propagation,
            propagation_jitter: scenario.propagation_jitter,
            seed: scenario.seed,
            journal_capacity: 8,
            switches: scenario.switches.clone(),
            ..Settings::default()
        };
        let aws = EmbeddedAws::new(clock.clone(), settings);
        let queues = aws.create_queue_with_dlq(
            "stagesweep",
            scenario.max_receive_count,
            Duration::from_secs(120),
        );
        aws.create_table(TABLE, "pk");
        if !scenario.table_delay.is_zero() {
            let late = Action::Delay(scenario.table_delay);
            aws.add_rule(Rule::on("UpdateItem").then(late));
        }
        let checker = Arc::new(Checker::new(trace, scenario.verify, scenario.catch_up));
        let deploy_stage = scenario
            .executions
            .as_ref()
            .is_some_and(|it| it.deploy_stage);
        let times_tell = !scenario.switches.modified_when_deployed;
        checker.knows(deploy_stage, times_tell);
        if scenario.observes {
            checker.observes();
        }
        let watching = Arc::clone(&checker);
        aws.add_rule(Rule::on_mutations().then(Action::before(move |aws, call| {
            watching.about_to(aws, call);
        })));
        if !scenario.told.is_empty() {
            aws.create_event_bus(BUS);
            let told = scenario.told.iter().copied().collect();
            checker.tells(told, scenario.max_receive_count);
        }
        let mut agenda: Vec<_> = scenario
            .happenings
            .iter()
            .map(|(at, what)| (Instant::now() + *at, Next::Happens(what.clone())))
            .collect();
        agenda.reverse();
        Self {
            scenario,
            sabotage,
            aws,
            clock,
            queues,
            checker,
            services: Vec::new(),
            daemons: (0..scenario.daemons)
                .map(|daemon| Slot {
                    fate: Arc::new(Fate {
                        skew: Arc::new(AtomicI64::new(scenario.skews[daemon])),
                        ..Fate::default()
                    }),
                    life: None,
                    down: Duration::ZERO,
                })
                .collect(),
            records: Arc::new(Mutex::new(Records::in_memory().unwrap())),
            deaths,
            persons: Vec::new(),
            agenda,
            lives: 0,
            bus: None,
            program: Arc::default(),
        }
    }

    async fn perform(&mut self, mut heard: UnboundedReceiver<usize>) -> Report {
        for number in 0..self.scenario.services {
            // Twenty staging distributions are an account's quota.
            self.create(format!("service{number}"));
        }
        self.aws.set_faults(self.scenario.faults.clone());
        for daemon in 0..self.daemons.len() {
            self.start(daemon);
        }
        let calm_at = Instant::now() + self.scenario.calm_at;
        self.until(calm_at, &mut heard).await;
        self.calm();
        let mut redriven = 0;
        if self.settled(&mut heard).await {
            self.nothing_healthy_died();
            // What gave up for all the faults must succeed now.
            redriven = self.redrive();
            self.settled(&mut heard).await;
        }
        let lost_races = self.verdict();
        if !self.scenario.told.is_empty() {
            self.everyone_is_told(&mut heard).await;
        }
        for slot in &self.daemons {
            if let Some((life, _)) = &slot.life {
                life.dead.cancel();
            }
        }
        for life in &self.persons {
            life.dead.cancel();
        }
        if self.checker.violation().is_some() {
            self.tell_the_end();
        }
        Report {
            violation: self.checker.violation(),
            trace: self.checker.trace(),
            figures: self.checker.figures(),
            redriven,
            lost_races,
        }
    }

    /// For whoever reads the trace of a run that failed: what everything is like, and by whom.
    fn tell_the_end(&self) {
        for story in &self.services {
            for execution in self
                .aws
                .executions(&format!("{}-frontend-pipeline", story.name))
                .into_iter()
                .chain(self.aws.executions(&another(&story.name)))
            {
                self.note(|| format!("{}: execution {}", story.name, execution.id));
                for run in &execution.actions {
                    let (stage, action, status) = (&run.stage, &run.action, run.status);
                    let (from, until) = (run.started, run.updated);
                    self.note(|| format!("    {from:.3} {until:.3} {stage}/{action} {status}"));
                }
            }
            let parameter = format!("/{}/cloudfront/cfcd-staging", story.name);
            for version in self.aws.parameter_history(&parameter) {
                self.note(|| format!("{parameter}: {version:?}"));
            }
        }
        for it in self.aws.inventory().distributions {
            let by = (&it.made_by, &it.deployed_by, &it.modified_by);
            self.note(|| format!("{} modified at {:.3} {by:?}", it.id, it.modified));
        }
    }

    /// Those who are told listen again, and every daemon is started once more: nothing is owed then.
    async fn everyone_is_told(&mut self, heard: &mut UnboundedReceiver<usize>) {
        self.note(|| "everyone listens".to_owned());
        self.heal(Outlet::Bus);
        self.heal(Outlet::Program);
        for slot in &mut self.daemons {
            slot.down = Duration::ZERO;
            if let Some((life, stop)) = &slot.life {
                self.checker.stopping(self.clock.now(), life);
                stop.cancel();
            }
        }
        self.until(Instant::now() + TIME_TO_TELL, heard).await;
        if self.checker.violation().is_none() {
            let dead_letter_url = &self.queues.dead_letter_url;
            self.checker.everything_is_told(&self.aws, dead_letter_url);
        }
    }

    fn heal(&mut self, outlet: Outlet) {
        match outlet {
            Outlet::Bus => {
                if let Some(rule) = self.bus.take() {
                    self.aws.remove_rule(rule);
                }
            }
            Outlet::Program => *self.program.lock().unwrap() = None,
        }
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        self.checker.note(self.clock.now(), line);
    }

    pub(super) fn plan(&mut self, at: Instant, next: Next) {
        // Behind what was planned earlier for the same moment.
        let place = self.agenda.partition_point(|(other, _)| *other > at);
        self.agenda.insert(place, (at, next));
    }

    /// Lets everything happen up to a moment.
    async fn until(&mut self, end: Instant, heard: &mut UnboundedReceiver<usize>) {
        while self.checker.violation().is_none() {
            let next = self.agenda.last().map_or(end, |(at, _)| (*at).min(end));
            tokio::select! {
                biased;
                Some(dead) = heard.recv() => self.died(dead),
                () = sleep_until(next) => {
                    if next >= end {
                        return;
                    }
                    if let Some((_, next)) = self.agenda.pop() {
                        self.happen(next);
                    }
                }
            }
        }
    }

    /// Ends all faults; what the script still has to say is said.
    fn calm(&mut self) {
        self.note(|| "calm".to_owned());
        self.aws.set_faults(Faults::none());
        let now = Instant::now();
        for daemon in 0..self.daemons.len() {
            let slot = &mut self.daemons[daemon];
            slot.fate.cuts.lock().unwrap().clear();
            *slot.fate.kill.lock().unwrap() = None;
            slot.fate.ledger_fails.store(false, Ordering::Relaxed);
            slot.down = Duration::ZERO;
        }
        self.agenda.retain(|(_, next)| {
            !matches!(
                next,
                Next::Starts(_)
                    | Next::Happens(
                        Happening::Kill { .. }
                            | Happening::Stop { .. }
                            | Happening::Cut { .. }
                            | Happening::LedgerFails { .. }
                            | Happening::ClockJumps { .. }
                    )
            )
        });
        for daemon in 0..self.daemons.len() {
            if self.daemons[daemon].life.is_none() {
                self.plan(now, Next::Starts(daemon));
            }
        }
    }

    /// Waits until nothing is left to happen and every message is settled.
    async fn settled(&mut self, heard: &mut UnboundedReceiver<usize>) -> bool {
        while let Some((end, _)) = self.agenda.first() {
            let end = *end + Duration::from_secs(1);
            self.until(end, heard).await;
            if self.checker.violation().is_some() {
                return false;
            }
        }
        let (url, checker) = (self.queues.url.clone(), Arc::clone(&self.checker));
        let settled = self.aws.wait_until(
            |aws| {
                let depth = aws.depth(&url).unwrap();
                checker.violation().is_some()
                    || depth.visible + depth.in_flight + depth.delayed == 0
            },
            PATIENCE,
        );
        if settled.await.is_err() {
            let left = self.aws.messages(&self.queues.url);
            self.checker
                .fail(format!("messages are never settled: {left:?}"));
        }
        // What has changed something is finished by the ledger where its message is a dead letter.
        let patience = match self.scenario.catch_up {
            true => Some(PATIENCE),
            false => (!self.dead_letters().is_empty()).then_some(FROM_LEDGER),
        };
        if let Some(patience) = patience
            && !self.scenario.observes
        {
            // What is still left then, the verdict tells.
            let checker = Arc::clone(&self.checker);
            let caught_up = |aws: &EmbeddedAws| {
                let deployments = checker.deployments();
                let mut rejected = deployments.iter().filter(|it| it.rejected);
                checker.violation().is_some() || rejected.all(|it| left_behind(aws, it).is_none())
            };
            let _ = self.aws.wait_until(caught_up, patience).await;
        }
        self.checker.violation().is_none()
    }

    /// Whether the only rejection of a deployment cannot be told from one of its successor: an event
    /// without a start, in the second in which the parameter changed. It must lie in the dead-letter
    /// queue then.
    pub(super) fn is_doubtful(&self, number: usize) -> bool {
        let dead = self.dead_letters();
        let mut bodies = dead
            .iter()
            .filter(|message| self.checker.kind(&message.id) == Some(Kind::Rejection(number)))
            .map(|message| &message.body);
        let parameter = &self.checker.deployments()[number].service.staging_parameter;
        let history = self.aws.parameter_history(parameter);
        bodies.any(|body| {
            let event = stagesweep::domain::event::parse(body).unwrap();
            let stagesweep::domain::event::Kind::Rejection(rejection) = event.kind else {
                return false;
            };
            let uncertainty = rejection.as_of_uncertainty;
            let earliest = rejection.as_of.checked_sub(uncertainty).unwrap();
            history
                .iter()
                .any(|version| version.at > earliest && version.at <= rejection.as_of)
        })
    }

    pub(super) fn dead_letters(&self) -> Vec<MessageView> {
        self.aws.messages(&self.queues.dead_letter_url)
    }

    /// Sends the rejections in the dead-letter queue again.
    fn redrive(&mut self) -> usize {
        let dead: Vec<_> = self
            .dead_letters()
            .into_iter()
            .filter_map(|message| {
                let kind = self.checker.kind(&message.id)?;
                matches!(kind, Kind::Rejection(_)).then_some((message.body, kind))
            })
            .collect();
        let count = dead.len();
        for (body, kind) in dead {
            self.note(|| format!("redriven: {kind:?}"));
            self.arrive(&body, kind);
        }
        count
    }

    /// Invariant 4: every rejection ends cleaned, and nothing of it is left behind.
    fn verdict(&self) -> usize {
        if self.checker.violation().is_some() {
            return 0;
        }
        let mut lost_races = 0;
        let deployments = self.checker.deployments();
        for (number, deployment) in deployments.iter().enumerate() {
            let service = &deployment.service;
            if self.scenario.observes && deployment.rejected {
                // That nothing of it was touched is for the checker to judge.
                continue;
            }
            if deployment.retried_at.is_some() || deployment.undecided {
                // How much of it was gone by then is for the checker to judge.
                continue;
            }
            if self.scenario.executions.is_some() {
                let rejected = deployment.rejected && self.is_clear(number);
                let stands = rejected && taken_back(&self.aws, service).is_none();
                if stands && let Some(left) = left_behind(&self.aws, deployment) {
                    let why = format!("deployment {number} left behind: {left}");
                    self.checker.fail(why);
                }
                continue;
            }
            if deployment.rejected {
                let production = self.aws.distribution(&service.production_id);
                if !self.scenario.verify && production.is_some_and(|it| !it.enabled) {
                    // A promotion switched it off; no cleanup goes on beside that.
                    continue;
                }
                if let Some(left) = left_behind(&self.aws, deployment)
                    && !self.is_doubtful(number)
                {
                    self.checker
                        .fail(format!("deployment {number} left behind: {left}"));
                }
                continue;
            }
            let newest = self
                .services
                .iter()
                .any(|story| story.deployments.last() == Some(&number));
            let parameter = self.aws.parameter(&service.staging_parameter);
            if newest && parameter.as_ref() != Some(&service.staging_id) {
                if self.checker.raced(&service.staging_parameter) {
                    lost_races += 1;
                } else {
                    self.checker.fail(format!(
                        "deployment {number} is not named any more: {parameter:?}"
                    ));
                }
            }
            if self.aws.distribution(&service.staging_id).is_none() {
                self.checker.fail(format!(
                    "deployment {number} was not rejected, and its staging distribution is gone"
                ));
            }
        }
        lost_races
    }

    // ---- the daemons ----

    pub(super) fn config(&self) -> Config {
        let tells = |outlet| self.scenario.told.contains(&outlet);
        let executions = self.scenario.executions.as_ref();
        let deploys = match executions.is_some_and(|it| it.deploy_stage) {
            true => "deploy_stage = \"Deploy\"",
            false => "",
        };
        let mut approvals = vec![(APPROVE, APPROVE)];
        if let Some(in_stage) = executions.and_then(|it| it.check) {
            approvals.push((stage_of_check(in_stage), CHECK));
        }
        let mut targets = String::new();
        for (stage, action) in approvals {
            targets.push_str(&target("frontend", stage, action, deploys));
            if executions.is_some_and(|it| it.another) {
                targets.push_str(&target("hotfix", stage, action, ""));
            }
        }
        let text = format!(
            r#"
[verify]
codepipeline = {}
[cleanup]
mode = "{}"
[catch_up]
interval = "{}"
[notify]
event_bus = "{}"
program = [{}]
[queue]
url = "{}"
max_in_flight = {}
[events]
allowed_accounts = []
{targets}
"#,
            self.scenario.verify,
            if self.scenario.observes {
                "observe"
            } else {
                "act"
            },
            if self.scenario.catch_up { "15m" } else { "0s" },
            if tells(Outlet::Bus) { BUS } else { "" },
            if tells(Outlet::Program) {
                "\"/opt/tell\""
            } else {
                ""
            },
            self.queues.url,
            self.scenario.max_in_flight,
        );
        Config::parse(
            std::path::Path::new("seed.toml"),
            &text,
            &Default::default(),
        )
        .unwrap()
    }

    /// A file is the ledger of one machine, which has one clock.
    pub(super) fn clock_of_a_person(&self) -> Clock {
        if self.scenario.is_fleet() {
            return self.clock.clone();
        }
        let skew = &self.daemons[0].fate.skew;
        self.clock.on_another_machine(Arc::clone(skew))
    }

    fn start(&mut self, daemon: usize) {
        self.lives += 1;
        let slot = &self.daemons[daemon];
        let life = Arc::new(Life {
            daemon,
            owner: format!("daemon{daemon}.{}", self.lives),
            fate: Arc::clone(&slot.fate),
            dead: CancellationToken::new(),
            deaths: self.deaths.clone(),
        });
        self.note(|| format!("{} starts", life.owner));
        if !self.scenario.is_fleet() {
            // As opening the file does.
            self.records.lock().unwrap().end_leases().unwrap();
            self.checker.leases_ended();
        }
        let clock = self.clock.on_another_machine(Arc::clone(&slot.fate.skew));
        let means = self.equip(&life, clock, self.sabotage, Arc::clone(&self.program));
        let config = self.config();
        let stop = CancellationToken::new();
        let (living, stopping) = (Arc::clone(&life), stop.clone());
        tokio::spawn(async move {
            let running = async {
                let ledger = means.ledger().await?;
                let Means {
                    connector,
                    clock,
                    telemetry,
                    programs,
                    ..
                } = means;
                let daemon = Daemon::new(config, &connector, ledger, clock, telemetry, programs);
                anyhow::Ok(daemon.run(stopping, false).await?)
            };
            if let Some(ended) = living.dead.run_until_cancelled(running).await {
                ended.unwrap();
                // It has stopped by itself: from now on it is as good as dead.
                living.kill();
            }
        });
        self.daemons[daemon].life = Some((life, stop));
    }

    /// What a daemon or a person works with in one life.
    pub(super) fn equip(
        &self,
        life: &Arc<Life>,
        clock: Clock,
        sabotage: Option<Sabotage>,
        trouble: Arc<Mutex<Option<Trouble>>>,
    ) -> Means {
        let wire = Wire {
            aws: self.aws.clone(),
            life: Arc::clone(life),
            checker: Arc::clone(&self.checker),
            sabotage,
        };
        let telemetry = Arc::new(Telemetry::new(clock.clone()));
        let connector = Connector::to_endpoint(
            "http://aws.test",
            "ap-northeast-1",
            Some(wire.http_client()),
            &clock,
            Arc::clone(&telemetry),
        );
        let simulated = SimulatedLedger {
            records: Arc::clone(&self.records),
            life: Arc::clone(life),
            clock: clock.clone(),
            world: self.clock.clone(),
            checker: Arc::clone(&self.checker),
            sabotage,
        };
        let programs = Arc::new(Teller {
            life: Arc::clone(life),
            checker: Arc::clone(&self.checker),
            aws: self.aws.clone(),
            trouble,
            running: AtomicBool::new(false),
        });
        Means {
            connector,
            clock,
            telemetry,
            programs,
            simulated: Arc::new(simulated),
            table: self.scenario.table.then(|| life.owner.clone()),
        }
    }

    fn died(&mut self, daemon: usize) {
        let slot = &mut self.daemons[daemon];
        if let Some((life, _)) = slot.life.take() {
            self.checker
                .note(self.clock.now(), || format!("{} is gone", life.owner));
            self.checker.gone(self.clock.now(), &life);
            let down = self.daemons[daemon].down;
            self.plan(Instant::now() + down, Next::Starts(daemon));
        }
    }

    // ---- the script ----

    fn happen(&mut self, next: Next) {
        self.checker.look(&self.aws);
        match next {
            Next::Happens(happening) => {
                self.note(|| format!("{happening:?}"));
                self.happening(happening);
            }
            Next::Deploys { service, gap } => self.deploy(service, gap),
            Next::Arrives { body, kind } => self.arrive(&body, kind),
            Next::Approved(service) => self.aws.review(&service, RETRY, Review::Approved),
            Next::Starts(daemon) => {
                if self.daemons[daemon].life.is_none() {
                    self.start(daemon);
                }
            }
            Next::Heals(daemon, peer) => {
                self.note(|| format!("daemon{daemon} reaches {peer:?} again"));
                self.daemons[daemon].fate.cuts.lock().unwrap().remove(&peer);
            }
            Next::OutletHeals(outlet) => {
                self.note(|| format!("{outlet:?} listens again"));
                self.heal(outlet);
            }
            Next::LedgerHeals(daemon) => {
                let fails = &self.daemons[daemon].fate.ledger_fails;
                fails.store(false, Ordering::Relaxed);
            }
        }
    }

    fn happening(&mut self, happening: Happening) {
        let now = Instant::now();
        match happening {
            Happening::Reject {
                service,
                late,
                copies,
                older_form,
                attempt,
            } => self.reject(service, late, copies, older_form, attempt),
            Happening::Again { service } => {
                let story = self.services.get(service);
                let earlier = story.and_then(|story| story.rejections.last()).cloned();
                if let Some((body, number)) = earlier {
                    self.arrive(&body, Kind::Rejection(number));
                }
            }
            Happening::Redeploy { service, gap } => {
                if self
                    .services
                    .get(service)
                    .is_some_and(|story| story.deploying.is_none())
                {
                    self.deploy(service, gap);
                }
            }
            Happening::Retry { service, decided } => self.retry(service, decided),
            Happening::Approve { service } => {
                let undecided = self.undecided(service);
                if let Some(newest) = self.newest(service).filter(|_| undecided) {
                    let approved = EventOptions {
                        outcome: Outcome::Approved,
                        ..EventOptions::default()
                    };
                    let body = self.aws.rejection_event(&newest, &approved);
                    if let Some(number) = self.services[service].deployments.last() {
                        self.checker.approved(*number);
                    }
                    self.arrive(&body, Kind::Harmless);
                }
            }
            Happening::InPipeline { service, what } => self.in_pipeline(service, what),
            Happening::Junk(junk) => self.junk(junk),
            Happening::Kill { daemon, at, down } => {
                let slot = &mut self.daemons[daemon];
                slot.down = down;
                match (at, &slot.life) {
                    (Some(_), _) => *slot.fate.kill.lock().unwrap() = at,
                    (None, Some((life, _))) => life.kill(),
                    (None, None) => {}
                }
            }
            Happening::Stop { daemon, down } => {
                let slot = &mut self.daemons[daemon];
                slot.down = down;
                if let Some((life, stop)) = &slot.life {
                    self.checker.stopping(self.clock.now(), life);
                    stop.cancel();
                }
            }
            Happening::Cut {
                daemon,
                peer,
                cut,
                lasts,
            } => {
                let fate = &self.daemons[daemon].fate;
                fate.cuts.lock().unwrap().insert(peer, cut);
                self.plan(now + lasts, Next::Heals(daemon, peer));
            }
            Happening::LedgerFails { daemon, lasts } => {
                let fails = &self.daemons[daemon].fate.ledger_fails;
                fails.store(true, Ordering::Relaxed);
                self.plan(now + lasts, Next::LedgerHeals(daemon));
            }
            Happening::OutletFails {
                outlet,
                trouble,
                lasts,
            } => {
                self.heal(outlet);
                match outlet {
                    Outlet::Bus => {
                        let rule = Rule::on("PutEvents").then(trouble.of_the_bus());
                        self.bus = Some(self.aws.add_rule(rule));
                    }
                    Outlet::Program => *self.program.lock().unwrap() = Some(trouble),
                }
                if let Some(lasts) = lasts {
                    self.plan(now + lasts, Next::OutletHeals(outlet));
                }
            }
            Happening::ClockJumps {
                daemon,
                milliseconds,
            } => {
                let skew = &self.daemons[daemon].fate.skew;
                skew.fetch_add(milliseconds, Ordering::Relaxed);
            }
            Happening::Cleans { service } => self.cleans(service),
            Happening::Operator { service, what } => {
                let Some(newest) = self.newest(service) else {
                    return;
                };
                // Refused where CloudFront refuses it: then nothing happened.
                let _ = match what {
                    Meddling::EditsProduction => {
                        self.aws
                            .edit_distribution(&newest.production_id, "Comment", "edited")
                    }
                    Meddling::DisablesStaging => {
                        self.checker.excuse(&newest.production_id);
                        self.aws
                            .edit_distribution(&newest.staging_id, "Enabled", "false")
                    }
                    Meddling::DeletesPolicy => self.aws.delete_policy(&newest.policy_id),
                };
            }
        }
    }

    /// Whether CodePipeline is asked about anything.
    fn asks(&self) -> bool {
        self.scenario.verify || self.scenario.catch_up
    }

    /// Whether the newest deployment may still be approved; where CodePipeline is asked, what happens must
    /// be what can happen.
    fn undecided(&self, service: usize) -> bool {
        let last = self
            .services
            .get(service)
            .and_then(|it| it.deployments.last());
        let deployments = self.checker.deployments();
        !self.asks() || last.is_some_and(|number| !deployments[*number].rejected)
    }

    /// Whether the newest deployment may be rejected, or rejected again.
    fn rejectable(&self, number: usize) -> bool {
        let deployment = &self.checker.deployments()[number];
        !self.asks() || !deployment.approved && deployment.retried_at.is_none()
    }

    /// Somebody retries the stage of the newest deployment, which was rejected, and somebody approves.
    fn retry(&mut self, service: usize, decided: Duration) {
        let Some(newest) = self.newest(service) else {
            return;
        };
        let number = *self.services[service].deployments.last().unwrap();
        if !self.checker.deployments()[number].rejected || !self.rejectable(number) {
            return;
        }
        self.aws.retry_approval(&newest, RETRY);
        self.checker.retried(number, self.clock.now());
        self.plan(Instant::now() + decided, Next::Approved(Box::new(newest)));
    }

    pub(super) fn newest(&self, service: usize) -> Option<Service> {
        let number = *self.services.get(service)?.deployments.last()?;
        Some(self.checker.deployments()[number].service.clone())
    }

    fn reject(&mut self, service: usize, late: Duration, copies: u32, older: bool, attempt: u32) {
        let Some(newest) = self.newest(service) else {
            return;
        };
        let number = *self.services[service].deployments.last().unwrap();
        if !self.rejectable(number) {
            return;
        }
        // Only while the parameter names the deployment does the later start of another attempt,
        // or an event without a start, tell which one it is about.
        let named = self.aws.parameter(&newest.staging_parameter);
        if named.as_ref() != Some(&newest.staging_id) && (older || attempt > 1) {
            return;
        }
        // An attempt must have begun before it is decided, and before another one does.
        if self.clock.now() <= newest.start_time {
            return;
        }
        let options = EventOptions {
            form: if older { Form::Older } else { Form::Current },
            attempt,
            start_time: (attempt > 1).then(|| self.clock.now()),
            ..EventOptions::default()
        };
        let body = self.aws.rejection_event(&newest, &options);
        self.checker.rejected(number, attempt);
        self.services[service]
            .rejections
            .push((body.clone(), number));
        let at = Instant::now() + late;
        for _ in 0..copies {
            let (body, kind) = (body.clone(), Kind::Rejection(number));
            self.plan(at, Next::Arrives { body, kind });
        }
    }

    pub(super) fn arrive(&mut self, body: &str, kind: Kind) {
        let id = self.aws.send(&self.queues.url, body).unwrap();
        self.note(|| format!("message {id}: {kind:?}"));
        self.checker.sent(id, kind);
    }

    fn junk(&mut self, junk: Junk) {
        let Some(service) = self.newest(0) else {
            return;
        };
        let (body, kind) = match junk {
            Junk::NotJson => ("{\"detail\": oh".to_owned(), Kind::Poison),
            Junk::ForeignAccount => {
                // In that account, and not in that of the service, it has happened.
                let foreign = Service {
                    account: "999999999999".to_owned(),
                    ..service
                };
                let event = EventOptions::default();
                (self.aws.rejection_event(&foreign, &event), Kind::Poison)
            }
            Junk::NoTarget => {
                let other = Service {
                    pipeline: format!("{}-backend-pipeline", service.name),
                    ..service
                };
                let event = EventOptions::default();
                (self.aws.rejection_event(&other, &event), Kind::Poison)
            }
            Junk::Stage => {
                let stage = EventOptions {
                    level: Level::Stage,
                    ..EventOptions::default()
                };
                (self.aws.rejection_event(&service, &stage), Kind::Harmless)
            }
        };
        self.arrive(&body, kind);
    }

    /// The next part of a newer deployment. A part that is refused is tried again a little later.
    fn deploy(&mut self, service: usize, gap: Duration) {
        let now = Instant::now();
        let Some(newest) = self.newest(service) else {
            return;
        };
        let story = &mut self.services[service];
        let retry = Duration::from_secs(15);
        let before = story.deploying.as_ref().map_or(0, |(_, part)| *part);
        let (deployment, part) = match story.deploying.take() {
            None => match self.aws.deploy_copy(&newest) {
                Ok(copy) => (copy, 1),
                // The account's quota: this deployment fails, and leaves nothing.
                Err(_) => return,
            },
            Some((deployment, 1)) => match self.aws.deploy_policy(&deployment) {
                Ok(policy_id) => (
                    Service {
                        policy_id,
                        ..deployment
                    },
                    2,
                ),
                Err(_) => (deployment, 1),
            },
            Some((deployment, 2)) => match self.aws.deploy_attach(&deployment) {
                Ok(()) => (deployment, 3),
                Err(_) => (deployment, 2),
            },
            Some((deployment, _)) => {
                self.aws.deploy_record(&deployment);
                let recorded = Service {
                    start_time: self
                        .clock
                        .now()
                        .checked_add(Duration::from_secs(1))
                        .unwrap(),
                    ..deployment
                };
                let staging_id = recorded.staging_id.clone();
                let number = self.checker.deployed(recorded);
                let story = &mut self.services[service];
                story.deployments.push(number);
                let name = story.name.clone();
                self.note(|| format!("{name} deployed {staging_id}: deployment {number}"));
                return;
            }
        };
        self.note(|| format!("deploys {}: part {part} done", deployment.staging_id));
        let stuck = part == before;
        let waits = if stuck { retry } else { gap };
        self.services[service].deploying = Some((deployment, part));
        self.plan(now + waits, Next::Deploys { service, gap });
    }
}
