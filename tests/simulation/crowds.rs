//! Crowds around one slow distribution: nobody else waits for them.

use std::time::Duration;

use embedded_aws::{Definition, EmbeddedAws, Mode, Service};
use tokio::time::Instant;

use crate::harness::{Instance, PATIENCE, World, assert_clean, assert_gone};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Two jobs may work, and so twenty messages wait.
const FEW: &str = "max_in_flight = 2\n";

/// How long a rejection waits until its cleanup begins.
async fn begins_within(world: &World, service: &Service) -> Duration {
    let began = Instant::now();
    world.reject(service);
    let withdrawn = |aws: &EmbeddedAws| {
        let value = aws.parameter(&service.staging_parameter);
        value.as_deref() == Some("deleted")
    };
    world.aws.wait_until(withdrawn, PATIENCE).await.unwrap();
    began.elapsed()
}

fn released(daemon: &Instance) -> u64 {
    let metrics = daemon.telemetry.metrics();
    metrics.count_by_reason("MessagesReleased", "crowded")
}

#[tokio::test(start_paused = true)]
async fn copies_of_one_rejection_keep_nobody_else_waiting() {
    let world = World::with(|settings| settings.propagation = 20 * MINUTE);
    let [shop, blog] = ["shop", "blog"].map(|name| world.service(name));
    for _ in 0..64 {
        world.reject(&shop);
    }
    let daemon = world.start_with("ledger.db", FEW, false);
    world.detached().await;
    tokio::time::sleep(MINUTE).await;
    let depth = world.aws.depth(&world.queues.url).unwrap();
    assert_eq!(depth.visible, 0, "who finds no room is hidden: {depth:?}");
    assert!(released(&daemon) > 0);
    let waited = begins_within(&world, &blog).await;
    assert!(waited < 30 * SECOND, "{waited:?}");
    world.settled().await;
    for service in [&shop, &blog] {
        assert_clean(&world, service);
    }
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("CleanupsStarted"), 2);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_rejections_of_one_distribution_keep_nobody_else_waiting() {
    let world = World::with(|settings| settings.propagation = 5 * MINUTE);
    let [shop, blog] = ["shop", "blog"].map(|name| world.service(name));
    let parallel = Definition::default().in_mode(Mode::Parallel);
    world.aws.define_pipeline(&shop.pipeline, parallel);
    world.aws.approve(&shop).unwrap();
    tokio::time::sleep(60 * MINUTE).await;
    let mut rejected = Vec::new();
    for _ in 0..12 {
        tokio::time::sleep(MINUTE).await;
        let execution = world.aws.start_execution(&shop);
        tokio::time::sleep(5 * SECOND).await;
        rejected.push(world.aws.run_to(&execution, "Approve").unwrap());
    }
    for service in &rejected {
        let body = world.aws.reject(service).unwrap();
        for _ in 0..3 {
            world.send(&body);
        }
    }
    let daemon = world.start_with("ledger.db", FEW, false);
    tokio::time::sleep(MINUTE).await;
    assert!(released(&daemon) > 0);
    let waited = begins_within(&world, &blog).await;
    assert!(waited < 30 * SECOND, "{waited:?}");
    world.settled().await;
    for service in &rejected {
        assert_gone(&world, service);
    }
    assert_clean(&world, &blog);
    daemon.stop().await;
}
