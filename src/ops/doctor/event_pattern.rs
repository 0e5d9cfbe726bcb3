//! Event patterns of EventBridge: which events a rule lets through. Pure: no I/O.
//!
//! After "Creating Amazon EventBridge event patterns". The answer is one of three, since an event may
//! be known in part only, and a pattern may use what is not read here (`numeric`, `cidr`): `None` says
//! that it cannot be told.

use serde_json::Value;

use crate::ops::doctor::wildcard::fits;

/// Whether `pattern` lets `event` through. What the event lacks is not known.
#[must_use]
pub fn admits(pattern: &Value, event: &Value) -> Option<bool> {
    admits_part(pattern, Some(event))
}

fn admits_part(pattern: &Value, event: Option<&Value>) -> Option<bool> {
    match pattern {
        Value::Object(fields) => all(fields.iter().map(|(name, inner)| match inner {
            Value::Array(ways) if name == "$or" => {
                any(ways.iter().map(|way| admits_part(way, event)))
            }
            _ => admits_part(inner, event.and_then(|event| event.get(name))),
        })),
        Value::Array(matchers) => match event? {
            // One of the values is enough.
            Value::Array(values) => any(values.iter().map(|value| is_one_of(matchers, value))),
            value => is_one_of(matchers, value),
        },
        _ => None,
    }
}

fn is_one_of(matchers: &[Value], value: &Value) -> Option<bool> {
    any(matchers.iter().map(|matcher| is(matcher, value)))
}

fn is(matcher: &Value, value: &Value) -> Option<bool> {
    let Value::Object(fields) = matcher else {
        return Some(matcher == value);
    };
    let mut fields = fields.iter();
    let (Some((kind, operand)), None) = (fields.next(), fields.next()) else {
        return None;
    };
    // In either letter case, where the operand says so.
    let of_text = |holds: fn(&str, &str) -> bool| {
        let Some(text) = value.as_str() else {
            return Some(false);
        };
        match operand.get("equals-ignore-case") {
            Some(inner) => Some(holds(&text.to_lowercase(), &inner.as_str()?.to_lowercase())),
            None => Some(holds(text, operand.as_str()?)),
        }
    };
    match kind.as_str() {
        "prefix" => of_text(|text, operand| text.starts_with(operand)),
        "suffix" => of_text(|text, operand| text.ends_with(operand)),
        "wildcard" => of_text(|text, operand| fits(operand, text)),
        "equals-ignore-case" => {
            of_text(|text, operand| text.to_lowercase() == operand.to_lowercase())
        }
        "exists" => operand.as_bool(),
        "anything-but" => match operand {
            Value::Array(values) => Some(!values.contains(value)),
            Value::Object(inner) => {
                let (kind, operands) = inner.iter().next()?;
                let one = |operand: &Value| is(&serde_json::json!({ kind: operand }), value);
                let found = match operands {
                    Value::Array(operands) => any(operands.iter().map(one)),
                    operand => one(operand),
                };
                found.map(|found| !found)
            }
            operand => Some(operand != value),
        },
        _ => None,
    }
}

/// Whether all are so; `None` if that cannot be told.
pub(crate) fn all(answers: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let not = |answer: Option<bool>| answer.map(|it| !it);
    not(any(answers.into_iter().map(not)))
}

/// Whether one is so; `None` if that cannot be told.
pub(crate) fn any(answers: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut found = Some(false);
    for answer in answers {
        match answer {
            Some(true) => return answer,
            Some(false) => {}
            None => found = None,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "source": "aws.codepipeline",
            "resources": ["arn:aws:codepipeline:eu-west-1:1:shop-frontend-pipeline"],
            "detail": { "pipeline": "shop-frontend-pipeline", "state": "FAILED", "attempt": 2 },
        })
    }

    #[test]
    fn a_pattern_lets_through_what_fits_it_in_every_part() {
        for (pattern, expected) in [
            (json!({}), Some(true)),
            (json!({ "source": ["aws.codepipeline"] }), Some(true)),
            (json!({ "source": ["aws.ec2"] }), Some(false)),
            (
                json!({ "detail": { "state": ["STOPPED", "FAILED"] } }),
                Some(true),
            ),
            (
                json!({ "source": ["aws.codepipeline"], "detail": { "state": ["STOPPED"] } }),
                Some(false),
            ),
            (json!({ "detail": { "attempt": [2] } }), Some(true)),
            (
                json!({ "detail": { "$or": [{ "state": ["STOPPED"] }, { "attempt": [2] }] } }),
                Some(true),
            ),
            (
                json!({ "resources": [{ "suffix": "-pipeline" }] }),
                Some(true),
            ),
            // Not known: the part is missing, or the matcher is not read.
            (json!({ "detail": { "stage": ["Approve"] } }), None),
            (
                json!({ "detail": { "attempt": [{ "numeric": [">", 1] }] } }),
                None,
            ),
            // What is certain decides.
            (
                json!({ "source": ["aws.ec2"], "detail": { "stage": ["Approve"] } }),
                Some(false),
            ),
        ] {
            assert_eq!(admits(&pattern, &event()), expected, "{pattern}");
        }
    }

    #[test]
    fn every_way_to_compare_a_text_is_read() {
        for (matcher, expected) in [
            (json!({ "prefix": "shop-" }), true),
            (json!({ "prefix": { "equals-ignore-case": "SHOP-" } }), true),
            (json!({ "suffix": "-pipeline" }), true),
            (json!({ "suffix": "-line" }), false),
            (json!({ "wildcard": "*-frontend-*" }), true),
            (json!({ "wildcard": "*-frontend-pipeline" }), true),
            (json!({ "wildcard": "*-backend-*" }), false),
            (
                json!({ "equals-ignore-case": "Shop-Frontend-Pipeline" }),
                true,
            ),
            (json!({ "exists": true }), true),
            (json!({ "exists": false }), false),
            (json!({ "anything-but": "blog" }), true),
            (json!({ "anything-but": ["shop-frontend-pipeline"] }), false),
            (json!({ "anything-but": { "prefix": "shop-" } }), false),
            (json!({ "anything-but": { "suffix": ["-a", "-b"] } }), true),
        ] {
            let pattern = json!({ "detail": { "pipeline": [matcher] } });
            assert_eq!(admits(&pattern, &event()), Some(expected), "{pattern}");
        }
    }
}
