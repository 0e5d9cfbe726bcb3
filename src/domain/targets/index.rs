//! Finding the targets that may match an approval action, without a look at all of them.
//!
//! Targets are kept by stage and action, and there by the pipeline's name where it is a literal. What
//! is left to be tried for one event is the targets of that very name, and the patterns with a capture
//! in the name: a handful, however many targets there are. Those of any stage, or of any action, are
//! kept under a name that no stage and no action has.

use std::collections::HashMap;

use super::Trigger;

/// Stands for any stage or any action: a name is never empty.
const ANY: &str = "";

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
        let [stage, action] =
            [&trigger.stage, &trigger.action].map(|it| it.clone().unwrap_or(ANY.into()));
        let bucket = self.0.entry(stage).or_default().entry(action).or_default();
        match trigger.pipeline.name().literal() {
            Some(name) => bucket.named.entry(name.to_owned()).or_default(),
            None => &mut bucket.patterned,
        }
        .push(place);
    }

    /// The places of all targets that may match a pipeline of this name.
    pub(super) fn candidates<'a>(
        &'a self,
        stage: &'a str,
        action: &'a str,
        name: &'a str,
    ) -> impl Iterator<Item = usize> + use<'a> {
        below(&self.0, Some(stage))
            .flat_map(move |actions| below(actions, Some(action)))
            .flat_map(move |bucket| {
                bucket
                    .named
                    .get(name)
                    .into_iter()
                    .chain([&bucket.patterned])
            })
            .flatten()
            .copied()
    }

    /// The places of all targets that may match an approval action that `trigger` matches, in their
    /// order.
    pub(super) fn rivals(&self, trigger: &Trigger) -> Vec<usize> {
        // Only a trigger of any stage, or of any action, has to go through them all.
        let stages = below(&self.0, trigger.stage.as_deref());
        let buckets = stages.flat_map(|actions| below(actions, trigger.action.as_deref()));
        let literal = trigger.pipeline.name().literal();
        let mut places: Vec<usize> = Vec::new();
        for bucket in buckets {
            match literal {
                Some(name) => places.extend(bucket.named.get(name).into_iter().flatten()),
                None => places.extend(bucket.named.values().flatten()),
            }
            places.extend(&bucket.patterned);
        }
        places.sort_unstable();
        places
    }
}

/// What is kept for `name` and for any name; for no name, everything.
fn below<'a, T>(
    all: &'a HashMap<String, T>,
    name: Option<&'a str>,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let every = name.is_none().then(|| all.values()).into_iter().flatten();
    let named = name.into_iter().flat_map(|name| [name, ANY]);
    every.chain(named.filter_map(|name| all.get(name)))
}
