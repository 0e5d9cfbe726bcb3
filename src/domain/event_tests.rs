use serde_json::{Value, json};

use super::*;

#[path = "event_property_tests.rs"]
mod properties;

const REJECTED: &str = include_str!("../../tests/events/approval-rejected.json");
const RETRIED: &str = include_str!("../../tests/events/approval-rejected-again-after-retry.json");
const OLDER: &str = include_str!("../../tests/events/approval-rejected-older-form.json");
const APPROVED: &str = include_str!("../../tests/events/approval-approved.json");
const BUILD_FAILED: &str = include_str!("../../tests/events/build-failed.json");
const STAGE_FAILED: &str = include_str!("../../tests/events/stage-failed.json");
const PIPELINE_FAILED: &str = include_str!("../../tests/events/pipeline-failed.json");

const EXECUTION: &str = "3c1e9a54-7b70-4d1c-9a0e-5b8f1c2d7e61";
const OTHER_EXECUTION: &str = "3c1e9a54-7b70-4d1c-9a0e-5b8f1c2d7e62";

/// A sample with the value at each pointer replaced. The parent must exist.
fn with(sample: &str, changes: &[(&str, Value)]) -> String {
    let mut event: Value = serde_json::from_str(sample).unwrap();
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    event.to_string()
}

fn without(sample: &str, pointer: &str) -> String {
    let mut event: Value = serde_json::from_str(sample).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = event.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    assert!(parent.remove(field).is_some(), "{pointer}");
    event.to_string()
}

fn rejection(body: &str) -> Rejection {
    match parse(body).unwrap().kind {
        Kind::Rejection(rejection) => *rejection,
        Kind::NotARejection(why) => panic!("{why:?}"),
    }
}

/// The code of a malformed body, and the field it is about.
fn malformed(body: &str) -> (&'static str, &'static str) {
    let error = parse(body).unwrap_err();
    let field = match &error {
        Malformed::Missing { field } | Malformed::Invalid { field, .. } => field,
        _ => "",
    };
    (error.code(), field)
}

#[test]
fn a_rejection_carries_what_a_job_needs() {
    let event = parse(REJECTED).unwrap();
    assert_eq!(event.account, "210987654321");
    let rejection = rejection(REJECTED);
    assert_eq!(
        rejection.key.as_str(),
        format!("{EXECUTION}/8d2f6b13-0c4e-4f7a-b1d5-6a9e3c0f2b74")
    );
    assert_eq!(
        rejection.pipeline.to_string(),
        "arn:aws:codepipeline:eu-west-1:210987654321:shop-frontend-pipeline"
    );
    assert_eq!(rejection.execution_id, EXECUTION);
    assert_eq!(
        (&*rejection.stage, &*rejection.action),
        ("Approve", "Approve")
    );
    assert_eq!(rejection.as_of.to_string(), "2026-09-03T13:58:41.337Z");
    assert_eq!(rejection.rejected_at.to_string(), "2026-09-03T14:21:08Z");
    assert_eq!(
        rejection.comment.as_deref(),
        Some("The basket is empty after login")
    );
}

#[test]
fn the_older_form_is_as_of_the_events_own_time() {
    let rejection = rejection(OLDER);
    assert_eq!(rejection.as_of, rejection.rejected_at);
    assert_eq!(rejection.as_of_uncertainty, Duration::from_secs(1));
    assert_eq!(rejection.as_of.to_string(), "2026-09-03T14:21:08Z");
    assert_eq!(rejection.comment, None);
}

#[test]
fn every_other_event_of_codepipeline_asks_for_nothing() {
    use NotARejection::{NotAnAction, NotAnApproval, NotFailed};
    let state = |state: &str| with(REJECTED, &[("/detail/state", json!(state))]);
    // What only a rejection needs may be missing from what is none.
    let sparse = without(&without(APPROVED, "/detail/execution-id"), "/detail/type");
    for (body, expected) in [
        (APPROVED.to_owned(), NotFailed),
        (sparse, NotFailed),
        (state("STARTED"), NotFailed),
        (state("ABANDONED"), NotFailed),
        (state("CANCELED"), NotFailed),
        (BUILD_FAILED.to_owned(), NotAnApproval),
        (without(BUILD_FAILED, "/detail/execution-id"), NotAnApproval),
        (STAGE_FAILED.to_owned(), NotAnAction),
        (PIPELINE_FAILED.to_owned(), NotAnAction),
    ] {
        let kind = parse(&body).unwrap().kind;
        assert_eq!(kind, Kind::NotARejection(expected), "{body}");
    }
}

