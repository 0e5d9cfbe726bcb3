//! Elements of a policy's statements, and requests that they are held against. Pure: no I/O.
//!
//! After "IAM JSON policy elements reference" of IAM's guide. Each answer is one of three, since a condition
//! may be on what is not known here, or use an operator that is not read (dates, numbers, addresses): `None`
//! says that it cannot be told.

use serde_json::Value;

use crate::ops::doctor::event_pattern::{all, any};
use crate::ops::doctor::wildcard::fits_iam;

/// Whose the rules are that send.
pub(super) const EVENTS: &str = "events.amazonaws.com";

pub(super) const SOURCE_ARN: &str = "aws:sourcearn";
pub(super) const SOURCE_ACCOUNT: &str = "aws:sourceaccount";
const PRINCIPAL_ARN: &str = "aws:principalarn";

/// Keys, by their beginning, that say whose a sender is.
const OF_OWNERS: [&str; 6] = [
    SOURCE_ARN,
    SOURCE_ACCOUNT,
    "aws:sourceorg",
    PRINCIPAL_ARN,
    "aws:principalaccount",
    "aws:principalorg",
];

/// Keys, by their beginning, that a service has not: of someone's credentials, of an endpoint in a VPC, of
/// what a service forwards.
const OF_CALLERS: [&str; 13] = [
    PRINCIPAL_ARN,
    "aws:principalaccount",
    "aws:principalorg",
    "aws:principaltag/",
    "aws:userid",
    "aws:username",
    "aws:multifactorauth",
    "aws:tokenissuetime",
    "aws:sourceidentity",
    "aws:federatedprovider",
    "aws:sourcevpc",
    "aws:vpcsourceip",
    "aws:calledvia",
];

/// Who sends.
pub(super) enum Who<'a> {
    EventBridge,
    /// A principal: an account's id, an ARN or another id.
    Caller(&'a str),
}

/// A request's value of a key.
enum Found<'a> {
    Absent,
    Unknown,
    Is(&'a str),
}

/// The value of a key, in lower case, where EventBridge sends over TLS for the rule with this ARN.
fn of_rule<'a>(rule: &'a str, key: &str) -> Found<'a> {
    match key {
        SOURCE_ARN => Found::Is(rule),
        SOURCE_ACCOUNT => Found::Is(part(rule, 4)),
        "aws:securetransport" | "aws:principalisawsservice" => Found::Is("true"),
        "aws:viaawsservice" => Found::Is("false"),
        "aws:principalservicename" | "aws:principalservicenameslist" => Found::Is(EVENTS),
        key if OF_CALLERS.iter().any(|it| key.starts_with(it)) => Found::Absent,
        _ => Found::Unknown,
    }
}

/// Whether some value of `element` matches, or none of `not`; `None` if the statement has neither.
pub(super) fn listed(
    statement: &Value,
    element: &str,
    not: &str,
    matches: impl Fn(&str) -> Option<bool>,
) -> Option<Option<bool>> {
    let some = |values: &Value| {
        any(many(values)
            .into_iter()
            .map(|it| it.as_str().and_then(&matches)))
    };
    match (&statement[element], &statement[not]) {
        (Value::Null, Value::Null) => None,
        (Value::Null, values) => Some(some(values).map(|it| !it)),
        (values, _) => Some(some(values)),
    }
}

pub(super) fn is_for(statement: &Value, who: &Who) -> Option<bool> {
    match (&statement["Principal"], &statement["NotPrincipal"]) {
        (Value::Null, Value::Null) => None,
        (Value::Null, principal) => is_among(principal, who).map(|it| !it),
        (principal, _) => is_among(principal, who),
    }
}

fn is_among(principal: &Value, who: &Who) -> Option<bool> {
    let Value::Object(kinds) = principal else {
        return (principal == "*").then_some(true);
    };
    any(kinds.iter().flat_map(|(kind, names)| {
        many(names).into_iter().map(move |name| {
            let name = name.as_str()?;
            Some(match (kind.as_str(), who) {
                // A service is somebody, too.
                ("AWS", _) if name == "*" => true,
                ("AWS", Who::Caller(caller)) => {
                    name == *caller || account(caller).is_some_and(|it| is_root(name, it))
                }
                ("Service", Who::EventBridge) => name == "*" || name == EVENTS,
                (_, Who::Caller(caller)) => name == *caller,
                _ => false,
            })
        })
    }))
}

/// Whether a statement is for everyone, whom its conditions then tell apart.
pub(super) fn is_for_everyone(statement: &Value) -> bool {
    !statement["NotPrincipal"].is_null()
        || statement["Principal"] == "*"
        || many(&statement["Principal"]["AWS"])
            .iter()
            .any(|it| *it == "*")
}

/// Every principal by name, with its kind.
pub(super) fn principals(statement: &Value) -> impl Iterator<Item = (&str, &str)> {
    let kinds = statement["Principal"].as_object().into_iter().flatten();
    kinds.flat_map(|(kind, names)| {
        let names = many(names).into_iter().filter_map(Value::as_str);
        names.map(move |name| (kind.as_str(), name))
    })
}

