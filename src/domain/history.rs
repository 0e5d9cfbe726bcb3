//! What is remembered of a job for people: who rejected what, and what was done when.
//!
//! No step is decided by a [`Trail`]. It is bounded, is kept as one text in the job's record, and a text that cannot be
//! read is an empty trail: what is noted of a job must never stop it. Which jobs catching up leaves to their messages is
//! decided by [`Asked`], which the record keeps beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::binding::Evidence;
use crate::domain::decision::Outcome;
use crate::domain::event::{JobKey, Rejection};

/// So many entries are kept of a job: a dozen runs of it. The oldest go first.
const MAX_ENTRIES: usize = 128;

/// A reviewer's comment is kept up to this many characters.
const MAX_COMMENT_CHARS: usize = 500;

/// What is said of a run's end is kept up to this many characters.
const MAX_WHY_CHARS: usize = 1000;

/// What a job is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The pipeline execution's id.
    pub execution_id: String,
    /// The pipeline's ARN. Empty, like the next two, in records of before it was kept.
    #[serde(default)]
    pub pipeline_arn: String,
    /// The approval's stage.
    #[serde(default)]
    pub stage: String,
    /// The approval's action.
    #[serde(default)]
    pub action: String,
    /// The target's pipeline as written.
    pub target: String,
    /// The reviewer's comment, or CodePipeline's words.
    pub comment: Option<String>,
    /// When the event was emitted. Milliseconds since the Unix epoch.
    pub rejected_at_ms: i64,
    /// No message has asked for it: it was found in CodePipeline.
    #[serde(default)]
    pub unasked: bool,
    /// The message that asked for it was received for the last time.
    #[serde(default)]
    pub last_receive: bool,
}

impl About {
    /// What a rejection is about.
    #[must_use]
    pub fn of(rejection: &Rejection, target: &str) -> Self {
        let cut = |text: &String| text.chars().take(MAX_COMMENT_CHARS).collect();
        Self {
            execution_id: rejection.execution_id.clone(),
            pipeline_arn: rejection.pipeline.to_string(),
            stage: rejection.stage.clone(),
            action: rejection.action.clone(),
            target: target.to_owned(),
            comment: rejection.comment.as_ref().map(cut),
            rejected_at_ms: rejection.rejected_at.as_millisecond(),
            unasked: false,
            last_receive: false,
        }
    }
}

/// Something to remember of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A run of it begins.
    Began(About),
    /// Something happened in it.
    Entry(Kind, &'static str),
    /// A job that only observes, and is bound to nothing, is about these.
    Found(Ids),
    /// The run ended: it failed for now, for this reason.
    Failed(&'static str),
    /// The run ended: the job is refused, for this reason.
    Refused(&'static str),
    /// Why the run ended so, in words.
    Why(String),
}

/// The distributions and the policy that a job is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ids {
    /// The production distribution.
    pub production_id: Option<String>,
    /// The staging distribution.
    pub staging_id: Option<String>,
    /// Its policy, where one was found.
    pub policy_id: Option<String>,
    /// Further staging distributions of the execution, the newest first.
    pub more_staging_ids: Vec<String>,
}

/// The reasons that were reported of a job: one cause is one report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Why runs of it failed for now.
    failed: BTreeSet<String>,
    /// Why it was refused.
    refused: BTreeSet<String>,
}

impl Told {
    /// What it says that a run fails for now.
    #[must_use]
    pub fn failure(&self, reason: &str) -> News {
        News::of(&self.failed, reason)
    }

    /// What it says that the job is refused.
    #[must_use]
    pub fn refusal(&self, reason: &str) -> News {
        News::of(&self.refused, reason)
    }

