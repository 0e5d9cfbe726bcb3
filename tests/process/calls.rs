//! Which AWS calls the program makes, and that the published policy allows these and no others.
//!
//! The harness notes the operations that the daemon called, of all tests; `./tests/run templates` holds the
//! roles in deploy/ against them. Other verbs may need more, of whoever runs them.

use std::collections::BTreeSet;
use std::time::Duration;

use stagesweep::rehearsal::{Entry, Review};

use crate::harness::World;

/// The IAM action that allows an operation: batches have none of their own.
fn action(entry: &Entry) -> String {
    let operation = entry.call.operation.trim_end_matches("Batch");
    format!("{}:{operation}", entry.call.service)
}

/// What the policy in the README allows the daemon; what follows there is for `doctor`.
fn published() -> BTreeSet<String> {
    let readme = include_str!("../../README.md");
    let (_, policy) = readme.split_once("cat > iam-policy.json").unwrap();
    let (policy, _) = policy.split_once("\"RulesByTarget\"").unwrap();
    let quoted = policy.split('"').skip(1).step_by(2);
    let services = ["sqs:", "ssm:", "cloudfront:", "dynamodb:"];
    let actions = quoted.filter(|text| services.iter().any(|it| text.starts_with(it)));
    actions.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_published_policy_allows_exactly_what_is_called() {
    // Each propagation outlives the visibility timeout, so that it is extended.
    let world = World::with(Duration::from_millis(2500)).await;
    world.aws.create_table("stagesweep-ledger", "pk");
    let shop = world.service("shop");
    // A script was killed here after it had detached the policy: nothing names that any more.
    let blog = world.service("blog");
    world
        .aws
        .change_settings(|settings| settings.switches.staging_shows_policy = false);
    world
        .aws
        .edit_distribution(&blog.production_id, "ContinuousDeploymentPolicyId", "")
        .unwrap();
    // The parameter was written again after the approval had begun: only its history tells.
    let wiki = world.service("wiki");
    world
        .aws
        .put_parameter(&wiki.staging_parameter, &wiki.staging_id);
    world.reject(&wiki);
    world.reject(&shop);
    world.reject(&blog);
    world.send("no event at all");
    let daemon = world
        .daemon()
        .env("STAGESWEEP__LEDGER__BACKEND", "dynamodb")
        .env("STAGESWEEP__LEDGER__TABLE", "stagesweep-ledger")
        .env("STAGESWEEP__VERIFY__CODEPIPELINE", "true")
        .argument("--drain")
        .spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    world.assert_cleaned_once(&shop);
    assert!(world.aws.policy(&blog.policy_id).is_none());
    assert_eq!(world.dead_letters(), 1);
    let entries = world.aws.journal().entries();
    let called: BTreeSet<String> = entries.iter().map(action).collect();
    // The ledger in a table, and asking CodePipeline, are choices with policies of their own.
    let (chosen, called): (BTreeSet<_>, BTreeSet<_>) = called
        .into_iter()
        .partition(|it| it.starts_with("dynamodb:") || it.starts_with("codepipeline:"));
    assert_eq!(called, published());
    let choices = [
        "codepipeline:GetPipelineState",
        "codepipeline:ListActionExecutions",
        "dynamodb:GetItem",
        "dynamodb:UpdateItem",
    ];
    assert_eq!(chosen, BTreeSet::from(choices.map(str::to_owned)));
}

#[tokio::test]
async fn catching_up_calls_what_the_documentation_lists() {
    let world = World::new().await;
    let shop = world.service("shop");
    // No event of it comes.
    world.aws.review(&shop, 1, Review::Rejected(None));
    let daemon = world
        .daemon()
        .env("STAGESWEEP__CATCH_UP__INTERVAL", "200ms")
        .spawn();
    let name = shop.staging_parameter.clone();
    let cleaned = |aws: &stagesweep::rehearsal::EmbeddedAws| {
        aws.parameter(&name).as_deref() == Some("deleted")
    };
    world
        .until("the lost rejection is cleaned up", cleaned)
        .await;
    daemon.stop().await;
    world.assert_cleaned_once(&shop);
    let entries = world.aws.journal().entries();
    let called: BTreeSet<String> = entries.iter().map(action).collect();
    let asked: Vec<&str> = called
        .iter()
        .filter_map(|it| it.strip_prefix("codepipeline:"))
        .collect();
    let listed = [
        "GetPipelineState",
        "ListActionExecutions",
        "ListPipelineExecutions",
        "ListPipelines",
    ];
    assert_eq!(asked, listed);
    let documentation = include_str!("../../docs/CONFIGURATION.md");
    for operation in listed {
        assert!(documentation.contains(operation), "{operation}");
    }
}
