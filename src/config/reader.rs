//! Reading single values out of the layers; what is wrong with one is a fault at its place.

use std::time::Duration;

use super::fault::{Fault, Place};
use super::formats::{parse_duration, quoted};
use super::keys;
use super::layers::Layers;

/// Reads the layers; what is wrong goes to `faults`.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    pub(super) faults: &'a mut Vec<Fault>,
}

/// The bounds of a duration.
pub(super) struct Bounds {
    min: Duration,
    max: Duration,
    /// Whose maximum it is.
    whose: &'static str,
    whole_seconds: bool,
}

impl Bounds {
    pub(super) const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            whose: "the",
            whole_seconds: false,
        }
    }

    pub(super) const fn sqs(min: Duration, max: Duration, whole_seconds: bool) -> Self {
        Self {
            min,
            max,
            whose: "SQS's",
            whole_seconds,
        }
    }
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

    /// A text, or a number's digits; `None` with a fault unless one is reported already.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        if self.layers.tainted.contains(key) {
            return None;
        }
        let text = self.layers.merged.get_string(key).ok();
        if text.is_none() {
            let variable = keys::variable(key);
            let message = format!("is missing; set it here or with {variable}");
            self.fault(key, &message);
        }
        text
    }

    /// A text that `check` accepts; its error completes a sentence that begins with the text.
    pub(super) fn formatted(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<String> {
        let text = self.text(key)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err(problem) => {
                self.fault(key, &format!("{} {problem}", quoted(&text)));
                None
            }
        }
    }

    pub(super) fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let choice = choices.iter().find(|(name, _)| *name == text);
        if choice.is_none() {
            let names: Vec<String> = choices.iter().map(|(name, _)| quoted(name)).collect();
            let names = names.join(" or ");
            self.fault(
                key,
                &format!("{} is unknown; expected {names}", quoted(&text)),
            );
        }
        choice.map(|(_, value)| *value)
    }

    /// The elements of a list with their places; `None` for what is no text, which is reported already. In
    /// the environment they are separated by commas.
    pub(super) fn elements(&self, key: &str) -> Vec<(Option<String>, Place)> {
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

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        if self.layers.tainted.contains(key) {
            return None;
        }
        self.layers.merged.get_bool(key).ok()
    }

    pub(super) fn count(&mut self, key: &str, min: i64, max: i64) -> Option<usize> {
        if self.layers.tainted.contains(key) {
            return None;
        }
        let number = self.layers.merged.get_int(key).unwrap_or_default();
        if (min..=max).contains(&number) {
            return usize::try_from(number).ok();
        }
        self.fault(key, &format!("{number} is outside of {min} to {max}"));
        None
    }

    pub(super) fn duration(&mut self, key: &str, bounds: &Bounds) -> Option<Duration> {
        let text = self.text(key)?;
        let problem = match parse_duration(&text) {
            Err(problem) => problem,
            Ok(found) if found > bounds.max => {
                let max = shown(bounds.max);
                format!("is longer than {} maximum of {max}", bounds.whose)
            }
            Ok(found) if found.is_zero() && !bounds.min.is_zero() => {
                "must be longer than zero".to_owned()
            }
            Ok(found) if found < bounds.min => {
                let min = shown(bounds.min);
                format!("is shorter than {} minimum of {min}", bounds.whose)
            }
            Ok(found) if bounds.whole_seconds && found.subsec_nanos() != 0 => {
                "has a fraction of a second; SQS takes whole seconds".to_owned()
            }
            Ok(found) => return Some(found),
        };
        self.fault(key, &format!("{} {problem}", quoted(&text)));
        None
    }
}

pub(super) fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
