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
    for service in ["STS", "SQS", "SSM", "CLOUDFRONT"] {
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
