//! A queue's policy: whether EventBridge may send, from which rules, and who else may. Pure: no I/O.
//!
//! After "Policy evaluation logic" and "IAM JSON policy elements" of IAM's guide. The policy is asked about
//! requests: of a rule that it names, of made-up rules, principals and callers without credentials. Each
//! answer is one of three, since a condition may be on what is not known here, or use an operator that is
//! not read (dates, numbers, addresses): `None` says that it cannot be told.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Status;
use crate::event_pattern::{all, any};

/// Whose the rules are that send.
const EVENTS: &str = "events.amazonaws.com";

const ACTION: &str = "sqs:SendMessage";

const SOURCE_ARN: &str = "aws:sourcearn";
const SOURCE_ACCOUNT: &str = "aws:sourceaccount";
const PRINCIPAL_ARN: &str = "aws:principalarn";

/// An account that no policy means, and a name for what is of any name.
const STRANGER: &str = "000000000000";
const ANY: &str = "any-name-at-all";

/// Keys of a request that only an AWS service has, when it calls for a resource.
const OF_SERVICES: [&str; 4] = [
    SOURCE_ARN,
    SOURCE_ACCOUNT,
    "aws:sourceorg",
    "aws:principalservicename",
];

/// Keys, by their beginning, of a request with someone's credentials, which a service itself has not.
const OF_CALLERS: [&str; 10] = [
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
const OF_NETWORKS: [&str; 3] = ["aws:sourcevpc", "aws:vpcsourceip", "aws:calledvia"];

/// What a policy comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) said: String,
}

/// The policy of one queue.
pub(super) struct QueuePolicy {
    statements: Vec<Value>,
    queue: String,
}

/// Who sends.
enum Who {
    Service(String),
    /// A principal: an account's id, an ARN or another id.
    Caller(String),
    Anonymous,
}

