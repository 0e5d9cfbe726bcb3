//! `cleanup.delay`: how long a rejection is held before anything is changed.

use std::time::Duration;

use stagesweep::domain::history::Kind;
use stagesweep::ledger::EmbeddedLedger;
use stagesweep::rehearsal::{EmbeddedAws, EventOptions, Review, Service};
use tokio::time::{Instant, sleep};

use crate::harness::{Log, PATIENCE, World, assert_clean, assert_untouched};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A world whose target has a delay of its own.
fn delayed(delay: &str) -> World {
    let mut world = World::new();
    world.target = format!("delay = \"{delay}\"");
    world
}

/// Waits for the first change, and answers for how long.
async fn changed(world: &World, service: &Service) -> Duration {
    let began = Instant::now();
    let recorded = |aws: &EmbeddedAws| {
        let value = aws.parameter(&service.staging_parameter);
        value.as_deref() == Some("deleted")
    };
    world.aws.wait_until(recorded, PATIENCE).await.unwrap();
    began.elapsed()
}

fn assert_about(found: Duration, expected: Duration) {
    let late = found.checked_sub(expected);
    assert!(late.is_some_and(|late| late < MINUTE), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn it_counts_from_codepipelines_record_and_uses_no_receive_and_no_place() {
    let world = World::new();
    let services = ["shop", "blog"].map(|name| world.service(name));
    for service in &services {
        let event = world.aws.rejection_event(service, &EventOptions::default());
        let mut event: serde_json::Value = serde_json::from_str(&event).unwrap();
        // Whatever the event says.
        event["time"] = "2026-08-20T00:00:00Z".into();
        event["detail"]["start-time"] = "2026-08-20T00:00:00Z".into();
        world.send(&event.to_string());
    }
    sleep(2 * HOUR).await;
    let more = "max_in_flight = 1\n[cleanup]\ndelay = \"6h\"";
    let daemon = world.start_with("ledger.db", more, false);
    sleep(HOUR).await;
    let depth = world.aws.depth(&world.queues.url).unwrap();
    assert_eq!((depth.visible, depth.in_flight), (0, 2));
    assert_about(HOUR + changed(&world, &services[0]).await, 4 * HOUR);
    let messages = world.aws.messages(&world.queues.url);
    assert!(messages.iter().all(|it| it.receives == 1), "{messages:?}");
    world.settled().await;
    for service in &services {
        assert_clean(&world, service);
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_targets_own_delay_comes_first() {
    let world = delayed("0s");
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", "[cleanup]\ndelay = \"6h\"", false);
    assert_about(changed(&world, &service).await, Duration::ZERO);
    daemon.stop().await;
}

fn approve_after_retry(aws: &EmbeddedAws, service: &Service) {
    aws.retry_approval(service, 2);
    aws.review(service, 2, Review::Approved);
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_is_retried_or_approved_meanwhile_ends_it_and_nothing_is_touched() {
    let takings_back: [fn(&EmbeddedAws, &Service); 2] = [
        |aws, service| aws.retry_approval(service, 2),
        approve_after_retry,
    ];
    for take_back in takings_back {
        let world = delayed("6h");
        let service = world.service("shop");
        world.reject(&service);
        let daemon = world.start("ledger.db");
        sleep(HOUR).await;
        take_back(&world.aws, &service);
        let began = Instant::now();
        world.settled().await;
        assert!(began.elapsed() <= 16 * MINUTE, "{:?}", began.elapsed());
        assert_eq!(world.changes(), Vec::<String>::new());
        assert_eq!(world.dead_letters(), 0);
        daemon.stop().await;
        let path = world.ledger_path("ledger.db");
        let records = EmbeddedLedger::history(&path, &world.clock).unwrap();
        assert_eq!(records[0].state.code(), "retracted");
    }
}

#[tokio::test(start_paused = true)]
async fn what_codepipeline_does_not_answer_meanwhile_ends_nothing() {
    let world = delayed("3h");
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    sleep(MINUTE / 2).await;
    let denied = world.aws.deny("ListActionExecutions");
    sleep(HOUR).await;
    world.aws.remove_rule(denied);
    assert_about(
        HOUR + MINUTE / 2 + changed(&world, &service).await,
        3 * HOUR,
    );
    assert_eq!(world.aws.messages(&world.queues.url)[0].receives, 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_begin_it_anew() {
    for verify in [true, false] {
        let world = delayed("2h");
        let service = world.service("shop");
        world.reject(&service);
        let more = format!("[verify]\ncodepipeline = {verify}");
        let began = Instant::now();
        for round in 0..4 {
            let daemon = world.start_with("ledger.db", &more, false);
            // Not in the midst of a renewal.
            sleep(20 * MINUTE + SECOND).await;
            assert_untouched(&world, &service);
            match round % 2 {
                0 => daemon.stop().await,
                _ => daemon.crash().await,
            }
        }
        let daemon = world.start_with("ledger.db", &more, false);
        changed(&world, &service).await;
        assert_about(began.elapsed(), 2 * HOUR);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_codepipeline_it_counts_from_the_begin_of_the_job() {
    let world = delayed("2h");
    let service = world.service("shop");
    world.reject(&service);
    sleep(HOUR).await;
    let more = "[verify]\ncodepipeline = false";
    let daemon = world.start_with("ledger.db", more, false);
    assert_about(changed(&world, &service).await, 2 * HOUR);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_changed_something_goes_on_without_it() {
    let mut world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    changed(&world, &service).await;
    sleep(SECOND).await;
    daemon.crash().await;
    world.target = "delay = \"6h\"".to_owned();
    let daemon = world.start("ledger.db");
    let began = Instant::now();
    world.settled().await;
    assert!(began.elapsed() < HOUR, "{:?}", began.elapsed());
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_waits_as_long() {
    let mut world = World::new();
    world.target =
        "[[targets]]\npipeline = \"batch-pipeline\"\nrun = [\"/opt/undo\"]\ndelay = \"2h\""
            .to_owned();
    let service = Service {
        pipeline: "batch-pipeline".to_owned(),
        ..world.service("batch")
    };
    world.reject(&service);
    let daemon = world.start("ledger.db");
    let began = Instant::now();
    world.settled().await;
    assert_about(began.elapsed(), 2 * HOUR);
    assert_eq!(world.programs.calls().len(), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_logged_every_five_minutes_reported_and_remembered() {
    let world = delayed("1h");
    let service = world.service("shop");
    let (log, _listening) = Log::listen();
    world.reject(&service);
    let daemon = world.start("ledger.db");
    sleep(10 * MINUTE).await;
    daemon.daemon.consumer().report();
    let reported = log.with("in flight");
    assert_eq!(reported.last().unwrap()["activity"], "delay");
    world.settled().await;
    let held = log.with("delay is not over");
    assert_eq!(held.len(), 12, "{held:?}");
    assert_eq!(held[0]["delay_ms"], 3_600_000);
    daemon.stop().await;
    let path = world.ledger_path("ledger.db");
    let records = EmbeddedLedger::history(&path, &world.clock).unwrap();
    let spans = records[0].trail.spans();
    let wait = spans.iter().find(|span| span.name == "delay").unwrap();
    assert_eq!((wait.kind, wait.cut), (Kind::Waiting, false));
    let took = wait.until_ms.unwrap() - wait.from_ms;
    assert!((3_500_000..=3_600_000).contains(&took), "{took}");
}
