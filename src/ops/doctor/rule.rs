//! The rules that send to the queue: whether rejections come through, whole, and where what cannot be
//! delivered goes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::queue_policy::QueuePolicy;
use super::{Check, Preflight, Scene, Status, people};
use crate::aws::AwsError;
use crate::aws::eventbridge::{DEFAULT_BUS, EventBridge, Rule, RuleTarget};
use crate::aws::sqs::{QueueAttributes, beside};
use crate::config::Config;
use crate::domain::arn::Arn;
use crate::domain::error_class::ErrorClass;
use crate::domain::event::{ACTION_DETAIL_TYPE, PIPELINE_DETAIL_TYPE, STAGE_DETAIL_TYPE};
use crate::domain::targets::lookup::Named;
use crate::ops::doctor::event_pattern::admits;
use crate::ops::doctor::wildcard::fits_iam;

const NAME: &str = "rule";

/// Fewer tries, or tries for a shorter time, may all fall into one outage.
const FEW_RETRIES: u32 = 10;
const SHORT_AGE: Duration = Duration::from_secs(60 * 60);

/// A rule, and its target that is the queue.
struct Found {
    name: String,
    bus: String,
    rule: Rule,
    target: RuleTarget,
}

/// Rejections as a rule gets to see them, as far as they are known beforehand.
struct Rejection {
    /// The target or pipeline that they are of.
    of: String,
    /// Of a pattern, one for each pipeline that is known; or one that names none.
    events: Vec<Value>,
}

impl Rejection {
    /// Whether one of them comes through, as far as that can be told.
    fn comes(&self, pattern: &Value) -> bool {
        let mut events = self.events.iter();
        events.any(|event| admits(pattern, event) != Some(false))
    }
}

pub(super) async fn examine(scene: &Scene<'_>, queue: &QueueAttributes) -> Vec<Check> {
    let Preflight {
        config, connector, ..
    } = scene.asked;
    let Some(arn) = queue.arn.as_deref() else {
        let said = "not looked at: the queue does not say its ARN";
        return vec![Check::warning(NAME, said, super::queue::READ)];
    };
    let policy = QueuePolicy::of(queue);
    let events = connector.events(config.queue.region.as_deref());
    let sources = policy.as_ref().map(QueuePolicy::sources);
    let (buses, elsewhere) = buses(arn, &sources.unwrap_or_default());
    match find(&events, arn, &buses).await {
        // The daemon itself asks for none of it.
        Err((error, permission)) => {
            vec![Check::call(NAME, &error, permission).at_most_a_warning()]
        }
        Ok(found) if found.is_empty() => vec![none(&buses, elsewhere)],
        Ok(found) => {
            let rejections = rejections(config, &scene.named, &scene.told);
            let mut checks = judge(&found, policy.as_ref(), &rejections);
            checks.extend(lost(scene, &found).await);
            checks
        }
    }
}

/// Queues for what cannot be delivered that are not there: it is lost then.
async fn lost(scene: &Scene<'_>, found: &[Found]) -> Vec<Check> {
    let queue = &scene.asked.config.queue;
    let arns = found
        .iter()
        .filter_map(|it| it.target.dead_letter_arn.as_ref());
    let mut checks = Vec::new();
    for arn in arns.collect::<BTreeSet<_>>() {
        let url = beside(&queue.url, arn);
        let there = scene.asked.connector;
        let there = there.queue(&url, queue.region.as_deref(), queue.wait_time);
        // Where it may not be asked for, nothing is known.
        if let Err(error) = there.attributes().await
            && error.class == ErrorClass::NotFound
        {
            let said = format!("what cannot be delivered is lost: there is no queue {arn}");
            let remedy = "create it, or give the rule's target another DeadLetterConfig";
            checks.push(Check::warning(NAME, said, remedy));
        }
    }
    checks
}

