//! The verbs for the person on call: what they show, refuse and do, with a daemon beside them.

use std::os::unix::fs::PermissionsExt;

use embedded_aws::{Action, Rule};
use serde_json::Value;
use tokio::time::Duration;

use crate::harness::{Finished, Launch, NEVER, PROPAGATION, TARGET, World, noticed};

pub(crate) const PIPELINE: &str = "shop-frontend-pipeline";

/// A verb with the configuration of the daemon.
pub(crate) fn verb(world: &World, arguments: &[&str]) -> Launch {
    let config = world.write_config("config.toml", TARGET);
    world
        .program(arguments)
        .argument("--config")
        .argument(config)
}

/// Runs a verb to its end, which must come to this status.
pub(crate) async fn ends(world: &World, arguments: &[&str], status: i32) -> Finished {
    let ended = verb(world, arguments).finish().await;
    assert_eq!(
        ended.code,
        Some(status),
        "{arguments:?}\n{}\n{}",
        ended.stdout,
        ended.stderr
    );
    ended
}

/// The JSON document that a verb writes.
pub(crate) async fn document(world: &World, arguments: &[&str], status: i32) -> Value {
    let ended = ends(world, arguments, status).await;
    serde_json::from_str(&ended.stdout).unwrap()
}

fn names(steps: &Value) -> Vec<&str> {
    let steps = steps.as_array().unwrap();
    steps
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn plan_shows_what_is_there_and_every_step_and_changes_nothing() {
    let world = World::new().await;
    let shop = world.service("shop");
    let plan = document(&world, &["plan", PIPELINE, "--json"], 0).await;
    assert_eq!(
        names(&plan["steps"]),
        [
            "record_deleted",
            "detach_policy",
            "detach_propagated",
            "delete_policy",
            "disable_staging",
            "disable_propagated",
            "delete_staging"
        ]
    );
    assert_eq!(plan["outcome"], "cleaned");
    assert_eq!(plan["staging_parameter"]["value"], shop.staging_id);
    assert_eq!(plan["production"]["policy_id"], shop.policy_id);
    let said = ends(&world, &["plan", PIPELINE], 0).await.stdout;
    for text in [
        &*shop.staging_id,
        &shop.policy_id,
        "arn:aws:sts::123456789012:assumed-role/shop-codebuild/AWSCodeBuild-",
        "1. set the staging parameter",
        "2. detach policy",
    ] {
        assert!(said.contains(text), "no {text} in\n{said}");
    }
    assert!(!said.contains('\x1b'), "colours without a terminal\n{said}");

    // What a daemon does is what was foreseen.
    world.reject(&shop);
    let daemon = world.daemon().argument("--drain").spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    let plan = document(&world, &["plan", PIPELINE, "--json"], 0).await;
    assert_eq!(plan["outcome"], "already_clean");
    assert_eq!(names(&plan["steps"]), [""; 0]);
}

#[tokio::test]
async fn plan_shows_the_program_word_by_word_and_whether_it_could_be_started() {
    let world = World::new().await;
    let program = world.path("undo it");
    let target = format!(
        "[[targets]]\npipeline = \"batch\"\nrun = [{program:?}, \"--of {{pipeline}}\", \"{{execution_id}}\"]\n"
    );
    let config = world.write_config("config.toml", &target);
    let plan = async |arguments: &'static [&'static str]| {
        let verb = world
            .program(arguments)
            .argument("--config")
            .argument(&config);
        let ended = verb.finish().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    let document = async || -> Value {
        serde_json::from_str(&plan(&["plan", "batch", "--json"]).await).unwrap()
    };
    let path = program.to_str().unwrap();
    let missing = document().await;
    let words = serde_json::json!([path, "--of {pipeline}", "{execution_id}"]);
    assert_eq!(missing["program"], words);
    let fault = missing["program_fault"].as_str().unwrap();
    assert!(fault.contains("No such file"), "{fault}");
    let said = plan(&["plan", "batch", "--wide"]).await;
    let told = format!("It could not be run from here: {path} {fault}");
    assert!(said.contains(&told), "{said}");

    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    assert_eq!(document().await["program_fault"], "is not executable");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    assert_eq!(document().await["program_fault"], Value::Null);
    let said = plan(&["plan", "batch"]).await;
    assert!(!said.contains("could not be run"), "{said}");
}

#[tokio::test]
async fn plan_says_why_a_rejection_would_be_refused_and_which_target_is_meant() {
    let world = World::new().await;
    let shop = world.service("shop");
    world
        .aws
        .put_parameter(&shop.staging_parameter, &shop.production_id);
    let plan = document(&world, &["plan", PIPELINE, "--json"], 1).await;
    assert_eq!(plan["reason"], "staging_is_production");
    let said = ends(&world, &["plan", PIPELINE, "--wide"], 1).await.stdout;
    for text in [
        "Refused (staging_is_production): ",
        &format!(
            "{} in ap-northeast-1 of account 123456789012 named {}",
            shop.staging_parameter, shop.production_id
        ),
        "write `deleted` or the staging distribution's id to it",
    ] {
        assert!(said.contains(text), "no {text} in\n{said}");
    }
    let detail = plan["detail"].as_str();
    assert_eq!(detail.map(|it| said.contains(it)), Some(true), "{plan}");

    let ended = ends(&world, &["plan", "nobody"], 1).await;
    assert!(
        ended
            .stderr
            .contains("{service}-frontend-pipeline / Approve / Approve"),
        "{}",
        ended.stderr
    );
    let ended = ends(&world, &["plan", "{service}-frontend-pipeline"], 1).await;
    assert!(ended.stderr.contains("\"shop-frontend-pipeline\""));
    ends(&world, &["plan"], 2).await;
    world.aws.deny("GetDistribution");
    let ended = ends(&world, &["plan", PIPELINE], 1).await;
    let at = world.endpoint_url().replace("http://", "at ");
    for text in [
        "GetDistribution of CloudFront failed",
        &at,
        "AccessDenied",
        "; allow it in ",
    ] {
        assert!(ended.stderr.contains(text), "no {text} in {}", ended.stderr);
    }
    world.assert_untouched();

    // Nobody listens at port 9 of this machine.
    let nowhere = "http://127.0.0.1:9";
    let ended = verb(&world, &["plan", PIPELINE]).env("AWS_ENDPOINT_URL", nowhere);
    let ended = ended.finish().await;
    let said = "Systems Manager cannot be reached at 127.0.0.1:9 (GetParameter): connection refused; check the \
                network, AWS_ENDPOINT_URL and the region";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
}

#[tokio::test]
async fn history_tells_of_every_job_beside_the_daemon_and_draws_one() {
    let world = World::new().await;
    let ended = ends(&world, &["history"], 1).await;
    assert!(
        ended.stderr.contains("there is no ledger"),
        "{}",
        ended.stderr
    );
    ends(&world, &["history", "show", "nothing"], 1).await;

    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = world.daemon().spawn();
    daemon.says("message deleted").await;
    // A job that goes on while the ledger is read.
    world
        .aws
        .change_settings(|settings| settings.propagation = NEVER);
    let blog = world.service("blog");
    world.reject(&blog);
    daemon.waits_for("detach_propagated").await;
    let renewed = world.notice(Rule::on("ChangeMessageVisibilityBatch"));
    noticed(renewed).await;

    let all = document(&world, &["history", "--json"], 0).await;
    let all = all["items"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["state"], "working");
    assert_eq!(all[0]["outcome"], "working");
    assert_eq!(all[0]["execution_id"], blog.execution_id);
    assert_eq!(all[1]["outcome"], "cleaned");
    assert_eq!(all[1]["done"].as_array().unwrap().len(), 5);
    assert_eq!(all[1]["policy_id"], shop.policy_id);
    assert_eq!(all[1]["target"], "{service}-frontend-pipeline");
    assert!(all[1]["comment"].is_string(), "{}", all[1]);
    let cleaned = ["history", "--json", "--outcome", "cleaned", "--since", "1h"];
    let cleaned = document(&world, &cleaned, 0).await;
    assert_eq!(cleaned["items"].as_array().unwrap().len(), 1);
    let show = ["history", "show", &shop.execution_id, "--json"];
    let shown = document(&world, &show, 0).await;
    for (field, value) in all[1].as_object().unwrap() {
        assert_eq!(shown[field], *value, "{field}");
    }
    let said = ends(&world, &["history", "--pipeline", PIPELINE], 0)
        .await
        .stdout;
    assert!(said.contains(&shop.execution_id) && !said.contains(&blog.execution_id));

    let picture = world.path("timeline.svg");
    let begin = &shop.execution_id[..8];
    let arguments = ["history", "show", begin, "--svg", picture.to_str().unwrap()];
    let ended = ends(&world, &arguments, 0).await;
    for text in [
        "policy detached",
        "for the disable to propagate",
        "run ended: cleaned",
    ] {
        assert!(
            ended.stdout.contains(text),
            "no {text} in\n{}",
            ended.stdout
        );
    }
    let picture = std::fs::read_to_string(picture).unwrap();
    let picture = roxmltree::Document::parse(&picture).unwrap();
    let waits = picture
        .descendants()
        .filter(|node| node.has_attribute("rx"));
    assert_eq!(waits.count(), 2);
    let ended = ends(&world, &["history", "show", "nothing"], 1).await;
    assert!(ended.stderr.contains("knows no execution"));
    daemon.stop().await;
}

#[tokio::test]
async fn clean_does_a_daemons_work_by_hand_and_needs_a_yes() {
    let world = World::new().await;
    let shop = world.service("shop");
    let ended = ends(&world, &["clean", PIPELINE], 1).await;
    assert!(ended.stderr.contains("add --yes"), "{}", ended.stderr);
    world.assert_untouched();

    let said = ends(&world, &["clean", PIPELINE, "--yes"], 0).await.stdout;
    for text in ["policy detached from production", "parameter set", "Done:"] {
        assert!(said.contains(text), "no {text} in\n{said}");
    }
    world.assert_cleaned_once(&shop);
    let again = document(&world, &["clean", PIPELINE, "--yes", "--json"], 0).await;
    assert_eq!(again["outcome"], "already_clean");
    let history = document(&world, &["history", "--json"], 0).await;
    let job = &history["items"][0];
    assert_eq!(job["outcome"], "cleaned");
    assert_eq!(job["staging_id"], shop.staging_id);
    // A person's job is no execution's.
    assert_eq!(job["execution_id"], Value::Null, "{job}");
    assert_eq!(job["pipeline_arn"], again["pipeline_arn"], "{job}");

    // The event that comes after all finds nothing left to do.
    world.reject(&shop);
    let daemon = world.daemon().argument("--drain").spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    world.assert_cleaned_once(&shop);
    assert_eq!(world.dead_letters(), 0);
}

#[tokio::test]
async fn clean_that_is_interrupted_or_killed_goes_on_where_it_was() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    let arguments = ["clean", PIPELINE, "--yes"];
    let cleaning = verb(&world, &arguments).spawn();
    cleaning.writes("waiting for the detach to propagate").await;
    cleaning.signal("INT");
    assert_eq!(cleaning.exited().await.code(), Some(1), "{cleaning:?}");
    let said = cleaning.stderr.text();
    let left = format!(
        "Left: policy {} (detached), staging {} (enabled). `stagesweep clean {PIPELINE}` goes on",
        shop.policy_id, shop.staging_id
    );
    for text in [
        "stopped after 2 of 5: parameter set to `deleted`, policy detached from production. ",
        &left,
    ] {
        assert!(said.contains(text), "no {text} in {said}");
    }

    let cleaning = verb(&world, &arguments).spawn();
    cleaning.writes("waiting for the detach to propagate").await;
    world.aws.settle();
    cleaning
        .writes("waiting for the disable to propagate")
        .await;
    cleaning.killer()();
    cleaning.exited().await;

    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    ends(&world, &arguments, 0).await;
    world.assert_cleaned_once(&shop);
}

