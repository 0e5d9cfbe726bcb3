//! A crash that takes the ledger along. For a kill at every call see `kill_matrix`.

use embedded_aws::Settings;

use crate::harness::World;
use crate::kill_matrix::{Moment, start_doomed};

#[tokio::test]
async fn a_policy_that_only_a_lost_ledger_knew_is_found_by_the_staging_domain() {
    let world = World::new().await;
    // Or else the staging distribution would give it away.
    let hide = |settings: &mut Settings| settings.switches.staging_shows_policy = false;
    world.aws.change_settings(hide);
    let shop = world.service("shop");
    world.reject(&shop);
    // Production is detached, and names the policy no longer.
    let moment = Moment {
        operation: "DeleteContinuousDeploymentPolicy".to_owned(),
        nth: 1,
        after: false,
    };
    let (doomed, _) = start_doomed(&world, &moment);
    doomed.exited().await;
    world.aws.calm();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        std::fs::remove_file(world.path(name)).unwrap();
    }
    let before = world.aws.journal().count();
    let daemon = world.daemon().spawn();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    let searched = world.aws.journal().since(before);
    assert!(
        searched
            .iter()
            .any(|it| it.is("ListContinuousDeploymentPolicies"))
    );
    daemon.stop().await;
}