/// The buses that a rule of the queue may be on: the default one, and those that its policy names in its
/// own account and region. Then, whether the policy names rules of elsewhere.
fn buses(queue: &str, sources: &[&str]) -> (BTreeSet<String>, bool) {
    let place = |arn: &str| {
        let arn = Arn::parse(arn);
        arn.map_or(String::new(), |arn| {
            format!("{}:{}", arn.region, arn.account)
        })
    };
    let mut buses = BTreeSet::from([DEFAULT_BUS.to_owned()]);
    let mut elsewhere = false;
    for source in sources {
        elsewhere |= !fits_iam(&place(source), &place(queue));
        let path: Vec<&str> = source
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .split('/')
            .collect();
        if let ["rule", bus, _] = path[..]
            && !bus.contains('*')
        {
            buses.insert(bus.to_owned());
        }
    }
    (buses, elsewhere)
}

async fn find(
    events: &EventBridge,
    queue: &str,
    buses: &BTreeSet<String>,
) -> Result<Vec<Found>, (AwsError, &'static str)> {
    let needs = |permission: &'static str| move |error| (error, permission);
    let mut found = Vec::new();
    for bus in buses {
        let names = match events.rules_to(queue, bus).await {
            Err(error) if error.class == ErrorClass::NotFound => continue,
            names => names.map_err(needs("events:ListRuleNamesByTarget on *"))?,
        };
        for name in names {
            let rule = events.rule(&name, bus).await;
            let rule = rule.map_err(needs("events:DescribeRule on the rule"))?;
            let targets = events.targets(&name, bus).await;
            let targets = targets.map_err(needs("events:ListTargetsByRule on the rule"))?;
            for target in targets.into_iter().filter(|target| target.arn == queue) {
                found.push(Found {
                    name: name.clone(),
                    bus: bus.clone(),
                    rule: rule.clone(),
                    target,
                });
            }
        }
    }
    Ok(found)
}

fn none(buses: &BTreeSet<String>, elsewhere: bool) -> Check {
    let buses: Vec<&str> = buses.iter().map(String::as_str).collect();
    let said = format!(
        "none of the event bus {} sends to the queue",
        buses.join(", ")
    );
    if elsewhere {
        let said = format!("{said}; the queue's policy names one of elsewhere, not looked at");
        return Check::warning(
            NAME,
            said,
            "look at that rule in its account and region: aws events describe-rule",
        );
    }
    let remedy =
        "give a rule for rejected approvals the queue as its target: aws events put-targets";
    Check::failure(NAME, said, remedy)
}

/// Rejections of each target, and of each pipeline that is known by name. `told` are pipelines of
/// patterns.
fn rejections(config: &Config, named: &[Named], told: &[Named]) -> Vec<Rejection> {
    let mut rejections: Vec<Rejection> = config
        .targets
        .iter()
        .map(|target| {
            let told = told
                .iter()
                .filter(|it| it.target.label == target.pipeline())
                .map(of_pipeline);
            let mut events: Vec<Value> = told.collect();
            if events.is_empty() {
                events.push(rejection(target.stage(), target.action()));
            }
            Rejection {
                of: target.to_string(),
                events,
            }
        })
        .collect();
    rejections.extend(named.iter().map(|named| Rejection {
        of: named.pipeline.name.clone(),
        events: vec![of_pipeline(named)],
    }));
    rejections
}

fn of_pipeline(named: &Named) -> Value {
    let mut event = rejection(named.stage.as_deref(), named.action.as_deref());
    event["detail"]["pipeline"] = json!(named.pipeline.name);
    event["account"] = json!(named.pipeline.account);
    event["region"] = json!(named.pipeline.region);
    event["resources"] = json!([named.pipeline.to_string()]);
    event
}

/// A stage or an action of `None` is not known: the target is for any.
fn rejection(stage: Option<&str>, action: Option<&str>) -> Value {
    let mut event = json!({
        "source": "aws.codepipeline",
        "detail-type": ACTION_DETAIL_TYPE,
        "detail": {
            "state": "FAILED",
            "type": { "owner": "AWS", "category": "Approval", "provider": "Manual" },
        },
    });
    for (name, value) in [("stage", stage), ("action", action)] {
        if let Some(value) = value {
            event["detail"][name] = json!(value);
        }
    }
    event
}

