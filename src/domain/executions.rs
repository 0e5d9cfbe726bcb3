//! The executions of a pipeline as CodePipeline shows them. Types only: no I/O, no clock.
//!
//! Source: the CodePipeline API reference, `ListActionExecutions`, `GetPipelineState` and
//! `ListPipelineExecutions`.

use std::time::Duration;

use jiff::Timestamp;

/// The build of an abandoned action goes on for at most this long. CodeBuild's default timeout is one
/// hour (CodeBuild user guide: "Build timeout").
pub const AFTER_ABANDONED: Duration = Duration::from_secs(60 * 60);

/// What a deployment leaves is nobody's only when it is older: not before is it an orphan, or cleaned up
/// after an execution that was ended.
pub const MIN_AGE: Duration = Duration::from_secs(60 * 60);

/// One pipeline and one of its executions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every action that the execution ran, each attempt by itself, in any order.
    pub attempts: Vec<Attempt>,
    /// The pipeline's stages, in their order.
    pub stages: Vec<Stage>,
}

/// The status of an action, a stage or an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs, or waits for a reviewer.
    InProgress,
    Failed,
    Succeeded,
    /// It was abandoned, stopped, superseded or skipped.
    Ended,
    /// It is being stopped.
    Ending,
    /// CodePipeline shows a status that is not known here, or none.
    Unknown,
}

/// One run of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub execution_id: String,
    /// The action execution's id.
    pub id: Option<String>,
    pub stage: String,
    pub action: String,
    pub category: Category,
    pub status: Status,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Option<Timestamp>,
    /// The ARN of whoever changed it.
    pub by: Option<String>,
    /// CodePipeline's summary of its result, or the reviewer's comment.
    pub summary: Option<String>,
    pub error_code: Option<String>,
    /// The id that the action's provider gave it; of CodeBuild `PROJECT:UUID`.
    pub external_id: Option<String>,
}

/// What kind of action it is, as far as anything is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Category {
    /// It fetches a revision.
    Source,
    /// A person decides.
    Approval,
    /// It may deploy: a build, a deployment, an invocation, a test, or of unknown category.
    #[default]
    Work,
}

impl Attempt {
    /// The UUID of the CodeBuild build that the action ran.
    #[must_use]
    pub fn build(&self) -> Option<&str> {
        let (_, uuid) = self.external_id.as_deref()?.rsplit_once(':')?;
        is_uuid(uuid).then_some(uuid)
    }
}

/// Whether an action of that status may still do its work: an abandoned one for an hour.
pub(crate) fn at_work(status: Status, updated_at: Option<Timestamp>, now: Timestamp) -> bool {
    match status {
        Status::InProgress | Status::Ending | Status::Unknown => true,
        Status::Ended => updated_at.is_none_or(|at| now < later(at, AFTER_ABANDONED)),
        Status::Failed | Status::Succeeded => false,
    }
}

/// A stage of the pipeline as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    /// The execution that was in it last, and the stage's status for it.
    pub latest: Option<(String, Status)>,
    /// The executions that wait to enter it.
    pub inbound: Vec<String>,
    pub actions: Vec<StageAction>,
}

/// An action of a stage as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageAction {
    pub name: String,
    /// The id of its latest execution.
    pub id: Option<String>,
    /// The status of its latest execution; `None` if it never ran.
    pub status: Option<Status>,
    /// When that last changed.
    pub updated_at: Option<Timestamp>,
    /// It is an approval that waits for a reviewer: CodePipeline shows a token for it.
    pub awaits_review: bool,
}

/// How a pipeline runs its executions (CodePipeline user guide: "execution modes").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// SUPERSEDED or QUEUED: one execution at a time is in a stage.
    #[default]
    Locked,
    /// PARALLEL: stages are not locked, and a stage's latest execution says little.
    Parallel,
}

/// One execution of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    pub id: String,
    pub status: Status,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Option<Timestamp>,
    /// The pipeline's mode at its start.
    pub mode: Mode,
    /// It runs nothing but a stage that is rolled back.
    pub is_rollback: bool,
}

impl Execution {
    /// Whether it was open at any time from `from` to `until`. An unknown time counts as yes. An
    /// execution that was stopped is open for [`AFTER_ABANDONED`] more.
    #[must_use]
    pub fn was_open(&self, from: Timestamp, until: Timestamp) -> bool {
        let began_before = self.started_at.is_none_or(|at| at <= until);
        let ended_after = match (self.status, self.updated_at) {
            (Status::InProgress | Status::Ending | Status::Unknown, _) | (_, None) => true,
            (Status::Ended, Some(at)) => later(at, AFTER_ABANDONED) >= from,
            (Status::Failed | Status::Succeeded, Some(at)) => at >= from,
        };
        began_before && ended_after
    }
}

/// Whether a text is a UUID of 36 characters.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

pub(crate) fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + 60 * minutes).unwrap()
    }

    #[test]
    fn an_execution_is_open_from_its_start_to_its_end_and_an_hour_more_if_it_was_stopped() {
        let execution = |status, from, to| Execution {
            id: "b".to_owned(),
            status,
            started_at: Some(at(from)),
            updated_at: Some(at(to)),
            mode: Mode::Locked,
            is_rollback: false,
        };
        for (status, from, to, open) in [
            (Status::Succeeded, 0, 10, true),
            (Status::Succeeded, 0, 9, false),
            (Status::Failed, 0, 9, false),
            (Status::Succeeded, 20, 30, true),
            (Status::Succeeded, 21, 30, false),
            (Status::InProgress, 0, 1, true),
            (Status::Ended, -60, -50, true),
            (Status::Ended, -60, -51, false),
        ] {
            let found = execution(status, from, to).was_open(at(10), at(20));
            assert_eq!(found, open, "{status:?} {from} {to}");
        }
    }

    #[test]
    fn an_abandoned_action_is_at_work_for_an_hour() {
        for (status, minutes, works) in [
            (Status::InProgress, 600, true),
            (Status::Ended, 59, true),
            (Status::Ended, 60, false),
            (Status::Failed, 0, false),
            (Status::Succeeded, 0, false),
            (Status::Unknown, 600, true),
        ] {
            assert_eq!(
                at_work(status, Some(at(0)), at(minutes)),
                works,
                "{status:?}"
            );
        }
    }
}
