//! `clean` and `orphans --delete` beside a running daemon, begun before every one of its calls.

use std::sync::Arc;
use std::time::Duration;

use embedded_aws::{
    Action, ActionDefinition, Definition, Failure, Review, Rule, Service, StageDefinition, Work,
};
use futures_util::FutureExt;
use jiff::Timestamp;
use stagesweep::aws::Connector;
use stagesweep::config::Config;
use stagesweep::daemon;
use stagesweep::domain::binding::{Binding, Modified};
use stagesweep::domain::decision::{Orphan, Outcome};
use stagesweep::domain::event::JobKey;
use stagesweep::domain::history::Notes;
use stagesweep::domain::lease_terms::Terms;
use stagesweep::domain::targets::lookup::{self, Home, Wanted};
use stagesweep::domain::targets::{Access, Neighbour, Parameters};
use stagesweep::ledger::{Bound, Claim, EmbeddedLedger, Ledger};
use stagesweep::ops::clean::{ByHand, Cleaned, Order};
use stagesweep::ops::orphans::{Removed, Remover, Survey};
use stagesweep::reconcile::accounts::Accounts;
use stagesweep::reconcile::{Ended, Reconciler};
use stagesweep::runtime::programs::Processes;
use stagesweep::runtime::stop::Stop;
use stagesweep::runtime::tasks::Tasks;
use stagesweep::telemetry::Telemetry;
use tokio::sync::Notify;

use crate::harness::{PATIENCE, World, assert_clean, assert_gone, assert_untouched};

const LEDGER: &str = "ledger.db";

/// More calls than a cleanup makes.
const CALLS: u64 = 24;

/// What a person's process is made of.
struct Person {
    config: Config,
    connector: Connector,
    telemetry: Arc<Telemetry>,
    /// What ends with the process.
    tasks: Tasks,
    accounts: Accounts,
    ledger: Arc<EmbeddedLedger>,
    terms: Terms,
}

impl Person {
    fn new(world: &World) -> Self {
        let path = world.ledger_path(LEDGER);
        let config = world.config(&path, "");
        let telemetry = Arc::new(Telemetry::new(world.clock.clone()));
        let connector = Connector::to_endpoint(
            "http://aws.test",
            "ap-northeast-1",
            Some(world.aws.http_client()),
            &world.clock,
            Arc::clone(&telemetry),
        );
        let tasks = Tasks::default();
        let instance = uuid::Uuid::new_v4().to_string();
        let ledger = EmbeddedLedger::open_beside(&path, &instance, world.clock.clone()).unwrap();
        Self {
            accounts: daemon::accounts(&config, &connector, &tasks),
            terms: config.queue.terms(),
            config,
            connector,
            telemetry,
            tasks,
            ledger: Arc::new(ledger),
        }
    }

    /// Cleans what the parameter names now.
    async fn clean(&self, world: &World, service: &Service) -> Cleaned {
        let shown = world.aws.distribution(&service.staging_id);
        let home = Home {
            region: "ap-northeast-1".to_owned(),
            account: service.account.clone(),
        };
        let wanted = Wanted {
            pipeline: &service.pipeline,
            stage: None,
            action: None,
        };
        let history = world.aws.parameter_history(&service.staging_parameter);
        let order = Order {
            named: lookup::find(&self.config.targets, wanted, &home).unwrap(),
            staging_id: service.staging_id.clone(),
            version: history.last().unwrap().version.try_into().unwrap(),
            shown: shown.map(|it| Modified {
                at: it.modified,
                etag: it.etag,
            }),
            resumes: None,
        };
        let by_hand = ByHand {
            ledger: self.ledger.clone(),
            reconciler: self.reconciler(world),
            targets: Arc::new(self.config.targets.clone()),
            clock: world.clock.clone(),
            terms: self.terms,
        };
        by_hand.clean(&order, &Stop::default()).await.unwrap()
    }

    fn reconciler(&self, world: &World) -> Reconciler {
        daemon::reconciler(
            &self.config,
            self.accounts.clone(),
            self.ledger.clone(),
            Arc::clone(&self.telemetry),
            Arc::new(Processes),
            world.clock.clone(),
        )
    }