/// What is amiss with each rule; then, of whom no rejection comes through.
fn judge(found: &[Found], policy: Option<&QueuePolicy>, rejections: &[Rejection]) -> Vec<Check> {
    let judged: Vec<(&Found, Vec<Check>)> = found
        .iter()
        .map(|it| (it, faults(it, policy, rejections)))
        .collect();
    let works = |faults: &[Check]| faults.iter().all(|it| it.status < Status::Failure);
    let some_work = judged.iter().any(|(_, faults)| works(faults));
    let mut checks = Vec::new();
    for (it, faults) in &judged {
        if faults.is_empty() {
            checks.push(Check::ok(NAME, sound(&it.target)).about(&it.name));
        }
        checks.extend(faults.iter().cloned().map(|check| {
            // Where another rule does the work, this one is in nobody's way.
            let check = check.about(&it.name);
            if some_work {
                check.at_most_a_warning()
            } else {
                check
            }
        }));
    }
    let working: Vec<Value> = judged
        .iter()
        .filter(|(_, faults)| works(faults))
        .filter_map(|(it, _)| pattern(&it.rule))
        .collect();
    for rejection in rejections.iter().filter(|_| some_work) {
        if !working.iter().any(|pattern| rejection.comes(pattern)) {
            let said = "no rule's pattern lets its rejections through";
            let remedy = "add its pipeline, stage and action to a rule's pattern";
            checks.push(Check::failure(NAME, said, remedy).about(&rejection.of));
        }
    }
    checks
}

fn pattern(rule: &Rule) -> Option<Value> {
    serde_json::from_str(rule.pattern.as_deref()?).ok()
}

fn sound(target: &RuleTarget) -> String {
    let kept = target.dead_letter_arn.as_deref().unwrap_or_default();
    format!("sends rejections whole; what cannot be delivered goes to {kept}")
}

fn faults(it: &Found, policy: Option<&QueuePolicy>, rejections: &[Rejection]) -> Vec<Check> {
    let mut faults = Vec::new();
    if !it.rule.enabled {
        let mut remedy = format!("aws events enable-rule --name {}", it.name);
        if it.bus != DEFAULT_BUS {
            remedy.push_str(&format!(" --event-bus-name {}", it.bus));
        }
        faults.push(Check::failure(NAME, "it is disabled", remedy));
    }
    faults.extend(pattern_fault(&it.rule, rejections));
    if !it.target.whole_event {
        faults.push(Check::failure(
            NAME,
            "it does not pass on the whole event, so that the daemon refuses it as malformed",
            "take Input, InputPath and InputTransformer off its target",
        ));
    }
    // That there is no policy is said once, of the queue.
    let remedy = || format!("add {} to aws:SourceArn in the queue's policy", it.rule.arn);
    match policy.map(|policy| policy.admits(&it.rule.arn)) {
        None | Some(Some(true)) => {}
        Some(Some(false)) => {
            let said = "the queue's policy does not let it send";
            faults.push(Check::failure(NAME, said, remedy()));
        }
        Some(None) => {
            let said = "whether the queue's policy lets it send cannot be decided";
            faults.push(Check::warning(NAME, said, remedy()));
        }
    }
    faults.extend(delivery_faults(&it.target));
    faults
}

