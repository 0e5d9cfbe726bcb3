use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::Registry;

use super::*;
use crate::domain::decision::{Outcome, Refusal};
use crate::domain::error_class::Conflict;
use crate::domain::event::{Kind, Rejection, parse};
use crate::domain::history::News;
use crate::domain::targets::Mode;
use crate::runtime::clock::Clock;
use crate::runtime::lasting::Phase;
use crate::telemetry::{Telemetry, events};

const REJECTED: &str = include_str!("../../tests/events/approval-rejected.json");
const EXECUTION: &str = "3c1e9a54-7b70-4d1c-9a0e-5b8f1c2d7e61";
const MESSAGE: &str = "0a1b2c3d-0000-4000-8000-000000000000";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that `events` write, as they come out of the process.
fn lines(events: impl FnOnce(&Telemetry)) -> Vec<String> {
    let written = Lines::default();
    let writer = written.clone();
    let subscriber = Registry::default().with(json(move || writer.clone()));
    tracing::subscriber::with_default(subscriber, || {
        events(&Telemetry::new(Clock::system()));
    });
    let bytes = written.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The objects of those lines, each without its timestamp, which is a time.
fn logged(events: impl FnOnce(&Telemetry)) -> Vec<Value> {
    lines(events)
        .iter()
        .map(|line| {
            let mut object: Value = serde_json::from_str(line).unwrap();
            let at = object.as_object_mut().unwrap().remove("timestamp").unwrap();
            at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            object
        })
        .collect()
}

fn rejection(body: &str) -> Rejection {
    match parse(body).unwrap().kind {
        Kind::Rejection(rejection) => *rejection,
        Kind::NotARejection(why) => panic!("{why:?}"),
    }
}

const SECONDS: Duration = Duration::from_millis(12_345);

#[test]
fn the_lines_of_a_job_carry_the_fields_that_dashboards_query() {
    let rejection = rejection(REJECTED);
    let target = Some("{service}-frontend-pipeline");
    let span = || crate::telemetry::job_span("shop-frontend-pipeline", EXECUTION, target);
    let found = logged(|telemetry| {
        let _job = span().entered();
        telemetry.emit(events::JobStarted {
            work: events::Work::Cleanup,
            rejection: &rejection,
            event_age: SECONDS,
            resumed: false,
            mode: Mode::Act,
        });
        telemetry.emit(events::StepApplied {
            execution_id: EXECUTION,
            step: "detach_policy",
        });
        telemetry.emit(events::StepDeferred {
            step: "delete_policy",
            conflict: Some(Conflict::PolicyInUse),
        });
        telemetry.emit(events::WaitEnded {
            execution_id: EXECUTION,
            wait: "detach_propagated",
            took: SECONDS,
            propagation: Some(2 * SECONDS),
        });
        telemetry.emit(events::JobSucceeded {
            work: events::Work::Cleanup,
            execution_id: EXECUTION,
            outcome: Outcome::Cleaned,
            detail: None,
            took: SECONDS,
        });
        telemetry.emit(events::JobRefused {
            work: events::Work::Cleanup,
            execution_id: EXECUTION,
            reason: Refusal::StagingHasAliases.code(),
            detail: "the staging distribution has aliases",
            took: SECONDS,
            news: News::First,
        });
    });
    let expected = [
        json!({
            "level": "INFO", "message": "cleanup started",
            "execution.url": format!(
                "https://console.aws.amazon.com/codesuite/codepipeline/pipelines/\
                 shop-frontend-pipeline/executions/{EXECUTION}/timeline?region=eu-west-1"
            ),
            "review.comment": "The basket is empty after login",
            "event.age_ms": 12_345,
            "resumed": false,
            "mode": "act",
        }),
        json!({
            "level": "INFO", "message": "step applied",
            "step": "detach_policy",
        }),
        json!({
            "level": "INFO", "message": "step deferred; looking again",
            "step": "delete_policy", "found": "policy_in_use",
        }),
        json!({
            "level": "INFO", "message": "wait ended",
            "wait": "detach_propagated", "wait.took_ms": 12_345, "propagation_ms": 24_690,
        }),
        json!({
            "level": "INFO", "message": "cleanup succeeded",
            "outcome": "cleaned", "job.duration_ms": 12_345,
        }),
        json!({
            "level": "ERROR", "message": "cleanup refused; nothing more is touched",
            "reason": "staging_has_aliases",
            "detail": "the staging distribution has aliases",
        }),
    ];
    assert_eq!(found.len(), expected.len());
    for (mut line, expected) in found.into_iter().zip(expected) {
        let fields = line.as_object_mut().unwrap();
        for (name, value) in [
            ("execution.id", EXECUTION),
            ("pipeline", "shop-frontend-pipeline"),
            ("target", "{service}-frontend-pipeline"),
        ] {
            assert_eq!(fields.remove(name), Some(value.into()), "{expected}");
        }
        assert_eq!(line, expected);
    }
}

#[test]
fn the_lines_of_a_message_carry_its_id_and_a_reason_that_is_a_code() {
    let broken = std::io::Error::other("broken pipe");
    let found = logged(|telemetry| {
        telemetry.emit(events::MessageDeleted {
            message_id: MESSAGE,
            execution_id: Some(EXECUTION),
            reason: "cleaned",
        });
        telemetry.emit(events::MessageDeleted {
            message_id: MESSAGE,
            execution_id: None,
            reason: "not_failed",
        });
        telemetry.emit(events::MessageReleased {
            message_id: MESSAGE,
            delay: SECONDS,
            reason: "throttled",
            again: false,
        });
        telemetry.emit(events::MessageRefused {
            message_id: MESSAGE,
            receive_count: 3,
            max_receive_count: Some(10),
            reason: "no_target",
            detail: "no target for it",
            news: News::First,
        });
        for phase in [Phase::Begins, Phase::Quiet, Phase::Lasts(SECONDS)] {
            telemetry.emit(events::HeartbeatFailed {
                message_id: MESSAGE,
                error: &broken,
                phase,
            });
        }
        assert_eq!(telemetry.metrics().count("HeartbeatFailures"), 3);
    });
    let expected = [
        json!({
            "level": "INFO", "message": "message deleted",
            "message.id": MESSAGE, "execution.id": EXECUTION, "reason": "cleaned",
        }),
        json!({
            "level": "INFO", "message": "message deleted",
            "message.id": MESSAGE, "reason": "not_failed",
        }),
        json!({
            "level": "INFO", "message": "message released",
            "message.id": MESSAGE, "message.visible_in_ms": 12_345, "reason": "throttled",
        }),
        json!({
            "level": "ERROR", "message": "message refused; it is left to the redrive policy",
            "message.id": MESSAGE, "message.receive_count": 3,
            "queue.max_receive_count": 10, "reason": "no_target", "detail": "no target for it",
        }),
        // Counted each time, told at its begin and while it lasts.
        json!({
            "level": "WARN",
            "message": "the message's visibility could not be extended; trying again",
            "message.id": MESSAGE, "error": "broken pipe",
        }),
        json!({
            "level": "WARN",
            "message": "the message's visibility could not be extended; trying again",
            "message.id": MESSAGE, "error": "broken pipe", "took_ms": 12_345,
        }),
    ];
    assert_eq!(found, expected);
}

/// What would be written at `level`.
fn written_at(level: &str, events: impl FnOnce()) -> String {
    let written = Lines::default();
    let writer = written.clone();
    let subscriber = Registry::default()
        .with(EnvFilter::try_new(level).unwrap())
        .with(filter_fn(shows_no_body))
        .with(json(move || writer.clone()));
    tracing::subscriber::with_default(subscriber, events);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn at_every_level_a_line_has_the_fields_of_its_job_and_none_of_the_librarys() {
    for level in ["error", "warn", "info", "debug", "trace", "stagesweep=warn"] {
        let text = written_at(level, || {
            let _job = crate::telemetry::job_span("shop", EXECUTION, Some("{name}")).entered();
            let call = tracing::error_span!(target: "aws_sdk_sqs", "call", body = "secret");
            let _call = call.entered();
            tracing::error!(target: "aws_config", target = "a field of its own", "denied");
            tracing::error!("failed");
            tracing::debug!(target: "aws_smithy_runtime::client", "secret");
            tracing::debug!(target: "hyper", "secret");
            tracing::trace!(target: "aws_sdk_ssm::operation", "secret");
            tracing::trace!(target: "rustls", "secret");
        });
        assert!(!text.contains("secret"), "{level}: {text}");
        let ours: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let last = ours.last().unwrap();
        assert_eq!(last["message"], "failed", "{level}");
        for line in &ours {
            assert_eq!(line["pipeline"], "shop", "{level}: {line}");
            assert_eq!(line["execution.id"], EXECUTION, "{level}: {line}");
        }
        assert_eq!(last["target"], "{name}");
        if ours.len() == 2 {
            assert_eq!(ours[0]["target"], "a field of its own", "{level}");
        }
    }
}

#[test]
fn for_people_an_event_is_a_short_line_with_its_job_once_and_a_level_that_is_not_info() {
    let rejection = rejection(REJECTED);
    let written = Lines::default();
    let writer = written.clone();
    let subscriber = Registry::default().with(pretty(move || writer.clone(), false));
    tracing::subscriber::with_default(subscriber, || {
        let telemetry = Telemetry::new(Clock::system());
        let _job = crate::telemetry::span_of(&rejection, Some("{service}")).entered();
        telemetry.emit(events::JobStarted {
            work: events::Work::Cleanup,
            rejection: &rejection,
            event_age: SECONDS,
            resumed: false,
            mode: Mode::Act,
        });
        telemetry.emit(events::StepApplied {
            execution_id: EXECUTION,
            step: "detach_policy",
        });
        telemetry.emit(events::WaitEnded {
            execution_id: EXECUTION,
            wait: "detach_propagated",
            took: 10 * SECONDS,
            propagation: None,
        });
        telemetry.emit(events::JobRefused {
            work: events::Work::Cleanup,
            execution_id: EXECUTION,
            reason: "policy_shared",
            detail: "it lists\nothers \u{1b}[2J too",
            took: SECONDS,
            news: News::First,
        });
        telemetry.emit(events::MessageReleased {
            message_id: MESSAGE,
            delay: SECONDS,
            reason: "throttled",
            again: false,
        });
        for max_receive_count in [Some(10), None] {
            telemetry.emit(events::MessageRefused {
                message_id: MESSAGE,
                receive_count: 3,
                max_receive_count,
                reason: "no_target",
                detail: "no target for it",
                news: News::First,
            });
        }
        tracing::warn!(target: "aws_config::profile", "no such profile");
    });
    let bytes = written.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<&str> = text.lines().map(|line| &line[8..]).collect();
    let job = "  shop-frontend-pipeline 3c1e9a54";
    assert_eq!(
        lines,
        [
            format!(
                "{job}  cleanup started  review.comment=\"The basket is empty after login\" event.age=12s mode=act"
            ),
            format!("{job}  policy detached from production"),
            format!("{job}  waited for the detach to propagate  wait.took=2m3s"),
            format!(
                "  ERROR{job}  cleanup refused; nothing more is touched (policy_shared): it lists others  [2J too"
            ),
            format!(
                "{job}  message released (throttled)  message.id=0a1b2c3d message.visible_in=12s"
            ),
            format!(
                "  ERROR{job}  message refused, receive 3 of 10 before the dead-letter queue (no_target): \
                 no target for it  message.id=0a1b2c3d"
            ),
            format!(
                "  ERROR{job}  message refused; it is left to the redrive policy (no_target): no target for it  \
                 message.id=0a1b2c3d message.receive_count=3"
            ),
            format!("  WARN{job}  aws_config: no such profile"),
        ]
    );
    for line in text.lines() {
        assert_eq!(line.as_bytes()[2], b':', "{line}");
    }
    assert_eq!(LogFormat::Auto.on(false), LogFormat::Json);
    assert_eq!(LogFormat::Auto.on(true), LogFormat::Pretty);
    assert_eq!(LogFormat::Json.on(true), LogFormat::Json);
}

#[test]
fn the_longest_comment_makes_one_line_that_no_log_driver_splits() {
    let mut event: Value = serde_json::from_str(REJECTED).unwrap();
    // What takes most room in JSON, and a line that pretends to be another.
    let comment = format!("\n{{\"level\":\"INFO\"}}\n{}", "\u{1}".repeat(10_000));
    event["detail"]["execution-result"]["external-execution-summary"] = comment.into();
    let rejection = rejection(&event.to_string());
    let lines = lines(|telemetry| {
        telemetry.emit(events::JobStarted {
            work: events::Work::Cleanup,
            rejection: &rejection,
            event_age: SECONDS,
            resumed: true,
            mode: Mode::Observe,
        });
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].len() < 16 * 1024, "{}", lines[0].len());
}

#[test]
fn dropped_log_lines_are_counted_once() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::telemetry::{Form, Gauges};

    let dropped = Arc::new(AtomicU64::new(0));
    let written = Arc::new(Mutex::new(Vec::new()));
    let (total, lines) = (Arc::clone(&dropped), Arc::clone(&written));
    let telemetry = Telemetry::new(Clock::system())
        .with_metrics_sink(Form::Json, move |line| {
            let line: Value = serde_json::from_str(line).unwrap();
            lines
                .lock()
                .unwrap()
                .push(line["LogLinesDropped"].as_u64().unwrap_or(0));
        })
        .with_dropped_log_lines(move || total.load(Ordering::Relaxed));
    for total in [0, 3, 3, 5] {
        dropped.store(total, Ordering::Relaxed);
        telemetry.flush(Gauges::default());
    }
    assert_eq!(*written.lock().unwrap(), [0, 3, 0, 2]);
}

/// A pipe that nobody reads: its first write never returns while the test holds the other end.
struct Unread(mpsc::Receiver<()>);

impl Write for Unread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_queue_that_nobody_takes_from_does_not_keep_the_process_from_ending() {
    let (reads, read) = mpsc::channel();
    let (mut writer, last) = queue(Unread(read), Duration::from_millis(10));
    // More than the queue, the buffer and a write take.
    for _ in 0..2 * BUFFERED_LINES {
        writer.write_all(b"a line\n").unwrap();
    }
    drop(last);
    drop(reads);

    let written = Lines::default();
    let (mut writer, last) = queue(written.clone(), Duration::MAX);
    for _ in 0..1000 {
        writer.write_all(b"a line\n").unwrap();
    }
    drop(last);
    assert_eq!(written.0.lock().unwrap().len(), 7000);
}