#[test]
fn numbers_come_as_floats_or_integers_and_mean_the_same() {
    let numbers = |attempt: Value, version: Value| {
        let body = without(REJECTED, "/detail/action-execution-id");
        rejection(&with(
            &body,
            &[
                ("/detail/pipeline-execution-attempt", attempt),
                ("/detail/version", version),
            ],
        ))
    };
    assert_eq!(numbers(json!(3.0), json!(2.0)), numbers(json!(3), json!(2)));
    for wrong in [
        json!(0),
        json!(0.0),
        json!(-1.0),
        json!(1.5),
        json!(1e300),
        json!("1"),
    ] {
        let pointer = "/detail/pipeline-execution-attempt";
        let body = with(REJECTED, &[(pointer, wrong.clone())]);
        // The action's own id identifies it.
        assert_eq!(rejection(&body), rejection(REJECTED), "{wrong}");
        let alone = without(&body, "/detail/action-execution-id");
        let field = "detail.pipeline-execution-attempt";
        assert_eq!(malformed(&alone), ("invalid_field", field), "{wrong}");
    }
}

#[test]
fn unknown_fields_are_tolerated_and_optional_ones_may_be_absent_or_null() {
    let more = with(
        REJECTED,
        &[
            ("/replay-name", json!("archive")),
            (
                "/detail/rollback-metadata",
                json!({ "a": [1, { "b": null }] }),
            ),
            ("/detail/type/kind", json!(7)),
        ],
    );
    assert_eq!(rejection(&more), rejection(REJECTED));

    for field in [
        "start-time",
        "execution-result",
        "action-execution-id",
        "pipeline-execution-attempt",
    ] {
        let pointer = format!("/detail/{field}");
        let absent = rejection(&without(REJECTED, &pointer));
        let null = rejection(&with(REJECTED, &[(&pointer, Value::Null)]));
        assert_eq!(absent, null, "{field}");
    }
    for resources in [Value::Null, json!([]), json!(["arn:aws:s3:::bucket"])] {
        let body = with(REJECTED, &[("/resources", resources)]);
        assert_eq!(rejection(&body), rejection(REJECTED));
    }
    assert_eq!(
        rejection(&without(REJECTED, "/resources")),
        rejection(REJECTED)
    );
}

#[test]
fn every_malformed_body_has_its_code_and_field() {
    let set = |pointer: &str, value: Value| with(REJECTED, &[(pointer, value)]);
    for (body, code) in [
        ("", "not_an_envelope"),
        ("rejected!", "not_an_envelope"),
        ("null", "not_an_envelope"),
        ("7", "not_an_envelope"),
        ("[", "not_an_envelope"),
        ("{}", "missing_field"),
        (&REJECTED[..REJECTED.len() - 3], "not_an_envelope"),
        (&format!("{REJECTED}{{}}"), "not_an_envelope"),
        (&set("/source", json!("aws.codebuild")), "foreign_source"),
        (&set("/detail-type", json!("Manual")), "unknown_detail_type"),
        (&set("/time", json!(1_756_900_000)), "not_an_envelope"),
        (&set("/detail/stage", json!(["Approve"])), "not_an_envelope"),
        (&without(REJECTED, "/detail-type"), "missing_field"),
    ] {
        assert_eq!(malformed(body).0, code, "{body}");
    }
    for (field, sample) in [
        ("source", REJECTED),
        ("account", REJECTED),
        ("detail-type", REJECTED),
        ("detail", REJECTED),
        ("detail", STAGE_FAILED),
        ("region", REJECTED),
        ("time", REJECTED),
        ("detail.state", REJECTED),
        ("detail.execution-id", REJECTED),
        ("detail.pipeline", REJECTED),
        ("detail.stage", REJECTED),
        ("detail.action", REJECTED),
        ("detail.type", REJECTED),
        ("detail.type.category", REJECTED),
    ] {
        let pointer = format!("/{}", field.replace('.', "/"));
        let named = if field == "detail.type" {
            "detail.type.category"
        } else {
            field
        };
        let missing = ("missing_field", named);
        assert_eq!(malformed(&without(sample, &pointer)), missing, "{field}");
        let null = with(sample, &[(&pointer, Value::Null)]);
        assert_eq!(malformed(&null), missing, "{field} is null");
    }
    for (field, value) in [
        ("account", "21098765432"),
        ("account", "21098765432x"),
        ("region", "nowhere special"),
        ("region", &"a".repeat(1000)),
        ("detail.stage", "a/b"),
        ("detail.stage", &"a".repeat(101)),
        ("detail.action", "an action"),
        ("time", "yesterday"),
        ("source", ""),
        ("detail.state", ""),
        ("detail.start-time", "2026-09-03"),
        ("detail.execution-id", "a/b"),
        ("detail.execution-id", "--help"),
        ("detail.execution-id", "execution"),
        ("detail.execution-id", &EXECUTION.to_uppercase()),
        ("detail.execution-id", &EXECUTION.replace('-', "")),
        ("detail.execution-id", &EXECUTION[1..]),
        ("detail.execution-id", &format!("{EXECUTION}0")),
        ("detail.execution-id", &EXECUTION.replacen('-', "0", 1)),
        ("detail.execution-id", &EXECUTION.replacen('e', "g", 1)),
        ("detail.action-execution-id", ""),
        ("detail.action-execution-id", "../x"),
        ("detail.pipeline", "a:b"),
    ] {
        let pointer = format!("/{}", field.replace('.', "/"));
        let (code, about) = malformed(&set(&pointer, json!(value)));
        assert_eq!(code, "invalid_field", "{field} {value}");
        assert!(about == field || field == "region", "{field}: {about}");
    }
    assert_eq!(
        malformed(&set("/detail", json!(["text"]))),
        ("invalid_field", "detail")
    );
}

