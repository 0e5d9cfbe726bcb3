//! Finding the targets that may match an approval action, without a look at all of them.
//!
//! Targets are kept by stage and action, and there by the pipeline's name where it is a literal. What
//! is left to be tried for one event is the targets of that very name, and the patterns with a capture
//! in the name: a handful, however many targets there are.

use std::collections::HashMap;

use super::Trigger;

/// Places of targets in the list that they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index(HashMap<String, HashMap<String, Bucket>>);

/// The targets of one stage and action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bucket {
    named: HashMap<String, Vec<usize>>,
    patterned: Vec<usize>,
}

impl Index {
    /// Adds the trigger of the target at `place`.
    pub(super) fn add(&mut self, place: usize, trigger: &Trigger) {
        let bucket = self
            .0
            .entry(trigger.stage.clone())
            .or_default()
            .entry(trigger.action.clone())
            .or_default();
        match trigger.pipeline.name().literal() {
            Some(name) => bucket.named.entry(name.to_owned()).or_default(),
            None => &mut bucket.patterned,
        }
        .push(place);
    }

    /// The places of all targets that may match a pipeline of this name.
    pub(super) fn candidates(
        &self,
        stage: &str,
        action: &str,
        name: &str,
    ) -> impl Iterator<Item = usize> {
        let bucket = self.0.get(stage).and_then(|actions| actions.get(action));
        let named = bucket.and_then(|bucket| bucket.named.get(name));
        let patterned = bucket.map(|bucket| &bucket.patterned);
        named.into_iter().chain(patterned).flatten().copied()
    }

    /// The places of all targets that may match a pipeline that `trigger` matches, in their order.
    pub(super) fn rivals(&self, trigger: &Trigger) -> Vec<usize> {
        let (stage, action) = (trigger.stage.as_str(), trigger.action.as_str());
        if let Some(name) = trigger.pipeline.name().literal() {
            let mut places: Vec<usize> = self.candidates(stage, action, name).collect();
            places.sort_unstable();
            return places;
        }
        let bucket = self.0.get(stage).and_then(|actions| actions.get(action));
        let mut places: Vec<usize> = bucket
            .into_iter()
            .flat_map(|bucket| bucket.named.values().flatten().chain(&bucket.patterned))
            .copied()
            .collect();
        places.sort_unstable();
        places
    }
}