#[tokio::test]
async fn clean_and_a_daemon_work_on_one_production_distribution_one_at_a_time() {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = world.daemon().spawn();
    daemon.waits_for("detach_propagated").await;
    let changes = world.changes().len();
    let arguments = ["clean", PIPELINE, "--yes"];
    let ended = ends(&world, &arguments, 1).await;
    assert!(
        ended.stderr.contains(&shop.execution_id),
        "{}",
        ended.stderr
    );
    assert_eq!(world.changes().len(), changes, "{}", world.journal());
    daemon.stop().await;

    // The other way round: the daemon starts, and the rejection waits for its turn.
    let cleaning = verb(&world, &arguments).spawn();
    cleaning.writes("waiting for the detach to propagate").await;
    world.aws.show_messages(&world.queues.url).unwrap();
    let daemon = world.daemon().spawn();
    daemon
        .says("held: another instance works on this job")
        .await;
    // Past the lease of 2 s that the person was given at first: it is renewed, and the message stays hidden.
    let past = Rule::on("ChangeMessageVisibilityBatch").nth(5);
    noticed(world.notice(past)).await;
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    world.aws.settle();
    assert_eq!(cleaning.exited().await.code(), Some(0), "{cleaning:?}");
    world.settled().await;
    world.assert_cleaned_once(&shop);
    daemon.stop().await;
}

