//! `[verify]`: CodePipeline is asked whether a rejection still stands, and what cannot be checked is no
//! yes.

use std::time::Duration;

use embedded_aws::{
    Action, EmbeddedAws, EventOptions, ExpiredApproval, Failure, Form, Outcome, Review, Rule,
    Service,
};

use crate::harness::{Instance, Log, World, assert_clean, assert_untouched};

const VERIFY: &str = "[verify]\ncodepipeline = true\n";
const UNASKED: &str = "[verify]\ncodepipeline = false\n";
const IGNORE: &str = "[verify]\ncodepipeline = true\non_timeout = \"ignore\"\n";

/// The calls of CodePipeline so far: what the execution did, who is at work, and how the pipeline runs its
/// executions.
fn asked(world: &World) -> [usize; 3] {
    let journal = world.aws.journal();
    [
        "ListActionExecutions",
        "GetPipelineState",
        "ListPipelineExecutions",
    ]
    .map(|operation| journal.calls(operation, Some("shop-frontend-pipeline")))
}

fn deleted(daemon: &Instance, reason: &str) -> u64 {
    let metrics = daemon.telemetry.metrics();
    metrics.count_by_reason("MessagesDeleted", reason)
}

fn rejected(world: &World, service: &Service, form: Form) {
    let options = EventOptions {
        form,
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(service, &options));
}

/// Lets something happen to the service's deployment at the first call of an operation.
fn at_first(
    world: &World,
    operation: &str,
    service: &Service,
    what: impl Fn(&EmbeddedAws, &Service) + Send + Sync + 'static,
) {
    let service = service.clone();
    let hook = Action::before(move |aws, _| what(aws, &service));
    world.aws.add_rule(Rule::on(operation).nth(1).then(hook));
}

