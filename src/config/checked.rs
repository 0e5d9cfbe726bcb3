//! From the layers to the checked configuration: how values relate, and the sections put together.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Config;
use super::fault::Fault;
use super::formats::{is_table_name, parse_queue_url, quoted};
use super::keys;
use super::layers::Layers;
use super::reader::Reader;
use crate::domain::targets::Surroundings;

/// Two values that do not go together where `wrong` says so: `KEY (…) IS OTHER (…): WHY`.
struct Relation {
    key: &'static str,
    is: &'static str,
    other: &'static str,
    why: &'static str,
    wrong: fn(&Value, &Value) -> bool,
}

const RELATIONS: [Relation; 6] = [
    Relation {
        key: "queue.heartbeat_interval",
        is: "is more than three quarters of",
        other: "queue.visibility_timeout",
        why: "an extension that fails could not be tried again before the message becomes visible to others",
        wrong: |heartbeat, visibility| duration(heartbeat) > duration(visibility) * 3 / 4,
    },
    Relation {
        key: "cleanup.poll_interval_min",
        is: "is longer than",
        other: "cleanup.poll_interval_max",
        why: "the interval grows from the one to the other",
        wrong: |min, max| duration(min) > duration(max),
    },
    Relation {
        key: "cleanup.propagation_timeout",
        is: "is shorter than",
        other: "cleanup.poll_interval_max",
        why: "a job would give up before it looks a second time",
        wrong: |timeout, poll| duration(timeout) < duration(poll),
    },
    Relation {
        key: "retry.initial_backoff",
        is: "is longer than",
        other: "retry.max_backoff",
        why: "the backoff grows from the one to the other",
        wrong: |initial, max| duration(initial) > duration(max),
    },
    Relation {
        key: "verify.on_timeout",
        is: "means nothing with",
        other: "verify.codepipeline",
        why: "only CodePipeline can tell that an approval timed out",
        wrong: |on_timeout, codepipeline| on_timeout == "ignore" && codepipeline == false,
    },
    Relation {
        key: "catch_up.reclaim",
        is: "means nothing with",
        other: "catch_up.interval",
        why: "an interval of zero is never",
        wrong: |reclaim, interval| reclaim == true && duration(interval).is_zero(),
    },
];

/// Checks everything; `None` only after at least one fault was reported.
pub(super) fn check(layers: &Layers, faults: &mut Vec<Fault>) -> Option<Config> {
    let mut reader = Reader { layers, faults };
    let sections = reader.sections();
    for relation in RELATIONS {
        let pair = value(&sections, relation.key).zip(value(&sections, relation.other));
        if pair.is_some_and(|(value, other)| (relation.wrong)(value, other)) {
            reader.relation(relation.key, relation.is, relation.other, relation.why);
        }
    }
    if let Some(backend) = value(&sections, "ledger.backend")
        && let Some(table) = value(&sections, "ledger.table").and_then(Value::as_str)
        && backend == "dynamodb"
        && !is_table_name(table)
    {
        let message = if table.is_empty() {
            "is needed with ledger.backend = \"dynamodb\"".to_owned()
        } else {
            let table = quoted(table);
            format!("{table} is no name of a DynamoDB table: 3 to 255 letters, digits, _ . or -")
        };
        reader.fault("ledger.table", &message);
    }
    let mut queue: Option<super::Queue> = section(&sections, "queue");
    if let Some(queue) = &mut queue {
        (queue.account, queue.region) = parse_queue_url(&queue.url).unwrap_or_default();
    }
    let (cleanup, events) = (section(&sections, "cleanup"), section(&sections, "events"));
    let verify: Option<super::Verify> = section(&sections, "verify");
    let surroundings = Surroundings {
        account: queue.as_ref().and_then(|queue| queue.account.clone()),
        region: queue.as_ref().and_then(|queue| queue.region.clone()),
        asks_codepipeline: verify.as_ref().is_some_and(|verify| verify.codepipeline),
    };
    let targets = reader.targets(surroundings, events.as_ref(), cleanup.as_ref());
    let (queue, events) = (queue?, events?);
    if queue.account.is_none() && events.allowed_accounts.is_empty() {
        reader.fault(
            "events.allowed_accounts",
            "is empty, and queue.url names no account: no event could ever be accepted; \
             list the accounts that events may come from",
        );
    }
    Some(Config {
        queue,
        cleanup: cleanup?,
        retry: section(&sections, "retry")?,
        shutdown: section(&sections, "shutdown")?,
        ledger: section(&sections, "ledger")?,
        health: section(&sections, "health")?,
        events,
        verify: verify?,
        catch_up: section(&sections, "catch_up")?,
        notify: section(&sections, "notify")?,
        telemetry: section(&sections, "telemetry")?,
        targets: targets?,
    })
}

/// The value of a key, if it is sound.
fn value<'a>(sections: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let (section, name) = keys::parts(key);
    sections.get(section)?.get(name)
}

/// A section, if all its values are sound.
fn section<T: DeserializeOwned>(sections: &Map<String, Value>, name: &str) -> Option<T> {
    T::deserialize(sections.get(name)?).ok()
}

/// A duration as [`Rule::read`](keys::Rule::read) gives it.
pub(super) fn duration(value: &Value) -> Duration {
    Deserialize::deserialize(value).unwrap_or_default()
}
