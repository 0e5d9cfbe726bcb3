//! Roles: what goes to STS, whose credentials sign which call, and what a refusal means.

use std::sync::Arc;
use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Failure, Rule, Settings};
use futures_util::future::join_all;
use stagesweep::aws::Connector;
use stagesweep::domain::arn::PipelineArn;
use stagesweep::domain::error_class::ErrorClass;
use stagesweep::domain::targets::{Access, Surroundings, TargetSpec, Targets};
use stagesweep::reconcile::accounts::Accounts;
use stagesweep::reconcile::watch::pace::Pace;
use stagesweep::runtime::clock::Clock;
use stagesweep::runtime::tasks::Tasks;
use stagesweep::telemetry::{Telemetry, chain};
use tokio::time::Instant;

use crate::calls::{Sent, Wire};
use crate::signature::verified_scope;

const ACCOUNT: &str = "210987654321";
const ROLE: &str = "arn:aws:iam::210987654321:role/teams/stagesweep";
const EXTERNAL_ID: &str = "stagesweep-210987654321";
const PARAMETER: &str = "/shop/cloudfront/cfcd-production";

struct Rig {
    aws: EmbeddedAws,
    wire: Wire,
    connector: Connector,
    accounts: Accounts,
}

/// A world with a role in another account, and a service of that account in `us-east-1`.
fn rig() -> Rig {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock.clone(), Settings::default());
    aws.create_role(ROLE, Some(EXTERNAL_ID));
    aws.in_account(ACCOUNT, "us-east-1")
        .create_service("shop")
        .unwrap();
    let wire = Wire::to(&aws);
    let telemetry = Arc::new(Telemetry::new(clock.clone()));
    let connector = Connector::to_endpoint(
        "http://aws.test",
        "ap-northeast-1",
        Some(wire.http_client()),
        &clock,
        telemetry,
    );
    let pace = Pace {
        min: Duration::from_secs(2),
        max: Duration::from_secs(15),
    };
    let accounts = Accounts::new(
        connector.clone(),
        "https://sqs.ap-northeast-1.amazonaws.com/123456789012/work",
        pace,
        Tasks::default(),
    );
    Rig {
        aws,
        wire,
        connector,
        accounts,
    }
}

/// What a target with these keys comes to for a pipeline of the account.
fn access(external_id: &str, region: &str) -> Access {
    let text = str::to_owned;
    let specs = [TargetSpec {
        pipeline: text("{service}-frontend-pipeline"),
        stage: Some(text("Approve")),
        action: Some(text("Approve")),
        production_parameter: Some(text("/{service}/cloudfront/cfcd-production")),
        staging_parameter: Some(text("/{service}/cloudfront/cfcd-staging")),
        role_arn: Some(text("arn:aws:iam::{account}:role/teams/stagesweep")),
        external_id: Some(text(external_id)),
        region: Some(text(region)),
        ..TargetSpec::default()
    }];
    let surroundings = Surroundings {
        account: Some(text(ACCOUNT)),
        ..Surroundings::default()
    };
    let targets = Targets::new(&specs, surroundings).unwrap();
    let pipeline: PipelineArn =
        format!("arn:aws:codepipeline:us-east-1:{ACCOUNT}:shop-frontend-pipeline")
            .parse()
            .unwrap();
    let target = targets.resolve(&pipeline, "Approve", "Approve");
    target.unwrap().access
}

