//! Who may have written: the actions of executions, and what a session says of its owner.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::arn::Arn;
use crate::domain::executions::{AFTER_ABANDONED, Attempt, Category, Status, earlier, later};

/// How far a write may be from an action of A that made it: two services' clocks.
pub const NARROW: Duration = Duration::from_secs(2);

/// What the sessions of CodeBuild's builds are called, before the build's UUID.
const BUILD_SESSION: &str = "AWSCodeBuild-";

/// What the roles of IAM Identity Center are called, before the permission set's name.
const SSO_ROLE: &str = "AWSReservedSSO_";

/// One action that may have made, or changed, a staging distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub execution_id: String,
    /// Stage and action, for people.
    pub place: String,
    /// When it began.
    pub from: Timestamp,
    /// When it ended; `None` while it runs.
    pub until: Option<Timestamp>,
    /// It was abandoned: its build may go on.
    pub abandoned: bool,
    /// The UUID of its build.
    pub build: Option<String>,
}

impl Candidate {
    fn of(attempt: &Attempt, from: Timestamp) -> Self {
        let running = matches!(
            attempt.status,
            Status::InProgress | Status::Ending | Status::Unknown
        );
        Self {
            execution_id: attempt.execution_id.clone(),
            place: format!("{}/{}", attempt.stage, attempt.action),
            from,
            until: attempt.updated_at.filter(|_| !running),
            abandoned: attempt.status == Status::Ended,
            build: attempt.build().map(str::to_owned),
        }
    }

    fn includes(&self, at: Timestamp, grace: Duration, after_end: Duration) -> bool {
        let until = self
            .until
            .map(|until| later(later(until, after_end), grace));
        at >= earlier(self.from, grace) && until.is_none_or(|until| at <= until)
    }

    pub(super) fn narrowly(&self, at: Timestamp) -> bool {
        self.includes(at, NARROW, Duration::ZERO)
    }

    pub(super) fn widely(&self, at: Timestamp, grace: Duration) -> bool {
        let after_end = match self.abandoned {
            true => AFTER_ABANDONED,
            false => Duration::ZERO,
        };
        self.includes(at, grace, after_end)
    }
}

/// A's candidates: its actions, neither source nor approval, that began before the approval's attempt,
/// with a `deploy_stage` in that stage. The stages of one execution follow each other, so none of them is
/// in a later stage than the approval's; and what began at the very moment of the approval, in another
/// stage, was before it.
#[must_use]
pub fn own_candidates(
    attempts: &[Attempt],
    approval: (&str, Timestamp),
    deploy_stage: Option<&str>,
) -> Vec<Candidate> {
    let (approval_stage, approval_began) = approval;
    let works = attempts.iter().filter(|it| it.category == Category::Work);
    let mut candidates: Vec<_> = works
        .filter(|it| deploy_stage.is_none_or(|stage| it.stage == stage))
        .filter_map(|it| Some((it, it.started_at?)))
        .filter(|(it, from)| {
            *from < approval_began || *from == approval_began && it.stage != approval_stage
        })
        .map(|(it, from)| Candidate::of(it, from))
        .collect();
    candidates.sort_by_key(|candidate| candidate.from);
    candidates
}

/// The candidates of another execution: its actions, neither source nor approval, in a stage of `stages`
/// no later than the approval's, with a `deploy_stage` in that stage. An action of unknown start, or in a
/// stage that the pipeline has no longer, is one.
#[must_use]
pub fn others_candidates(
    attempts: &[Attempt],
    stages: &[String],
    approval_stage: Option<&str>,
    deploy_stage: Option<&str>,
) -> Vec<Candidate> {
    let place = |name: &str| stages.iter().position(|stage| stage == name);
    let last = approval_stage.and_then(place);
    let counts = |stage: &str| match (deploy_stage, place(stage), last) {
        (Some(deploy_stage), _, _) => stage == deploy_stage,
        (None, Some(place), Some(last)) => place <= last,
        (None, _, _) => true,
    };
    let works = attempts.iter().filter(|it| it.category == Category::Work);
    works
        .filter(|it| counts(&it.stage))
        .map(|it| Candidate::of(it, it.started_at.unwrap_or(Timestamp::MIN)))
        .collect()
}

/// What is known of the executions that were open beside A.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Writes up to then are covered.
    pub until: Option<Timestamp>,
    /// Their candidates.
    pub candidates: Vec<Candidate>,
    /// By UUID, the execution of each of their builds, in whatever stage.
    pub builds: BTreeMap<String, String>,
}

impl Others {
    /// A candidate of another execution that may have made a write of that moment.
    #[must_use]
    pub fn at(&self, at: Timestamp, grace: Duration) -> Option<&Candidate> {
        let mut others = self.candidates.iter();
        others.find(|other| other.widely(at, grace))
    }

    /// Whether a candidate of another execution ran at any time between two moments.
    #[must_use]
    pub fn any_between(&self, from: Timestamp, to: Timestamp, grace: Duration) -> bool {
        let mut others = self.candidates.iter();
        others.any(|other| other.from <= to && (other.from >= from || other.widely(from, grace)))
    }
}

/// The UUID of the CodeBuild build whose session this is.
#[must_use]
pub fn build_of(user: &str) -> Option<&str> {
    let session = user.rsplit('/').next()?.strip_prefix(BUILD_SESSION)?;
    let assumed = user.contains(":assumed-role/");
    (assumed && crate::domain::executions::is_uuid(session)).then_some(session)
}

/// Whether this is an IAM user, the root user, or somebody who signed in by IAM Identity Center.
pub(super) fn is_person(user: &str) -> bool {
    let resource = Arn::parse(user).map_or("", |arn| arn.resource);
    resource == "root"
        || resource.starts_with("user/")
        || resource
            .strip_prefix("assumed-role/")
            .is_some_and(|role| role.starts_with(SSO_ROLE))
}
