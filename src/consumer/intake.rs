//! What the consumer lets in: its targets, and the accounts whose events may be acted on. No I/O.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::classify::{Unhandled, classify};
use crate::config::Config;
use crate::domain::assignment::Assignment;
use crate::domain::event::Failed;
use crate::domain::targets::{NotAtHome, Targets};

/// So many warnings of events of the wrong kind are remembered.
const MAX_WARNED: usize = 1024;

/// Reads messages by the targets as they are now.
pub(super) struct Intake {
    config: Arc<Config>,
    targets: RwLock<Arc<Targets>>,
    /// The daemon's own account and its region, once known.
    home: OnceLock<(String, String)>,
    /// Of which pipelines the rule was said to ask for the wrong kind of event, and for which.
    warned: Mutex<HashSet<(&'static str, String)>>,
}

impl Intake {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self {
            targets: RwLock::new(Arc::new(config.targets.clone())),
            home: OnceLock::new(),
            warned: Mutex::default(),
            config,
        }
    }

    /// The targets as they are now.
    pub(super) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read())
    }

    /// Replaces the targets. What was read keeps its own.
    ///
    /// # Errors
    /// [`NotAtHome`]; then nothing has changed.
    pub(super) fn set_targets(&self, targets: Targets) -> Result<(), NotAtHome> {
        let targets = match self.home.get() {
            Some((account, region)) => targets.at_home(account, region)?,
            None => targets,
        };
        *self.targets.write() = Arc::new(targets);
        Ok(())
    }

    /// From now on it is known where the daemon is; what the queue's URL says comes first.
    ///
    /// # Errors
    /// [`NotAtHome`].
    pub(super) fn at_home(&self, account: &str, region: &str) -> Result<(), NotAtHome> {
        let targets = Targets::clone(&self.targets());
        let _ = self.home.set((account.to_owned(), region.to_owned()));
        self.set_targets(targets)
    }

    /// Whether an event of `account` may be acted on.
    pub(super) fn allows_account(&self, account: &str) -> bool {
        self.config.allows_account(account)
    }

    /// What a message asks for.
    ///
    /// # Errors
    /// [`Unhandled`]: it makes no job.
    pub(super) fn read(
        &self,
        targets: &Targets,
        body: String,
    ) -> Result<Arc<Assignment>, Unhandled> {
        let allows = |account: &str| self.allows_account(account);
        let (rejection, target) = classify(&body, targets, allows)?;
        Ok(Assignment::of_event(*rejection, target, body))
    }

    /// Whether a stage or a pipeline of ours that failed as a whole is to be warned of: once for each pipeline and
    /// kind.
    pub(super) fn is_first(&self, failed: &Failed) -> bool {
        let mut warned = self.warned.lock();
        if warned.len() >= MAX_WARNED {
            warned.clear();
        }
        warned.insert((failed.code(), failed.pipeline.to_string()))
    }
}
