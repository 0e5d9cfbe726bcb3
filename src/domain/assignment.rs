//! What a job is about: a rejection, and the target that takes it. It is made once, where the job is, and shared by
//! all who work on it.

use std::sync::Arc;

use super::event::{JobKey, Rejection};
use super::targets::ResolvedTarget;

/// A rejection, and the target that takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    pub rejection: Rejection,
    pub target: ResolvedTarget,
    /// The whole event, as the target's program reads it; `None` where no program is to be run.
    pub event: Option<Arc<str>>,
}

impl Assignment {
    /// A rejection whose event is `body`.
    #[must_use]
    pub fn of_event(rejection: Rejection, target: ResolvedTarget, body: String) -> Arc<Self> {
        let event = target.program.is_some().then(|| body.into());
        Arc::new(Self {
            rejection,
            target,
            event,
        })
    }

    /// A rejection without an event: a program reads what the event would have been.
    #[must_use]
    pub fn without_event(rejection: Rejection, target: ResolvedTarget) -> Arc<Self> {
        let program = target.program.is_some();
        let event = program.then(|| rejection.to_event().into());
        Arc::new(Self {
            rejection,
            target,
            event,
        })
    }

    /// The job's key.
    #[must_use]
    pub fn key(&self) -> &JobKey {
        &self.rejection.key
    }

    #[must_use]
    pub fn execution_id(&self) -> &str {
        &self.rejection.execution_id
    }

    /// The target's pipeline as written.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.target.label
    }

    /// Who waits for the same ([`ResolvedTarget::crowd`]).
    #[must_use]
    pub fn crowd(&self) -> String {
        self.target.crowd(&self.rejection.execution_id)
    }
}

#[cfg(test)]
impl Assignment {
    /// A rejection of a target that has nothing but its label.
    pub(crate) fn of_label(rejection: Rejection, label: &str) -> Arc<Self> {
        let access = super::targets::Access {
            role: None,
            region: String::new(),
        };
        let target = ResolvedTarget {
            label: label.to_owned(),
            parameters: None,
            pipeline_access: access.clone(),
            access,
            stage: None,
            deploy_stage: None,
            mode: super::targets::Mode::Act,
            delay: std::time::Duration::ZERO,
            program: None,
        };
        Self::without_event(rejection, target)
    }
}
