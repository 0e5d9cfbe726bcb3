//! Which staging distribution a rejection is about, and what is not its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use embedded_aws::{
    Action, ActionDefinition, Definition, EmbeddedAws, EventOptions, Form, Pattern, Retry, Rule,
    Service, Shape, Work,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{PATIENCE, World, assert_clean, assert_gone, assert_untouched};

#[tokio::test(start_paused = true)]
async fn a_slot_that_a_newer_deployment_took_before_the_rejection_is_found_through_the_history() {
    let world = World::new();
    let older = world.service("shop");
    let newer = world.aws.deploy_again(&older).unwrap();
    world.aws.settle();
    let newer_state = snapshot(&world, &newer);
    world.reject(&older);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_gone(&world, &older);
    assert_untouched(&world, &newer);
    assert_eq!(snapshot(&world, &newer), newer_state);
    assert_eq!(world.dead_letters(), 0);
    assert_eq!(daemon.telemetry.metrics().count("CleanupsSuperseded"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_deployment_at_any_moment_of_a_cleanup_is_never_touched() {
    let undisturbed = {
        let world = World::new();
        let service = world.service("shop");
        world.reject(&service);
        let daemon = world.start("ledger.db");
        world.settled().await;
        daemon.stop().await;
        calls_of_the_cleanup(&world)
    };
    assert!(undisturbed > 30, "{undisturbed} calls");
    for nth in 1..=undisturbed {
        let world = World::new();
        let older = world.service("shop");
        let deploying = older.clone();
        let newer = std::sync::Arc::new(std::sync::Mutex::new(None::<Service>));
        let deployed = newer.clone();
        world.before_cleanup_call(nth, move |aws| {
            *deployed.lock().unwrap() = Some(aws.deploy_again(&deploying).unwrap());
        });
        world.reject(&older);
        let daemon = world.start("ledger.db");
        world.settled().await;
        let newer = newer.lock().unwrap().clone().unwrap();
        assert_gone(&world, &older);
        assert_untouched(&world, &newer);
        assert_eq!(world.dead_letters(), 0, "before call {nth}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_deployment_in_every_one_of_its_stages_is_left_to_finish() {
    // The newer deployment's own steps, one by one, with the rejected job running all the while.
    let world = World::new();
    let older = world.service("shop");
    let rejection = world.aws.reject(&older).unwrap();
    let newer = world.aws.start_execution(&older);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let newer = world.aws.run_to(&newer, "Deploy").unwrap();
    world.send(&rejection);
    let daemon = world.start("ledger.db");
    let nothing_changes = async || {
        tokio::time::sleep(Duration::from_secs(20 * 60)).await;
        assert_eq!(world.changes(), Vec::<String>::new());
    };
    nothing_changes().await;
    let mut newer = world.aws.copy_staging(&newer).unwrap();
    nothing_changes().await;
    // Production names the older policy throughout, but it is the newer deployment's to change now.
    let name = &newer.staging_parameter;
    let build = world.aws.execution(&newer).unwrap();
    let build = build.latest("Deploy").unwrap().build.clone().unwrap();
    let session = format!("assumed-role/shop-codebuild/AWSCodeBuild-{build}");
    let arn = format!("arn:aws:sts::{}:{session}", newer.account);
    world.aws.put_parameter_as(name, &newer.staging_id, &arn);
    nothing_changes().await;
    newer.policy_id = world.aws.deploy_policy(&newer).unwrap();
    nothing_changes().await;
    world.aws.deploy_attach(&newer).unwrap();
    nothing_changes().await;
    world.aws.finish(&newer);
    world.settled().await;
    assert_gone(&world, &older);
    assert_untouched(&world, &newer);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("MessagesReceived"), 1, "a wait is no failure");
    assert_eq!(metrics.count("CleanupsSuperseded"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_duplicate_without_a_ledger_touches_nothing_of_a_newer_deployment() {
    let world = World::new();
    let older = world.service("shop");
    world.reject(&older);
    let daemon = world.start("ledger.db");
    world.settled().await;
    daemon.stop().await;
    assert_clean(&world, &older);

    let newer = world.aws.deploy_again(&older).unwrap();
    world.aws.settle();
    let changes = world.changes().len();
    world.reject(&older);
    let daemon = world.start("another-ledger.db");
    world.settled().await;
    assert_untouched(&world, &newer);
    assert_eq!(world.changes().len(), changes, "something was changed");
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_rejection_of_the_same_execution_is_new_work() {
    // The deployment is in the approval's own stage, so that a retry of the stage deploys anew.
    let mut definition = Definition::default();
    let stages = &mut definition.stages;
    stages.retain(|stage| stage.name != "Deploy");
    let approval = stages.iter_mut().find(|stage| stage.name == "Approve");
    let actions = &mut approval.unwrap().actions;
    actions.insert(0, ActionDefinition::build("Deploy", Work::Deploys));
    actions[1] = ActionDefinition::approval("Approve").after(2);
    let world = World::new();
    let shape = Shape {
        definition,
        ..Shape::default()
    };
    let idle = world.aws.create_idle_service("shop", &shape).unwrap();
    let execution = world.aws.start_execution(&idle);
    let deploys = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.aws.run_to(&execution, "Approve").unwrap();
        let deployed = world.aws.deploy(&execution, Pattern::New).unwrap();
        world.aws.settle();
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.send(&world.aws.reject(&deployed).unwrap());
        deployed
    };
    let first = deploys().await;
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &first);
    // The stage is retried: deployed anew, and rejected again, within one execution.
    world
        .aws
        .retry(&execution, "Approve", Retry::AllActions)
        .unwrap();
    let second = deploys().await;
    assert_ne!(second.staging_id, first.staging_id);
    assert_eq!(second.execution_id, first.execution_id);
    world.settled().await;
    assert_clean(&world, &second);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "cleaned"), 2);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_history_cannot_tell_is_not_touched() {
    let world = World::new();
    let service = world.service("shop");
    // SSM keeps a hundred versions; the one the approval started with is gone.
    for _ in 0..120 {
        world
            .aws
            .put_parameter(&service.staging_parameter, &service.staging_id);
    }
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_untouched(&world, &service);
    assert_eq!(world.dead_letters(), 1);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(
        metrics.count_by_reason("CleanupsRefused", "history_too_short"),
        1
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_distributions_named_within_the_second_of_an_older_event_are_both_left_alone() {
    // What the execution did tells; only by the clock is there a doubt.
    for (apart, asks, refused) in [
        (Duration::from_millis(400), false, true),
        (Duration::from_secs(3), false, false),
        (Duration::from_millis(400), true, false),
    ] {
        let world = World::new();
        let service = world.service("shop");
        tokio::time::advance(Duration::from_secs(60)).await;
        // Rejected at 0.6 s, which the event shows as 1 s.
        tokio::time::advance(Duration::from_millis(600)).await;
        let options = EventOptions {
            form: Form::Older,
            ..EventOptions::default()
        };
        let body = world.aws.rejection_event(&service, &options);
        tokio::time::advance(apart - Duration::from_millis(100)).await;
        let newer = world.aws.deploy_again(&service).unwrap();
        world.send(&body);
        let more = format!("[verify]\ncodepipeline = {asks}\n");
        let daemon = world.start_with("ledger.db", &more, false);
        world.settled().await;
        let metrics = daemon.telemetry.metrics();
        let reason = "staging_parameter_just_written";
        let refusals = metrics.count_by_reason("CleanupsRefused", reason);
        assert_eq!(
            (refusals == 1, world.dead_letters()),
            (refused, usize::from(refused))
        );
        assert!(world.aws.distribution(&newer.staging_id).is_some());
        let older = world.aws.distribution(&service.staging_id);
        assert_eq!(older.is_some(), refused, "{apart:?}, asks: {asks}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_written_in_the_same_instant_as_ours_is_put_back() {
    let world = World::new();
    let service = world.service("shop");
    let name = service.staging_parameter.clone();
    world.aws.add_rule(
        Rule::on("PutParameter")
            .nth(1)
            .then(Action::before(move |aws, _| {
                aws.put_parameter(&name, "ENEWERSTAGING1");
            })),
    );
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_gone(&world, &service);
    let value = world.aws.parameter(&service.staging_parameter);
    assert_eq!(value.as_deref(), Some("ENEWERSTAGING1"));
    assert_eq!(daemon.telemetry.metrics().count("CleanupsSuperseded"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_covered_by_ours_is_put_back_after_a_crash() {
    let world = World::new();
    let service = world.service("shop");
    let crash = Arc::new(Notify::new());
    let newer = Arc::new(Mutex::new(None));
    let (deployed, crashing) = (Arc::clone(&newer), Arc::clone(&crash));
    let older = service.clone();
    let deploys = Action::before(move |aws, _| {
        *deployed.lock().unwrap() = Some(aws.deploy_again(&older).unwrap());
        crashing.notify_one();
    });
    for action in [deploys, Action::HangAfter] {
        let rule = Rule::on("PutParameter").nth(1).then(action);
        world.aws.add_rule(rule);
    }
    world.reject(&service);
    let daemon = world.start("ledger.db");
    timeout(PATIENCE, crash.notified()).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    daemon.crash().await;
    let value = world.aws.parameter(&service.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"), "theirs is covered");

    let daemon = world.start("ledger.db");
    world.settled().await;
    let newer = newer.lock().unwrap().take().unwrap();
    assert_gone(&world, &service);
    assert_untouched(&world, &newer);
    assert_eq!(daemon.telemetry.metrics().count("CleanupsSuperseded"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_job_withdrew_is_not_put_back_by_an_older_one_whose_write_was_never_made() {
    let world = World::new();
    let older = world.service("shop");
    let crash = Arc::new(Notify::new());
    let crashing = Arc::clone(&crash);
    for action in [
        Action::before(move |_, _| crashing.notify_one()),
        Action::Hang,
    ] {
        let rule = Rule::on("PutParameter").nth(1).then(action);
        world.aws.add_rule(rule);
    }
    world.reject(&older);
    let daemon = world.start("ledger.db");
    timeout(PATIENCE, crash.notified()).await.unwrap();
    daemon.crash().await;

    let newer = world.aws.deploy_again(&older).unwrap();
    world.aws.settle();
    // The older job comes back when the newer one has recorded, and is held before its detach.
    let look = Rule::on("GetDistributionConfig").about(&older.staging_id);
    world.aws.add_rule(look.first(1).then(Action::Deny));
    let at_work = Arc::new(Mutex::new(None));
    let (deploying, of) = (Arc::clone(&at_work), newer.clone());
    let deploys = Action::after(move |aws, _| {
        *deploying.lock().unwrap() = Some(aws.deploy_copy(&of).unwrap());
    });
    world
        .aws
        .add_rule(Rule::on("PutParameter").nth(1).then(deploys));
    world.reject(&newer);
    let daemon = world.start("ledger.db");
    let is_gone = |aws: &EmbeddedAws| aws.distribution(&older.staging_id).is_none();
    world.aws.wait_until(is_gone, PATIENCE).await.unwrap();
    assert!(world.aws.distribution(&newer.staging_id).is_some());
    let value = world.aws.parameter(&newer.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"));
    let at_work = at_work.lock().unwrap().take().unwrap();
    world.aws.finish(&at_work);
    world.settled().await;
    assert_clean(&world, &newer);
    assert_gone(&world, &older);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_deployments_policy_on_production_stays_attached() {
    let world = World::new();
    let service = world.service("shop");
    // A deployment that ends without having named what it made.
    let mut other = world.aws.deploy_copy(&service).unwrap();
    other.policy_id = world.aws.deploy_policy(&other).unwrap();
    world.aws.deploy_attach(&other).unwrap();
    world.aws.finish(&other);
    world.aws.settle();
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_gone(&world, &service);
    let production = world.aws.distribution(&service.production_id).unwrap();
    assert_eq!(production.policy_id, other.policy_id);
    assert!(world.aws.distribution(&other.staging_id).unwrap().enabled);
    assert_eq!(
        world.aws.parameter(&service.staging_parameter).as_deref(),
        Some("deleted")
    );
    daemon.stop().await;
}

fn snapshot(world: &World, service: &Service) -> (String, String, Option<String>) {
    (
        world.aws.distribution(&service.staging_id).unwrap().config,
        world.aws.policy(&service.policy_id).unwrap().etag,
        world.aws.parameter(&service.staging_parameter),
    )
}

fn calls_of_the_cleanup(world: &World) -> u64 {
    let entries = world.aws.journal().entries();
    let calls = entries
        .iter()
        .filter(|entry| crate::harness::is_cleanup_call(&entry.call));
    calls.count() as u64
}
