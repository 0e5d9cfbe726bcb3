//! Whether another execution is at work on a production distribution. Pure: no I/O, no clock.
//!
//! A promotion that read our staging distribution's id waits for `Deployed` and copies what it then
//! finds; a deployment that read production's ETag breaks when production changes. So nothing is
//! recorded, detached or disabled beside either.
//!
//! **Guarantees.** An action counts from its start to its end; one that may deploy until what it did shows in
//! CloudFront's answers, which may lag; an abandoned one for an hour more, since its build goes on. The pause
//! between two actions of a stage counts too. What CodePipeline shows in a form that is not known counts.
//!
//! **Not handled.** A promotion or a deployment that is no action of a pipeline that the configuration
//! leads to this production distribution.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::executions::{self, Attempt, Category, Mode, Stage, StageAction, Status};

/// So long after its end an action still counts: a reading of CloudFront shows by then what it did.
pub const SHOWN_AFTER: Duration = Duration::from_secs(15);

/// Which stages count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// From the deployment's stage on.
    FromDeployment,
    /// Those behind the approval's: the parameter does not name the distribution, so that no deployment
    /// goes into it, and only who read its id before can still use it.
    BehindApproval,
}

/// Which executions of which pipeline are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The execution that the job is about: its own actions do not count.
    pub execution_id: Option<&'a str>,
    pub approval_stage: Option<&'a str>,
    /// The one stage that deploys, where the target names it.
    pub deploy_stage: Option<&'a str>,
    /// Which stages count.
    pub scope: Scope,
    /// The time by AWS's clock, as nearly as it is known.
    pub now: Timestamp,
}

/// An execution that is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    pub execution_id: String,
    /// The stage in which it is at work.
    pub stage: String,
    /// The action; none between two of them.
    pub action: Option<String>,
}

impl Busy {
    /// Which execution, of which pipeline, and where, in words.
    #[must_use]
    pub fn said(&self, pipeline: &str) -> String {
        let action = self.action.as_ref();
        let action = action.map_or(String::new(), |action| format!("/{action}"));
        format!(
            "execution {} of {pipeline} is at work in {}{action}",
            self.execution_id, self.stage
        )
    }
}

/// What CodePipeline shows of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activities {
    /// Its stages, in their order.
    pub stages: Vec<Stage>,
    pub mode: Mode,
    /// Of a pipeline in [`Mode::Parallel`], the newest actions of all executions.
    pub newest: Vec<Attempt>,
}

/// What the actions of an execution tell of the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The stages that have a source action.
    pub sources: BTreeSet<String>,
    /// Stage and action of its approvals.
    pub approvals: BTreeSet<(String, String)>,
}

impl Known {
    /// What these actions tell.
    #[must_use]
    pub fn of(attempts: &[Attempt]) -> Self {
        let of = |category| attempts.iter().filter(move |it| it.category == category);
        let approvals = of(Category::Approval).map(|it| (it.stage.clone(), it.action.clone()));
        Self {
            sources: of(Category::Source).map(|it| it.stage.clone()).collect(),
            approvals: approvals.collect(),
        }
    }

    /// Adds what other actions tell.
    pub fn extend(&mut self, more: Self) {
        self.sources.extend(more.sources);
        self.approvals.extend(more.approvals);
    }

    fn awaits_review(&self, stage: &Stage, action: &StageAction) -> bool {
        let known = || (stage.name.clone(), action.name.clone());
        action.awaits_review
            || action.status == Some(Status::InProgress) && self.approvals.contains(&known())
    }

    fn is_approval(&self, stage: &Stage, action: &StageAction) -> bool {
        let known = (stage.name.clone(), action.name.clone());
        action.awaits_review || self.approvals.contains(&known)
    }
}

/// The first execution that is found at work; or else one that has just deployed.
#[must_use]
pub fn find(question: Question<'_>, shown: &Activities, known: &Known) -> Option<Busy> {
    let works = |_: &str, status, updated_at| executions::at_work(status, updated_at, question.now);
    let has_just = |stage: &str, _, ended_at| has_just_deployed(question, shown, stage, ended_at);
    find_by(question, shown, known, works).or_else(|| find_by(question, shown, known, has_just))
}

