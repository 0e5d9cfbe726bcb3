//! Exit codes, and what is said before the daemon gets to work.

use crate::harness::{TARGET, World};

#[tokio::test]
async fn a_bad_configuration_exits_78_with_every_fault_and_polls_nothing() {
    let world = World::new().await;
    let bad = r#"
surprise = true
[events]
allowed_accounts = [12]
[[targets]]
pipeline = "{a}{b}"
stage = "Approve"
production_parameter = "/x/production"
staging_parameter = "/x/production"
"#;
    let config = world.write_config("bad.toml", bad);
    let mut said = Vec::new();
    for verb in ["run", "check"] {
        let launch = world.program(&[verb, "--config"]).argument(&config);
        let ended = launch
            .env("STAGESWEEP__QUEUE__WAIT_TIME", "a while")
            .finish()
            .await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(78), ""),
            "{}",
            ended.stderr
        );
        said.push(ended.stderr);
    }
    assert_eq!(said[0], said[1]);
    let faults = [
        "surprise",
        "events.allowed_accounts",
        "targets[0].pipeline",
        "targets[0].action",
        "STAGESWEEP__QUEUE__WAIT_TIME",
    ];
    for fault in faults {
        assert!(said[0].contains(fault), "no word of {fault}:\n{}", said[0]);
    }

    let missing = world
        .program(&["run", "--config", "/nowhere.toml"])
        .finish()
        .await;
    assert_eq!(missing.code, Some(78));
    assert!(
        missing.stderr.contains("/nowhere.toml"),
        "{}",
        missing.stderr
    );
    assert_eq!(world.aws.journal().count(), 0);
}

#[tokio::test]
async fn check_accepts_what_the_daemon_accepts_and_asks_nobody() {
    let world = World::new().await;
    let config = world.write_config("config.toml", TARGET);
    let launch = world.program(&["check", "--config"]).argument(config);
    let ended = launch.without("AWS_REGION").finish().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(
        ended.stdout.contains(&world.queue_url()),
        "{}",
        ended.stdout
    );
    assert_eq!(world.aws.journal().count(), 0);
}

#[tokio::test]
async fn a_daemon_that_cannot_start_exits_1_and_says_why() {
    let world = World::new().await;
    let nowhere = world.queue_url().replace("stagesweep", "nowhere");
    let launch = world.daemon().env("STAGESWEEP__QUEUE__URL", &nowhere);
    let ended = launch.finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stdout
            .contains(&format!("there is no queue {nowhere}")),
        "{}",
        ended.stdout
    );
    assert_eq!(world.aws.journal().calls("ReceiveMessage", None), 0);

    let ended = world.daemon().without("AWS_REGION").finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("no AWS region: set AWS_REGION"),
        "{}",
        ended.stdout
    );

    let launch = world
        .daemon()
        .env("STAGESWEEP__LEDGER__PATH", "/dev/null/ledger.db");
    let ended = launch.finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("/dev/null/ledger.db"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn a_usage_error_exits_2() {
    let world = World::new().await;
    for arguments in [&["sweep"][..], &["run", "--dry"], &[]] {
        let ended = world.program(arguments).finish().await;
        assert_eq!(ended.code, Some(2), "{arguments:?}\n{}", ended.stderr);
        assert!(
            ended.stderr.contains("Usage: stagesweep"),
            "{}",
            ended.stderr
        );
    }
    let ended = world.program(&["--version"]).finish().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
