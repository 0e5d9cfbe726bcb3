//! What happens around a real pipeline: each is a story in which an older stagesweep did harm.

use std::time::Duration;

use embedded_aws::{
    Action, ActionDefinition, Decision, Definition, EmbeddedAws, Failure, Mode, Pattern, Retry,
    Rule, Service, StageDefinition, Work,
};

use crate::harness::{
    Instance, Log, PATIENCE, PROPAGATION, World, assert_clean, assert_gone, assert_untouched,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A world whose executions run one after the other, each waiting for its turn in front of a stage.
fn queued() -> (World, Service) {
    let world = World::new();
    let first = world.service("shop");
    let queued = Definition::default().in_mode(Mode::Queued);
    world.aws.define_pipeline(&first.pipeline, queued);
    (world, first)
}

/// Another execution, which deploys and goes as far as it may.
async fn deployed(world: &World, of: &Service) -> Service {
    tokio::time::sleep(MINUTE).await;
    let execution = world.aws.start_execution(of);
    tokio::time::sleep(5 * SECOND).await;
    let execution = world.aws.run_to(&execution, "Approve").unwrap();
    tokio::time::sleep(MINUTE).await;
    execution
}

/// The build of an execution's deployment names its staging distribution.
pub(crate) fn write(world: &World, of: &Service) {
    let execution = world.aws.execution(of).unwrap();
    let build = execution.latest("Deploy").unwrap().build.clone().unwrap();
    let arn = format!(
        "arn:aws:sts::{}:assumed-role/shop-codebuild/AWSCodeBuild-{build}",
        of.account
    );
    world
        .aws
        .put_parameter_as(&of.staging_parameter, &of.staging_id, &arn);
}

/// The deployment of an execution up to the parameter; its action goes on.
fn half_deployed(world: &World, of: &Service) -> Service {
    let mut half = world.aws.copy_staging(&world.aws.current(of)).unwrap();
    half.policy_id = world.aws.deploy_policy(&half).unwrap();
    world.aws.deploy_attach(&half).unwrap();
    write(world, &half);
    half
}

/// Production serves viewers.
fn assert_serves(world: &World, service: &Service) {
    let production = world.aws.distribution(&service.production_id).unwrap();
    assert!(production.enabled, "production was switched off");
}

fn count(daemon: &Instance, reason: &str) -> u64 {
    let metrics = daemon.telemetry.metrics();
    metrics.count_by_reason("MessagesDeleted", reason)
}

/// Waits until the rejections that are in the queue have become dead letters.
async fn dead(world: &World, count: usize) {
    let dead_letters = world.queues.dead_letter_url.clone();
    let arrived = move |aws: &EmbeddedAws| aws.messages(&dead_letters).len() == count;
    world.aws.wait_until(arrived, PATIENCE).await.unwrap();
}

// ---- it took what was not the execution's own ----

#[tokio::test(start_paused = true)]
async fn an_execution_that_waited_before_its_approval_is_not_taken_for_the_one_that_deployed_since()
{
    for reject_first in [true, false] {
        let (world, first) = queued();
        let a = deployed(&world, &first).await;
        let b = deployed(&world, &first).await;
        // The first one is decided, A's approval opens, and A is rejected: the parameter names B's.
        if reject_first {
            world.aws.reject(&first).unwrap();
        } else {
            world.aws.approve(&first).unwrap();
            tokio::time::sleep(30 * MINUTE).await;
        }
        tokio::time::sleep(10 * MINUTE).await;
        let body = world.aws.reject(&a).unwrap();
        world.send(&body);
        let daemon = world.start("ledger.db");
        world.settled().await;
        let gone = world.aws.distribution(&a.staging_id);
        assert!(gone.is_none(), "A's own stays: {reject_first}");
        assert_untouched(&world, &b);
        assert_serves(&world, &b);
        assert_eq!((world.dead_letters(), count(&daemon, "superseded")), (0, 1));
        daemon.stop().await;
    }
}

/// A pipeline that leads to the same parameters as the service's own.
const HOTFIX: &str = r#"
[[targets]]
pipeline = "{service}-hotfix-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"#;

#[tokio::test(start_paused = true)]
async fn what_was_deployed_between_a_deployment_and_its_approval_is_not_taken_for_the_rejected() {
    // What keeps A from its approval: a test, an approval before it, or its own build.
    for story in ["test", "approval", "pipeline"] {
        let mut world = World::new();
        world.target = HOTFIX.to_owned();
        let first = world.service("shop");
        let waits_for = match story {
            "test" => ActionDefinition::build("Test", Work::Nothing),
            _ => ActionDefinition::approval("Test"),
        };
        let before = StageDefinition::new("Test", [waits_for]);
        let definition = Definition::default().with_stage_before("Approve", before);
        if story != "pipeline" {
            world.aws.define_pipeline(&first.pipeline, definition);
        }
        world.aws.approve(&first).unwrap();
        let started = async |of: &Service| {
            tokio::time::sleep(30 * MINUTE).await;
            let execution = world.aws.start_execution(of);
            tokio::time::sleep(5 * SECOND).await;
            execution
        };
        let a = started(&first).await;
        let (a, b) = if story == "pipeline" {
            world.aws.run_to(&a, "Deploy").unwrap();
            let a = half_deployed(&world, &a);
            let mut other = first.clone();
            other.pipeline = "shop-hotfix-pipeline".to_owned();
            let usual = Definition::default();
            world.aws.define_pipeline(&other.pipeline, usual);
            let b = deployed(&world, &other).await;
            (a, b)
        } else {
            let a = world.aws.run_to(&a, "Test").unwrap();
            let b = started(&first).await;
            let b = world.aws.run_to(&b, "Test").unwrap();
            (a, b)
        };
        tokio::time::sleep(10 * MINUTE).await;
        match story {
            "approval" => drop(world.aws.approve(&a).unwrap()),
            _ => world.aws.finish(&a),
        }
        tokio::time::sleep(10 * MINUTE).await;
        world.send(&world.aws.reject(&a).unwrap());
        let daemon = world.start("ledger.db");
        world.settled().await;
        let gone = world.aws.distribution(&a.staging_id);
        assert!(gone.is_none(), "{story}: A's own stays");
        assert_untouched(&world, &b);
        assert_serves(&world, &b);
        let ended = (world.dead_letters(), count(&daemon, "superseded"));
        assert_eq!(ended, (0, 1), "{story}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_a_retried_approval_is_about_what_its_execution_deployed() {
    let world = World::new();
    let a = world.service("shop");
    let first = world.aws.reject(&a).unwrap();
    tokio::time::sleep(MINUTE).await;
    // B deploys, and has not come to its approval when somebody retries A's.
    let b = world.aws.start_execution(&a);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&b, "Deploy").unwrap();
    let b = half_deployed(&world, &b);
    tokio::time::sleep(MINUTE).await;
    world
        .aws
        .retry(&a, "Approve", Retry::FailedActions)
        .unwrap();
    tokio::time::sleep(MINUTE).await;
    let second = world.aws.reject(&a).unwrap();
    world.send(&first);
    world.send(&second);
    let daemon = world.start("ledger.db");
    // What is A's alone goes while B deploys: the parameter does not name it, and nobody promotes.
    world.settled().await;
    world.aws.finish(&b);
    let gone = world.aws.distribution(&a.staging_id);
    assert!(gone.is_none());
    assert_untouched(&world, &b);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_execution_deployed_into_since_is_left_to_it() {
    for pattern in [Pattern::ReuseRecordedOnce, Pattern::ReuseRecordedAlways] {
        let world = World::new();
        let first = world.service("shop");
        // The very first one has made it; from now on every deployment goes into it.
        world.aws.approve(&first).unwrap();
        tokio::time::sleep(60 * MINUTE).await;
        let deploy = async |of: &Service| {
            let execution = world.aws.start_execution(of);
            tokio::time::sleep(SECOND).await;
            world.aws.run_to(&execution, "Deploy").unwrap();
            tokio::time::sleep(SECOND).await;
            let deployed = world.aws.deploy(&execution, pattern).unwrap();
            tokio::time::sleep(10 * MINUTE).await;
            deployed
        };
        let a = deploy(&first).await;
        let late = world.aws.reject(&a).unwrap();
        let b = deploy(&first).await;
        assert_eq!(a.staging_id, b.staging_id);
        world.send(&late);
        let daemon = world.start("ledger.db");
        world
            .aws
            .wait_until(
                |aws| aws.depth(&world.queues.url).unwrap().in_flight == 0,
                PATIENCE,
            )
            .await
            .unwrap();
        assert_eq!(world.changes(), Vec::<String>::new(), "{pattern:?}");
        let shared = world.aws.distribution(&b.staging_id).unwrap();
        assert!(shared.enabled, "{pattern:?}: destroyed under the reviewer");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_deployment_goes_into_one_distribution_and_the_rejected_one_was_the_last() {
    let world = World::new();
    let first = world.service("shop");
    world.aws.approve(&first).unwrap();
    tokio::time::sleep(60 * MINUTE).await;
    let a = world.aws.start_execution(&first);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&a, "Deploy").unwrap();
    tokio::time::sleep(SECOND).await;
    let a = world.aws.deploy(&a, Pattern::ReuseRecordedOnce).unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    world.send(&world.aws.reject(&a).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &a);
    assert_eq!(count(&daemon, "cleaned"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_an_event_only_the_ids_count() {
    // Real ids, with a start at which the slot was empty, and with one at which somebody else had it.
    for start in ["2020-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z"] {
        let world = World::new();
        let service = world.service("shop");
        let body = world.aws.reject(&service).unwrap();
        let mut event: serde_json::Value = serde_json::from_str(&body).unwrap();
        event["detail"]["start-time"] = start.into();
        world.send(&event.to_string());
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(count(&daemon, "cleaned"), 1, "{start}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_codepipeline_contradicts_is_refused_and_nothing_is_touched() {
    // The approval still waits; and an id that CodePipeline does not know.
    for forged in [false, true] {
        let world = World::new();
        let service = world.service("shop");
        let mut event: serde_json::Value = {
            let other = world.service("other");
            let body = world.aws.reject(&other).unwrap();
            serde_json::from_str(&body.replace("other-frontend", "shop-frontend")).unwrap()
        };
        if !forged {
            event["detail"]["execution-id"] = service.execution_id.as_str().into();
            event["detail"]["action-execution-id"] = service.action_execution_id(1).into();
        }
        world.send(&event.to_string());
        let daemon = world.start("ledger.db");
        dead(&world, 1).await;
        assert_untouched(&world, &service);
        assert_eq!(world.changes(), Vec::<String>::new());
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_fails_by_itself_is_no_rejection() {
    let world = World::new();
    let service = world.service("shop");
    let body = world
        .aws
        .decide(&service, &Decision::Misconfigured)
        .unwrap();
    world.send(&body);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_untouched(&world, &service);
    assert_eq!((world.dead_letters(), count(&daemon, "undecided")), (0, 1));
    daemon.stop().await;
}

// ---- it endangered production ----

/// C's promotion has read A's staging distribution, and waits until it is deployed.
async fn promotion_of_another(world: &World) -> (Service, Service) {
    let c = world.service("shop");
    let a = world.aws.start_execution(&c);
    tokio::time::sleep(SECOND).await;
    // A deploys while C is under review: the parameter names A's.
    let a = world.aws.run_to(&a, "Approve").unwrap();
    tokio::time::sleep(5 * MINUTE).await;
    // Something on production propagates, so that the promotion has to wait.
    world
        .aws
        .edit_distribution(&c.production_id, "Comment", "edited")
        .unwrap();
    world.aws.approve(&c).unwrap();
    tokio::time::sleep(20 * SECOND).await;
    (c, a)
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_read_our_id_is_waited_for_and_production_is_never_switched_off() {
    let world = World::new();
    let (c, a) = promotion_of_another(&world).await;
    world.send(&world.aws.reject(&a).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    tokio::time::sleep(60 * MINUTE).await;
    assert_serves(&world, &c);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_is_approved_after_the_record_is_left_with_its_name_again() {
    let world = World::new();
    let service = world.service("shop");
    let deciding = service.clone();
    // Before the second question, that of the detach.
    let hook = Action::after(move |aws, _| {
        aws.retry(&deciding, "Approve", Retry::FailedActions)
            .unwrap();
    });
    world
        .aws
        .add_rule(Rule::on("PutParameter").nth(1).then(hook));
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    // Our write, and the value put back: nothing else.
    assert_eq!(world.changes(), ["PutParameter", "PutParameter"]);
    assert_untouched(&world, &service);
    assert_eq!((world.dead_letters(), count(&daemon, "retracted")), (0, 1));
    world.aws.approve(&service).unwrap();
    tokio::time::sleep(60 * MINUTE).await;
    assert_serves(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_starts_after_the_record_reads_deleted_and_harms_nobody() {
    for after in ["UpdateDistribution", "DeleteContinuousDeploymentPolicy"] {
        let world = World::new();
        let service = world.service("shop");
        let deciding = service.clone();
        let hook = Action::after(move |aws, _| {
            aws.retry(&deciding, "Approve", Retry::FailedActions)
                .unwrap();
            aws.approve(&deciding).unwrap();
        });
        world.aws.add_rule(Rule::on(after).nth(1).then(hook));
        world.send(&world.aws.reject(&service).unwrap());
        let daemon = world.start("ledger.db");
        world.settled().await;
        tokio::time::sleep(120 * MINUTE).await;
        assert_serves(&world, &service);
        let staging = world.aws.distribution(&service.staging_id).unwrap();
        assert!(staging.enabled, "{after}: disabled after the approval");
        assert_eq!(count(&daemon, "retracted"), 1, "{after}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_verified_is_verified_again_where_the_turn_came_late() {
    let world = World::new();
    let service = world.service("shop");
    // The change waits 20 s for its turn; somebody approves meanwhile.
    let deciding = service.clone();
    let throttled = Rule::on("UpdateDistribution")
        .first(3)
        .then(Action::Throttle);
    world.aws.add_rule(throttled);
    let approve = Action::before(move |aws, _| {
        let _ = aws.retry(&deciding, "Approve", Retry::FailedActions);
        let _ = aws.approve(&deciding);
    });
    world
        .aws
        .add_rule(Rule::on("UpdateDistribution").nth(2).then(approve));
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    let staging = world.aws.distribution(&service.staging_id).unwrap();
    assert!(staging.enabled);
    let production = world.aws.distribution(&service.production_id).unwrap();
    assert_eq!(
        production.policy_id, service.policy_id,
        "detached after the approval"
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn production_that_is_switched_off_during_a_job_stops_it() {
    let world = World::new();
    let service = world.service("shop");
    let id = service.production_id.clone();
    let hook = Action::before(move |aws, _| {
        aws.edit_distribution(&id, "Enabled", "false").unwrap();
    });
    let deleting = Rule::on("DeleteContinuousDeploymentPolicy").nth(1);
    world.aws.add_rule(deleting.then(hook));
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    dead(&world, 1).await;
    let staging = world.aws.distribution(&service.staging_id).unwrap();
    assert!(staging.enabled, "a further step was taken");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn production_that_is_switched_off_in_a_wait_is_reported_at_once() {
    // Of the detach, whose every look is at production; and of the disable, by the look before the deletion.
    for (accepted, within) in [(1, 20 * SECOND), (2, PROPAGATION + 20 * SECOND)] {
        let world = World::new();
        let service = world.service("shop");
        world.send(&world.aws.reject(&service).unwrap());
        let (log, _listening) = Log::listen();
        let daemon = world.start("ledger.db");
        let updated =
            |aws: &EmbeddedAws| aws.journal().calls("UpdateDistribution", None) == accepted;
        world.aws.wait_until(updated, PATIENCE).await.unwrap();
        tokio::time::sleep(SECOND).await;
        let id = &service.production_id;
        world.aws.edit_distribution(id, "Enabled", "false").unwrap();
        tokio::time::sleep(within).await;
        let said = log.with("production was switched off while this job ran");
        assert_eq!(said.first().unwrap()["level"], "ERROR", "{accepted}");
        let changes = world.changes();
        dead(&world, 1).await;
        assert_eq!(world.changes(), changes, "a further step was taken");
        assert!(world.aws.distribution(&service.staging_id).is_some());
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn production_that_is_switched_off_before_the_last_change_is_no_success() {
    // After the last look that ends the wait for the disable; after the deletion itself.
    for operation in ["GetDistribution", "DeleteDistribution"] {
        let world = World::new();
        let service = world.service("shop");
        let (staging_id, id) = (service.staging_id.clone(), service.production_id.clone());
        let switch_off = Action::after(move |aws, _| {
            let staging = aws.distribution(&staging_id);
            let serves = aws.distribution(&id).is_some_and(|it| it.enabled);
            if serves && staging.is_none_or(|it| !it.enabled && it.deployed) {
                aws.edit_distribution(&id, "Enabled", "false").unwrap();
            }
        });
        let rule = Rule::on(operation).about(&service.staging_id);
        world.aws.add_rule(rule.then(switch_off));
        world.send(&world.aws.reject(&service).unwrap());
        let daemon = world.start("ledger.db");
        dead(&world, 1).await;
        let staging = world.aws.distribution(&service.staging_id);
        assert_eq!(staging.is_some(), operation == "GetDistribution");
        assert_eq!(count(&daemon, "cleaned"), 0, "{operation}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_stage_in_which_the_execution_ran_nothing_is_refused_by_its_name() {
    for stage in ["Nope", "Promote"] {
        let mut world = World::new();
        world.target = format!("deploy_stage = \"{stage}\"");
        let service = world.service("shop");
        world.send(&world.aws.reject(&service).unwrap());
        let (log, _listening) = Log::listen();
        let daemon = world.start("ledger.db");
        dead(&world, 1).await;
        assert_untouched(&world, &service);
        let said = log.with("staging_not_written_by_execution");
        let detail = said[0]["detail"].as_str().unwrap();
        let words = format!("ran nothing in the stage \"{stage}\" before its approval, but Build/");
        assert!(detail.contains(&words), "{detail}");
        daemon.stop().await;
    }
}

// ---- it believed what it should not ----

#[tokio::test(start_paused = true)]
async fn one_false_answer_that_it_does_not_exist_is_not_believed() {
    for nth in 1..=3 {
        let world = World::new();
        let service = world.service("shop");
        let missing = Failure::new(
            404,
            "NoSuchDistribution",
            "The distribution does not exist.",
        );
        world.aws.add_rule(
            Rule::on("GetDistribution")
                .about(&service.staging_id)
                .nth(nth)
                .then(Action::Refuse(missing)),
        );
        world.send(&world.aws.reject(&service).unwrap());
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(count(&daemon, "cleaned"), 1, "{nth}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_contradict_each_other_for_ever_are_no_success() {
    let world = World::new();
    let service = world.service("shop");
    let missing = Failure::new(
        404,
        "NoSuchDistribution",
        "The distribution does not exist.",
    );
    let lying = world.aws.add_rule(
        Rule::on("GetDistribution")
            .about(&service.staging_id)
            .then(Action::Refuse(missing)),
    );
    world.send(&world.aws.reject(&service).unwrap());
    let (log, _listening) = Log::listen();
    let daemon = world.start("ledger.db");
    tokio::time::sleep(MINUTE).await;
    let lasts =
        "CloudFront's answers contradict each other: by one there is no such staging distribution";
    let said = log.with(lasts);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["level"], "WARN");
    assert_eq!(said[0]["staging.id"], service.staging_id.as_str());
    let found = "a listing of the account's distributions shows it";
    assert_eq!(said[0]["found"], found);
    tokio::time::sleep(5 * MINUTE).await;
    let said = log.with(lasts);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1]["took_ms"].as_u64().unwrap() >= 300_000, "{said:?}");
    tokio::time::sleep(9 * MINUTE).await;
    assert_eq!(world.changes(), Vec::<String>::new());
    let failed = log.with("contradictory_evidence");
    let detail = failed[0]["detail"].as_str().unwrap();
    assert!(detail.contains(found), "{detail}");
    assert!(log.with("agree with each other again").is_empty());
    world.aws.remove_rule(lying);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_that_ends_is_said_to_have_and_a_mere_lag_is_not_said_at_all() {
    for (minutes, times) in [(0, 0), (2, 1)] {
        let world = World::new();
        let service = world.service("shop");
        let missing = Failure::new(
            404,
            "NoSuchDistribution",
            "The distribution does not exist.",
        );
        let rule = Rule::on("GetDistribution").about(&service.staging_id);
        let rule = rule.then(Action::Refuse(missing));
        let lying = world.aws.add_rule(rule);
        world.send(&world.aws.reject(&service).unwrap());
        let (log, _listening) = Log::listen();
        let daemon = world.start("ledger.db");
        tokio::time::sleep(5 * SECOND + minutes * MINUTE).await;
        world.aws.remove_rule(lying);
        world.settled().await;
        assert_clean(&world, &service);
        let lines = log.with("CloudFront's answers");
        assert_eq!(lines.len(), 2 * times, "{lines:?}");
        let ended = log.with("agree with each other again");
        assert_eq!(ended.len(), times, "{lines:?}");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_ran_twice_leaves_nothing_of_either() {
    let world = World::new();
    let service = world
        .aws
        .create_idle_service("shop", &Default::default())
        .unwrap();
    let a = world.aws.start_execution(&service);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&a, "Deploy").unwrap();
    // Its first try names a distribution and fails then.
    let first = half_deployed(&world, &a);
    tokio::time::sleep(MINUTE).await;
    world.aws.fail(&a);
    tokio::time::sleep(MINUTE).await;
    world.aws.retry(&a, "Deploy", Retry::FailedActions).unwrap();
    tokio::time::sleep(SECOND).await;
    let second = world.aws.run_to(&a, "Approve").unwrap();
    assert_ne!(first.staging_id, second.staging_id);
    tokio::time::sleep(10 * MINUTE).await;
    world.send(&world.aws.reject(&second).unwrap());
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &second);
    assert_gone(&world, &first);
    assert_eq!(count(&daemon, "cleaned"), 1);
    daemon.stop().await;
}

// ---- it lost a healthy rejection, or waited for nothing ----

#[tokio::test(start_paused = true)]
async fn a_newer_deployment_that_never_attaches_is_not_waited_for() {
    let world = World::new();
    let a = world.service("shop");
    let body = world.aws.reject(&a).unwrap();
    let b = world.aws.start_execution(&a);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&b, "Deploy").unwrap();
    let b = world.aws.copy_staging(&world.aws.current(&b)).unwrap();
    write(&world, &b);
    tokio::time::sleep(SECOND).await;
    // It fails there, and is rejected by nobody.
    world.aws.fail(&b);
    world.send(&body);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_gone(&world, &a);
    assert!(world.aws.distribution(&b.staging_id).is_some());
    assert_eq!((world.dead_letters(), count(&daemon, "superseded")), (0, 1));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_holds_no_id_is_refused_by_its_name_and_value() {
    let (log, _listening) = Log::listen();
    let world = World::new();
    let service = world.service("shop");
    world.send(&world.aws.reject(&service).unwrap());
    world.aws.put_parameter(&service.staging_parameter, "none");
    let daemon = world.start("ledger.db");
    let began = tokio::time::Instant::now();
    dead(&world, 1).await;
    assert!(
        began.elapsed() < 5 * MINUTE,
        "it only waits for its next receive"
    );
    assert_eq!(world.changes(), Vec::<String>::new());
    let refused = log.with("staging_parameter_invalid");
    let text = refused[0].to_string();
    let says = [service.staging_parameter.as_str(), "none"];
    assert!(says.iter().all(|it| text.contains(it)), "{text}");
    daemon.stop().await;
}

/// Two services; the parameter of one has come to name the other's production distribution.
#[tokio::test(start_paused = true)]
async fn a_production_parameter_that_was_moved_is_refused_by_its_name_and_blocks_nobody() {
    let (log, _listening) = Log::listen();
    let world = World::new();
    let [service, other] = ["shop", "blog"].map(|name| world.service(name));
    let moved = &service.production_parameter;
    world.aws.put_parameter(moved, &other.production_id);
    tokio::time::sleep(MINUTE).await;
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(MINUTE).await;
    // The other one's own rejection waits for that turn, and is cleaned.
    world.send(&world.aws.reject(&other).unwrap());
    let cleaned = tokio::time::Instant::now();
    let gone = |aws: &EmbeddedAws| aws.distribution(&other.staging_id).is_none();
    world.aws.wait_until(gone, PATIENCE).await.unwrap();
    assert!(cleaned.elapsed() < 30 * MINUTE, "{:?}", cleaned.elapsed());
    let began = tokio::time::Instant::now();
    dead(&world, 1).await;
    assert!(began.elapsed() < 90 * MINUTE, "{:?}", began.elapsed());
    // Its name is withdrawn; nothing of CloudFront's is touched.
    let production = world.aws.distribution(&service.production_id).unwrap();
    assert_eq!(production.policy_id, service.policy_id);
    assert!(world.aws.distribution(&service.staging_id).unwrap().enabled);
    assert_gone(&world, &other);
    // It is said when it begins, long before the refusal, and again while it lasts.
    let waits = log.with("the policy is in use, and production does not name it");
    let of_one_run = waits.iter().map(|line| line["took_ms"].is_null());
    let of_one_run: Vec<_> = of_one_run.take(2).collect();
    assert_eq!(of_one_run, [true, false], "{waits:?}");
    assert_eq!(waits[0]["policy.id"], service.policy_id.as_str());
    assert_eq!(waits[0]["level"], "WARN");
    let refused = log.with("policy_attached_elsewhere");
    let text = refused[0].to_string();
    let left = format!("Left: {} and the policy", service.staging_id);
    let withdrawn = format!("; {} holds `deleted`", service.staging_parameter);
    for said in [moved, &other.production_id, &left, &withdrawn] {
        assert!(text.contains(said.as_str()), "{text}");
    }
    // A person detaches it, and the ledger finishes the job.
    let id = &service.production_id;
    let detached = world
        .aws
        .edit_distribution(id, "ContinuousDeploymentPolicyId", "");
    detached.unwrap();
    let id = service.staging_id.clone();
    let gone = move |aws: &EmbeddedAws| aws.distribution(&id).is_none();
    world.aws.wait_until(gone, 60 * MINUTE).await.unwrap();
    assert_gone(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_changed_something_is_finished_by_the_ledger_when_its_message_is_gone() {
    let world = World::new();
    let service = world.service("shop");
    let url = world.queues.url.clone();
    world.send(&world.aws.reject(&service).unwrap());
    let daemon = world.start("ledger.db");
    world.detached().await;
    daemon.crash().await;
    // Purged: nobody will ever receive it again.
    world.aws.purge(&url).unwrap();
    let daemon = world.start("ledger.db");
    let id = service.staging_id.clone();
    let gone = move |aws: &EmbeddedAws| aws.distribution(&id).is_none();
    world.aws.wait_until(gone, 30 * MINUTE).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cloudfront_refuses_although_it_is_fresh_fails_in_cloudfronts_own_words() {
    for status in [412, 400] {
        let world = World::new();
        let service = world.service("shop");
        let words = "The distribution belongs to a pricing plan.";
        let code = if status == 412 {
            "PreconditionFailed"
        } else {
            "InvalidArgument"
        };
        let refusing = world.aws.add_rule(
            Rule::on("DeleteDistribution").then(Action::Refuse(Failure::new(status, code, words))),
        );
        world.send(&world.aws.reject(&service).unwrap());
        let daemon = world.start("ledger.db");
        dead(&world, 1).await;
        let tries = world.aws.journal().calls("DeleteDistribution", None);
        // Four at each of five receives, and of the ledger's own every fifteen minutes.
        assert!((20..60).contains(&tries), "{status}: {tries}");
        world.aws.remove_rule(refusing);
        let id = service.staging_id.clone();
        let gone = move |aws: &EmbeddedAws| aws.distribution(&id).is_none();
        world.aws.wait_until(gone, 30 * MINUTE).await.unwrap();
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_executions_own_other_actions_beside_the_approval_are_waited_for() {
    let world = World::new();
    let first = world
        .aws
        .create_idle_service("shop", &Default::default())
        .unwrap();
    let beside = ActionDefinition::build("Probe", Work::Nothing);
    let definition = Definition::default().with_action("Approve", beside);
    world.aws.define_pipeline(&first.pipeline, definition);
    let a = deployed(&world, &first).await;
    world.send(&world.aws.reject(&a).unwrap());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(3 * 60 * MINUTE).await;
    assert_eq!(world.changes(), Vec::<String>::new());
    let receives: u32 = world
        .aws
        .messages(&world.queues.url)
        .iter()
        .map(|it| it.receives)
        .sum();
    assert_eq!(receives, 1, "a wait is no failure");
    world.aws.finish(&a);
    world.settled().await;
    assert_clean(&world, &a);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn executions_in_parallel_are_told_apart_and_waited_for() {
    let world = World::new();
    let first = world.service("shop");
    let parallel = Definition::default().in_mode(Mode::Parallel);
    world.aws.define_pipeline(&first.pipeline, parallel);
    world.aws.approve(&first).unwrap();
    tokio::time::sleep(60 * MINUTE).await;
    let a = deployed(&world, &first).await;
    let b = deployed(&world, &first).await;
    // A third one builds.
    let c = world.aws.start_execution(&first);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&c, "Build").unwrap();
    world.send(&world.aws.reject(&b).unwrap());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(
        world.changes(),
        Vec::<String>::new(),
        "the third one is at work"
    );
    world.aws.fail(&c);
    world.settled().await;
    assert_gone(&world, &b);
    assert!(world.aws.distribution(&a.staging_id).is_some());
    // And the older one: nobody names it any more.
    world.send(&world.aws.reject(&a).unwrap());
    world.settled().await;
    assert_gone(&world, &a);
    assert_serves(&world, &a);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_deployment_is_at_work_for_an_hour() {
    let world = World::new();
    let a = world.service("shop");
    let body = world.aws.reject(&a).unwrap();
    let b = world.aws.start_execution(&a);
    tokio::time::sleep(SECOND).await;
    world.aws.run_to(&b, "Deploy").unwrap();
    world.aws.stop(&b, true);
    let stopped = tokio::time::Instant::now();
    world.send(&body);
    let daemon = world.start("ledger.db");
    tokio::time::sleep(55 * MINUTE).await;
    assert_eq!(world.changes(), Vec::<String>::new());
    world.settled().await;
    assert!(stopped.elapsed() > 60 * MINUTE, "{:?}", stopped.elapsed());
    assert_clean(&world, &a);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_deploys_nothing_and_its_rejection_touches_nothing() {
    let world = World::new();
    let first = world.service("shop");
    let of_first = world.aws.current(&first);
    world.aws.approve(&first).unwrap();
    tokio::time::sleep(60 * MINUTE).await;
    let rollback = world.aws.roll_back(&of_first, "Approve");
    tokio::time::sleep(SECOND).await;
    let before = world.aws.distribution(&first.staging_id);
    world.send(&world.aws.reject(&rollback).unwrap());
    let daemon = world.start("ledger.db");
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(world.changes(), Vec::<String>::new());
    assert_eq!(
        before.is_some(),
        world.aws.distribution(&first.staging_id).is_some()
    );
    daemon.stop().await;
}

// ---- what it costs ----

#[tokio::test(start_paused = true)]
async fn a_cleanup_asks_codepipeline_eight_times() {
    let world = World::new();
    let service = world.service("shop");
    let body = world.aws.reject(&service).unwrap();
    world.send(&body);
    let began = tokio::time::Instant::now();
    let daemon = world.start("ledger.db");
    world.settled().await;
    let took = began.elapsed();
    assert_clean(&world, &service);
    let journal = world.aws.journal();
    let asked: usize = [
        "ListActionExecutions",
        "GetPipelineState",
        "ListPipelineExecutions",
        "GetPipelineExecution",
        "GetPipeline",
    ]
    .map(|operation| journal.calls(operation, None))
    .iter()
    .sum();
    assert_eq!(asked, 8);
    assert!(took.as_secs_f64() < 340.0 * 1.005, "{took:?}");
    daemon.stop().await;
}
