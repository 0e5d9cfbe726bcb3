//! Several accounts: a role leads into the event's own and no other, and none waits for another.

use std::time::Duration;

use stagesweep::rehearsal::{Action, EmbeddedAws, EventOptions, Rule, Service};
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

#[tokio::test(start_paused = true)]
async fn a_role_never_leads_into_another_account_than_the_events() {
    let literal = format!("role_arn = \"{}\"\n", role(OTHER));
    for account in [TROUBLED, HOME] {
        let (world, services) = world(&literal);
        let daemon = world.start_with("ledger.db", ALLOWED, false);
        let options = EventOptions {
            account: Some(account.to_owned()),
            ..EventOptions::default()
        };
        world.send(&world.aws.rejection_event(&services[1], &options));
        world.settled().await;
        assert_eq!(world.dead_letters(), 1, "{account}");
        assert_all_untouched(&world, &services);
        let rejected = daemon
            .telemetry
            .metrics()
            .count_by_reason("MessagesRejected", "account_mismatch");
        assert_eq!(rejected, 5, "{account}");
        assert_eq!(world.aws.journal().calls("AssumeRole", None), 0);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_role_a_pipeline_of_an_allowed_account_deploys_into_the_daemons_own() {
    let (world, [troubled, other, home]) = world("");
    let daemon = world.start_with("ledger.db", ALLOWED, false);
    let options = EventOptions {
        account: Some(OTHER.to_owned()),
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&home, &options));
    world.settled().await;
    assert!(is_clean(&world.aws, &home));
    assert_all_untouched(&world, &[troubled, other]);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_role_in_the_daemons_own_account_and_a_literal_one_are_used_like_any_other() {
    for account in [HOME, OTHER] {
        let target = format!(
            "role_arn = \"{}\"\nexternal_id = \"stagesweep-external\"\n",
            role(account)
        );
        let (world, services) = world(&target);
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