    /// What the last run of an open job came to, which ended for this reason: `refused` or `failed`; else the
    /// job is `open`.
    #[must_use]
    pub fn outcome(&self, reason: Option<&str>) -> &'static str {
        let is_in = |told: &BTreeSet<String>| reason.is_some_and(|reason| told.contains(reason));
        if is_in(&self.refused) {
            "refused"
        } else if is_in(&self.failed) {
            "failed"
        } else {
            "open"
        }
    }
}

/// Whether something was reported before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing of the kind was.
    First,
    /// Another cause was.
    Another,
    /// This cause was, or is reported elsewhere.
    Known,
    /// Another instance may have reported this cause, or this one before its restart.
    Unsure,
}

impl News {
    fn of(told: &BTreeSet<String>, reason: &str) -> Self {
        if told.contains(reason) {
            Self::Known
        } else if told.is_empty() {
            Self::First
        } else {
            Self::Another
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A run began.
    Began,
    /// AWS accepted a step.
    Applied,
    /// A step was found done: by an earlier run, by somebody else, or by a change whose answer was lost.
    #[serde(alias = "was_done")]
    Found,
    /// A step that would have been made, had the target not only been observed.
    Planned,
    /// A wait began.
    Waiting,
    /// A wait ended.
    Waited,
    /// The run ended.
    Ended,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When. Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What.
    pub kind: Kind,
    /// The step's, the wait's or the end's name; empty for a run that began.
    pub name: String,
}

/// Everything that is remembered of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// What it is about; `None` if no run of it has begun since this is recorded.
    pub about: Option<About>,
    /// What happened, oldest first.
    pub entries: Vec<Entry>,
    /// How many older entries were dropped.
    pub dropped: u64,
    /// What was reported.
    #[serde(default)]
    pub told: Told,
    /// Why the last run ended as it did, in words, where it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What a job is about that only observes.
    #[serde(default)]
    pub found: Option<Ids>,
}

impl Trail {
    /// Reads what [`Trail::text`] wrote; anything else is an empty trail.
    #[must_use]
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The form in which it is kept.
    #[must_use]
    pub fn text(&self) -> String {
        // Texts and numbers under keys that are texts: there is always a form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Adds what happened at `at`.
    pub fn note(&mut self, note: Note, at: Timestamp) {
        let (kind, name) = match note {
            Note::Why(words) => {
                self.why = Some(words.chars().take(MAX_WHY_CHARS).collect());
                return;
            }
            Note::Began(mut about) => {
                // A run that the ledger or a person resumes has no event, and no comment of its own.
                let earlier = self.about.take().and_then(|about| about.comment);
                about.comment = about.comment.or(earlier);
                self.about = Some(about);
                (Kind::Began, "")
            }
            Note::Entry(kind, name) => (kind, name),
            Note::Found(ids) => {
                self.found = Some(ids);
                return;
            }
            Note::Failed(reason) => {
                self.told.failed.insert(reason.to_owned());
                (Kind::Ended, reason)
            }
            Note::Refused(reason) => {
                self.told.refused.insert(reason.to_owned());
                (Kind::Ended, reason)
            }
        };
        if kind == Kind::Ended {
            self.why = None;
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.remove(0);
            self.dropped += 1;
        }
        self.entries.push(Entry {
            at_ms: at.as_millisecond(),
            kind,
            name: name.to_owned(),
        });
    }

    /// Whether a step is in it as done.
    #[must_use]
    pub fn has_done(&self, step: &str) -> bool {
        let done = |entry: &Entry| matches!(entry.kind, Kind::Applied | Kind::Found);
        self.entries.iter().any(|it| it.name == step && done(it))
    }

    /// What its last run came to, if one has ended.
    #[must_use]
    pub fn last_end(&self) -> Option<&str> {
        let mut entries = self.entries.iter().rev();
        let ended = entries.find(|entry| entry.kind == Kind::Ended);
        ended.map(|entry| entry.name.as_str())
    }

    /// The entries as stretches of time: a wait from its begin to its end, everything else a point.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for entry in &self.entries {
            match entry.kind {
                Kind::Waited => {
                    let begun = spans
                        .iter_mut()
                        .rev()
                        .find(|span| span.until_ms.is_none() && span.name == entry.name);
                    if let Some(span) = begun {
                        span.until_ms = Some(entry.at_ms);
                    }
                }
                Kind::Began | Kind::Ended => {
                    // What was waited for then is cut off: by the end, or by a crash before it.
                    for span in spans.iter_mut().filter(|span| span.until_ms.is_none()) {
                        span.until_ms = Some(entry.at_ms);
                        span.cut = true;
                    }
                    spans.push(Span::point(entry));
                }
                Kind::Waiting => spans.push(Span {
                    until_ms: None,
                    ..Span::point(entry)
                }),
                Kind::Applied | Kind::Found | Kind::Planned => spans.push(Span::point(entry)),
            }
        }
        spans
    }
}

