//! Races that take two or three unlucky moments at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Failure, Pattern, Retry, Rule, Service};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{Instance, Log, PATIENCE, World, assert_clean, assert_gone, assert_untouched};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn count(daemon: &Instance, reason: &str) -> u64 {
    let metrics = daemon.telemetry.metrics();
    metrics.count_by_reason("MessagesDeleted", reason)
}

/// What daemons write is by this one.
fn daemon_of(service: &Service) -> String {
    format!("arn:aws:iam::{}:user/rehearsal", service.account)
}

fn unanswered() -> Action {
    Action::Refuse(Failure::new(500, "InternalServerError", "Try again."))
}

fn retry(aws: &EmbeddedAws, service: &Service) {
    aws.retry(service, "Approve", Retry::FailedActions).unwrap();
}

/// The first rejection falls away after its record; the second one's job is bound before the id is put back.
#[tokio::test(start_paused = true)]
async fn an_id_that_another_job_put_back_is_still_ours() {
    let world = World::new();
    let service = world.service("shop");
    let url = world.queues.url.clone();
    let again = service.clone();
    let hook = Action::after(move |aws, _| {
        retry(aws, &again);
        let body = aws.reject(&again).unwrap();
        aws.send(&url, &body).unwrap();
    });
    world
        .aws
        .add_rule(Rule::on("PutParameter").nth(1).then(hook));
    let slow = Rule::on("PutParameter").nth(2);
    world.aws.add_rule(slow.then(Action::Delay(4 * SECOND)));
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    let outcomes = ["retracted", "cleaned", "superseded"].map(|it| count(&daemon, it));
    assert_eq!(outcomes, [1, 1, 0]);
    daemon.stop().await;
}

