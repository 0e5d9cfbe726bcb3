//! A job, as it is handed to the reconciler.

use std::sync::Arc;

use super::orphan::Removal;
use super::place::Place;
use crate::domain::assignment::Assignment;
use crate::domain::attribution::OwnStaging;
use crate::domain::binding::{Binding, Modified};
use crate::domain::event::Rejection;
use crate::domain::targets::{ResolvedTarget, Targets};
use crate::domain::verdict::Cause;
use crate::ledger::GrantedJob;
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;

/// One job.
#[derive(Debug)]
pub struct Job {
    pub assignment: Arc<Assignment>,
    /// The right to work on it.
    pub grant: GrantedJob,
    pub asked_by: AskedBy,
    pub ground: Ground,
    /// All targets: others may lead to the same production distribution.
    pub targets: Arc<Targets>,
    /// What an earlier claim bound it to.
    pub binding: Option<Binding>,
    /// Tells it to stop.
    pub stop: Stop,
    /// What it is doing, for those who ask.
    pub activity: Activity,
    /// Its place among those that work; it is left in waits for others.
    pub place: Place,
}

/// Who asked for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedBy {
    Message {
        /// It was received for the last time: next it is a dead letter.
        last_receive: bool,
    },
    /// No message: it was found in CodePipeline.
    CatchUp,
    /// An earlier run, which has changed something.
    EarlierRun,
    Person,
}

/// What a job goes by.
#[derive(Debug)]
pub enum Ground {
    /// What an execution came to, which CodePipeline is asked about.
    Execution(Cause),
    /// A person's word: there is no execution to ask about.
    Person {
        /// The staging distribution that the person was shown, and the version that names it; `None` of a job that
        /// is gone on with.
        named: Option<OwnStaging>,
        /// What that was as it was shown.
        shown: Option<Modified>,
    },
    /// Nobody owns the staging distribution: it is taken down instead of what a rejection left.
    Orphan(Removal),
}

impl Job {
    /// A job that a person begins.
    #[must_use]
    pub fn by_hand(
        assignment: Arc<Assignment>,
        grant: GrantedJob,
        ground: Ground,
        stop: &Stop,
    ) -> Self {
        Self {
            assignment,
            grant,
            asked_by: AskedBy::Person,
            ground,
            targets: Arc::default(),
            binding: None,
            stop: stop.clone(),
            activity: Activity::default(),
            place: Place::uncounted(),
        }
    }

    pub(super) fn rejection(&self) -> &Rejection {
        &self.assignment.rejection
    }

    pub(super) fn execution_id(&self) -> &str {
        self.assignment.execution_id()
    }

    pub(super) fn target(&self) -> &ResolvedTarget {
        &self.assignment.target
    }

    /// Whether there is no execution to ask about.
    pub(super) fn is_by_hand(&self) -> bool {
        !matches!(self.ground, Ground::Execution(_))
    }

    pub(super) fn cause(&self) -> Cause {
        match self.ground {
            Ground::Execution(cause) => cause,
            Ground::Person { .. } | Ground::Orphan(_) => Cause::Rejection,
        }
    }

    /// The staging distribution that a person was shown.
    pub(super) fn named(&self) -> Option<&OwnStaging> {
        match &self.ground {
            Ground::Person { named, .. } => named.as_ref(),
            Ground::Execution(_) | Ground::Orphan(_) => None,
        }
    }

    /// The staging distribution as a person was shown it.
    pub(super) fn shown(&self) -> Option<&Modified> {
        match &self.ground {
            Ground::Person { shown, .. } => shown.as_ref(),
            Ground::Execution(_) | Ground::Orphan(_) => None,
        }
    }

    pub(super) fn removal(&self) -> Option<&Removal> {
        match &self.ground {
            Ground::Orphan(removal) => Some(removal),
            Ground::Execution(_) | Ground::Person { .. } => None,
        }
    }
}
