//! Throttling, failures, lost replies, denied permissions, lost leases, panics.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Failure, Faults, Rule};

use stagesweep::domain::history::Kind;
use stagesweep::ledger::EmbeddedLedger;

use crate::harness::{Log, PATIENCE, World, assert_clean, assert_gone, assert_untouched};

#[tokio::test(start_paused = true)]
async fn a_storm_passes_and_everything_ends_clean() {
    for seed in 0..8 {
        let world = World::with(|settings| settings.seed = seed);
        world.aws.set_faults(Faults::storm());
        let services: Vec<_> = (0..3).map(|n| world.service(&format!("shop{n}"))).collect();
        for service in &services {
            world.reject(service);
            world.reject(service);
        }
        let daemon = world.start("ledger.db");
        tokio::time::sleep(Duration::from_secs(30 * 60)).await;
        world.aws.calm();
        world.settled().await;
        // A storm may last for more receives than the redrive policy allows: then the dead-letter
        // queue has the rejection. Nothing is lost in between.
        let dead = world.aws.messages(&world.queues.dead_letter_url);
        for service in &services {
            if !dead
                .iter()
                .any(|message| message.body.contains(&service.execution_id))
            {
                assert_gone(&world, service);
                let value = world.aws.parameter(&service.staging_parameter);
                assert_eq!(value.as_deref(), Some("deleted"), "seed {seed}");
            }
        }
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_lost_after_the_effect_of_any_call_changes_nothing() {
    // A cleanup makes six calls that change something, and a few of those twice.
    for nth in 1..=8 {
        let world = World::new();
        let service = world.service("shop");
        world
            .aws
            .add_rule(Rule::on_mutations().nth(nth).then(Action::DropAfter));
        world.reject(&service);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(
            world.changes().len(),
            5,
            "call {nth}: {:?}",
            world.changes()
        );
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn denied_is_released_with_backoff_until_someone_mends_it() {
    let world = World::new();
    let service = world.service("shop");
    let denied = world.aws.deny("UpdateDistribution");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    let metrics = daemon.telemetry.metrics();
    let released = |_: &_| metrics.count_by_reason("MessagesReleased", "access_denied") >= 2;
    world.aws.wait_until(released, PATIENCE).await.unwrap();
    // The name is withdrawn, and nothing of CloudFront is touched.
    assert_eq!(world.changes(), ["PutParameter"]);
    let value = world.aws.parameter(&service.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"));
    world.aws.remove_rule(denied);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(world.changes().len(), 5, "{:?}", world.changes());
    daemon.stop().await;
}

/// CloudFront looks at the policy that the staging distribution's configuration still names.
#[tokio::test(start_paused = true)]
async fn a_disable_that_is_refused_for_a_policy_that_does_not_exist_is_not_taken_for_done() {
    for refused in [2, u64::MAX] {
        let world = World::new();
        let service = world.service("shop");
        let failure = Failure::new(404, "NoSuchContinuousDeploymentPolicy", "No such policy.");
        let disable = Rule::on("UpdateDistribution").about(&service.staging_id);
        let refuses = disable.first(refused).then(Action::Refuse(failure));
        world.aws.add_rule(refuses);
        world.reject(&service);
        let (log, _listening) = Log::listen();
        let daemon = world.start("ledger.db");
        world.settled().await;
        let tries = world.aws.journal();
        let tries = tries.calls("UpdateDistribution", Some(&service.staging_id));
        assert_eq!(log.with("found: staging already disabled").len(), 0);
        if refused == 2 {
            assert_clean(&world, &service);
            assert_eq!(tries, 3);
        } else {
            // Five receives, four tries each; and one that was decided while the policy still showed.
            assert_eq!((world.dead_letters(), tries), (1, 21));
            let staging = world.aws.distribution(&service.staging_id).unwrap();
            assert!(staging.enabled);
            let failed = daemon.telemetry.metrics();
            assert_eq!(failed.count_by_reason("CleanupsFailed", "not_found"), 1);
        }
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_stays_broken_ends_in_the_dead_letter_queue() {
    let world = World::new();
    let service = world.service("shop");
    world.aws.deny("GetParameter");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_eq!(world.dead_letters(), 1);
    assert_untouched(&world, &service);
    assert_eq!(
        daemon
            .telemetry
            .metrics()
            .count_by_reason("CleanupsFailed", "access_denied"),
        1
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_extended_stops_the_job_before_it_ends() {
    let world = World::new();
    let service = world.service("shop");
    let throttled = world
        .aws
        .add_rule(Rule::on("ChangeMessageVisibilityBatch").then(Action::Throttle));
    world.reject(&service);
    let daemon = world.start("ledger.db");
    let metrics = daemon.telemetry.metrics();
    let stopped = |_: &_| {
        daemon.daemon.consumer().gauges().in_flight == 0 && metrics.count("CleanupsStarted") == 1
    };
    world.aws.wait_until(stopped, PATIENCE).await.unwrap();
    let visibility = Duration::from_secs(120);
    let now = world.clock.now();
    let received = world
        .aws
        .journal()
        .entries()
        .iter()
        .find(|entry| entry.call.operation == "ReceiveMessage")
        .unwrap()
        .at;
    let held = Duration::try_from(now.duration_since(received)).unwrap();
    assert!(
        held < visibility,
        "worked {held:?} on a message of {visibility:?}"
    );
    assert!(metrics.count("HeartbeatFailures") > 3);
    world.aws.remove_rule(throttled);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

/// Somebody else may be at work on it: it is not asked for again at once.
#[tokio::test(start_paused = true)]
async fn a_job_whose_grant_is_void_stops_and_comes_back_after_a_backoff() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.detached().await;
    // As if another instance had been granted the job, and had died.
    let ledger = rusqlite::Connection::open(world.ledger_path("ledger.db")).unwrap();
    let changed = ledger.execute("UPDATE jobs SET epoch = epoch + 1, holds = 0", []);
    assert_eq!(changed.unwrap(), 1);

    let metrics = daemon.telemetry.metrics();
    let lost = |_: &_| metrics.count_by_reason("MessagesReleased", "ledger_lost") == 1;
    world.aws.wait_until(lost, PATIENCE).await.unwrap();
    let released = tokio::time::Instant::now();
    let resumed = |_: &_| metrics.count("CleanupsStarted") == 2;
    world.aws.wait_until(resumed, PATIENCE).await.unwrap();
    // Half of `retry.initial_backoff` at least.
    let stayed_away = released.elapsed();
    assert!(
        stayed_away >= Duration::from_millis(2500),
        "{stayed_away:?}"
    );
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(world.changes().len(), 5, "{:?}", world.changes());
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_twelve_hour_ceiling_is_respected_and_work_goes_on_under_a_new_receive() {
    // One propagation outlasts the ceiling.
    let world = World::with(|settings| settings.propagation = Duration::from_secs(13 * 3600));
    let service = world.service("shop");
    world.reject(&service);
    let more = "[cleanup]\npoll_interval_min = \"5m\"\npoll_interval_max = \"30m\"\n\
                propagation_timeout = \"23h\"\n";
    let daemon = world.start_with("ledger.db", more, false);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(world.changes().len(), 5, "{:?}", world.changes());
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("HeartbeatFailures"), 0, "SQS had to say no");
    assert!(metrics.count_by_reason("MessagesReleased", "visibility_ceiling") >= 2);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_job_releases_its_message_and_leaves_the_others_alone() {
    let world = World::new();
    let (unlucky, lucky) = (world.service("unlucky"), world.service("lucky"));
    world.aws.add_rule(
        Rule::on("UpdateDistribution")
            .about(&unlucky.production_id)
            .nth(1)
            .then(Action::before(|_, _| panic!("a defect"))),
    );
    world.reject(&unlucky);
    world.reject(&lucky);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &unlucky);
    assert_clean(&world, &lucky);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("CleanupsFailed", "panicked"), 1);
    assert_eq!(metrics.count_by_reason("MessagesReleased", "panicked"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receive_on_a_dead_connection_does_not_hang_the_daemon() {
    let world = World::new();
    let service = world.service("shop");
    world
        .aws
        .add_rule(Rule::on("ReceiveMessage").nth(1).then(Action::Hang));
    let daemon = world.start("ledger.db");
    world.reject(&service);
    let began = tokio::time::Instant::now();
    let received =
        |aws: &embedded_aws::EmbeddedAws| aws.journal().calls("ReceiveMessage", None) > 1;
    world.aws.wait_until(received, PATIENCE).await.unwrap();
    // Its wait time and the margin, and a pause.
    assert!(
        began.elapsed() < Duration::from_secs(45),
        "{:?}",
        began.elapsed()
    );
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn receiving_that_fails_backs_off_and_recovers() {
    let world = World::new();
    let service = world.service("shop");
    let rule = world.aws.deny("ReceiveMessage");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let calls = world.aws.journal().calls("ReceiveMessage", None);
    assert!(
        (20..100).contains(&calls),
        "{calls} receives in an hour of being denied"
    );
    world.aws.remove_rule(rule);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

/// The answers of four changes are lost.
#[tokio::test(start_paused = true)]
async fn a_step_whose_answer_is_lost_is_shown_as_found_and_never_as_skipped() {
    let world = World::new();
    let service = world.service("shop");
    let (log, _listening) = Log::listen();
    for (operation, times) in [
        ("UpdateDistribution", 2),
        ("DeleteContinuousDeploymentPolicy", 1),
        ("DeleteDistribution", 1),
    ] {
        for nth in 1..=times {
            let lost = Rule::on(operation).then(Action::DropAfter).nth(nth);
            world.aws.add_rule(lost);
        }
    }
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
    let records = EmbeddedLedger::history(&world.ledger_path("ledger.db"), &world.clock).unwrap();
    assert_eq!(records[0].state.code(), "cleaned");
    let entries = records[0].trail.entries.iter();
    let steps = entries.filter(|it| matches!(it.kind, Kind::Applied | Kind::Found));
    let steps: Vec<_> = steps.map(|it| it.name.as_str()).collect();
    let in_order = [
        "record_deleted",
        "detach_policy",
        "delete_policy",
        "disable_staging",
        "delete_staging",
    ];
    assert_eq!(steps, in_order);
    let found = log.with("found: policy already detached");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["step"], "detach_policy");
}

/// One wrong answer: the policy is there, and keeps the staging distribution from being disabled.
#[tokio::test(start_paused = true)]
async fn a_policy_that_is_said_not_to_exist_and_does_is_deleted_all_the_same() {
    let world = World::new();
    let service = world.service("shop");
    let gone = Failure::new(
        404,
        "NoSuchContinuousDeploymentPolicy",
        "It does not exist.",
    );
    let wrong = Rule::on("DeleteContinuousDeploymentPolicy").first(1);
    world.aws.add_rule(wrong.then(Action::Refuse(gone)));
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    let is_gone = |aws: &EmbeddedAws| aws.distribution(&service.staging_id).is_none();
    let patience = Duration::from_secs(20 * 60);
    world.aws.wait_until(is_gone, patience).await.unwrap();
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}
