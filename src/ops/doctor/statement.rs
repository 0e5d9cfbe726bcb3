//! Elements of a policy's statements, and requests that they are held against. Pure: no I/O.
//!
//! After "IAM JSON policy elements reference" of IAM's guide. Each answer is one of three, since a condition
//! may be on what is not known here, or use an operator that is not read (dates, numbers, addresses): `None`
//! says that it cannot be told.

use serde_json::Value;

use crate::ops::doctor::event_pattern::any;
use crate::ops::doctor::wildcard::fits_iam;

/// Whose the rules are that send.
pub(super) const EVENTS: &str = "events.amazonaws.com";

pub(super) const SOURCE_ARN: &str = "aws:sourcearn";
pub(super) const SOURCE_ACCOUNT: &str = "aws:sourceaccount";
pub(super) const PRINCIPAL_ARN: &str = "aws:principalarn";

/// Keys of a request that only an AWS service has, when it calls for a resource.
pub(super) const OF_SERVICES: [&str; 4] = [
    SOURCE_ARN,
    SOURCE_ACCOUNT,
    "aws:sourceorg",
    "aws:principalservicename",
];

/// Keys, by their beginning, of a request with someone's credentials, which a service itself has not.
pub(super) const OF_CALLERS: [&str; 10] = [
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
];

/// Keys, by their beginning, of a request through an endpoint in a VPC, or that a service forwards.
pub(super) const OF_NETWORKS: [&str; 3] = ["aws:sourcevpc", "aws:vpcsourceip", "aws:calledvia"];

/// Who sends.
pub(super) enum Who {
    Service(String),
    /// A principal: an account's id, an ARN or another id.
    Caller(String),
    Anonymous,
}

/// A message to be sent over TLS.
pub(super) struct Request {
    pub(super) who: Who,
    /// What is known of it, by key in lower case. `None`: it has the key, with an unknown value.
    keys: Vec<(&'static str, Option<String>)>,
}

/// A request's value of a key.
pub(super) enum Found<'a> {
    Absent,
    Unknown,
    Is(&'a str),
}

impl Request {
    /// A service calls for the resource that `arn` names; for one that is not known, without.
    pub(super) fn service(name: &str, arn: Option<String>) -> Self {
        let account = arn.as_deref().map(|arn| part(arn, 4).to_owned());
        Self {
            who: Who::Service(name.to_owned()),
            keys: vec![
                (SOURCE_ARN, arn),
                (SOURCE_ACCOUNT, account),
                ("aws:principalisawsservice", Some("true".to_owned())),
                ("aws:viaawsservice", Some("false".to_owned())),
                ("aws:principalservicename", Some(name.to_owned())),
                ("aws:principalservicenameslist", Some(name.to_owned())),
            ],
        }
    }

    pub(super) fn rule(arn: &str) -> Self {
        Self::service(EVENTS, Some(arn.to_owned()))
    }

    pub(super) fn caller(principal: &str) -> Self {
        let mut keys = vec![("aws:principalisawsservice", Some("false".to_owned()))];
        if let Some(account) = account(principal) {
            keys.push(("aws:principalaccount", Some(account.to_owned())));
        }
        if !part(principal, 5).is_empty() && part(principal, 5) != "root" {
            keys.push((PRINCIPAL_ARN, Some(principal.to_owned())));
        }
        Self {
            who: Who::Caller(principal.to_owned()),
            keys,
        }
    }

    /// Someone of an account and an organization that no policy means.
    pub(super) fn stranger(arn: &str) -> Self {
        let mut it = Self::caller(arn);
        for (key, value) in [
            ("aws:principalorgid", "o-elsewhere"),
            ("aws:principalorgpaths", "o-elsewhere/r-else/ou-else/"),
        ] {
            it.keys.push((key, Some(value.to_owned())));
        }
        it
    }

    pub(super) fn anonymous() -> Self {
        Self {
            who: Who::Anonymous,
            keys: vec![("aws:principalisawsservice", Some("false".to_owned()))],
        }
    }

    /// `key` is in lower case.
    pub(super) fn value(&self, key: &str) -> Found<'_> {
        if key == "aws:securetransport" {
            return Found::Is("true");
        }
        if let Some((_, value)) = self.keys.iter().find(|(it, _)| *it == key) {
            return value.as_deref().map_or(Found::Unknown, Found::Is);
        }
        let begins = |keys: &[&str]| keys.iter().any(|it| key.starts_with(it));
        let absent = match self.who {
            Who::Service(_) => begins(&OF_CALLERS) || begins(&OF_NETWORKS),
            Who::Caller(_) => begins(&OF_SERVICES),
            Who::Anonymous => begins(&OF_SERVICES) || begins(&OF_CALLERS),
        };
        if absent {
            Found::Absent
        } else {
            Found::Unknown
        }
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

pub(super) fn is_among(principal: &Value, who: &Who) -> Option<bool> {
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
                    name == caller || account(caller).is_some_and(|it| is_root(name, it))
                }
                ("Service", Who::Service(service)) => name == "*" || name == service,
                (_, Who::Caller(caller)) => name == caller,
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

/// Whether one condition holds.
pub(super) fn test(operator: &str, key: &str, values: &Value, request: &Request) -> Option<bool> {
    let operator = operator.to_ascii_lowercase();
    let (of, operator) = operator.split_once(':').unwrap_or(("", &operator));
    let (operator, if_exists) = match operator.strip_suffix("ifexists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let found = request.value(&key.to_ascii_lowercase());
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
