//! Several messages, several daemons, messages that mean harm, and a queue that goes silent.

use embedded_aws::{Action, EventOptions, Level, Outcome, Rule};
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::harness::{World, noticed};

fn edited(event: &str, edit: impl FnOnce(&mut Value)) -> String {
    let mut event = serde_json::from_str(event).unwrap();
    edit(&mut event);
    event.to_string()
}

#[tokio::test]
async fn a_dead_connection_is_given_up_and_polling_goes_on() {
    let world = World::new().await;
    let shop = world.service("shop");
    let hung = world.notice(Rule::on("ReceiveMessage").nth(1));
    world
        .aws
        .add_rule(Rule::on("ReceiveMessage").nth(1).then(Action::Hang));
    let daemon = world.daemon().spawn();
    noticed(hung).await;
    world.reject(&shop);
    let failing = daemon
        .says("receiving fails; trying again with backoff")
        .await;
    assert_eq!(failing["error.class"], "unavailable");
    let recovered = daemon.says("receiving works again").await;
    assert_eq!(recovered["receive.failures"], 1);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    daemon.stop().await;
}

#[tokio::test]
async fn two_daemons_with_two_ledgers_and_duplicates_end_clean() {
    let world = World::new().await;
    let services = ["shop", "blog", "docs"].map(|name| world.service(name));
    let ledger = |name| world.path(name).display().to_string();
    let daemons = ["one.db", "two.db"].map(|name| {
        let launch = world
            .daemon()
            .env("STAGESWEEP__LEDGER__PATH", &ledger(name));
        // Few at a time, so that both get their share.
        launch.env("STAGESWEEP__QUEUE__MAX_IN_FLIGHT", "3").spawn()
    });
    for daemon in &daemons {
        daemon.says("started").await;
    }
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.extend(
            services
                .iter()
                .map(|service| (service, world.reject(service))),
        );
    }
    world.settled().await;
    assert_eq!(world.dead_letters(), 0);
    for service in &services {
        world.assert_clean(service);
        // Only the parameter can be written twice: Parameter Store cannot compare and set.
        let mut changes = world.changes_of(service);
        changes.dedup();
        assert_eq!(changes, crate::harness::SAFE_ORDER, "\n{}", world.journal());
    }
    for (service, message_id) in &sent {
        world.assert_deleted_last(service, message_id);
    }
    for daemon in &daemons {
        daemon.stop().await;
    }
}

