//! Whole jobs in one process under tokio's paused clock, against the embedded AWS.

mod harness;

use harness::World;

#[tokio::test(start_paused = true)]
async fn a_rejection_is_cleaned_up_in_the_safe_order() {
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_test_writer()
        .init();
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    for entry in world.aws.journal().entries() {
        println!("{entry}");
    }
    assert_eq!(
        world.changes(),
        [
            "UpdateDistribution",
            "DeleteContinuousDeploymentPolicy",
            "UpdateDistribution",
            "DeleteDistribution",
            "PutParameter",
        ]
    );
    daemon.stop().await;
}
