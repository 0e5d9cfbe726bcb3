//! The effective values as a program reads them.

use serde_json::{Map, Value, json};

use super::Config;
use super::keys::{self, Kind};

impl Config {
    /// The effective value of every key but the targets, by section: a duration in milliseconds, under its key
    /// with `_ms` after it; an empty text is null.
    #[must_use]
    pub fn values(&self) -> Value {
        let mut sections: Map<String, Value> = Map::new();
        for (key, text) in self.settings() {
            let Some((section, name)) = key.split_once('.') else {
                continue;
            };
            let (name, value) = match keys::kind(section, name) {
                Some(Kind::Duration) => {
                    let duration = humantime::parse_duration(&text).unwrap_or_default();
                    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                    (format!("{name}_ms"), json!(ms))
                }
                Some(Kind::Count) => (name.to_owned(), json!(text.parse::<u64>().ok())),
                Some(Kind::Flag) => (name.to_owned(), json!(text == "true")),
                // In the settings a list is one text.
                Some(Kind::List | Kind::Counts) => (name.to_owned(), self.list(key)),
                Some(Kind::Text) | None => {
                    let text = Some(text).filter(|text| !text.is_empty());
                    (name.to_owned(), json!(text))
                }
            };
            let entry = sections.entry(section).or_insert_with(|| json!({}));
            entry[name] = value;
        }
        Value::Object(sections)
    }

    fn list(&self, key: &str) -> Value {
        match key {
            "events.allowed_accounts" => json!(self.events.allowed_accounts),
            "notify.program" => json!(self.notify.program),
            _ => Value::Null,
        }
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
        let lists = keys::KEYS.iter().filter(|key| key.2 == Kind::List);
        for (section, name, _) in lists {
            assert!(values[section][name].is_array(), "{section}.{name}");
        }

        let places = origins.places();
        let place = places["queue.max_in_flight"].to_string();
        assert_eq!(place, variable);
        let place = places["queue.url"].to_string();
        assert!(place.starts_with("STAGESWEEP_CONFIG_TOML:"), "{place}");
    }
}
