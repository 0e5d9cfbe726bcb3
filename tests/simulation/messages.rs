//! What becomes of each kind of message.

use std::time::Duration;

use serde_json::{Value, json};
use stagesweep::rehearsal::{Action, EventOptions, Form, Level, Outcome, Rule, Service};
use tokio::time::Instant;

use crate::harness::{World, assert_clean, assert_untouched};

/// Makes a message's body.
type Body = fn(&World, &Service) -> String;

/// Brings something into the state that a fence is there for.
type Preparation = fn(&World, &Service);

#[tokio::test(start_paused = true)]
async fn twenty_duplicates_some_late_are_one_cleanup_and_twenty_one_deletes() {
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start("ledger.db");
    world.reject(&service);
    for n in 0..20_u64 {
        let body = world
            .aws
            .rejection_event(&service, &EventOptions::default());
        if n < 10 {
            world.send(&body);
        } else {
            // From the first wait to long after the end.
            tokio::time::sleep(Duration::from_secs(60)).await;
            world.send(&body);
        }
    }
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(
        world.changes().len(),
        5,
        "one cleanup: {:?}",
        world.changes()
    );
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("CleanupsStarted"), 1);
    assert_eq!(metrics.count("MessagesDeleted"), 21);
    assert_eq!(metrics.count("DuplicatesSuppressed"), 20);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_a_job_that_is_done_is_deleted_at_once_after_a_restart() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    daemon.stop().await;

    let daemon = world.start("ledger.db");
    let calls = world.aws.journal().entries().len();
    world.reject(&service);
    world.settled().await;
    let entries = world.aws.journal().entries();
    let cleanup = entries[calls..]
        .iter()
        .filter(|e| crate::harness::is_cleanup_call(&e.call));
    assert_eq!(cleanup.count(), 0, "a job that is done was looked at again");
    assert_eq!(
        daemon
            .telemetry
            .metrics()
            .count_by_reason("MessagesDeleted", "duplicate"),
        1
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_received_by_several_and_deleted_by_tens_and_an_idle_queue_asked_by_one() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    daemon.stop().await;
    for _ in 0..300 {
        world.reject(&service);
    }
    let latency = Duration::from_millis(10);
    world
        .aws
        .change_settings(|settings| settings.latency = latency);

    let started = Instant::now();
    let before = world.aws.journal().count();
    let daemon = world.start("ledger.db");
    world.settled().await;
    let took = started.elapsed();
    // One receive after the other, that alone would take 30 times the latency.
    assert!(took < 20 * latency, "{took:?}");
    let calls = |operation: &str, since| {
        let entries = world.aws.journal().since(since);
        entries.iter().filter(|entry| entry.is(operation)).count()
    };
    // Some batches are cut by the end of a receive.
    assert!((30..=40).contains(&calls("DeleteMessageBatch", before)));

    // The others come back empty within a second, and leave one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = world.aws.journal().count();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(calls("ReceiveMessage", before) <= 5);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_rejection_is_deleted_and_nothing_is_touched() {
    let world = World::new();
    let service = world.service("shop");
    let none = EventOptions::default;
    for options in [
        EventOptions {
            outcome: Outcome::Approved,
            ..none()
        },
        EventOptions {
            outcome: Outcome::Started,
            ..none()
        },
        EventOptions {
            level: Level::Stage,
            ..none()
        },
        EventOptions {
            level: Level::Pipeline,
            ..none()
        },
    ] {
        world.send(&world.aws.rejection_event(&service, &options));
    }
    let build = edited(&world, &service, |event| {
        event["detail"]["type"]["category"] = json!("Build")
    });
    world.send(&build);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_untouched(&world, &service);
    assert_eq!(world.dead_letters(), 0);
    assert_eq!(daemon.telemetry.metrics().count("MessagesDeleted"), 5);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_handled_goes_to_the_dead_letter_queue_with_a_reason() {
    let rejected: [(&str, Body); 6] = [
        ("not_an_envelope", |_, _| "{\"half\": ".to_owned()),
        ("foreign_account", |world, service| {
            edited(world, service, |event| {
                event["account"] = json!("999999999999");
                event["resources"] = json!([]);
            })
        }),
        ("foreign_source", |world, service| {
            edited(world, service, |event| {
                event["source"] = json!("com.example.pipelines")
            })
        }),
        ("no_target", |world, service| {
            edited(world, service, |event| {
                event["detail"]["pipeline"] = json!("unheard-of");
                event["resources"] = json!([]);
            })
        }),
        ("no_target", |world, service| {
            edited(world, service, |event| {
                event["detail"]["stage"] = json!("AnotherStage")
            })
        }),
        ("missing_field", |world, service| {
            edited(world, service, |event| {
                event["detail"]
                    .as_object_mut()
                    .unwrap()
                    .remove("execution-id");
            })
        }),
    ];
    for (reason, body) in rejected {
        let world = World::new();
        let service = world.service("shop");
        world.send(&body(&world, &service));
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_untouched(&world, &service);
        assert_eq!(world.changes(), Vec::<String>::new(), "{reason}");
        assert_eq!(world.dead_letters(), 1, "{reason}");
        let metrics = daemon.telemetry.metrics();
        assert_eq!(
            metrics.count_by_reason("MessagesRejected", reason),
            5,
            "{reason}"
        );
        assert_eq!(metrics.count("MessagesDeleted"), 0, "{reason}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fence_refuses_and_nothing_is_touched() {
    let fences: [(&str, Preparation); 6] = [
        ("staging_is_production", |world, service| {
            rewrite_staging_parameter(world, service, &service.production_id);
        }),
        ("production_parameter_invalid", |world, service| {
            world
                .aws
                .put_parameter(&service.production_parameter, "to be decided");
        }),
        ("staging_parameter_invalid", |world, service| {
            rewrite_staging_parameter(world, service, "not-a-distribution");
        }),
        ("production_is_staging", |world, service| {
            let other = world.service("other");
            world
                .aws
                .put_parameter(&service.production_parameter, &other.staging_id);
        }),
        ("not_a_staging_distribution", |world, service| {
            let other = world.service("other");
            rewrite_staging_parameter(world, service, &other.production_id);
        }),
        ("production_missing", |world, service| {
            world
                .aws
                .put_parameter(&service.production_parameter, "ENOWHERETOBESEEN");
        }),
    ];
    for (reason, prepare) in fences {
        let world = World::new();
        let service = world.service("shop");
        prepare(&world, &service);
        tokio::time::advance(Duration::from_secs(60)).await;
        // The approval opens after that, so that the value is the one it started with.
        let options = EventOptions {
            start_time: Some(world.clock.now()),
            ..EventOptions::default()
        };
        world.send(&world.aws.rejection_event(&service, &options));
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_eq!(world.changes(), Vec::<String>::new(), "{reason}");
        assert_eq!(world.dead_letters(), 1, "{reason}");
        let metrics = daemon.telemetry.metrics();
        assert_eq!(
            metrics.count_by_reason("MessagesRejected", reason),
            5,
            "{reason}"
        );
        daemon.stop().await;
    }
}

fn rewrite_staging_parameter(world: &World, service: &Service, value: &str) {
    world.aws.put_parameter(&service.staging_parameter, value);
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_says_there_is_nothing_is_a_success() {
    let world = World::new();
    let service = world.service("shop");
    world.aws.put_parameter(&service.staging_parameter, "dummy");
    tokio::time::advance(Duration::from_secs(60)).await;
    let options = EventOptions {
        start_time: Some(world.clock.now()),
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&service, &options));
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_eq!(world.changes(), Vec::<String>::new());
    assert_eq!(
        daemon
            .telemetry
            .metrics()
            .count_by_reason("MessagesDeleted", "already_clean"),
        1
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn older_events_without_a_start_time_are_understood() {
    let world = World::new();
    let service = world.service("shop");
    let options = EventOptions {
        form: Form::Older,
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&service, &options));
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_batch_that_failed_is_tried_again_and_a_ghost_deleted_when_it_returns() {
    let world = World::new();
    let service = world.service("shop");
    // The delete is answered and not done: the message comes back, and its job is done.
    world
        .aws
        .add_rule(Rule::on("DeleteMessageBatch").nth(1).then(Action::Undelete));
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(world.changes().len(), 5);
    assert_eq!(
        daemon
            .telemetry
            .metrics()
            .count_by_reason("MessagesDeleted", "duplicate"),
        1
    );
    daemon.stop().await;
}

/// The service's rejection, changed by hand.
fn edited(world: &World, service: &Service, edit: impl FnOnce(&mut Value)) -> String {
    let body = world.aws.rejection_event(service, &EventOptions::default());
    let mut event: Value = serde_json::from_str(&body).unwrap();
    edit(&mut event);
    event.to_string()
}
