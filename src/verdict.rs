//! Whether a rejection still stands: what CodePipeline says of the execution goes in, one verdict
//! comes out.
//!
//! Nothing here does I/O or reads a clock.
//!
//! **Guarantees.** A rejection stands only if everything that was looked at says so: the attempt of
//! its event failed, no attempt came after it, its stage has failed, and nothing of the execution
//! runs or has run behind that stage. What contradicts itself, or is missing, is a [`Doubt`], never a
//! yes.
//!
//! **Assumptions.** All times are CodePipeline's own. The stages of one execution follow each other; so
//! whatever of it began after the rejection was begun by a retry, or behind an approval.
//!
//! **Not handled here.** Whether a newer execution owns the staging slot ([`crate::plan`]).

use std::time::Duration;

use jiff::Timestamp;

use crate::event::Rejection;

/// An event's time is in whole seconds: what began so shortly after it may have begun before.
const ROUNDING: Duration = Duration::from_secs(1);

/// No approval times out sooner (CodePipeline API reference: `ActionDeclaration.timeoutInMinutes`).
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// What is seen of one pipeline and one of its executions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every action that the execution ran, each attempt by itself, in any order.
    pub attempts: Vec<Attempt>,
    /// The pipeline's stages, in their order.
    pub stages: Vec<Stage>,
}

/// One run of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The action execution's id.
    pub id: Option<String>,
    /// The stage.
    pub stage: String,
    /// The action.
    pub action: String,
    /// How it is.
    pub status: Status,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Option<Timestamp>,
    /// The ARN of whoever changed it.
    pub by: Option<String>,
    /// What CodePipeline says of its result, or the reviewer.
    pub summary: Option<String>,
    /// The code of its error.
    pub error_code: Option<String>,
    /// It is a manual approval, as far as that is said.
    pub approval: bool,
}

/// The status of an action or a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs, or waits for a reviewer.
    InProgress,
    /// It failed.
    Failed,
    /// It succeeded.
    Succeeded,
    /// It was ended with its execution, or is not to run.
    Ended,
    /// It is being ended.
    Ending,
    /// It says something that is not known here, or nothing.
    Unknown,
}

/// A stage of the pipeline as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The execution that was in it last, and how it is there.
    pub latest: Option<(String, Status)>,
    /// The executions that wait to enter it.
    pub inbound: Vec<String>,
    /// Its actions, each with the id of its latest execution.
    pub actions: Vec<(String, Option<String>)>,
}

/// Whether a rejection still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Stands {
        /// Nobody rejected: the approval was not given in time.
        timed_out: bool,
    },
    /// It does not any more.
    Retracted(Retraction),
    /// That cannot be told.
    Doubtful(Doubt),
}

/// How a rejection was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retraction {
    /// The stage was retried: another attempt waits, was rejected by itself, or ended.
    Retried,
    /// The approval was given after all.
    Approved,
    /// The execution runs, or ran, in a later stage.
    Promoted,
}

impl Retraction {
    /// A bounded code for logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Approved => "approved",
            Self::Promoted => "promoted",
        }
    }
}

/// Why it cannot be told whether a rejection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The execution has no such attempt.
    #[error("CodePipeline knows no such attempt of the approval")]
    NoSuchAttempt,
    /// The attempt has not failed.
    #[error("CodePipeline does not say that this attempt of the approval failed")]
    NotFailed,
    /// An action says not when it began.
    #[error("CodePipeline does not say when an action of the execution began")]
    NoTime,
    /// The pipeline has no such stage, or nothing was in it.
    #[error("CodePipeline shows nothing of the approval's stage")]
    NoSuchStage,
    /// The stage has not failed.
    #[error("CodePipeline does not say that the approval's stage failed")]
    StageNotFailed,
}

/// Decides whether a rejection still stands.
#[must_use]
pub fn judge(rejection: &Rejection, seen: &Seen) -> Verdict {
    match attempt_of(rejection, &seen.attempts) {
        Err(doubt) => Verdict::Doubtful(doubt),
        Ok(ours) => match retraction(rejection, ours, seen) {
            Err(doubt) => Verdict::Doubtful(doubt),
            Ok(Some(retraction)) => Verdict::Retracted(retraction),
            Ok(None) => Verdict::Stands {
                timed_out: timed_out(ours, rejection.comment.as_deref()),
            },
        },
    }
}

/// The attempt that the event is about: the one of its id. Older events have none: it is the last that
/// began before it; or the very last, if that was rejected again, as the event of that one has the same
/// key and would be a duplicate.
fn attempt_of<'a>(rejection: &Rejection, attempts: &'a [Attempt]) -> Result<&'a Attempt, Doubt> {
    let mut of_action = attempts.iter().filter(|attempt| is_of(attempt, rejection));
    if let Some(id) = &rejection.action_execution_id {
        return of_action
            .find(|attempt| attempt.id.as_ref() == Some(id))
            .ok_or(Doubt::NoSuchAttempt);
    }
    let mut timed = of_action
        .map(|attempt| Ok((attempt.started_at.ok_or(Doubt::NoTime)?, attempt)))
        .collect::<Result<Vec<_>, _>>()?;
    timed.sort_by_key(|(started_at, _)| *started_at);
    let until = later(rejection.rejected_at, ROUNDING);
    let before = timed.iter().rfind(|(started_at, _)| *started_at <= until);
    let (_, before) = before.ok_or(Doubt::NoSuchAttempt)?;
    let last = timed.last().map(|(_, attempt)| *attempt);
    Ok(last
        .filter(|last| last.status == Status::Failed)
        .unwrap_or(before))
}

