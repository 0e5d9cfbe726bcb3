//! Rejections whose events never came, and executions that ended without one.
//!
//! EventBridge delivers CodePipeline's events at its best effort, and of what is stopped, abandoned or
//! superseded there is no rejection at all. [`find`] tells what CodePipeline shows of it, and is pure;
//! `rounds` looks in regular intervals.
//!
//! **Guarantees.** A rejection that is found has the key that its event has, so that each is the other's
//! duplicate, and it is one only if [`crate::domain::verdict`] says that it stands. A round makes
//! [`MAX_CALLS`] calls of CodePipeline at the most, and a few more for what it reports. Where they do not
//! suffice, the next round goes on with the pipeline, and the next look at a pipeline with the execution, at
//! which they ended: what is looked at again and again keeps nothing else from being looked at.
//!
//! **Races.** The event arrives while the job runs: its message is attached to the job. It arrives
//! later: the ledger has the job as done. Another instance looks at the same time: the ledger grants the
//! job to one of them.
//!
//! **Not handled.** An execution that was ended before its approval began: only `orphans` finds what that
//! left. Older events, which name no attempt, have another key: their job finds nothing left to do. What a stopped
//! execution left is reclaimed after one question before the job: a retry of its stage during the job is not noticed.

mod rounds;

pub(crate) use rounds::approvals;
pub use rounds::{CatchUp, MAX_CALLS, Settings};

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::arn::PipelineArn;
use crate::domain::event::{JobKey, Rejection};
use crate::domain::executions::{Attempt, Category, Seen, Status};
use crate::domain::verdict::{Cause, Verdict, judge};

/// Which approvals of a pipeline are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Approvals<'a> {
    pub pipeline: &'a PipelineArn,
    /// The stage that holds them; any, if there is none.
    pub stage: Option<&'a str>,
    /// The action; any, if there is none.
    pub action: Option<&'a str>,
}

/// An approval that was not given. What is to be done about it is that of a rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was rejected, or timed out.
    Rejected {
        /// As its event would tell it.
        rejection: Rejection,
        /// Nobody decided in time.
        timed_out: bool,
    },
    /// Its execution was stopped or superseded while it waited: there is no event of it.
    Ended(Rejection),
}

/// The approvals of an execution that were not given, as far as nothing came after them.
#[must_use]
pub fn find(approvals: Approvals<'_>, execution_id: &str, seen: &Seen) -> Vec<Found> {
    let wanted = |attempt: &&Attempt| {
        attempt.category == Category::Approval
            && approvals.stage.is_none_or(|stage| attempt.stage == stage)
            && approvals
                .action
                .is_none_or(|action| attempt.action == action)
    };
    let mut last: BTreeMap<(&str, &str), &Attempt> = BTreeMap::new();
    for attempt in seen.attempts.iter().filter(wanted) {
        let place = last.entry((&attempt.stage, &attempt.action));
        let newest = place.or_insert(attempt);
        if newest.started_at < attempt.started_at {
            *newest = attempt;
        }
    }
    last.into_values()
        .filter_map(|attempt| not_given(approvals.pipeline, execution_id, attempt, seen))
        .collect()
}

