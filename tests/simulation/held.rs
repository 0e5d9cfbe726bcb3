//! Waiting for somebody who is rightly at work: what that costs, and what becomes of it.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Failure, Rule, Service};
use stagesweep::domain::decision::Outcome;
use stagesweep::domain::history::State;
use stagesweep::ledger::EmbeddedLedger;

use crate::harness::{Log, PATIENCE, World, assert_clean, assert_untouched};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A newer execution of the service's pipeline deploys until it is told to end.
async fn deploying(world: &World, service: &Service) -> Service {
    let newer = world.aws.start_execution(service);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&newer, "Deploy").unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_waits_uses_one_receive_in_twelve_hours_and_asks_once_a_minute() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let newer = deploying(&world, &service).await;
    let daemon = world.start("ledger.db");
    tokio::time::sleep(HOUR).await;
    let asked = |world: &World| world.aws.journal().calls("GetPipelineState", None);
    let before = asked(&world);
    tokio::time::sleep(2 * HOUR).await;
    let asked = asked(&world) - before;
    assert!((115..=120).contains(&asked), "{asked}");
    tokio::time::sleep(23 * HOUR).await;
    assert_eq!(world.changes(), Vec::<String>::new());
    let messages = world.aws.messages(&world.queues.url);
    let receives: Vec<_> = messages.iter().map(|it| it.receives).collect();
    assert_eq!(receives, [3]);
    // It ends without having deployed anything.
    world.aws.fail(&newer);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_at_once_and_a_restart_waits_on() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let newer = deploying(&world, &service).await;
    for round in 1..=3 {
        let daemon = world.start("ledger.db");
        tokio::time::sleep(20 * MINUTE).await;
        let began = tokio::time::Instant::now();
        daemon.stop().await;
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        let depth = world.aws.depth(&world.queues.url).unwrap();
        assert_eq!((depth.visible, depth.in_flight), (1, 0));
        let receives = world.aws.messages(&world.queues.url)[0].receives;
        assert_eq!(receives, round, "one at a restart");
    }
    assert_eq!(world.changes(), Vec::<String>::new());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(MINUTE).await;
    world.aws.fail(&newer);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_keeps_no_other_service_from_its_cleanup() {
    let world = World::new();
    let [shop, blog] = ["shop", "blog"].map(|name| world.service(name));
    world.reject(&shop);
    let newer = deploying(&world, &shop).await;
    let daemon = world.start("ledger.db");
    tokio::time::sleep(10 * MINUTE).await;
    world.reject(&blog);
    let began = tokio::time::Instant::now();
    let gone = |aws: &EmbeddedAws| aws.distribution(&blog.staging_id).is_none();
    world.aws.wait_until(gone, PATIENCE).await.unwrap();
    assert!(began.elapsed() < 10 * MINUTE, "{:?}", began.elapsed());
    assert_untouched(&world, &shop);
    world.aws.fail(&newer);
    world.settled().await;
    assert_clean(&world, &shop);
    daemon.stop().await;
}

/// The answer to the record is lost, and so is the process.
#[tokio::test(start_paused = true)]
async fn what_was_withdrawn_before_a_crash_is_named_again_if_the_rejection_was_taken_back() {
    let world = World::new();
    let service = world.service("shop");
    let hung = Rule::on("PutParameter").nth(1).then(Action::HangAfter);
    world.aws.add_rule(hung);
    world.reject(&service);
    let daemon = world.start("ledger.db");
    let recorded = |aws: &EmbeddedAws| {
        let value = aws.parameter(&service.staging_parameter);
        value.as_deref() == Some("deleted")
    };
    world.aws.wait_until(recorded, PATIENCE).await.unwrap();
    tokio::time::sleep(SECOND).await;
    daemon.crash().await;
    world.aws.retry_approval(&service, 2);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_untouched(&world, &service);
    assert_eq!(world.changes(), ["PutParameter", "PutParameter"]);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
    let records = EmbeddedLedger::history(&world.ledger_path("ledger.db"), &world.clock).unwrap();
    assert_eq!(records[0].state, State::Done(Outcome::Retracted));
    let left = records[0].evidence.left.as_deref().unwrap();
    assert!(left.contains("names the distribution again"), "{left}");
    assert!(left.contains(&service.staging_id), "{left}");
}

/// Two targets, of which that of `blog` has parameters of these names.
fn targets(pipelines: [&str; 2], parameters: [&str; 2]) -> String {
    let target = |pipeline: &str, parameters: &str| {
        format!(
            r#"
[[targets]]
pipeline = "{pipeline}"
stage = "Approve"
action = "Approve"
production_parameter = "/{parameters}/cloudfront/cfcd-production"
staging_parameter = "/{parameters}/cloudfront/cfcd-staging"
"#
        )
    };
    let all = pipelines.into_iter().zip(parameters);
    all.filter(|(pipeline, _)| !pipeline.is_empty())
        .map(|(pipeline, parameters)| target(pipeline, parameters))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn other_pipelines_that_lead_to_the_same_production_distribution_are_waited_for() {
    let by_pattern = targets(["{service}-frontend-pipeline", ""], ["shop", ""]);
    let pipelines = ["shop-frontend-pipeline", "blog-frontend-pipeline"];
    let by_value = targets(pipelines, ["shop", "blog"]);
    for (file, listed) in [(by_pattern, true), (by_value, false)] {
        let world = World::new();
        let service = world.service("shop");
        let blog = world.service("blog");
        let name = "/blog/cloudfront/cfcd-production";
        world.aws.put_parameter(name, &service.production_id);
        world.send(&world.aws.reject(&service).unwrap());
        let newer = deploying(&world, &blog).await;
        let daemon = world.start_file(&file);
        tokio::time::sleep(HOUR).await;
        assert_eq!(world.changes(), Vec::<String>::new(), "{file}");
        // Asked once in five minutes, however often it is looked at who is at work.
        let asked = world.aws.journal().calls("ListPipelines", None);
        let expected = if listed { 10..=14 } else { 0..=0 };
        assert!(expected.contains(&asked), "{asked}: {file}");
        world.aws.fail(&newer);
        world.settled().await;
        assert_clean(&world, &service);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn pipelines_that_may_not_be_listed_fail_the_job_for_now_where_they_may_share_the_slot() {
    let world = World::new();
    let service = world.service("shop");
    world.send(&world.aws.reject(&service).unwrap());
    let denied = Failure::new(400, "AccessDeniedException", "You may not.");
    let denied = Action::Refuse(denied);
    let rule = world.aws.add_rule(Rule::on("ListPipelines").then(denied));
    let file = targets(["{service}-frontend-pipeline", ""], ["shop", ""]);
    let (log, _listening) = Log::listen();
    let daemon = world.start_file(&file);
    tokio::time::sleep(MINUTE / 3).await;
    assert_eq!(world.changes(), Vec::<String>::new());
    assert!(!log.with("ListPipelines").is_empty());
    world.aws.remove_rule(rule);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}
