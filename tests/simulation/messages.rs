//! What becomes of each kind of message.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, EventOptions, Form, Level, Outcome, Rule, Service};
use serde_json::{Value, json};
use stagesweep::domain::targets::Targets;
use tokio::time::Instant;

use crate::harness::{Log, PATIENCE, World, assert_clean, assert_gone, assert_untouched};

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
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("MessagesDeleted"), 5);
    // The rule asks for the wrong kind.
    for reason in ["failed_stage", "failed_pipeline"] {
        assert_eq!(metrics.count_by_reason("MessagesDeleted", reason), 1);
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_asks_for_the_wrong_kind_of_event_is_warned_about_once() {
    let (log, _listening) = Log::listen();
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start("ledger.db");
    for _ in 0..3 {
        for level in [Level::Stage, Level::Pipeline] {
            let options = EventOptions {
                level,
                ..EventOptions::default()
            };
            world.send(&world.aws.rejection_event(&service, &options));
        }
        world.settled().await;
    }
    let warnings = log.with("\"WARN\"");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, asked_for) in warnings.iter().zip(["Stage", "Pipeline"]) {
        let text = warning.to_string();
        let asked_for = format!("CodePipeline {asked_for} Execution State Change");
        let says = [
            asked_for.as_str(),
            "CodePipeline Action Execution State Change",
        ];
        assert!(says.iter().all(|it| text.contains(it)), "{text}");
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_handled_goes_to_the_dead_letter_queue_with_a_reason() {
    let rejected: [(&str, Body); 12] = [
        ("sns_confirmation", |_, _| {
            let topic = "arn:aws:sns:ap-northeast-1:123456789012:rejections";
            json!({ "Type": "SubscriptionConfirmation", "TopicArn": topic, "Message": "confirm" })
                .to_string()
        }),
        ("array", |world, service| {
            format!("[{}]", edited(world, service, |_| ()))
        }),
        ("detail_is_text", |world, service| {
            edited(world, service, |event| {
                event["detail"] = json!(event["detail"].to_string())
            })
        }),
        ("codestar_notification", |world, service| {
            edited(world, service, |event| {
                let event = event.as_object_mut().unwrap();
                let detail_type = event.remove("detail-type").unwrap();
                event.insert("detailType".to_owned(), detail_type);
            })
        }),
        ("sns_notification", |world, service| {
            let topic = "arn:aws:sns:ap-northeast-1:123456789012:rejections";
            let event = edited(world, service, |_| ());
            json!({ "Type": "Notification", "TopicArn": topic, "Message": event }).to_string()
        }),
        ("invalid_field", |world, service| {
            edited(world, service, |event| {
                event["detail"]["execution-id"] = json!("--help")
            })
        }),
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
            metrics.count_by_reason("MessagesRefused", reason),
            1,
            "{reason}"
        );
        assert_eq!(metrics.count("MessagesDeleted"), 0, "{reason}");
        daemon.stop().await;
    }
}

/// The pauses between the receives of the queue's one message, up to the last one before it is a dead letter.
async fn pauses(world: &World) -> Vec<Duration> {
    let mut at = Vec::new();
    for receives in 1..=5 {
        let received = |aws: &EmbeddedAws| {
            let messages = aws.messages(&world.queues.url);
            messages.iter().any(|it| it.receives >= receives)
        };
        world.aws.wait_until(received, PATIENCE).await.unwrap();
        at.push(Instant::now());
    }
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// What the message itself is wrong with goes quickly. What a rolling update, or CloudFront's own next answer,
/// may put right is waited for from the first receive on, each time twice as long.
#[tokio::test(start_paused = true)]
async fn only_what_lies_in_the_message_itself_goes_quickly_to_the_dead_letter_queue() {
    let no_target: Body = |world, service| {
        edited(world, service, |event| {
            event["detail"]["action"] = json!("AnotherAction")
        })
    };
    let refused: Body = |world, service| {
        deployment_writes(world, service, "not-a-distribution");
        edited(world, service, |_| ())
    };
    let malformed: Body = |_, _| "{}".to_owned();
    for (body, quick) in [(no_target, false), (refused, false), (malformed, true)] {
        let world = World::new();
        let service = world.service("shop");
        let body = body(&world, &service);
        tokio::time::advance(Duration::from_secs(60)).await;
        let daemon = world.start("ledger.db");
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.send(&body);
        let mut longest = Duration::from_secs(5);
        for pause in pauses(&world).await {
            if quick {
                assert!(pause < Duration::from_secs(1), "{pause:?}");
                continue;
            }
            // SQS takes whole seconds, and looking takes a moment.
            let most = longest + Duration::from_secs(2);
            assert!(longest / 2 <= pause && pause <= most, "{pause:?}");
            longest *= 2;
        }
        world.settled().await;
        assert_eq!(world.dead_letters(), 1);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_a_rolling_update_brings_in_time_has_its_rejection_cleaned() {
    let world = World::new();
    let service = world.service("shop");
    let daemon = world.start("ledger.db");
    let consumer = daemon.daemon.consumer();
    let targets = world.config(&world.ledger_path("ledger.db"), "").targets;
    consumer.set_targets(Targets::default()).unwrap();
    world.reject(&service);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.dead_letters(), 0);
    consumer.set_targets(targets).unwrap();
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fence_refuses_and_nothing_is_touched() {
    let fences: [(&str, Preparation); 9] = [
        ("staging_is_production", |world, service| {
            deployment_writes(world, service, &service.production_id);
        }),
        ("production_parameter_invalid", |world, service| {
            world
                .aws
                .put_parameter(&service.production_parameter, "to be decided");
        }),
        ("staging_parameter_invalid", |world, service| {
            deployment_writes(world, service, "not-a-distribution");
        }),
        ("production_is_staging", |world, service| {
            let other = world.service("other");
            world
                .aws
                .put_parameter(&service.production_parameter, &other.staging_id);
        }),
        ("not_a_staging_distribution", |world, service| {
            let other = world.service("other");
            deployment_writes(world, service, &other.production_id);
        }),
        ("production_missing", |world, service| {
            world
                .aws
                .put_parameter(&service.production_parameter, "ENOWHERETOBESEEN");
        }),
        ("parameter_is_secure_string", |world, service| {
            world.aws.secure_parameter(&service.staging_parameter);
        }),
        ("deleted_not_allowed", |world, service| {
            let name = &service.staging_parameter;
            world.aws.allow_in_parameter(name, "^E[A-Z0-9]+$");
        }),
        // A pattern that only Systems Manager can read.
        ("deleted_not_allowed", |world, service| {
            let name = &service.staging_parameter;
            world.aws.allow_in_parameter(name, "(?!deleted).*");
        }),
    ];
    for (reason, prepare) in fences {
        let world = World::new();
        let service = world.service("shop");
        prepare(&world, &service);
        tokio::time::advance(Duration::from_secs(60)).await;
        world.reject(&service);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_eq!(world.changes(), Vec::<String>::new(), "{reason}");
        assert_eq!(world.dead_letters(), 1, "{reason}");
        let metrics = daemon.telemetry.metrics();
        assert_eq!(
            metrics.count_by_reason("CleanupsRefused", reason),
            1,
            "{reason}"
        );
        assert_eq!(metrics.count("MessagesRefused"), 0, "{reason}");
        daemon.stop().await;
    }
}

/// The service's deployment writes this to the staging parameter.
fn deployment_writes(world: &World, service: &Service, value: &str) {
    let name = &service.staging_parameter;
    let history = world.aws.parameter_history(name);
    let written = history.iter().find(|it| it.value == service.staging_id);
    let by = &written.unwrap().by;
    assert_eq!(by.execution.as_ref(), Some(&service.execution_id));
    world.aws.put_parameter_as(name, value, &by.arn);
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_says_there_is_nothing_is_a_success() {
    let world = World::new();
    let service = world.rolled_back("shop");
    world.send(&world.aws.reject(&service).unwrap());
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

/// What the execution deployed is its own all the same.
#[tokio::test(start_paused = true)]
async fn a_parameter_that_a_person_emptied_is_left_as_it_is_and_what_was_deployed_taken_down() {
    for (value, asks) in [("dummy", true), ("deleted", true), ("dummy", false)] {
        let world = World::new();
        let service = world.service("shop");
        tokio::time::advance(Duration::from_secs(60)).await;
        world.aws.put_parameter(&service.staging_parameter, value);
        world.reject(&service);
        let more = format!("[verify]\ncodepipeline = {asks}\n");
        let daemon = world.start_with("ledger.db", &more, false);
        world.settled().await;
        assert_gone(&world, &service);
        let steps = [
            "UpdateDistribution",
            "DeleteContinuousDeploymentPolicy",
            "UpdateDistribution",
            "DeleteDistribution",
        ];
        assert_eq!(world.changes(), steps, "{value}, asks: {asks}");
        let left = world.aws.parameter(&service.staging_parameter);
        assert_eq!(left.as_deref(), Some(value));
        let metrics = daemon.telemetry.metrics();
        assert_eq!(metrics.count_by_reason("MessagesDeleted", "cleaned"), 1);
        daemon.stop().await;
    }
}

/// SNS with raw delivery hands on what EventBridge sent, byte for byte.
#[tokio::test(start_paused = true)]
async fn an_attempt_of_zero_beside_an_actions_id_is_accepted() {
    for attempt in [json!(0), json!(0.0)] {
        let world = World::new();
        let service = world.service("shop");
        let body = edited(&world, &service, |event| {
            assert!(event["detail"]["action-execution-id"].is_string());
            event["detail"]["pipeline-execution-attempt"] = attempt.clone();
        });
        world.send(&body);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &service);
        daemon.stop().await;
    }
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
