//! How propagation is looked at: how late its end is seen, after how many calls, and what becomes of
//! an account that is throttled.

use std::time::Duration;

use embedded_aws::{Faults, Service};
use tokio::time::Instant;

use crate::harness::{World, assert_clean};

/// Calls that tell how far a propagation is.
fn status_calls(world: &World) -> usize {
    let journal = world.aws.journal();
    journal.calls("GetDistribution", None) + journal.calls("ListDistributions", None)
}

/// Cleans up after as many services as given, rejected at once: how long that took, and how many
/// status calls it was.
async fn clean(world: &World, services: &[Service]) -> (Duration, usize) {
    let before = status_calls(world);
    let began = Instant::now();
    for service in services {
        world.reject(service);
    }
    let daemon = world.start("ledger.db");
    world.settled().await;
    let took = began.elapsed();
    for service in services {
        assert_clean(world, service);
    }
    daemon.stop().await;
    (took, status_calls(world) - before)
}

fn services(world: &World, count: usize) -> Vec<Service> {
    (0..count)
        .map(|number| world.service(&format!("shop{number}")))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn one_cleanup_sees_the_end_of_each_propagation_soon_and_after_few_calls() {
    for (seconds, overhead, calls) in [(5, 1.0, 15), (30, 1.8, 24), (170, 10.2, 30)] {
        let propagation = Duration::from_secs(seconds);
        let world = World::with(|settings| settings.propagation = propagation);
        let services = services(&world, 1);
        let (took, asked) = clean(&world, &services).await;
        let over = took.saturating_sub(2 * propagation).as_secs_f64();
        println!("P = {seconds} s, one: {over:.2} s above 2 P, {asked} status calls");
        assert!(took >= 2 * propagation);
        assert!(over <= overhead, "{seconds} s: {over} s");
        assert!(asked <= calls, "{seconds} s: {asked} status calls");
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_twenty_cleanups_at_once_makes_no_more_calls_than_one_alone() {
    for (seconds, overhead, calls) in [(5, 1.1, 15.0), (30, 1.1, 24.0), (170, 1.03, 30.0)] {
        let propagation = Duration::from_secs(seconds);
        let world = World::with(|settings| settings.propagation = propagation);
        let services = services(&world, 20);
        let (took, asked) = clean(&world, &services).await;
        let ratio = took.as_secs_f64() / (2.0 * propagation.as_secs_f64());
        let each = asked as f64 / 20.0;
        println!("P = {seconds} s, 20 at once: {ratio:.3} of 2 P, {each:.2} status calls each");
        assert!(ratio <= overhead, "{seconds} s: {ratio} of 2 P");
        assert!(each <= calls, "{seconds} s: {each} status calls each");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_account_slows_down_and_everything_is_cleaned_up() {
    // Calls a second, changes a minute; the longest time, and the most throttled calls for that.
    // Twenty cleanups are eighty changes, which take 27 minutes at three a minute.
    for (calls, changes, longest, most) in [
        (Some(10), None, 600, 40),
        (Some(3), None, 1_000, 80),
        (None, Some(3), 2_500, 160),
    ] {
        // The SDK's jitter draws from this thread's generator.
        fastrand::seed(0);
        let world = World::with(|settings| {
            settings.switches.calls_per_second = calls;
            settings.switches.changes_per_minute = changes;
        });
        let services = services(&world, 20);
        let (took, asked) = clean(&world, &services).await;
        let entries = world.aws.journal().entries();
        let throttled = entries
            .iter()
            .filter(|entry| entry.code.as_deref() == Some("Throttling"))
            .count();
        let what = format!(
            "{calls:?} calls a second, {changes:?} changes a minute: {took:?}, {throttled} \
             throttled, {asked} status calls"
        );
        println!("{what}");
        assert!(throttled > 0, "{what}");
        assert!(took.as_secs() <= longest && throttled <= most, "{what}");
    }
}

/// `WORLDS=100` for more of them.
#[tokio::test(start_paused = true)]
async fn throttling_that_no_rate_explains_slows_down_nobody_for_long() {
    let worlds = std::env::var("WORLDS").map_or(25, |worlds| worlds.parse().unwrap());
    for seed in 0..worlds {
        // The SDK's jitter draws from this thread's generator.
        fastrand::seed(seed);
        let world = World::with(|settings| {
            settings.propagation = Duration::from_secs(2);
            settings.seed = seed;
        });
        world.aws.set_faults(Faults {
            throttle: 0.3,
            ..Faults::none()
        });
        let services = services(&world, 4);
        let storm = async {
            tokio::time::sleep(Duration::from_secs(45)).await;
            world.aws.calm();
        };
        let ((took, _), ()) = tokio::join!(clean(&world, &services), storm);
        println!("seed {seed}: {took:?}");
        // Done under it, or soon after it.
        assert!(took <= Duration::from_secs(75), "seed {seed}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_the_limiter() {
    let world = World::with(|settings| settings.switches.changes_per_minute = Some(2));
    let services = services(&world, 12);
    for service in &services {
        world.reject(service);
    }
    let daemon = world.start("ledger.db");
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(daemon.daemon.consumer().gauges().in_flight, 12);
    let updates = |it: &&String| *it == "UpdateDistribution";
    let detached = world.changes().iter().filter(updates).count();
    assert!(detached < 8, "{detached} are detached, the others wait");
    let changes = world.changes().len();
    let began = Instant::now();
    daemon.stop().await;
    // The SDK's attempts of one change that has begun may go on.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(world.changes().len() <= changes + 1);
    let depth = world.aws.depth(&world.queues.url).unwrap();
    assert_eq!(depth.visible, 12, "every message was given back");
}