#[tokio::test]
async fn three_daemons_with_one_table_do_each_job_once_although_one_is_killed() {
    let world = World::new().await;
    world.aws.create_table("stagesweep-ledger", "pk");
    let services = ["shop", "blog", "docs", "wiki"].map(|name| world.service(name));
    let daemon = || {
        let launch = world.daemon();
        launch
            .env("STAGESWEEP__LEDGER__BACKEND", "dynamodb")
            .env("STAGESWEEP__LEDGER__TABLE", "stagesweep-ledger")
            .env("STAGESWEEP__QUEUE__MAX_IN_FLIGHT", "4")
            .spawn()
    };
    let doomed = daemon();
    world.reject(&services[0]);
    doomed.waits_for("detach_propagated").await;
    let others = [daemon(), daemon()];
    for service in &services {
        for _ in 0..3 {
            world.reject(service);
        }
    }
    for other in &others {
        other.says("started").await;
    }
    doomed.killer()();
    world.settled().await;
    assert_eq!(world.dead_letters(), 0);
    for service in &services {
        world.assert_cleaned_once(service);
    }
    for daemon in &others {
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_second_daemon_on_the_same_ledger_exits_and_leaves_the_first_alone() {
    let world = World::new().await;
    let shop = world.service("shop");
    let first = world.daemon().spawn();
    first.says("started").await;
    let second = world.daemon().finish().await;
    assert_eq!(second.code, Some(1));
    // Who has it is said, and no other ledger advised.
    let said = format!(
        "{} is held by pid {} (",
        world.path("ledger.db").display(),
        first.id()
    );
    assert!(second.stdout.contains(&said), "{}", second.stdout);
    for text in ["stagesweep run", ", since 20", "one daemon for each queue"] {
        assert!(second.stdout.contains(text), "{}", second.stdout);
    }
    assert!(!second.stdout.contains("ledger.path"), "{}", second.stdout);
    world.reject(&shop);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    first.stop().await;
}

#[tokio::test]
async fn a_drain_exits_once_the_backlog_is_settled() {
    let world = World::new().await;
    let services = ["shop", "blog"].map(|name| world.service(name));
    for service in &services {
        world.reject(service);
        for (level, outcome) in [
            (Level::Action, Outcome::Approved),
            (Level::Action, Outcome::Started),
            (Level::Stage, Outcome::Rejected),
            (Level::Pipeline, Outcome::Rejected),
        ] {
            let options = EventOptions {
                level,
                outcome,
                ..EventOptions::default()
            };
            world.send(&world.aws.rejection_event(service, &options));
        }
        world.reject(service);
    }
    let malformed = ["", "{", "[]"].map(|body| world.send(body));
    // A second one of the pipeline.
    let options = EventOptions {
        level: Level::Stage,
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&services[0], &options));
    let daemon = world.daemon().argument("--drain").spawn();
    let status = daemon.exited().await;
    assert_eq!(status.code(), Some(0), "{daemon:?}");
    let lines = daemon.lines();
    let wrong_kind = lines.iter().filter(|line| {
        let message = line["message"].as_str();
        message
            .unwrap_or_default()
            .starts_with("the rule asks for the wrong kind of event")
    });
    let mut warned: Vec<String> = wrong_kind
        .map(|line| format!("{} {}", line["pipeline"], line["event.detail_type"]))
        .collect();
    warned.sort();
    let mut expected = Vec::new();
    for service in &services {
        for kind in ["Stage", "Pipeline"] {
            expected.push(format!(
                "\"{}\" \"CodePipeline {kind} Execution State Change\"",
                service.pipeline
            ));
        }
    }
    expected.sort();
    assert_eq!(warned, expected, "{daemon:?}");
    assert!(
        world.aws.messages(&world.queues.url).is_empty(),
        "{daemon:?}"
    );
    for service in &services {
        world.assert_cleaned_once(service);
    }
    let dead = world.aws.messages(&world.queues.dead_letter_url);
    let mut dead: Vec<_> = dead.into_iter().map(|message| message.id).collect();
    dead.sort();
    let mut malformed = malformed.to_vec();
    malformed.sort();
    assert_eq!(dead, malformed);
}

#[tokio::test]
async fn a_hostile_message_touches_nothing_and_goes_to_the_dead_letter_queue_with_a_reason() {
    let world = World::new().await;
    let aws = &world.aws;
    let shop = world.service("shop");
    let event = aws.rejection_event(&shop, &EventOptions::default());
    // The approval begins after what the parameters are made to say.
    let rejection = |name: &str, spoil: &dyn Fn(&embedded_aws::Service)| {
        let service = world.service(name);
        spoil(&service);
        let later = aws.now() + Duration::from_secs(1);
        let options = EventOptions {
            start_time: Some(later),
            ..EventOptions::default()
        };
        aws.rejection_event(&service, &options)
    };
    // What a person writes is not the execution's; what its own deployment writes is.
    let by_its_build = |service: &embedded_aws::Service, id: &str| {
        let history = aws.parameter_history(&service.staging_parameter);
        let build = &history.last().unwrap().by.arn;
        aws.put_parameter_as(&service.staging_parameter, id, build);
    };
    let foreign = EventOptions {
        account: Some("210987654321".to_owned()),
        ..EventOptions::default()
    };
    let hostile = [
        ("not_an_envelope", "no json".to_owned()),
        ("not_an_envelope", "{\"source\": 7}".to_owned()),
        ("foreign_account", aws.rejection_event(&shop, &foreign)),
        (
            "foreign_source",
            edited(&event, |it| it["source"] = json!("aws.s3")),
        ),
        (
            "unknown_detail_type",
            edited(&event, |it| it["detail-type"] = json!("Gift")),
        ),
        (
            "missing_field",
            edited(&event, |it| it["detail"]["execution-id"] = json!(null)),
        ),
        (
            "invalid_field",
            edited(&event, |it| it["detail"]["execution-id"] = json!("a b")),
        ),
        (
            // The pipeline that the envelope names is not the one that the detail names.
            "invalid_field",
            edited(&event, |it| {
                it["detail"]["pipeline"] = json!("blog-frontend-pipeline")
            }),
        ),
        (
            "no_target",
            edited(&event, |it| it["detail"]["action"] = json!("Sign")),
        ),
        (
            "staging_is_production",
            rejection("same", &|service| {
                by_its_build(service, &service.production_id);
            }),
        ),
        (
            "production_parameter_invalid",
            rejection("garbage", &|service| {
                aws.put_parameter(&service.production_parameter, "<h1>It works!</h1>");
            }),
        ),
        (
            "staging_parameter_invalid",
            rejection("garbage-too", &|service| {
                aws.put_parameter(&service.staging_parameter, "../../etc/passwd");
            }),
        ),
        (
            "production_missing",
            rejection("gone", &|service| {
                aws.put_parameter(&service.production_parameter, "E00000000000");
            }),
        ),
        (
            "production_is_staging",
            rejection("swapped", &|service| {
                aws.put_parameter(&service.production_parameter, &shop.staging_id);
            }),
        ),
        (
            // It has aliases as well: someone's production.
            "not_a_staging_distribution",
            rejection("victim", &|service| {
                by_its_build(service, &shop.production_id);
            }),
        ),
    ];
    let before = aws.journal().count();
    let daemon = world.daemon().spawn();
    let mut expected = std::collections::BTreeMap::<&str, u64>::new();
    let mut sent = Vec::new();
    for (reason, body) in &hostile {
        sent.push((world.send(body), *reason));
        // Once, however often it is received.
        *expected.entry(reason).or_default() += 1;
    }
    world.settled().await;
    assert_eq!(world.dead_letters(), hostile.len());
    world.assert_untouched();
    assert!(
        aws.journal()
            .since(before)
            .iter()
            .all(|it| !it.is("DeleteMessageBatch"))
    );

    let executions = |body: &str| {
        let event: Value = serde_json::from_str(body).unwrap_or_default();
        event["detail"]["execution-id"].clone()
    };
    for ((message_id, reason), (_, body)) in sent.iter().zip(&hostile) {
        let released = daemon
            .says_also("message released", |it| it["message.id"] == **message_id)
            .await;
        assert_eq!(released["reason"], *reason, "{released}");
        // Of a job its own line tells.
        let told = |line: &Value| {
            let job = &line["execution.id"];
            let of_job = job.is_string() && *job == executions(body);
            line["level"] == "ERROR"
                && line["reason"] == *reason
                && (line["message.id"] == **message_id || of_job)
        };
        let told = daemon.lines().iter().filter(|it| told(it)).count();
        assert_eq!(told, 1, "{reason}");
    }
    daemon.stop().await;
    let mut counted = std::collections::BTreeMap::<String, u64>::new();
    for line in daemon.lines() {
        let Some(reason) = line["Reason"].as_str() else {
            continue;
        };
        assert_eq!(
            line["_aws"]["CloudWatchMetrics"][0]["Dimensions"],
            json!([["Reason"]])
        );
        for metric in ["MessagesRefused", "CleanupsRefused"] {
            let count = line[metric].as_u64().unwrap_or_default();
            *counted.entry(reason.to_owned()).or_default() += count;
        }
    }
    for (reason, count) in expected {
        assert_eq!(counted.get(reason), Some(&count), "{reason}: {counted:?}");
    }
}