fn find_by(
    question: Question<'_>,
    shown: &Activities,
    known: &Known,
    works: impl Fn(&str, Status, Option<Timestamp>) -> bool,
) -> Option<Busy> {
    let counted = counted(question, shown, known);
    match shown.mode {
        Mode::Locked => counted
            .iter()
            .find_map(|stage| in_stage(question, known, stage, &works)),
        Mode::Parallel => shown
            .newest
            .iter()
            .filter(|it| Some(it.execution_id.as_str()) != question.execution_id)
            .filter(|it| it.category == Category::Work)
            .filter(|it| works(&it.stage, it.status, it.updated_at))
            .find(|it| {
                let known = shown.stages.iter().any(|stage| stage.name == it.stage);
                !known || counted.iter().any(|stage| stage.name == it.stage)
            })
            .map(|it| Busy {
                execution_id: it.execution_id.clone(),
                stage: it.stage.clone(),
                action: Some(it.action.clone()),
            }),
    }
}

/// Whether an action in a stage before the approval's has ended so lately that what it did need not show yet.
/// Never where our clock is further off than that, nor in the first stage, which has the sources alone.
fn has_just_deployed(
    question: Question<'_>,
    shown: &Activities,
    stage: &str,
    ended_at: Option<Timestamp>,
) -> bool {
    let place = |name: &str| shown.stages.iter().position(|stage| stage.name == name);
    let before = question
        .approval_stage
        .and_then(place)
        .is_some_and(|approval| place(stage).is_some_and(|it| (1..approval).contains(&it)));
    before
        && ended_at.is_some_and(|at| question.now.duration_since(at).unsigned_abs() < SHOWN_AFTER)
}

/// The stages that count.
fn counted<'a>(question: Question<'_>, shown: &'a Activities, known: &Known) -> Vec<&'a Stage> {
    let place = |name: Option<&str>| {
        let mut stages = shown.stages.iter();
        name.and_then(|name| stages.position(|stage| stage.name == name))
    };
    let from = match question.scope {
        Scope::FromDeployment => place(question.deploy_stage).unwrap_or(0),
        Scope::BehindApproval => place(question.approval_stage).map_or(0, |place| place + 1),
    };
    let has_source = |stage: &Stage| {
        question.deploy_stage != Some(&stage.name) && known.sources.contains(&stage.name)
    };
    let stages = shown.stages.iter().skip(from);
    stages.filter(|stage| !has_source(stage)).collect()
}