    /// The pipeline that leads to the service's slot.
    fn neighbours(&self, service: &Service, access: &Access) -> Vec<Neighbour> {
        let parameters = Parameters {
            production: service.production_parameter.clone(),
            staging: service.staging_parameter.clone(),
        };
        let neighbours = self.config.targets.leading_to(&parameters, access);
        assert_eq!(neighbours.len(), 1);
        neighbours
    }

    /// Takes one staging distribution that nobody names down, as `orphans --delete` does.
    async fn remove(&self, world: &World, service: &Service) -> Removed {
        let found = world.aws.distribution(&service.staging_id).unwrap();
        self.remove_as_found(world, service, found.modified).await
    }

    /// The same; when it was looked at it had last been modified then.
    async fn remove_as_found(
        &self,
        world: &World,
        service: &Service,
        modified: Timestamp,
    ) -> Removed {
        let access = Access {
            role: None,
            region: "ap-northeast-1".to_owned(),
        };
        let (path, clock) = (world.ledger_path(LEDGER), world.clock.clone());
        let remover = Remover {
            survey: Survey {
                account: self.connector.account(),
                targets: self.config.targets.clone(),
            },
            reconciler: self.reconciler(world),
            ledger: self.ledger.clone(),
            records: Arc::new(move || {
                let records = EmbeddedLedger::history(&path, &clock);
                async move { records }.boxed()
            }),
            clock: world.clock.clone(),
            terms: self.terms,
            neighbours: self.neighbours(service, &access),
            access,
        };
        let orphan = Orphan {
            staging_id: service.staging_id.clone(),
            policy_id: Some(service.policy_id.clone()),
        };
        let stop = Stop::default();
        remover.staging(orphan, Some(modified), &stop).await
    }
}

/// Runs `act` before the nth call of a cleanup; answers a sign of it.
fn at_call(world: &World, nth: u64) -> Arc<Notify> {
    let now = Arc::new(Notify::new());
    let sign = Arc::clone(&now);
    world.before_cleanup_call(nth, move |_| sign.notify_one());
    now
}

/// Waits for the sign, or until the queue is empty: there were fewer calls.
async fn reached(world: &World, now: &Notify) {
    tokio::select! {
        () = now.notified() => {}
        () = world.settled() => {}
    }
}

