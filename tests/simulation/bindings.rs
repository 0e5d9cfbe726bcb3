//! Which staging distribution a rejection is about, and what is not its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stagesweep::rehearsal::{Action, EventOptions, Form, Rule, Service};
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
    let mut newer = world.aws.deploy_copy(&older).unwrap();
    world.aws.deploy_record(&newer);
    world.reject(&older);
    let daemon = world.start("ledger.db");
    // Production still names the older policy, but it is the newer deployment's to change now.
    let waits = |aws: &stagesweep::rehearsal::EmbeddedAws| {
        aws.journal()
            .calls("GetDistribution", Some(&older.production_id))
            > 5
    };
    world
        .aws
        .wait_until(waits, Duration::from_secs(3600))
        .await
        .unwrap();
    assert_eq!(world.changes(), Vec::<String>::new());
    newer.policy_id = world.aws.deploy_policy(&newer).unwrap();
    world.aws.deploy_attach(&newer).unwrap();
    world.settled().await;
    assert_gone(&world, &older);
    assert_untouched(&world, &newer);
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
    let world = World::new();
    let first = world.service("shop");
    world.reject(&first);
    let daemon = world.start("ledger.db");
    world.settled().await;
    // The stage is retried: deployed anew, and rejected again, within one execution.
    let mut second = world.aws.deploy_again(&first).unwrap();
    second.execution_id.clone_from(&first.execution_id);
    world.aws.settle();
    tokio::time::advance(Duration::from_secs(60)).await;
    let options = EventOptions {
        attempt: 2,
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&second, &options));
    world.settled().await;
    assert_clean(&world, &second);
    assert_eq!(daemon.telemetry.metrics().count("CleanupsSucceeded"), 2);
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
    assert!(metrics.count_by_reason("MessagesRejected", "history_too_short") > 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_distributions_named_within_the_second_of_an_older_event_are_both_left_alone() {
    for (apart, refused) in [
        (Duration::from_millis(400), true),
        (Duration::from_secs(3), false),
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
        let daemon = world.start("ledger.db");
        world.settled().await;
        let metrics = daemon.telemetry.metrics();
        let reason = "staging_parameter_just_written";
        let refusals = metrics.count_by_reason("MessagesRejected", reason);
        assert_eq!(
            (refusals > 0, world.dead_letters()),
            (refused, usize::from(refused))
        );
        assert!(world.aws.distribution(&newer.staging_id).is_some());
        let older = world.aws.distribution(&service.staging_id);
        assert_eq!(older.is_some(), refused, "{apart:?}");
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
async fn another_deployments_policy_on_production_stays_attached() {
    let world = World::new();
    let service = world.service("shop");
    let mut other = world.aws.deploy_copy(&service).unwrap();
    other.policy_id = world.aws.deploy_policy(&other).unwrap();
    world.aws.deploy_attach(&other).unwrap();
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
