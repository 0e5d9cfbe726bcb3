use serde_json::json;

use super::*;
use crate::ops::doctor::statement::arn_like;

const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:stagesweep";
const RULE: &str = "arn:aws:events:eu-west-1:123456789012:rule/stagesweep";
const OTHER_RULE: &str = "arn:aws:events:eu-west-1:123456789012:rule/another";

fn policy(statements: Value) -> QueuePolicy {
    let document = json!({ "Version": "2012-10-17", "Statement": statements });
    QueuePolicy::parse(&document.to_string(), QUEUE).unwrap()
}

/// As docs/INSTALL-BY-HAND.md makes it.
fn good() -> Value {
    json!({
        "Effect": "Allow",
        "Principal": { "Service": "events.amazonaws.com" },
        "Action": "sqs:SendMessage",
        "Resource": QUEUE,
        "Condition": {
            "ArnEquals": { "aws:SourceArn": RULE },
            "StringEquals": { "aws:SourceAccount": "123456789012" },
        },
    })
}

/// The good statement with some elements of another; `null` takes one out.
fn with(change: Value) -> Value {
    let mut statement = good();
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => statement.as_object_mut().unwrap().remove(name),
            value => statement
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    statement
}

fn on(condition: Value) -> Value {
    json!([with(json!({ "Condition": condition }))])
}

/// The good statement, and another that allows `change` to send.
fn beside(change: Value) -> Value {
    json!([good(), with(change)])
}

/// The good statement, and one that denies.
fn denied(change: Value) -> Value {
    let mut deny = json!({
        "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": QUEUE,
    });
    for (name, value) in change.as_object().unwrap() {
        deny[name] = value.clone();
    }
    json!([good(), deny])
}

fn assert_all(expected: Status, cases: &[(Value, &str)]) {
    for (statements, said) in cases {
        let verdict = policy(statements.clone()).judge();
        assert_eq!(verdict.status, expected, "{statements}\n{}", verdict.said);
        assert!(
            verdict.said.contains(said),
            "{statements}\n{}",
            verdict.said
        );
    }
}

#[test]
fn a_policy_that_lets_the_named_rules_send_and_nobody_else_is_ok() {
    let tls = json!({ "Condition": { "Bool": { "aws:SecureTransport": "false" } } });
    let own = json!({ "Principal": { "AWS": "arn:aws:iam::123456789012:root" }, "Action": "SQS:*",
        "Condition": null });
    let said = "EventBridge may send, from the rules that it names";
    assert_all(
        Status::Ok,
        &[
            (json!(good()), said),
            (json!([good()]), said),
            // The templates': two rules, and TLS alone.
            (denied(tls.clone()), said),
            (
                json!([
                    with(json!({ "Sid": "OnlyTheRules", "Condition": {
                        "ArnEquals": { "aws:SourceArn": [RULE, OTHER_RULE] },
                        "StringEquals": { "aws:SourceAccount": "123456789012" },
                    }})),
                    denied(tls)[1],
                ]),
                said,
            ),
            // Terraform's, whose values are lists.
            (
                json!([with(json!({ "Condition": {
                    "ArnEquals": { "aws:SourceArn": [RULE] },
                    "StringEquals": { "aws:SourceAccount": ["123456789012"] },
                }}))]),
                said,
            ),
            (on(json!({ "ArnEquals": { "aws:SourceArn": RULE } })), said),
            (on(json!({ "arnlike": { "AWS:sourcearn": RULE } })), said),
            (
                on(json!({ "StringLike": { "aws:SourceArn": format!("{RULE}*") } })),
                said,
            ),
            // EventBridge always says which rule sends.
            (
                on(json!({ "ArnEqualsIfExists": { "aws:SourceArn": RULE } })),
                said,
            ),
            (
                on(json!({ "ForAnyValue:ArnEquals": { "aws:SourceArn": RULE } })),
                said,
            ),
            // A rule of elsewhere that is named is meant.
            (
                on(json!({ "ArnEquals": { "aws:SourceArn": RULE.replace("1234", "9999") } })),
                said,
            ),
            (json!([with(json!({ "Action": "sqs:SendMessage*" }))]), said),
            (
                json!([with(
                    json!({ "Action": ["sqs:receivemessage", "SQS:sendmessag?"] })
                )]),
                said,
            ),
            (
                json!([with(json!({ "Action": null, "NotAction": "sqs:Receive*" }))]),
                said,
            ),
            (
                json!([with(
                    json!({ "Resource": "arn:aws:sqs:*:123456789012:stage*" })
                )]),
                said,
            ),
            (json!([with(json!({ "Resource": null }))]), said),
            (json!([with(json!({ "Principal": "*" }))]), said),
            (json!([with(json!({ "Principal": { "AWS": "*" } }))]), said),
            // What IAM of the same account allows needs no policy of the queue.
            (beside(own), said),
            (
                beside(
                    json!({ "Principal": "*", "Action": "sqs:ReceiveMessage", "Condition": null }),
                ),
                said,
            ),
            (
                beside(
                    json!({ "Principal": "*", "Resource": format!("{QUEUE}-2"), "Condition": null }),
                ),
                said,
            ),
            // Denied to those of other organizations, but not to services.
            (
                denied(json!({ "Condition": {
                    "StringNotEqualsIfExists": { "aws:PrincipalOrgID": "o-ours" },
                    "BoolIfExists": { "aws:PrincipalIsAWSService": "false" },
                }})),
                said,
            ),
            (
                denied(
                    json!({ "NotPrincipal": { "Service": "events.amazonaws.com" }, "Principal": null }),
                ),
                said,
            ),
            (
                denied(json!({ "Condition": { "Null": { "aws:SourceArn": "true" } } })),
                said,
            ),
            (
                denied(json!({ "Condition": { "ArnNotLike": { "aws:SourceArn": RULE } } })),
                said,
            ),
            (
                denied(json!({ "Principal": { "AWS": "999999999999" } })),
                said,
            ),
        ],
    );
}

