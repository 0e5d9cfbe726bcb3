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
//! **Not handled here.** Whether a newer execution owns the staging slot ([`crate::domain::decision`]).

use std::time::Duration;

use crate::domain::event::Rejection;
use crate::domain::executions::{Attempt, Category, Seen, Stage, Status, later};

/// An event's time is in whole seconds: what began so shortly after it may have begun before.
const ROUNDING: Duration = Duration::from_secs(1);

/// The code of an approval that a person rejected (from captures of real events).
const REJECTED: &str = "JobFailed";

/// No approval times out sooner (CodePipeline API reference: `ActionDeclaration.timeoutInMinutes`).
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Whether a rejection still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stands,
    /// It does, and nobody rejected: the approval was not given in time.
    Expired {
        /// The code of the attempt's error.
        code: Option<String>,
    },
    /// Nobody decided: CodePipeline ended the approval by itself, as one that cannot notify anybody.
    Undecided {
        /// The code of the attempt's error.
        code: Option<String>,
    },
    /// The execution's own actions beside the approval still run: the stage has not failed yet.
    StageRuns,
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

impl Doubt {
    /// Whether the event says what CodePipeline does not show: an event that stays so is refused.
    #[must_use]
    pub fn contradicts_event(self) -> bool {
        matches!(
            self,
            Self::NoSuchAttempt | Self::OtherAction | Self::NotFailed
        )
    }
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
    /// The attempt is of another stage or action than the event says.
    #[error("CodePipeline shows this attempt in another stage or action")]
    OtherAction,
    /// The attempt has not failed.
    #[error("CodePipeline does not say that this attempt of the approval failed")]
    NotFailed,
    /// An action says not when it began.
    #[error("CodePipeline does not say when an action of the execution began")]
    NoTime,
    /// The pipeline has no such stage, or nothing was in it.
    #[error("CodePipeline shows nothing of the approval's stage")]
    NoSuchStage,
    #[error("CodePipeline does not say that the approval's stage failed")]
    StageNotFailed,
}

/// What a job goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An approval failed.
    Rejection,
    /// An execution ended while its approval waited: its attempt was abandoned.
    EndedExecution,
}

/// Decides whether a rejection still stands.
#[must_use]
pub fn judge(rejection: &Rejection, cause: Cause, seen: &Seen) -> Verdict {
    let ours = match attempt_of(rejection, &seen.attempts) {
        Ok(ours) => ours,
        Err(doubt) => return Verdict::Doubtful(doubt),
    };
    let decided = match retraction(rejection, cause, ours, seen) {
        Err(doubt) => return Verdict::Doubtful(doubt),
        Ok(Some(retraction)) => return Verdict::Retracted(retraction),
        Ok(None) => decided(ours, cause),
    };
    match decided {
        Verdict::Stands | Verdict::Expired { .. } if stage_runs(rejection, ours, seen) => {
            Verdict::StageRuns
        }
        decided => decided,
    }
}

/// The attempt of a rejection, as far as its own record shows that it was rejected; and whether nobody decided
/// in time.
///
/// # Errors
/// The verdict, where it was not, or where that cannot be told.
pub fn attempt<'a>(
    rejection: &Rejection,
    cause: Cause,
    attempts: &'a [Attempt],
) -> Result<(&'a Attempt, bool), Verdict> {
    let ours = attempt_of(rejection, attempts).map_err(Verdict::Doubtful)?;
    match ours.status {
        Status::Succeeded => return Err(Verdict::Retracted(Retraction::Approved)),
        Status::Failed => {}
        Status::Ended if cause == Cause::EndedExecution => {}
        _ => return Err(Verdict::Doubtful(Doubt::NotFailed)),
    }
    match decided(ours, cause) {
        Verdict::Stands => Ok((ours, false)),
        Verdict::Expired { .. } => Ok((ours, true)),
        verdict => Err(verdict),
    }
}

/// Who decided, of an attempt that failed.
fn decided(ours: &Attempt, cause: Cause) -> Verdict {
    let code = || ours.error_code.clone();
    let rejected = ours.by.is_some() || ours.error_code.as_deref() == Some(REJECTED);
    match cause {
        Cause::EndedExecution => Verdict::Stands,
        Cause::Rejection if timed_out(ours) => Verdict::Expired { code: code() },
        Cause::Rejection if rejected => Verdict::Stands,
        Cause::Rejection => Verdict::Undecided { code: code() },
    }
}

/// Whether actions of the execution, beside the approval and no approvals themselves, still run in its
/// stage.
fn stage_runs(rejection: &Rejection, ours: &Attempt, seen: &Seen) -> bool {
    seen.attempts.iter().any(|it| {
        it != ours
            && it.stage == rejection.stage
            && it.category != Category::Approval
            && it.status == Status::InProgress
    })
}

/// The attempt that the event is about: the one of its id. Older events have none: it is the last that
/// began before it; or the very last, if that was rejected again, as the event of that one has the same
/// key and would be a duplicate.
///
/// # Errors
/// [`Doubt`] where there is none.
pub fn attempt_of<'a>(
    rejection: &Rejection,
    attempts: &'a [Attempt],
) -> Result<&'a Attempt, Doubt> {
    if let Some(id) = &rejection.action_execution_id {
        let mut of_id = attempts.iter().filter(|it| it.id.as_ref() == Some(id));
        let found = of_id.next().ok_or(Doubt::NoSuchAttempt)?;
        return match is_of(found, rejection) {
            true => Ok(found),
            false => Err(Doubt::OtherAction),
        };
    }
    let of_action = attempts.iter().filter(|attempt| is_of(attempt, rejection));
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
    cause: Cause,
    ours: &Attempt,
    seen: &Seen,
) -> Result<Option<Retraction>, Doubt> {
    match ours.status {
        Status::Succeeded => return Ok(Some(Retraction::Approved)),
        Status::Failed => {}
        Status::Ended if cause == Cause::EndedExecution => {}
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
    let ended = ours.updated_at.ok_or(Doubt::NoTime)?;
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
    let newer = stage.actions.iter().any(|it| {
        let known = seen.attempts.iter().any(|attempt| attempt.id == it.id);
        it.name == rejection.action && it.id.is_some() && ours.id.is_some() && !known
    });
    // Another action of the stage that began before the approval ended keeps the stage from failing.
    let beside_runs = seen
        .attempts
        .iter()
        .any(|it| it != ours && it.stage == rejection.stage && it.status == Status::InProgress);
    match status {
        _ if newer => Ok(Some(Retraction::Retried)),
        Status::Succeeded => Ok(Some(Retraction::Approved)),
        Status::Failed | Status::Ended => Ok(None),
        Status::InProgress if beside_runs => Ok(None),
        // It may have been retried without any action having begun yet.
        Status::InProgress | Status::Ending | Status::Unknown => Err(Doubt::StageNotFailed),
    }
}

/// Whether nobody decided in time.
///
/// CodePipeline has no field for it. A code that says so is believed. Otherwise a person leaves traces:
/// who it was, a comment, or the words "Rejected by". Texts of a reviewer may say anything, so words
/// count only where nobody is named, and never those of the event.
fn timed_out(ours: &Attempt) -> bool {
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
    let ended_as_rejected = ours.error_code.as_deref() == Some(REJECTED);
    match ours.summary.as_deref() {
        None | Some("") => ended_as_rejected && !too_short,
        Some(text) => says(text) && !text.starts_with("Rejected by"),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