#[test]
fn what_wraps_an_event_is_named_with_what_to_set() {
    let sns = |kind: &str, message: &str| {
        json!({
            "Type": kind,
            "MessageId": "5b4d8a7e-0000-4000-8000-000000000000",
            "TopicArn": "arn:aws:sns:eu-west-1:210987654321:rejections",
            "Message": message,
            "Timestamp": "2026-09-03T14:21:09.123Z",
            "SignatureVersion": "1",
        })
        .to_string()
    };
    let event: Value = serde_json::from_str(REJECTED).unwrap();
    let mut renamed = event.clone();
    let detail_type = renamed.as_object_mut().unwrap().remove("detail-type");
    renamed["detailType"] = detail_type.unwrap();
    renamed["notificationRuleArn"] = json!("arn:aws:codestar-notifications:eu-west-1:2109:rule/1");
    for (body, code, set) in [
        (
            sns("Notification", REJECTED),
            "sns_notification",
            "enable raw message delivery on the queue's subscription",
        ),
        (
            sns("SubscriptionConfirmation", "You have chosen to subscribe"),
            "sns_confirmation",
            "confirm the subscription",
        ),
        (
            sns("UnsubscribeConfirmation", ""),
            "sns_confirmation",
            "raw message delivery",
        ),
        ("[]".to_owned(), "array", "a batch size of 1"),
        (format!(" [{REJECTED}]"), "array", "a message of its own"),
        // The fields of an event in their order, without names.
        (
            json!([
                event["source"],
                event["detail-type"],
                event["account"],
                event["region"],
                event["time"],
                event["resources"],
                event["detail"]
            ])
            .to_string(),
            "array",
            "EventBridge Pipes",
        ),
        (
            with(REJECTED, &[("/detail", json!(event["detail"].to_string()))]),
            "detail_is_text",
            "take the input transformer off",
        ),
        (
            event["detail"].to_string(),
            "detail_alone",
            "take InputPath off",
        ),
        (
            renamed.to_string(),
            "codestar_notification",
            "in place of the notification rule",
        ),
        (
            with(REJECTED, &[("/source", json!("com.example.test"))]),
            "foreign_source",
            "set the rule's source to `aws.codepipeline`",
        ),
        (
            with(REJECTED, &[("/detail-type", json!("Test"))]),
            "unknown_detail_type",
            "set the rule's detail-type to `CodePipeline Action Execution State Change`",
        ),
    ] {
        let error = parse(&body).unwrap_err();
        assert_eq!(error.code(), code, "{body}");
        assert!(error.to_string().contains(set), "{code}: {error}");
    }
    // Fields of these names in an event as it comes are as good as any other.
    let named = with(
        REJECTED,
        &[
            ("/Type", json!("Notification")),
            (
                "/TopicArn",
                json!("arn:aws:sns:eu-west-1:210987654321:rejections"),
            ),
            ("/detailType", json!(7)),
        ],
    );
    assert_eq!(rejection(&named), rejection(REJECTED));
}