#[test]
fn a_policy_by_which_no_event_arrives_is_a_failure() {
    let not = "EventBridge may not send";
    let deny = "a Deny is for it too";
    let elsewhere = json!({
        "ArnEquals": { "aws:SourceArn": RULE },
        "StringEquals": { "aws:SourceAccount": "999999999999" },
    });
    assert_all(
        Status::Failure,
        &[
            (json!([]), not),
            (
                json!([with(
                    json!({ "Principal": { "Service": "sns.amazonaws.com" } })
                )]),
                not,
            ),
            (
                json!([with(
                    json!({ "Principal": { "AWS": "arn:aws:iam::123456789012:root" } })
                )]),
                not,
            ),
            (
                json!([with(json!({ "Resource": format!("{QUEUE}-2") }))]),
                not,
            ),
            (
                json!([with(json!({ "Resource": null, "NotResource": QUEUE }))]),
                not,
            ),
            (
                json!([with(json!({ "Action": "sqs:ReceiveMessage" }))]),
                not,
            ),
            (
                json!([with(json!({ "Action": null, "NotAction": "sqs:Send*" }))]),
                not,
            ),
            (on(elsewhere), not),
            (
                on(json!({ "StringEquals": { "aws:SourceAccount": "999999999999" } })),
                not,
            ),
            (
                on(json!({ "Bool": { "aws:SecureTransport": "false" } })),
                not,
            ),
            (on(json!({ "Null": { "aws:SourceArn": "true" } })), not),
            (
                json!([with(json!({ "Principal": "*",
                    "Condition": { "StringEquals": { "aws:PrincipalOrgID": "o-ours" } } }))]),
                "may not send to the queue; besides EventBridge may send: whoever has aws:PrincipalOrgID o-ours",
            ),
            (
                json!([with(json!({ "Principal": "*",
                    "Condition": { "StringEquals": { "aws:PrincipalAccount": "123456789012" } } }))]),
                not,
            ),
            (denied(json!({})), deny),
            (
                denied(
                    json!({ "Condition": { "StringNotEquals": { "aws:PrincipalOrgID": "o-ours" } } }),
                ),
                deny,
            ),
            (
                denied(json!({ "Condition": { "Bool": { "aws:SecureTransport": true } } })),
                deny,
            ),
            (
                denied(json!({ "NotPrincipal": { "AWS": "999999999999" }, "Principal": null })),
                deny,
            ),
            (
                denied(
                    json!({ "Action": "sqs:S*", "Condition": { "Null": { "aws:PrincipalArn": "true" } } }),
                ),
                deny,
            ),
        ],
    );
}