fn pattern_fault(rule: &Rule, rejections: &[Rejection]) -> Option<Check> {
    let remedy = "take the pattern of INSTALL-BY-HAND.md: source aws.codepipeline, state FAILED";
    let Some(pattern) = pattern(rule) else {
        let said = "it has no event pattern, so that rejections do not come through it";
        return Some(Check::failure(NAME, said, remedy));
    };
    let comes = |state: &str| {
        let events = rejections.iter().flat_map(|it| &it.events);
        let mut events = events.map(|event| {
            let mut event = event.clone();
            event["detail"]["state"] = json!(state);
            event
        });
        events.any(|event| admits(&pattern, &event) != Some(false))
    };
    if !comes("FAILED") {
        return Some(match whole(&pattern, rejections) {
            Some(detail_type) => Check::failure(
                NAME,
                format!("it asks for `{detail_type}`, of which no rejection comes"),
                format!("set its pattern's detail-type to `{ACTION_DETAIL_TYPE}`"),
            ),
            None => Check::failure(
                NAME,
                "its pattern lets no rejection of any target through",
                remedy,
            ),
        });
    }
    comes("SUCCEEDED").then(|| {
        Check::warning(
            NAME,
            "it sends approvals too, which the daemon only deletes",
            "add \"state\": [\"FAILED\"] to its pattern's detail",
        )
    })
}

/// The kind of event that a pattern asks for, where that is a stage or a pipeline as a whole.
fn whole(pattern: &Value, rejections: &[Rejection]) -> Option<&'static str> {
    let events = || rejections.iter().flat_map(|it| &it.events);
    [STAGE_DETAIL_TYPE, PIPELINE_DETAIL_TYPE]
        .into_iter()
        .find(|detail_type| {
            events().any(|event| {
                let mut event = event.clone();
                event["detail-type"] = json!(detail_type);
                admits(pattern, &event) != Some(false)
            })
        })
}

