//! What is told of which end, and in which words. Pure: no I/O, no clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::Span;

use crate::domain::assignment::Assignment;
use crate::domain::decision::Outcome;
use crate::domain::event::Rejection;
use crate::telemetry::job_span;

/// The reviewer's comment and the words of an error are told up to so many characters: with them a notice
/// stays far below what one entry of PutEvents may have.
const MAX_TEXT: usize = 1000;

/// Something to be told, as it is kept until it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Tells it from every other one; the same in every try, and after a restart.
    pub id: String,
    /// The ARN of the pipeline, where one is known.
    pub resources: Vec<String>,
    /// The JSON document that says it.
    pub detail: String,
}

impl Notice {
    /// For what is logged of it: the span of the job that it is about, if it is about one.
    pub(super) fn span(&self) -> Span {
        let detail: Value = serde_json::from_str(&self.detail).unwrap_or_default();
        let field = |name: &str| detail[name].as_str();
        match (field("pipeline"), field("execution_id")) {
            (Some(pipeline), Some(execution_id)) => {
                job_span(pipeline, execution_id, field("target"))
            }
            _ => Span::none(),
        }
    }
}

/// The end of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The job is done.
    Done {
        /// How.
        outcome: Outcome,
        /// What people need to know of it.
        detail: Option<String>,
    },
    /// The job must not be done.
    Refused {
        /// A bounded code.
        reason: &'static str,
        /// The same in words.
        detail: String,
    },
    /// A run of the job failed; it will be tried again, or its message goes to the dead-letter queue.
    Failed {
        /// A bounded code.
        reason: &'static str,
        /// The same in words.
        detail: String,
    },
    /// A message was given back that had been received for the last time: next it is a dead letter.
    DeadLettered {
        /// A bounded code.
        reason: &'static str,
        /// The same in words, where there is more to say.
        detail: Option<String>,
        message_id: String,
        /// How often it was received.
        receive_count: u32,
        /// How often it may be.
        max_receive_count: u32,
    },
}

/// The run of a job that ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// Which run of the job it was.
    pub number: i64,
    pub took: Option<Duration>,
}

impl End {
    /// The outcome's code.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Done { outcome, .. } => outcome.code(),
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
            Self::DeadLettered { .. } => "dead_lettered",
        }
    }

    /// The reason's code.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Done { outcome, .. } => outcome.code(),
            Self::Refused { reason, .. }
            | Self::Failed { reason, .. }
            | Self::DeadLettered { reason, .. } => reason,
        }
    }

    /// The same in words, where there is more to say.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Done { detail, .. } | Self::DeadLettered { detail, .. } => detail.as_deref(),
            Self::Refused { detail, .. } | Self::Failed { detail, .. } => Some(detail),
        }
    }

    /// What of one job is told once, however often it happens: the outcome and the reason.
    #[must_use]
    pub fn kind(&self) -> (&'static str, &'static str) {
        (self.outcome(), self.reason())
    }

    /// The notice of it. A message that is no rejection has no job.
    #[must_use]
    pub fn notice(&self, job: Option<&Assignment>, run: Run, at: Timestamp) -> Notice {
        let rejection = job.map(|job| &job.rejection);
        let key = rejection.map_or("", |rejection| rejection.key.as_str());
        let mut detail = json!({
            "version": 1,
            "kind": "notice",
            "outcome": self.outcome(),
            "reason": self.reason(),
            "at": format!("{at:.3}"),
        });
        let id = match self {
            // A job is done once, whichever run finds it so.
            Self::Done { detail: words, .. } => {
                if let Some(words) = words {
                    detail["detail"] = json!(cut(words));
                }
                format!("{key}/done")
            }
            Self::Refused { detail: words, .. } | Self::Failed { detail: words, .. } => {
                detail["detail"] = json!(cut(words));
                format!("{key}/{}/{}/{}", self.outcome(), self.reason(), run.number)
            }
            Self::DeadLettered {
                detail: words,
                message_id,
                receive_count,
                max_receive_count,
                ..
            } => {
                if let Some(words) = words {
                    detail["detail"] = json!(cut(words));
                }
                detail["message_id"] = json!(message_id);
                detail["receive_count"] = json!(receive_count);
                detail["max_receive_count"] = json!(max_receive_count);
                format!("{message_id}/{}/{receive_count}", self.outcome())
            }
        };
        detail["id"] = json!(id);
        if let Some(took) = run.took {
            detail["duration_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            // The same, for who has read it since before the other was there.
            detail["duration_seconds"] = json!(took.as_millis() as f64 / 1000.0);
        }
        if let Some(job) = job {
            about(&mut detail, &job.rejection, job.label());
        }
        Notice {
            id,
            resources: rejection
                .map(|rejection| rejection.pipeline.to_string())
                .into_iter()
                .collect(),
            detail: detail.to_string(),
        }
    }
}

