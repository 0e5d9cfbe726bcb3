//! Default, file and environment, laid over one another, with the place of every value.
//!
//! The `config` crate does the layering. It knows no line of an unknown key and stops at the
//! first fault, so the file is walked here first: only what is a known key with a value of the
//! right type goes into its layer, and the same is true of the environment. What is left out is
//! *tainted*: its fault is reported already, and its absence means nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use ::config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place};
use super::keys::{self, Rule};

/// The defaults that are compiled in.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What the three layers say.
#[derive(Debug)]
pub(super) struct Layers {
    /// The file, by which faults name it.
    pub(super) file: std::path::PathBuf,
    /// Every known key by its dotted name.
    pub(super) merged: ::config::Config,
    /// Where the file or the environment sets a key.
    pub(super) places: BTreeMap<String, Place>,
    /// Where each element of a list in the file stands, by the dotted key; of a target's, after
    /// `targets[N]`.
    pub(super) elements: BTreeMap<String, Vec<Place>>,
    /// The keys that were set to something unusable.
    pub(super) tainted: BTreeSet<String>,
    /// The entries under `targets`, which only the file can set.
    pub(super) targets: Vec<RawTarget>,
}

/// One entry under `targets`: the keys that it sets to a value of the right type. Of a list that holds
/// something else, that is nil.
#[derive(Debug)]
pub(super) struct RawTarget {
    pub(super) place: Place,
    pub(super) values: BTreeMap<&'static str, (Value, Place)>,
    pub(super) tainted: BTreeSet<&'static str>,
}

impl RawTarget {
    /// The elements of a list; none, if it is not set.
    pub(super) fn list(&self, key: &str) -> Vec<Value> {
        let value = self.values.get(key).map(|(value, _)| value.clone());
        value
            .and_then(|value| value.into_array().ok())
            .unwrap_or_default()
    }
}

/// Lays the environment over `text`, the content of `file`, over the defaults.
///
/// An error is a file that is no TOML; every other fault goes to `faults`.
pub(super) fn collect(
    file: &Path,
    text: &str,
    env: &BTreeMap<String, String>,
    faults: &mut Vec<Fault>,
) -> Result<Layers, ()> {
    let mut walk = Walk {
        file,
        text,
        faults,
        layer: FileLayer::default(),
        places: BTreeMap::new(),
        elements: BTreeMap::new(),
        tainted: BTreeSet::new(),
        targets: Vec::new(),
    };
    let variables = walk.environment(env);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = walk.at(error.span().unwrap_or(0..0));
        let mut message = error.message().replace('\n', "; ");
        if message.contains("leading zero") {
            message.push_str("; an account id is written in quotes");
        }
        walk.fault(place, None, format!("not valid TOML: {message}"));
    }
    if !errors.is_empty() {
        // What can be recovered of a broken file would raise faults that are none.
        return Err(());
    }
    walk.root(document.get_ref());

    let merged = ::config::Config::builder()
        .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
        .add_source(walk.layer)
        .add_source(
            // No `try_parsing`: account "0012…" would lose its zeros.
            Environment::with_prefix("STAGESWEEP")
                .prefix_separator("__")
                .separator("__")
                .source(Some(variables)),
        )
        .build();
    let merged = match merged {
        Ok(merged) => merged,
        Err(error) => {
            walk.faults.push(Fault {
                place: Place::File(file.to_owned()),
                key: None,
                message: error.to_string(),
            });
            return Err(());
        }
    };
    Ok(Layers {
        file: file.to_owned(),
        merged,
        places: walk.places,
        elements: walk.elements,
        tainted: walk.tainted,
        targets: walk.targets,
    })
}

/// What of the file is sound, by dotted key.
#[derive(Clone, Debug, Default)]
struct FileLayer(BTreeMap<String, Value>);

impl Source for FileLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone().into_iter().collect())
    }
}

struct Walk<'a> {
    file: &'a Path,
    text: &'a str,
    faults: &'a mut Vec<Fault>,
    layer: FileLayer,
    places: BTreeMap<String, Place>,
    elements: BTreeMap<String, Vec<Place>>,
    tainted: BTreeSet<String>,
    targets: Vec<RawTarget>,
}