/// The message that has asked for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When the run that began with it last noted something. Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// It was received for the last time: next it is a dead letter.
    pub last_receive: bool,
}

/// What each change of a job's record takes along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// For people.
    pub trail: Trail,
    /// For catching up: `None` if the last run that began was asked for by no message.
    pub asked: Option<Asked>,
}

impl Notes {
    /// Adds what happened at `at`.
    pub fn note(&mut self, note: Note, at: Timestamp) {
        let at_ms = at.as_millisecond();
        if let Note::Began(about) = &note {
            let last_receive = about.last_receive;
            self.asked = (!about.unasked).then_some(Asked {
                at_ms,
                last_receive,
            });
        } else if let Some(asked) = &mut self.asked {
            asked.at_ms = at_ms;
        }
        self.trail.note(note, at);
    }

    /// The notes of a record that keeps beside the trail who asked. An older stagesweep writes the trail alone, as
    /// during a rolling update: a trail that is newer than what stands beside it tells by itself.
    #[must_use]
    pub fn kept(trail: Trail, asked: Option<Asked>) -> Self {
        let of_trail = Self::of_trail(trail);
        let is_current = match (asked, of_trail.asked) {
            (Some(kept), Some(told)) => {
                kept.at_ms >= told.at_ms && kept.last_receive == told.last_receive
            }
            (Some(_), None) => of_trail.trail.about.is_none(),
            (None, told) => told.is_none(),
        };
        match is_current {
            true => Self { asked, ..of_trail },
            false => of_trail,
        }
    }

    /// The notes of a record that an older stagesweep wrote, which kept nothing but the trail.
    #[must_use]
    pub fn of_trail(trail: Trail) -> Self {
        let about = trail.about.as_ref().filter(|about| !about.unasked);
        let asked = about.map(|about| Asked {
            at_ms: trail.entries.last().map_or(0, |entry| entry.at_ms),
            last_receive: about.last_receive,
        });
        Self { trail, asked }
    }
}

/// A stretch of a job's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it is; [`Kind::Waiting`] for a wait.
    pub kind: Kind,
    /// The step's, the wait's or the end's name.
    pub name: String,
    /// When it began. Milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// When it ended; `None` while it goes on.
    pub until_ms: Option<i64>,
    /// It was ended from without, and not by what it waited for.
    pub cut: bool,
}

impl Span {
    fn point(entry: &Entry) -> Self {
        Self {
            kind: entry.kind,
            name: entry.name.clone(),
            from_ms: entry.at_ms,
            until_ms: Some(entry.at_ms),
            cut: false,
        }
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Done.
    Done(Outcome),
    /// Someone works on it.
    Working,
    /// Nobody works on it now; why the last run ended, where one did.
    Open(Option<String>),
}

impl State {
    /// A bounded code.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Done(outcome) => outcome.code(),
            Self::Working => "working",
            Self::Open(Some(reason)) => reason,
            Self::Open(None) => "open",
        }
    }
}