fn approve_after_retry(aws: &EmbeddedAws, service: &Service) {
    aws.retry_approval(service, 2);
    aws.review(service, 2, Review::Approved);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_stands_is_cleaned_and_checked_when_bound_and_before_three_steps() {
    for form in [Form::Current, Form::Older] {
        let world = World::new();
        let service = world.service("shop");
        rejected(&world, &service, form);
        let daemon = world.start_with("ledger.db", VERIFY, false);
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(asked(&world), [4, 3, 1], "{form:?}");
        daemon.stop().await;
    }
    // Without it, CodePipeline is not asked.
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", UNASKED, false);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(asked(&world), [0, 0, 0]);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_before_the_detach_takes_the_rejection_back() {
    type Then = fn(&EmbeddedAws, &Service);
    let waits: Then = |aws, service| aws.retry_approval(service, 2);
    let again: Then = |aws, service| {
        aws.retry_approval(service, 2);
        aws.review(service, 2, Review::Rejected(None));
    };
    for (form, then) in [
        (Form::Current, waits),
        (Form::Current, approve_after_retry),
        (Form::Current, again),
        (Form::Older, waits),
        (Form::Older, approve_after_retry),
    ] {
        let world = World::new();
        let service = world.service("shop");
        rejected(&world, &service, form);
        // After the parameters were read: as late as can be.
        at_first(&world, "GetDistribution", &service, then);
        tokio::time::advance(Duration::from_secs(60)).await;
        let daemon = world.start_with("ledger.db", VERIFY, false);
        world.settled().await;
        assert_untouched(&world, &service);
        assert_eq!(world.changes(), Vec::<String>::new());
        assert_eq!(world.dead_letters(), 0);
        assert_eq!(deleted(&daemon, "retracted"), 1);
        // The ledger has it as done.
        rejected(&world, &service, form);
        world.settled().await;
        assert_eq!(deleted(&daemon, "duplicate"), 1);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_event_of_an_execution_that_was_rejected_again_is_worked_on() {
    let world = World::new();
    let service = world.service("shop");
    rejected(&world, &service, Form::Older);
    tokio::time::advance(Duration::from_secs(60)).await;
    world.aws.retry_approval(&service, 2);
    tokio::time::advance(Duration::from_secs(60)).await;
    let options = EventOptions {
        form: Form::Older,
        attempt: 2,
        ..EventOptions::default()
    };
    // Neither says which attempt it is about: they are each other's duplicates.
    world.send(&world.aws.rejection_event(&service, &options));
    let daemon = world.start_with("ledger.db", VERIFY, false);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(deleted(&daemon, "retracted"), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_between_detach_and_disable_stops_the_cleanup_there() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    at_first(
        &world,
        "DeleteContinuousDeploymentPolicy",
        &service,
        approve_after_retry,
    );
    let daemon = world.start_with("ledger.db", VERIFY, false);
    world.settled().await;
    assert_eq!(
        world.changes(),
        [
            "PutParameter",
            "UpdateDistribution",
            "DeleteContinuousDeploymentPolicy"
        ]
    );
    let staging = world.aws.distribution(&service.staging_id).unwrap();
    assert!(staging.enabled);
    // After the detach the name is not given back: a promotion fails at once.
    let parameter = world.aws.parameter(&service.staging_parameter);
    assert_eq!(parameter.as_deref(), Some("deleted"));
    assert_eq!(deleted(&daemon, "retracted"), 1);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_second_rejection_of_an_execution_is_the_one_that_is_worked_on() {
    let world = World::new();
    let service = world.service("shop");
    world.reject(&service);
    tokio::time::advance(Duration::from_secs(60)).await;
    world.aws.retry_approval(&service, 2);
    tokio::time::advance(Duration::from_secs(60)).await;
    let options = EventOptions {
        attempt: 2,
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&service, &options));
    let daemon = world.start_with("ledger.db", VERIFY, false);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(deleted(&daemon, "retracted"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_checked_is_not_a_yes() {
    let gone = || Failure::new(400, "PipelineNotFoundException", "no such pipeline");
    let unknown = || Failure::new(400, "PipelineExecutionNotFoundException", "none");
    let (actions, state, mode) = (
        "ListActionExecutions",
        "GetPipelineState",
        "ListPipelineExecutions",
    );
    let each = |action: Action, reason| {
        [actions, state, mode].map(|operation| (operation, action.clone(), reason))
    };
    let all = [
        each(Action::Deny, "access_denied"),
        each(Action::Throttle, "throttled"),
        each(Action::Hang, "unavailable"),
        [
            (actions, Action::Refuse(gone()), "not_found"),
            // The stage cannot be seen.
            (state, Action::Refuse(gone()), "not_verified"),
            (mode, Action::Refuse(gone()), "not_found"),
        ],
    ];
    let unknown = (actions, Action::Refuse(unknown()), "not_verified");
    for (operation, action, reason) in all.into_iter().flatten().chain([unknown]) {
        let world = World::new();
        let service = world.service("shop");
        world.reject(&service);
        let rule = world.aws.add_rule(Rule::on(operation).then(action.clone()));
        let daemon = world.start_with("ledger.db", VERIFY, false);
        world.settled().await;
        assert_untouched(&world, &service);
        assert_eq!(world.changes(), Vec::<String>::new());
        assert_eq!(world.dead_letters(), 1, "{operation} {reason}");
        let metrics = daemon.telemetry.metrics();
        let released = metrics.count_by_reason("MessagesReleased", reason);
        assert_eq!(released, 5, "{operation} {reason}");
        // Once it can be, the same rejection is worked on.
        world.aws.remove_rule(rule);
        world.aws.calm();
        world.reject(&service);
        world.settled().await;
        assert!(world.aws.distribution(&service.staging_id).is_none());
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_codepipeline_does_not_know_is_not_a_yes() {
    let world = World::new();
    let service = world.service("shop");
    // The event names an attempt that there never was.
    let body = world
        .aws
        .rejection_event(&service, &EventOptions::default())
        .replace(
            &service.action_execution_id(1),
            &service.action_execution_id(7),
        );
    world.send(&body);
    let daemon = world.start_with("ledger.db", VERIFY, false);
    world.settled().await;
    assert_untouched(&world, &service);
    assert_eq!(world.dead_letters(), 1);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(
        metrics.count_by_reason("MessagesReleased", "not_verified"),
        5
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_timed_out_is_cleaned_or_left_as_configured() {
    let (log, _listening) = Log::listen();
    let mut ignored_before = 0;
    for shows in [
        ExpiredApproval::Silent,
        ExpiredApproval::Code,
        ExpiredApproval::Text,
    ] {
        for (more, ignored) in [(VERIFY, false), (IGNORE, true)] {
            let world = World::with(|settings| settings.switches.expired_approval = shows);
            let service = world.service("shop");
            let options = EventOptions {
                outcome: Outcome::Expired,
                ..EventOptions::default()
            };
            world.send(&world.aws.rejection_event(&service, &options));
            let daemon = world.start_with("ledger.db", more, false);
            world.settled().await;
            assert_eq!(
                deleted(&daemon, "undecided"),
                u64::from(ignored),
                "{shows:?}"
            );
            if ignored {
                assert_untouched(&world, &service);
                assert_eq!(world.changes(), Vec::<String>::new());
                ignored_before += 1;
            } else {
                assert_clean(&world, &service);
            }
            let said = log.with("the approval expired");
            assert_eq!(said.len(), ignored_before, "{said:?}");
            if ignored {
                let said = &said[ignored_before - 1];
                assert_eq!(said["level"], "WARN", "{said}");
                assert_eq!(said["execution.id"], service.execution_id, "{said}");
                let code = match shows {
                    ExpiredApproval::Silent | ExpiredApproval::Text => "JobFailed",
                    ExpiredApproval::Code => "JobTimedOut",
                };
                assert_eq!(said["code"], code, "{said}");
            }
            assert_eq!(world.dead_letters(), 0);
            daemon.stop().await;
        }
    }
    // A rejection is none, whatever the reviewer writes.
    let world = World::new();
    let service = world.service("shop");
    let options = EventOptions {
        summary: Some("timed out waiting for QA".to_owned()),
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&service, &options));
    let daemon = world.start_with("ledger.db", IGNORE, false);
    world.settled().await;
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_of_another_account_is_asked_as_its_role_and_in_its_own_region() {
    let mut world = World::new();
    let account = "210987654321";
    world.pipeline =
        "arn:aws:codepipeline:us-east-1:{account}:{service}-frontend-pipeline".to_owned();
    world.target =
        "role_arn = \"arn:aws:iam::{account}:role/stagesweep\"\nregion = \"eu-west-1\"\n"
            .to_owned();
    let role = format!("arn:aws:iam::{account}:role/stagesweep");
    world.aws.create_role(&role, None);
    // The parameters are in one region, the pipeline in another.
    let parameters = world.aws.in_account(account, "eu-west-1");
    let service = parameters.create_service("shop").unwrap();
    let pipeline = Service {
        region: "us-east-1".to_owned(),
        ..service.clone()
    };
    let event = world
        .aws
        .rejection_event(&pipeline, &EventOptions::default());
    world.send(&event);
    let more = format!("{VERIFY}[events]\nallowed_accounts = [\"{account}\"]\n");
    let daemon = world.start_with("ledger.db", &more, false);
    world.settled().await;
    assert_eq!(world.dead_letters(), 0);
    assert!(parameters.distribution(&service.staging_id).is_none());
    let entries = world.aws.journal().entries();
    let mut asked = entries.iter().filter(|it| it.is("GetPipelineState"));
    assert!(asked.all(|it| {
        it.call.account == account && it.call.region.as_deref() == Some("us-east-1")
    }));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_may_not_ask_asks_nobody_although_every_turn_comes_late() {
    for operation in ["PutParameter", "UpdateDistribution"] {
        let world = World::new();
        let service = world.service("shop");
        let denied = Failure::new(403, "AccessDeniedException", "not authorized");
        for asking in ["ListActionExecutions", "GetPipelineState"] {
            let rule = Rule::on(asking).then(Action::Refuse(denied.clone()));
            world.aws.add_rule(rule);
        }
        // After these the limiter lets the next change wait for longer than an answer would count.
        let throttled = Rule::on(operation).first(8).then(Action::Throttle);
        world.aws.add_rule(throttled);
        rejected(&world, &service, Form::Current);
        let daemon = world.start_with("ledger.db", UNASKED, false);
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(asked(&world), [0, 0, 0], "{operation}");
        assert_eq!(world.dead_letters(), 0, "{operation}");
        daemon.stop().await;
    }
}
