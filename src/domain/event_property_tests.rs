//! What holds of every event, whatever it carries.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Any JSON, not too large.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!("FAILED")),
        Just(json!("Approval")),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::hash_map("[a-z-]{1,8}", inner, 0..3)
                .prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

/// Every place in a document that holds something.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// What identity says, and nothing else.
type Identity = (String, String, String, Option<String>, Option<u32>);

fn identity() -> impl Strategy<Value = Identity> {
    // Few values, so that two draws are often the same in part.
    let name = || prop::sample::select(vec!["Approve", "approve", "a.b", "attempt-1", "x"]);
    let id = || prop::sample::select(vec![EXECUTION, "e2", "attempt-1", "Approve"]);
    (
        prop::sample::select(vec![EXECUTION, OTHER_EXECUTION]).prop_map(str::to_owned),
        name().prop_map(str::to_owned),
        name().prop_map(str::to_owned),
        prop::option::of(id().prop_map(str::to_owned)),
        prop::option::of(1_u32..3),
    )
}

/// What tells two rejections apart, out of all that an event may carry of it.
fn significant((execution, stage, action, id, attempt): &Identity) -> Identity {
    match id {
        Some(id) => (
            execution.clone(),
            String::new(),
            String::new(),
            Some(id.clone()),
            None,
        ),
        None => (
            execution.clone(),
            stage.clone(),
            action.clone(),
            None,
            *attempt,
        ),
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_whatever_becomes_of_a_valid_event(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
        older: bool,
    ) {
        let sample = if older { OLDER } else { REJECTED };
        let mut event: Value = serde_json::from_str(sample).unwrap();
        for (index, value) in changes {
            let mut all = Vec::new();
            places(&event, "", &mut all);
            *event.pointer_mut(&all[index.index(all.len())]).unwrap() = value;
        }
        if let Err(error) = parse(&event.to_string()) {
            // What is logged of it is bounded, and never the body.
            prop_assert!(!error.code().is_empty());
            prop_assert!(crate::telemetry::chain(&error).len() < 300);
        }
    }

    #[test]
    fn parsing_never_panics_on_arbitrary_text(
        cut in any::<prop::sample::Index>(), middle in ".{0,8}", text in ".{0,64}",
    ) {
        let at = cut.index(REJECTED.len());
        let _ = parse(&format!("{}{middle}{}", &REJECTED[..at], &REJECTED[at..]));
        let _ = parse(&text);
    }

    #[test]
    fn the_key_depends_on_what_identity_says_and_on_nothing_else(
        drawn in proptest::collection::vec(
            (identity(), any::<prop::sample::Index>(), ".{0,12}", 0_i64..2_000_000_000),
            2..12,
        ),
    ) {
        let mut keys: HashMap<Identity, JobKey> = HashMap::new();
        for (identity, form, text, seconds) in drawn {
            let (execution, stage, action, id, attempt) = identity.clone();
            let time = Timestamp::from_second(seconds).unwrap().to_string();
            let mut changes = vec![
                ("/id", json!(text)),
                ("/time", json!(time)),
                ("/detail/start-time", json!(time)),
                ("/detail/version", json!(form.index(3))),
                ("/detail/execution-id", json!(execution)),
                ("/detail/stage", json!(stage)),
                ("/detail/action", json!(action)),
                ("/detail/action-execution-id", json!(id)),
                ("/detail/pipeline-execution-attempt", json!(attempt)),
                ("/detail/execution-result", json!({ "external-execution-summary": text })),
            ];
            if form.index(2) == 0 {
                changes.reverse();
            }
            let key = rejection(&with(REJECTED, &changes)).key;
            let known = keys.entry(significant(&identity)).or_insert_with(|| key.clone());
            prop_assert_eq!(&*known, &key, "the same identity");
        }
        let distinct: std::collections::HashSet<_> = keys.values().collect();
        prop_assert_eq!(distinct.len(), keys.len(), "different identities: {:?}", keys);
    }
}