#[tokio::test(start_paused = true)]
async fn clean_has_no_delay() {
    let mut world = World::new();
    world.target = "delay = \"6h\"".to_owned();
    let service = world.service("shop");
    // The ledger is the daemon's.
    world.start(LEDGER).stop().await;
    let began = tokio::time::Instant::now();
    let cleaned = Person::new(&world).clean(&world, &service).await;
    assert!(
        matches!(cleaned, Cleaned::Ran(Ended::Succeeded(_))),
        "{cleaned:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(60 * 60));
    assert_clean(&world, &service);
}

/// An execution is at work before the record, or between that and the detach.
#[tokio::test(start_paused = true)]
async fn clean_leaves_what_somebody_modifies_while_it_waits() {
    for recorded in [false, true] {
        let world = World::new();
        let service = world.service("shop");
        world.start(LEDGER).stop().await;
        let (aws, of) = (world.aws.clone(), service.clone());
        let begin = move || aws.start_execution(&of);
        let newer = Arc::new(std::sync::Mutex::new(None));
        match recorded {
            false => *newer.lock().unwrap() = Some(begin()),
            true => {
                let begun = Arc::clone(&newer);
                let begins = Action::after(move |_, _| *begun.lock().unwrap() = Some(begin()));
                world
                    .aws
                    .add_rule(Rule::on("PutParameter").nth(1).then(begins));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let person = Person::new(&world);
        let cleaning = person.clean(&world, &service);
        let deploying = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let id = &service.staging_id;
            world.aws.edit_distribution(id, "Comment", "newer").unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
            let newer = newer.lock().unwrap().clone().unwrap();
            world.aws.fail(&newer);
        };
        let (cleaned, ()) = tokio::join!(cleaning, deploying);
        let Cleaned::Ran(Ended::Refused(refused)) = cleaned else {
            panic!("{cleaned:?}");
        };
        assert_eq!(refused.refusal.code(), "staging_modified");
        assert!(refused.detail.contains("plan"), "{}", refused.detail);
        assert_untouched(&world, &service);
        let put = world.changes().len();
        assert_eq!(put, if recorded { 2 } else { 0 }, "{:?}", world.changes());
        // Nothing is left for the daemon to finish, and who looks again may begin again.
        let daemon = world.start(LEDGER);
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        assert_untouched(&world, &service);
        daemon.stop().await;
        let cleaned = Person::new(&world).clean(&world, &service).await;
        let is_done = matches!(cleaned, Cleaned::Ran(Ended::Succeeded(_)));
        assert!(is_done, "{cleaned:?}");
        assert_clean(&world, &service);
    }
}

/// `LastModifiedTime` moves when the change is everywhere, or not.
#[tokio::test(start_paused = true)]
async fn clean_takes_down_what_was_shown_in_progress() {
    for moves in [false, true] {
        let world = World::with(|settings| settings.switches.modified_when_deployed = moves);
        let service = world.service("shop");
        world.start(LEDGER).stop().await;
        let id = &service.staging_id;
        world.aws.edit_distribution(id, "Comment", "shown").unwrap();
        let shown = world.aws.distribution(id).unwrap();
        let cleaned = Person::new(&world).clean(&world, &service).await;
        let is_done = matches!(cleaned, Cleaned::Ran(Ended::Succeeded(_)));
        assert!(is_done, "{moves}, {shown:?}: {cleaned:?}");
        assert_clean(&world, &service);
    }
}

/// The answer to the detach is lost, somebody modifies the staging distribution, and the detach shows after that.
#[tokio::test(start_paused = true)]
async fn a_clean_that_is_refused_with_a_detach_under_way_is_finished_by_the_ledger() {
    let world = World::new();
    let service = world.service("shop");
    world.start(LEDGER).stop().await;
    let id = service.staging_id.clone();
    let modifies = Action::before(move |aws, _| {
        aws.edit_distribution(&id, "Comment", "newer").unwrap();
    });
    let lost = Action::Refuse(Failure::new(503, "ServiceUnavailable", "Try again."));
    for action in [modifies, lost] {
        let rule = Rule::on("UpdateDistribution").nth(1).then(action);
        world.aws.add_rule(rule);
    }
    let cleaned = Person::new(&world).clean(&world, &service).await;
    let Cleaned::Ran(Ended::Refused(refused)) = cleaned else {
        panic!("{cleaned:?}");
    };
    let withdrawn = format!("{} says `deleted`", service.staging_parameter);
    assert!(refused.detail.contains(&withdrawn), "{}", refused.detail);
    let (production, none) = (&service.production_id, "");
    let shows = world
        .aws
        .edit_distribution(production, "ContinuousDeploymentPolicyId", none);
    shows.unwrap();
    let daemon = world.start(LEDGER);
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn clean_beside_a_daemon_that_cleans_is_one_cleanup() {
    let mut busy = 0;
    for nth in 1..=CALLS {
        let world = World::new();
        let service = world.service("shop");
        let now = at_call(&world, nth);
        world.reject(&service);
        let daemon = world.start(LEDGER);
        reached(&world, &now).await;
        let cleaned = Person::new(&world).clean(&world, &service).await;
        match cleaned {
            Cleaned::Ran(Ended::ProductionBusy { .. }) => busy += 1,
            Cleaned::Ran(Ended::Succeeded(done)) => assert!(
                matches!(done.outcome, Outcome::Cleaned | Outcome::AlreadyClean),
                "{done:?}"
            ),
            other => panic!("call {nth}: {other:?}"),
        }
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(
            world.changes().len(),
            5,
            "call {nth}: {:?}",
            world.changes()
        );
        daemon.stop().await;
    }
    assert!(busy > 5, "the two hardly ever met: {busy}");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_during_a_clean_that_is_cut_off_anywhere_ends_clean() {
    for nth in (1..=CALLS).step_by(2) {
        for cut_off in [false, true] {
            let world = World::new();
            let service = world.service("shop");
            let now = at_call(&world, nth);
            let daemon = world.start(LEDGER);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let person = Person::new(&world);
            let cleaning = person.clean(&world, &service);
            tokio::pin!(cleaning);
            let over = tokio::select! {
                biased;
                _ = &mut cleaning => true,
                () = now.notified() => false,
            };
            world.reject(&service);
            if cut_off {
                drop(person.tasks.end_on_drop());
            } else if !over {
                let cleaned = cleaning.await;
                assert!(
                    matches!(cleaned, Cleaned::Ran(Ended::Succeeded(_))),
                    "call {nth}: {cleaned:?}"
                );
            }
            world.settled().await;
            assert_clean(&world, &service);
            assert_eq!(
                world.changes().len(),
                5,
                "call {nth}: {:?}",
                world.changes()
            );
            daemon.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_waits_for_a_person_notices_the_end_within_seconds() {
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start(LEDGER);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let person = Person::new(&world);
    let cleaning = person.clean(&world, &service);
    let rejecting = async {
        world.detached().await;
        world.reject(&service);
    };
    let (cleaned, ()) = tokio::join!(cleaning, rejecting);
    assert!(
        matches!(cleaned, Cleaned::Ran(Ended::Succeeded(_))),
        "{cleaned:?}"
    );
    let ended = tokio::time::Instant::now();
    world.settled().await;
    let waited = ended.elapsed();
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    assert_clean(&world, &service);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("MessagesReceived"), 1);
    daemon.stop().await;
}

/// Each time that a rejection is sent away is one receive nearer to the dead-letter queue.
#[tokio::test(start_paused = true)]
async fn a_rejection_beside_a_clean_that_froze_is_held_until_its_lease_has_ended() {
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start(LEDGER);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let guest =
        EmbeddedLedger::open_beside(&world.ledger_path(LEDGER), "frozen", world.clock.clone())
            .unwrap();
    let key = JobKey::from("manual/shop".to_owned());
    let lease = Duration::from_millis(400_300);
    let until = world.clock.now().checked_add(lease).unwrap();
    let claim = guest.claim(&key, &service.pipeline, until).await.unwrap();
    let Claim::Granted { grant, .. } = claim else {
        panic!("{claim:?}");
    };
    let binding = Binding {
        production_id: service.production_id.clone(),
        staging_id: service.staging_id.clone(),
        ..Binding::default()
    };
    assert_eq!(
        guest
            .bind(&grant, &binding, &Notes::default())
            .await
            .unwrap(),
        Bound::Bound
    );

    world.reject(&service);
    let began = |_: &_| !world.changes().is_empty();
    world.aws.wait_until(began, PATIENCE).await.unwrap();
    let late = world.clock.now().duration_since(until);
    assert!((0..=10).contains(&late.as_secs()), "{late:?}");
    world.settled().await;
    assert_clean(&world, &service);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("MessagesReceived"), 1);
    assert_eq!(metrics.count("MessagesReleased"), 0);
    assert_eq!(metrics.count("CleanupsStarted"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_taken_down_beside_a_cleanup_of_its_own_production_distribution() {
    for nth in 1..=CALLS {
        let world = World::new();
        let orphan = world.service("shop");
        tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
        // A newer deployment has taken the slot, and nobody names the older one any more.
        let mut newer = world.aws.deploy_again(&orphan).unwrap();
        tokio::time::advance(Duration::from_secs(10 * 60)).await;
        newer.start_time = world.clock.now();
        let now = at_call(&world, nth);
        world.reject(&newer);
        let daemon = world.start(LEDGER);
        reached(&world, &now).await;
        let removed = Person::new(&world).remove(&world, &orphan).await;
        assert!(matches!(removed, Removed::Gone), "call {nth}: {removed:?}");
        world.settled().await;
        assert_clean(&world, &newer);
        assert_gone(&world, &orphan);
        // Five for the rejection; the policy, disabling and deleting for the orphan.
        assert_eq!(
            world.changes().len(),
            8,
            "call {nth}: {:?}",
            world.changes()
        );
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_modified_after_it_was_found_to_be_an_orphan_is_left() {
    let world = World::new();
    let orphan = world.service("shop");
    world.aws.deploy_again(&orphan).unwrap();
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    let found = world.aws.distribution(&orphan.staging_id).unwrap();
    let edited = world
        .aws
        .edit_distribution(&orphan.staging_id, "Comment", "in use again");
    edited.unwrap();
    tokio::time::advance(Duration::from_secs(10 * 60)).await;
    let person = Person::new(&world);
    let removed = person
        .remove_as_found(&world, &orphan, found.modified)
        .await;
    let Removed::Left(why) = removed else {
        panic!("{removed:?}")
    };
    assert!(why.contains("modified"), "{why}");
    assert!(world.changes().is_empty(), "{:?}", world.changes());
}

/// An orphan of two hours, and a newer execution that has been approved and runs an action behind its approval.
async fn orphan_beside_an_execution_at_work() -> (World, Service, Service) {
    let world = World::new();
    let orphan = world.service("shop");
    let newer = world.aws.deploy_again(&orphan).unwrap();
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    let verify = ActionDefinition::build("Verify", Work::Nothing);
    let verify = StageDefinition::new("Verify", [verify]);
    let definition = Definition::default().with_stage_before("Promote", verify);
    world.aws.define_pipeline(&newer.pipeline, definition);
    world.aws.review(&newer, 1, Review::Approved);
    (world, orphan, newer)
}

/// Its own policy is deleted by then.
#[tokio::test(start_paused = true)]
async fn what_somebody_modifies_while_the_removal_of_an_orphan_is_held_is_left() {
    let (world, orphan, newer) = orphan_beside_an_execution_at_work().await;
    let person = Person::new(&world);
    let removing = person.remove(&world, &orphan);
    let working = async {
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        let id = &orphan.staging_id;
        world.aws.edit_distribution(id, "Comment", "newer").unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.aws.fail(&newer);
    };
    let (removed, ()) = tokio::join!(removing, working);
    let Removed::Left(why) = removed else {
        panic!("{removed:?}")
    };
    assert!(why.contains("modified"), "{why}");
    let staging = world.aws.distribution(&orphan.staging_id).unwrap();
    assert!(staging.enabled);
    assert_eq!(world.changes(), ["DeleteContinuousDeploymentPolicy"]);
}

/// Whoever attaches an orphan to production makes a policy for it: that one is found before each change.
#[tokio::test(start_paused = true)]
async fn an_orphan_that_a_new_policy_lists_is_left_although_its_own_policy_is_gone() {
    let world = World::new();
    let orphan = world.service("shop");
    world.aws.deploy_again(&orphan).unwrap();
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    let person = Person::new(&world);
    // The policy that it was found with is one of long ago.
    let found = Service {
        policy_id: "00000000-0000-4000-8000-000000000000".to_owned(),
        ..orphan.clone()
    };
    let removed = person.remove(&world, &found).await;
    let Removed::Left(why) = removed else {
        panic!("{removed:?}")
    };
    assert!(why.contains("a policy lists it"), "{why}");
    assert!(world.changes().is_empty(), "{:?}", world.changes());
}

/// The time for the propagation of the disable begins after the wait for an execution, however long that was.
#[tokio::test(start_paused = true)]
async fn an_orphan_is_held_for_longer_than_any_propagation_while_an_execution_is_at_work() {
    let (world, orphan, newer) = orphan_beside_an_execution_at_work().await;
    let person = Person::new(&world);
    let removing = person.remove(&world, &orphan);
    let working = async {
        let long = 2 * person.config.cleanup.propagation_timeout;
        tokio::time::sleep(long).await;
        let staging = world.aws.distribution(&orphan.staging_id).unwrap();
        assert!(staging.enabled);
        world.aws.fail(&newer);
    };
    let (removed, ()) = tokio::join!(removing, working);
    assert!(matches!(removed, Removed::Gone), "{removed:?}");
    assert_gone(&world, &orphan);
    assert!(world.aws.distribution(&newer.staging_id).is_some());
}
