//! EventBridge: which rules send to a queue, and putting events on a bus.

use std::time::Duration;

use aws_sdk_eventbridge::types::{PutEventsRequestEntry, RuleState, Target};

use super::error::{AwsError, from_sdk};
use super::reply::pages;

/// The bus that the services of AWS send their events to.
pub const DEFAULT_BUS: &str = "default";

/// More pages than any queue has rules, or any rule has targets, mean that the paging goes in circles.
const MAX_PAGES: usize = 50;

/// The most entries that one PutEvents takes.
pub const MAX_ENTRIES: usize = 10;

/// The most bytes that the entries of one PutEvents may have together ("Calculating PutEvents event
/// entry size"), and so the most that one may have.
pub const MAX_BYTES: usize = 256 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub arn: String,
    /// It is not disabled.
    pub enabled: bool,
    /// Its event pattern, a JSON document; `None` for one that has a schedule only.
    pub pattern: Option<String>,
}

/// Where a rule sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTarget {
    /// The ARN of what gets the events.
    pub arn: String,
    /// The event is passed on as it is, and not a part of it or something else.
    pub whole_event: bool,
    /// The queue of what could not be delivered.
    pub dead_letter_arn: Option<String>,
    /// How often delivery is tried again. `None`: as often as EventBridge does, 185 times.
    pub retries: Option<u32>,
    /// For how long. `None`: 24 hours.
    pub max_age: Option<Duration>,
}

/// An event to be put on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The bus, by name or ARN.
    pub bus: String,
    pub source: String,
    pub detail_type: String,
    /// `detail`, a JSON object.
    pub detail: String,
    /// `resources`, ARNs.
    pub resources: Vec<String>,
}

impl Event {
    /// How many bytes the entry has by EventBridge's count.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let resources: usize = self.resources.iter().map(String::len).sum();
        self.source.len() + self.detail_type.len() + self.detail.len() + resources
    }
}

/// The result of each event, in their order.
pub type PutResult = Vec<Result<(), AwsError>>;

/// The event buses of one account and region.
#[derive(Clone, Debug)]
pub struct EventBridge(aws_sdk_eventbridge::Client);

impl EventBridge {
    pub(super) fn new(client: aws_sdk_eventbridge::Client) -> Self {
        Self(client)
    }

    /// The names of the rules of `bus` that send to what `arn` names (ListRuleNamesByTarget).
    ///
    /// # Errors
    /// [`AwsError`]; of class [`NotFound`](crate::domain::error_class::ErrorClass::NotFound) if there is no such bus.
    pub async fn rules_to(&self, arn: &str, bus: &str) -> Result<Vec<String>, AwsError> {
        const OPERATION: &str = "ListRuleNamesByTarget";
        pages(OPERATION, MAX_PAGES, |token| async move {
            let request = self.0.list_rule_names_by_target();
            let request = request.target_arn(arn).event_bus_name(bus);
            let page = request.set_next_token(token).send().await;
            let page = page.map_err(from_sdk(OPERATION))?;
            Ok((page.rule_names.unwrap_or_default(), page.next_token))
        })
        .await
    }

    /// Whether a bus, by name or ARN, is there (DescribeEventBus).
    ///
    /// # Errors
    /// [`AwsError`]; of class [`NotFound`](crate::domain::error_class::ErrorClass::NotFound) if it is not.
    pub async fn describe(&self, bus: &str) -> Result<(), AwsError> {
        let request = self.0.describe_event_bus().name(bus);
        let output = request.send().await.map_err(from_sdk("DescribeEventBus"))?;
        drop(output);
        Ok(())
    }

    /// One rule (DescribeRule).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn rule(&self, name: &str, bus: &str) -> Result<Rule, AwsError> {
        const OPERATION: &str = "DescribeRule";
        let request = self.0.describe_rule().name(name).event_bus_name(bus);
        let output = request.send().await.map_err(from_sdk(OPERATION))?;
        let arn = output.arn;
        Ok(Rule {
            arn: arn.ok_or_else(|| AwsError::unusable(OPERATION, "the reply has no Arn"))?,
            enabled: output.state != Some(RuleState::Disabled),
            pattern: output.event_pattern.filter(|text| !text.is_empty()),
        })
    }

    /// Where a rule sends to (ListTargetsByRule).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn targets(&self, rule: &str, bus: &str) -> Result<Vec<RuleTarget>, AwsError> {
        const OPERATION: &str = "ListTargetsByRule";
        pages(OPERATION, MAX_PAGES, |token| async move {
            let request = self.0.list_targets_by_rule();
            let request = request.rule(rule).event_bus_name(bus);
            let page = request.set_next_token(token).send().await;
            let page = page.map_err(from_sdk(OPERATION))?;
            let targets = page.targets.unwrap_or_default().into_iter();
            Ok((targets.map(target).collect(), page.next_token))
        })
        .await
    }

    /// Puts events on their buses (PutEvents): at most [`MAX_ENTRIES`], of at most [`MAX_BYTES`]
    /// together. A bus that does not exist takes them as well, and nobody gets them.
    ///
    /// # Errors
    /// [`AwsError`] if the whole call failed; an event may have been taken all the same. Each event has
    /// its own result besides: a reply of 200 is no success.
    pub async fn put(&self, events: &[Event]) -> Result<PutResult, AwsError> {
        const OPERATION: &str = "PutEvents";
        let entries = events.iter().map(|event| {
            PutEventsRequestEntry::builder()
                .event_bus_name(&event.bus)
                .source(&event.source)
                .detail_type(&event.detail_type)
                .detail(&event.detail)
                .set_resources(Some(event.resources.clone()))
                .build()
        });
        let request = self.0.put_events().set_entries(Some(entries.collect()));
        let output = request.send().await.map_err(from_sdk(OPERATION))?;
        let mut answers = output.entries.unwrap_or_default().into_iter();
        Ok(events
            .iter()
            .map(|_| match answers.next() {
                Some(answer) if answer.event_id.is_some() => Ok(()),
                Some(answer) => Err(AwsError::entry(
                    OPERATION,
                    answer.error_code.as_deref().unwrap_or("InternalFailure"),
                    answer.error_message.as_deref(),
                )),
                None => Err(AwsError::unusable(
                    OPERATION,
                    "the reply does not mention the event",
                )),
            })
            .collect())
    }
}

fn target(target: Target) -> RuleTarget {
    let retry = target.retry_policy;
    let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    RuleTarget {
        arn: target.arn,
        whole_event: target.input.is_none()
            && target.input_transformer.is_none()
            // `$` is the whole.
            && target.input_path.is_none_or(|path| path == "$"),
        dead_letter_arn: target.dead_letter_config.and_then(|it| it.arn),
        retries: count(retry.as_ref().and_then(|it| it.maximum_retry_attempts)),
        max_age: count(
            retry
                .as_ref()
                .and_then(|it| it.maximum_event_age_in_seconds),
        )
        .map(|seconds| Duration::from_secs(seconds.into())),
    }
}
