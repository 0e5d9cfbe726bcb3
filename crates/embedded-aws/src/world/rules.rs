//! Buses of EventBridge and their rules.

use serde_json::{Value, json};

use super::aws::EmbeddedAws;
use crate::services::eventbridge::{DEFAULT, Rule, arn};
use crate::wire::exchange::Failure;

impl EmbeddedAws {
    /// Makes an event bus besides the default one.
    pub fn create_event_bus(&self, name: &str) {
        self.state()
            .events
            .buses
            .entry(name.to_owned())
            .or_default();
    }

    /// Makes or replaces a rule of the default bus; it is enabled. It has one target, as PutTargets takes
    /// it, if there is one.
    pub fn put_rule(&self, name: &str, pattern: &Value, target: Option<Value>) {
        let rule = Rule {
            pattern: Some(pattern.to_string()),
            enabled: true,
            targets: target
                .map(|target| ("target".to_owned(), target))
                .into_iter()
                .collect(),
        };
        let mut state = self.state();
        let bus = state.events.buses.entry(DEFAULT.to_owned()).or_default();
        bus.rules.insert(name.to_owned(), rule);
    }

    /// Makes the rule `name`, by which rejections reach a queue as in the README: whole, and what cannot
    /// be delivered kept; and lets nothing but this rule send to the queue.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn route_rejections(&self, name: &str, queue: &str) -> Result<(), Failure> {
        let (queue_arn, rule_arn, undelivered_arn) = {
            let now = self.now();
            let mut state = self.state();
            let state = &mut *state;
            let rule = arn(&state.settings, DEFAULT, name);
            let queue = state.sqs.queue(queue)?.arn.clone();
            let undelivered = queue.rsplit(':').next().unwrap_or_default();
            let undelivered = format!("{undelivered}-undelivered-events");
            let undelivered = state.sqs.create(&state.settings, now, &undelivered);
            (queue, rule, undelivered.arn.clone())
        };
        let pattern = json!({
            "source": ["aws.codepipeline"],
            "detail-type": ["CodePipeline Action Execution State Change"],
            "detail": {
                "state": ["FAILED"],
                "type": { "category": ["Approval"], "provider": ["Manual"] },
            },
        });
        let target = json!({
            "Id": "queue",
            "Arn": queue_arn,
            "DeadLetterConfig": { "Arn": undelivered_arn },
        });
        self.put_rule(name, &pattern, Some(target));
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": { "Service": "events.amazonaws.com" },
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": { "ArnEquals": { "aws:SourceArn": rule_arn } },
            }],
        });
        self.set_queue_policy(queue, &policy.to_string())
    }

    /// Every event that a bus took, oldest first; none if there is no such bus.
    #[must_use]
    pub fn events_on(&self, bus: &str) -> Vec<Value> {
        let state = self.state();
        let bus = state.events.buses.get(bus);
        bus.map(|bus| bus.events.clone()).unwrap_or_default()
    }
}