/// Operator, key and values of every condition.
pub(super) fn conditions(statement: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let operators = statement["Condition"].as_object().into_iter().flatten();
    operators.flat_map(|(operator, keys)| {
        let keys = keys.as_object().into_iter().flatten();
        keys.map(move |(key, values)| (operator.as_str(), key.as_str(), values))
    })
}

/// The values of a statement's conditions on `key`, which is in lower case.
pub(super) fn values<'a>(statement: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let on = conditions(statement).filter(move |(_, it, _)| it.eq_ignore_ascii_case(key));
    on.flat_map(|(_, _, values)| many(values).into_iter().filter_map(Value::as_str))
}

/// Whether a condition keeps out everyone who is not of a certain account, organization or ARN; `service` is the
/// one whose ARNs are looked for. A condition on nothing but TLS does not.
pub(super) fn binds(operator: &str, key: &str, values: &Value, service: &str) -> Option<bool> {
    let (operator, key) = (operator.to_ascii_lowercase(), key.to_ascii_lowercase());
    if key == "aws:securetransport" {
        return Some(false);
    }
    if operator == "null" || !OF_OWNERS.iter().any(|it| key.starts_with(it)) {
        return None;
    }
    // EventBridge always says which rule sends.
    let is_there = service == "events" && [SOURCE_ARN, SOURCE_ACCOUNT].contains(&&*key);
    let holds_without = operator.ends_with("ifexists") || operator.starts_with("forallvalues:");
    let holds_for_others = operator.contains("not") || holds_without && !is_there;
    if holds_for_others {
        return Some(false);
    }
    let of_one = |value: String| {
        let value = readable(&value)?;
        let of_another = !part(value, 2).is_empty() && !fits_iam(part(value, 2), service);
        Some(match key.as_str() {
            SOURCE_ARN if of_another => true,
            SOURCE_ARN | PRINCIPAL_ARN => {
                value.split(':').count() >= 6 && !part(value, 4).contains(['*', '?'])
            }
            _ => !value.contains('*'),
        })
    };
    all(many(values).into_iter().map(text).map(of_one))
}

/// Whether one condition holds where the rule with this ARN sends.
pub(super) fn test(operator: &str, key: &str, values: &Value, rule: &str) -> Option<bool> {
    let operator = operator.to_ascii_lowercase();
    let (of, operator) = operator.split_once(':').unwrap_or(("", &operator));
    let (operator, if_exists) = match operator.strip_suffix("ifexists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let found = of_rule(rule, &key.to_ascii_lowercase());
    let values = many(values).into_iter().map(text);
    if operator == "null" {
        let absent = match found {
            Found::Absent => "true",
            Found::Is(_) => "false",
            Found::Unknown => return None,
        };
        return Some(values.into_iter().any(|it| it.eq_ignore_ascii_case(absent)));
    }
    let negated = operator.contains("not");
    let found = match found {
        Found::Absent => {
            return match of {
                "forallvalues" => Some(true),
                "foranyvalue" => Some(if_exists),
                "" => Some(if_exists || negated),
                _ => None,
            };
        }
        Found::Unknown => return None,
        // Of one value, any is all.
        Found::Is(found) => found,
    };
    let matches = |value: String| {
        let value = readable(&value)?;
        match operator {
            "stringequals" | "stringnotequals" => Some(value == found),
            "stringequalsignorecase" | "stringnotequalsignorecase" | "bool" => {
                Some(value.eq_ignore_ascii_case(found))
            }
            "stringlike" | "stringnotlike" => Some(fits_iam(value, found)),
            "arnequals" | "arnlike" | "arnnotequals" | "arnnotlike" => arn_like(value, found),
            _ => None,
        }
    };
    any(values.map(matches)).map(|matched| matched != negated)
}

/// Part by part, so that no wildcard reaches over a colon.
pub(super) fn arn_like(pattern: &str, arn: &str) -> Option<bool> {
    let parts: Vec<&str> = pattern.splitn(6, ':').collect();
    match parts.len() {
        6 => Some(
            parts
                .iter()
                .zip(arn.splitn(6, ':'))
                .all(|(p, it)| fits_iam(p, it)),
        ),
        _ if pattern == "*" => Some(true),
        // No ARN. What AWS makes of it is not said.
        _ if fits_iam(pattern, arn) => None,
        _ => Some(false),
    }
}

/// `None` for a value with a policy variable, such as `${aws:username}`.
pub(super) fn readable(value: &str) -> Option<&str> {
    (!value.contains("${")).then_some(value)
}

/// A part of an ARN by its place, from 0; nothing if there is none.
pub(super) fn part(arn: &str, place: usize) -> &str {
    arn.splitn(6, ':').nth(place).unwrap_or_default()
}

/// The account of a principal, if it tells.
pub(super) fn account(principal: &str) -> Option<&str> {
    let account = match principal.contains(':') {
        true => part(principal, 4),
        false => principal,
    };
    crate::domain::arn::is_account(account).then_some(account)
}

/// Whether a principal stands for the whole account.
pub(super) fn is_root(principal: &str, of: &str) -> bool {
    account(principal) == Some(of) && (principal == of || part(principal, 5) == "root")
}

pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A policy's element, which is one value or a list of them.
pub(super) fn many(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().collect(),
        one => vec![one],
    }
}
