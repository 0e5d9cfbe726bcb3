//! EventBridge over AWS JSON 1.1: buses, rules that send to queues, and events put on a bus.
//!
//! After the EventBridge API reference: ListRuleNamesByTarget, DescribeRule, ListTargetsByRule,
//! DescribeEventBus and PutEvents. What a rule lets through is on its target queue in the same moment.
//! A bus that does not exist takes events, and drops them. Schedules, archives, transformers and the
//! policies of buses and queues are not modelled.

pub(crate) mod pattern;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::services::Tweaks;
use crate::services::eventbridge::pattern::matches;
use crate::services::sqs::Sqs;
use crate::wire::exchange::{Call, Change, Failure, Reply};
use crate::wire::ids::Ids;
use crate::wire::settings::Settings;

pub(crate) const DEFAULT: &str = "default";

/// Entries that one PutEvents may hold, and their bytes together.
const ENTRIES: usize = 10;
const BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Rule {
    pub(crate) pattern: Option<String>,
    pub(crate) enabled: bool,
    /// As PutTargets took them, by id.
    pub(crate) targets: BTreeMap<String, Value>,
}

#[derive(Debug, Default)]
pub(crate) struct Bus {
    pub(crate) rules: BTreeMap<String, Rule>,
    /// Every event that it took, oldest first.
    pub(crate) events: Vec<Value>,
}

/// The buses of the account.
#[derive(Debug)]
pub(crate) struct EventBridge {
    pub(crate) buses: BTreeMap<String, Bus>,
}

impl Default for EventBridge {
    fn default() -> Self {
        Self {
            buses: BTreeMap::from([(DEFAULT.to_owned(), Bus::default())]),
        }
    }
}

/// What a rule needs besides the buses.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) settings: &'a Settings,
    pub(crate) ids: &'a mut Ids,
    pub(crate) tweaks: &'a Tweaks,
    pub(crate) sqs: &'a mut Sqs,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(400, "ValidationException", message)
}