/// The answer to the record is lost, and what it wrote shows late; then the rejection is taken back. The second time
/// the id was put back in between, so that there was a record before.
#[tokio::test(start_paused = true)]
async fn a_record_that_shows_late_is_undone_with_the_rejection() {
    for (puts, looks) in [(1, 4), (2, 6)] {
        let world = World::new();
        let service = world.service("shop");
        let name = service.staging_parameter.clone();
        let (ours, id) = (daemon_of(&service), service.staging_id.clone());
        if puts == 2 {
            let (name, ours) = (name.clone(), ours.clone());
            let back = Action::after(move |aws, _| {
                aws.put_parameter_as(&name, &id, &ours);
            });
            world
                .aws
                .add_rule(Rule::on("PutParameter").nth(1).then(back));
        }
        let lost = Rule::on("PutParameter").nth(puts).then(unanswered());
        world.aws.add_rule(lost);
        let of = service.clone();
        let shows = Action::before(move |aws, _| {
            aws.put_parameter_as(&of.staging_parameter, "deleted", &ours);
            retry(aws, &of);
        });
        let look = Rule::on("GetParameter").about(&name).nth(looks);
        world.aws.add_rule(look.then(shows));
        world.send(&world.aws.reject(&service).unwrap());
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_untouched(&world, &service);
        assert_eq!(count(&daemon, "retracted"), 1, "{puts}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_the_record_says_what_is_left() {
    let (log, _listening) = Log::listen();
    let world = World::new();
    let service = world.service("shop");
    let id = service.production_id.clone();
    let off = Action::before(move |aws, _| {
        aws.edit_distribution(&id, "Enabled", "false").unwrap();
    });
    let deleting = Rule::on("DeleteContinuousDeploymentPolicy").nth(1);
    world.aws.add_rule(deleting.then(off));
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(10 * MINUTE).await;
    let refused = log.with("production_disabled");
    let text = refused[0].to_string();
    let said = format!(
        "{} says `deleted`, policy {} detached from {}, policy {} deleted; left: staging distribution {};",
        service.staging_parameter,
        service.policy_id,
        service.production_id,
        service.policy_id,
        service.staging_id
    );
    assert!(text.contains(&said), "{text}");
    daemon.stop().await;
}

/// Our id is named again over what a newer deployment has just written, and nobody hears of it: the answer is lost, or the
/// daemon is killed.
#[tokio::test(start_paused = true)]
async fn what_a_name_that_is_put_back_covers_is_put_back() {
    for killed in [false, true] {
        let world = World::new();
        let service = world.service("shop");
        let of = service.clone();
        let retries = Action::after(move |aws, _| retry(aws, &of));
        let record = Rule::on("PutParameter").nth(1);
        world.aws.add_rule(record.then(retries));
        let crash = Arc::new(Notify::new());
        let crashing = Arc::clone(&crash);
        let newer = Arc::new(Mutex::new(None));
        let (deployed, of) = (Arc::clone(&newer), service.clone());
        let deploys = Action::before(move |aws, _| {
            *deployed.lock().unwrap() = Some(aws.deploy_again(&of).unwrap());
            crashing.notify_one();
        });
        let lost = match killed {
            true => Action::HangAfter,
            false => Action::DropAfter,
        };
        for action in [deploys, lost] {
            let names_again = Rule::on("PutParameter").nth(2);
            world.aws.add_rule(names_again.then(action));
        }
        world.send(&world.aws.reject(&service).unwrap());
        let mut daemon = world.start("ledger.db");
        timeout(PATIENCE, crash.notified()).await.unwrap();
        if killed {
            tokio::time::advance(SECOND).await;
            daemon.crash().await;
            daemon = world.start("ledger.db");
        }
        world.settled().await;
        let newer = newer.lock().unwrap().take().unwrap();
        let named = world.aws.parameter(&service.staging_parameter);
        assert_eq!(named.as_ref(), Some(&newer.staging_id), "killed: {killed}");
        assert_eq!(count(&daemon, "retracted"), 1, "killed: {killed}");
        daemon.stop().await;
    }
}

/// A value that we put back covers the next one.
#[tokio::test(start_paused = true)]
async fn what_a_value_that_is_put_back_covers_is_put_back() {
    for lost in [false, true] {
        let world = World::new();
        let service = world.service("shop");
        let newest = Arc::new(Mutex::new(None));
        for nth in [1, 2] {
            let (deployed, of) = (Arc::clone(&newest), service.clone());
            let deploys = Action::before(move |aws, _| {
                *deployed.lock().unwrap() = Some(aws.deploy_again(&of).unwrap());
            });
            world
                .aws
                .add_rule(Rule::on("PutParameter").nth(nth).then(deploys));
        }
        if lost {
            let answer = Rule::on("PutParameter").nth(2).then(Action::DropAfter);
            world.aws.add_rule(answer);
        }
        world.send(&world.aws.reject(&service).unwrap());
        let daemon = world.start("ledger.db");
        world.settled().await;
        let newest = newest.lock().unwrap().take().unwrap();
        let named = world.aws.parameter(&service.staging_parameter);
        assert_eq!(named.as_ref(), Some(&newest.staging_id), "lost: {lost}");
        assert_gone(&world, &service);
        assert_eq!(count(&daemon, "superseded"), 1, "lost: {lost}");
        daemon.stop().await;
    }
}

/// Somebody has taken the policy down.
async fn without_policy(world: &World, service: &Service) {
    let (production, none) = (&service.production_id, "");
    let detached = world
        .aws
        .edit_distribution(production, "ContinuousDeploymentPolicyId", none);
    detached.unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    world.aws.delete_policy(&service.policy_id).unwrap();
    tokio::time::sleep(10 * MINUTE).await;
}

/// The next run finds the record done, and another process may be the one that made it.
#[tokio::test(start_paused = true)]
async fn a_later_run_says_too_what_an_earlier_one_has_done() {
    let world = World::new();
    let service = world.service("shop");
    without_policy(&world, &service).await;
    let id = service.production_id.clone();
    let off = Action::after(move |aws, _| {
        aws.edit_distribution(&id, "Enabled", "false").unwrap();
    });
    let recording = Rule::on("PutParameter").nth(1);
    world.aws.add_rule(recording.then(off));
    world.send(&world.aws.reject(&service).unwrap());
    let said = format!("done by then: {} says `deleted`", service.staging_parameter);
    for _ in 0..2 {
        let (log, _listening) = Log::listen();
        let daemon = world.start("ledger.db");
        tokio::time::sleep(2 * MINUTE).await;
        let refused = log.with("production_disabled");
        let texts: Vec<_> = refused.iter().map(ToString::to_string).collect();
        let of_runs = texts.iter().filter(|it| it.contains("done by then"));
        assert!(of_runs.clone().count() > 0, "{texts:?}");
        assert!(of_runs.clone().all(|it| it.contains(&said)), "{texts:#?}");
        daemon.stop().await;
    }
}

/// Of a distribution without a policy: the process is killed when the disable is noted, and has not been sent.
#[tokio::test(start_paused = true)]
async fn what_was_noted_and_did_not_take_effect_is_undone_with_the_rejection() {
    let world = World::new();
    let service = world.service("shop");
    without_policy(&world, &service).await;
    let crash = Arc::new(Notify::new());
    let crashing = Arc::clone(&crash);
    for action in [
        Action::before(move |_, _| crashing.notify_one()),
        Action::Hang,
    ] {
        let rule = Rule::on("UpdateDistribution").nth(1).then(action);
        world.aws.add_rule(rule);
    }
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    timeout(PATIENCE, crash.notified()).await.unwrap();
    daemon.crash().await;
    retry(&world.aws, &service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    let named = world.aws.parameter(&service.staging_parameter);
    assert_eq!(named.as_ref(), Some(&service.staging_id));
    let staging = world.aws.distribution(&service.staging_id).unwrap();
    assert!(staging.enabled);
    daemon.stop().await;
}

/// An older execution's build has named the distribution, and shows; the rejected one has modified it last, and so
/// does a firewall manager while the job is held for its delay.
#[tokio::test(start_paused = true)]
async fn a_firewall_manager_makes_it_nobody_elses_where_an_older_build_named_it() {
    let mut world = World::new();
    world.target = "delay = \"30m\"".to_owned();
    let first = world.service("shop");
    tokio::time::sleep(MINUTE).await;
    let a = world.aws.start_execution(&first);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&a, "Deploy").unwrap();
    tokio::time::sleep(SECOND).await;
    // While the older one still waits at its approval.
    let a = world.aws.deploy(&a, Pattern::ReuseRecordedOnce).unwrap();
    assert_eq!(a.staging_id, first.staging_id);
    tokio::time::sleep(10 * MINUTE).await;
    world.aws.reject(&first).unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    world.send(&world.aws.reject(&a).unwrap());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(5 * MINUTE).await;
    world.aws.modify_as_firewall_manager(&a.staging_id).unwrap();
    world.settled().await;
    assert_clean(&world, &a);
    assert_eq!(count(&daemon, "cleaned"), 1);
    daemon.stop().await;
}

/// Of two staging distributions of the execution somebody else deploys into the second while the first is taken down.
#[tokio::test(start_paused = true)]
async fn what_another_deploys_into_is_left_whichever_of_ours_it_is() {
    let world = World::new();
    let idle = world
        .aws
        .create_idle_service("shop", &Default::default())
        .unwrap();
    let a = world.aws.start_execution(&idle);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&a, "Deploy").unwrap();
    // Its first try names a distribution and fails then.
    let mut first = world.aws.copy_staging(&world.aws.current(&a)).unwrap();
    first.policy_id = world.aws.deploy_policy(&first).unwrap();
    world.aws.deploy_attach(&first).unwrap();
    crate::stories::write(&world, &first);
    tokio::time::sleep(MINUTE).await;
    world.aws.fail(&a);
    tokio::time::sleep(MINUTE).await;
    retry_deploy(&world, &a);
    tokio::time::sleep(SECOND).await;
    let second = world.aws.run_to(&a, "Approve").unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    let (of, id) = (second.clone(), first.staging_id.clone());
    let deploys = Action::after(move |aws: &EmbeddedAws, _: &_| {
        let newer = aws.start_execution(&of);
        aws.run_to(&newer, "Deploy").unwrap();
        aws.edit_distribution(&id, "Comment", "newer").unwrap();
        aws.fail(&newer);
    });
    // The disable of the second one.
    world
        .aws
        .add_rule(Rule::on("UpdateDistribution").nth(2).then(deploys));
    world.send(&world.aws.reject(&second).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_gone(&world, &second);
    let left = world.aws.distribution(&first.staging_id).unwrap();
    assert!(left.enabled);
    assert!(world.aws.policy(&first.policy_id).is_some());
    let value = world.aws.parameter(&second.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"));
    assert_eq!((world.dead_letters(), count(&daemon, "superseded")), (0, 1));
    daemon.stop().await;
}

fn retry_deploy(world: &World, service: &Service) {
    world
        .aws
        .retry(service, "Deploy", Retry::FailedActions)
        .unwrap();
}
