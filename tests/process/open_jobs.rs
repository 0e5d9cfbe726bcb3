//! Jobs that a person goes on with, and what a person waits for: another execution that is at work.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use embedded_aws::{ActionDefinition, Definition, Review, StageDefinition, Work};
use serde_json::Value;

use crate::harness::{Launch, NEVER, PROPAGATION, TARGET, World};
use crate::verbs::{PIPELINE, document, ends, leaked};

/// The configuration of a target that cleans and then has a program note what it was run for.
fn with_program(world: &World) -> std::path::PathBuf {
    let (program, seen) = (world.path("undo"), world.path("seen"));
    let text = format!(
        "#!/bin/sh\necho \"$1 $STAGESWEEP_OUTCOME\" >> {}\n",
        seen.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let target = format!("{TARGET}run = [{program:?}, \"{{execution_id}}\"]\n");
    world.write_config("config.toml", &target)
}

#[tokio::test]
async fn clean_goes_on_with_a_job_whose_message_is_gone_and_says_what_was_done_and_what_is_left() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    let config = with_program(&world);
    let verb = |arguments: &[&str]| -> Launch {
        let verb = world.program(arguments);
        verb.argument("--config").argument(&config)
    };
    world.reject(&shop);
    let daemon = verb(&["run"]).spawn();
    daemon.waits_for("detach_propagated").await;
    daemon.stop().await;
    world.aws.purge(&world.queues.url).unwrap();

    // The parameter says `deleted`, and yet there is something to do.
    let plan = verb(&["plan", PIPELINE, "--json"]).finish().await;
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["staging_parameter"]["value"], "deleted");
    assert_eq!(plan["outcome"], "already_clean");
    let open = &plan["open_job"];
    assert_eq!(open["execution_id"], shop.execution_id, "{plan}");
    assert_eq!(open["staging_id"], shop.staging_id, "{plan}");
    let done = serde_json::json!(["record_deleted", "detach_policy"]);
    assert_eq!(open["done"], done, "{plan}");
    let said = verb(&["plan", PIPELINE]).finish().await.stdout;
    assert!(
        said.contains("`stagesweep clean` goes on with it"),
        "{said}"
    );

    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    let cleaned = verb(&["clean", PIPELINE, "--yes", "--wide"]).finish().await;
    assert_eq!(cleaned.code, Some(0), "{}", cleaned.stderr);
    let said = cleaned.stdout;
    let (before, left) = said.split_once("What is left of it").unwrap();
    for text in [
        "An open job, which this goes on with",
        &*shop.execution_id,
        "parameter set to `deleted`; policy detached from production",
    ] {
        assert!(before.contains(text), "no {text} in\n{said}");
    }
    assert!(left.contains("1. delete policy"), "{said}");
    assert!(!left.contains("detach policy"), "{said}");
    assert!(left.contains("Done:"), "{said}");
    world.assert_cleaned_once(&shop);
    // It is the daemon's job, its program included.
    let ran = fs::read_to_string(world.path("seen")).unwrap();
    assert_eq!(ran, format!("{} cleaned\n", shop.execution_id));
    let history = document(&world, &["history", "--json"], 0).await;
    let history = history["items"].as_array().unwrap();
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!(history[0]["outcome"], "cleaned");
    assert_eq!(history[0]["done"].as_array().unwrap().len(), 5);
    let plan = document(&world, &["plan", PIPELINE, "--json"], 0).await;
    assert_eq!(plan["open_job"], Value::Null);
}

#[tokio::test]
async fn a_daemon_finishes_a_job_whose_message_is_gone_as_soon_as_it_starts() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = world.daemon().spawn();
    daemon.waits_for("detach_propagated").await;
    daemon.stop().await;
    world.aws.purge(&world.queues.url).unwrap();
    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    let daemon = world.daemon().spawn();
    let done = daemon.says("cleanup succeeded").await;
    assert_eq!(done["execution.id"], shop.execution_id, "{done}");
    daemon.stop().await;
    world.assert_cleaned_once(&shop);
}

#[tokio::test]
async fn clean_waits_while_another_execution_deploys_and_says_for_whom() {
    let world = World::new().await;
    let shop = world.service("shop");
    let other = world.aws.start_execution(&shop);
    world.aws.run_to(&other, "Deploy").unwrap();
    let config = world.write_config("config.toml", TARGET);
    let cleaning = world
        .program(&["clean", PIPELINE, "--yes", "--config"])
        .argument(config)
        .spawn();
    let held = format!(
        "held: execution {} of {PIPELINE} is at work in Deploy/Deploy",
        other.execution_id
    );
    cleaning.writes(&held).await;
    world.assert_untouched();
    world.aws.fail(&other);
    assert_eq!(cleaning.exited().await.code(), Some(0), "{cleaning:?}");
    cleaning
        .writes("for another execution to end its work")
        .await;
    world.assert_cleaned_once(&shop);
    let shown = ends(&world, &["history", "show", "manual"], 0).await.stdout;
    assert!(
        shown.contains("for another execution to end its work"),
        "{shown}"
    );
}

#[tokio::test]
async fn an_orphan_is_not_disabled_while_an_execution_behind_the_approval_is_at_work() {
    let world = World::new().await;
    let (older, newer) = leaked(&world).await;
    let verify = ActionDefinition::build("Verify", Work::Nothing);
    let verify = StageDefinition::new("Verify", [verify]);
    let definition = Definition::default().with_stage_before("Promote", verify);
    world.aws.define_pipeline(PIPELINE, definition);
    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    world.aws.review(&newer, 1, Review::Approved);
    let config = world.write_config("config.toml", TARGET);
    let deleting = world
        .program(&["orphans", "--delete", "--yes", "--config"])
        .argument(config)
        .spawn();
    let held = format!(
        "{}  held: execution {} of {PIPELINE} is at work in Verify/Verify",
        older.staging_id, newer.execution_id
    );
    deleting.writes(&held).await;
    let staging = world.aws.distribution(&older.staging_id).unwrap();
    assert!(staging.enabled, "{}", world.journal());
    world.aws.fail(&newer);
    assert_eq!(deleting.exited().await.code(), Some(0), "{deleting:?}");
    assert!(world.aws.distribution(&older.staging_id).is_none());
    assert!(world.aws.distribution(&newer.staging_id).is_some());
    daemon.stop().await;
}
