//! What a program reads of the verbs: one envelope, one shape a verb, errors too. `tests/deploy/test_json.py` holds
//! everything that is kept of it against the schemas.

use serde_json::{Value, json};

use crate::harness::{NEVER, PROPAGATION, TARGET, World};
use crate::verbs::{PIPELINE, document, ends, leaked, verb};

fn keys(document: &Value) -> Vec<&String> {
    document.as_object().unwrap().keys().collect()
}

/// The one object on standard error.
async fn error(world: &World, arguments: &[&str], status: i32) -> Value {
    let ended = ends(world, arguments, status).await;
    serde_json::from_str(&ended.stderr).unwrap()
}

#[tokio::test]
async fn clean_has_one_shape_whatever_it_comes_to() {
    let world = World::with(NEVER).await;
    let blog = world.service("blog");
    world
        .aws
        .put_parameter(&blog.staging_parameter, &blog.production_id);
    let arguments = ["clean", "blog-frontend-pipeline", "--yes", "--json"];
    let refused = document(&world, &arguments, 1).await;
    assert_eq!(refused["outcome"], "refused");
    assert_eq!(refused["reason"], "staging_is_production");
    let warned = refused["warnings"][0].as_str().unwrap();
    assert!(warned.contains("no ledger"), "{warned}");

    let shop = world.service("shop");
    let arguments = ["clean", PIPELINE, "--yes", "--json"];
    let cleaning = verb(&world, &arguments).spawn();
    let production = shop.production_id.clone();
    let detached = move |aws: &embedded_aws::EmbeddedAws| {
        let policy = aws.distribution(&production).map(|it| it.policy_id);
        policy.is_some_and(|policy| policy.is_empty())
    };
    world.until("production is detached", detached).await;
    cleaning.signal("INT");
    let ended = cleaning.finished().await;
    assert_eq!(ended.code, Some(1), "{cleaning:?}");
    let interrupted: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(interrupted["outcome"], "interrupted", "{interrupted}");
    let done = json!(["record_deleted", "detach_policy"]);
    assert_eq!(interrupted["done"], done, "{interrupted}");
    let left = json!([
        { "type": "policy", "id": shop.policy_id },
        { "type": "staging_distribution", "id": shop.staging_id },
    ]);
    assert_eq!(interrupted["left"], left, "{interrupted}");

    // The daemon goes on with it.
    let daemon = world.daemon().spawn();
    daemon.waits_for("detach_propagated").await;
    let busy = document(&world, &arguments, 1).await;
    assert_eq!(busy["outcome"], "busy", "{busy}");
    assert_eq!(busy["key"], interrupted["key"], "{busy}");
    daemon.stop().await;

    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    let cleaned = document(&world, &arguments, 0).await;
    assert_eq!(cleaned["outcome"], "cleaned");
    assert_eq!(cleaned["resumed"], true);
    assert_eq!(cleaned["done_before"], done, "{cleaned}");
    let rest = json!(["delete_policy", "disable_staging", "delete_staging"]);
    assert_eq!(cleaned["done"], rest, "{cleaned}");
    assert_eq!(cleaned["left"], json!([]));
    let again = document(&world, &arguments, 0).await;
    assert_eq!(again["outcome"], "already_clean");
    for document in [&refused, &interrupted, &busy, &again] {
        assert_eq!(keys(document), keys(&cleaned));
    }
}

#[tokio::test]
async fn what_ends_a_verb_is_one_object_on_standard_error() {
    let world = World::new().await;
    let usage = error(&world, &["plan", "--json"], 2).await;
    assert_eq!(usage["code"], "usage");
    let said = usage["message"].as_str().unwrap();
    assert!(
        said.contains("<TARGET>") && !said.contains("Usage"),
        "{said}"
    );
    let usage = error(&world, &["orphans", "--json", "--nothing"], 2).await;
    assert!(usage["message"].as_str().unwrap().contains("--nothing"));
    let missing = error(&world, &["history", "--json"], 1).await;
    assert_eq!(missing["code"], "ledger_missing");
    let unknown = error(&world, &["plan", "nobody", "--json"], 1).await;
    assert_eq!(unknown["code"], "unknown_target");
    world.service("shop");
    world.aws.deny("GetDistribution");
    let denied = error(&world, &["plan", PIPELINE, "--json"], 1).await;
    assert_eq!(denied["code"], "access_denied", "{denied}");

    let bad = world.write_config("bad.toml", "[events]\nsurprise = 1\n");
    for verb in [
        &["check"][..],
        &["plan", PIPELINE],
        &["clean", PIPELINE, "--yes"],
        &["orphans"],
        &["dead-letters"],
        &["doctor"],
        &["history"],
    ] {
        let launch = world.program(verb).argument("--json");
        let ended = launch.argument("--config").argument(&bad).finish().await;
        assert_eq!(ended.code, Some(78), "{verb:?}");
        let error: Value = serde_json::from_str(&ended.stderr).unwrap();
        assert_eq!(error["code"], "bad_configuration");
        let faults = error["faults"].as_array().unwrap();
        let surprise = faults.iter().find(|it| it["key"] == "events.surprise");
        let surprise = surprise.unwrap_or_else(|| panic!("{error}"));
        assert_eq!(surprise["file"], bad.to_str().unwrap());
        assert!(surprise["line"].is_u64() && surprise["column"].is_u64());
        if verb == ["check"] {
            let document: Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(document["outcome"], "invalid");
            assert_eq!(document["faults"], error["faults"]);
        }
    }
}