fn delivery_faults(target: &RuleTarget) -> Vec<Check> {
    let mut faults = Vec::new();
    if target.dead_letter_arn.is_none() {
        faults.push(Check::warning(
            NAME,
            "an event that it cannot deliver is lost",
            "give its target a DeadLetterConfig: a queue that this rule may send to",
        ));
    }
    let few = target.retries.filter(|retries| *retries < FEW_RETRIES);
    let short = target.max_age.filter(|age| *age < SHORT_AGE);
    if few.is_some() || short.is_some() {
        let tries = few.map(|retries| format!("{retries} further tries"));
        let age = short.map(people);
        let after: Vec<String> = tries.into_iter().chain(age).collect();
        faults.push(Check::warning(
            NAME,
            format!("it gives up delivering after {}", after.join(" or ")),
            "set its target's MaximumRetryAttempts to 185 and MaximumEventAgeInSeconds to 86400",
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:stagesweep";
    const RULE: &str = "arn:aws:events:eu-west-1:123456789012:rule/stagesweep";

    fn good() -> Found {
        let pattern = json!({
            "source": ["aws.codepipeline"],
            "detail": {
                "pipeline": [{ "suffix": "-frontend-pipeline" }],
                "stage": ["Approve"],
                "state": ["FAILED"],
            },
        });
        Found {
            name: "stagesweep".to_owned(),
            bus: DEFAULT_BUS.to_owned(),
            rule: Rule {
                arn: RULE.to_owned(),
                enabled: true,
                pattern: Some(pattern.to_string()),
            },
            target: RuleTarget {
                arn: QUEUE.to_owned(),
                whole_event: true,
                dead_letter_arn: Some(format!("{QUEUE}-undelivered-events")),
                retries: None,
                max_age: None,
            },
        }
    }

    fn of(stage: &str) -> Rejection {
        Rejection {
            of: stage.to_owned(),
            events: vec![rejection(Some(stage), Some("Approve"))],
        }
    }

    fn found(found: &[Found], allowed: &[&str]) -> Vec<(Status, String)> {
        let policy = json!({ "Statement": {
            "Effect": "Allow",
            "Principal": { "Service": "events.amazonaws.com" },
            "Action": "sqs:SendMessage",
            "Condition": { "ArnLike": { "aws:SourceArn": allowed } },
        }});
        let policy = QueuePolicy::parse(&policy.to_string(), QUEUE);
        judge(found, policy.as_ref(), &[of("Approve")])
            .into_iter()
            .map(|check| (check.status, check.detail))
            .collect()
    }

    /// What there is to say once the good rule is changed.
    fn after(change: impl FnOnce(&mut Found)) -> (Status, String) {
        let mut it = good();
        change(&mut it);
        let mut checks = found(&[it], &[RULE]);
        assert_eq!(checks.len(), 1, "{checks:?}");
        checks.remove(0)
    }

    fn patterned(pattern: &str) -> (Status, String) {
        after(|it| it.rule.pattern = Some(pattern.to_owned()))
    }

    #[test]
    fn everything_that_keeps_a_rejection_from_the_queue_is_a_failure() {
        assert_eq!(after(|_| ()).0, Status::Ok);
        for (found, expected) in [
            (after(|it| it.rule.enabled = false), "disabled"),
            (after(|it| it.target.whole_event = false), "whole event"),
            (after(|it| it.rule.pattern = None), "no event pattern"),
            (patterned("no JSON"), "no event pattern"),
            (patterned(r#"{"source": ["aws.ec2"]}"#), "no rejection"),
            (
                patterned(r#"{"detail": {"state": ["STARTED"]}}"#),
                "no rejection",
            ),
            (
                patterned(r#"{"detail": {"stage": ["Other"]}}"#),
                "no rejection",
            ),
            (
                patterned(r#"{"detail-type": ["CodePipeline Stage Execution State Change"]}"#),
                "`CodePipeline Stage Execution",
            ),
            (
                patterned(
                    r#"{"detail-type": ["CodePipeline Pipeline Execution State Change"],
                    "detail": {"pipeline": ["shop"], "state": ["FAILED"]}}"#,
                ),
                "`CodePipeline Pipeline Execution",
            ),
            (
                after(|it| it.rule.arn = format!("{RULE}-2")),
                "policy does not let it",
            ),
        ] {
            assert_eq!(found.0, Status::Failure, "{found:?}");
            assert!(found.1.contains(expected), "{found:?}");
        }
    }

    #[test]
    fn what_loses_an_event_one_day_or_costs_something_is_a_warning() {
        for (found, expected) in [
            (after(|it| it.target.dead_letter_arn = None), "lost"),
            (after(|it| it.target.retries = Some(2)), "2 further tries"),
            (
                after(|it| it.target.max_age = Some(Duration::from_secs(60))),
                "after 1m",
            ),
            (
                patterned(r#"{"source": ["aws.codepipeline"]}"#),
                "approvals too",
            ),
        ] {
            assert_eq!(found.0, Status::Warning, "{found:?}");
            assert!(found.1.contains(expected), "{found:?}");
        }
    }

    #[test]
    fn one_rule_that_works_is_enough_but_not_for_a_target_that_none_is_for() {
        let mut disabled = good();
        disabled.rule.enabled = false;
        let checks = found(&[disabled, good()], &["arn:aws:events:*:*:rule/*"]);
        let statuses: Vec<Status> = checks.iter().map(|it| it.0).collect();
        assert_eq!(statuses, [Status::Warning, Status::Ok]);

        let checks = judge(&[good()], None, &[of("Approve"), of("Release")]);
        assert_eq!(checks.len(), 2, "{checks:?}");
        assert_eq!(checks[1].status, Status::Failure);
        assert_eq!(checks[1].subject.as_deref(), Some("Release"));
    }

    #[test]
    fn rules_are_looked_for_on_the_buses_that_the_policy_names() {
        let of = |source: &str| buses(QUEUE, &[source]);
        let bus = "arn:aws:events:eu-west-1:123456789012:rule/deployments/rejected";
        let (found, elsewhere) = of(bus);
        assert_eq!(found.len(), 2);
        assert!(found.contains("deployments") && !elsewhere);
        assert_eq!(of(RULE), (BTreeSet::from(["default".to_owned()]), false));
        let other = RULE.replace("123456789012", "210987654321");
        let (found, elsewhere) = of(&other);
        assert!(elsewhere);
        assert_eq!(none(&found, elsewhere).status, Status::Warning);
        assert_eq!(none(&found, false).status, Status::Failure);
    }
}