#[tokio::test]
async fn clean_refuses_what_the_fences_refuse_and_is_bound_to_what_it_showed() {
    let world = World::new().await;
    let shop = world.service("shop");
    // A newer deployment writes the parameter between the look and the work.
    let newer = std::sync::OnceLock::new();
    let newer = std::sync::Arc::new(newer);
    let (service, made) = (shop.service.clone(), std::sync::Arc::clone(&newer));
    world.aws.add_rule(
        Rule::on("GetParameter")
            .nth(3)
            .then(Action::before(move |aws, _| {
                let _ = made.set(aws.deploy_again(&service).unwrap());
            })),
    );
    let cleaned = document(&world, &["clean", PIPELINE, "--yes", "--json"], 0).await;
    assert_eq!(cleaned["outcome"], "superseded", "{cleaned}");
    assert_eq!(cleaned["staging_id"], shop.staging_id);
    let newer = newer.get().unwrap();
    assert!(world.aws.distribution(&shop.staging_id).is_none());
    assert!(world.aws.distribution(&newer.staging_id).is_some());
    assert!(world.aws.policy(&newer.policy_id).is_some());
    let value = world.aws.parameter(&shop.staging_parameter);
    assert_eq!(value.as_ref(), Some(&newer.staging_id));
}

/// A world whose `shop` was deployed twice: the first deployment's staging distribution and policy
/// are left behind, and two hours old.
pub(crate) async fn leaked(world: &World) -> (embedded_aws::Service, embedded_aws::Service) {
    let age = Duration::from_secs(2 * 3600);
    let mut older = world.service("shop").service;
    let newer = world.aws.deploy_again(&older).unwrap();
    world.aws.settle();
    world.aws.backdate(age);
    older.start_time = older.start_time.checked_sub(age).unwrap();
    (older, newer)
}

