//! A ledger in a table: what a cleanup costs there, whatever the table's latency, and what a fleet sees of it.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Rule};
use tokio::time::Instant;

use crate::harness::{Instance, Log, World, assert_clean};
use crate::stories::write as name;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const TABLE: &str = "stagesweep-ledger";

/// A short lease: a sixth of it is its margin.
const SHORT: &str = "visibility_timeout = \"30s\"\nheartbeat_interval = \"10s\"\n";

/// What a cleanup on its own writes besides renewals: its claim, its binding and the production distribution's
/// item, both again before the first change and before the first one of CloudFront, its first notes, and its end.
const WRITES: usize = 9;

fn in_table() -> World {
    let world = World::new();
    world.aws.create_table(TABLE, "pk");
    world
}

fn writes(world: &World) -> usize {
    world.aws.journal().calls("UpdateItem", None)
}

/// One cleanup. How many writes it took besides renewals, and how long.
async fn one_cleanup(world: &World, name: &str, heartbeat: Duration) -> (usize, Duration) {
    let service = world.service(name);
    let (before, began) = (writes(world), Instant::now());
    world.reject(&service);
    world.settled().await;
    assert_clean(world, &service);
    let took = began.elapsed();
    let renewals = usize::try_from(took.as_secs() / heartbeat.as_secs()).unwrap();
    let writes = writes(world) - before;
    (writes - renewals, took)
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_is_done_at_any_latency_of_the_table_and_writes_no_more_for_it() {
    for (more, heartbeat) in [("", MINUTE), (SHORT, 10 * SECOND)] {
        let world = in_table();
        let daemon = world.start_in_table(TABLE, more).await;
        let (quick, took) = one_cleanup(&world, "shop", heartbeat).await;
        assert!(quick <= WRITES, "{quick} writes");
        for latency in [1100, 3200, 4500].map(Duration::from_millis) {
            let slow = ["UpdateItem", "GetItem"].map(|operation| {
                let slow = Rule::on(operation).then(Action::Delay(latency));
                world.aws.add_rule(slow)
            });
            let name = format!("blog{}", latency.as_millis());
            let (writes, slowly) = one_cleanup(&world, &name, heartbeat).await;
            for rule in slow {
                world.aws.remove_rule(rule);
            }
            // Renewals, and what looks at a slow table, may fall into it or not.
            let looks = usize::try_from(slowly.as_secs() / 30).unwrap();
            assert!(writes <= WRITES + looks, "{writes} writes at {latency:?}");
            assert!(
                slowly < took + 24 * latency,
                "{slowly:?} at {latency:?}, {took:?} before"
            );
        }
        daemon.stop().await;
    }
}

/// The log's lines about the table, each with how long the trouble has lasted.
fn said(log: &Log) -> Vec<(String, bool)> {
    let lines = log.with("ledger.table");
    let said = |line: &serde_json::Value| {
        let fields = &line;
        assert_eq!(fields["ledger.table"], TABLE);
        let text = fields["message"].as_str().unwrap().to_owned();
        (text, fields["took_ms"].is_u64())
    };
    lines.iter().map(said).collect()
}

fn health(daemon: &Instance) -> (bool, Option<String>, String) {
    let report = daemon.daemon.consumer().vitals().report(MINUTE);
    (report.healthy, report.reason, report.detail)
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_slow_or_throttles_is_said_to_be_so_as_long_as_it_is() {
    // The SDK's jitter draws from this thread's generator, and decides which tries meet the throttling.
    fastrand::seed(0);
    let slow = Action::Delay(Duration::from_millis(3200));
    for (trouble, code, words) in [
        (slow, "ledger_slow", "answers after 3200 ms"),
        (Action::Throttle, "ledger_throttled", "throttles"),
    ] {
        let (log, _listening) = Log::listen();
        let world = in_table();
        let daemon = world.start_in_table(TABLE, "").await;
        tokio::time::sleep(SECOND).await;
        assert!(said(&log).is_empty());
        assert_eq!(health(&daemon).1, None);
        // Every second one: the SDK's own tries get through, those of two calls at once too.
        let rule = |action: &Action| Rule::on("UpdateItem").then(action.clone());
        let rules: Vec<_> = match &trouble {
            Action::Throttle => (0..400)
                .filter(|call| call % 2 == 0)
                .map(|call| world.aws.add_rule(rule(&trouble).nth(call + 1)))
                .collect(),
            _ => vec![world.aws.add_rule(rule(&trouble))],
        };
        let service = world.service("shop");
        world.reject(&service);
        tokio::time::sleep(30 * SECOND).await;
        let (healthy, reason, detail) = health(&daemon);
        assert!(healthy, "{detail}");
        assert_eq!(reason.as_deref(), Some(code));
        assert!(detail.contains(TABLE) && detail.contains(words), "{detail}");
        tokio::time::sleep(11 * MINUTE).await;
        assert_clean(&world, &service);
        let lines = said(&log);
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (place, (text, again)) in lines.iter().enumerate() {
            assert!(text.contains(TABLE) && text.contains(words), "{text}");
            assert_eq!(*again, place > 0, "{text}");
        }
        for rule in rules {
            world.aws.remove_rule(rule);
        }
        tokio::time::sleep(3 * MINUTE).await;
        let lines = said(&log);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[3].0.contains("answers at once again"), "{lines:?}");
        assert_eq!(health(&daemon).1, None);
        daemon.stop().await;
    }
}

/// Nobody keeps what another one waits for: the older one's name is covered by the newer one's, which never
/// attached its policy and is rejected too.
#[tokio::test(start_paused = true)]
async fn a_newer_deployment_that_never_attached_and_is_rejected_itself_waits_for_nobody_in_a_fleet()
{
    for newer_first in [false, true] {
        let world = in_table();
        let a = world.service("shop");
        let of_a = world.aws.reject(&a).unwrap();
        let b = world.aws.start_execution(&a);
        tokio::time::sleep(SECOND).await;
        world.aws.run_to(&b, "Deploy").unwrap();
        let b = world.aws.copy_staging(&world.aws.current(&b)).unwrap();
        name(&world, &b);
        tokio::time::sleep(SECOND).await;
        world.aws.finish(&b);
        tokio::time::sleep(MINUTE).await;
        let of_b = world.aws.reject(&b).unwrap();
        let fleet = [
            world.start_in_table(TABLE, "max_in_flight = 1\n").await,
            world.start_in_table(TABLE, "max_in_flight = 1\n").await,
        ];
        let bodies = match newer_first {
            true => [of_b, of_a],
            false => [of_a, of_b],
        };
        let began = Instant::now();
        for body in bodies {
            world.send(&body);
            tokio::time::sleep(SECOND).await;
        }
        world.settled().await;
        assert!(began.elapsed() < 20 * MINUTE, "{:?}", began.elapsed());
        assert_eq!(world.dead_letters(), 0);
        for staging in [&a.staging_id, &b.staging_id] {
            assert!(world.aws.distribution(staging).is_none(), "{staging}");
        }
        for instance in fleet {
            assert_eq!(instance.telemetry.metrics().count("CleanupsStarted"), 1);
            instance.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_instances_job_notices_its_end_within_seconds() {
    let world = in_table();
    let service = world.service("shop");
    // One job is all that it works on, and so it receives no more.
    let one = world.start_in_table(TABLE, "max_in_flight = 1\n").await;
    world.reject(&service);
    world.detached().await;
    let two = world.start_in_table(TABLE, "").await;
    for _ in 0..3 {
        world.reject(&service);
    }
    let gone = |aws: &EmbeddedAws| aws.distribution(&service.staging_id).is_none();
    world.aws.wait_until(gone, 30 * MINUTE).await.unwrap();
    let ended = Instant::now();
    world.settled().await;
    assert_clean(&world, &service);
    let waited = ended.elapsed();
    assert!(waited < 15 * SECOND, "{waited:?}");
    let metrics = two.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "duplicate"), 3);
    assert_eq!(metrics.count("MessagesReleased"), 0);
    one.stop().await;
    two.stop().await;
}
