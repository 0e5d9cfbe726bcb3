//! The trails of the jobs that are being worked on, until the next write of each takes them along.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::Grant;
use crate::domain::event::JobKey;
use crate::domain::history::{Note, Trail};

/// By job, the epoch of the grant and what it noted.
#[derive(Debug, Default)]
pub(super) struct Trails(Mutex<HashMap<JobKey, (i64, Trail)>>);

impl Trails {
    /// A job was granted; `stored` is what its record holds.
    pub(super) fn begin(&self, grant: &Grant, stored: Option<&str>) {
        let trail = stored.map(Trail::read).unwrap_or_default();
        self.0
            .lock()
            .insert(grant.key.clone(), (grant.epoch, trail));
    }

    /// Adds to the trail of a grant.
    pub(super) fn note(&self, grant: &Grant, note: Note, at: Timestamp) {
        if let Some((epoch, trail)) = self.0.lock().get_mut(&grant.key)
            && *epoch == grant.epoch
        {
            trail.note(note, at);
        }
    }

    /// What is known of a granted job.
    pub(super) fn get(&self, grant: &Grant) -> Option<Trail> {
        let trails = self.0.lock();
        let (epoch, trail) = trails.get(&grant.key)?;
        (*epoch == grant.epoch).then(|| trail.clone())
    }

    /// What the record of a grant should hold.
    pub(super) fn text(&self, grant: &Grant) -> Option<String> {
        let trails = self.0.lock();
        let (epoch, trail) = trails.get(&grant.key)?;
        (*epoch == grant.epoch).then(|| trail.text())
    }

    /// The grant is given up.
    pub(super) fn end(&self, grant: &Grant) {
        let mut trails = self.0.lock();
        if trails
            .get(&grant.key)
            .is_some_and(|(epoch, _)| *epoch == grant.epoch)
        {
            trails.remove(&grant.key);
        }
    }
}
