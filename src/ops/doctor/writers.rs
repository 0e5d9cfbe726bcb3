//! Who wrote the newest versions of a staging parameter: whether their builds tell whose they are, and whether
//! `deploy_stage` would help.

use jiff::Timestamp;

use super::Check;
use crate::domain::attribution::{NARROW, build_of};
use crate::domain::binding::{ParameterChange, Slot};
use crate::domain::executions::{Attempt, Category, Stage, earlier, later};
use crate::domain::words::counted;

const NAME: &str = "writers";

/// So many of the newest versions are looked at.
const NEWEST: usize = 10;

/// `stages`: the pipeline's, in their order. `approval`: the stage of the approval.
pub(super) fn judge(
    changes: &[ParameterChange],
    attempts: &[Attempt],
    stages: &[Stage],
    (approval, deploy_stage): (Option<&str>, Option<&str>),
) -> Check {
    let oldest = attempts.iter().filter_map(|it| it.started_at).min();
    let mut deployments: Vec<&ParameterChange> = changes
        .iter()
        .filter(|it| matches!(Slot::read(&it.version.value), Slot::Distribution(_)))
        // Of older ones CodePipeline was not asked.
        .filter(|it| it.version.modified_at >= oldest && oldest.is_some())
        .collect();
    deployments.sort_by_key(|it| std::cmp::Reverse(it.version.version));
    deployments.truncate(NEWEST);
    let Some(newest) = deployments.first() else {
        let said = "no version of the staging parameter names a distribution since CodePipeline's oldest action: who \
                    writes it is not known yet";
        return Check::ok(NAME, said);
    };
    let told = |it: &&&ParameterChange| by_build(it, attempts).is_some();
    let (told, all) = (deployments.iter().filter(told).count(), deployments.len());
    let versions = match all {
        1 => "the newest version that names a distribution".to_owned(),
        all => format!("each of the newest {all} versions that name a distribution"),
    };
    let matches = match told {
        0 => "no build that CodePipeline shows has written the newest versions, so times decide whose they are"
            .to_owned(),
        told if told == all => format!("{versions} was written by a build that CodePipeline shows"),
        told => format!(
            "{told} of the newest {all} versions that name a distribution were written by builds that CodePipeline \
             shows; of the others times decide"
        ),
    };
    let working = working_until(approval, stages, attempts);
    let deploys = stage_of(newest, attempts).filter(|it| working.contains(it));
    match (deploy_stage, deploys) {
        (Some(_), _) => Check::ok(NAME, format!("{matches}; deploy_stage is set")),
        (None, _) if working.len() < 2 => Check::ok(
            NAME,
            format!("{matches}; deploy_stage would not help: one stage works before the approval"),
        ),
        (None, deploys) => {
            let stage = deploys.map_or("the one that deploys".to_owned(), |it| format!("{it:?}"));
            let waits = format!(
                "{matches}; deploy_stage is not set, so each of {} that work up to the approval counts as one that may deploy",
                counted(working.len(), "stage")
            );
            let remedy = format!(
                "set the target's deploy_stage = {stage}, if no other stage makes or changes distributions"
            );
            match told == all {
                true => Check::ok(NAME, format!("{waits}: to wait for fewer, {remedy}")),
                false => Check::warning(NAME, waits, remedy),
            }
        }
    }
}

/// The action whose build's session wrote it.
fn by_build<'a>(change: &ParameterChange, attempts: &'a [Attempt]) -> Option<&'a Attempt> {
    let build = build_of(change.by.as_deref()?)?;
    attempts.iter().find(|it| it.build() == Some(build))
}

/// The stage in which it was written: by its build, else by the only stage that worked at that time.
fn stage_of<'a>(change: &ParameterChange, attempts: &'a [Attempt]) -> Option<&'a str> {
    if let Some(attempt) = by_build(change, attempts) {
        return Some(&attempt.stage);
    }
    let at = change.version.modified_at?;
    let ran = |it: &&Attempt| it.category == Category::Work && ran_at(it, at);
    let mut stages = attempts.iter().filter(ran).map(|it| it.stage.as_str());
    let first = stages.next()?;
    stages.all(|it| it == first).then_some(first)
}

fn ran_at(attempt: &Attempt, at: Timestamp) -> bool {
    let began = attempt
        .started_at
        .is_some_and(|it| earlier(it, NARROW) <= at);
    began && attempt.updated_at.is_some_and(|it| at <= later(it, NARROW))
}

