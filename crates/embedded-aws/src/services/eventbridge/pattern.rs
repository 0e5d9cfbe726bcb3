//! Event patterns, as far as the rules of the templates and of the tests need them.
//!
//! After "Creating Amazon EventBridge event patterns": values, `prefix`, `suffix` and `wildcard`. A pattern with
//! any other way to compare matches nothing. Written apart from the daemon's own reading of patterns, so that an
//! error in the one shows against the other.

use serde_json::Value;

/// Whether an event matches. Every field of the pattern has to, and of a list in the event one value is enough.
pub(crate) fn matches(pattern: &Value, event: &Value) -> bool {
    match (pattern, event) {
        (Value::Object(fields), _) => fields
            .iter()
            .all(|(name, inner)| event.get(name).is_some_and(|value| matches(inner, value))),
        (Value::Array(_), Value::Array(values)) => {
            values.iter().any(|value| matches(pattern, value))
        }
        (Value::Array(choices), value) => choices.iter().any(|choice| accepts(choice, value)),
        _ => false,
    }
}

/// One entry of a field's list: the value itself, or an object of one comparison.
fn accepts(choice: &Value, value: &Value) -> bool {
    let Some(comparison) = choice.as_object() else {
        return choice == value;
    };
    let Some(text) = value.as_str() else {
        return false;
    };
    let mut comparison = comparison.iter();
    match (comparison.next(), comparison.next()) {
        (Some((kind, Value::String(operand))), None) => match kind.as_str() {
            "prefix" => text.starts_with(operand.as_str()),
            "suffix" => text.ends_with(operand.as_str()),
            "wildcard" => fits(operand, text),
            _ => false,
        },
        _ => false,
    }
}

/// Whether the parts between the stars of `wildcard` stand in the text, in their order.
fn fits(wildcard: &str, text: &str) -> bool {
    let Some((first, rest)) = wildcard.split_once('*') else {
        return wildcard == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match text.split_once(part) {
            Some((_, behind)) => text = behind,
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pattern_matches_in_every_field_or_not_at_all() {
        let event = json!({
            "source": "aws.codepipeline",
            "resources": ["arn:aws:codepipeline:eu-west-1:1:shop-pipeline", "another"],
            "detail": { "pipeline": "shop-pipeline", "version": 2, "type": { "category": "Approval" } },
        });
        for (pattern, expected) in [
            (json!({}), true),
            (json!({ "source": ["aws.ec2", "aws.codepipeline"] }), true),
            (json!({ "source": ["aws.ec2"] }), false),
            (json!({ "source": "aws.codepipeline" }), false),
            (json!({ "detail": { "version": [2] } }), true),
            (
                json!({ "detail": { "type": { "category": ["Approval"] } } }),
                true,
            ),
            (
                json!({ "detail": { "type": { "provider": ["Manual"] } } }),
                false,
            ),
            (
                json!({ "source": ["aws.codepipeline"], "detail": { "version": [1] } }),
                false,
            ),
            (json!({ "resources": ["another"] }), true),
            (
                json!({ "resources": [{ "suffix": ":shop-pipeline" }] }),
                true,
            ),
            (
                json!({ "detail": { "pipeline": [{ "prefix": "shop-" }] } }),
                true,
            ),
            (
                json!({ "detail": { "pipeline": [{ "prefix": "hop-" }] } }),
                false,
            ),
            (
                json!({ "detail": { "pipeline": [{ "suffix": "-pipelin" }] } }),
                false,
            ),
            (
                json!({ "detail": { "pipeline": [{ "wildcard": "*-pipeline" }] } }),
                true,
            ),
            (
                json!({ "detail": { "pipeline": ["blog", { "wildcard": "s*p*-*line" }] } }),
                true,
            ),
            (
                json!({ "detail": { "pipeline": [{ "wildcard": "s*x*line" }] } }),
                false,
            ),
            (
                json!({ "detail": { "pipeline": [{ "wildcard": "shop-pipeline*line" }] } }),
                false,
            ),
            (
                json!({ "detail": { "version": [{ "prefix": "2" }] } }),
                false,
            ),
            (
                json!({ "detail": { "version": [{ "numeric": [">", 1] }] } }),
                false,
            ),
        ] {
            assert_eq!(matches(&pattern, &event), expected, "{pattern}");
        }
    }
}
