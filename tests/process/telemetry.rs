//! Standard output: logs and metrics.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use embedded_aws::EventOptions;
use serde_json::{Value, json};

use crate::harness::{NEVER, PATIENCE, Process, World};

/// Part of a message's body that is nobody's business.
const SECRET: &str = "hunter2";

/// What the alarm in the templates is held against: the reviewer's comment has the same words.
#[tokio::test]
async fn production_that_is_switched_off_is_an_error_of_its_own_at_once_and_ends_the_job() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    let options = EventOptions {
        summary: Some("production was switched off while this job ran".to_owned()),
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&shop, &options));
    let daemon = world.daemon().spawn();
    daemon.waits_for("detach_propagated").await;
    let production = &shop.production_id;
    world
        .aws
        .edit_distribution(production, "Enabled", "false")
        .unwrap();
    world.aws.settle();
    let refused = daemon
        .says("cleanup refused; nothing more is touched")
        .await;
    assert_eq!(refused["reason"], "production_disabled");
    let said = |line: &Value| {
        let message = line["message"].as_str();
        message.is_some_and(|it| it.starts_with("production was switched off while this job ran"))
    };
    let told = daemon.line("the error", said).await;
    assert_eq!(told["level"], "ERROR");
    assert_eq!(told["production.id"], **production);
    let staging = world.aws.distribution(&shop.staging_id).unwrap();
    assert!(staging.enabled, "{}", world.journal());
    let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/switched-off.jsonl");
    std::fs::write(kept, daemon.stdout.text()).unwrap();
}

#[tokio::test]
async fn every_line_about_a_job_or_a_message_of_it_has_its_pipeline_its_execution_and_its_target() {
    let world = World::new().await;
    let (shop, bank) = (world.service("shop"), world.service("bank"));
    let name = &bank.production_parameter;
    world.aws.put_parameter(name, "ENOWHERETOBESEEN");
    let of_shop = [world.reject(&shop), world.reject(&shop)];
    let of_bank = [world.reject(&bank)];
    world.send("junk");
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__LOG_LEVEL", "trace")
        .spawn();
    world.settled().await;
    assert_eq!(world.dead_letters(), 2);
    daemon.stop().await;
    let lines = daemon.lines();
    for (service, messages) in [(&shop, &of_shop[..]), (&bank, &of_bank[..])] {
        let is_about = |line: &&Value| {
            let message = line["message.id"].as_str();
            line["execution.id"] == *service.execution_id
                || message.is_some_and(|it| messages.iter().any(|id| id == it))
        };
        let about: Vec<&Value> = lines.iter().filter(is_about).collect();
        assert!(about.len() > 10, "{daemon:?}");
        for line in about {
            assert_eq!(line["pipeline"], *service.pipeline, "{line}");
            assert_eq!(line["execution.id"], *service.execution_id, "{line}");
            assert!(line["target"].is_string(), "{line}");
        }
    }
    // One cause, one report: of the job, and of the message that never had one.
    let errors = lines.iter().filter(|line| line["level"] == "ERROR");
    let mut reasons: Vec<_> = errors
        .map(|line| line["reason"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["not_an_envelope", "production_missing"]);
    // What jobs do, their calls included, is about them.
    let about_none = lines.iter().filter(|line| line["execution.id"].is_null());
    for line in about_none {
        for field in ["step", "wait", "outcome", "production.id", "staging.id"] {
            assert!(line[field].is_null(), "{line}");
        }
    }
}

#[tokio::test]
async fn every_line_is_one_json_object_and_none_has_a_message_body() {
    for level in [
        "info",
        "debug",
        "trace",
        "trace,aws_smithy_runtime=trace,hyper=trace",
    ] {
        no_line_has_a_message_body_at(level).await;
    }
}

async fn no_line_has_a_message_body_at(level: &str) {
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
        .env("STAGESWEEP__TELEMETRY__LOG_LEVEL", level)
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
        for body in [SECRET, "DistributionConfig>", "ReceiptHandle"] {
            assert!(!line.to_string().contains(body), "{line}");
        }
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
        ("DuplicatesSuppressed", 1),
        ("CleanupsStarted", 1),
        ("CleanupsSucceeded", 1),
    ] {
        assert_eq!(totals[metric], expected, "{metric}\n{daemon:?}");
    }
    for metric in [
        "MessagesReleased",
        "MessagesRefused",
        "CleanupsFailed",
        "CleanupsRefused",
        "HeartbeatFailures",
        "ApiThrottles",
    ] {
        assert!(totals[metric].is_null(), "{metric}\n{daemon:?}");
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

/// The series of an EMF line: each metric with the value of its dimension, if it has one.
fn series(line: &Value) -> Vec<String> {
    let directive = &line["_aws"]["CloudWatchMetrics"][0];
    let dimension = directive["Dimensions"][0][0].as_str();
    let value = dimension.map(|name| format!("{name}={}", line[name]));
    let metrics = directive["Metrics"].as_array().into_iter().flatten();
    metrics
        .map(|it| format!("{} {}", it["Name"], value.as_deref().unwrap_or_default()))
        .collect()
}

/// CloudWatch charges for each: the page on cost is held against them.
#[tokio::test]
async fn three_series_are_written_while_idle_and_the_page_on_cost_counts_them() {
    let world = World::new().await;
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
        .spawn();
    daemon.says("started").await;
    let emf = |daemon: &Process| -> Vec<Value> {
        let lines = daemon.lines().into_iter();
        lines.filter(|line| line["_aws"].is_object()).collect()
    };
    // Longer than a long poll of these tests: there are some in it.
    let polled = || world.aws.journal().count() > 4;
    until("it has polled, and written", || {
        polled() && emf(&daemon).len() > 5
    })
    .await;
    let idle: BTreeSet<String> = emf(&daemon).iter().flat_map(series).collect();
    assert_eq!(idle.len(), 3, "{idle:?}");
    let page = include_str!("../../docs/COST.md");
    let row = format!("| metrics while idle | {} metrics |", idle.len());
    assert!(page.contains(&row), "{row}");

    let shop = world.service("shop");
    world.reject(&shop);
    world.settled().await;
    daemon.stop().await;
    let all: BTreeSet<String> = emf(&daemon).iter().flat_map(series).collect();
    let more: Vec<&String> = all.difference(&idle).collect();
    let (_, about) = page
        .split_once("| metrics of a month's rejections | about ")
        .unwrap();
    let about: usize = about.split(' ').next().unwrap().parse().unwrap();
    assert!((about / 3..=about).contains(&more.len()), "{more:#?}");
}

/// Waits for a condition on the file system.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never: {what}");
}

#[tokio::test]
async fn metrics_go_to_a_file_that_is_rotated_under_the_daemon() {
    let world = World::new().await;
    let (path, rotated) = (world.path("metrics.log"), world.path("metrics.log.1"));
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
        .env(
            "STAGESWEEP__TELEMETRY__METRICS_SINK",
            &format!("file://{}", path.display()),
        )
        .spawn();
    daemon.says("started").await;
    until("metrics are written", || path.exists()).await;
    std::fs::rename(&path, &rotated).unwrap();
    until("they are in a new file", || path.exists()).await;
    daemon.stop().await;
    for path in [path, rotated] {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n'), "{text}");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["_aws"]["Timestamp"].is_u64(), "{line}");
            assert!(line["_aws"]["LogGroupName"].is_null(), "{line}");
        }
    }
    assert!(daemon.lines().iter().all(|line| line["_aws"].is_null()));
}

