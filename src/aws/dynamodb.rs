//! DynamoDB: one table of records with a text key, written under conditions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure as OnFailure,
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::calls::{SentAt, is_throttled};
use super::error::{AwsError, from_sdk};
use super::pulse::Pulse;

/// The name of the table's partition key. It has no sort key.
pub const KEY: &str = "pk";

/// A value of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    /// A whole number (`N`).
    Number(i64),
    /// A truth value (`BOOL`).
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// An item's attributes by name; those of other types than [`Value`] has are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item(BTreeMap<String, Value>);

impl Item {
    /// A text attribute.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Every text attribute, by name.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Text(text) => Some((name.as_str(), text.as_str())),
            _ => None,
        })
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }
}

impl From<HashMap<String, AttributeValue>> for Item {
    fn from(attributes: HashMap<String, AttributeValue>) -> Self {
        let value = |attribute| match attribute {
            AttributeValue::S(text) => Some(Value::Text(text)),
            AttributeValue::N(number) => number.parse().ok().map(Value::Number),
            AttributeValue::Bool(flag) => Some(Value::Flag(flag)),
            _ => None,
        };
        let attributes = attributes.into_iter();
        Self(
            attributes
                .filter_map(|(name, attribute)| Some((name, value(attribute)?)))
                .collect(),
        )
    }
}

/// A write under a condition, in DynamoDB's expressions.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// The item's key.
    pub key: String,
    /// What is set: `SET …`, and `REMOVE …` behind it.
    pub change: &'a str,
    /// What must be true of the item as it is.
    pub condition: Option<&'a str>,
    /// What the placeholders of both stand for, each with its colon.
    pub values: Vec<(&'static str, Value)>,
}

/// What became of an [`Update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// It was written; the item as it is now.
    Written(Item),
    /// The condition did not hold; the item as it is, if there is one.
    Unmet(Option<Item>),
}

/// The service's own clock, by the `Date` of its answers.
///
/// So that instances whose clocks differ mean the same by a time in an item. It shows at most one
/// second and the way of an answer less than the time it is there, and never more.
#[derive(Debug, Default)]
pub struct ServerTime(Mutex<Option<Dated>>);

/// What an answer said of the time.
#[derive(Clone, Copy, Debug)]
struct Dated {
    date: Timestamp,
    at: Instant,
    /// From the request to the answer.
    took: Duration,
}

impl ServerTime {
    fn learn(&self, date: Timestamp, took: Duration) {
        let at = Instant::now();
        *self.0.lock() = Some(Dated { date, at, took });
    }

    /// The time there; `None` before the first answer.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        let Dated { date, at, .. } = (*self.0.lock())?;
        let since = SignedDuration::try_from(at.elapsed()).ok()?;
        date.checked_add(since).ok()
    }

    /// How much later than [`now`](Self::now) it may be there, but for a second: the answer took so long.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.0.lock().map(|dated| dated.took).unwrap_or_default()
    }
}

/// An interceptor that reads the time off every answer.
#[derive(Debug)]
pub(super) struct LearnTime(pub(super) Arc<ServerTime>);

impl Intercept for LearnTime {
    fn name(&self) -> &'static str {
        "LearnTime"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
        if let Some(date) = date {
            let took = config.load::<SentAt>().map(|sent| sent.0.elapsed());
            self.0.learn(date.timestamp(), took.unwrap_or_default());
        }
        Ok(())
    }
}

/// An interceptor that sees which answers throttle.
#[derive(Debug)]
pub(super) struct FeelPulse(pub(super) Arc<Pulse>);

impl Intercept for FeelPulse {
    fn name(&self) -> &'static str {
        "FeelPulse"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if is_throttled(context) {
            self.0.throttled();
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Table {
    client: aws_sdk_dynamodb::Client,
    name: String,
    time: Arc<ServerTime>,
    pulse: Arc<Pulse>,
}

impl Table {
    pub(super) fn new(
        client: aws_sdk_dynamodb::Client,
        name: String,
        time: Arc<ServerTime>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            client,
            name,
            time,
            pulse,
        }
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service's clock.
    #[must_use]
    pub fn time(&self) -> &ServerTime {
        &self.time
    }

    /// How it answers.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// An item as it is, read consistently (GetItem); `None` if there is none.
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn item(&self, key: &str) -> Result<Option<Item>, AwsError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.name)
            .key(KEY, AttributeValue::S(key.to_owned()))
            .consistent_read(true);
        let output = self.pulse.of(call.send()).await;
        let output = output.map_err(from_sdk("GetItem"))?;
        Ok(output.item.map(Item::from))
    }

    /// All items, in no order (Scan).
    ///
    /// # Errors
    /// [`AwsError`] for every failure.
    pub async fn scan(&self) -> Result<Vec<Item>, AwsError> {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            let page = self
                .client
                .scan()
                .table_name(&self.name)
                .set_exclusive_start_key(from);
            let output = self.pulse.of(page.send()).await.map_err(from_sdk("Scan"))?;
            items.extend(output.items.unwrap_or_default().into_iter().map(Item::from));
            from = output.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                return Ok(items);
            }
        }
    }

    /// Writes an item, making it where there is none, if the condition holds (UpdateItem).
    ///
    /// # Errors
    /// [`AwsError`] for every failure but a condition that does not hold.
    pub async fn update(&self, update: Update<'_>) -> Result<Updated, AwsError> {
        let values = update.values.into_iter();
        let values: HashMap<_, _> = values
            .map(|(name, value)| (name.to_owned(), attribute(value)))
            .collect();
        let call = self
            .client
            .update_item()
            .table_name(&self.name)
            .key(KEY, AttributeValue::S(update.key))
            .update_expression(update.change)
            .set_condition_expression(update.condition.map(str::to_owned))
            // An empty map is refused.
            .set_expression_attribute_values((!values.is_empty()).then_some(values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        match self.pulse.of(call.send()).await {
            Ok(output) => Ok(Updated::Written(
                output.attributes.map(Item::from).unwrap_or_default(),
            )),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(unmet)) => {
                    Ok(Updated::Unmet(unmet.item.clone().map(Item::from)))
                }
                _ => Err(from_sdk("UpdateItem")(error)),
            },
        }
    }
}

fn attribute(value: Value) -> AttributeValue {
    match value {
        Value::Text(text) => AttributeValue::S(text),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::Flag(flag) => AttributeValue::Bool(flag),
    }
}
