//! A role in another account, with endpoints of one's own for each service.

use crate::harness::World;

#[tokio::test]
async fn a_role_is_assumed_at_the_endpoint_that_is_set_for_sts() {
    let world = World::new().await;
    let account = "210987654321";
    let role = format!("arn:aws:iam::{account}:role/stagesweep");
    world.aws.create_role(&role, Some("shared"));
    let there = world.aws.in_account(account, "eu-west-1");
    let service = there.create_service("shop").unwrap();
    world.reject(&service);
    let config = world.write_config(
        "config.toml",
        r#"
[events]
allowed_accounts = ["210987654321"]
[[targets]]
pipeline = "arn:aws:codepipeline:{region}:{account}:{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
role_arn = "arn:aws:iam::{account}:role/stagesweep"
external_id = "shared"
"#,
    );
    let endpoint = world.endpoint_url();
    // Whatever is not named would go where nothing listens.
    let mut daemon = world
        .program(&["run", "--drain", "--config"])
        .argument(config)
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    for service in ["STS", "SQS", "SSM", "CLOUDFRONT", "CODEPIPELINE"] {
        daemon = daemon.env(&format!("AWS_ENDPOINT_URL_{service}"), &endpoint);
    }
    let daemon = daemon.spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    let value = there.parameter(&service.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"), "{}", world.journal());
    assert!(there.distribution(&service.staging_id).is_none());
    assert_eq!(world.dead_letters(), 0);
    let assumed = daemon.says("role assumed").await;
    assert_eq!(assumed["role.arn"], role);
}

#[tokio::test]
async fn the_verbs_work_as_the_targets_role_and_delete_no_orphan_where_they_cannot_see() {
    let world = World::new().await;
    let account = "210987654321";
    world
        .aws
        .create_role(&format!("arn:aws:iam::{account}:role/stagesweep"), None);
    let there = world.aws.in_account(account, "eu-west-1");
    let service = there.create_service("shop").unwrap();
    let routed = world.aws.route_rejections("stagesweep", &world.queues.url);
    routed.unwrap();
    // The same names in the daemon's own account are not meant.
    let here = world.service("shop");
    let config = world.write_config(
        "config.toml",
        r#"
[events]
allowed_accounts = ["210987654321"]
[[targets]]
pipeline = "arn:aws:codepipeline:eu-west-1:210987654321:{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
role_arn = "arn:aws:iam::{account}:role/stagesweep"
"#,
    );
    let verb = async |arguments: &[&str], status: i32| {
        let verb = world.program(arguments).argument("--config");
        let ended = verb.argument(&config).finish().await;
        let (out, err) = (&ended.stdout, &ended.stderr);
        assert_eq!(ended.code, Some(status), "{arguments:?}\n{out}\n{err}");
        ended
    };

    // A bare name is a pipeline of the queue's own account.
    let said = verb(&["plan", "shop-frontend-pipeline"], 1).await.stderr;
    assert!(said.contains("named by its ARN"), "{said}");
    let pipeline = "arn:aws:codepipeline:eu-west-1:210987654321:shop-frontend-pipeline";
    let plan = verb(&["plan", pipeline, "--json"], 0).await.stdout;
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["staging"]["id"], service.staging_id);
    let said = verb(&["plan", pipeline], 0).await.stdout;
    let role = "as arn:aws:iam::210987654321:role/stagesweep";
    assert!(said.contains(role), "{said}");
    verb(&["doctor", pipeline], 0).await;
    let said = verb(&["doctor"], 0).await.stdout;
    assert!(said.contains("not looked at"), "{said}");
    let refused = verb(&["orphans", "--delete", "--yes"], 1).await.stderr;
    assert!(refused.contains("lead elsewhere"), "{refused}");
    // There is no ledger yet.
    let said = verb(&["orphans"], 1).await.stdout;
    assert!(said.contains("were not looked at"), "{said}");

    // Such jobs are a daemon's guests.
    let daemon = world.program(&["run", "--config"]).argument(&config);
    let daemon = daemon.spawn();
    daemon.says("started").await;
    verb(&["clean", pipeline, "--yes"], 0).await;
    daemon.stop().await;
    let value = there.parameter(&service.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"), "{}", world.journal());
    assert!(there.distribution(&service.staging_id).is_none());
    assert!(world.aws.distribution(&here.staging_id).is_some());
}
