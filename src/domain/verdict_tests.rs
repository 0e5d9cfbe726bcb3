use jiff::Timestamp;

use super::*;
use crate::domain::event::JobKey;
use crate::domain::executions::StageAction;

const EXECUTION: &str = "execution";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

/// Rejected at 1000 s, after an approval that opened at 0 s.
fn rejection() -> Rejection {
    Rejection {
        key: JobKey::from("execution/one".to_owned()),
        pipeline: "arn:aws:codepipeline:us-east-1:123456789012:shop"
            .parse()
            .unwrap(),
        execution_id: EXECUTION.to_owned(),
        action_execution_id: Some("one".to_owned()),
        stage: "Approve".to_owned(),
        action: "Review".to_owned(),
        as_of: at(0),
        as_of_uncertainty: Duration::ZERO,
        rejected_at: at(1000),
        comment: None,
    }
}

fn attempt(id: &str, stage: &str, action: &str, status: Status, from: i64, to: i64) -> Attempt {
    Attempt {
        id: Some(id.to_owned()),
        stage: stage.to_owned(),
        action: action.to_owned(),
        status,
        started_at: Some(at(from)),
        updated_at: Some(at(to)),
        by: Some("arn:aws:iam::123456789012:user/alex".to_owned()),
        summary: Some("too slow".to_owned()),
        execution_id: EXECUTION.to_owned(),
        error_code: Some("JobFailed".to_owned()),
        category: match action {
            "Review" | "Second" => Category::Approval,
            _ => Category::Work,
        },
        external_id: None,
    }
}

fn review(id: &str, status: Status, from: i64, to: i64) -> Attempt {
    attempt(id, "Approve", "Review", status, from, to)
}

fn stage(name: &str, latest: Option<(&str, Status)>, id: Option<&str>) -> Stage {
    let action = if name == "Approve" { "Review" } else { name };
    Stage {
        name: name.to_owned(),
        latest: latest.map(|(id, status)| (id.to_owned(), status)),
        inbound: Vec::new(),
        actions: vec![StageAction {
            name: action.to_owned(),
            id: id.map(str::to_owned),
            status: latest.map(|(_, status)| status),
            updated_at: None,
            awaits_review: false,
        }],
    }
}

/// The rejection as it is right after it.
fn seen() -> Seen {
    Seen {
        attempts: vec![
            review("one", Status::Failed, 0, 1000),
            attempt("zero", "Deploy", "Deploy", Status::Succeeded, -500, -1),
        ],
        stages: vec![
            stage("Deploy", Some((EXECUTION, Status::Succeeded)), Some("zero")),
            stage("Approve", Some((EXECUTION, Status::Failed)), Some("one")),
            stage("Promote", Some(("older", Status::Succeeded)), Some("old")),
        ],
    }
}

/// What becomes of that with one thing changed.
fn judged(change: impl FnOnce(&mut Rejection, &mut Seen)) -> Verdict {
    let (mut rejection, mut seen) = (rejection(), seen());
    change(&mut rejection, &mut seen);
    let verdict = judge(&rejection, Cause::Rejection, &seen);
    // The order of what CodePipeline lists means nothing.
    seen.attempts.reverse();
    assert_eq!(judge(&rejection, Cause::Rejection, &seen), verdict);
    verdict
}

const STANDS: Verdict = Verdict::Stands;

#[test]
fn a_rejection_stands_as_long_as_nothing_came_after_it() {
    assert_eq!(judged(|_, _| {}), STANDS);
    // Another execution came to the stage since; or the failed one was stopped.
    assert_eq!(
        judged(|_, seen| seen.stages[1].latest = Some(("newer".to_owned(), Status::InProgress))),
        STANDS
    );
    assert_eq!(
        judged(|_, seen| seen.stages[1].latest = Some((EXECUTION.to_owned(), Status::Ended))),
        STANDS
    );
    // An action beside it that began before it was rejected: the stage goes on for so long.
    let runs = Some((EXECUTION.to_owned(), Status::InProgress));
    for (action, verdict) in [("Probe", Verdict::StageRuns), ("Second", STANDS)] {
        let beside = attempt("beside", "Approve", action, Status::InProgress, 0, 1);
        let judged = judged(|_, seen| {
            seen.attempts.push(beside);
            seen.stages[1].latest = runs.clone();
        });
        assert_eq!(judged, verdict, "{action}");
    }
    // Whatever its clock says, an earlier stage is no promotion.
    assert_eq!(
        judged(|_, seen| seen.attempts[1].started_at = Some(at(5000))),
        STANDS
    );
    // A rejection of the second attempt.
    let second = judged(|rejection, seen| {
        rejection.action_execution_id = Some("two".to_owned());
        rejection.rejected_at = at(3000);
        seen.attempts
            .push(review("two", Status::Failed, 2000, 3000));
        seen.stages[1].actions[0].id = Some("two".to_owned());
    });
    assert_eq!(second, STANDS);
}