fn is_of(attempt: &Attempt, rejection: &Rejection) -> bool {
    attempt.stage == rejection.stage && attempt.action == rejection.action
}

/// How the rejection was taken back, if it was.
fn retraction(
    rejection: &Rejection,
    ours: &Attempt,
    seen: &Seen,
) -> Result<Option<Retraction>, Doubt> {
    match ours.status {
        Status::Succeeded => return Ok(Some(Retraction::Approved)),
        Status::Failed => {}
        Status::InProgress | Status::Ended | Status::Ending | Status::Unknown => {
            return Err(Doubt::NotFailed);
        }
    }
    let moved_on = moved_on(rejection, ours, seen)?;
    if moved_on.is_some() {
        return Ok(moved_on);
    }
    of_stages(rejection, ours, seen)
}

/// What the execution's other actions say.
fn moved_on(
    rejection: &Rejection,
    ours: &Attempt,
    seen: &Seen,
) -> Result<Option<Retraction>, Doubt> {
    let began = ours.started_at.ok_or(Doubt::NoTime)?;
    let ended = ours.updated_at.unwrap_or(rejection.rejected_at);
    let earlier = |stage: &str| {
        let mut before = seen.stages.iter().map(|it| it.name.as_str());
        before
            .by_ref()
            .take_while(|it| *it != rejection.stage)
            .any(|it| it == stage)
    };
    let mut found = None;
    // What passed the stages before it says nothing about the approval.
    let others = seen
        .attempts
        .iter()
        .filter(|attempt| *attempt != ours && !earlier(&attempt.stage));
    for attempt in others {
        let started_at = attempt.started_at.ok_or(Doubt::NoTime)?;
        let elsewhere = attempt.stage != rejection.stage;
        if is_of(attempt, rejection) {
            if started_at > began {
                let approved = attempt.status == Status::Succeeded;
                found = found.or(Some(if approved {
                    Retraction::Approved
                } else {
                    Retraction::Retried
                }));
            }
        } else if started_at > ended || elsewhere && attempt.status == Status::InProgress {
            found = Some(if elsewhere {
                Retraction::Promoted
            } else {
                found.unwrap_or(Retraction::Retried)
            });
        }
    }
    Ok(found)
}

/// What the pipeline's stages say.
fn of_stages(
    rejection: &Rejection,
    ours: &Attempt,
    seen: &Seen,
) -> Result<Option<Retraction>, Doubt> {
    let place = seen
        .stages
        .iter()
        .position(|stage| stage.name == rejection.stage)
        .ok_or(Doubt::NoSuchStage)?;
    let execution_id = &rejection.execution_id;
    let is_there = |stage: &Stage| {
        let latest = stage.latest.as_ref().map(|(id, _)| id);
        latest == Some(execution_id) || stage.inbound.contains(execution_id)
    };
    if seen.stages[place + 1..].iter().any(is_there) {
        return Ok(Some(Retraction::Promoted));
    }
    let stage = &seen.stages[place];
    if stage.inbound.contains(execution_id) {
        return Err(Doubt::StageNotFailed);
    }
    let (latest, status) = stage.latest.as_ref().ok_or(Doubt::NoSuchStage)?;
    if latest != execution_id {
        // Another execution came to the stage since: only the latest one can be retried.
        return Ok(None);
    }
    let newer = stage.actions.iter().any(|(action, id)| {
        let known = seen.attempts.iter().any(|attempt| attempt.id == *id);
        *action == rejection.action && id.is_some() && ours.id.is_some() && !known
    });
    match status {
        _ if newer => Ok(Some(Retraction::Retried)),
        Status::Succeeded => Ok(Some(Retraction::Approved)),
        Status::Failed | Status::Ended => Ok(None),
        // It may have been retried without any action having begun yet, or another action of it may
        // still run beside the approval.
        Status::InProgress | Status::Ending | Status::Unknown => Err(Doubt::StageNotFailed),
    }
}

/// Whether nobody decided in time.
///
/// CodePipeline has no field for it. A code that says so is believed. Otherwise a person leaves traces:
/// who it was, a comment, or the words "Rejected by". Texts of a reviewer may say anything, so words
/// count only where nobody is named.
fn timed_out(ours: &Attempt, comment: Option<&str>) -> bool {
    let says = |text: &str| {
        let text = text.to_lowercase().replace([' ', '_', '-'], "");
        ["timeout", "timedout", "expired"]
            .iter()
            .any(|word| text.contains(word))
    };
    if ours.error_code.as_deref().is_some_and(says) {
        return true;
    }
    if ours.by.is_some() {
        return false;
    }
    let lasted = ours.started_at.zip(ours.updated_at);
    let too_short = lasted.is_some_and(|(from, to)| to < later(from, SHORTEST_TIMEOUT));
    match ours.summary.as_deref().or(comment) {
        None | Some("") => !too_short,
        Some(text) => says(text) && !text.starts_with("Rejected by"),
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