fn missing(what: &str) -> Failure {
    let message = format!("{what} does not exist on EventBus.");
    Failure::new(400, "ResourceNotFoundException", message)
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Failure> {
    let text = body.get(name).and_then(Value::as_str);
    text.ok_or_else(|| {
        invalid(format!(
            "1 validation error detected: Value null at '{name}' failed to satisfy constraint: \
             Member must not be null"
        ))
    })
}

/// The name of the bus that a request or an entry is about, by name or ARN.
fn bus_name(body: &Value) -> &str {
    let given = body.get("EventBusName").and_then(Value::as_str);
    let given = given.unwrap_or(DEFAULT);
    given.rsplit('/').next().unwrap_or(given)
}

impl EventBridge {
    fn bus(&mut self, body: &Value) -> Result<&mut Bus, Failure> {
        let name = bus_name(body);
        let bus = self.buses.get_mut(name);
        bus.ok_or_else(|| missing(&format!("Event bus {name}")))
    }

    fn rule(&mut self, body: &Value, name: &str) -> Result<&mut Rule, Failure> {
        let name = text(body, name)?;
        let bus = self.bus(body)?;
        let rule = bus.rules.get_mut(name);
        rule.ok_or_else(|| missing(&format!("Rule {name}")))
    }

    /// Carries out one request.
    pub(crate) fn call(
        &mut self,
        context: &mut Context<'_>,
        call: &Call,
        body: &Value,
    ) -> Result<Reply, Failure> {
        match call.operation.as_str() {
            "ListRuleNamesByTarget" => {
                let arn = text(body, "TargetArn")?;
                let rules = self.bus(body)?.rules.iter();
                let sends = |rule: &Rule| rule.targets.values().any(|target| target["Arn"] == arn);
                let names: Vec<_> = rules.filter(|(_, it)| sends(it)).map(|it| it.0).collect();
                Ok(Reply::json(&json!({ "RuleNames": names })))
            }
            "DescribeRule" => {
                let rule = self.rule(body, "Name")?;
                let (bus, name) = (bus_name(body), text(body, "Name")?);
                let mut answer = json!({
                    "Name": name,
                    "Arn": arn(context.settings, bus, name),
                    "State": if rule.enabled { "ENABLED" } else { "DISABLED" },
                    "EventBusName": bus,
                });
                if let Some(pattern) = &rule.pattern {
                    answer["EventPattern"] = json!(pattern);
                }
                Ok(Reply::json(&answer))
            }
            "ListTargetsByRule" => {
                let targets: Vec<_> = self.rule(body, "Rule")?.targets.values().collect();
                Ok(Reply::json(&json!({ "Targets": targets })))
            }
            "DescribeEventBus" => {
                self.bus(&json!({ "EventBusName": body["Name"] }))?;
                Ok(Reply::json(
                    &json!({ "Name": bus_name(&json!({ "EventBusName": body["Name"] })) }),
                ))
            }
            "PutEvents" => self.put_events(context, body),
            other => Err(Failure::new(
                400,
                "UnknownOperationException",
                format!("{other} is not an operation of the embedded EventBridge."),
            )),
        }
    }

    fn put_events(&mut self, context: &mut Context<'_>, body: &Value) -> Result<Reply, Failure> {
        let entries = body.get("Entries").and_then(Value::as_array);
        let entries = entries.map_or(&[][..], Vec::as_slice);
        if !(1..=ENTRIES).contains(&entries.len()) {
            return Err(invalid(format!(
                "1 validation error detected: Value at 'entries' failed to satisfy constraint: \
                 Member must have length between 1 and {ENTRIES}"
            )));
        }
        if entries.iter().map(bytes).sum::<usize>() > BYTES {
            let message = "Total size of the entries in the request is over the limit.";
            return Err(invalid(message));
        }
        let mut said = Vec::new();
        let mut answers = Vec::new();
        for entry in entries {
            answers.push(match self.put_event(context, entry) {
                Ok(id) => {
                    said.push(format!("event {id} put on {}", bus_name(entry)));
                    json!({ "EventId": id })
                }
                Err(it) => json!({ "ErrorCode": it.code, "ErrorMessage": it.message }),
            });
        }
        let failed = answers.len() - said.len();
        let answer = json!({ "FailedEntryCount": failed, "Entries": answers });
        let reply = Reply::json(&answer);
        Ok(match said.is_empty() {
            true => reply,
            false => reply.changed(Change::new(said.join(", "))),
        })
    }

    /// Takes an event of an AWS service, which comes to the default bus.
    pub(crate) fn take(&mut self, context: &mut Context<'_>, event: Value) {
        if let Some(bus) = self.buses.get_mut(DEFAULT) {
            bus.deliver(context, &event);
            bus.events.push(event);
        }
    }

    /// Takes one event; answers its id.
    fn put_event(&mut self, context: &mut Context<'_>, entry: &Value) -> Result<String, Failure> {
        let refused = |code: &str, message: &str| Err(Failure::new(400, code, message));
        if context.tweaks.refuse_entries {
            return refused("InternalFailure", "Internal Service Failure");
        }
        let given = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let (source, detail_type) = (given("Source"), given("DetailType"));
        if source.is_empty() || detail_type.is_empty() || given("Detail").is_empty() {
            return refused(
                "InvalidArgument",
                "Parameter is not valid. Reason: it is missing.",
            );
        }
        if source.starts_with("aws.") {
            return refused(
                "NotAuthorizedForSourceException",
                "Not authorized for the source.",
            );
        }
        let detail = serde_json::from_str::<Value>(given("Detail")).ok();
        let Some(detail) = detail.filter(Value::is_object) else {
            return refused("MalformedDetail", "Detail is malformed.");
        };
        let id = context.ids.uuid();
        let event = json!({
            "version": "0",
            "id": id,
            "detail-type": detail_type,
            "source": source,
            "account": context.settings.account,
            "time": format!("{:.0}", context.now),
            "region": context.settings.region,
            "resources": entry.get("Resources").cloned().unwrap_or_else(|| json!([])),
            "detail": detail,
        });
        if let Some(bus) = self.buses.get_mut(bus_name(entry)) {
            bus.deliver(context, &event);
            bus.events.push(event);
        }
        Ok(id)
    }
}

impl Bus {
    fn deliver(&self, context: &mut Context<'_>, event: &Value) {
        let lets_through = |rule: &&Rule| {
            let pattern = rule.pattern.as_deref().map(serde_json::from_str::<Value>);
            let pattern = pattern.and_then(Result::ok);
            rule.enabled && pattern.is_some_and(|it| matches(&it, event))
        };
        let targets = self.rules.values().filter(lets_through);
        for target in targets.flat_map(|rule| rule.targets.values()) {
            let mut queues = context.sqs.queues.values_mut();
            if let Some(queue) = queues.find(|queue| target["Arn"] == *queue.arn) {
                let delay = queue.delay();
                queue.send(
                    context.ids,
                    context.now,
                    event.to_string(),
                    Value::Null,
                    delay,
                );
            }
        }
    }
}

fn bytes(entry: &Value) -> usize {
    let of = |value: &Value| value.as_str().map_or(0, str::len);
    let resources = entry["Resources"].as_array();
    let named = ["Source", "DetailType", "Detail"].map(|name| of(&entry[name]));
    named.iter().sum::<usize>() + resources.into_iter().flatten().map(of).sum::<usize>()
}

pub(crate) fn arn(settings: &Settings, bus: &str, rule: &str) -> String {
    let Settings {
        region, account, ..
    } = settings;
    let bus = match bus {
        DEFAULT => String::new(),
        bus => format!("{bus}/"),
    };
    format!("arn:aws:events:{region}:{account}:rule/{bus}{rule}")
}