impl Walk<'_> {
    fn at(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::At {
            file: self.file.to_owned(),
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn fault(&mut self, place: Place, key: Option<&str>, message: String) {
        self.faults.push(Fault {
            place,
            key: key.map(str::to_owned),
            message,
        });
    }

    fn root(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            let name = key.get_ref().as_ref();
            if name == keys::TARGETS {
                self.targets(value);
            } else if !keys::is_section(name) {
                let place = self.at(key.span());
                let message = unknown(keys::near_section(name));
                self.fault(place, Some(&spelled(name)), message);
            } else if let DeValue::Table(section) = value.get_ref() {
                self.section(name, section);
            } else {
                let place = self.at(value.span());
                let message = format!("{}; expected a table: [{name}]", found(value.get_ref()));
                self.fault(place, Some(name), message);
                let below = keys::of_section(name);
                self.tainted.extend(below.map(|(key, _)| (*key).to_owned()));
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let dotted = format!("{section}.{}", spelled(name));
            let Some(rule) = keys::rule(section, name) else {
                let place = self.at(key.span());
                let message = unknown(keys::near_key(section, name));
                self.fault(place, Some(&dotted), message);
                continue;
            };
            let place = self.at(value.span());
            // The environment has the last word on the value, but not on the file's soundness.
            let from_environment = self.places.contains_key(&dotted);
            match self.value(&dotted, rule, value) {
                Ok(value) => {
                    self.layer.0.insert(dotted.clone(), value);
                    if !from_environment {
                        self.places.insert(dotted, place);
                    }
                }
                Err(_) if from_environment => {}
                Err(part) => {
                    let part = part.map(|part| (dotted.clone(), part));
                    self.layer.0.extend(part);
                    self.tainted.insert(dotted);
                }
            }
        }
    }

    /// The value as the layer holds it; or a fault where its type is wrong, and what there is of it: of a
    /// list the sound elements, with nil for the others.
    fn value(
        &mut self,
        key: &str,
        rule: Rule,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Value, Option<Value>> {
        let place = self.at(value.span());
        let message = match (rule, value.get_ref()) {
            (Rule::Text(_) | Rule::Choice(_) | Rule::Duration(_), DeValue::String(text)) => {
                return Ok(Value::new(None, ValueKind::String(text.to_string())));
            }
            (Rule::Count { .. }, DeValue::Integer(number)) => match whole(number) {
                Ok(number) => return Ok(number),
                Err(message) => message,
            },
            (Rule::Flag, DeValue::Boolean(flag)) => {
                return Ok(Value::new(None, ValueKind::Boolean(*flag)));
            }
            (Rule::List(_), DeValue::Array(array)) => return self.list(key, array, text_element),
            (Rule::Counts, DeValue::Array(array)) => return self.list(key, array, count_element),
            (Rule::Duration(_), number @ (DeValue::Integer(_) | DeValue::Float(_))) => {
                let number = shown(number);
                format!(
                    "{number} is a number without a unit; write a duration in quotes, \
                     such as \"{number}s\""
                )
            }
            (Rule::Duration(_), other) => {
                format!(
                    "{}; expected a duration in quotes, such as \"20s\"",
                    found(other)
                )
            }
            (Rule::Text(_) | Rule::Choice(_), other) => {
                format!("{}; expected text in quotes", found(other))
            }
            (Rule::Count { .. }, text @ DeValue::String(_)) => {
                format!("{}; expected a whole number, without quotes", found(text))
            }
            (Rule::Count { .. }, other) => format!("{}; expected a whole number", found(other)),
            (Rule::Flag, other) => {
                format!("{}; expected true or false, without quotes", found(other))
            }
            (Rule::List(_), other) => {
                format!("{}; expected a list of texts: [\"…\"]", found(other))
            }
            (Rule::Counts, other) => {
                format!("{}; expected a list of whole numbers: [1, 2]", found(other))
            }
        };
        self.fault(place, Some(key), message);
        Err(None)
    }

    /// A list each of whose elements `read` takes.
    fn list(
        &mut self,
        key: &str,
        array: &toml::de::DeArray<'_>,
        read: impl Fn(&DeValue<'_>) -> Result<Value, String>,
    ) -> Result<Value, Option<Value>> {
        let (mut values, mut places) = (Vec::new(), Vec::new());
        let mut complete = true;
        for element in array {
            let place = self.at(element.span());
            places.push(place.clone());
            values.push(read(element.get_ref()).unwrap_or_else(|message| {
                complete = false;
                self.fault(place, Some(key), message);
                Value::new(None, ValueKind::Nil)
            }));
        }
        self.elements.insert(key.to_owned(), places);
        let list = Value::new(None, ValueKind::Array(values));
        if complete { Ok(list) } else { Err(Some(list)) }
    }

    fn targets(&mut self, value: &Spanned<DeValue<'_>>) {
        let wrong =
            |value: &DeValue<'_>| format!("{}; expected a table each: [[targets]]", found(value));
        let DeValue::Array(entries) = value.get_ref() else {
            let (place, message) = (self.at(value.span()), wrong(value.get_ref()));
            self.fault(place, Some(keys::TARGETS), message);
            self.tainted.insert(keys::TARGETS.to_owned());
            return;
        };
        for (index, entry) in entries.iter().enumerate() {
            let place = self.at(entry.span());
            let mut target = RawTarget {
                place: place.clone(),
                values: BTreeMap::new(),
                tainted: BTreeSet::new(),
            };
            if let DeValue::Table(table) = entry.get_ref() {
                self.target(index, table, &mut target);
            } else {
                let message = wrong(entry.get_ref());
                self.fault(place, Some(&format!("targets[{index}]")), message);
                target.tainted.extend(keys::TARGET_KEYS.map(|key| key.0));
            }
            self.targets.push(target);
        }
    }

    fn target(&mut self, index: usize, table: &DeTable<'_>, target: &mut RawTarget) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let dotted = format!("targets[{index}].{}", spelled(name));
            let known = keys::TARGET_KEYS.into_iter().find(|known| known.0 == name);
            let Some((known, rule)) = known else {
                let place = self.at(key.span());
                let message = unknown(keys::near_target_key(name));
                self.fault(place, Some(&dotted), message);
                continue;
            };
            let place = self.at(value.span());
            let value = self.value(&dotted, rule, value).or_else(|part| {
                target.tainted.insert(known);
                part.ok_or(())
            });
            if let Ok(value) = value {
                target.values.insert(known, (value, place));
            }
        }
    }

    /// The variables that set a known key, spelled as the layering expects them.
    fn environment(&mut self, env: &BTreeMap<String, String>) -> Map<String, String> {
        let mut sound = Map::new();
        for (variable, value) in env {
            let Some((prefix, rest)) = variable.split_at_checked(keys::PREFIX.len()) else {
                continue;
            };
            if !prefix.eq_ignore_ascii_case(keys::PREFIX) {
                continue;
            }
            let place = Place::Variable(variable.clone());
            let lower = rest.to_lowercase();
            let (section, name) = lower.split_once("__").unwrap_or((&lower, ""));
            let dotted = lower.replace("__", ".");
            let Some(rule) = keys::rule(section, name) else {
                let message = if section == keys::TARGETS {
                    "targets can be set in the file only".to_owned()
                } else if keys::is_section(section) {
                    unknown(keys::near_key(section, name).map(|key| keys::variable(&key)))
                } else {
                    let near = keys::near_section(section).and_then(|near| {
                        if near.contains('.') {
                            Some(near)
                        } else {
                            keys::near_key(&near, name)
                        }
                    });
                    unknown(near.map(|key| keys::variable(&key)))
                };
                self.fault(place, Some(&dotted), message);
                continue;
            };
            if let Some(Place::Variable(other)) = self.places.get(&dotted) {
                let message = format!("is set by {other} as well; case makes no difference");
                self.fault(place, Some(&dotted), message);
                continue;
            }
            self.places.insert(dotted.clone(), place.clone());
            let trimmed = value.trim();
            let is_not = match rule {
                Rule::Count { .. } if trimmed.parse::<i64>().is_err() => "is not a whole number",
                Rule::Flag if !matches!(trimmed, "true" | "false") => "is neither true nor false",
                _ => {
                    sound.insert(keys::variable(&dotted), trimmed.to_owned());
                    continue;
                }
            };
            self.fault(place, Some(&dotted), format!("{value:?} {is_not}"));
            self.tainted.insert(dotted);
        }
        sound
    }
}

fn text_element(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::String(text) => Ok(Value::new(None, ValueKind::String(text.to_string()))),
        number @ DeValue::Integer(_) => {
            let number = shown(number);
            Err(format!(
                "{number} is a number; write it in quotes, \"{number}\", so that leading zeros stay"
            ))
        }
        other => Err(format!("{}; expected text in quotes", found(other))),
    }
}

fn count_element(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::Integer(number) => whole(number),
        other => Err(format!("{}; expected a whole number", found(other))),
    }
}

fn whole(number: &toml::de::DeInteger<'_>) -> Result<Value, String> {
    i64::from_str_radix(number.as_str(), number.radix())
        .map(|number| Value::new(None, ValueKind::I64(number)))
        .map_err(|_| format!("{number} is not a number of sensible size"))
}

fn unknown(near: Option<String>) -> String {
    match near {
        Some(near) => format!("there is no such key; did you mean {near}?"),
        None => "there is no such key".to_owned(),
    }
}

/// A key as TOML spells it: quoted unless it is a bare one.
fn spelled(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}

/// A value of the wrong type, as a fault speaks of it.
fn found(value: &DeValue<'_>) -> String {
    let article = match value {
        DeValue::Integer(_) | DeValue::Array(_) => "an",
        _ => "a",
    };
    match value {
        DeValue::Array(_) | DeValue::Table(_) => format!("found {article} {}", value.type_str()),
        _ => format!("found {} ({article} {})", shown(value), value.type_str()),
    }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => super::formats::quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => value.type_str().to_owned(),
    }
}
