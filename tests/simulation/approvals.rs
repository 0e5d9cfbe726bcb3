//! Pipelines with two approvals in a row, and with transitions that somebody disables.

use std::time::Duration;

use embedded_aws::{Definition, Mode, Retry, Service, Shape};

use crate::harness::{Instance, World, assert_clean, assert_gone, assert_untouched};
use crate::seeds::executions::{APPROVE, CHECK, stage_of_check, with_check};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn count(daemon: &Instance, reason: &str) -> u64 {
    let metrics = daemon.telemetry.metrics();
    metrics.count_by_reason("MessagesDeleted", reason)
}

/// A world of such pipelines, where nothing is deployed yet.
fn world(definition: Definition) -> (World, Service) {
    let world = World::new();
    let shape = Shape {
        definition,
        ..Shape::default()
    };
    let idle = world.aws.create_idle_service("shop", &shape).unwrap();
    (world, idle)
}

/// An execution that deploys, and goes as far as it may.
async fn deployed(world: &World, of: &Service) -> Service {
    tokio::time::sleep(MINUTE).await;
    let execution = world.aws.start_execution(of);
    tokio::time::sleep(5 * SECOND).await;
    let execution = world.aws.run_to(&execution, APPROVE).unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    execution
}

/// A world with a target for each of the two approvals, and an execution that waits at the first.
async fn checked(in_stage: bool) -> (World, Service) {
    let (mut world, idle) = world(with_check(Definition::default(), in_stage));
    world.target = format!(
        r#"
[[targets]]
pipeline = "{{service}}-frontend-pipeline"
stage = "{}"
action = "{CHECK}"
production_parameter = "/{{service}}/cloudfront/cfcd-production"
staging_parameter = "/{{service}}/cloudfront/cfcd-staging"
"#,
        stage_of_check(in_stage)
    );
    let execution = deployed(&world, &idle).await;
    (world, execution)
}

#[tokio::test(start_paused = true)]
async fn of_two_approvals_in_a_row_either_may_be_rejected() {
    for in_stage in [true, false] {
        for check_passes in [false, true] {
            let (world, a) = checked(in_stage).await;
            if check_passes {
                let approved = world.aws.approve(&a).unwrap();
                assert!(approved.contains(CHECK), "{approved}");
                tokio::time::sleep(10 * MINUTE).await;
            }
            let rejected = world.aws.reject(&a).unwrap();
            let action = if check_passes { APPROVE } else { CHECK };
            assert!(rejected.contains(&format!("\"action\":\"{action}\"")));
            world.send(&rejected);
            let daemon = world.start("ledger.db");
            world.settled().await;
            assert_clean(&world, &a);
            assert_eq!(count(&daemon, "cleaned"), 1, "{in_stage} {check_passes}");
            daemon.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_approval_that_is_retried_and_given_takes_its_rejection_back() {
    for in_stage in [true, false] {
        let (world, a) = checked(in_stage).await;
        let first = world.aws.reject(&a).unwrap();
        tokio::time::sleep(MINUTE).await;
        let stage = stage_of_check(in_stage);
        world.aws.retry(&a, stage, Retry::FailedActions).unwrap();
        world.aws.approve(&a).unwrap();
        tokio::time::sleep(MINUTE).await;
        // It waits at the second one.
        world.send(&first);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_untouched(&world, &a);
        assert_eq!(count(&daemon, "retracted"), 1, "{in_stage}");
        world.send(&world.aws.reject(&a).unwrap());
        world.settled().await;
        assert_clean(&world, &a);
        assert_eq!(count(&daemon, "cleaned"), 1, "{in_stage}");
        daemon.stop().await;
    }
}

/// One waits at the second approval, or between the two where the transition is disabled; its promotion comes later.
#[tokio::test(start_paused = true)]
async fn who_waits_behind_the_first_approval_is_not_at_work() {
    for disabled in [false, true] {
        let (world, c) = checked(false).await;
        if disabled {
            world.aws.set_transition(&c.pipeline, APPROVE, false);
        }
        world.aws.approve(&c).unwrap();
        tokio::time::sleep(MINUTE).await;
        let a = deployed(&world, &c).await;
        world.send(&world.aws.reject(&a).unwrap());
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &a);
        world.aws.set_transition(&c.pipeline, APPROVE, true);
        world.aws.approve(&c).unwrap();
        tokio::time::sleep(60 * MINUTE).await;
        // It reads `deleted`, and gives up.
        let production = world.aws.distribution(&c.production_id).unwrap();
        assert!(production.enabled);
        assert_eq!(world.aws.execution(&c).unwrap().status, "Failed");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_waited_behind_a_disabled_transition_while_others_deployed_is_told_apart() {
    for mode in [Mode::Queued, Mode::Superseded] {
        let (world, idle) = world(Definition::default().in_mode(mode));
        world.aws.set_transition(&idle.pipeline, APPROVE, false);
        let a = deployed(&world, &idle).await;
        let b = deployed(&world, &idle).await;
        let waits = world.aws.execution(&b).unwrap().waits_before;
        assert_eq!(waits.as_deref(), Some(APPROVE));
        world.aws.set_transition(&idle.pipeline, APPROVE, true);
        tokio::time::sleep(MINUTE).await;
        let daemon = world.start("ledger.db");
        // In the first mode the older one comes to its approval; in the other one it is over.
        let (rejected, other) = match mode {
            Mode::Queued => (&a, &b),
            _ => (&b, &a),
        };
        world.send(&world.aws.reject(rejected).unwrap());
        world.settled().await;
        assert_gone(&world, rejected);
        let staging = world.aws.distribution(&other.staging_id).unwrap();
        assert!(staging.enabled, "{mode:?}");
        match mode {
            Mode::Queued => assert_untouched(&world, other),
            _ => assert_eq!(world.aws.execution(other).unwrap().status, "Superseded"),
        }
        assert_eq!(world.dead_letters(), 0);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_promotion_behind_a_disabled_transition_reads_deleted_when_it_begins() {
    let (world, idle) = world(Definition::default());
    let c = deployed(&world, &idle).await;
    world.aws.set_transition(&c.pipeline, "Promote", false);
    world.aws.approve(&c).unwrap();
    let a = deployed(&world, &idle).await;
    world.send(&world.aws.reject(&a).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &a);
    world.aws.set_transition(&c.pipeline, "Promote", true);
    tokio::time::sleep(60 * MINUTE).await;
    assert!(world.aws.distribution(&c.production_id).unwrap().enabled);
    assert_eq!(world.aws.execution(&c).unwrap().status, "Failed");
    daemon.stop().await;
}
