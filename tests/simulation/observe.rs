//! `mode = "observe"`: nothing is changed, and what would be done is told.

use std::time::Duration;

use embedded_aws::{EmbeddedAws, EventOptions, Service};
use serde_json::Value;
use stagesweep::domain::history::{Kind, Record};
use stagesweep::ledger::EmbeddedLedger;
use tokio::time::sleep;

use crate::harness::{Log, PATIENCE, World, assert_clean, assert_untouched};

const OBSERVE: &str = "[cleanup]\nmode = \"observe\"";

const CHANGES: [&str; 4] = [
    "PutParameter",
    "UpdateDistribution",
    "DeleteContinuousDeploymentPolicy",
    "DeleteDistribution",
];

const STEPS: [&str; 5] = [
    "record_deleted",
    "detach_policy",
    "delete_policy",
    "disable_staging",
    "delete_staging",
];

fn history(world: &World) -> Vec<Record> {
    EmbeddedLedger::history(&world.ledger_path("ledger.db"), &world.clock).unwrap()
}

/// The outcomes of all jobs, the newest first.
fn outcomes(world: &World) -> Vec<String> {
    let records = history(world);
    let outcomes = records.iter().map(|it| it.state.code().to_owned());
    outcomes.collect()
}

/// Nothing that changes anything was so much as tried.
fn assert_not_tried(world: &World) {
    for change in CHANGES {
        assert_eq!(world.aws.journal().calls(change, None), 0, "{change}");
    }
    assert_eq!(world.dead_letters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_observed_without_any_right_to_change_and_done_once_the_mode_is_act() {
    let world = World::new();
    let service = world.service("shop");
    let (log, _listening) = Log::listen();
    let denied = CHANGES.map(|change| world.aws.deny(change));
    let event = world
        .aws
        .rejection_event(&service, &EventOptions::default());
    world.send(&event);
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    world.settled().await;
    assert_not_tried(&world);
    assert_untouched(&world, &service);
    assert_eq!(log.with("\"started\"")[0]["mode"], "observe");
    let lines = log.with("observed; nothing was changed");
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(line["outcome"], "observed");
    let detail = line["detail"].as_str().unwrap();
    let (staging, production) = (&service.staging_id, &service.production_id);
    let would = format!("{} (staging {staging} of {production})", STEPS.join(", "));
    assert_eq!(detail, format!("nothing was changed; would: {would}"));
    let started = log.with("cleanup started; it is only observed");
    assert_eq!(started[0]["mode"], "observe");
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("CleanupsObserved"), 1);
    assert_eq!(metrics.count("CleanupsSucceeded"), 0);

    // Observed once more, it is a duplicate.
    world.send(&event);
    world.settled().await;
    assert_eq!(metrics.count("DuplicatesSuppressed"), 1);
    daemon.stop().await;
    let records = history(&world);
    let [record] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!(record.state.code(), "observed");
    let ids = record.ids();
    assert_eq!(ids.production_id.as_ref(), Some(&service.production_id));
    assert_eq!(ids.staging_id.as_ref(), Some(&service.staging_id));
    assert_eq!(ids.policy_id.as_ref(), Some(&service.policy_id));
    assert_eq!(record.staging_id, None, "it is bound to nothing");
    let planned = record.trail.entries.iter();
    let planned = planned.filter(|it| it.kind == Kind::Planned);
    let planned: Vec<_> = planned.map(|it| it.name.as_str()).collect();
    assert_eq!(planned, STEPS);

    for rule in denied {
        world.aws.remove_rule(rule);
    }
    let daemon = world.start("ledger.db");
    sleep(Duration::from_secs(60 * 60)).await;
    assert_untouched(&world, &service);
    world.send(&event);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
    assert_eq!(outcomes(&world), ["cleaned", "observed"]);
}

#[tokio::test(start_paused = true)]
async fn a_targets_own_mode_comes_first() {
    let mut world = World::new();
    world.target = "mode = \"act\"".to_owned();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_mode() {
    let world = World::new();
    let service = world.service("shop");
    let event = world
        .aws
        .rejection_event(&service, &EventOptions::default());
    world.send(&event);
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    world.settled().await;
    assert_untouched(&world, &service);
    let acting = world.config(&world.ledger_path("ledger.db"), "");
    daemon
        .daemon
        .consumer()
        .set_targets(acting.targets)
        .unwrap();
    world.send(&event);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let newer = world.aws.start_execution(&service);
    sleep(Duration::from_secs(1)).await;
    world.aws.run_to(&newer, "Deploy").unwrap();
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    let began = tokio::time::Instant::now();
    world.settled().await;
    assert!(began.elapsed() < Duration::from_secs(30));
    daemon.stop().await;
    assert_not_tried(&world);
    assert_eq!(outcomes(&world), ["observed"]);
}

#[tokio::test(start_paused = true)]
async fn what_touches_nothing_anyway_ends_as_ever() {
    let world = World::new();
    let retried = world.service("shop");
    world.reject(&retried);
    world.aws.retry_approval(&retried, 2);
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    world.settled().await;
    let idle = world.rolled_back("idle");
    world.reject(&idle);
    world.settled().await;
    daemon.stop().await;
    assert_not_tried(&world);
    assert_eq!(outcomes(&world), ["already_clean", "retracted"]);
}

#[tokio::test(start_paused = true)]
async fn a_fence_refuses_as_ever() {
    let world = World::new();
    let service = world.service("shop");
    let name = &service.production_parameter;
    world.aws.put_parameter(name, "ENOWHERETOBESEEN");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    let dead = |aws: &EmbeddedAws| !aws.messages(&world.queues.dead_letter_url).is_empty();
    world.aws.wait_until(dead, PATIENCE).await.unwrap();
    daemon.stop().await;
    assert_eq!(outcomes(&world), ["production_missing"]);
}

#[tokio::test(start_paused = true)]
async fn no_program_is_run() {
    let mut world = World::new();
    world.target = "run = [\"/opt/undo\"]\n[[targets]]\npipeline = \"batch-pipeline\"\n\
                    run = [\"/opt/undo-batch\"]"
        .to_owned();
    let services = ["shop", "batch"].map(|name| world.service(name));
    let batch = Service {
        pipeline: "batch-pipeline".to_owned(),
        ..services[1].clone()
    };
    let (log, _listening) = Log::listen();
    world.reject(&services[0]);
    world.reject(&batch);
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    world.settled().await;
    daemon.stop().await;
    assert!(world.programs.calls().is_empty());
    assert_not_tried(&world);
    let details = log.with("observed; nothing was changed");
    let said = |line: &Value| line["detail"].as_str().unwrap().to_owned();
    let mut details: Vec<_> = details.iter().map(said).collect();
    details.sort();
    assert!(details[0].contains("delete_staging") && details[0].ends_with("run /opt/undo"));
    assert_eq!(
        details[1],
        "nothing was changed; would: run /opt/undo-batch"
    );
}

#[tokio::test(start_paused = true)]
async fn catching_up_changes_nothing_either() {
    let world = World::new();
    let lost = world.service("shop");
    // Nobody sends it.
    let _ = world.aws.rejection_event(&lost, &EventOptions::default());
    let stopped = world.service("blog");
    world.aws.abandon(&stopped);
    let more = format!("{OBSERVE}\n[catch_up]\ninterval = \"15m\"\nreclaim = true");
    let daemon = world.start_with("ledger.db", &more, false);
    sleep(Duration::from_secs(6 * 60 * 60)).await;
    daemon.stop().await;
    assert_not_tried(&world);
    assert_untouched(&world, &lost);
    assert_eq!(outcomes(&world), ["observed", "observed"]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_had_changed_something_before_is_finished_by_the_ledger() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.detached().await;
    sleep(Duration::from_secs(1)).await;
    daemon.crash().await;
    let daemon = world.start_with("ledger.db", OBSERVE, false);
    world.settled().await;
    let gone = |aws: &EmbeddedAws| aws.distribution(&service.staging_id).is_none();
    world.aws.wait_until(gone, PATIENCE).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_clean(&world, &service);
    daemon.stop().await;
    assert!(outcomes(&world).contains(&"cleaned".to_owned()));
}
