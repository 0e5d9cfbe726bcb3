//! The targets: from the entries under `targets` to the checked ones.

use ::config::ValueKind;
use serde::Deserialize;

use super::checked::duration;
use super::fault::{Fault, Place};
use super::formats::quoted;
use super::keys;
use super::layers::RawTarget;
use super::reader::Reader;
use super::{Cleanup, Events};
use crate::domain::targets::{
    Mode, ProgramSpec, Surroundings, TargetError, TargetProblem, TargetSpec, Targets,
};

impl Reader<'_> {
    /// Every target; `None` only after at least one fault was reported. `events` and `cleanup` are left out
    /// where they are faulty.
    pub(super) fn targets(
        &mut self,
        surroundings: Surroundings,
        events: Option<&Events>,
        cleanup: Option<&Cleanup>,
    ) -> Option<Targets> {
        let entries = &self.layers.targets;
        if self.layers.tainted.contains(keys::TARGETS) {
            return None;
        }
        if entries.is_empty() {
            let message = "there is none; add at least one [[targets]] table";
            self.fault(keys::TARGETS, message);
            return None;
        }
        let mut specs = Vec::new();
        let mut sound = true;
        for (index, entry) in entries.iter().enumerate() {
            sound &= entry.tainted.is_empty();
            let before = self.faults.len();
            specs.push(self.target(index, entry, cleanup));
            sound &= self.faults.len() == before;
        }
        let errors = match Targets::new(&specs, surroundings) {
            Ok(targets) => {
                sound &= events.is_none_or(|events| self.events_accepted(&targets, events));
                return sound.then_some(targets);
            }
            Err(errors) => errors,
        };
        for TargetError {
            index,
            key,
            element,
            problem,
        } in errors
        {
            let entry = &entries[index];
            let Some(key) = key else {
                let place = entry.place.clone();
                self.fault_at(place, &format!("targets[{index}]"), problem.to_string());
                continue;
            };
            let dotted = format!("targets[{index}].{key}");
            let said = said(&problem, entries);
            let set = entry.values.get(key);
            let (place, message) = match (set, element, &problem) {
                (Some((list, _)), Some(element), _) => {
                    let list = list.clone().into_array().unwrap_or_default();
                    let places = self.layers.elements.get(&dotted);
                    let (Some(value), Some(place)) =
                        (list.get(element), places.and_then(|it| it.get(element)))
                    else {
                        continue;
                    };
                    // What is no text or no number is reported already.
                    if value.kind == ValueKind::Nil {
                        continue;
                    }
                    (place, format!("{} {said}", written(value)))
                }
                // Its type is wrong, which is reported already.
                _ if entry.tainted.contains(key) => continue,
                (Some((value, place)), ..) => (place, format!("{} {said}", written(value))),
                (None, _, TargetProblem::Missing(_)) => (&entry.place, said),
                (None, ..) => continue,
            };
            self.fault_at(place.clone(), &dotted, message);
        }
        None
    }

    /// Whether each target's events are accepted, as far as the configuration names the accounts.
    fn events_accepted(&mut self, targets: &Targets, events: &Events) -> bool {
        let Some(home) = targets.home() else {
            return true;
        };
        let mut all = true;
        for (index, target) in targets.iter().enumerate() {
            let foreign = target
                .account()
                .filter(|&account| account != home && !events.allowed_accounts.contains(account));
            let set = self.layers.targets[index].values.get("pipeline");
            if let (Some(account), Some((value, place))) = (foreign, set) {
                all = false;
                let message = format!(
                    "{} is of account {account}, whose events are not accepted: add {account} to \
                     events.allowed_accounts",
                    written(value)
                );
                self.fault_at(
                    place.clone(),
                    &format!("targets[{index}].pipeline"),
                    message,
                );
            }
        }
        all
    }

    /// An entry as it is written. What is of the wrong type stands as an empty value, so that the other
    /// keys, and the other elements of a list, are checked all the same.
    fn target(&mut self, index: usize, entry: &RawTarget, cleanup: Option<&Cleanup>) -> TargetSpec {
        let mut fault = |place: &Place, key: &str, message: String| {
            self.faults.push(Fault {
                place: place.clone(),
                key: Some(format!("targets[{index}].{key}")),
                message,
            });
        };
        let text = |key: &str| {
            let empty = entry.tainted.contains(key).then(String::new);
            let value = entry.values.get(key).map(|(value, _)| value.clone());
            value.and_then(|value| value.into_string().ok()).or(empty)
        };
        let texts = |key: &str| {
            let values = entry.list(key).into_iter();
            values
                .map(|it| it.into_string().unwrap_or_default())
                .collect()
        };
        let pipeline = text("pipeline");
        if pipeline.is_none() {
            fault(
                &entry.place,
                "pipeline",
                "is missing; every target needs it".to_owned(),
            );
        }
        let set = |key: &str| entry.values.contains_key(key) || entry.tainted.contains(key);
        let has_program = set("run");
        let mut read = |of: &str| {
            let (key, rule) = keys::TARGET_KEYS.iter().find(|(key, _)| *key == of)?;
            let (value, place) = entry.values.get(key)?;
            let read = rule.read(&value.to_string());
            read.map_err(|message| fault(place, key, message)).ok()
        };
        let [timeout, delay] = ["timeout", "delay"].map(|key| read(key).as_ref().map(duration));
        let mode = read("mode").and_then(|mode| Mode::deserialize(mode).ok());
        // Without a cleanup it is the lack of a program that is at fault.
        if !has_program && (set("production_parameter") || set("staging_parameter")) {
            for key in ["timeout", "retry_on", "pass_environment"] {
                if let Some((_, place)) = entry.values.get(key) {
                    fault(place, key, "is of no use without `run`".to_owned());
                }
            }
        }
        TargetSpec {
            pipeline: pipeline.unwrap_or_default(),
            stage: text("stage"),
            action: text("action"),
            deploy_stage: text("deploy_stage"),
            mode: mode.or(cleanup.map(|it| it.mode)).unwrap_or_default(),
            delay: delay.or(cleanup.map(|it| it.delay)).unwrap_or_default(),
            production_parameter: text("production_parameter"),
            staging_parameter: text("staging_parameter"),
            role_arn: text("role_arn"),
            pipeline_role_arn: text("pipeline_role_arn"),
            external_id: text("external_id"),
            region: text("region"),
            program: has_program.then(|| ProgramSpec {
                run: texts("run"),
                timeout,
                retry_on: entry
                    .list("retry_on")
                    .into_iter()
                    .map(|it| it.into_int().unwrap_or_default())
                    .collect(),
                pass_environment: texts("pass_environment"),
            }),
        }
    }
}

/// A problem in words; another target is named by its line.
fn said(problem: &TargetProblem, entries: &[RawTarget]) -> String {
    let TargetProblem::Overlap {
        other,
        other_pipeline,
        example,
    } = problem
    else {
        return problem.to_string();
    };
    let line = match entries[*other].place {
        Place::At { line, .. } => format!(" at line {line}"),
        _ => String::new(),
    };
    format!(
        "overlaps the target {other_pipeline:?}{line}: both match pipeline {example:?} at the same stage and \
         action; remove one, or give it a stage or an action of its own"
    )
}

/// A value of a target as a fault quotes it.
fn written(value: &::config::Value) -> String {
    match value.clone().into_array() {
        Ok(values) => {
            let values: Vec<String> = values.iter().map(written).collect();
            format!("[{}]", values.join(", "))
        }
        Err(_) => match value.kind {
            ValueKind::String(ref text) => quoted(text),
            _ => value.to_string(),
        },
    }
}
