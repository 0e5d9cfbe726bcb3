//! CloudWatch Embedded Metric Format: one JSON object a line, from which CloudWatch Logs makes
//! metrics.
//!
//! Specification:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
//!
//! This is a small writer of our own. The one well-kept crate for the format, `metrique`, brings
//! about 44 crates and its own model of a unit of work; what is needed here is three kinds of
//! lines with a dozen counters, below.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::metrics::{COUNTERS, Gauges, Interval};

/// The CloudWatch namespace.
pub type Namespace = String;

/// The format's limit on the values of one metric in one line.
const MAX_VALUES: usize = 100;

/// The lines for one interval: one with everything, then one for each value of each dimension, and
/// more where a duration has more values than a line may hold.
pub(super) fn lines(
    namespace: &Namespace,
    timestamp_ms: i64,
    interval: &Interval,
    gauges: Gauges,
) -> Vec<String> {
    let mut lines = Vec::new();

    let mut totals = Line::default();
    for name in COUNTERS {
        totals.count(name, interval.counters.get(name).copied().unwrap_or(0));
    }
    totals.count("InFlight", gauges.in_flight as u64);
    totals.duration("OldestInFlightAge", gauges.oldest_in_flight_age);
    totals.duration("PollAge", gauges.poll_age);
    for (name, values) in &interval.durations {
        totals.durations(name, &values[..values.len().min(MAX_VALUES)]);
    }
    lines.push(totals.render(namespace, timestamp_ms, None));

    for (name, values) in &interval.durations {
        for more in values.chunks(MAX_VALUES).skip(1) {
            let mut line = Line::default();
            line.durations(name, more);
            lines.push(line.render(namespace, timestamp_ms, None));
        }
    }

    let mut by_dimension: BTreeMap<(&str, &str), Line> = BTreeMap::new();
    for ((dimension, value, name), count) in &interval.by_dimension {
        by_dimension
            .entry((dimension, value))
            .or_default()
            .count(name, *count);
    }
    for (dimension, line) in by_dimension {
        lines.push(line.render(namespace, timestamp_ms, Some(dimension)));
    }
    lines
}

#[derive(Default)]
struct Line {
    definitions: Vec<Value>,
    values: Map<String, Value>,
}

impl Line {
    fn count(&mut self, name: &str, count: u64) {
        self.definitions
            .push(json!({ "Name": name, "Unit": "Count" }));
        self.values.insert(name.to_owned(), count.into());
    }

    fn duration(&mut self, name: &str, duration: Duration) {
        self.definitions
            .push(json!({ "Name": name, "Unit": "Milliseconds" }));
        self.values.insert(name.to_owned(), millis(duration));
    }

    fn durations(&mut self, name: &str, durations: &[Duration]) {
        self.definitions
            .push(json!({ "Name": name, "Unit": "Milliseconds" }));
        let values = durations.iter().copied().map(millis).collect();
        self.values.insert(name.to_owned(), Value::Array(values));
    }

    fn render(
        self,
        namespace: &Namespace,
        timestamp_ms: i64,
        dimension: Option<(&str, &str)>,
    ) -> String {
        let dimensions: Vec<&str> = dimension.iter().map(|(name, _)| *name).collect();
        let mut root = self.values;
        if let Some((name, value)) = dimension {
            root.insert(name.to_owned(), value.into());
        }
        root.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": timestamp_ms,
                "CloudWatchMetrics": [{
                    "Namespace": namespace,
                    "Dimensions": [dimensions],
                    "Metrics": self.definitions,
                }],
            }),
        );
        Value::Object(root).to_string()
    }
}

fn millis(duration: Duration) -> Value {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{CLEANUP_DURATION, MESSAGES_REJECTED, Metrics};

    #[test]
    fn every_line_is_one_valid_emf_object_with_bounded_dimensions() {
        let metrics = Metrics::default();
        metrics.add_by_reason(MESSAGES_REJECTED, "no_target");
        metrics.api_call("GetDistribution");
        for n in 0..250 {
            metrics.observe(CLEANUP_DURATION, Duration::from_millis(n));
        }
        let gauges = Gauges {
            in_flight: 2,
            oldest_in_flight_age: Duration::from_secs(3),
            poll_age: Duration::from_millis(40),
        };
        let lines = lines(
            &"Stagesweep".to_owned(),
            1_766_000_000_000,
            &metrics.take(),
            gauges,
        );
        // Totals, two more for the durations, one reason, one operation.
        assert_eq!(lines.len(), 5);
        for line in &lines {
            assert!(!line.contains('\n') && line.len() < 16_000);
            let object: Value = serde_json::from_str(line).unwrap();
            let directive = &object["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(directive["Namespace"], "Stagesweep");
            assert_eq!(object["_aws"]["Timestamp"], 1_766_000_000_000_i64);
            for definition in directive["Metrics"].as_array().unwrap() {
                let value = &object[definition["Name"].as_str().unwrap()];
                let values = value.as_array().map_or(1, Vec::len);
                assert!((1..=MAX_VALUES).contains(&values), "{line}");
            }
            for dimension in directive["Dimensions"][0].as_array().unwrap() {
                assert!(matches!(dimension.as_str(), Some("Reason" | "Operation")));
                assert!(object[dimension.as_str().unwrap()].is_string());
            }
        }
        let totals: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(totals["MessagesRejected"], 1);
        assert_eq!(totals["MessagesDeleted"], 0);
        assert_eq!(totals["InFlight"], 2);
        assert_eq!(totals["PollAge"], 40);
        assert!(
            lines[4].contains(r#""Reason":"no_target""#)
                || lines[3].contains(r#""Reason":"no_target""#)
        );
    }
}
