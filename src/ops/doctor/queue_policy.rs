//! A queue's policy: whether EventBridge may send, from which rules, and who else may. Pure: no I/O.
//!
//! After "Policy evaluation logic" and "IAM JSON policy elements" of IAM's guide. Two questions: may EventBridge
//! send, by every `Allow` and `Deny`; and does an `Allow` let in anyone who is not bound by account, organization
//! or ARN. `None` says that an answer cannot be decided.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Status;
use super::statement::{
    EVENTS, SOURCE_ACCOUNT, SOURCE_ARN, Who, binds, conditions, is_for, is_for_everyone, is_root,
    listed, many, part, principals, readable, test, text, values,
};
use crate::aws::sqs::QueueAttributes;
use crate::ops::doctor::event_pattern::{all, any};
use crate::ops::doctor::wildcard::fits_iam;

const ACTION: &str = "sqs:SendMessage";

/// A name for what is of any name.
const ANY: &str = "any-name-at-all";

/// What a policy comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) said: String,
}

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
        let who = Who::Caller(principal);
        let mut allow = self.those("Allow");
        allow.any(|it| all([self.is_about(it, action), is_for(it, &who)]) != Some(false))
    }

    /// Whether the rule with this ARN may send: allowed by a statement, and denied by none.
    pub(super) fn admits(&self, rule: &str) -> Option<bool> {
        let denied = self.some("Deny", rule);
        all([self.some("Allow", rule), denied.map(|denied| !denied)])
    }

    /// The ARNs, maybe with `*`, of the rules that it is about.
    pub(super) fn sources(&self) -> Vec<&str> {
        let arns = self.those("Allow").flat_map(|it| values(it, SOURCE_ARN));
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
            Some(false) => {
                let denied = own.iter().any(|arn| self.some("Allow", arn) == Some(true));
                let more = if denied { ": a Deny is for it too" } else { "" };
                let said = format!("EventBridge may not send to the queue{more}");
                found.push((Status::Failure, said));
            }
            None => found.push(untold(
                "whether EventBridge may send",
                self.untold_of_rules(&own),
            )),
        }
        let open = self.open_to_anyone();
        match &open {
            Ok(true) => found.push((Status::Failure, "anyone may send to the queue".to_owned())),
            Ok(false) => {}
            Err(why) => found.push(untold("whether anyone may send", why.clone())),
        }
        if open != Ok(true) {
            found.extend(self.unnamed_rules(may));
            let others: Vec<String> = self.others().into_iter().collect();
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

    /// A rule of the queue's account that nobody named, and those that are named: one of each pattern.
    fn own_rules(&self) -> Vec<String> {
        let own = part(&self.queue, 4);
        let named = self.patterns(SOURCE_ARN).into_iter();
        let named = named.map(|it| self.rule_like(it));
        named.chain([self.any_rule(own)]).collect()
    }

    /// A rule that `pattern` fits; where the pattern says nothing, one of the queue's account and region.
    fn rule_like(&self, pattern: &str) -> String {
        let name = |pattern: &str| pattern.replace('*', ANY).replace('?', "0");
        let parts: Vec<&str> = pattern.splitn(6, ':').collect();
        let [_, partition, _, region, account, resource] = parts[..] else {
            let resource = pattern.rsplit_once('/').map_or(ANY, |(_, it)| it);
            let any = self.any_rule(part(&self.queue, 4));
            return any.replace(ANY, &name(resource));
        };
        let or = |said: &str, place| match said.contains(['*', '?']) {
            true => part(&self.queue, place).to_owned(),
            false => said.to_owned(),
        };
        let resource = match resource {
            "*" => format!("rule/{ANY}"),
            resource => name(resource),
        };
        let (partition, region, account) = (or(partition, 1), or(region, 3), or(account, 4));
        format!("arn:{partition}:events:{region}:{account}:{resource}")
    }

    fn any_rule(&self, account: &str) -> String {
        let (partition, region) = (part(&self.queue, 1), part(&self.queue, 3));
        format!("arn:{partition}:events:{region}:{account}:rule/{ANY}")
    }

    /// Rules that may send although nobody named them.
    fn unnamed_rules(&self, may: Option<bool>) -> Option<(Status, String)> {
        let for_events = |it: &&Value| {
            all([self.is_for_sending(it), is_for(it, &Who::EventBridge)]) == Some(true)
        };
        let mut why = BTreeSet::new();
        for statement in self.those("Allow").filter(for_events) {
            match bound(statement, "events") {
                Ok(true) => {}
                Ok(false) if may == Some(false) => {}
                Ok(false) => {
                    let said = "any EventBridge rule may send to the queue, of other accounts too";
                    return Some((Status::Warning, said.to_owned()));
                }
                Err(untold) => why.extend(untold),
            }
        }
        if may == Some(true) && !why.is_empty() {
            return Some(untold("whether rules of other accounts may send", why));
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

    /// Whether an `Allow` for everyone binds nobody, SNS included, which sends what one likes. An error is what
    /// that depends on.
    fn open_to_anyone(&self) -> Result<bool, BTreeSet<String>> {
        let mut why = BTreeSet::new();
        let hedged = |it: &Value| self.is_for_sending(it) != Some(false) && !is_on_tls_alone(it);
        for statement in self.those("Allow").filter(|it| is_for_everyone(it)) {
            match (self.is_for_sending(statement), bound(statement, "sns")) {
                (Some(false), _) | (_, Ok(true)) => {}
                (_, Err(untold)) => why.extend(untold),
                (None, _) => {
                    why.insert("its Resource".to_owned());
                }
                _ if self.those("Deny").any(hedged) => {
                    why.insert("a Deny".to_owned());
                }
                _ => return Ok(true),
            }
        }
        if why.is_empty() { Ok(false) } else { Err(why) }
    }

    /// Who else is let in: by name, by ARN, or by a condition of a statement for everyone.
    fn others(&self) -> BTreeSet<String> {
        let mut others = BTreeSet::new();
        let own = part(&self.queue, 4);
        let allow = self.those("Allow");
        for statement in allow.filter(|it| self.is_for_sending(it) != Some(false)) {
            let named = principals(statement).filter(|(kind, name)| match (*kind, *name) {
                (_, "*") | ("Service", EVENTS) => false,
                // The account's own policies decide, as they do without this.
                ("AWS", name) => !is_root(name, own),
                _ => true,
            });
            others.extend(named.map(|(_, name)| name.to_owned()));
            if !is_for_everyone(statement) {
                continue;
            }
            let arns: Vec<&str> = values(statement, SOURCE_ARN).collect();
            let foreign = arns.iter().filter(|it| !fits_iam(part(it, 2), "events"));
            others.extend(foreign.map(|it| (*it).to_owned()));
            let bounds = conditions(statement).filter(|(operator, key, values)| {
                binds(operator, key, values, "sns") == Some(true)
            });
            let bounds = bounds.map(|(_, key, values)| {
                let values: Vec<String> = many(values).into_iter().map(text).collect();
                format!("{key} {}", values.join(" or "))
            });
            let bounds: Vec<String> = bounds.collect();
            if arns.is_empty() && !bounds.is_empty() {
                others.insert(format!("whoever has {}", bounds.join(" and ")));
            }
        }
        others
    }

    /// The values of every condition on `key`.
    fn patterns(&self, key: &str) -> BTreeSet<&str> {
        let statements = self.statements.iter();
        statements.flat_map(|it| values(it, key)).collect()
    }

    fn those(&self, effect: &'static str) -> impl Iterator<Item = &Value> {
        let statements = self.statements.iter();
        statements.filter(move |it| it["Effect"] == effect)
    }

    /// Whether a statement of this effect applies to what the rule sends.
    fn some(&self, effect: &'static str, rule: &str) -> Option<bool> {
        any(self.those(effect).map(|it| self.applies(it, rule)))
    }

    fn applies(&self, statement: &Value, rule: &str) -> Option<bool> {
        let conditions = match &statement["Condition"] {
            Value::Null => Some(true),
            Value::Object(operators) if operators.values().all(Value::is_object) => {
                all(conditions(statement)
                    .map(|(operator, key, values)| test(operator, key, values, rule)))
            }
            _ => None,
        };
        all([
            self.is_for_sending(statement),
            is_for(statement, &Who::EventBridge),
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

    /// The conditions that keep it from being known whether these rules may send.
    fn untold_of_rules(&self, rules: &[String]) -> BTreeSet<String> {
        let mut why = BTreeSet::new();
        for rule in rules.iter().filter(|it| self.admits(it).is_none()) {
            let statements = self.statements.iter();
            for statement in statements.filter(|it| self.applies(it, rule).is_none()) {
                let untold = conditions(statement)
                    .filter(|(operator, key, values)| test(operator, key, values, rule).is_none());
                why.extend(untold.map(|(operator, key, _)| format!("{operator} {key}")));
            }
        }
        why
    }
}

/// Whether a statement is about what is not sent over TLS, and nothing else.
fn is_on_tls_alone(statement: &Value) -> bool {
    let mut keys = conditions(statement).map(|(_, key, _)| key);
    let first = keys.next();
    first.is_some_and(|it| it.eq_ignore_ascii_case("aws:SecureTransport")) && keys.next().is_none()
}

/// Whether the conditions of a statement bind whom it is for; an error is those on which that depends.
fn bound(statement: &Value, service: &str) -> Result<bool, Vec<String>> {
    let binds: Vec<(String, Option<bool>)> = conditions(statement)
        .map(|(operator, key, values)| {
            let binds = binds(operator, key, values, service);
            (format!("{operator} {key}"), binds)
        })
        .collect();
    any(binds.iter().map(|it| it.1)).ok_or_else(|| {
        let untold = binds.into_iter().filter(|it| it.1.is_none());
        untold.map(|it| it.0).collect()
    })
}

fn untold(what: &str, why: BTreeSet<String>) -> (Status, String) {
    let why: Vec<String> = why.into_iter().collect();
    let why = match why.is_empty() {
        true => "a statement is not understood".to_owned(),
        false => format!("it depends on {}", why.join(", ")),
    };
    (Status::Warning, format!("{what} cannot be decided: {why}"))
}

#[cfg(test)]
#[path = "queue_policy_tests.rs"]
mod tests;
