//! Another execution deploys into the staging distribution of a job that is under way: it is theirs by then.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Failure, Pattern, Rule, RuleId, Service};

use crate::harness::{Instance, PATIENCE, World, assert_untouched};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Of the two ways to deploy, the first shows by the parameter whose the distribution is; the second only by its
/// last modification.
const PATTERNS: [Pattern; 2] = [Pattern::New, Pattern::ReuseRecordedOnce];

/// A world where a deployment of that kind is rejected.
async fn rejected(pattern: Pattern) -> (World, Service) {
    let world = World::new();
    let mut service = world.service("shop");
    if pattern != Pattern::New {
        world.aws.approve(&service).unwrap();
        tokio::time::sleep(60 * MINUTE).await;
        let again = deploying(&world, &service).await;
        service = world.aws.deploy(&again, pattern).unwrap();
        tokio::time::sleep(10 * MINUTE).await;
    }
    world.send(&world.aws.reject(&service).unwrap());
    (world, service)
}

/// A newer execution of the service's pipeline, in its deployment.
async fn deploying(world: &World, service: &Service) -> Service {
    let newer = world.aws.start_execution(service);
    tokio::time::sleep(SECOND).await;
    let newer = world.aws.run_to(&newer, "Deploy").unwrap();
    tokio::time::sleep(SECOND).await;
    newer
}

/// It read the id of the service's staging distribution before that was withdrawn.
async fn deploys_into(world: &World, service: &Service) {
    let id = &service.staging_id;
    world.aws.edit_distribution(id, "Comment", "newer").unwrap();
    tokio::time::sleep(5 * SECOND).await;
}

async fn recorded(world: &World, service: &Service) {
    let is_recorded = |aws: &EmbeddedAws| {
        let value = aws.parameter(&service.staging_parameter);
        value.as_deref() == Some("deleted")
    };
    world.aws.wait_until(is_recorded, PATIENCE).await.unwrap();
}

/// CloudFront refuses every detach.
fn no_detach(world: &World) -> RuleId {
    let failure = Failure::new(503, "ServiceUnavailable", "Try again.");
    let refused = Rule::on("UpdateDistribution").then(Action::Refuse(failure));
    world.aws.add_rule(refused)
}

/// The job ends as superseded, and the name that it withdrew is written again.
async fn left_to_the_newer(world: &World, service: &Service, daemon: Instance) {
    world.settled().await;
    assert_untouched(world, service);
    assert_eq!(world.changes(), ["PutParameter", "PutParameter"]);
    assert_eq!(world.dead_letters(), 0);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("CleanupsSuperseded"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_deploys_into_between_the_record_and_the_detach_is_left() {
    for pattern in PATTERNS {
        let (world, service) = rejected(pattern).await;
        let refused = no_detach(&world);
        let daemon = world.start("ledger.db");
        recorded(&world, &service).await;
        let newer = deploying(&world, &service).await;
        deploys_into(&world, &service).await;
        world.aws.finish(&newer);
        world.aws.remove_rule(refused);
        left_to_the_newer(&world, &service, daemon).await;
    }
}

/// The process is killed after its record; the other one is done at the restart, or still at work.
#[tokio::test(start_paused = true)]
async fn what_another_deploys_into_while_no_process_runs_is_left() {
    for pattern in PATTERNS {
        for done in [true, false] {
            let (world, service) = rejected(pattern).await;
            let hung = Rule::on("PutParameter").nth(1).then(Action::HangAfter);
            world.aws.add_rule(hung);
            let daemon = world.start("ledger.db");
            recorded(&world, &service).await;
            tokio::time::sleep(SECOND).await;
            daemon.crash().await;
            let newer = deploying(&world, &service).await;
            if done {
                deploys_into(&world, &service).await;
                world.aws.finish(&newer);
            }
            let daemon = world.start("ledger.db");
            if !done {
                // The lost lease, the message, and the question before the detach.
                tokio::time::sleep(10 * MINUTE).await;
                deploys_into(&world, &service).await;
                world.aws.finish(&newer);
            }
            left_to_the_newer(&world, &service, daemon).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_deploys_into_during_the_delay_is_left() {
    for pattern in PATTERNS {
        let (mut world, service) = rejected(pattern).await;
        world.target = "delay = \"30m\"".to_owned();
        let daemon = world.start("ledger.db");
        tokio::time::sleep(MINUTE).await;
        let newer = deploying(&world, &service).await;
        deploys_into(&world, &service).await;
        world.aws.finish(&newer);
        world.settled().await;
        assert_untouched(&world, &service);
        assert_eq!(world.changes(), Vec::<String>::new());
        let metrics = daemon.telemetry.metrics();
        assert_eq!(metrics.count("CleanupsSuperseded"), 1);
        daemon.stop().await;
    }
}
