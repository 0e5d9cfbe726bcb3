//! Which AWS calls the program makes, and that the policy which `iam-policy` writes allows these and no others.
//!
//! The harness notes the operations that the daemon called, of all tests; `./tests/run templates` holds the
//! roles in deploy/ against them. Other verbs may need more, of whoever runs them.

use std::collections::BTreeSet;
use std::time::Duration;

use embedded_aws::{Entry, Review};

use crate::harness::World;

/// The IAM action that allows an operation: batches have none of their own.
fn action(entry: &Entry) -> String {
    let operation = entry.call.operation.trim_end_matches("Batch");
    format!("{}:{operation}", entry.call.service)
}

#[tokio::test]
async fn the_policy_that_is_written_allows_exactly_what_is_called() {
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
    let wiki = world.service("wiki");
    // Somebody deleted this one by hand: a listing has to bear that out.
    let docs = world.service("docs");
    let edit = |id: &str, name, value| world.aws.edit_distribution(id, name, value).unwrap();
    edit(&docs.production_id, "ContinuousDeploymentPolicyId", "");
    world.aws.settle();
    world.aws.delete_policy(&docs.policy_id).unwrap();
    edit(&docs.staging_id, "Enabled", "false");
    world.aws.settle();
    world.aws.delete_distribution(&docs.staging_id).unwrap();
    for service in [&shop, &blog, &wiki, &docs] {
        world.reject(service);
    }
    world.send("no event at all");
    let daemon = world
        .daemon()
        .env("STAGESWEEP__LEDGER__BACKEND", "dynamodb")
        .env("STAGESWEEP__LEDGER__TABLE", "stagesweep-ledger")
        .argument("--drain")
        .spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    world.assert_cleaned_once(&shop);
    assert!(world.aws.policy(&blog.policy_id).is_none());
    assert_eq!(world.dead_letters(), 1);
    let entries = world.aws.journal().entries();
    // Whose credentials these are may be asked without any permission.
    let called = entries.iter().filter(|it| !it.is("GetCallerIdentity"));
    let called: BTreeSet<String> = called.map(action).collect();
    let config = world.path("config.toml");
    let written = world
        .program(&["iam-policy", "--config"])
        .argument(config)
        .env("STAGESWEEP__LEDGER__BACKEND", "dynamodb")
        .env("STAGESWEEP__LEDGER__TABLE", "stagesweep-ledger");
    let written = written.finish().await;
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let policy: serde_json::Value = serde_json::from_str(&written.stdout).unwrap();
    let statements = policy["Statement"].as_array().unwrap().iter();
    let actions = statements.flat_map(|it| it["Action"].as_array().unwrap());
    let actions: BTreeSet<_> = actions.map(|it| it.as_str().unwrap().to_owned()).collect();
    assert_eq!(actions, called);
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
    daemon.says("cleanup succeeded").await;
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
    let documentation = include_str!("../../docs/BEHAVIOUR.md");
    for operation in listed {
        assert!(documentation.contains(operation), "{operation}");
    }
}