#[tokio::test]
async fn metrics_go_to_an_agent_that_comes_and_goes() {
    let world = World::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
        .env("STAGESWEEP__TELEMETRY__LOG_FORMAT", "pretty")
        .env(
            "STAGESWEEP__TELEMETRY__METRICS_SINK",
            &format!("tcp://{address}"),
        )
        .spawn();
    daemon.writes("metrics cannot be written").await;
    let listener = std::net::TcpListener::bind(address).unwrap();
    // What waited comes too, and the last word at exit.
    let received = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    });
    daemon.writes("metrics are written again").await;
    daemon.stop().await;
    let received = received.join().unwrap();
    let lines: Vec<Value> = received
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 3, "{received}");
    for line in &lines {
        assert_eq!(line["_aws"]["LogGroupName"], "/stagesweep/stagesweep");
    }
    let polls = |line: &Value| line["PollAge"].is_u64();
    assert!(lines.iter().any(polls), "{received}");
}

#[tokio::test]
async fn a_standard_output_that_nobody_reads_does_not_stop_the_daemon() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    let metrics = world.path("metrics.log");
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__LOG_LEVEL", "trace")
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
        .env(
            "STAGESWEEP__TELEMETRY__METRICS_SINK",
            &format!("file://{}", metrics.display()),
        )
        .unread()
        .spawn();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    // More than the pipe and what waits for it hold: the end, too, finds the queue of lines full.
    for _ in 0..5000 {
        world.send("junk");
    }
    let read = || std::fs::read_to_string(&metrics).unwrap_or_default();
    let dropped = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        line["LogLinesDropped"].as_u64() > Some(0)
    };
    until("log lines are dropped", || read().lines().any(dropped)).await;
    daemon.stop().await;
    let lost = "stagesweep: the last log lines are lost: nobody reads standard output";
    assert_eq!(daemon.stderr.text(), lost);
    let metrics = read();
    assert!(metrics.contains(r#""CleanupsSucceeded":1"#), "{metrics}");
}

#[tokio::test]
async fn a_named_pipe_that_nobody_reads_is_told_and_holds_up_neither_a_job_nor_the_end() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    let pipe = world.path("metrics.pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let sink = format!("file://{}", pipe.display());
    let daemon = |world: &World| {
        world
            .daemon()
            .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
            .env("STAGESWEEP__TELEMETRY__METRICS_SINK", &sink)
    };
    let stuck = daemon(&world).spawn();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    let told = stuck.says("metrics cannot be written; trying again").await;
    assert_eq!(told["error"], "no progress: a line waits to be taken");
    stuck.signal("TERM");
    stuck.says("stopped").await;
    // The end's wait for metrics is 2 s.
    let ended = tokio::time::timeout(Duration::from_secs(10), stuck.exited()).await;
    assert_eq!(ended.unwrap().code(), Some(0), "{stuck:?}");
    let lost = stuck
        .says("the last metrics are lost: they could not be written in time")
        .await;
    assert!(lost["metrics.dropped"].as_u64() > Some(10), "{lost}");
    assert_eq!(stuck.stderr.text(), "");

    // One that is read at last has everything.
    let daemon = daemon(&world).spawn();
    daemon.says("started").await;
    let read = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap());
    daemon.stop().await;
    let read = read.join().unwrap();
    assert!(read.lines().count() > 0 && read.ends_with('\n'), "{read}");
}