#[tokio::test]
async fn orphans_are_listed_with_their_past_and_taken_down_in_the_safe_order() {
    let world = World::new().await;
    let (older, newer) = leaked(&world).await;
    // Without a ledger open jobs are not known.
    let report = document(&world, &["orphans", "--json"], 1).await;
    let of = |id: &str| {
        let all = report["items"].as_array().unwrap();
        all.iter().find(|it| it["id"] == *id).unwrap()
    };
    assert_eq!(of(&older.staging_id)["orphan"], true);
    assert_eq!(of(&older.staging_id)["outcome"], "orphan");
    // What the alarm in the templates is held against.
    let written = ends(&world, &["orphans", "--json"], 1).await.stdout;
    let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/orphans.json");
    std::fs::write(kept, written).unwrap();
    assert_eq!(of(&older.staging_id)["parameter"], older.staging_parameter);
    assert_eq!(of(&newer.staging_id)["reason"], "named");
    assert_eq!(report["quota"]["staging_used"], 2);
    let ended = ends(&world, &["orphans"], 1).await;
    assert!(
        ended.stderr.contains("there is no ledger"),
        "{}",
        ended.stderr
    );
    let said = ended.stdout;
    assert!(said.contains("1 orphan.") && said.contains("18"), "{said}");
    // Older than a day it is not; and without a ledger nothing is taken down.
    let said = ends(&world, &["orphans", "--min-age", "1d"], 1)
        .await
        .stdout;
    assert!(said.contains("No orphans."), "{said}");
    let ended = ends(&world, &["orphans", "--delete", "--yes"], 1).await;
    assert!(
        ended.stderr.contains("there is no ledger"),
        "{}",
        ended.stderr
    );

    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    let ended = ends(&world, &["orphans", "--delete"], 1).await;
    assert!(ended.stderr.contains("add --yes"), "{}", ended.stderr);
    world.assert_untouched();
    let ended = ends(&world, &["orphans", "--delete", "--yes"], 0).await;
    assert!(ended.stdout.contains("gone"), "{}", ended.stdout);
    let operations: Vec<_> = world
        .changes()
        .iter()
        .map(|entry| entry.call.operation.clone())
        .collect();
    assert_eq!(
        operations,
        [
            "DeleteContinuousDeploymentPolicy",
            "UpdateDistribution",
            "DeleteDistribution"
        ],
        "{}",
        world.journal()
    );
    assert!(world.aws.distribution(&older.staging_id).is_none());
    assert!(world.aws.distribution(&newer.staging_id).is_some());
    let production = world.aws.distribution(&newer.production_id).unwrap();
    assert_eq!(production.policy_id, newer.policy_id);

    // The late rejection of the older deployment finds its work done.
    world.reject(&older);
    let deleted = daemon.says("message deleted").await;
    assert_eq!(deleted["reason"], "superseded", "{daemon:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn an_orphan_that_is_young_or_that_a_job_is_bound_to_is_never_taken_down() {
    let world = World::with(NEVER).await;
    let older = world.service("shop").service;
    world.aws.deploy_again(&older).unwrap();
    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    let report = document(&world, &["orphans", "--delete", "--yes", "--json"], 0).await;
    let kept = |report: &Value| {
        let all = report["items"].as_array().unwrap().clone();
        let it = all.into_iter().find(|it| it["id"] == older.staging_id);
        it.unwrap()["reason"].clone()
    };
    assert_eq!(kept(&report), "young");

    // A job of its late rejection, which waits for the propagation of its disable.
    world.aws.settle();
    world.reject(&older);
    daemon.waits_for("disable_propagated").await;
    world.aws.backdate(Duration::from_secs(2 * 3600));
    let changes = world.changes().len();
    let report = document(&world, &["orphans", "--delete", "--yes", "--json"], 0).await;
    assert_eq!(kept(&report), "bound");
    assert_eq!(world.changes().len(), changes, "{}", world.journal());
    daemon.stop().await;
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_reason_and_sent_back_when_chosen() {
    let world = World::new().await;
    let shop = world.service("shop");
    // The shop's job is refused because its parameter is unusable. The other message is no event.
    let staging = world.aws.parameter(&shop.staging_parameter).unwrap();
    let production = world.aws.parameter(&shop.production_parameter).unwrap();
    world
        .aws
        .put_parameter(&shop.production_parameter, "nonsense");
    let refused = world.reject(&shop);
    let junk = world.send("{}");
    let daemon = world.daemon().spawn();
    let both =
        |aws: &embedded_aws::EmbeddedAws| aws.messages(&world.queues.dead_letter_url).len() == 2;
    world.until("both are dead letters", both).await;

    let letters = document(&world, &["dead-letters", "--json"], 0).await;
    let of = |id: &str| {
        let letters = letters["items"].as_array().unwrap();
        letters.iter().find(|it| it["message_id"] == *id).unwrap()
    };
    assert_eq!(of(&refused)["reason"], "production_parameter_invalid");
    let detail = of(&refused)["detail"].as_str().unwrap();
    let found = format!(
        "{} in ap-northeast-1 of account 123456789012 holds \"nonsense\" in version 2, which is no distribution's id: \
         write the production distribution's id to it; tried last at 20",
        shop.production_parameter
    );
    assert!(detail.starts_with(&found), "{detail}");
    let shown = ends(&world, &["history", "show", &shop.execution_id], 0).await;
    assert!(
        shown.stdout.contains("holds \"nonsense\""),
        "{}",
        shown.stdout
    );
    assert_eq!(of(&refused)["execution_id"], shop.execution_id);
    assert_eq!(of(&junk)["reason"], "missing_field");
    assert_eq!(world.dead_letters(), 2);

    // A ledger that cannot be read is not one that knows nothing.
    let elsewhere = verb(&world, &["dead-letters", "--json"])
        .env("STAGESWEEP__LEDGER__PATH", "/nowhere/ledger.db")
        .finish()
        .await;
    assert_eq!(elsewhere.code, Some(1));
    let letters: Value = serde_json::from_str(&elsewhere.stdout).unwrap();
    let mut reasons: Vec<_> = letters["items"].as_array().unwrap().iter().collect();
    reasons.sort_by_key(|it| it["reason"].to_string());
    assert_eq!(reasons[0]["reason"], "ledger_unreadable");
    let said = reasons[0]["detail"].as_str().unwrap();
    assert!(
        said.starts_with("there is no ledger /nowhere/ledger.db"),
        "{said}"
    );
    assert_eq!(reasons[1]["reason"], "missing_field");
    let warned = letters["warnings"][0].as_str().unwrap();
    assert!(warned.contains("/nowhere/ledger.db"), "{warned}");

    let ended = ends(&world, &["dead-letters", "--redrive", "nobody"], 1).await;
    assert!(ended.stderr.contains("nobody"), "{}", ended.stderr);
    let arguments = ["dead-letters", "--json", "--redrive", "nobody", &junk];
    let letters = document(&world, &arguments, 1).await;
    let why = letters["not_sent"][0].as_str().unwrap();
    assert!(why.contains("nobody"), "{why}");
    let items = letters["items"].as_array().unwrap();
    let sent = items.iter().find(|it| it["message_id"] == junk).unwrap();
    assert_eq!(sent["outcome"], "redriven", "{letters}");

    world
        .aws
        .put_parameter(&shop.production_parameter, &production);
    assert_eq!(staging, shop.staging_id);
    // The other one would be refused again.
    let all = ends(&world, &["dlq", "--redrive-all"], 1).await;
    let why = "1 of 2 would be refused again (missing_field): fix the cause, or add --force";
    assert!(all.stderr.contains(why), "{}", all.stderr);
    assert!(all.stdout.contains("sent back"), "{}", all.stdout);
    world.settled().await;
    assert!(world.aws.distribution(&shop.staging_id).is_none());
    // It is a duplicate now.
    world.reject(&shop);
    world.settled().await;
    // It was sent back once, and has another id since.
    let junk = world.aws.messages(&world.queues.dead_letter_url)[0]
        .id
        .clone();
    let arguments = ["dead-letters", "--redrive", &junk[..8]];
    let said = ends(&world, &arguments, 0).await.stdout;
    assert!(said.contains("sent back"), "{said}");
    let back =
        |aws: &embedded_aws::EmbeddedAws| aws.messages(&world.queues.dead_letter_url).len() == 1;
    world.until("it is a dead letter again", back).await;
    daemon.stop().await;
}

#[tokio::test]
async fn clean_and_history_follow_a_ledger_in_dynamodb_as_well() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.aws.create_table("ledger", "pk");
    let run = |arguments: &'static [&'static str]| {
        verb(&world, arguments)
            .env("STAGESWEEP__LEDGER__BACKEND", "dynamodb")
            .env("STAGESWEEP__LEDGER__TABLE", "ledger")
            .finish()
    };
    let ended = run(&["clean", PIPELINE, "--yes"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    world.assert_cleaned_once(&shop);
    let ended = run(&["history", "--json"]).await;
    let history: Value = serde_json::from_str(&ended.stdout).unwrap();
    let job = &history["items"][0];
    assert_eq!(job["outcome"], "cleaned", "{history}");
    assert_eq!(job["done"].as_array().unwrap().len(), 5);
    assert_eq!(job["policy_id"], shop.policy_id);
    assert!(!world.path("ledger.db").exists());
}
