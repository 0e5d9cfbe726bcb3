//! Health and the watchdog, as they go by what the daemon is seen to do.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Rule};
use stagesweep::aws::RECEIVE_MARGIN;
use stagesweep::runtime::health::{NotPolling, Vitals, freshness};

use crate::harness::{Instance, PATIENCE, World, assert_clean};

const SECOND: Duration = Duration::from_secs(1);

fn vitals(instance: &Instance) -> Vitals {
    instance.daemon.consumer().vitals()
}

fn reason(vitals: &Vitals) -> Option<&'static str> {
    let fresh = freshness(Duration::from_secs(20), RECEIVE_MARGIN);
    vitals.unhealthy(fresh).as_ref().map(|it| it.code())
}

/// Looks every second, and counts for how many of them it was unwell. It must never be stuck.
async fn unwell(instance: &Instance, seconds: u32, expected: &str) -> u32 {
    let mut unwell = 0;
    for second in 0..seconds {
        tokio::time::sleep(SECOND).await;
        let seen = vitals(instance);
        assert_eq!(seen.stuck(), None, "after {second} s");
        if let Some(reason) = reason(&seen) {
            assert_eq!(reason, expected, "after {second} s");
            unwell += 1;
        }
    }
    unwell
}

#[tokio::test(start_paused = true)]
async fn a_daemon_is_well_from_its_first_poll_on_and_through_a_whole_job() {
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start("ledger.db");
    assert_eq!(reason(&vitals(&daemon)), Some("not_polled_yet"));
    // It does not wait a whole long poll to know whether the queue answers.
    daemon.daemon.consumer().answered().await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(reason(&vitals(&daemon)), None);
    world.reject(&service);
    assert_eq!(unwell(&daemon, 600, "").await, 0);
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_unwell_and_never_stuck_and_ends() {
    let world = World::with(|settings| settings.propagation = Duration::from_secs(7200));
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    let waits = |aws: &EmbeddedAws| aws.journal().calls("UpdateDistribution", None) == 1;
    world.aws.wait_until(waits, PATIENCE).await.unwrap();
    // Everything: the queue, and the looks of the job that waits.
    world.aws.add_rule(Rule::on_any().then(Action::DropBefore));
    let outage = unwell(&daemon, 1800, "poll_stale").await;
    assert!((1700..1800).contains(&outage), "{outage} s");
    assert!(vitals(&daemon).receiving_fails.is_some());
    world.aws.calm();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(reason(&vitals(&daemon)), None);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_holds_all_it_may_is_well_although_it_does_not_poll() {
    let world = World::with(|settings| settings.propagation = Duration::from_secs(3600));
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", "max_in_flight = 1\n", false);
    let waits = |aws: &EmbeddedAws| aws.journal().calls("UpdateDistribution", None) == 1;
    world.aws.wait_until(waits, PATIENCE).await.unwrap();
    assert_eq!(unwell(&daemon, 900, "").await, 0);
    let seen = vitals(&daemon);
    assert_eq!(seen.not_polling, Some(NotPolling::Full));
    assert!(seen.polled.unwrap() > Duration::from_secs(800));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_poll_loop_does_is_told_from_the_first_answer_to_the_stop() {
    let world = World::new();
    world.service("shop");
    let late = Rule::on("ReceiveMessage").nth(1);
    world.aws.add_rule(late.then(Action::Delay(3 * SECOND)));
    let daemon = world.start("ledger.db");
    daemon.daemon.consumer().answered().await;
    assert_eq!(reason(&vitals(&daemon)), None);
    tokio::time::sleep(SECOND).await;
    let seen = vitals(&daemon);
    assert_eq!((seen.polling.what, seen.not_polling), ("receiving", None));

    // A call that is under way keeps the daemon from stopping at once.
    let service = world.service("blog");
    let slow = Rule::on("UpdateDistribution").nth(1);
    world.aws.add_rule(slow.then(Action::Delay(5 * SECOND)));
    world.reject(&service);
    tokio::time::sleep(2 * SECOND).await;
    let consumer = std::sync::Arc::clone(daemon.daemon.consumer());
    let look = async {
        tokio::time::sleep(SECOND).await;
        consumer.vitals().not_polling
    };
    let ((), seen) = tokio::join!(daemon.stop(), look);
    assert_eq!(seen, Some(NotPolling::Stopping));
}