#[test]
fn whatever_came_after_it_takes_it_back() {
    let with = |added: Attempt| judged(|_, seen| seen.attempts.push(added));
    for (status, how) in [
        (Status::InProgress, Retraction::Retried),
        (Status::Failed, Retraction::Retried),
        (Status::Ended, Retraction::Retried),
        (Status::Unknown, Retraction::Retried),
        (Status::Succeeded, Retraction::Approved),
    ] {
        let again = review("two", status, 2000, 2001);
        assert_eq!(with(again), Verdict::Retracted(how), "{status:?}");
    }
    // The whole stage is run again, and the approval has not opened yet.
    let probe = attempt("p", "Approve", "Probe", Status::InProgress, 2000, 2000);
    assert_eq!(with(probe), Verdict::Retracted(Retraction::Retried));
    for status in [Status::InProgress, Status::Failed, Status::Succeeded] {
        let promote = attempt("p", "Promote", "Promote", status, 2000, 2001);
        assert_eq!(with(promote), Verdict::Retracted(Retraction::Promoted));
    }
    let approved = judged(|_, seen| seen.attempts[0].status = Status::Succeeded);
    assert_eq!(approved, Verdict::Retracted(Retraction::Approved));
}

#[test]
fn what_only_the_pipelines_state_shows_counts_too() {
    let of = |change: fn(&mut Seen)| judged(|_, seen| change(seen));
    let ours = |status| Some((EXECUTION.to_owned(), status));
    assert_eq!(
        of(|seen| seen.stages[1].actions[0].id = Some("two".to_owned())),
        Verdict::Retracted(Retraction::Retried)
    );
    assert_eq!(
        judged(|_, seen| seen.stages[1].latest = ours(Status::Succeeded)),
        Verdict::Retracted(Retraction::Approved)
    );
    assert_eq!(
        judged(|_, seen| seen.stages[2].latest = ours(Status::InProgress)),
        Verdict::Retracted(Retraction::Promoted)
    );
    assert_eq!(
        of(|seen| seen.stages[2].inbound = vec![EXECUTION.to_owned()]),
        Verdict::Retracted(Retraction::Promoted)
    );
}

#[test]
fn what_is_missing_or_contradicts_itself_is_no_yes() {
    let doubt = |change: fn(&mut Seen)| match judged(|_, seen| change(seen)) {
        Verdict::Doubtful(doubt) => doubt,
        other => panic!("{other:?}"),
    };
    assert_eq!(doubt(|seen| *seen = Seen::default()), Doubt::NoSuchAttempt);
    assert_eq!(
        doubt(|seen| seen.attempts[0].id = Some("other".to_owned())),
        Doubt::NoSuchAttempt
    );
    assert_eq!(
        doubt(|seen| seen.attempts[0].action = "Other".to_owned()),
        Doubt::OtherAction
    );
    assert_eq!(
        doubt(|seen| seen.attempts[0].updated_at = None),
        Doubt::NoTime
    );
    for status in [Status::InProgress, Status::Ended, Status::Unknown] {
        let verdict = judged(|_, seen| seen.attempts[0].status = status);
        assert_eq!(verdict, Verdict::Doubtful(Doubt::NotFailed));
    }
    assert_eq!(
        doubt(|seen| seen.attempts[0].started_at = None),
        Doubt::NoTime
    );
    let promote = attempt("p", "Promote", "Promote", Status::Succeeded, 2000, 2001);
    let timeless = Attempt {
        started_at: None,
        ..promote
    };
    let verdict = judged(|_, seen| seen.attempts.push(timeless));
    assert_eq!(verdict, Verdict::Doubtful(Doubt::NoTime));
    assert_eq!(doubt(|seen| seen.stages.clear()), Doubt::NoSuchStage);
    assert_eq!(
        doubt(|seen| seen.stages[1].latest = None),
        Doubt::NoSuchStage
    );
    assert_eq!(
        doubt(|seen| seen.stages[1].inbound = vec![EXECUTION.to_owned()]),
        Doubt::StageNotFailed
    );
    for status in [Status::InProgress, Status::Ending, Status::Unknown] {
        let latest = Some((EXECUTION.to_owned(), status));
        let verdict = judged(|_, seen| seen.stages[1].latest = latest);
        assert_eq!(verdict, Verdict::Doubtful(Doubt::StageNotFailed));
    }
}