#[test]
fn what_failed_as_a_whole_is_named_where_the_event_says_it() {
    let failed = |body: &str| parse(body).unwrap().failed;
    let stage = failed(STAGE_FAILED).unwrap();
    let pipeline = "arn:aws:codepipeline:eu-west-1:210987654321:shop-frontend-pipeline";
    assert_eq!(stage.pipeline.to_string(), pipeline);
    assert_eq!(
        (stage.stage.as_deref(), stage.code()),
        (Some("Approve"), "failed_stage")
    );
    assert_eq!(
        stage.detail_type(),
        "CodePipeline Stage Execution State Change"
    );
    let whole = failed(PIPELINE_FAILED).unwrap();
    assert_eq!(whole.pipeline.to_string(), pipeline);
    assert_eq!(
        (whole.stage.as_deref(), whole.code()),
        (None, "failed_pipeline")
    );
    assert_eq!(
        whole.detail_type(),
        "CodePipeline Pipeline Execution State Change"
    );
    for body in [
        with(STAGE_FAILED, &[("/detail/state", json!("SUCCEEDED"))]),
        without(STAGE_FAILED, "/detail/stage"),
        without(STAGE_FAILED, "/detail/pipeline"),
        with(STAGE_FAILED, &[("/region", json!("eu-west-2"))]),
        with(PIPELINE_FAILED, &[("/detail/state", json!("STOPPED"))]),
        REJECTED.to_owned(),
    ] {
        assert_eq!(failed(&body), None, "{body}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let filled = |length: usize| {
        let body = with(REJECTED, &[("/pad", json!(""))]);
        let pad = "x".repeat(length - body.len());
        with(REJECTED, &[("/pad", json!(pad))])
    };
    let most = filled(MAX_BODY_BYTES);
    assert_eq!(most.len(), MAX_BODY_BYTES);
    assert_eq!(rejection(&most), rejection(REJECTED));
    assert_eq!(malformed(&format!("{most} ")).0, "too_large");

    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let inside = REJECTED.replacen(
        "\"detail\": {",
        &format!("\"detail\": {{ \"x\": {},", nested(200)),
        1,
    );
    assert_eq!(malformed(&inside).0, "not_an_envelope");
    // An unknown field is skipped without recursion: no depth can overflow the stack.
    let outside = REJECTED.replacen('{', &format!("{{ \"x\": {},", nested(400_000)), 1);
    assert_eq!(rejection(&outside), rejection(REJECTED));
}

#[test]
fn a_retried_stage_is_a_new_rejection_and_a_duplicate_is_the_same() {
    assert_eq!(rejection(REJECTED).execution_id, EXECUTION);
    assert_eq!(rejection(RETRIED).execution_id, EXECUTION);
    assert_ne!(rejection(REJECTED).key, rejection(RETRIED).key);

    // EventBridge delivers twice: another event id, another comment.
    let again = with(
        REJECTED,
        &[
            ("/id", json!("ffffffff-0000-4000-8000-000000000000")),
            (
                "/detail/execution-result/external-execution-summary",
                json!("Rejected by arn:aws:sts::210987654321:assumed-role/reviewer/kim"),
            ),
        ],
    );
    assert_eq!(rejection(REJECTED).key, rejection(&again).key);

    let attempt_only = |sample| rejection(&without(sample, "/detail/action-execution-id")).key;
    assert_ne!(attempt_only(REJECTED), attempt_only(RETRIED));
    assert_eq!(attempt_only(REJECTED), attempt_only(&again));

    let other_execution = with(OLDER, &[("/detail/execution-id", json!(OTHER_EXECUTION))]);
    assert_ne!(rejection(OLDER).key, rejection(&other_execution).key);
    assert_eq!(rejection(OLDER).key, rejection(OLDER).key);
    assert_eq!(
        JobKey::from(rejection(OLDER).key.as_str().to_owned()),
        rejection(OLDER).key
    );
}

#[test]
fn a_comment_is_cut_at_500_characters_not_bytes_and_an_empty_one_is_none() {
    let comment = |text: &str| {
        let pointer = "/detail/execution-result/external-execution-summary";
        rejection(&with(REJECTED, &[(pointer, json!(text))])).comment
    };
    assert_eq!(comment(&"é".repeat(501)), Some("é".repeat(500)));
    assert_eq!(comment("short"), Some("short".to_owned()));
    assert_eq!(comment(""), None);
}

#[test]
fn the_console_url_is_that_of_the_partition() {
    for (region, partition, host) in [
        ("eu-west-1", "aws", "console.aws.amazon.com"),
        ("cn-north-1", "aws-cn", "console.amazonaws.cn"),
        (
            "us-gov-west-1",
            "aws-us-gov",
            "console.amazonaws-us-gov.com",
        ),
        ("eusc-de-east-1", "aws-eusc", "console.amazonaws-eusc.eu"),
        ("us-iso-east-1", "aws-iso", ""),
    ] {
        let arn =
            format!("arn:{partition}:codepipeline:{region}:210987654321:shop-frontend-pipeline");
        let body = with(
            REJECTED,
            &[("/region", json!(region)), ("/resources", json!([arn]))],
        );
        let url = format!(
            "https://{host}/codesuite/codepipeline/pipelines/shop-frontend-pipeline\
             /executions/{EXECUTION}/timeline?region={region}"
        );
        let public = (!host.is_empty()).then_some(url);
        assert_eq!(rejection(&body).console_url(), public);
        // An event without resources says as much by its region.
        assert_eq!(
            rejection(&without(&body, "/resources")).pipeline,
            rejection(&body).pipeline
        );
    }
}

#[test]
fn the_pipelines_arn_is_the_one_in_resources() {
    // A partition that no region's name tells.
    let arn = "arn:aws-eusc:codepipeline:eusc-de-east-1:210987654321:shop-frontend-pipeline";
    let body = with(
        REJECTED,
        &[
            ("/region", json!("eusc-de-east-1")),
            ("/resources", json!([arn])),
        ],
    );
    assert_eq!(rejection(&body).pipeline.to_string(), arn);
}

#[test]
fn an_envelope_whose_parts_contradict_each_other_is_malformed() {
    let own = "arn:aws:codepipeline:eu-west-1:210987654321:shop-frontend-pipeline";
    for resources in [
        json!(["arn:aws:codepipeline:eu-west-1:210987654321:other-pipeline"]),
        json!(["arn:aws:codepipeline:eu-west-2:210987654321:shop-frontend-pipeline"]),
        json!(["arn:aws:codepipeline:eu-west-1:123456789012:shop-frontend-pipeline"]),
        json!(["arn:aws:codepipeline:eu-west-1"]),
        json!([own, "arn:aws:codepipeline:eu-west-1:210987654321:other"]),
    ] {
        let body = with(REJECTED, &[("/resources", resources.clone())]);
        assert_eq!(
            malformed(&body),
            ("invalid_field", "resources"),
            "{resources}"
        );
    }
}

#[test]
fn what_logs_and_metrics_are_told_has_its_name() {
    let code = |body: &str| match parse(body).unwrap().kind {
        Kind::Rejection(rejection) => rejection.key.to_string(),
        Kind::NotARejection(why) => why.code().to_owned(),
    };
    assert_eq!(code(APPROVED), "not_failed");
    assert_eq!(code(BUILD_FAILED), "not_an_approval");
    assert_eq!(code(STAGE_FAILED), "not_an_action");
    assert_eq!(code(REJECTED), rejection(REJECTED).key.as_str());
}

#[test]
fn the_longest_region_and_action_id_are_taken() {
    let region = "a".repeat(MAX_REGION);
    let longest = with(
        REJECTED,
        &[("/region", json!(region)), ("/resources", json!([]))],
    );
    assert_eq!(rejection(&longest).pipeline.region, region);
    let longer = with(REJECTED, &[("/region", json!(format!("{region}a")))]);
    assert_eq!(malformed(&longer), ("invalid_field", "region"));
    let id = "a".repeat(100);
    let longest = with(REJECTED, &[("/detail/action-execution-id", json!(id))]);
    assert_eq!(rejection(&longest).action_execution_id, Some(id.clone()));
    let longer = with(
        REJECTED,
        &[("/detail/action-execution-id", json!(id + "a"))],
    );
    assert_eq!(
        malformed(&longer),
        ("invalid_field", "detail.action-execution-id")
    );
}

#[test]
fn resources_may_name_the_pipeline_twice_and_not_in_two_partitions() {
    let [own, other] = ["aws", "aws-eusc"].map(|partition| {
        format!("arn:{partition}:codepipeline:eu-west-1:210987654321:shop-frontend-pipeline")
    });
    let twice = with(REJECTED, &[("/resources", json!([own, own]))]);
    assert_eq!(rejection(&twice).pipeline.to_string(), own);
    let both = with(REJECTED, &[("/resources", json!([own, other]))]);
    assert_eq!(malformed(&both), ("invalid_field", "resources"));
}
