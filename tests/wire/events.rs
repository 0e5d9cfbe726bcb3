//! EventBridge: what goes over HTTP, what each answer means, and what a rule lets through to a queue.

use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde_json::{Value, json};
use stagesweep::aws::Connector;
use stagesweep::aws::eventbridge::{Event, EventBridge, MAX_BYTES, MAX_ENTRIES};
use stagesweep::domain::error_class::ErrorClass;
use stagesweep::rehearsal::{Action, EmbeddedAws, Failure, Queues, Rule, Settings};
use stagesweep::runtime::clock::Clock;
use stagesweep::telemetry::Telemetry;

use crate::calls::Wire;
use crate::signature::verified_scope;

struct Rig {
    aws: EmbeddedAws,
    queues: Queues,
    wire: Wire,
    events: EventBridge,
}

fn rig() -> Rig {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock.clone(), Settings::default());
    let queues = aws.create_queue_with_dlq("work", 5, Duration::from_secs(30));
    let wire = Wire::to(&aws);
    let connector = Connector::to_endpoint(
        "http://aws.test",
        "ap-northeast-1",
        Some(SharedHttpClient::new(wire.clone())),
        &clock,
        Arc::new(Telemetry::new(clock.clone())),
    );
    let events = connector.events(None);
    Rig {
        aws,
        queues,
        wire,
        events,
    }
}

const QUEUE: &str = "arn:aws:sqs:ap-northeast-1:123456789012:work";