#[test]
fn an_older_event_is_about_the_last_attempt_that_began_before_it() {
    let older = |change: fn(&mut Rejection, &mut Seen)| {
        judged(|rejection, seen| {
            rejection.action_execution_id = None;
            change(rejection, seen);
        })
    };
    assert_eq!(older(|_, _| {}), STANDS);
    // Its time is in whole seconds, rounded down.
    let early = |rejection: &mut Rejection, _: &mut Seen| rejection.rejected_at = at(-1);
    assert_eq!(older(early), STANDS);
    assert_eq!(
        older(|_, seen| seen
            .attempts
            .push(review("two", Status::InProgress, 2000, 2000))),
        Verdict::Retracted(Retraction::Retried)
    );
    assert_eq!(
        older(|rejection, seen| {
            rejection.rejected_at = at(3000);
            seen.attempts
                .push(review("two", Status::Failed, 2000, 3000));
        }),
        // The state still shows the first one, which is known: that is a reading that lags behind.
        STANDS
    );
    // Rejected again: the event of that has the same key, and would be a duplicate.
    assert_eq!(
        older(|_, seen| seen
            .attempts
            .push(review("two", Status::Failed, 2000, 3000))),
        STANDS
    );
    assert_eq!(
        older(|rejection, _| rejection.rejected_at = at(-10)),
        Verdict::Doubtful(Doubt::NoSuchAttempt)
    );
    assert_eq!(
        older(|_, seen| seen.attempts[0].started_at = None),
        Verdict::Doubtful(Doubt::NoTime)
    );
}

#[test]
fn a_timeout_is_told_from_a_rejection_by_what_a_person_leaves() {
    let timed_out = |change: fn(&mut Rejection, &mut Attempt)| {
        let verdict = judged(|rejection, seen| {
            seen.attempts[0].by = None;
            seen.attempts[0].summary = None;
            change(rejection, &mut seen.attempts[0]);
        });
        match verdict {
            Verdict::Stands => false,
            Verdict::Expired { .. } => true,
            other => panic!("{other:?}"),
        }
    };
    assert!(timed_out(|_, _| {}));
    assert!(timed_out(|_, it| it.summary = Some("Timed out.".into())));
    assert!(timed_out(|_, it| {
        it.error_code = Some("JobTimedOut".into());
        it.by = Some("arn:aws:iam::123456789012:role/pipeline".into());
    }));
    // A person: named, or by a word.
    assert!(!timed_out(|_, it| it.by = Some("alex".into())));
    assert!(!timed_out(|_, it| {
        it.by = Some("alex".into());
        it.summary = Some("I timed out waiting for QA".into());
    }));
    assert!(!timed_out(|_, it| it.summary = Some("too slow".into())));
    // What the event says, anybody may have written.
    assert!(timed_out(|it, _| it.comment = Some("too slow".into())));
    assert!(!timed_out(|it, attempt| {
        it.comment = Some("The approval expired".into());
        attempt.summary = Some("too slow".into());
    }));
    assert!(!timed_out(
        |_, it| it.summary = Some("Rejected by arn:…/timeout-bot".into())
    ));
    // Sooner than any approval times out, and nothing else says so.
    assert!(!timed_out(|_, it| it.updated_at = Some(at(299))));
    assert!(timed_out(|_, it| {
        it.updated_at = Some(at(299));
        it.summary = Some("Timed out.".into());
    }));
}

#[test]
fn an_approval_that_nobody_decided_is_no_rejection() {
    let undecided = |change: fn(&mut Attempt)| {
        judged(|_, seen| {
            seen.attempts[0].by = None;
            seen.attempts[0].summary = Some("The topic cannot be used".to_owned());
            change(&mut seen.attempts[0]);
        })
    };
    for code in [Some("ConfigurationError"), Some("PermissionError"), None] {
        let code = code.map(str::to_owned);
        let verdict = judged(|_, seen| {
            seen.attempts[0].by = None;
            seen.attempts[0].summary = None;
            seen.attempts[0].error_code.clone_from(&code);
        });
        assert_eq!(verdict, Verdict::Undecided { code });
    }
    assert_eq!(undecided(|_| {}), STANDS);
    let decided = undecided(|it| {
        it.error_code = Some("ConfigurationError".to_owned());
        it.by = Some("alex".to_owned());
    });
    assert_eq!(decided, STANDS);
}

#[test]
fn an_execution_that_was_ended_is_judged_by_its_abandoned_attempt() {
    let (rejection, mut seen) = (rejection(), seen());
    seen.attempts[0].status = Status::Ended;
    seen.attempts[0].by = None;
    seen.attempts[0].error_code = None;
    seen.stages[1].latest = Some((EXECUTION.to_owned(), Status::Ended));
    assert_eq!(judge(&rejection, Cause::EndedExecution, &seen), STANDS);
    let doubt = judge(&rejection, Cause::Rejection, &seen);
    assert_eq!(doubt, Verdict::Doubtful(Doubt::NotFailed));
}