/// The stages with an action that is neither source nor approval, up to the approval's.
fn working_until<'a>(
    approval: Option<&str>,
    stages: &'a [Stage],
    attempts: &[Attempt],
) -> Vec<&'a str> {
    let last = approval.and_then(|name| stages.iter().position(|it| it.name == name));
    let until = last.map_or(stages.len(), |last| last + 1);
    let works = |name: &str| {
        let mut here = attempts.iter().filter(|it| it.stage == name);
        here.any(|it| it.category == Category::Work)
    };
    let names = stages[..until].iter().map(|it| it.name.as_str());
    names.filter(|name| works(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::binding::ParameterVersion;
    use crate::domain::executions::Status;
    use crate::ops::doctor::Status as Verdict;

    const BUILD: &str = "5a7fc451-cbff-4c06-84b6-954e8ebf0453";

    fn attempt(stage: &str, from: i64, build: Option<&str>) -> Attempt {
        Attempt {
            execution_id: "8ea8cc02-da89-4618-8997-df56796db178".to_owned(),
            id: None,
            stage: stage.to_owned(),
            action: stage.to_owned(),
            category: match stage {
                "Source" => Category::Source,
                "Approve" => Category::Approval,
                _ => Category::Work,
            },
            status: Status::Succeeded,
            started_at: Some(Timestamp::from_second(from).unwrap()),
            updated_at: Some(Timestamp::from_second(from + 60).unwrap()),
            by: None,
            summary: None,
            error_code: None,
            external_id: build.map(|it| format!("project:{it}")),
        }
    }

    fn version(version: i64, at: i64, by: &str) -> ParameterChange {
        ParameterChange {
            version: ParameterVersion {
                version,
                value: "E2STAGING00001".to_owned(),
                modified_at: Some(Timestamp::from_second(at).unwrap()),
            },
            by: Some(by.to_owned()),
        }
    }

    fn stages(names: &[&str]) -> Vec<Stage> {
        let stage = |name: &&str| Stage {
            name: (*name).to_owned(),
            latest: None,
            inbound: Vec::new(),
            actions: Vec::new(),
        };
        names.iter().map(stage).collect()
    }

    fn judged(by: &str, names: &[&str], deploy_stage: Option<&str>) -> Check {
        let attempts: Vec<_> = names
            .iter()
            .zip(0..)
            .map(|(name, at)| attempt(name, 1_000 + 100 * at, (*name == "Deploy").then_some(BUILD)))
            .collect();
        let deployed = attempts.iter().find(|it| it.stage == "Deploy").unwrap();
        let at = deployed.started_at.unwrap().as_second() + 30;
        let changes = [version(1, 500, by), version(2, at, by)];
        judge(
            &changes,
            &attempts,
            &stages(names),
            (Some("Approve"), deploy_stage),
        )
    }

    fn session(build: &str) -> String {
        format!("arn:aws:sts::123456789012:assumed-role/deployer/AWSCodeBuild-{build}")
    }

    #[test]
    fn a_build_that_codepipeline_shows_tells_whose_a_version_is() {
        let two = ["Source", "Build", "Deploy", "Approve"];
        let found = judged(&session(BUILD), &two, None);
        assert_eq!(found.status, Verdict::Ok);
        assert!(
            found
                .detail
                .contains("written by a build that CodePipeline shows"),
            "{found:?}"
        );
        assert!(
            found.detail.contains("deploy_stage = \"Deploy\""),
            "{found:?}"
        );
        let one = judged(&session(BUILD), &["Source", "Deploy", "Approve"], None);
        assert!(
            one.detail.contains("deploy_stage would not help"),
            "{one:?}"
        );
    }

    #[test]
    fn where_times_decide_the_stage_that_deploys_is_named() {
        let names = ["Source", "Build", "Deploy", "Approve"];
        let role = "arn:aws:sts::123456789012:assumed-role/deployer/i-1";
        for by in [
            role.to_owned(),
            session("00000000-cbff-4c06-84b6-954e8ebf0453"),
        ] {
            let found = judged(&by, &names, None);
            assert_eq!(found.status, Verdict::Warning, "{found:?}");
            assert!(found.detail.contains("times decide"), "{found:?}");
            let remedy = found.remedy.unwrap();
            assert!(remedy.contains("deploy_stage = \"Deploy\""), "{remedy}");
        }
        let set = judged(role, &names, Some("Deploy"));
        assert_eq!(set.status, Verdict::Ok, "{set:?}");
    }

    #[test]
    fn without_a_deployment_nothing_is_known() {
        let found = judge(
            &[],
            &[attempt("Deploy", 1_000, None)],
            &stages(&["Deploy"]),
            (None, None),
        );
        assert!(found.detail.contains("not known yet"), "{found:?}");
        assert_eq!(found.status, Verdict::Ok);
    }
}