#[test]
fn a_policy_by_which_anyone_may_send_is_a_failure() {
    let anyone = "anyone may send";
    let open = |condition: Value| beside(json!({ "Principal": "*", "Condition": condition }));
    assert_all(
        Status::Failure,
        &[
            (open(Value::Null), anyone),
            (
                open(json!({ "ArnEqualsIfExists": { "aws:SourceArn": RULE } })),
                anyone,
            ),
            (
                open(json!({ "ArnNotEquals": { "aws:SourceArn": RULE } })),
                anyone,
            ),
            (
                open(json!({ "ForAllValues:ArnEquals": { "aws:SourceArn": RULE } })),
                anyone,
            ),
            (
                open(json!({ "StringNotEquals": { "aws:PrincipalOrgID": "o-ours" } })),
                anyone,
            ),
            (
                open(json!({ "StringLike": { "aws:PrincipalArn": "arn:aws:iam::*:role/ci" } })),
                anyone,
            ),
            (
                open(json!({ "Bool": { "aws:SecureTransport": "true" } })),
                anyone,
            ),
            // Through SNS.
            (open(json!({ "ArnLike": { "aws:SourceArn": "*" } })), anyone),
            (
                open(json!({ "ArnLike": { "aws:SourceArn": "arn:aws:sns:*:*:*" } })),
                anyone,
            ),
            (
                beside(json!({ "Principal": "*", "Action": "sqs:S*", "Condition": null })),
                anyone,
            ),
            (
                beside(
                    json!({ "Principal": { "AWS": "*" }, "Action": null, "NotAction": "sqs:Receive*",
                    "Condition": null }),
                ),
                anyone,
            ),
            (
                beside(
                    json!({ "Principal": null, "NotPrincipal": { "AWS": "999999999999" }, "Condition": null }),
                ),
                anyone,
            ),
        ],
    );
}

#[test]
fn whoever_else_may_send_is_named() {
    let principal = |it: Value| beside(json!({ "Principal": it, "Condition": null }));
    assert_all(
        Status::Warning,
        &[
            (
                principal(json!({ "AWS": "arn:aws:iam::999999999999:root" })),
                ": arn:aws:iam::999999999999:root",
            ),
            (
                principal(json!({ "AWS": ["999999999999"] })),
                ": 999999999999",
            ),
            (
                principal(
                    json!({ "AWS": "arn:aws:iam::123456789012:role/ci", "Service": "sns.amazonaws.com" }),
                ),
                ": arn:aws:iam::123456789012:role/ci, sns.amazonaws.com",
            ),
            (
                principal(json!({ "Federated": "cognito-identity.amazonaws.com" })),
                ": cognito",
            ),
            (
                json!([with(
                    json!({ "Principal": { "Service": ["events.amazonaws.com", "s3.amazonaws.com"] } })
                )]),
                ": s3.amazonaws.com",
            ),
            (
                beside(json!({ "Principal": "*", "Condition": {
                    "ArnEquals": { "aws:SourceArn": "arn:aws:sns:eu-west-1:123456789012:news" } } })),
                ": arn:aws:sns:eu-west-1:123456789012:news",
            ),
            (
                beside(json!({ "Principal": "*", "Condition": {
                    "StringEquals": { "aws:PrincipalAccount": ["999999999999"] } } })),
                ": whoever has aws:PrincipalAccount 999999999999",
            ),
        ],
    );
}

#[test]
fn any_rule_is_told_from_any_accounts_rule() {
    let accounts = "any EventBridge rule may send to the queue, of other accounts too";
    let own = "any EventBridge rule of the account 123456789012 may send";
    let like = |arn: &str| on(json!({ "ArnLike": { "aws:SourceArn": arn } }));
    assert_all(
        Status::Warning,
        &[
            (json!([with(json!({ "Condition": null }))]), accounts),
            (like("*"), accounts),
            (like("arn:aws:events:*:*:rule/*"), accounts),
            (like("arn:aws:events:eu-west-1:*:rule/stagesweep"), accounts),
            (
                like("arn:aws:events:eu-west-1:????????????:rule/stagesweep"),
                accounts,
            ),
            (like("arn:*"), "cannot be decided"),
            (
                like("arn:aws:events:*:rule/stagesweep"),
                "cannot be decided",
            ),
            (
                on(
                    json!({ "StringLike": { "aws:SourceArn": "arn:aws:events:*:rule/stagesweep" } }),
                ),
                accounts,
            ),
            (
                on(json!({ "StringLike": { "aws:SourceArn": "*/stagesweep" } })),
                accounts,
            ),
            (
                on(json!({ "ArnNotEquals": { "aws:SourceArn": RULE } })),
                accounts,
            ),
            (
                on(json!({ "StringLike": { "aws:SourceArn": "arn:aws:events:*" } })),
                accounts,
            ),
            (
                on(json!({ "StringEqualsIfExists": { "aws:PrincipalOrgID": "o-ours" } })),
                accounts,
            ),
            (
                on(json!({ "StringEquals": { "aws:SourceAccount": "123456789012" } })),
                own,
            ),
            (like("arn:aws:events:*:123456789012:rule/*"), own),
            (
                on(
                    json!({ "StringEquals": { "aws:SourceAccount": ["123456789012", "999999999999"] } }),
                ),
                "any EventBridge rule of the account 123456789012, 999999999999",
            ),
        ],
    );
}