#[tokio::test]
async fn check_says_every_value_its_source_and_what_targets_come_to() {
    let world = World::new().await;
    let config = world.write_config("config.toml", &format!("{TARGET}mode = \"observe\"\n"));
    let check = world
        .program(&["check", "--json", "--config"])
        .argument(&config)
        .env("STAGESWEEP__QUEUE__MAX_IN_FLIGHT", "7")
        .env("AWS_CA_BUNDLE", "/nowhere.pem");
    let ended = check.finish().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let check: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(check["outcome"], "valid");
    assert_eq!(check["config"]["queue"]["wait_time_ms"], 1000);
    assert_eq!(check["config"]["queue"]["max_in_flight"], 7);
    let source = &check["sources"]["queue.max_in_flight"];
    assert_eq!(source, "STAGESWEEP__QUEUE__MAX_IN_FLIGHT");
    let source = check["sources"]["queue.wait_time"].as_str().unwrap();
    assert!(source.starts_with(config.to_str().unwrap()), "{source}");
    assert_eq!(check["aws"]["region"]["value"], "ap-northeast-1");
    assert_eq!(check["aws"]["region"]["source"], "AWS_REGION");
    let target = &check["targets"][0];
    assert_eq!(target["target"], "{service}-frontend-pipeline");
    assert_eq!(target["mode"], "observe");
    let warned = check["warnings"][0].as_str().unwrap();
    assert!(warned.contains("/nowhere.pem"), "{warned}");
    assert_eq!(world.aws.journal().count(), 0);
}

#[tokio::test]
async fn history_has_the_ids_of_what_was_observed_and_the_notices_words_of_what_was_refused() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    let observing = world.daemon().env("STAGESWEEP__CLEANUP__MODE", "observe");
    let daemon = observing.argument("--drain").spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    world
        .aws
        .put_parameter(&shop.production_parameter, "nonsense");
    world.reject(&shop);
    let daemon = world.daemon().spawn();
    world
        .until("the message is a dead letter", |aws| {
            aws.messages(&world.queues.dead_letter_url).len() == 1
        })
        .await;
    let history = document(&world, &["history", "--json"], 0).await;
    daemon.stop().await;
    let of = |outcome: &str| {
        let items = history["items"].as_array().unwrap();
        let found = items.iter().find(|it| it["outcome"] == outcome);
        found.unwrap_or_else(|| panic!("no {outcome}: {history}"))
    };
    let observed = of("observed");
    assert_eq!(observed["staging_id"], shop.staging_id);
    assert_eq!(observed["production_id"], shop.production_id);
    assert_eq!(observed["policy_id"], shop.policy_id);
    let refused = of("refused");
    assert_eq!(refused["state"], "open");
    assert_eq!(refused["reason"], "production_parameter_invalid");
    assert_eq!(refused["stage"], "Approve", "it is bound to nothing");

    let chosen = ["history", "--json", "--outcome", "refused"];
    let chosen = document(&world, &chosen, 0).await;
    assert_eq!(chosen["items"], json!([refused]));

    // Two jobs of one execution.
    let show = ["history", "show", &shop.execution_id, "--json"];
    let show = document(&world, &show, 0).await;
    assert_eq!(show["outcome"], "refused");
    assert_eq!(show["earlier"], json!([observed]));
}

#[tokio::test]
async fn an_orphan_that_was_taken_down_is_gone_and_still_was_one() {
    let world = World::new().await;
    let (older, _) = leaked(&world).await;
    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    let arguments = ["orphans", "--delete", "--yes", "--json"];
    let report = document(&world, &arguments, 0).await;
    let items = report["items"].as_array().unwrap();
    let gone = items.iter().find(|it| it["id"] == older.staging_id);
    let gone = gone.unwrap_or_else(|| panic!("{report}"));
    assert_eq!(gone["outcome"], "gone", "{report}");
    assert_eq!(gone["orphan"], true, "{report}");
    daemon.stop().await;
}
