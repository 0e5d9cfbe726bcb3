//! A queue's policy: whether EventBridge may send, from which rules, and who else may. Pure: no I/O.
//!
//! After "Policy evaluation logic" and "IAM JSON policy elements" of IAM's guide. The policy is asked about
//! requests: of a rule that it names, of made-up rules, principals and callers without credentials. `None` says
//! that an answer cannot be told.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Status;
use super::statement::{
    EVENTS, PRINCIPAL_ARN, Request, SOURCE_ACCOUNT, SOURCE_ARN, Who, conditions, is_for,
    is_for_everyone, is_root, listed, many, part, principals, readable, test, text, values,
};
use crate::aws::sqs::QueueAttributes;
use crate::ops::doctor::event_pattern::{all, any};
use crate::ops::doctor::wildcard::fits_iam;

const ACTION: &str = "sqs:SendMessage";

/// An account that no policy means, and a name for what is of any name.
const STRANGER: &str = "000000000000";
const ANY: &str = "any-name-at-all";

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

impl QueuePolicy {
    /// The policy in `text` of the queue with the ARN `queue`; `None` if it is not JSON.
    pub(super) fn parse(text: &str, queue: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            statements: many(&document["Statement"]).into_iter().cloned().collect(),
            queue: queue.to_owned(),
        })
    }

    /// The policy of the queue, if it has one that can be read.
    pub(super) fn of(queue: &QueueAttributes) -> Option<Self> {
        Self::parse(queue.policy.as_deref()?, queue.arn.as_deref()?)
    }

    /// Whether a statement may allow `principal` this action, whatever its conditions.
    pub(super) fn may_grant(&self, action: &str, principal: &str) -> bool {
        let who = Who::Caller(principal.to_owned());
        let mut allow = self.statements.iter().filter(|it| it["Effect"] == "Allow");
        allow.any(|it| all([self.is_about(it, action), is_for(it, &who)]) != Some(false))
    }

    /// Whether the rule with this ARN may send.
    pub(super) fn admits(&self, rule: &str) -> Option<bool> {
        self.decide(&Request::rule(rule))
    }

    /// The ARNs, maybe with `*`, of the rules that it is about.
    pub(super) fn sources(&self) -> Vec<&str> {
        let allow = self.statements.iter().filter(|it| it["Effect"] == "Allow");
        let arns = allow.flat_map(|it| values(it, SOURCE_ARN));
        arns.filter(|arn| fits_iam(part(arn, 2), "events"))
            .collect()
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
                if !fits_iam(service, "events") && might(&request) {
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
        if !fits_iam(of, service) || (only && !account.contains(['*', '?'])) {
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
        self.is_about(statement, ACTION)
    }

    /// Whether the statement is about this action on this queue.
    fn is_about(&self, statement: &Value, action: &str) -> Option<bool> {
        let action = action.to_ascii_lowercase();
        let action = |pattern: &str| Some(fits_iam(&pattern.to_ascii_lowercase(), &action));
        // A policy without resources can only be about the queue that it is of.
        let resource = |pattern: &str| readable(pattern).map(|it| fits_iam(it, &self.queue));
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

/// `wanted` if it fits, else something that does.
fn fill(pattern: &str, wanted: &str, star: &str) -> String {
    match fits_iam(pattern, wanted) {
        true => wanted.to_owned(),
        false => pattern
            .replacen('*', star, 1)
            .replace('*', "")
            .replace('?', "0"),
    }
}

#[cfg(test)]
#[path = "queue_policy_tests.rs"]
mod tests;