/// A message to be sent over TLS.
struct Request {
    who: Who,
    /// What is known of it, by key in lower case. `None`: it has the key, with an unknown value.
    keys: Vec<(&'static str, Option<String>)>,
}

/// A request's value of a key.
enum Found<'a> {
    Absent,
    Unknown,
    Is(&'a str),
}

impl Request {
    /// A service calls for the resource that `arn` names; for one that is not known, without.
    fn service(name: &str, arn: Option<String>) -> Self {
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

    fn rule(arn: &str) -> Self {
        Self::service(EVENTS, Some(arn.to_owned()))
    }

    fn caller(principal: &str) -> Self {
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
    fn stranger(arn: &str) -> Self {
        let mut it = Self::caller(arn);
        for (key, value) in [
            ("aws:principalorgid", "o-elsewhere"),
            ("aws:principalorgpaths", "o-elsewhere/r-else/ou-else/"),
        ] {
            it.keys.push((key, Some(value.to_owned())));
        }
        it
    }

    fn anonymous() -> Self {
        Self {
            who: Who::Anonymous,
            keys: vec![("aws:principalisawsservice", Some("false".to_owned()))],
        }
    }

    /// `key` is in lower case.
    fn value(&self, key: &str) -> Found<'_> {
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

impl QueuePolicy {
    /// The policy in `text` of the queue with the ARN `queue`; `None` if it is not JSON.
    pub(super) fn parse(text: &str, queue: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            statements: many(&document["Statement"]).into_iter().cloned().collect(),
            queue: queue.to_owned(),
        })
    }

    /// Whether the rule with this ARN may send.
    pub(super) fn admits(&self, rule: &str) -> Option<bool> {
        self.decide(&Request::rule(rule))
    }

    /// The ARNs, maybe with `*`, of the rules that it is about.
    pub(super) fn sources(&self) -> Vec<&str> {
        let allow = self.statements.iter().filter(|it| it["Effect"] == "Allow");
        let arns = allow.flat_map(|it| values(it, SOURCE_ARN));
        arns.filter(|arn| glob(part(arn, 2), "events")).collect()
    }

    /// Who may send. EventBridge must, from the rules that are named, and nobody else.
    pub(super) fn judge(&self) -> Verdict {
        let mut found: Vec<(Status, String)> = Vec::new();
        let own = self.own_rules();
        let may = any(own.iter().map(|arn| self.admits(arn)));
        match may {
            Some(true) => {}
            Some(false) if own.iter().any(|arn| self.only_denied(&Request::rule(arn))) => {
                let said = "EventBridge may not send to the queue: a Deny is for it too";
                found.push((Status::Failure, said.to_owned()));
            }
            Some(false) => {
                let said = "EventBridge may not send to the queue";
                found.push((Status::Failure, said.to_owned()));
            }
            None => {
                let asked: Vec<Request> = own.iter().map(|arn| Request::rule(arn)).collect();
                found.push(self.untold("whether EventBridge may send", &asked));
            }
        }
        let anyone = self.strangers();
        let open = any(anyone.iter().map(|it| self.decide(it)));
        match open {
            Some(true) => {
                found.push((Status::Failure, "anyone may send to the queue".to_owned()));
            }
            Some(false) => {}
            None => found.push(self.untold("whether anyone may send", &anyone)),
        }
        if open != Some(true) {
            found.extend(self.unnamed_rules(may));
            let others: Vec<String> = self.others(open).into_iter().collect();
            if !others.is_empty() {
                let said = format!("besides EventBridge may send: {}", others.join(", "));
                found.push((Status::Warning, said));
            }
        }
        let status = found.iter().map(|it| it.0).max().unwrap_or(Status::Ok);
        let said: Vec<String> = found.into_iter().map(|it| it.1).collect();
        let ok = || "EventBridge may send, from the rules that it names".to_owned();
        Verdict {
            status,
            said: Some(said.join("; "))
                .filter(|it| !it.is_empty())
                .unwrap_or_else(ok),
        }
    }

    /// The rules of the queue's account, and those of others that are named without a wildcard.
    fn own_rules(&self) -> Vec<String> {
        let own = part(&self.queue, 4);
        let patterns = self.patterns(SOURCE_ARN).into_iter();
        let named = patterns.filter_map(|it| self.instance(it, "events", own, false));
        named.chain([self.any_rule(own)]).collect()
    }

    /// Rules that may send although nobody named them.
    fn unnamed_rules(&self, may: Option<bool>) -> Option<(Status, String)> {
        let patterns = self.patterns(SOURCE_ARN).into_iter();
        let foreign: Vec<Request> = patterns
            .filter_map(|it| self.instance(it, "events", STRANGER, true))
            .chain([self.any_rule(STRANGER)])
            .map(|arn| Request::rule(&arn))
            .collect();
        match any(foreign.iter().map(|it| self.decide(it))) {
            Some(true) => {
                let said = "any EventBridge rule may send to the queue, of other accounts too";
                return Some((Status::Warning, said.to_owned()));
            }
            None if may == Some(true) => {
                let what = "whether rules of other accounts may send";
                return Some(self.untold(what, &foreign));
            }
            Some(false) | None => {}
        }
        let mut accounts = BTreeSet::from([part(&self.queue, 4)]);
        accounts.extend(self.patterns(SOURCE_ACCOUNT));
        let open = |account: &&str| self.admits(&self.any_rule(account)) == Some(true);
        let open: Vec<&str> = accounts.into_iter().filter(open).collect();
        let said = format!(
            "any EventBridge rule of the account {} may send to the queue",
            open.join(", ")
        );
        (!open.is_empty()).then_some((Status::Warning, said))
    }

    /// Requests of whom no policy means: without credentials, with those of some account, and through a
    /// service that sends what one likes.
    fn strangers(&self) -> Vec<Request> {
        let partition = part(&self.queue, 1);
        let role = format!("arn:{partition}:iam::{STRANGER}:role/{ANY}");
        let mut requests = vec![Request::anonymous(), Request::stranger(&role)];
        let arns = self.patterns(PRINCIPAL_ARN).into_iter();
        let arns = arns.filter_map(|it| self.instance(it, "iam", STRANGER, true));
        requests.extend(arns.map(|arn| Request::stranger(&arn)));
        let topic = format!(
            "arn:{partition}:sns:{}:{STRANGER}:{ANY}",
            part(&self.queue, 3)
        );
        let topics = self.patterns(SOURCE_ARN).into_iter();
        let topics = topics.filter_map(|it| self.instance(it, "sns", STRANGER, true));
        let sns = |arn| Request::service("sns.amazonaws.com", Some(arn));
        // Where SNS itself is named, it is one of the others.
        let names_sns =
            |it: &Value| many(&it["Principal"]["Service"]).contains(&&"sns.amazonaws.com".into());
        if !self.statements.iter().any(names_sns) {
            requests.extend(topics.chain([topic]).map(sns));
        }
        requests
    }

    /// Who else is named, and may or might send.
    fn others(&self, open: Option<bool>) -> BTreeSet<String> {
        let mut others = BTreeSet::new();
        let might = |request: &Request| self.decide(request) != Some(false);
        for statement in self.statements.iter().filter(|it| it["Effect"] == "Allow") {
            if self.is_for_sending(statement) == Some(false) {
                continue;
            }
            for (kind, name) in principals(statement) {
                let request = match (kind, name) {
                    (_, "*") | ("Service", EVENTS) => continue,
                    ("Service", name) => Request::service(name, None),
                    // The account's own policies decide, as they do without this.
                    ("AWS", name) if is_root(name, part(&self.queue, 4)) => continue,
                    (_, name) => Request::caller(name),
                };
                if might(&request) {
                    others.insert(name.to_owned());
                }
            }
            if !is_for_everyone(statement) {
                continue;
            }
            for arn in values(statement, SOURCE_ARN) {
                let service = part(arn, 2);
                let request =
                    Request::service(&format!("{service}.amazonaws.com"), Some(arn.to_owned()));
                if !glob(service, "events") && might(&request) {
                    others.insert(arn.to_owned());
                }
            }
            let somebody = Request::caller("");
            if open == Some(false)
                && self.applies(statement, &somebody) != Some(false)
                && might(&somebody)
            {
                let keys = conditions(statement).filter(|(operator, key, values)| {
                    test(operator, key, values, &somebody).is_none()
                });
                let keys = keys.map(|(_, key, values)| {
                    let values: Vec<String> = many(values).into_iter().map(text).collect();
                    format!("{key} {}", values.join(" or "))
                });
                let keys: Vec<String> = keys.collect();
                others.insert(format!("whoever has {}", keys.join(" and ")));
            }
        }
        others
    }

    fn any_rule(&self, account: &str) -> String {
        let (partition, region) = (part(&self.queue, 1), part(&self.queue, 3));
        format!("arn:{partition}:events:{region}:{account}:rule/{ANY}")
    }

    /// An ARN that fits `pattern`, of the service and, where the pattern allows that, of the account. With
    /// `only`, none of another account.
    fn instance(&self, pattern: &str, service: &str, owner: &str, only: bool) -> Option<String> {
        let mut pattern = pattern.to_owned();
        // A wildcard may stand for several parts.
        while pattern.split(':').count() < 6
            && let Some(at) = pattern.find('*')
        {
            pattern.replace_range(at..=at, "*:*");
        }
        let parts: Vec<&str> = pattern.splitn(6, ':').collect();
        let [arn, partition, of, region, account, resource] = parts[..] else {
            return None;
        };
        if !glob(of, service) || (only && !account.contains(['*', '?'])) {
            return None;
        }
        let wanted = match service {
            "events" => format!("rule/{ANY}"),
            "iam" => format!("role/{ANY}"),
            _ => ANY.to_owned(),
        };
        Some(format!(
            "{}:{}:{service}:{}:{}:{}",
            fill(arn, "arn", ""),
            fill(partition, part(&self.queue, 1), ""),
            fill(region, part(&self.queue, 3), ""),
            fill(
                account,
                owner,
                &"0".repeat(13_usize.saturating_sub(account.len()))
            ),
            fill(resource, &wanted, ANY),
        ))
    }

    /// The values of every condition on `key`.
    fn patterns(&self, key: &str) -> BTreeSet<&str> {
        let statements = self.statements.iter();
        statements.flat_map(|it| values(it, key)).collect()
    }

    /// Whether the request is allowed by a statement, and denied by none.
    fn decide(&self, request: &Request) -> Option<bool> {
        let denied = self.some("Deny", request);
        all([self.some("Allow", request), denied.map(|denied| !denied)])
    }

    fn only_denied(&self, request: &Request) -> bool {
        self.some("Allow", request) == Some(true)
    }

    fn some(&self, effect: &str, request: &Request) -> Option<bool> {
        let statements = self.statements.iter().filter(|it| it["Effect"] == effect);
        any(statements.map(|it| self.applies(it, request)))
    }

    fn applies(&self, statement: &Value, request: &Request) -> Option<bool> {
        let conditions = match &statement["Condition"] {
            Value::Null => Some(true),
            Value::Object(operators) if operators.values().all(Value::is_object) => {
                all(conditions(statement)
                    .map(|(operator, key, values)| test(operator, key, values, request)))
            }
            _ => None,
        };
        all([
            self.is_for_sending(statement),
            is_for(statement, &request.who),
            conditions,
        ])
    }

    /// Whether the statement is about sending to this queue.
    fn is_for_sending(&self, statement: &Value) -> Option<bool> {
        let action = |pattern: &str| {
            Some(glob(
                &pattern.to_ascii_lowercase(),
                &ACTION.to_ascii_lowercase(),
            ))
        };
        // A policy without resources can only be about the queue that it is of.
        let resource = |pattern: &str| readable(pattern).map(|it| glob(it, &self.queue));
        all([
            listed(statement, "Action", "NotAction", action).unwrap_or(Some(false)),
            listed(statement, "Resource", "NotResource", resource).unwrap_or(Some(true)),
        ])
    }

    /// What keeps the answer to some requests from being known.
    fn untold(&self, what: &str, requests: &[Request]) -> (Status, String) {
        let mut why = BTreeSet::new();
        for request in requests.iter().filter(|it| self.decide(it).is_none()) {
            for statement in &self.statements {
                if self.applies(statement, request).is_some() {
                    continue;
                }
                let untold = conditions(statement).filter(|(operator, key, values)| {
                    test(operator, key, values, request).is_none()
                });
                why.extend(untold.map(|(operator, key, _)| format!("{operator} {key}")));
            }
        }
        let why: Vec<String> = why.into_iter().collect();
        let why = match why.is_empty() {
            true => "a statement is not understood".to_owned(),
            false => format!("it depends on {}", why.join(", ")),
        };
        (Status::Warning, format!("{what} cannot be told: {why}"))
    }
}

/// Whether some value of `element` matches, or none of `not`; `None` if the statement has neither.
fn listed(
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

fn is_for(statement: &Value, who: &Who) -> Option<bool> {
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
fn is_for_everyone(statement: &Value) -> bool {
    !statement["NotPrincipal"].is_null()
        || statement["Principal"] == "*"
        || many(&statement["Principal"]["AWS"])
            .iter()
            .any(|it| *it == "*")
}

/// Every principal by name, with its kind.
fn principals(statement: &Value) -> impl Iterator<Item = (&str, &str)> {
    let kinds = statement["Principal"].as_object().into_iter().flatten();
    kinds.flat_map(|(kind, names)| {
        let names = many(names).into_iter().filter_map(Value::as_str);
        names.map(move |name| (kind.as_str(), name))
    })
}

/// Operator, key and values of every condition.
fn conditions(statement: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let operators = statement["Condition"].as_object().into_iter().flatten();
    operators.flat_map(|(operator, keys)| {
        let keys = keys.as_object().into_iter().flatten();
        keys.map(move |(key, values)| (operator.as_str(), key.as_str(), values))
    })
}

/// The values of a statement's conditions on `key`, which is in lower case.
fn values<'a>(statement: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let on = conditions(statement).filter(move |(_, it, _)| it.eq_ignore_ascii_case(key));
    on.flat_map(|(_, _, values)| many(values).into_iter().filter_map(Value::as_str))
}

/// Whether one condition holds.
fn test(operator: &str, key: &str, values: &Value, request: &Request) -> Option<bool> {
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
            "stringlike" | "stringnotlike" => Some(glob(value, found)),
            "arnequals" | "arnlike" | "arnnotequals" | "arnnotlike" => arn_like(value, found),
            _ => None,
        }
    };
    any(values.map(matches)).map(|matched| matched != negated)
}

/// Part by part, so that no wildcard reaches over a colon.
fn arn_like(pattern: &str, arn: &str) -> Option<bool> {
    let parts: Vec<&str> = pattern.splitn(6, ':').collect();
    match parts.len() {
        6 => Some(
            parts
                .iter()
                .zip(arn.splitn(6, ':'))
                .all(|(p, it)| glob(p, it)),
        ),
        _ if pattern == "*" => Some(true),
        // No ARN. What AWS makes of it is not said.
        _ if glob(pattern, arn) => None,
        _ => Some(false),
    }
}

/// `None` for a value with a policy variable, such as `${aws:username}`.
fn readable(value: &str) -> Option<&str> {
    (!value.contains("${")).then_some(value)
}

/// Whether `*` for anything and `?` for one character make `pattern` into `text`.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // The last `*`, and where what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, end)) = star {
            star = Some((at, end + 1));
            (p, t) = (at + 1, end + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|it| *it == '*')
}

/// `wanted` if it fits, else something that does.
fn fill(pattern: &str, wanted: &str, star: &str) -> String {
    match glob(pattern, wanted) {
        true => wanted.to_owned(),
        false => pattern
            .replacen('*', star, 1)
            .replace('*', "")
            .replace('?', "0"),
    }
}

/// A part of an ARN by its place, from 0; nothing if there is none.
fn part(arn: &str, place: usize) -> &str {
    arn.splitn(6, ':').nth(place).unwrap_or_default()
}

/// The account of a principal, if it tells.
fn account(principal: &str) -> Option<&str> {
    let account = match principal.contains(':') {
        true => part(principal, 4),
        false => principal,
    };
    crate::target::is_account(account).then_some(account)
}

/// Whether a principal stands for the whole account.
fn is_root(principal: &str, of: &str) -> bool {
    account(principal) == Some(of) && (principal == of || part(principal, 5) == "root")
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A policy's element, which is one value or a list of them.
fn many(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().collect(),
        one => vec![one],
    }
}

#[cfg(test)]
#[path = "queue_policy_tests.rs"]
mod tests;
