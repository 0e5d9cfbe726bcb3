//! `[catch_up]`: rejections whose events never came, and executions that ended without one.

use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, EventOptions, Review, Rule, Service};
use stagesweep::domain::history::State;
use stagesweep::ledger::EmbeddedLedger;

use crate::harness::{Instance, PATIENCE, World, assert_clean, assert_gone, assert_untouched};

const CATCH_UP: &str = "[catch_up]\ninterval = \"15m\"\n";
const RECLAIM: &str = "[catch_up]\ninterval = \"15m\"\nreclaim = true\n";
const MINUTE: Duration = Duration::from_secs(60);

/// The service's deployment is rejected, and no event of it comes.
fn rejected_in_silence(world: &World, service: &Service) {
    world.aws.review(service, 1, Review::Rejected(None));
}

/// Waits until that many rounds have asked about the service's pipeline.
async fn rounds(world: &World, service: &Service, count: usize) {
    let asked = |aws: &EmbeddedAws| {
        let journal = aws.journal();
        journal.calls("ListPipelineExecutions", Some(&service.pipeline)) >= count
    };
    world.aws.wait_until(asked, PATIENCE).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn cleaned(world: &World, service: &Service) {
    let aws = world.aws.in_account(&service.account, &service.region);
    let clean = |_: &EmbeddedAws| {
        let value = aws.parameter(&service.staging_parameter);
        value.as_deref() == Some("deleted") && aws.distribution(&service.staging_id).is_none()
    };
    world.aws.wait_until(clean, PATIENCE).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn started(daemon: &Instance) -> u64 {
    daemon.telemetry.metrics().count("CleanupsStarted")
}

#[tokio::test(start_paused = true)]
async fn a_rejection_without_an_event_is_cleaned_and_its_late_event_a_duplicate() {
    let world = World::new();
    let service = world.service("shop");
    rejected_in_silence(&world, &service);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    // An event may be on its way for five minutes.
    tokio::time::sleep(3 * MINUTE).await;
    assert_untouched(&world, &service);
    cleaned(&world, &service).await;
    assert_clean(&world, &service);
    let changes = world.changes().len();
    assert_eq!(changes, 5);

    world.reject(&service);
    world.settled().await;
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "duplicate"), 1);
    let asked = world
        .aws
        .journal()
        .calls("ListActionExecutions", Some(&service.pipeline));
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(world.changes().len(), changes);
    assert_eq!(started(&daemon), 1);
    // What is done is looked at once more at the most.
    let again = world
        .aws
        .journal()
        .calls("ListActionExecutions", Some(&service.pipeline));
    assert!(again <= asked + 1, "{asked}, {again}");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_catching_up_nothing_is_looked_for() {
    let world = World::new();
    let service = world.service("shop");
    rejected_in_silence(&world, &service);
    let daemon = world.start("ledger.db");
    tokio::time::sleep(120 * MINUTE).await;
    assert_untouched(&world, &service);
    assert_eq!(world.aws.journal().calls("ListPipelines", None), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_while_the_job_runs_is_settled_with_it() {
    let world = World::new();
    let service = world.service("shop");
    rejected_in_silence(&world, &service);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    let detached = |aws: &EmbeddedAws| {
        let production = aws.distribution(&service.production_id).unwrap();
        production.policy_id.is_empty()
    };
    world.aws.wait_until(detached, PATIENCE).await.unwrap();
    world.reject(&service);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(world.changes().len(), 5);
    assert_eq!(started(&daemon), 1);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("DuplicatesSuppressed"), 1);
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "cleaned"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_an_event_began_is_not_begun_again() {
    // So slow that several rounds come while it runs.
    let world = World::with(|settings| settings.propagation = 40 * MINUTE);
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    rounds(&world, &service, 4).await;
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(started(&daemon), 1);
    assert_eq!(world.changes().len(), 5);
    daemon.stop().await;
}

/// It was purged, or expired, before anything was changed: neither the queue nor the ledger brings it back.
#[tokio::test(start_paused = true)]
async fn a_job_whose_message_is_gone_is_taken_up_once_the_message_cannot_come_back() {
    let world = World::new();
    let service = world.service("shop");
    world.aws.deny("GetParameterHistory");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    while daemon.telemetry.metrics().count("MessagesReleased") < 2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.aws.purge(&world.queues.url).unwrap();
    world.aws.calm();
    // It might be hidden for so long.
    tokio::time::sleep(60 * MINUTE).await;
    assert_untouched(&world, &service);
    let began = tokio::time::Instant::now();
    cleaned(&world, &service).await;
    assert!(began.elapsed() < 60 * MINUTE, "{:?}", began.elapsed());
    assert_clean(&world, &service);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_instances_that_both_look_clean_once() {
    let world = World::new();
    let service = world.service("shop");
    rejected_in_silence(&world, &service);
    // Each with a ledger of its own: only what is there keeps the result right.
    let daemons = ["a.db", "b.db"].map(|ledger| world.start_with(ledger, CATCH_UP, false));
    cleaned(&world, &service).await;
    tokio::time::sleep(60 * MINUTE).await;
    assert_clean(&world, &service);
    for daemon in daemons {
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_approved_or_waits_again_is_no_rejection() {
    let world = World::new();
    let [waits, approved, open] = ["waits", "approved", "open"].map(|name| world.service(name));
    for service in [&waits, &approved] {
        rejected_in_silence(&world, service);
        world.aws.retry_approval(service, 2);
    }
    world.aws.review(&approved, 2, Review::Approved);
    let daemon = world.start_with("ledger.db", RECLAIM, false);
    tokio::time::sleep(180 * MINUTE).await;
    for service in [&waits, &approved, &open] {
        assert_untouched(&world, service);
    }
    assert_eq!(started(&daemon), 0);
    // The second attempt is rejected as well.
    world.aws.review(&waits, 2, Review::Rejected(None));
    cleaned(&world, &waits).await;
    assert_clean(&world, &waits);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_in_the_next_round_and_a_refusal_is_not() {
    let world = World::new();
    let [shop, blog] = ["shop", "blog"].map(|name| world.service(name));
    rejected_in_silence(&world, &shop);
    rejected_in_silence(&world, &blog);
    // A fence: the staging parameter's history does not reach back.
    for _ in 0..120 {
        world
            .aws
            .put_parameter(&blog.staging_parameter, &blog.staging_id);
    }
    let rule = world.aws.deny("UpdateDistribution");
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    rounds(&world, &shop, 4).await;
    let metrics = daemon.telemetry.metrics();
    let failed = metrics.count_by_reason("CleanupsFailed", "access_denied");
    assert!(started(&daemon) >= 3);
    assert_eq!(failed, 1);
    world.aws.remove_rule(rule);
    cleaned(&world, &shop).await;
    rounds(&world, &shop, 8).await;
    assert_untouched(&world, &blog);
    let refused = metrics.count_by_reason("CleanupsRefused", "history_too_short");
    assert_eq!(refused, 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_mid_job_is_resumed_without_any_message() {
    let world = World::new();
    let service = world.service("shop");
    rejected_in_silence(&world, &service);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    let gone = |aws: &EmbeddedAws| aws.policy(&service.policy_id).is_none();
    world.aws.wait_until(gone, PATIENCE).await.unwrap();
    daemon.crash().await;
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    cleaned(&world, &service).await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_codepipeline_that_cannot_be_asked_leaves_everything_as_it_is() {
    for operation in [
        "ListPipelines",
        "ListPipelineExecutions",
        "ListActionExecutions",
        "GetPipelineState",
    ] {
        for action in [Action::Deny, Action::Throttle, Action::Hang] {
            let world = World::new();
            let service = world.service("shop");
            rejected_in_silence(&world, &service);
            world.aws.add_rule(Rule::on(operation).then(action));
            let daemon = world.start_with("ledger.db", CATCH_UP, false);
            tokio::time::sleep(60 * MINUTE).await;
            assert_untouched(&world, &service);
            world.aws.calm();
            cleaned(&world, &service).await;
            assert_clean(&world, &service);
            daemon.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stopped_execution_left_is_reported_and_with_reclaim_cleaned() {
    type Ends = fn(&EmbeddedAws, &Service);
    let ends: [Ends; 2] = [EmbeddedAws::abandon, EmbeddedAws::supersede];
    for end in ends {
        for (more, reclaims) in [(CATCH_UP, false), (RECLAIM, true)] {
            let world = World::new();
            let service = world.service("shop");
            end(&world.aws, &service);
            let daemon = world.start_with("ledger.db", more, false);
            // Never what is younger than an hour.
            tokio::time::sleep(59 * MINUTE).await;
            assert_untouched(&world, &service);
            if reclaims {
                cleaned(&world, &service).await;
                assert_clean(&world, &service);
            } else {
                tokio::time::sleep(120 * MINUTE).await;
                assert_untouched(&world, &service);
                // It is reported once: then the parameter is read.
                let name = Some(service.staging_parameter.as_str());
                assert_eq!(world.aws.journal().calls("GetParameter", name), 1);
            }
            assert_eq!(started(&daemon), u64::from(reclaims));
            daemon.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_timed_out_is_cleaned_or_only_reported_as_configured() {
    for ignores in [false, true] {
        let world = World::new();
        let service = world.service("shop");
        world.aws.review(&service, 1, Review::Expired);
        let verify = "[verify]\ncodepipeline = true\non_timeout = \"ignore\"\n";
        let more = format!("{RECLAIM}{}", if ignores { verify } else { "" });
        let daemon = world.start_with("ledger.db", &more, false);
        if ignores {
            tokio::time::sleep(180 * MINUTE).await;
            assert_untouched(&world, &service);
            let name = Some(service.staging_parameter.as_str());
            assert_eq!(world.aws.journal().calls("GetParameter", name), 1);
        } else {
            cleaned(&world, &service).await;
            assert_clean(&world, &service);
        }
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_running_pipeline_may_own_is_not_reclaimed() {
    let world = World::new();
    let older = world.service("shop");
    world.aws.supersede(&older);
    let newer = world.aws.deploy_again(&older).unwrap();
    let daemon = world.start_with("ledger.db", RECLAIM, false);
    tokio::time::sleep(180 * MINUTE).await;
    assert!(world.aws.distribution(&older.staging_id).is_some());
    assert_untouched(&world, &newer);
    // Once that is rejected, both go.
    world.reject(&newer);
    world.settled().await;
    assert_clean(&world, &newer);
    let gone = |aws: &EmbeddedAws| aws.distribution(&older.staging_id).is_none();
    world.aws.wait_until(gone, PATIENCE).await.unwrap();
    assert_gone(&world, &older);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_of_another_account_is_looked_at_as_its_role() {
    let mut world = World::new();
    let account = "210987654321";
    let role = format!("arn:aws:iam::{account}:role/stagesweep");
    world.aws.create_role(&role, None);
    // The harness's own target stands beside it: a pattern, for the daemon's own account.
    world.target = format!(
        "[[targets]]\npipeline = \"arn:aws:codepipeline:us-east-1:{account}:landing\"\n\
         stage = \"Approve\"\naction = \"Approve\"\nrole_arn = \"{role}\"\n\
         production_parameter = \"/landing/cloudfront/cfcd-production\"\n\
         staging_parameter = \"/landing/cloudfront/cfcd-staging\"\n"
    );
    let theirs = world.aws.in_account(account, "us-east-1");
    let service = Service {
        pipeline: "landing".to_owned(),
        ..theirs.create_service("landing").unwrap()
    };
    rejected_in_silence(&world, &service);
    let more = format!("{CATCH_UP}[events]\nallowed_accounts = [\"{account}\"]\n");
    let daemon = world.start_with("ledger.db", &more, false);
    cleaned(&world, &service).await;
    assert_clean(&world, &service);
    let entries = world.aws.journal().entries();
    let mut asked = entries.iter().filter(|it| it.is("GetPipelineState"));
    assert!(asked.all(|it| it.call.account == account));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_is_run_for_a_lost_rejection_and_not_for_an_ended_execution() {
    let mut world = World::new();
    world.target = "run = [\"/opt/undo\", \"{execution_id}\"]\n".to_owned();
    let [lost, ended] = ["lost", "ended"].map(|name| world.service(name));
    world
        .aws
        .review(&lost, 1, Review::Rejected(Some("too slow")));
    world.aws.abandon(&ended);
    let daemon = world.start_with("ledger.db", RECLAIM, false);
    cleaned(&world, &lost).await;
    cleaned(&world, &ended).await;
    let calls = world.programs.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].arguments, [lost.execution_id.as_str()]);
    let event = stagesweep::domain::event::parse(&calls[0].input).unwrap();
    let stagesweep::domain::event::Kind::Rejection(rejection) = event.kind else {
        panic!("{event:?}");
    };
    assert_eq!(rejection.comment.as_deref(), Some("too slow"));
    assert_eq!(rejection.pipeline.name, lost.pipeline);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_rejection_whose_pipeline_would_be_an_option_of_the_program_is_left_alone() {
    let mut world = World::new();
    world.target = "run = [\"/opt/undo\", \"{pipeline}\"]\n".to_owned();
    let service = world.service("--profile");
    world.aws.review(&service, 1, Review::Rejected(None));
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(world.programs.calls().len(), 0);
    assert_eq!(world.changes(), [""; 0]);
    let metrics = daemon.telemetry.metrics();
    // Once, and not in every round.
    assert_eq!(metrics.count("CleanupsRefused"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_round_is_bounded_and_the_next_one_goes_on_where_it_stopped() {
    let world = World::new();
    let service = world.service("zebra");
    rejected_in_silence(&world, &service);
    // As many pipelines as take three rounds, each with an execution that asks for a look.
    for number in 0..100 {
        let other = Service {
            pipeline: format!("other{number:03}-frontend-pipeline"),
            execution_id: format!("00000000-0000-4000-8000-{number:012}"),
            ..service.clone()
        };
        world.aws.review(&other, 1, Review::Rejected(None));
        world.aws.retry_approval(&other, 2);
        world.aws.abandon(&other);
        world.aws.retry_approval(&other, 3);
        world.aws.review(&other, 3, Review::Approved);
    }
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    let calls = |world: &World| {
        let entries = world.aws.journal().entries();
        let of_it =
            |it: &&embedded_aws::Entry| it.call.service == embedded_aws::AwsService::CodePipeline;
        entries.iter().filter(of_it).count()
    };
    tokio::time::sleep(2 * MINUTE).await;
    let first = calls(&world);
    assert!((90..=100).contains(&first), "{first}");
    cleaned(&world, &service).await;
    let options = EventOptions::default();
    world.send(&world.aws.rejection_event(&service, &options));
    world.settled().await;
    assert_eq!(started(&daemon), 1);
    // What is known already costs one call for each pipeline.
    tokio::time::sleep(120 * MINUTE).await;
    let before = calls(&world);
    tokio::time::sleep(30 * MINUTE).await;
    assert!(calls(&world) - before <= 300);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_looked_at_in_every_round_keeps_no_older_execution_of_its_pipeline_from_it() {
    // One that runs: what the ended ones left may be its own, and they are looked at until it has ended.
    // None that runs: what they left cannot be read, and is to be reported until it can.
    for runs in [true, false] {
        let world = World::new();
        let service = world.service("shop");
        rejected_in_silence(&world, &service);
        let newer = |number: u32| {
            let newer = Service {
                execution_id: format!("00000000-0000-4000-8000-{number:012}"),
                ..service.clone()
            };
            world.aws.retry_approval(&newer, 1);
            newer
        };
        // More than two rounds have calls for.
        for number in 0..99 {
            let ended = newer(number);
            if number > 0 || !runs {
                world.aws.abandon(&ended);
            }
        }
        if !runs {
            tokio::time::sleep(61 * MINUTE).await;
            world.aws.deny("GetParameter");
        }
        let daemon = world.start_with("ledger.db", CATCH_UP, false);
        rounds(&world, &service, 1).await;
        let looks = world.aws.journal().calls("ListActionExecutions", None);
        assert!((40..50).contains(&looks), "{looks}");
        let began = |_: &EmbeddedAws| started(&daemon) > 0;
        world.aws.wait_until(began, 60 * MINUTE).await.unwrap();
        world.aws.calm();
        cleaned(&world, &service).await;
        assert_clean(&world, &service);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_to_the_dead_letter_queue_is_not_lost() {
    let world = World::new();
    let service = world.service("shop");
    // Denied for good, before anything is changed: the redrive policy ends it.
    world.aws.deny("GetParameterHistory");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    world.settled().await;
    assert_eq!(world.dead_letters(), 1);
    let runs = started(&daemon);
    tokio::time::sleep(120 * MINUTE).await;
    assert_eq!(
        started(&daemon),
        runs,
        "its message is in the dead-letter queue"
    );
    daemon.stop().await;
    // Why it is there can still be told.
    let records = EmbeddedLedger::history(&world.ledger_path("ledger.db"), &world.clock).unwrap();
    let denied = State::Open(Some("access_denied".to_owned()));
    assert_eq!(records[0].state, denied);

    // Nor by the next daemon. One that was found in CodePipeline is tried again.
    let silent = world.service("blog");
    rejected_in_silence(&world, &silent);
    let daemon = world.start_with("ledger.db", CATCH_UP, false);
    tokio::time::sleep(60 * MINUTE).await;
    assert!(started(&daemon) >= 3, "{}", started(&daemon));
    let of_the_first = world.aws.journal().entries().into_iter();
    assert!(
        of_the_first
            .rev()
            .take(200)
            .all(|entry| !entry.about(&service.staging_parameter))
    );
    daemon.stop().await;
}
