//! A ledger that cannot be written in mid-run.

use rusqlite::{Connection, TransactionBehavior};
use serde_json::Value;

use crate::harness::{NEVER, PROPAGATION, World};

#[tokio::test]
async fn a_ledger_that_fails_stops_the_work_until_it_is_mended() {
    let world = World::with(NEVER).await;
    let (shop, blog) = (world.service("shop"), world.service("blog"));
    world.reject(&shop);
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "200ms")
        .spawn();
    daemon.waits_for("detach_propagated").await;

    // Someone else holds the database's write lock, and does not let go.
    let mut database = Connection::open(world.path("ledger.db")).unwrap();
    let held = database
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    let failing = "the ledger fails; nothing is processed or deleted until it works again";
    daemon.says(failing).await;
    let failed = daemon
        .says("cleanup failed for now; the message will bring it back")
        .await;
    assert_eq!(failed["reason"], "ledger_failed");
    daemon.says("message released").await;
    world.reject(&blog);
    let changes = world.changes().len();
    // Another try at the ledger, which takes as long as the first one.
    let failures = |line: &Value| line["LedgerFailures"].as_u64() > Some(0);
    let before = daemon.lines().iter().filter(|line| failures(line)).count();
    daemon
        .lines_with("the ledger failed again", before + 1, failures)
        .await;
    assert_eq!(world.changes().len(), changes, "{daemon:?}");
    let waiting = world.aws.messages(&world.queues.url);
    let receives: Vec<_> = waiting.iter().map(|message| message.receives).collect();
    assert_eq!(receives, [1, 0], "{daemon:?}");

    drop(held);
    daemon.says("the ledger works again").await;
    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    world.assert_cleaned_once(&blog);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_ledger_that_is_no_database_is_fatal_and_left_as_it_is() {
    let world = World::new().await;
    let path = world.path("ledger.db");
    let notes = "these are somebody's notes, and no database at all\n".repeat(20);
    std::fs::write(&path, &notes).unwrap();
    let ended = world.daemon().finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("file is not a database"),
        "{}",
        ended.stdout
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
}
