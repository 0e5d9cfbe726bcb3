//! Metrics as lines, one JSON object each: in CloudWatch Embedded Metric Format, from which CloudWatch
//! Logs makes metrics; or flat, for other scrapers.
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

use super::metrics::{API_CALLS, COUNTERS, Gauges, Interval, MetricsDetail};

/// How metrics are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// CloudWatch Embedded Metric Format.
    Emf {
        /// The CloudWatch namespace.
        namespace: String,
        /// The log group that the line itself names. The CloudWatch agent needs that of lines that
        /// it is sent; CloudWatch Logs knows where it has a line.
        log_group: Option<String>,
    },
    /// The values alone, with the fields that every log line has.
    Json,
}

/// The message of a flat line, by which scrapers tell it from a log line.
const MESSAGE: &str = "metrics";

/// The format's limit on the values of one metric in one line.
const MAX_VALUES: usize = 100;

/// The lines for one interval: one with everything, then one for each value of each dimension, and
/// more where a duration has more values than a line may hold.
pub(super) fn lines(
    form: &Form,
    detail: MetricsDetail,
    timestamp_ms: i64,
    interval: &Interval,
    gauges: Gauges,
) -> Vec<String> {
    let mut lines = Vec::new();

    let mut totals = Line::default();
    let full = detail == MetricsDetail::Full;
    let idle = gauges.in_flight == 0 && interval.is_idle();
    for name in COUNTERS {
        let count = interval.counters.get(name).copied().unwrap_or(0);
        if full || (count > 0 && !(idle && name == API_CALLS)) {
            totals.count(name, count);
        }
    }
    totals.count("InFlight", gauges.in_flight as u64);
    totals.duration("OldestInFlightAge", gauges.oldest_in_flight_age);
    totals.duration("PollAge", gauges.poll_age);
    for (name, values) in &interval.durations {
        totals.durations(name, &values[..values.len().min(MAX_VALUES)]);
    }
    lines.push(totals.render(form, timestamp_ms, None));

    for (name, values) in &interval.durations {
        for more in values.chunks(MAX_VALUES).skip(1) {
            let mut line = Line::default();
            line.durations(name, more);
            lines.push(line.render(form, timestamp_ms, None));
        }
    }

    let mut by_dimension: BTreeMap<(&str, &str), Line> = BTreeMap::new();
    for ((dimension, value, name), count) in &interval.by_dimension {
        if *name == API_CALLS && !full {
            continue;
        }
        by_dimension
            .entry((dimension, value))
            .or_default()
            .count(name, *count);
    }
    for (dimension, line) in by_dimension {
        lines.push(line.render(form, timestamp_ms, Some(dimension)));
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

    fn render(self, form: &Form, timestamp_ms: i64, dimension: Option<(&str, &str)>) -> String {
        let mut root = self.values;
        if let Some((name, value)) = dimension {
            root.insert(name.to_owned(), value.into());
        }
        match form {
            Form::Emf {
                namespace,
                log_group,
            } => {
                let dimensions: Vec<&str> = dimension.iter().map(|(name, _)| *name).collect();
                let mut metadata = json!({
                    "Timestamp": timestamp_ms,
                    "CloudWatchMetrics": [{
                        "Namespace": namespace,
                        "Dimensions": [dimensions],
                        "Metrics": self.definitions,
                    }],
                });
                if let Some(log_group) = log_group {
                    metadata["LogGroupName"] = log_group.as_str().into();
                }
                root.insert("_aws".to_owned(), metadata);
            }
            Form::Json => {
                let at = jiff::Timestamp::from_millisecond(timestamp_ms).unwrap_or_default();
                root.insert("timestamp".to_owned(), format!("{at:.3}").into());
                root.insert("level".to_owned(), "INFO".into());
                root.insert("message".to_owned(), MESSAGE.into());
            }
        }
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
    use std::collections::BTreeSet;

    use crate::telemetry::metrics::{
        CLEANUP_DURATION, DURATIONS, LOG_LINES_DROPPED, MESSAGES_REFUSED, Metrics,
    };

    #[test]
    fn every_line_is_one_valid_emf_object_with_bounded_dimensions() {
        let metrics = Metrics::default();
        metrics.add_by_reason(MESSAGES_REFUSED, "no_target");
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
            &Form::Emf {
                namespace: "Stagesweep".to_owned(),
                log_group: None,
            },
            MetricsDetail::Full,
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
        assert_eq!(totals["MessagesRefused"], 1);
        assert_eq!(totals["MessagesDeleted"], 0);
        assert_eq!(totals["InFlight"], 2);
        assert_eq!(totals["PollAge"], 40);
        assert!(
            lines[4].contains(r#""Reason":"no_target""#)
                || lines[3].contains(r#""Reason":"no_target""#)
        );
    }

    #[test]
    fn in_basic_detail_what_did_not_happen_is_not_written_and_calls_of_an_idle_interval_are_not() {
        let written = |metrics: &Metrics, in_flight| -> Vec<Value> {
            let gauges = Gauges {
                in_flight,
                ..Gauges::default()
            };
            lines(
                &Form::Json,
                MetricsDetail::Basic,
                0,
                &metrics.take(),
                gauges,
            )
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
        };
        let names = |line: &Value| -> BTreeSet<String> {
            let names = line.as_object().unwrap().keys().cloned();
            let metric = |name: &String| name.starts_with(char::is_uppercase);
            names.filter(metric).collect()
        };
        let gauges = ["InFlight", "OldestInFlightAge", "PollAge"];
        let with = |more: &[&str]| -> BTreeSet<String> {
            let all = gauges.iter().chain(more);
            all.map(|name| (*name).to_owned()).collect()
        };
        let metrics = Metrics::default();
        metrics.api_call("ReceiveMessage");
        metrics.add(LOG_LINES_DROPPED, 0);
        let idle = written(&metrics, 0);
        assert_eq!(idle.len(), 1);
        assert_eq!(names(&idle[0]), with(&[]));

        metrics.api_call("ReceiveMessage");
        let waits = written(&metrics, 1);
        assert_eq!(waits.len(), 1);
        assert_eq!(names(&waits[0]), with(&["ApiCalls"]));

        metrics.api_call("GetDistribution");
        metrics.api_throttle("GetDistribution");
        let throttled = written(&metrics, 0);
        assert_eq!(throttled.len(), 2);
        assert_eq!(names(&throttled[0]), with(&["ApiCalls", "ApiThrottles"]));
        let by_operation = ["ApiThrottles", "Operation"].map(str::to_owned);
        assert_eq!(names(&throttled[1]), by_operation.into());
    }

    /// Hours of a fleet's work in one interval: still nothing that a log driver splits.
    #[test]
    fn the_longest_line_stays_below_what_log_drivers_split() {
        let metrics = Metrics::default();
        for name in DURATIONS {
            for _ in 0..MAX_VALUES {
                metrics.observe(name, Duration::MAX);
            }
        }
        for name in COUNTERS {
            metrics.add(name, u64::MAX);
        }
        let gauges = Gauges {
            in_flight: usize::MAX,
            oldest_in_flight_age: Duration::MAX,
            poll_age: Duration::MAX,
        };
        let form = Form::Emf {
            namespace: "n".repeat(255),
            log_group: Some("g".repeat(512)),
        };
        let lines = lines(
            &form,
            MetricsDetail::Full,
            i64::MAX,
            &metrics.take(),
            gauges,
        );
        assert!(lines[0].len() < 16 * 1024, "{}", lines[0].len());
    }

    #[test]
    fn a_flat_line_has_the_values_the_fields_of_a_log_line_and_nothing_of_emf() {
        let metrics = Metrics::default();
        metrics.add_by_reason(MESSAGES_REFUSED, "no_target");
        metrics.observe(CLEANUP_DURATION, Duration::from_millis(7));
        let lines = lines(
            &Form::Json,
            MetricsDetail::Basic,
            1_766_000_000_123,
            &metrics.take(),
            Gauges::default(),
        );
        let objects: Vec<Value> = lines
            .iter()
            .map(|it| serde_json::from_str(it).unwrap())
            .collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["CleanupDuration"], json!([7]));
        let refused = json!({
            "timestamp": "2025-12-17T19:33:20.123Z", "level": "INFO", "message": "metrics",
            "Reason": "no_target", "MessagesRefused": 1,
        });
        assert_eq!(objects[1], refused);
    }

    /// The rows of the page's tables: name and unit.
    #[test]
    fn the_page_on_metrics_lists_what_is_emitted_and_nothing_else() {
        let metrics = Metrics::default();
        for name in DURATIONS {
            metrics.observe(name, Duration::ZERO);
        }
        let form = Form::Emf {
            namespace: "Stagesweep".to_owned(),
            log_group: None,
        };
        let lines = lines(
            &form,
            MetricsDetail::Full,
            0,
            &metrics.take(),
            Gauges::default(),
        );
        let totals: Value = serde_json::from_str(&lines[0]).unwrap();
        let definitions = &totals["_aws"]["CloudWatchMetrics"][0]["Metrics"];
        let emitted: BTreeSet<(&str, &str)> = definitions
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["Name"].as_str().unwrap(), it["Unit"].as_str().unwrap()))
            .collect();
        let page = include_str!("../../docs/METRICS.md");
        let cells = |line: &'static str| -> Option<(&'static str, &'static str)> {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some((cells.next()?.strip_suffix('`')?, cells.next()?))
        };
        let listed = page.lines().filter_map(cells);
        let listed = listed.filter(|(_, unit)| ["Count", "Milliseconds"].contains(unit));
        assert_eq!(listed.collect::<BTreeSet<_>>(), emitted);
    }
}
