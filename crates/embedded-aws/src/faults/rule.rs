//! Faults by rule.

use std::sync::Arc;
use std::time::Duration;

use crate::wire::exchange::{Call, Failure};

/// A closure that a rule runs on the world, a `W`.
pub(crate) type Hook<W> = Arc<dyn Fn(&W, &Call) + Send + Sync>;

/// What a rule does to a call.
#[derive(Clone)]
pub enum Action<W> {
    /// Refuses it, without effect.
    Refuse(Failure),
    /// Throttles it as its service does.
    Throttle,
    /// Refuses it: the caller lacks the permission, in the words of the service.
    Deny,
    /// Answers with this failure although the call took effect.
    RefuseAfter(Failure),
    /// Cuts the connection, without effect.
    DropBefore,
    /// Cuts the connection after the effect.
    DropAfter,
    /// Never answers; no effect. Ends when the caller gives up.
    Hang,
    /// Never answers, after the effect.
    HangAfter,
    /// Waits first.
    Delay(Duration),
    /// Shows a read what was there before the last write.
    Stale,
    /// Leaves a copy of received messages in the queue, to be delivered again.
    Duplicate,
    /// Delivers the newest messages first.
    Reorder,
    /// Answers a delete without deleting.
    Undelete,
    /// Answers 200, with every event of PutEvents refused.
    RefuseEntries,
    /// Runs a closure on the world before the effect.
    Before(Hook<W>),
    /// Runs a closure on the world after the effect, before the caller gets to see the answer.
    After(Hook<W>),
}

impl<W> Action<W> {
    /// [`Action::Before`] of a closure.
    pub fn before(hook: impl Fn(&W, &Call) + Send + Sync + 'static) -> Self {
        Self::Before(Arc::new(hook))
    }

    /// [`Action::After`] of a closure.
    pub fn after(hook: impl Fn(&W, &Call) + Send + Sync + 'static) -> Self {
        Self::After(Arc::new(hook))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Refuse(_) => "refused",
            Self::Throttle => "throttled",
            Self::Deny => "denied",
            Self::RefuseAfter(_) => "refused after the effect",
            Self::DropBefore => "cut before the effect",
            Self::DropAfter => "cut after the effect",
            Self::Hang => "hung before the effect",
            Self::HangAfter => "hung after the effect",
            Self::Delay(_) => "delayed",
            Self::Stale => "stale",
            Self::Duplicate => "duplicated",
            Self::Reorder => "reordered",
            Self::Undelete => "not deleted",
            Self::RefuseEntries => "entries refused",
            Self::Before(_) => "hook before",
            Self::After(_) => "hook after",
        }
    }
}

/// Which calls a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Any,
    Mutations,
    Operation(String),
}

/// "On the nth call of operation X, on resource Y, do Z."
///
/// ```ignore
/// world.add_rule(Rule::on("UpdateDistribution").about(&id).nth(1).then(Action::DropAfter));
/// ```
#[derive(Clone)]
pub struct Rule<W> {
    which: Which,
    resource: Option<String>,
    account: Option<String>,
    /// The first and the last matching call, counted from 1, that it takes effect on.
    pub(crate) calls: (u64, u64),
    pub(crate) action: Action<W>,
}

impl<W> Rule<W> {
    fn matching(which: Which) -> Self {
        Self {
            which,
            resource: None,
            account: None,
            calls: (1, u64::MAX),
            action: Action::Delay(Duration::ZERO),
        }
    }

    /// A rule for every call of the named operation. Does nothing until [`Rule::then`].
    pub fn on(operation: impl Into<String>) -> Self {
        Self::matching(Which::Operation(operation.into()))
    }

    /// A rule for every call.
    #[must_use]
    pub fn on_any() -> Self {
        Self::matching(Which::Any)
    }

    /// A rule for every call of an operation that changes something.
    #[must_use]
    pub fn on_mutations() -> Self {
        Self::matching(Which::Mutations)
    }

    /// Only calls about this distribution, policy, parameter or queue (by its name).
    #[must_use]
    pub fn about(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Only calls with credentials of this account.
    #[must_use]
    pub fn by_account(mut self, account: impl Into<String>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Only the nth matching call, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.calls = (nth, nth);
        self
    }

    /// Only the first so many matching calls.
    #[must_use]
    pub fn first(mut self, count: u64) -> Self {
        self.calls = (1, count);
        self
    }

    #[must_use]
    pub fn then(mut self, action: Action<W>) -> Self {
        self.action = action;
        self
    }

    pub(crate) fn matches(&self, call: &Call) -> bool {
        let operation = match &self.which {
            Which::Any => true,
            Which::Mutations => call.may_mutate(),
            Which::Operation(name) => *name == call.operation,
        };
        operation
            && self
                .resource
                .as_ref()
                .is_none_or(|it| call.resource.as_ref() == Some(it))
            && self.account.as_ref().is_none_or(|it| call.account == *it)
    }
}

/// Names a rule for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(pub(crate) u64);
