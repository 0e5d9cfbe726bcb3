//! Standard output: logs and metrics.

use serde_json::{Value, json};
use stagesweep::rehearsal::EventOptions;

use crate::harness::World;

/// Part of a message's body that is nobody's business.
const SECRET: &str = "hunter2";

#[tokio::test]
async fn every_line_is_one_json_object_and_none_has_a_message_body() {
    let world = World::new().await;
    let shop = world.service("shop");
    let options = EventOptions {
        summary: Some("The header is broken \u{1f62c}\nsee \"the mail\"".to_owned()),
        ..EventOptions::default()
    };
    let mut event: Value =
        serde_json::from_str(&world.aws.rejection_event(&shop, &options)).unwrap();
    event["detail"]["variables"] = json!({ "password": SECRET });
    world.send(&event.to_string());
    // Each of another shape that is wrong.
    event["detail"] = json!(SECRET);
    world.send(&event.to_string());
    event["detail"] = json!({ "state": "FAILED", "type": SECRET });
    world.send(&event.to_string());
    event["account"] = json!(SECRET);
    world.send(&event.to_string());
    world.send(SECRET);
    world.send(&json!(SECRET).to_string());
    world.send(&json!({ "source": "aws.codepipeline", "resources": SECRET }).to_string());

    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
        .env("STAGESWEEP__TELEMETRY__LOG_LEVEL", "debug")
        .spawn();
    world.settled().await;
    assert_eq!(world.dead_letters(), 6);
    let counted = |line: &Value| line["CleanupsSucceeded"] == 1;
    daemon
        .line("metrics of the interval in which it succeeded", counted)
        .await;
    daemon.stop().await;

    let started = daemon.says("cleanup started").await;
    assert_eq!(
        started["review.comment"],
        *options.summary.as_ref().unwrap()
    );
    let url = format!(
        "https://console.aws.amazon.com/codesuite/codepipeline/pipelines/\
         shop-frontend-pipeline/executions/{}/timeline?region=ap-northeast-1",
        shop.execution_id
    );
    assert_eq!(started["execution.url"], url);
    assert_eq!(daemon.stderr.text(), "");
    let lines = daemon.lines();
    for line in &lines {
        assert!(!line.to_string().contains(SECRET), "{line}");
        let at = if line["_aws"].is_null() {
            line["timestamp"].is_string() && line["level"].is_string()
        } else {
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            line["_aws"]["Timestamp"].is_u64() && directive["Namespace"] == "Stagesweep"
        };
        assert!(at, "{line}");
    }
    // The last word is the metrics'.
    assert!(lines.last().unwrap()["_aws"].is_object(), "{daemon:?}");
}

#[tokio::test]
async fn a_good_run_writes_its_metrics_at_exit_and_nothing_to_standard_error() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    world.reject(&shop);
    let daemon = world.daemon().argument("--drain").spawn();
    assert_eq!(daemon.exited().await.code(), Some(0));
    assert_eq!(daemon.stderr.text(), "");
    let totals = daemon
        .line("the totals", |line| line["InFlight"] == 0)
        .await;
    for (metric, expected) in [
        ("MessagesReceived", 2),
        ("MessagesDeleted", 2),
        ("MessagesReleased", 0),
        ("MessagesRejected", 0),
        ("DuplicatesSuppressed", 1),
        ("CleanupsStarted", 1),
        ("CleanupsSucceeded", 1),
        ("CleanupsFailed", 0),
        ("HeartbeatFailures", 0),
        ("ApiThrottles", 0),
    ] {
        assert_eq!(totals[metric], expected, "{metric}\n{daemon:?}");
    }
    for duration in ["CleanupDuration", "EventAge"] {
        assert_eq!(
            totals[duration].as_array().map(Vec::len),
            Some(1),
            "{duration}"
        );
    }
    assert_eq!(totals["PropagationTime"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_standard_output_that_nobody_reads_does_not_stop_the_daemon() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    // More than any pipe holds.
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__LOG_LEVEL", "trace")
        .unread()
        .spawn();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    daemon.stop().await;
}
