//! Signals: stopping within the grace period, reloading, reporting.

use embedded_aws::{Action, Rule};
use tokio::time::{Duration, Instant};

use crate::harness::{NEVER, Process, TARGET, World, noticed};

/// A stop that nothing holds up. The grace period is 15 s here.
const PROMPT: Duration = Duration::from_secs(5);

/// A daemon whose messages come back by themselves only after this test.
fn start(world: &World) -> Process {
    world
        .daemon()
        .env("STAGESWEEP__QUEUE__VISIBILITY_TIMEOUT", "10m")
        .spawn()
}

/// Interrupts, and checks that the daemon stops well and gives its message back at once.
async fn interrupt(world: &World, daemon: Process, signal: &str) {
    let asked = Instant::now();
    daemon.signal(signal);
    let status = daemon.exited().await;
    assert_eq!(status.code(), Some(0), "{daemon:?}");
    assert!(
        asked.elapsed() < PROMPT,
        "{:?}\n{daemon:?}",
        asked.elapsed()
    );
    let stopping = daemon.says("stopping").await;
    assert_eq!(stopping["cause"], format!("SIG{signal}"));
    assert_eq!(daemon.says("stopped").await["messages.unsettled"], 0);
    assert_eq!((world.depth().visible, world.depth().in_flight), (1, 0));
}

#[tokio::test]
async fn a_stop_in_any_wait_gives_the_message_back_at_once_and_a_restart_ends_the_job() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = start(&world);
    daemon.waits_for("detach_propagated").await;
    interrupt(&world, daemon, "TERM").await;

    let daemon = start(&world);
    let resumed = daemon.says("cleanup started").await;
    assert_eq!(resumed["resumed"], true);
    daemon.waits_for("detach_propagated").await;
    world.aws.settle();
    daemon.waits_for("disable_propagated").await;
    interrupt(&world, daemon, "INT").await;

    world.aws.settle();
    let daemon = start(&world);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_in_an_idle_long_poll_is_prompt_and_takes_no_message_along() {
    let world = World::new().await;
    let shop = world.service("shop");
    for signal in ["TERM", "INT"] {
        let polling = world.notice(Rule::on("ReceiveMessage"));
        let daemon = world
            .daemon()
            .env("STAGESWEEP__QUEUE__WAIT_TIME", "20s")
            .spawn();
        noticed(polling).await;
        let asked = Instant::now();
        daemon.signal(signal);
        daemon.says("stopping").await;
        assert_eq!(daemon.exited().await.code(), Some(0));
        assert!(
            asked.elapsed() < PROMPT,
            "{:?}\n{daemon:?}",
            asked.elapsed()
        );
    }
    world.reject(&shop);
    assert_eq!((world.depth().visible, world.depth().in_flight), (1, 0));
}

#[tokio::test]
async fn a_second_stop_does_not_wait_for_a_call_that_hangs() {
    let world = World::new().await;
    let shop = world.service("shop");
    let hangs = world.notice(Rule::on("UpdateDistribution"));
    world
        .aws
        .add_rule(Rule::on("UpdateDistribution").then(Action::Hang));
    world.reject(&shop);
    let daemon = start(&world);
    noticed(hangs).await;
    daemon.signal("TERM");
    daemon.says("stopping").await;
    let asked = Instant::now();
    daemon.signal("INT");
    let status = daemon.exited().await;
    assert_eq!(status.code(), Some(1), "{daemon:?}");
    assert!(
        asked.elapsed() < PROMPT,
        "{:?}\n{daemon:?}",
        asked.elapsed()
    );
    // The record comes before the call that hangs.
    let changes = world.changes();
    assert_eq!(changes.len(), 1, "{}", world.journal());
    assert!(changes[0].is("PutParameter"));
}

#[tokio::test]
async fn a_hangup_reloads_targets_and_level_and_a_bad_file_changes_nothing() {
    let world = World::new().await;
    let (shop, blog) = (world.service("shop"), world.service("blog"));
    let elsewhere = TARGET.replace("frontend", "backend");
    let gone = TARGET.replace("frontend", "old");
    let config = world.write_config("config.toml", &format!("{elsewhere}{gone}"));
    let daemon = world.program(&["run", "--config"]).argument(config).spawn();
    daemon.says("started").await;

    let level = "[telemetry]\nlog_level = \"info,stagesweep=debug\"\n";
    let role = "role_arn = \"arn:aws:iam::123456789012:role/sweep\"\n";
    let other_id = "external_id = \"not-for-the-log\"\n";
    let both = format!("{level}{elsewhere}{role}{other_id}{TARGET}");
    world.write_config("config.toml", &both);
    daemon.signal("HUP");
    let reloaded = daemon
        .says("configuration reloaded: targets and log level")
        .await;
    assert_eq!(reloaded["targets"], 2);
    for what in ["added", "removed", "changed"] {
        assert_eq!(reloaded[format!("targets.{what}")], 1, "{reloaded}");
    }
    assert_eq!(reloaded["log_level.changed"], true);
    for (message, pipeline) in [
        ("target added", "{service}-frontend-pipeline"),
        ("target removed", "{service}-old-pipeline"),
        ("target changed", "{service}-backend-pipeline"),
    ] {
        let line = daemon.says(message).await;
        assert_eq!(line["reloaded"], format!("{pipeline} / Approve / Approve"));
    }
    let changed = daemon.says("target changed").await;
    assert_eq!(changed["keys"], "role_arn, external_id");
    let level = daemon.says("log level changed").await;
    assert_eq!(level["now"], "info,stagesweep=debug");
    assert!(!format!("{daemon:?}").contains("not-for-the-log"));
    world.reject(&shop);
    daemon
        .says_also("received", |line| line["level"] == "DEBUG")
        .await;
    world.settled().await;
    world.assert_cleaned_once(&shop);

    world.write_config(
        "config.toml",
        "surprise = true\n[[targets]]\npipeline = \"{a}{b}\"\n",
    );
    daemon.signal("HUP");
    let refused = daemon
        .says("the new configuration is bad; the old one stays")
        .await;
    let faults = refused["faults"].as_str().unwrap();
    assert!(
        faults.contains("surprise") && faults.contains("{a}{b}"),
        "{faults}"
    );
    world.reject(&blog);
    world.settled().await;
    world.assert_cleaned_once(&blog);
    daemon.stop().await;
}

#[tokio::test]
async fn a_user_signal_logs_every_job_in_flight() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = world.daemon().spawn();
    daemon.waits_for("detach_propagated").await;
    daemon.signal("USR1");
    let report = daemon.says("in flight").await;
    assert_eq!(report["execution.id"], shop.execution_id);
    assert_eq!(report["activity"], "detach_propagated");
    assert_eq!(report["messages"], 1);
    daemon.stop().await;
}