fn in_stage(
    question: Question<'_>,
    known: &Known,
    stage: &Stage,
    works: impl Fn(&str, Status, Option<Timestamp>) -> bool,
) -> Option<Busy> {
    let (execution_id, status) = stage.latest.as_ref()?;
    if Some(execution_id.as_str()) == question.execution_id {
        return None;
    }
    let busy = |action: Option<String>| Busy {
        execution_id: execution_id.clone(),
        stage: stage.name.clone(),
        action,
    };
    let working = stage.actions.iter().find(|action| {
        let status = action.status;
        !known.is_approval(stage, action)
            && status.is_some_and(|it| works(&stage.name, it, action.updated_at))
    });
    if let Some(action) = working {
        return Some(busy(Some(action.name.clone())));
    }
    let goes_on = matches!(
        status,
        Status::InProgress | Status::Ending | Status::Unknown
    );
    let awaits_review = stage
        .actions
        .iter()
        .any(|action| known.awaits_review(stage, action));
    (goes_on && !awaits_review).then(|| busy(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::executions::later;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + 60 * minutes).unwrap()
    }

    fn action(name: &str, status: Option<Status>, awaits_review: bool) -> StageAction {
        StageAction {
            name: name.to_owned(),
            id: status.map(|_| format!("{name}-1")),
            status,
            updated_at: Some(at(0)),
            awaits_review,
        }
    }

    fn stage(name: &str, latest: Option<(&str, Status)>, actions: Vec<StageAction>) -> Stage {
        Stage {
            name: name.to_owned(),
            latest: latest.map(|(id, status)| (id.to_owned(), status)),
            inbound: Vec::new(),
            actions,
        }
    }

    /// The pipeline of the sample, with one stage as it is told.
    fn with(changed: Stage) -> Vec<Stage> {
        let quiet = |name: &str| {
            let done = action(name, Some(Status::Succeeded), false);
            stage(name, Some(("old", Status::Succeeded)), vec![done])
        };
        ["Source", "Build", "Deploy", "Approve", "Promote"]
            .map(|name| match name == changed.name {
                true => changed.clone(),
                false => quiet(name),
            })
            .into()
    }

    fn question(scope: Scope) -> Question<'static> {
        Question {
            execution_id: Some("a"),
            approval_stage: Some("Approve"),
            deploy_stage: None,
            scope,
            now: at(59),
        }
    }

    fn found(question: Question<'_>, stages: &[Stage]) -> Option<String> {
        let shown = Activities {
            stages: stages.to_vec(),
            ..Activities::default()
        };
        let known = Known {
            sources: ["Source".to_owned()].into(),
            approvals: BTreeSet::new(),
        };
        find(question, &shown, &known).map(|busy| busy.stage)
    }

    fn running(name: &str, execution: &str) -> Vec<Stage> {
        let runs = action(name, Some(Status::InProgress), false);
        with(stage(
            name,
            Some((execution, Status::InProgress)),
            vec![runs],
        ))
    }

    #[test]
    fn another_executions_action_counts_from_the_deployment_on() {
        let all = question(Scope::FromDeployment);
        let behind = question(Scope::BehindApproval);
        let deploy = Question {
            deploy_stage: Some("Deploy"),
            ..all
        };
        for (name, in_all, in_deploy, in_behind) in [
            ("Source", false, false, false),
            ("Build", true, false, false),
            ("Deploy", true, true, false),
            ("Approve", true, true, false),
            ("Promote", true, true, true),
        ] {
            let stages = running(name, "c");
            assert_eq!(found(all, &stages).is_some(), in_all, "{name}");
            assert_eq!(found(deploy, &stages).is_some(), in_deploy, "{name}");
            assert_eq!(found(behind, &stages).is_some(), in_behind, "{name}");
            // Its own actions are another question.
            assert_eq!(found(all, &running(name, "a")), None, "{name}");
        }
        // By hand there is no execution of one's own.
        let by_hand = Question {
            execution_id: None,
            ..all
        };
        assert!(found(by_hand, &running("Promote", "a")).is_some());
    }

    #[test]
    fn a_reviewer_who_thinks_is_not_at_work_and_a_build_that_was_abandoned_is() {
        let all = question(Scope::FromDeployment);
        let in_progress = || Some(("c", Status::InProgress));
        let pending = action("Approve", Some(Status::InProgress), true);
        let waits = with(stage("Approve", in_progress(), vec![pending.clone()]));
        assert_eq!(found(all, &waits), None);
        let test = action("Probe", Some(Status::InProgress), false);
        let beside = with(stage("Approve", in_progress(), vec![pending, test]));
        assert!(found(all, &beside).is_some());
        // Between two actions.
        let next = action("Next", None, false);
        let between = with(stage("Deploy", in_progress(), vec![next]));
        assert!(found(all, &between).is_some());

        // What has just ended need not show yet.
        let done = action("Deploy", Some(Status::Succeeded), false);
        let done = with(stage("Deploy", Some(("c", Status::Succeeded)), vec![done]));
        let after = |seconds| Question {
            now: later(at(0), Duration::from_secs(seconds)),
            ..all
        };
        assert!(found(after(14), &done).is_some());
        assert_eq!(found(after(15), &done), None);
        // The clock is minutes behind.
        let early = Question { now: at(-3), ..all };
        assert_eq!(found(early, &done), None);

        let ended = action("Deploy", Some(Status::Ended), false);
        let stopped = with(stage("Deploy", Some(("c", Status::Ended)), vec![ended]));
        assert!(found(all, &stopped).is_some());
        let later = Question { now: at(60), ..all };
        assert_eq!(found(later, &stopped), None);
        assert_eq!(found(all, &with(stage("Deploy", None, Vec::new()))), None);
    }

    #[test]
    fn in_parallel_mode_the_newest_actions_tell() {
        let quiet = with(stage("Deploy", None, Vec::new()));
        let attempt = |execution: &str, stage: &str, category, status| Attempt {
            execution_id: execution.to_owned(),
            id: None,
            stage: stage.to_owned(),
            action: stage.to_owned(),
            category,
            status,
            started_at: Some(at(0)),
            updated_at: Some(at(0)),
            by: None,
            summary: None,
            error_code: None,
            external_id: None,
        };
        let found = |newest: Attempt| {
            let shown = Activities {
                stages: quiet.clone(),
                mode: Mode::Parallel,
                newest: vec![newest],
            };
            let question = question(Scope::FromDeployment);
            find(question, &shown, &Known::default()).is_some()
        };
        use Category::{Approval, Source, Work};
        assert!(found(attempt("c", "Promote", Work, Status::InProgress)));
        assert!(found(attempt("c", "Deploy", Work, Status::Ended)));
        assert!(found(attempt("c", "Gone", Work, Status::InProgress)));
        assert!(!found(attempt("a", "Promote", Work, Status::InProgress)));
        assert!(!found(attempt("c", "Promote", Work, Status::Succeeded)));
        assert!(!found(attempt(
            "c",
            "Approve",
            Approval,
            Status::InProgress
        )));
        assert!(!found(attempt("c", "Source", Source, Status::InProgress)));
    }
}
