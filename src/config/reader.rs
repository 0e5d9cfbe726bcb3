//! Reading single values out of the layers; what is wrong with one is a fault at its place.

use serde_json::{Map, Value, json};

use super::fault::{Fault, Place};
use super::formats::quoted;
use super::keys::{self, KEYS, Rule};
use super::layers::Layers;

/// Reads the layers; what is wrong goes to `faults`.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    pub(super) faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    /// Where a key is set, or would have to be.
    pub(super) fn place(&self, key: &str) -> Place {
        match self.layers.places.get(key) {
            Some(place) => place.clone(),
            None if self.layers.merged.get::<::config::Value>(key).is_ok() => Place::Default,
            None => Place::File(self.layers.file.clone()),
        }
    }

    pub(super) fn fault_at(&mut self, place: Place, key: &str, message: String) {
        self.faults.push(Fault {
            place,
            key: Some(key.to_owned()),
            message,
        });
    }

    pub(super) fn fault(&mut self, key: &str, message: &str) {
        self.fault_at(self.place(key), key, message.to_owned());
    }

    /// Two values that do not go together. The fault is where the user set one of them.
    pub(super) fn relation(&mut self, key: &str, relation: &str, other: &str, why: &str) {
        let set = |key: &str| self.layers.places.contains_key(key);
        let at = if set(key) || !set(other) { key } else { other };
        let shown = |key: &str| {
            let text = self.layers.merged.get_string(key).unwrap_or_default();
            let default = if set(key) { "" } else { ", the default" };
            format!("{key} ({}{default})", quoted(&text))
        };
        let message = format!("{} {relation} {}: {why}", shown(key), shown(other));
        self.fault(at, &message);
    }

    /// The sound values of every key outside of the targets, by section, as serde reads them.
    pub(super) fn sections(&mut self) -> Map<String, Value> {
        let mut sections = Map::new();
        for (key, rule) in &KEYS {
            let value = match rule {
                Rule::List(check) => self.list(key, *check),
                rule => self.single(key, rule),
            };
            let (section, name) = keys::parts(key);
            let section = sections.entry(section).or_insert_with(|| json!({}));
            if let Some(value) = value {
                section[name] = value;
            }
        }
        sections
    }

    /// One value; `None` with a fault unless one is reported already.
    fn single(&mut self, key: &str, rule: &Rule) -> Option<Value> {
        if self.layers.tainted.contains(key) {
            return None;
        }
        let read = match self.layers.merged.get_string(key) {
            Ok(text) => rule.read(&text),
            Err(_) => Err(format!(
                "is missing; set it here or with {}",
                keys::variable(key)
            )),
        };
        read.map_err(|problem| self.fault(key, &problem)).ok()
    }

    /// A list each of whose elements `check` accepts.
    fn list(&mut self, key: &str, check: fn(usize, &str) -> Result<(), String>) -> Option<Value> {
        let mut sound = !self.layers.tainted.contains(key);
        let mut texts = Vec::new();
        for (index, (text, place)) in self.elements(key).into_iter().enumerate() {
            let Some(text) = text else { continue };
            if let Err(problem) = check(index, &text) {
                sound = false;
                self.fault_at(place, key, format!("{} {problem}", quoted(&text)));
            }
            texts.push(text);
        }
        sound.then(|| json!(texts))
    }

    /// The elements of a list with their places; `None` for what is no text, which is reported already. In
    /// the environment they are separated by commas.
    fn elements(&self, key: &str) -> Vec<(Option<String>, Place)> {
        let place = self.place(key);
        if let Place::Variable(_) = place {
            let text = self.layers.merged.get_string(key).unwrap_or_default();
            let parts = text.split(',').map(|part| part.trim().to_owned());
            // An empty variable is an empty list.
            let parts = parts.filter(|_| !text.is_empty());
            return parts.map(|part| (Some(part), place.clone())).collect();
        }
        let values = self.layers.merged.get_array(key).unwrap_or_default();
        let places = self.layers.elements.get(key);
        let place_of = |index: usize| places.and_then(|places| places.get(index)).cloned();
        let values = values.into_iter().enumerate();
        values
            .map(|(index, value)| {
                let place = place_of(index).unwrap_or_else(|| place.clone());
                (value.into_string().ok(), place)
            })
            .collect()
    }
}
