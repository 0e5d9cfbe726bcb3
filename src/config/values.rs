//! The effective values, as people and as programs read them.

use serde_json::{Map, Value, json};

use super::Config;
use super::checked::duration;
use super::formats::time;
use super::keys::{self, KEYS, Rule};

/// What a reload applies besides the targets.
const RELOADED: [&str; 3] = ["cleanup.mode", "cleanup.delay", "telemetry.log_level"];

impl Config {
    /// The effective value of every key but the targets, by dotted name, in the order of the
    /// documentation. Durations are in the form in which the file takes them.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let values = self.each().into_iter();
        let text = |(key, rule, value): (_, &Rule, Value)| {
            let text = match (rule, value) {
                (Rule::Duration(_), value) => time(duration(&value)),
                (_, Value::String(text)) => text,
                (_, Value::Array(values)) => {
                    let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                    texts.join(if key == "notify.program" { " " } else { "," })
                }
                (_, value) => value.to_string(),
            };
            (key, text)
        };
        values.map(text).collect()
    }

    /// The effective value of every key but the targets, by section: a duration in milliseconds, under its key
    /// with `_ms` after it; an empty text is null.
    #[must_use]
    pub fn values(&self) -> Value {
        let mut sections: Map<String, Value> = Map::new();
        for (key, rule, value) in self.each() {
            let (section, name) = keys::parts(key);
            let (name, value) = match rule {
                Rule::Duration(_) => {
                    let ms = u64::try_from(duration(&value).as_millis()).unwrap_or(u64::MAX);
                    (format!("{name}_ms"), json!(ms))
                }
                _ if value == "" => (name.to_owned(), Value::Null),
                _ => (name.to_owned(), value),
            };
            let entry = sections.entry(section).or_insert_with(|| json!({}));
            entry[name] = value;
        }
        Value::Object(sections)
    }

    /// The dotted names of what differs in `new` and takes a restart to apply: everything but
    /// the targets, what they take from `[cleanup]`, and `telemetry.log_level`.
    #[must_use]
    pub fn restart_required(&self, new: &Self) -> Vec<&'static str> {
        self.settings()
            .into_iter()
            .zip(new.settings())
            .filter(|((key, old), (_, new))| old != new && !RELOADED.contains(key))
            .map(|((key, _), _)| key)
            .collect()
    }

    /// Every key with what serde makes of its value.
    fn each(&self) -> Vec<(&'static str, &'static Rule, Value)> {
        let mut sections = serde_json::to_value(self).unwrap_or_default();
        let take = |(key, rule): &'static (&'static str, Rule)| {
            let (section, name) = keys::parts(key);
            (*key, rule, sections[section][name].take())
        };
        KEYS.iter().map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_program_reads_every_value_in_its_own_type_and_where_it_was_set() {
        let path = Path::new(super::super::TEXT_VARIABLE);
        let text = include_str!("../../config/example.toml");
        let variable = "STAGESWEEP__QUEUE__MAX_IN_FLIGHT".to_owned();
        let env = BTreeMap::from([
            (variable.clone(), "7".to_owned()),
            (super::super::TEXT_VARIABLE.to_owned(), text.to_owned()),
        ]);
        let (config, origins) = Config::load_with_origins(path, &env).unwrap();
        let values = config.values();
        assert_eq!(values["queue"]["max_in_flight"], 7);
        assert_eq!(values["queue"]["wait_time_ms"], 20_000);
        assert_eq!(values["verify"]["codepipeline"], true);
        assert_eq!(values["notify"]["program"], json!([]));
        assert_eq!(values["health"]["socket"], Value::Null);
        let keys = values.as_object().unwrap().values();
        let keys: usize = keys.map(|it| it.as_object().unwrap().len()).sum();
        assert_eq!(keys, config.settings().len());
        // No list is left out.
        let lists = KEYS
            .iter()
            .filter(|(_, rule)| matches!(rule, Rule::List(_)));
        for (key, _) in lists {
            let (section, name) = keys::parts(key);
            assert!(values[section][name].is_array(), "{key}");
        }

        let places = origins.places();
        let place = places["queue.max_in_flight"].to_string();
        assert_eq!(place, variable);
        let place = places["queue.url"].to_string();
        assert!(place.starts_with("STAGESWEEP_CONFIG_TOML:"), "{place}");
    }
}