fn event(bus: &str, detail: Value) -> Event {
    Event {
        bus: bus.to_owned(),
        source: "stagesweep".to_owned(),
        detail_type: "stagesweep Outcome".to_owned(),
        detail: detail.to_string(),
        resources: vec!["arn:aws:codepipeline:ap-northeast-1:123456789012:shop".to_owned()],
    }
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_a_queue_are_found_and_read() {
    let rig = rig();
    rig.aws
        .route_rejections("stagesweep", &rig.queues.url)
        .unwrap();
    let names = rig.events.rules_to(QUEUE, "default").await.unwrap();
    assert_eq!(names, ["stagesweep"]);
    let sent = rig.wire.take();
    assert_eq!(
        verified_scope(&sent[0], "rehearsal"),
        "ap-northeast-1/events"
    );
    assert_eq!(
        sent[0].header("x-amz-target"),
        "AWSEvents.ListRuleNamesByTarget"
    );
    let rule = rig.events.rule("stagesweep", "default").await.unwrap();
    assert!(rule.enabled && rule.pattern.unwrap().contains("FAILED"));
    assert_eq!(
        rule.arn,
        "arn:aws:events:ap-northeast-1:123456789012:rule/stagesweep"
    );
    let target = |extra: Value| {
        let mut target = json!({ "Id": "queue", "Arn": QUEUE });
        for (name, value) in extra.as_object().unwrap() {
            target[name] = value.clone();
        }
        target
    };
    for (extra, whole) in [
        (json!({}), true),
        (json!({ "InputPath": "$" }), true),
        (json!({ "InputPath": "$.detail" }), false),
        (json!({ "Input": "{}" }), false),
        (
            json!({ "InputTransformer": { "InputTemplate": "\"it\"" } }),
            false,
        ),
    ] {
        rig.aws
            .put_rule("stagesweep", &json!({}), Some(target(extra.clone())));
        let found = rig.events.targets("stagesweep", "default").await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].whole_event, whole, "{extra}");
        assert_eq!((found[0].retries, found[0].max_age), (None, None));
    }
    let extra = json!({
        "DeadLetterConfig": { "Arn": "arn:dead" },
        "RetryPolicy": { "MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60 },
    });
    rig.aws
        .put_rule("stagesweep", &json!({}), Some(target(extra)));
    let found = rig.events.targets("stagesweep", "default").await.unwrap();
    assert_eq!(found[0].dead_letter_arn.as_deref(), Some("arn:dead"));
    assert_eq!(found[0].retries, Some(0));
    assert_eq!(found[0].max_age, Some(Duration::from_secs(60)));

    let none = rig.events.rules_to("arn:other", "default").await.unwrap();
    assert!(none.is_empty());
    let error = rig.events.rules_to(QUEUE, "nobody").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound);
    rig.aws.deny("DescribeRule");
    let error = rig.events.rule("stagesweep", "default").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::AccessDenied);
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_by_a_rule_to_a_queue_and_every_entry_has_its_own_result() {
    let rig = rig();
    rig.aws.create_event_bus("outcomes");
    let failed = json!({ "source": ["stagesweep"], "detail": { "outcome": ["failed"] } });
    let target = json!({ "Id": "queue", "Arn": QUEUE });
    rig.aws.put_rule("failures", &failed, Some(target));
    let one = |outcome: &str| event("default", json!({ "outcome": outcome }));
    let mut foreign = one("failed");
    foreign.source = "aws.codepipeline".to_owned();
    let mut malformed = one("failed");
    malformed.detail = "no JSON".to_owned();
    let bus = "arn:aws:events:ap-northeast-1:123456789012:event-bus/outcomes";
    let events = [
        one("failed"),
        one("cleaned"),
        foreign,
        malformed,
        event(bus, json!({ "outcome": "failed" })),
    ];
    let results = rig.events.put(&events).await.unwrap();
    let classes: Vec<_> = results
        .iter()
        .map(|it| it.as_ref().err().map(|error| error.class))
        .collect();
    assert_eq!(
        classes,
        [
            None,
            None,
            Some(ErrorClass::AccessDenied),
            Some(ErrorClass::Rejected),
            None
        ]
    );
    let sent = rig.wire.take();
    assert_eq!(sent[0].header("x-amz-target"), "AWSEvents.PutEvents");
    let messages = rig.aws.messages(&rig.queues.url);
    assert_eq!(messages.len(), 1);
    let body: Value = serde_json::from_str(&messages[0].body).unwrap();
    assert_eq!(body["detail-type"], "stagesweep Outcome");
    assert_eq!(body["detail"]["outcome"], "failed");
    assert_eq!(rig.aws.events_on("default").len(), 2);
    assert_eq!(rig.aws.events_on("outcomes").len(), 1);

    // 200, and yet nothing was taken.
    rig.aws
        .add_rule(Rule::on("PutEvents").nth(1).then(Action::RefuseEntries));
    let results = rig.events.put(&[one("failed")]).await.unwrap();
    let error = results[0].as_ref().unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert_eq!(rig.aws.events_on("default").len(), 2);
    // A bus that does not exist takes everything.
    let lost = rig.events.put(&[event("nobody", json!({}))]).await.unwrap();
    assert!(lost[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn too_much_at_once_is_refused_and_throttling_is_tried_again() {
    let rig = rig();
    let many = vec![event("default", json!({})); MAX_ENTRIES + 1];
    let error = rig.events.put(&many).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Rejected);
    let mut large = event("default", json!({ "comment": "" }));
    let room = MAX_BYTES - large.bytes();
    large.detail = json!({ "comment": "a".repeat(room) }).to_string();
    assert_eq!(large.bytes(), MAX_BYTES);
    assert!(rig.events.put(&[large.clone()]).await.unwrap()[0].is_ok());
    large.source.push('x');
    let error = rig.events.put(&[large]).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Rejected);

    let before = rig.aws.journal().calls("PutEvents", None);
    rig.aws
        .add_rule(Rule::on("PutEvents").nth(1).then(Action::Throttle));
    let unavailable = Failure::server_error(stagesweep::rehearsal::AwsService::EventBridge, true);
    rig.aws.add_rule(
        Rule::on("PutEvents")
            .nth(2)
            .then(Action::Refuse(unavailable)),
    );
    let put = rig.events.put(&[event("default", json!({}))]).await;
    assert!(put.unwrap()[0].is_ok());
    assert_eq!(rig.aws.journal().calls("PutEvents", None), before + 3);
}
