//! Several accounts: where pipelines are, where their distributions are, and that none waits for another.

use std::time::Duration;

use embedded_aws::{Action, AwsService, EmbeddedAws, EventOptions, Rule, Service, Shape};
use tokio::time::Instant;

use crate::harness::{PATIENCE, World, assert_untouched};

const TROUBLED: &str = "111111111111";
const OTHER: &str = "222222222222";
const HOME: &str = "123456789012";
const REGION: &str = "us-east-1";

fn role(account: &str) -> String {
    format!("arn:aws:iam::{account}:role/stagesweep")
}

/// A world of three accounts, each with a service of the same name and parameters.
fn world(target: &str) -> (World, [Service; 3]) {
    let mut world = World::new();
    world.pipeline =
        "arn:aws:codepipeline:{region}:{account}:{service}-frontend-pipeline".to_owned();
    target.clone_into(&mut world.target);
    let services = [TROUBLED, OTHER, HOME].map(|account| {
        world
            .aws
            .create_role(&role(account), Some("stagesweep-external"));
        let aws = world.aws.in_account(account, REGION);
        aws.create_service("shop").unwrap()
    });
    (world, services)
}

const BY_EVENT: &str = "role_arn = \"arn:aws:iam::{account}:role/stagesweep\"\n\
                        external_id = \"stagesweep-external\"\n";

const ALLOWED: &str = "[events]\nallowed_accounts = [\"111111111111\", \"222222222222\"]\n";

fn is_clean(aws: &EmbeddedAws, service: &Service) -> bool {
    let aws = aws.in_account(&service.account, &service.region);
    let value = aws.parameter(&service.staging_parameter);
    let gone = aws.distribution(&service.staging_id).is_none();
    value.as_deref() == Some("deleted") && gone && aws.policy(&service.policy_id).is_none()
}

/// Nothing of any of these was changed.
fn assert_all_untouched(world: &World, services: &[Service]) {
    for service in services {
        assert_untouched(world, service);
    }
}

/// What befalls the troubled account, and how it ends.
enum Trouble {
    None,
    Throttled,
    Denied,
    Out,
    RoleGone,
}

#[tokio::test(start_paused = true)]
async fn one_accounts_trouble_does_not_slow_anothers_cleanup() {
    let mut undisturbed = Duration::ZERO;
    for trouble in [
        Trouble::None,
        Trouble::Throttled,
        Trouble::Denied,
        Trouble::Out,
        Trouble::RoleGone,
    ] {
        let (world, [troubled, other, home]) = world(BY_EVENT);
        let theirs = || Rule::on_any().by_account(TROUBLED);
        match trouble {
            Trouble::None => {}
            Trouble::Throttled => {
                world.aws.add_rule(theirs().then(Action::Throttle));
            }
            Trouble::Denied => {
                world.aws.add_rule(theirs().then(Action::Deny));
            }
            Trouble::Out => {
                world.aws.add_rule(theirs().then(Action::Hang));
            }
            Trouble::RoleGone => world.aws.delete_role(&role(TROUBLED)),
        }
        let daemon = world.start_with("ledger.db", ALLOWED, false);
        // The troubled ones first, and more of them.
        let older = [&troubled, &troubled, &troubled, &other];
        for service in older {
            world.reject(service);
        }
        let began = Instant::now();
        let clean = |aws: &EmbeddedAws| is_clean(aws, &other);
        world.aws.wait_until(clean, PATIENCE).await.unwrap();
        let took = began.elapsed();
        match trouble {
            Trouble::None => undisturbed = took,
            // To the look: nothing of its calls waited for anything of the other's.
            _ => assert!(
                took <= undisturbed + Duration::from_millis(100),
                "{took:?}, undisturbed {undisturbed:?}"
            ),
        }
        if !matches!(trouble, Trouble::None) {
            assert_untouched(&world, &troubled);
        }
        world.aws.calm();
        world
            .aws
            .create_role(&role(TROUBLED), Some("stagesweep-external"));
        // Its message may be in the dead-letter queue by now: it is sent back.
        world.reject(&troubled);
        let clean = |aws: &EmbeddedAws| is_clean(aws, &troubled);
        world.aws.wait_until(clean, PATIENCE).await.unwrap();
        world.settled().await;
        assert_all_untouched(&world, &[home]);
        daemon.stop().await;
    }
}

/// The rejection of an execution that deploys this, in a pipeline of the same name in another account.
fn rejection_in(world: &World, account: &str, service: &Service) -> String {
    let pipeline = Service {
        account: account.to_owned(),
        ..service.clone()
    };
    let options = EventOptions::default();
    world.aws.rejection_event(&pipeline, &options)
}

