//! Whose turn it is at a production distribution, within this process.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::domain::at_work::Scope;

/// One at a time for each production distribution, in the order of asking.
#[derive(Debug, Default)]
pub(super) struct ProductionQueues(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl ProductionQueues {
    /// The turn to work on a production distribution.
    pub(super) fn turn(
        &self,
        production_id: &str,
    ) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        self.queue(production_id.to_owned())
    }

    /// The first place among those who wait for executions that are at work there: only who has it asks.
    pub(super) fn first_in_line(
        &self,
        production_id: &str,
        scope: Scope,
    ) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        self.queue(format!("{production_id} {scope:?}"))
    }

    fn queue(&self, name: String) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        let mut queues = self.0.lock();
        // Those that nobody holds or waits for are of no use.
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        Arc::clone(queues.entry(name).or_default()).lock_owned()
    }
}
