//! How long a run goes on with what leads to nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::decision::Step;
use crate::runtime::lasting::Lagging;

/// What a run counts of what led to nothing, and since when nothing has moved.
pub(super) struct Patience {
    /// When something last moved.
    moved_at: Instant,
    /// When our last change was accepted, until its propagation is waited for.
    changed_at: Option<Instant>,
    /// Looks in a row that led to nothing.
    fruitless: u32,
    /// Changes in a row that failed in a way that the next try may not.
    failures: u32,
    /// The change that CloudFront refused last although it was fresh, and how often in a row.
    same_refused: Option<(Step, u32)>,
    /// The evidence contradicts itself.
    pub(super) contradicted: Lagging,
    /// CloudFront has our policy in use although production does not name it.
    pub(super) in_use: Lagging,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            moved_at: Instant::now(),
            changed_at: None,
            fruitless: 0,
            failures: 0,
            same_refused: None,
            contradicted: Lagging::default(),
            in_use: Lagging::default(),
        }
    }

    /// The time that counts begins now: what was waited for before was the turn.
    pub(super) fn begin(&mut self) {
        self.moved_at = Instant::now();
    }

    /// Something moved: the propagation timeout begins anew, and so do the pauses.
    pub(super) fn moved(&mut self) {
        self.moved_at = Instant::now();
        self.fruitless = 0;
        self.failures = 0;
    }

    /// When it ends, if nothing moves for so long.
    pub(super) fn ends(&self, timeout: Duration) -> Instant {
        self.moved_at + timeout
    }

    /// A change was accepted that propagates.
    pub(super) fn changed(&mut self) {
        self.changed_at = Some(Instant::now());
    }

    /// When the change was accepted whose propagation is waited for now; `None` if it is not ours.
    pub(super) fn take_changed_at(&mut self) -> Option<Instant> {
        self.changed_at.take()
    }

    /// Whether the last look led to nothing.
    pub(super) fn is_fruitless(&self) -> bool {
        self.fruitless > 0
    }

    /// A look led to nothing: how many in a row.
    pub(super) fn fruitless(&mut self) -> u32 {
        self.fruitless += 1;
        self.fruitless
    }

    /// A change failed in a way that the next try may not: how many in a row.
    pub(super) fn failed(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }

    /// A change was refused although it was fresh: how often this very one was, in a row.
    pub(super) fn refused(&mut self, step: &Step) -> u32 {
        let times = match self.same_refused.take() {
            Some((same, times)) if same == *step => times + 1,
            _ => 1,
        };
        self.same_refused = Some((step.clone(), times));
        times
    }
}