/// The fields of a request to STS.
fn form(sent: &Sent) -> Vec<(String, String)> {
    let text = String::from_utf8(sent.body.clone()).unwrap();
    let decoded = |text: &str| text.replace("%3A", ":").replace("%2F", "/");
    text.split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_role_is_assumed_once_with_its_external_id_and_its_credentials_sign_what_follows() {
    let rig = rig();
    let account = rig
        .accounts
        .get(&access("stagesweep-{account}", "us-east-1"));
    assert!(rig.wire.take().is_empty(), "no call before the first one");
    let read = account.clients.ssm.parameter(PARAMETER).await.unwrap();
    let production = read.unwrap().value;
    let found = account.clients.cloudfront.distribution(&production).await;
    assert!(found.unwrap().is_some());

    let sent = rig.wire.take();
    assert_eq!(sent.len(), 3, "{sent:?}");
    // The daemon's own credentials, and STS of its own region.
    assert_eq!(verified_scope(&sent[0], "rehearsal"), "ap-northeast-1/sts");
    let fields = form(&sent[0]);
    for (name, value) in [
        ("Action", "AssumeRole"),
        ("RoleArn", ROLE),
        ("ExternalId", EXTERNAL_ID),
        ("RoleSessionName", "stagesweep-work"),
    ] {
        let found = fields.iter().find(|(field, _)| field == name);
        assert_eq!(found.map(|(_, it)| it.as_str()), Some(value), "{fields:?}");
    }
    // The role's credentials, in the region of the target.
    for (request, service) in [(&sent[1], "ssm"), (&sent[2], "cloudfront")] {
        let authorization = request.header("authorization");
        let scope = format!("/us-east-1/{service}/");
        assert!(authorization.contains("Credential=ASIA"), "{authorization}");
        assert!(authorization.contains(&scope), "{authorization}");
        assert!(!request.header("x-amz-security-token").is_empty());
    }

    // The same account in another region: the same credentials, other parameters.
    let elsewhere = rig
        .accounts
        .get(&access("stagesweep-{account}", "eu-west-1"));
    let read = elsewhere.clients.ssm.parameter(PARAMETER).await.unwrap();
    assert_eq!(read, None);
    assert_eq!(rig.aws.journal().calls("AssumeRole", None), 1);
    // Made once and kept.
    let again = rig
        .accounts
        .get(&access("stagesweep-{account}", "us-east-1"));
    assert!(Arc::ptr_eq(&account, &again));

    // With its own credentials the daemon sees nothing of the other account.
    let own = rig.connector.own();
    let read = own.parameters("us-east-1").parameter(PARAMETER).await;
    assert_eq!(read.unwrap(), None);
    let found = own.cloudfront("us-east-1").distribution(&production).await;
    assert_eq!(found.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_to_assume_the_role_has_the_class_of_its_cause() {
    let refuse = |status: u16, code: &str| Action::Refuse(Failure::new(status, code, "said STS"));
    for (action, class) in [
        (Action::Throttle, ErrorClass::Throttled),
        (refuse(503, "ServiceUnavailable"), ErrorClass::Unavailable),
        (refuse(400, "MalformedPolicyDocument"), ErrorClass::Rejected),
        (
            refuse(403, "RegionDisabledException"),
            ErrorClass::AccessDenied,
        ),
        (Action::DropBefore, ErrorClass::Unavailable),
        (Action::Hang, ErrorClass::Unavailable),
    ] {
        let rig = rig();
        rig.aws.add_rule(Rule::on("AssumeRole").then(action));
        let account = rig
            .accounts
            .get(&access("stagesweep-{account}", "us-east-1"));
        let began = Instant::now();
        let error = account.clients.ssm.parameter(PARAMETER).await.unwrap_err();
        assert_eq!(error.class, class, "{}", chain(&error));
        assert!(began.elapsed() <= Duration::from_secs(21), "{class}");
        assert_eq!(rig.aws.journal().calls("GetParameter", None), 0);
    }

    // The trust policy asks for another external id.
    let rig = rig();
    let account = rig.accounts.get(&access("guessed", "us-east-1"));
    let many = join_all((0..50).map(|_| account.clients.ssm.parameter(PARAMETER))).await;
    for result in many {
        let error = result.unwrap_err();
        assert_eq!(error.class, ErrorClass::AccessDenied);
        let text = chain(&error);
        assert!(
            text.starts_with("GetParameter of Systems Manager failed (AccessDenied)"),
            "{text}"
        );
        assert!(text.contains(ROLE) && text.contains("AssumeRole"), "{text}");
    }
    assert_eq!(rig.aws.journal().calls("AssumeRole", None), 1);
    // Mended: the next one finds out.
    rig.aws.create_role(ROLE, None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = account.clients.ssm.parameter(PARAMETER).await;
    assert!(read.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn credentials_are_renewed_before_they_end() {
    let rig = rig();
    let account = rig
        .accounts
        .get(&access("stagesweep-{account}", "us-east-1"));
    // Ten hours of calls, several at once, and often enough to meet the very end of a session.
    for _ in 0..600 {
        for result in join_all((0..5).map(|_| account.clients.ssm.parameter(PARAMETER))).await {
            assert!(result.unwrap().is_some());
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let journal = rig.aws.journal();
    assert_eq!(journal.calls("GetParameter", None), 3000);
    // Every 55 to 57.5 minutes.
    let assumed = journal.calls("AssumeRole", None);
    assert!((10..=12).contains(&assumed), "{assumed}");
}
