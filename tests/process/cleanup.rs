//! What becomes of messages.

use tokio::time::Duration;

use crate::harness::World;

#[tokio::test]
async fn a_rejection_is_cleaned_in_the_safe_order_and_its_message_deleted_last() {
    let world = World::new().await;
    let (shop, bystander) = (world.service("shop"), world.service("bystander"));
    let before = world.aws.distribution(&bystander.production_id).unwrap();
    let message_id = world.reject(&shop);
    let daemon = world.daemon().spawn();
    let deleted = daemon.says("message deleted").await;
    assert_eq!(deleted["message.id"], message_id);
    assert_eq!(deleted["reason"], "cleaned");
    world.settled().await;
    world.assert_cleaned_once(&shop);
    world.assert_deleted_last(&shop, &message_id);
    assert_eq!(world.changes_of(&bystander), [""; 0]);
    let after = world.aws.distribution(&bystander.production_id).unwrap();
    assert_eq!((before.config, before.etag), (after.config, after.etag));
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_message_stays_hidden_for_as_long_as_its_job_runs() {
    // Each of the two propagations outlives the visibility timeout of 2 s.
    let world = World::with(Duration::from_millis(2500)).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = world.daemon().argument("--drain").spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    world.assert_cleaned_once(&shop);
    let totals = daemon
        .line("the totals", |line| line["InFlight"] == 0)
        .await;
    assert_eq!(totals["MessagesReceived"], 1, "{daemon:?}");
    assert!(totals["DuplicatesSuppressed"].is_null(), "{daemon:?}");
}
