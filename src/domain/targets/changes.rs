//! What another configuration changes of the targets. No I/O.

use std::collections::BTreeMap;

use super::{Program, Target, Targets};

/// What differs. A target is the same one where its pipeline, stage and action are as written before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Targets that there were not.
    pub added: Vec<&'a Target>,
    /// Targets that there are no longer.
    pub removed: Vec<&'a Target>,
    /// Targets of which something else differs, with the keys. What `[cleanup]` sets for all counts as theirs.
    pub changed: Vec<(&'a Target, Vec<&'static str>)>,
}

impl Targets {
    /// What differs in `new`.
    #[must_use]
    pub fn changes<'a>(&'a self, new: &'a Self) -> Changes<'a> {
        let mut before = self.by_trigger();
        let mut changes = Changes::default();
        for (trigger, target) in new.by_trigger() {
            let Some(before) = before.remove(&trigger) else {
                changes.added.push(target);
                continue;
            };
            let keys = before.differing_keys(target);
            if !keys.is_empty() {
                changes.changed.push((target, keys));
            }
        }
        changes.removed = before.into_values().collect();
        changes
    }

    fn by_trigger(&self) -> BTreeMap<[Option<&str>; 3], &Target> {
        let targets = self.targets.iter();
        targets
            .map(|it| ([Some(it.pipeline()), it.stage(), it.action()], it))
            .collect()
    }
}

impl Target {
    fn differing_keys(&self, new: &Self) -> Vec<&'static str> {
        let [old_parameters, new_parameters] = [self, new].map(|it| it.parameters().unzip());
        let [old_access, new_access] = [&self.work.access, &new.work.access];
        let [old_program, new_program] = [self, new].map(Self::program);
        let keys = [
            ("production_parameter", old_parameters.0 != new_parameters.0),
            ("staging_parameter", old_parameters.1 != new_parameters.1),
            ("deploy_stage", self.deploy_stage() != new.deploy_stage()),
            ("mode", self.mode() != new.mode()),
            ("delay", self.delay() != new.delay()),
            ("role_arn", old_access.role_arn != new_access.role_arn),
            (
                "pipeline_role_arn",
                old_access.pipeline_role_arn != new_access.pipeline_role_arn,
            ),
            (
                "external_id",
                old_access.external_id != new_access.external_id,
            ),
            ("region", old_access.region != new_access.region),
            (
                "run",
                old_program.map(Program::words) != new_program.map(Program::words),
            ),
            (
                "timeout",
                old_program.map(|it| it.timeout) != new_program.map(|it| it.timeout),
            ),
            (
                "retry_on",
                old_program.map(|it| &it.retry_on) != new_program.map(|it| &it.retry_on),
            ),
            (
                "pass_environment",
                old_program.map(|it| &it.pass_environment)
                    != new_program.map(|it| &it.pass_environment),
            ),
        ];
        let differing = keys.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Mode, ProgramSpec, Surroundings, TargetSpec};
    use super::*;

    fn spec(pipeline: &str) -> TargetSpec {
        TargetSpec {
            pipeline: pipeline.to_owned(),
            stage: Some("Approve".to_owned()),
            action: Some("Approve".to_owned()),
            production_parameter: Some("/production".to_owned()),
            staging_parameter: Some("/staging".to_owned()),
            ..TargetSpec::default()
        }
    }

    fn targets(specs: &[TargetSpec]) -> Targets {
        let surroundings = Surroundings {
            account: Some("123456789012".to_owned()),
            ..Surroundings::default()
        };
        Targets::new(specs, surroundings).unwrap()
    }

    /// A target of which one thing is changed: the keys that are named.
    fn keys(change: impl FnOnce(&mut TargetSpec)) -> Vec<&'static str> {
        let mut base = spec("shop");
        base.program = Some(ProgramSpec {
            run: vec!["/opt/undo".to_owned()],
            ..ProgramSpec::default()
        });
        let mut new = base.clone();
        change(&mut new);
        let (old, new) = (targets(&[base]), targets(&[new]));
        let changes = old.changes(&new);
        assert!(changes.added.is_empty() && changes.removed.is_empty());
        let mut changed = changes.changed.into_iter();
        changed.next().map(|(_, keys)| keys).unwrap_or_default()
    }

    #[test]
    fn targets_are_added_and_removed_whatever_their_order() {
        let old = targets(&[spec("shop"), spec("blog")]);
        let new = targets(&[spec("cart"), spec("shop")]);
        let changes = old.changes(&new);
        assert_eq!(changes.added[0].pipeline(), "cart");
        assert_eq!(changes.removed[0].pipeline(), "blog");
        assert_eq!((changes.added.len(), changes.removed.len()), (1, 1));
        assert_eq!(changes.changed, []);
        assert_eq!(new.changes(&new), Changes::default());
        // Another stage is another target.
        let mut moved = spec("shop");
        moved.stage = Some("Review".to_owned());
        let moved = targets(&[moved]);
        let changes = targets(&[spec("shop")]);
        let changes = changes.changes(&moved);
        assert_eq!((changes.added.len(), changes.removed.len()), (1, 1));
    }

    #[test]
    fn every_key_that_differs_is_named() {
        let text = |text: &str| Some(text.to_owned());
        let role = "arn:aws:iam::123456789012:role/sweep";
        assert_eq!(keys(|_| {}), [""; 0]);
        assert_eq!(
            keys(|it| it.production_parameter = text("/p")),
            ["production_parameter"]
        );
        assert_eq!(
            keys(|it| it.staging_parameter = text("/s")),
            ["staging_parameter"]
        );
        assert_eq!(
            keys(|it| it.deploy_stage = text("Deploy")),
            ["deploy_stage"]
        );
        assert_eq!(keys(|it| it.mode = Mode::Observe), ["mode"]);
        assert_eq!(keys(|it| it.delay = Duration::from_secs(1)), ["delay"]);
        assert_eq!(
            keys(|it| {
                it.role_arn = text(role);
                it.external_id = text("other");
            }),
            ["role_arn", "external_id"]
        );
        assert_eq!(
            keys(|it| it.pipeline_role_arn = text(role)),
            ["pipeline_role_arn"]
        );
        assert_eq!(keys(|it| it.region = text("eu-west-1")), ["region"]);
        let run = |change: fn(&mut ProgramSpec)| keys(|it| it.program.iter_mut().for_each(change));
        assert_eq!(run(|it| it.run.push("more".to_owned())), ["run"]);
        assert_eq!(
            run(|it| it.timeout = Some(Duration::from_secs(1))),
            ["timeout"]
        );
        assert_eq!(run(|it| it.retry_on.push(7)), ["retry_on"]);
        assert_eq!(
            run(|it| it.pass_environment.push("HOME".to_owned())),
            ["pass_environment"]
        );
    }
}
