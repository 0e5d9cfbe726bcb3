//! What happens to a deployment at its approval: it is rejected, approved, retried, or forgotten.
//!
//! Each tells CodePipeline what became of an attempt; whether an event of it is sent is another matter.

use std::time::Duration;

use jiff::Timestamp;

use super::codepipeline::{APPROVE, ActionExecution, Execution, IN_PROGRESS, STAGES};
use super::service::Service;
use super::settings::ExpiredApproval;
use super::{EmbeddedAws, State};

/// How long before its approval opens a deployment begins, where nobody says.
const DEPLOYING: Duration = Duration::from_secs(6 * 60);

/// How an attempt of an approval ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review<'a> {
    /// A reviewer rejects, with this comment if there is one.
    Rejected(Option<&'a str>),
    /// A reviewer approves: the promotion begins.
    Approved,
    /// Nobody decides in time.
    Expired,
}

impl EmbeddedAws {
    /// An attempt of a deployment's approval, counted from 1, ends now. One that has ended stays as it
    /// is; one that was not opened is opened by this.
    pub fn review(&self, service: &Service, attempt: u32, how: Review<'_>) {
        self.review_at(service, attempt, how, self.clock().now());
    }

    pub(super) fn review_at(
        &self,
        service: &Service,
        attempt: u32,
        how: Review<'_>,
        at: Timestamp,
    ) {
        let mut state = self.state();
        let expired = state.settings.switches.expired_approval;
        let execution = execution(&mut state, service);
        let opened = if attempt == 1 { service.start_time } else { at };
        let approval = approval(execution, service, attempt, opened);
        if approval.status != IN_PROGRESS {
            return;
        }
        let reviewer = format!(
            "arn:aws:sts::{}:assumed-role/reviewer/alex",
            service.account
        );
        match how {
            Review::Rejected(comment) => {
                approval.end("Failed", at);
                let by = format!("Rejected by {reviewer}");
                approval.summary = Some(comment.map_or(by, str::to_owned));
                approval.error_code = Some("JobFailed");
                approval.by = Some(reviewer);
            }
            Review::Approved => {
                approval.end("Succeeded", at);
                approval.summary = Some(format!("Approved by {reviewer}"));
                approval.by = Some(reviewer);
                let id = service.action_execution_id_of(STAGES[2], attempt);
                let promotion = ActionExecution::begun(id, STAGES[2], at);
                execution.actions.push(promotion);
            }
            Review::Expired => {
                approval.end("Failed", at);
                (approval.summary, approval.error_code) = match expired {
                    ExpiredApproval::Silent => (None, Some("JobFailed")),
                    ExpiredApproval::Code => (None, Some("JobTimedOut")),
                    ExpiredApproval::Text => (
                        Some("The approval timed out.".to_owned()),
                        Some("JobFailed"),
                    ),
                };
            }
        }
        drop(state);
        self.changed();
    }

    /// The stage of a rejected approval is retried: its next attempt waits for a reviewer from now on.
    pub fn retry_approval(&self, service: &Service, attempt: u32) {
        let now = self.clock().now();
        let mut state = self.state();
        approval(execution(&mut state, service), service, attempt, now);
        drop(state);
        self.changed();
    }

    /// The deployment's execution is stopped and abandoned, whatever it is doing.
    pub fn abandon(&self, service: &Service) {
        self.end(service, "Stopped");
    }

    /// The deployment's execution is superseded by a newer one, before it was decided upon.
    pub fn supersede(&self, service: &Service) {
        self.end(service, "Superseded");
    }

    fn end(&self, service: &Service, how: &'static str) {
        let now = self.clock().now();
        let mut state = self.state();
        let execution = execution(&mut state, service);
        for action in &mut execution.actions {
            if action.status == IN_PROGRESS {
                action.end("Abandoned", now);
            }
        }
        execution.ended = Some((how, now));
        drop(state);
        self.changed();
    }

    /// A deployment began.
    pub(super) fn deployment_begins(&self, service: &Service, at: Timestamp) {
        let mut state = self.state();
        let execution = execution(&mut state, service);
        let id = service.action_execution_id_of(STAGES[0], 1);
        let action = ActionExecution::begun(id, STAGES[0], at);
        execution.actions.push(action);
    }

    /// A deployment has written its parameter, and waits for its approval.
    pub(super) fn approval_opens(&self, service: &Service, at: Timestamp) {
        let mut state = self.state();
        let execution = execution(&mut state, service);
        for action in &mut execution.actions {
            if action.stage == STAGES[0] && action.status == IN_PROGRESS {
                action.end("Succeeded", at);
            }
        }
        approval(execution, service, 1, at);
    }
}

/// The execution that made a deployment.
fn execution<'a>(state: &'a mut State, service: &Service) -> &'a mut Execution {
    let account = state.accounts.entry(service.account.clone()).or_default();
    let pipelines = &mut account.codepipeline(&service.region).pipelines;
    let pipeline = pipelines.entry(service.pipeline.clone()).or_default();
    let began = service.start_time.checked_sub(DEPLOYING);
    pipeline.execution(&service.execution_id, began.unwrap_or(service.start_time))
}

/// An attempt of the approval; one that is new began then.
fn approval<'a>(
    execution: &'a mut Execution,
    service: &Service,
    attempt: u32,
    at: Timestamp,
) -> &'a mut ActionExecution {
    let id = service.action_execution_id(attempt);
    let place = execution.actions.iter().position(|action| action.id == id);
    let place = place.unwrap_or_else(|| {
        let action = ActionExecution::begun(id, APPROVE, at);
        execution.actions.push(action);
        execution.actions.len() - 1
    });
    &mut execution.actions[place]
}