/// A job as the ledger remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What tells it from every other one.
    pub key: JobKey,
    /// The pipeline's name.
    pub pipeline: String,
    /// How far it is.
    pub state: State,
    /// When it was first claimed.
    pub first_seen: Timestamp,
    /// When its record was last changed.
    pub updated: Timestamp,
    /// The production distribution that it is bound to.
    pub production_id: Option<String>,
    /// The staging distribution that it is bound to.
    pub staging_id: Option<String>,
    /// The policy that it is bound to.
    pub policy_id: Option<String>,
    /// What else it is bound to, and what it left half way.
    pub evidence: Evidence,
    /// What happened.
    pub trail: Trail,
}

impl Record {
    /// What it is bound to; of one that only observes, what it found.
    #[must_use]
    pub fn ids(&self) -> Ids {
        match &self.trail.found {
            Some(found) if self.staging_id.is_none() => found.clone(),
            _ => Ids {
                production_id: self.production_id.clone(),
                staging_id: self.staging_id.clone(),
                policy_id: self.policy_id.clone(),
                more_staging_ids: self.evidence.more.iter().map(|it| it.id.clone()).collect(),
            },
        }
    }

    /// The pipeline execution's id; of a job that was begun by hand, its key.
    #[must_use]
    pub fn execution_id(&self) -> &str {
        match &self.trail.about {
            Some(about) => &about.execution_id,
            None => self.key.as_str().split('/').next().unwrap_or_default(),
        }
    }

    /// From its first claim to the last change of its record.
    #[must_use]
    pub fn took(&self) -> Duration {
        let took = self.updated.duration_since(self.first_seen);
        Duration::try_from(took).unwrap_or_default()
    }

    /// The job as stretches of time. Of a job that nobody works on, none goes on.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = self.trail.spans();
        if self.state != State::Working {
            let ended = Some(self.updated.as_millisecond());
            for span in spans.iter_mut().filter(|span| span.until_ms.is_none()) {
                span.until_ms = ended.max(Some(span.from_ms));
                span.cut = true;
            }
        }
        spans
    }

    /// What the job waits for now, as far as that is written.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let waits = |span: &Span| span.kind == Kind::Waiting && span.until_ms.is_none();
        let spans = self.spans();
        spans.into_iter().rev().find(waits).map(|span| span.name)
    }

    /// How many steps AWS accepted.
    #[must_use]
    pub fn steps(&self) -> usize {
        let entries = self.trail.entries.iter();
        entries.filter(|entry| entry.kind == Kind::Applied).count()
    }
}

/// Has the open jobs end that a job of the same rejection observed since, before anything was changed: the mode of
/// their target is `observe` by now. They stay open for whoever acts.
pub fn end_observed(records: &mut [Record]) {
    let done: BTreeMap<JobKey, (Timestamp, &'static str)> = records
        .iter()
        .filter_map(|record| match record.state {
            State::Done(outcome) => Some((record.key.clone(), (record.updated, outcome.code()))),
            _ => None,
        })
        .collect();
    for record in records {
        let observed = done.get(&record.key.observed());
        if let State::Open(reason) = &mut record.state
            && let Some((at, code)) = observed
            && !record.evidence.changed
            && *at >= record.updated
        {
            *reason = Some((*code).to_owned());
        }
    }
}

/// How long propagations took of late, the median of what the records know; `None` where they know
/// none.
#[must_use]
pub fn usual_propagation(records: &[Record]) -> Option<Duration> {
    let mut took: Vec<u64> = records
        .iter()
        .flat_map(|record| record.trail.spans())
        .filter(|span| {
            matches!(
                span.name.as_str(),
                "detach_propagated" | "disable_propagated"
            )
        })
        .filter(|span| span.kind == Kind::Waiting && !span.cut)
        .filter_map(|span| u64::try_from(span.until_ms? - span.from_ms).ok())
        .collect();
    took.sort_unstable();
    took.get(took.len() / 2).copied().map(Duration::from_millis)
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