fn not_given(
    pipeline: &PipelineArn,
    execution_id: &str,
    last: &Attempt,
    seen: &Seen,
) -> Option<Found> {
    let id = last.id.clone()?;
    let rejection = Rejection {
        key: JobKey::of_attempt(execution_id, &id),
        pipeline: pipeline.clone(),
        execution_id: execution_id.to_owned(),
        action_execution_id: Some(id),
        stage: last.stage.clone(),
        action: last.action.clone(),
        as_of: last.started_at?,
        as_of_uncertainty: Duration::ZERO,
        rejected_at: last.updated_at?,
        comment: last.summary.clone(),
    };
    match last.status {
        Status::Failed => match judge(&rejection, Cause::Rejection, seen) {
            verdict @ (Verdict::Stands | Verdict::Expired { .. }) => Some(Found::Rejected {
                rejection,
                timed_out: verdict != Verdict::Stands,
            }),
            Verdict::Undecided { .. }
            | Verdict::StageRuns
            | Verdict::Retracted(_)
            | Verdict::Doubtful(_) => None,
        },
        Status::Ended => {
            let verdict = judge(&rejection, Cause::EndedExecution, seen);
            (verdict == Verdict::Stands).then_some(Found::Ended(rejection))
        }
        Status::InProgress | Status::Succeeded | Status::Ending | Status::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::event::{Kind, parse};
    use crate::domain::executions::{Stage, StageAction};

    const EXECUTION: &str = "0d3e8c21-5f7a-4b96-8e10-c2a4f6b8d0e2";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn attempt(id: &str, status: Status, from: i64, to: i64) -> Attempt {
        Attempt {
            id: Some(id.to_owned()),
            stage: "Approve".to_owned(),
            action: "Review".to_owned(),
            status,
            started_at: Some(at(from)),
            updated_at: Some(at(to)),
            by: Some("alex".to_owned()),
            summary: Some("too slow".to_owned()),
            execution_id: EXECUTION.to_owned(),
            error_code: Some("JobFailed".to_owned()),
            category: Category::Approval,
            external_id: None,
        }
    }

    fn found(stage: Status, attempts: Vec<Attempt>) -> Option<Found> {
        let latest = attempts.iter().max_by_key(|attempt| attempt.started_at);
        let latest = latest.and_then(|attempt| attempt.id.clone());
        let seen = Seen {
            stages: vec![Stage {
                name: "Approve".to_owned(),
                latest: Some((EXECUTION.to_owned(), stage)),
                inbound: Vec::new(),
                actions: vec![StageAction {
                    name: "Review".to_owned(),
                    id: latest,
                    status: Some(stage),
                    updated_at: None,
                    awaits_review: false,
                }],
            }],
            attempts,
        };
        let pipeline = "arn:aws:codepipeline:us-east-1:123456789012:shop"
            .parse()
            .unwrap();
        let approvals = |stage, action| Approvals {
            pipeline: &pipeline,
            stage,
            action,
        };
        let mut found = find(approvals(Some("Approve"), Some("Review")), EXECUTION, &seen);
        assert_eq!(find(approvals(None, None), EXECUTION, &seen), found);
        assert_eq!(find(approvals(Some("Other"), None), EXECUTION, &seen), []);
        assert!(found.len() < 2);
        found.pop()
    }

    #[test]
    fn a_rejection_is_found_as_its_event_would_tell_it() {
        let failed = attempt("one", Status::Failed, 0, 1000);
        let Some(Found::Rejected {
            rejection,
            timed_out: false,
        }) = found(Status::Failed, vec![failed])
        else {
            panic!("not found");
        };
        assert_eq!(rejection.key.as_str(), format!("{EXECUTION}/one"));
        assert_eq!(rejection.action_execution_id.as_deref(), Some("one"));
        assert_eq!((rejection.as_of, rejection.rejected_at), (at(0), at(1000)));
        assert_eq!(rejection.comment.as_deref(), Some("too slow"));
        let event = parse(&rejection.to_event()).unwrap();
        assert_eq!(event.account, "123456789012");
        assert_eq!(event.kind, Kind::Rejection(Box::new(rejection)));
    }

    #[test]
    fn an_approval_whose_execution_was_ended_is_found_for_what_it_is() {
        let ended = attempt("one", Status::Ended, 0, 1000);
        let found = found(Status::Ended, vec![ended]);
        assert!(matches!(found, Some(Found::Ended(_))), "{found:?}");
    }

    #[test]
    fn only_the_last_attempt_counts_and_only_if_nothing_came_after_it() {
        let failed = || attempt("one", Status::Failed, 0, 1000);
        for status in [Status::InProgress, Status::Succeeded, Status::Unknown] {
            let again = attempt("two", status, 2000, 2001);
            assert_eq!(found(Status::InProgress, vec![failed(), again]), None);
        }
        let again = attempt("two", Status::Failed, 2000, 3000);
        let Some(Found::Rejected { rejection, .. }) = found(Status::Failed, vec![again, failed()])
        else {
            panic!("not found");
        };
        assert_eq!(rejection.key.as_str(), format!("{EXECUTION}/two"));
        // Promoted; retried without an attempt so far; none at all; no approval.
        let mut promote = attempt("p", Status::InProgress, 2000, 2000);
        promote.stage = "Promote".to_owned();
        assert_eq!(found(Status::Failed, vec![failed(), promote.clone()]), None);
        promote.status = Status::Succeeded;
        let ended = attempt("one", Status::Ended, 0, 1000);
        assert_eq!(found(Status::Ended, vec![ended, promote]), None);
        assert_eq!(found(Status::InProgress, vec![failed()]), None);
        assert_eq!(found(Status::Failed, Vec::new()), None);
        let build = Attempt {
            category: Category::Work,
            ..failed()
        };
        assert_eq!(found(Status::Failed, vec![build]), None);
        for incomplete in [
            Attempt {
                started_at: None,
                ..failed()
            },
            Attempt {
                id: None,
                ..failed()
            },
        ] {
            assert_eq!(found(Status::Failed, vec![incomplete]), None);
        }
    }
}