#[tokio::test(start_paused = true)]
async fn a_bare_name_is_a_pipeline_of_the_queues_own_account_whatever_else_is_allowed() {
    let literal = format!(
        "role_arn = \"{}\"\nexternal_id = \"stagesweep-external\"\n",
        role(OTHER)
    );
    for target in ["", &literal] {
        let (mut world, services) = world(target);
        world.pipeline = "{service}-frontend-pipeline".to_owned();
        let daemon = world.start_with("ledger.db", ALLOWED, false);
        // The same name at home, and the same parameters, are somebody else's.
        for (account, service) in [(OTHER, &services[1]), (TROUBLED, &services[0])] {
            world.send(&rejection_in(&world, account, service));
        }
        world.settled().await;
        assert_eq!(world.dead_letters(), 2);
        assert_all_untouched(&world, &services);
        let metrics = daemon.telemetry.metrics();
        assert_eq!(metrics.count_by_reason("MessagesRefused", "no_target"), 2);
        assert_eq!(world.aws.journal().calls("AssumeRole", None), 0);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_at_home_deploys_into_the_account_of_a_literal_role() {
    let target = format!(
        "role_arn = \"{}\"\nexternal_id = \"stagesweep-external\"\n",
        role(OTHER)
    );
    let (mut world, [troubled, other, home]) = world(&target);
    world.pipeline = "{service}-frontend-pipeline".to_owned();
    let daemon = world.start_with("ledger.db", "", false);
    world.send(&rejection_in(&world, HOME, &other));
    world.settled().await;
    assert!(is_clean(&world.aws, &other), "{:?}", world.changes());
    assert_all_untouched(&world, &[troubled, home]);
    assert_asked_in(&world, HOME);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_elsewhere_deploys_into_the_daemons_own_account() {
    let target = format!(
        "pipeline_role_arn = \"{}\"\nexternal_id = \"stagesweep-external\"\n",
        role(OTHER)
    );
    let (mut world, [troubled, other, home]) = world(&target);
    world.pipeline = format!("arn:aws:codepipeline:{REGION}:{OTHER}:{{service}}-frontend-pipeline");
    let daemon = world.start_with("ledger.db", ALLOWED, false);
    world.send(&rejection_in(&world, OTHER, &home));
    world.settled().await;
    assert!(is_clean(&world.aws, &home), "{:?}", world.changes());
    assert_all_untouched(&world, &[troubled, other]);
    assert_asked_in(&world, OTHER);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_in_a_tools_account_deploys_into_a_workload_account() {
    let target = format!(
        "role_arn = \"{}\"\npipeline_role_arn = \"{}\"\nexternal_id = \"stagesweep-external\"\n",
        role(TROUBLED),
        role(OTHER)
    );
    let (mut world, [workload, tools, home]) = world(&target);
    world.pipeline = format!("arn:aws:codepipeline:{REGION}:{OTHER}:{{service}}-frontend-pipeline");
    let daemon = world.start_with("ledger.db", ALLOWED, false);
    world.send(&rejection_in(&world, OTHER, &workload));
    world.settled().await;
    assert!(is_clean(&world.aws, &workload), "{:?}", world.changes());
    assert_all_untouched(&world, &[tools, home]);
    assert_asked_in(&world, OTHER);
    daemon.stop().await;
}

/// CodePipeline was asked, and only in this account.
fn assert_asked_in(world: &World, account: &str) {
    let entries = world.aws.journal().entries();
    let asked: Vec<_> = entries
        .iter()
        .filter(|it| it.call.service == AwsService::CodePipeline)
        .map(|it| it.call.account.as_str())
        .collect();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|it| *it == account), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_role_in_the_daemons_own_account_and_a_literal_one_are_used_like_any_other() {
    for account in [HOME, OTHER] {
        let target = format!(
            "role_arn = \"{}\"\nexternal_id = \"stagesweep-external\"\n",
            role(account)
        );
        let (mut world, services) = world(&target);
        world.pipeline =
            format!("arn:aws:codepipeline:{{region}}:{account}:{{service}}-frontend-pipeline");
        let daemon = world.start_with("ledger.db", ALLOWED, false);
        let (ours, theirs): (Vec<_>, Vec<_>) =
            services.into_iter().partition(|it| it.account == account);
        world.reject(&ours[0]);
        world.settled().await;
        assert!(is_clean(&world.aws, &ours[0]));
        assert_eq!(world.dead_letters(), 0);
        assert_all_untouched(&world, &theirs);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_queues_url_names_no_account_a_bare_name_is_of_the_credentials_account() {
    let (mut world, [_, other, home]) = world("");
    world.pipeline = "{service}-frontend-pipeline".to_owned();
    let name = world.queues.url.rsplit('/').next().unwrap().to_owned();
    world.queues.url = format!("http://aws.test/queue/{name}");
    // STS does not answer at first: nothing is received before it does.
    let denied = Rule::on("GetCallerIdentity").first(3).then(Action::Deny);
    world.aws.add_rule(denied);
    let allowed = "[events]\nallowed_accounts = [\"123456789012\", \"222222222222\"]\n";
    let daemon = world.start_with("ledger.db", allowed, false);
    world.send(&rejection_in(&world, OTHER, &other));
    world.send(&rejection_in(&world, HOME, &home));
    world.settled().await;
    assert!(is_clean(&world.aws, &home), "{:?}", world.changes());
    assert_all_untouched(&world, &[other]);
    assert_eq!(world.dead_letters(), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_outlasts_the_credentials_that_it_began_with() {
    let (world, [_, other, _]) = world(BY_EVENT);
    world.aws.change_settings(|settings| {
        settings.propagation = Duration::from_secs(75 * 60);
    });
    let daemon = world.start_with("ledger.db", ALLOWED, false);
    world.reject(&other);
    world.settled().await;
    assert!(is_clean(&world.aws, &other));
    let journal = world.aws.journal();
    assert!((2..=4).contains(&journal.calls("AssumeRole", None)));
    let refused = journal.entries().into_iter().find(|entry| {
        let code = entry.code.as_deref().unwrap_or_default();
        code.starts_with("Expired") || code.starts_with("AccessDenied")
    });
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(daemon.telemetry.metrics().count("CleanupsStarted"), 1);
    daemon.stop().await;
}

const IN_TOOLS: &str = include_str!("../../config/accounts/pipelines-in-tools.toml");
const IN_WORKLOADS: &str = include_str!("../../config/accounts/pipelines-in-workloads.toml");
const SHOP: &str = "210987654321";
const BLOG: &str = "345678901234";

/// The accounts of the examples, with their roles.
fn example_world() -> World {
    let world = World::new();
    for account in [SHOP, BLOG] {
        let external_id = Some("a-name-that-you-choose");
        world.aws.create_role(&role(account), external_id);
    }
    world
}

#[tokio::test(start_paused = true)]
async fn the_example_of_pipelines_in_a_tools_account_cleans_up_in_each_workload_account() {
    let world = example_world();
    let daemon = world.start_file(IN_TOOLS);
    let mut services = Vec::new();
    for (account, kind) in [(SHOP, "shop"), (BLOG, "blog"), (HOME, "home")] {
        let mut service = world
            .aws
            .in_account(account, REGION)
            .create_service("web")
            .unwrap();
        service.pipeline = format!("web-{kind}-pipeline");
        services.push(service);
    }
    for service in &services[..2] {
        world.send(&rejection_in(&world, HOME, service));
    }
    world.settled().await;
    for service in &services[..2] {
        assert!(is_clean(&world.aws, service), "{:?}", world.changes());
    }
    // The parameters of the same names at home are others.
    assert_all_untouched(&world, &services[2..]);
    assert_asked_in(&world, HOME);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_example_of_pipelines_in_workload_accounts_cleans_up_in_the_daemons_own() {
    let world = example_world();
    let daemon = world.start_file(IN_WORKLOADS);
    let home = world.aws.in_account(HOME, REGION);
    for (account, kind) in [(SHOP, "shop"), (BLOG, "blog")] {
        let shape = Shape {
            pipeline: Some("web-frontend-pipeline".to_owned()),
            production_parameter: Some(format!("/{kind}/web/production")),
            staging_parameter: Some(format!("/{kind}/web/staging")),
            ..Shape::default()
        };
        let service = home.create_service_as(kind, &shape).unwrap();
        world.send(&rejection_in(&world, account, &service));
        world.settled().await;
        assert!(is_clean(&world.aws, &service), "{:?}", world.changes());
    }
    let asked: std::collections::BTreeSet<String> = world
        .aws
        .journal()
        .entries()
        .iter()
        .filter(|it| it.call.service == AwsService::CodePipeline)
        .map(|it| it.call.account.clone())
        .collect();
    assert_eq!(asked, [SHOP, BLOG].map(str::to_owned).into());
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[test]
fn the_page_shows_what_the_examples_say() {
    let page = include_str!("../../docs/ACCOUNTS.md");
    let blocks: Vec<&str> = page.split("```toml\n").skip(1).collect();
    let blocks: Vec<&str> = blocks
        .iter()
        .map(|it| it.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 2);
    for (block, file) in blocks.iter().zip([IN_TOOLS, IN_WORKLOADS]) {
        for table in block.split("\n\n") {
            let table = table.trim_end();
            assert!(file.contains(table), "{table}");
        }
    }
}
