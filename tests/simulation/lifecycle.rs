//! Starting, stopping, draining, several at once.

use std::time::Duration;

use stagesweep::domain::targets::Targets;
use stagesweep::rehearsal::{Action, Failure, Rule};

use crate::harness::{PATIENCE, World, assert_clean, assert_untouched};

#[tokio::test(start_paused = true)]
async fn a_stop_in_mid_wait_releases_the_message_at_once_and_a_restart_goes_on() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.detached().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let began = tokio::time::Instant::now();
    daemon.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let depth = world.aws.depth(&world.queues.url).unwrap();
    assert_eq!(
        (depth.visible, depth.in_flight),
        (1, 0),
        "released with visibility 0"
    );

    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(
        world.changes().len(),
        5,
        "no step was done twice: {:?}",
        world.changes()
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_by_itself_when_the_queue_is_empty_and_all_jobs_are_done() {
    let world = World::new();
    let services: Vec<_> = (0..4).map(|n| world.service(&format!("shop{n}"))).collect();
    for service in &services {
        world.reject(service);
    }
    world.send("not an event");
    world.start_with("ledger.db", "", true).ended().await;
    for service in &services {
        assert!(world.aws.distribution(&service.staging_id).is_none());
    }
    let depth = world.aws.depth(&world.queues.url).unwrap();
    assert_eq!(depth.visible + depth.in_flight + depth.delayed, 0);
    assert_eq!(world.dead_letters(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_daemons_on_one_queue_end_clean() {
    let world = World::new();
    let services: Vec<_> = (0..6).map(|n| world.service(&format!("shop{n}"))).collect();
    for service in &services {
        for _ in 0..4 {
            world.reject(service);
        }
    }
    let (one, two) = (world.start("one.db"), world.start("two.db"));
    world.settled().await;
    for service in &services {
        assert_clean(&world, service);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_rejections_for_one_production_distribution_take_turns() {
    let world = World::new();
    let older = world.service("shop");
    let newer = world.aws.deploy_again(&older).unwrap();
    world.aws.settle();
    tokio::time::advance(Duration::from_secs(60)).await;
    world.reject(&older);
    world.reject(&newer);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &newer);
    assert!(world.aws.distribution(&older.staging_id).is_none());
    // All changes for the one come before all changes for the other.
    let owners: Vec<bool> = world
        .aws
        .journal()
        .mutations()
        .iter()
        .filter_map(|entry| {
            let resource = entry.call.resource.as_ref()?;
            let of_older = [&older.staging_id, &older.policy_id].contains(&resource);
            let of_newer = [&newer.staging_id, &newer.policy_id].contains(&resource);
            (of_older || of_newer).then_some(of_older)
        })
        .collect();
    assert_eq!(owners.len(), 6);
    assert!(
        owners.windows(2).filter(|pair| pair[0] != pair[1]).count() == 1,
        "{owners:?}"
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_messages_are_held_than_may_be_in_flight() {
    let world = World::new();
    let services: Vec<_> = (0..6).map(|n| world.service(&format!("shop{n}"))).collect();
    for service in &services {
        world.reject(service);
    }
    let daemon = world.start_with("ledger.db", "max_in_flight = 2\n", false);
    let mut most = 0;
    while world.aws.depth(&world.queues.url).unwrap().visible > 0 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        most = most.max(world.aws.depth(&world.queues.url).unwrap().in_flight);
    }
    world.settled().await;
    assert_eq!(most, 2);
    for service in &services {
        assert_clean(&world, service);
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn new_targets_are_those_of_the_next_message() {
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start("ledger.db");
    let consumer = daemon.daemon.consumer();
    consumer.set_targets(Targets::default()).unwrap();
    world.reject(&service);
    world.settled().await;
    assert_untouched(&world, &service);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesRefused", "no_target"), 1);
    daemon.stop().await;
}

/// Also where it may not ask what the queue holds.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_its_jobs_and_for_what_it_released() {
    for may_ask in [true, false] {
        let world = World::new();
        if !may_ask {
            world.aws.deny("GetQueueAttributes");
        }
        let denied = Action::Refuse(Failure::new(403, "AccessDenied", "no"));
        world
            .aws
            .add_rule(Rule::on("UpdateDistribution").nth(1).then(denied));
        let service = world.service("shop");
        world.reject(&service);
        let drain = world.start_with("ledger.db", "", true).ended();
        tokio::time::timeout(PATIENCE, drain).await.unwrap();
        assert_clean(&world, &service);
    }
}
