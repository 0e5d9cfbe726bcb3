//! `kill -9` at every call of a cleanup.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use stagesweep::rehearsal::{Action, Rule, Settings};

use crate::harness::{Deployed, PATIENCE, Process, World};

/// So many worlds at once: most of the time of each is spent waiting for a visibility timeout.
const CONCURRENT: usize = 10;

/// One moment: the `nth` call of an operation, before or after it takes effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    operation: String,
    nth: u64,
    after: bool,
}

/// Starts a daemon that dies at that moment. Its call is never answered.
fn start_doomed(world: &World, moment: &Moment) -> (Process, Arc<AtomicBool>) {
    let rule = || Rule::on(&moment.operation).nth(moment.nth);
    let died = Arc::new(AtomicBool::new(false));
    let killer: Arc<std::sync::OnceLock<Box<dyn Fn() + Send + Sync>>> = Arc::default();
    let kill = {
        let (died, killer) = (Arc::clone(&died), Arc::clone(&killer));
        move |_: &_, _: &_| {
            died.store(true, Ordering::SeqCst);
            killer.wait()();
        }
    };
    if moment.after {
        world.aws.add_rule(rule().then(Action::after(kill)));
        world.aws.add_rule(rule().then(Action::HangAfter));
    } else {
        world.aws.add_rule(rule().then(Action::before(kill)));
        world.aws.add_rule(rule().then(Action::Hang));
    }
    let daemon = world.daemon().spawn();
    drop(killer.set(Box::new(daemon.killer())));
    (daemon, died)
}

/// Kills at a moment, restarts, and judges. Returns whether the moment came.
async fn survives(moment: Moment) -> bool {
    let world = World::new().await;
    let shop = world.service("shop");
    let message_id = world.reject(&shop);
    let (doomed, died) = start_doomed(&world, &moment);
    let ended = async {
        tokio::select! {
            _ = doomed.exited() => {}
            () = world.settled() => {}
        }
    };
    if tokio::time::timeout(PATIENCE, ended).await.is_err() {
        panic!("{moment:?}: neither killed nor done\n{doomed:?}");
    }
    let died = died.load(Ordering::SeqCst);
    if died {
        doomed.exited().await;
    }
    drop(doomed);
    world.aws.calm();
    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    world.settled().await;
    judge(
        &world,
        &shop,
        &message_id,
        &format!("{moment:?}\n{daemon:?}"),
    );
    died
}

fn judge(world: &World, shop: &Deployed, message_id: &str, context: &str) {
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.assert_cleaned_once(shop);
        world.assert_deleted_last(shop, message_id);
        assert_eq!(world.dead_letters(), 0);
    }));
    assert!(judged.is_ok(), "{context}");
}

/// The calls of an undisturbed cleanup, by operation. Receives are no part of it.
async fn undisturbed() -> BTreeMap<String, u64> {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = world.daemon().spawn();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    daemon.stop().await;
    let mut calls = BTreeMap::new();
    for entry in world.aws.journal().entries() {
        *calls.entry(entry.call.operation).or_default() += 1;
    }
    calls.remove("ReceiveMessage");
    calls
}

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

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_call_ends_the_job_after_a_restart() {
    let calls = undisturbed().await;
    assert_eq!(calls["PutParameter"], 1);
    assert_eq!(calls["DeleteMessageBatch"], 1);
    let moments = calls.iter().flat_map(|(operation, count)| {
        (1..=*count).flat_map(move |nth| {
            [false, true].map(|after| Moment {
                operation: operation.clone(),
                nth,
                after,
            })
        })
    });
    let came: Vec<(Moment, bool)> = futures_util::stream::iter(moments)
        .map(|moment| async { (moment.clone(), survives(moment).await) })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;
    // How often it looks depends on the machine's speed; what it changes does not.
    for (moment, came) in &came {
        let look = moment.operation.starts_with("Get") || moment.operation.starts_with("Change");
        assert!(*came || look && moment.nth > 1, "never came: {moment:?}");
    }
    let missed = came.iter().filter(|(_, came)| !came).count();
    assert!(
        missed * 4 < came.len(),
        "{missed} of {} moments never came",
        came.len()
    );
}
