//! The tasks of one daemon: none outlives it.
//!
//! **Guarantees.** When the daemon's [`run`](crate::daemon::Daemon::run) returns, or is dropped
//! before it returns, every task spawned here is dropped at its next await. So a daemon that has
//! ended makes no more calls, and two in one process have nothing in common.

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where a daemon's tasks are spawned. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    ended: CancellationToken,
}

impl Tasks {
    /// Spawns a task that ends with the daemon, in the current tokio runtime. It answers `None` if
    /// that was before its own end.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.ended.clone().run_until_cancelled_owned(task))
    }

    /// Ends all tasks, those spawned later included, when the guard is dropped.
    #[must_use]
    pub fn end_on_drop(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_end_where_they_are_when_the_guard_goes() {
        let tasks = Tasks::default();
        let guard = tasks.end_on_drop();
        assert_eq!(tasks.spawn(async { 7 }).await.unwrap(), Some(7));
        let endless = tasks.spawn(std::future::pending::<()>());
        drop(guard);
        assert_eq!(endless.await.unwrap(), None);
        assert_eq!(tasks.spawn(async { 7 }).await.unwrap(), None);
    }
}