#[test]
fn what_cannot_be_told_is_never_ok() {
    let rule = json!({ "aws:SourceArn": RULE });
    let and = |more: Value| {
        let mut condition = json!({ "ArnEquals": rule });
        condition
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        on(condition)
    };
    assert_all(
        Status::Warning,
        &[
            (
                and(json!({ "DateLessThan": { "aws:CurrentTime": "2030-01-01T00:00:00Z" } })),
                "whether EventBridge may send cannot be decided: it depends on DateLessThan aws:CurrentTime",
            ),
            (
                and(json!({ "StringEquals": { "aws:SourceOrgID": "o-ours" } })),
                "aws:SourceOrgID",
            ),
            (
                beside(
                    json!({ "Condition": { "DateLessThan": { "aws:CurrentTime": "2030-01-01T00:00:00Z" } } }),
                ),
                "whether rules of other accounts may send cannot be decided: it depends on DateLessThan",
            ),
            (
                json!([
                    good(),
                    with(json!({ "Principal": "*", "Condition": null })),
                    denied(json!({ "Principal": { "AWS": "999999999999" } }))[1],
                ]),
                "whether anyone may send cannot be decided: it depends on a Deny",
            ),
            (
                on(json!({ "ArnEquals": { "aws:SourceArn": "${aws:PrincipalTag/rule}" } })),
                "ArnEquals aws:SourceArn",
            ),
            (
                json!([with(json!({ "Condition": ["odd"] }))]),
                "is not understood",
            ),
            (
                json!([with(json!({ "Principal": ["odd"] }))]),
                "is not understood",
            ),
            (
                denied(
                    json!({ "Condition": { "NotIpAddress": { "aws:SourceIp": "10.0.0.0/8" } } }),
                ),
                "NotIpAddress aws:SourceIp",
            ),
            (
                beside(json!({ "Principal": "*",
                    "Condition": { "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } } })),
                "whether anyone may send cannot be decided: it depends on IpAddress aws:SourceIp",
            ),
        ],
    );
}

#[test]
fn a_rule_is_judged_by_its_own_arn() {
    let of = |statements: Value, rule: &str| policy(statements).admits(rule);
    assert_eq!(of(json!([good()]), RULE), Some(true));
    assert_eq!(of(json!([good()]), OTHER_RULE), Some(false));
    let elsewhere = RULE.replace("123456789012", "999999999999");
    assert_eq!(
        of(
            on(json!({ "ArnEquals": { "aws:SourceArn": elsewhere } })),
            &elsewhere
        ),
        Some(true)
    );
    assert_eq!(of(denied(json!({})), RULE), Some(false));
    let not_ours = json!({ "ArnNotEquals": { "aws:SourceArn": RULE } });
    assert_eq!(of(on(not_ours.clone()), RULE), Some(false));
    assert_eq!(of(on(not_ours), OTHER_RULE), Some(true));
    let when = json!({ "DateLessThan": { "aws:CurrentTime": "2030-01-01T00:00:00Z" } });
    assert_eq!(of(on(when), RULE), None);
}

#[test]
fn wildcards_stand_for_what_they_should() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("*", "", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abcd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*ab", "aab", true),
        ("a**", "a", true),
        ("a", "b", false),
    ] {
        assert_eq!(fits_iam(pattern, text), expected, "{pattern} {text}");
    }
    let crosses = "arn:aws:events:*:rule/stagesweep:x";
    assert_eq!(arn_like(crosses, RULE), Some(false));
    assert_eq!(arn_like("arn:aws:events:*", RULE), None);
}

#[test]
fn a_role_may_be_granted_by_the_queue_what_its_own_policies_do_not() {
    let daemon = "arn:aws:iam::123456789012:role/stagesweep";
    let granted = policy(beside(json!({
        "Principal": { "AWS": daemon }, "Action": ["sqs:ReceiveMessage", "sqs:Delete*"], "Condition": null,
    })));
    assert!(granted.may_grant("sqs:DeleteMessage", daemon));
    assert!(!granted.may_grant("sqs:ChangeMessageVisibility", daemon));
    let other = "arn:aws:iam::123456789012:role/another";
    assert!(!granted.may_grant("sqs:DeleteMessage", other));
    assert!(!policy(json!([good()])).may_grant("sqs:DeleteMessage", daemon));
}
