//! `stagesweep health`, asked from another process.

use embedded_aws::{Action, Rule};
use serde_json::Value;

use crate::harness::{PATIENCE, TARGET, World};

/// Asks, and returns the exit status and the report.
async fn ask(world: &World) -> (Option<i32>, Value) {
    let config = world.path("config.toml");
    let asked = world.program(&["health", "--json", "--config"]);
    let answer = asked.argument(config).finish().await;
    assert_eq!(
        (answer.stderr.as_str(), answer.stdout.lines().count()),
        ("", 1)
    );
    let report = serde_json::from_str(&answer.stdout).unwrap();
    (answer.code, report)
}

/// Asks until the answer is this, by its exit status and reason.
async fn answers(world: &World, code: i32, reason: &Value) {
    let asked = async {
        loop {
            let (found, report) = ask(world).await;
            if found == Some(code) && report["reason"] == *reason {
                return;
            }
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    assert!(asked.is_ok(), "never {code}, {reason}");
}

#[tokio::test]
async fn health_is_0_while_the_daemon_works_and_1_when_it_is_not_there_frozen_or_cut_off() {
    let world = World::new().await;
    world.write_config("config.toml", TARGET);
    answers(&world, 1, &"not_running".into()).await;

    let denied = Rule::on("ReceiveMessage").then(Action::Deny);
    world.aws.add_rule(denied);
    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    answers(&world, 1, &"not_polled_yet".into()).await;
    world.aws.calm();
    answers(&world, 0, &"healthy".into()).await;

    daemon.signal("STOP");
    let (code, report) = ask(&world).await;
    assert_eq!((code, &report["reason"]), (Some(1), &"silent".into()));
    daemon.signal("CONT");
    answers(&world, 0, &"healthy".into()).await;

    daemon.killer()();
    daemon.exited().await;
    let (code, report) = ask(&world).await;
    assert_eq!((code, &report["reason"]), (Some(1), &"not_running".into()));

    // For people it is one line.
    let config = world.path("config.toml");
    let asked = world.program(&["health", "--config"]).argument(config);
    let answer = asked.finish().await;
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""));
    assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    assert!(
        answer.stderr.starts_with("unhealthy: no daemon"),
        "{}",
        answer.stderr
    );
}