fn about(detail: &mut Value, rejection: &Rejection, target: &str) {
    let pipeline = &rejection.pipeline;
    detail["pipeline"] = json!(pipeline.name);
    detail["pipeline_arn"] = json!(pipeline.to_string());
    detail["account"] = json!(pipeline.account);
    detail["region"] = json!(pipeline.region);
    detail["stage"] = json!(rejection.stage);
    detail["action"] = json!(rejection.action);
    detail["execution_id"] = json!(rejection.execution_id);
    detail["target"] = json!(target);
    detail["rejected_at"] = json!(format!("{:.3}", rejection.rejected_at));
    if let Some(url) = rejection.console_url() {
        detail["console_url"] = json!(url);
    }
    if let Some(comment) = &rejection.comment {
        detail["comment"] = json!(cut(comment));
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{self, Kind};

    const REJECTED: &str = include_str!("../../tests/events/approval-rejected.json");

    fn rejection() -> Rejection {
        match event::parse(REJECTED).unwrap().kind {
            Kind::Rejection(rejection) => *rejection,
            Kind::NotARejection(_) => unreachable!(),
        }
    }

    fn told(end: &End, rejection: &Rejection) -> (Notice, Value) {
        let job = Assignment::of_label(rejection.clone(), "{service}-frontend-pipeline");
        let run = Run {
            number: 7,
            took: Some(Duration::from_millis(341_500)),
        };
        let at = "2026-08-24T06:30:00Z".parse().unwrap();
        let notice = end.notice(Some(&job), run, at);
        let detail = serde_json::from_str(&notice.detail).unwrap();
        (notice, detail)
    }

    #[test]
    fn a_notice_says_what_became_of_whose_rejection_and_where_to_look() {
        let rejection = rejection();
        let done = End::Done {
            outcome: Outcome::Superseded,
            detail: Some("left: nothing".to_owned()),
        };
        let (notice, detail) = told(&done, &rejection);
        assert_eq!(notice.id, format!("{}/done", rejection.key.as_str()));
        assert_eq!(notice.resources, [rejection.pipeline.to_string()]);
        assert_eq!(detail["id"], notice.id);
        assert_eq!(detail["outcome"], "superseded");
        assert_eq!(detail["detail"], "left: nothing");
        assert_eq!(detail["execution_id"], rejection.execution_id);
        assert_eq!(detail["pipeline"], rejection.pipeline.name);
        assert_eq!(detail["pipeline_arn"], rejection.pipeline.to_string());
        assert_eq!(detail["duration_ms"], 341_500);
        assert_eq!(detail["duration_seconds"], 341.5);
        assert_eq!(detail["comment"], rejection.comment.as_deref().unwrap());
        assert_eq!(detail["console_url"], json!(rejection.console_url()));
        assert_eq!(detail["at"], "2026-08-24T06:30:00.000Z");
        // It is kept as a text, and is the same when it is read back.
        let kept = serde_json::to_string(&notice).unwrap();
        assert_eq!(serde_json::from_str::<Notice>(&kept).unwrap(), notice);
    }

    #[test]
    fn a_dead_letter_is_told_with_its_count_and_without_a_job_too() {
        let end = End::DeadLettered {
            reason: "not_json",
            detail: Some("x".repeat(5000)),
            message_id: "m".to_owned(),
            receive_count: 10,
            max_receive_count: 10,
        };
        let notice = end.notice(None, Run::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(notice.id, "m/dead_lettered/10");
        assert_eq!(notice.resources, [""; 0]);
        // Whatever the words are, it stays small.
        assert!(
            notice.detail.len() < 2 * MAX_TEXT,
            "{}",
            notice.detail.len()
        );
        let (_, detail) = told(&end, &rejection());
        assert_eq!(detail["max_receive_count"], 10);
        assert_eq!(detail["stage"], "Approve");
    }
}
