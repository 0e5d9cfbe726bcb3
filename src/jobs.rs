//! The jobs in flight, and the messages that ask for each.
//!
//! **Guarantees.** A rejection has at most one job here; further messages for it are attached to
//! that job and share its end. Ending a job and taking its messages is one step, so that none is
//! attached to a job that has ended.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::activity::{Activity, Sign};
use crate::event::{JobKey, Rejection};
use crate::lease::Over;
use crate::stop::{Stop, StopReason};

/// What a job is about.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) rejection: Rejection,
    /// The target's pipeline as written.
    pub(crate) target: String,
}

/// A message that is held for a job.
#[derive(Debug)]
pub(crate) struct HeldMessage {
    pub(crate) message_id: String,
    pub(crate) receive_count: u32,
    /// What its job is about; `None` until it is attached to one.
    pub(crate) about: Option<About>,
    /// Its place among those that may be in flight.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What ends a job, and what watches it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) stop: Stop,
    pub(crate) activity: Activity,
    pub(crate) started: Instant,
}

#[derive(Debug)]
struct InFlight {
    execution_id: String,
    handle: Handle,
    messages: Vec<HeldMessage>,
}

/// One job, for a report.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) execution_id: String,
    pub(crate) doing: Sign,
    pub(crate) age: Duration,
    pub(crate) messages: usize,
}

/// All jobs in flight.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<BTreeMap<JobKey, InFlight>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobKey, InFlight>> {
        // Every critical section here is a few assignments; none leaves a half-made state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a message to the job of `key`. Returns a handle if that made the job: then the
    /// caller must work on it, and end it.
    pub(crate) fn attach(
        &self,
        key: &JobKey,
        execution_id: &str,
        message: HeldMessage,
    ) -> Option<Handle> {
        let mut jobs = self.lock();
        if let Some(job) = jobs.get_mut(key) {
            job.messages.push(message);
            return None;
        }
        Some(Self::make(&mut jobs, key, execution_id, vec![message]))
    }

    /// Makes the job of `key` without a message; `None` if there is one. The caller must work on it, and
    /// end it.
    pub(crate) fn begin(&self, key: &JobKey, execution_id: &str) -> Option<Handle> {
        let mut jobs = self.lock();
        let new = !jobs.contains_key(key);
        new.then(|| Self::make(&mut jobs, key, execution_id, Vec::new()))
    }

    fn make(
        jobs: &mut BTreeMap<JobKey, InFlight>,
        key: &JobKey,
        execution_id: &str,
        messages: Vec<HeldMessage>,
    ) -> Handle {
        let handle = Handle {
            stop: Stop::default(),
            activity: Activity::default(),
            started: Instant::now(),
        };
        let job = InFlight {
            execution_id: execution_id.to_owned(),
            handle: handle.clone(),
            messages,
        };
        jobs.insert(key.clone(), job);
        handle
    }

    /// Whether there is a job of this key.
    pub(crate) fn has(&self, key: &JobKey) -> bool {
        self.lock().contains_key(key)
    }

    /// Whether a job holds this message, which was received once more.
    pub(crate) fn hold(&self, message_id: &str, receive_count: u32) -> bool {
        let mut jobs = self.lock();
        let mut held = jobs.values_mut().flat_map(|job| &mut job.messages);
        let held = held.find(|held| held.message_id == message_id);
        held.map(|held| held.receive_count = receive_count)
            .is_some()
    }

    /// Ends a job and takes its messages.
    pub(crate) fn end(&self, key: &JobKey) -> Vec<HeldMessage> {
        self.lock()
            .remove(key)
            .map(|job| job.messages)
            .unwrap_or_default()
    }

    /// A message's lease is over. If it was its job's last one, the job is told to stop and settles
    /// the message at its end. Otherwise the message is returned, to be given back now.
    pub(crate) fn lease_over(&self, over: &Over) -> Option<HeldMessage> {
        let mut jobs = self.lock();
        let (job, index) = jobs.values_mut().find_map(|job| {
            let index = job
                .messages
                .iter()
                .position(|held| held.message_id == over.message_id)?;
            Some((job, index))
        })?;
        if job.messages.len() == 1 {
            job.handle.stop.now(over.reason);
            return None;
        }
        Some(job.messages.swap_remove(index))
    }

    /// Tells every job to stop.
    pub(crate) fn stop_all(&self, reason: StopReason) {
        for job in self.lock().values() {
            job.handle.stop.now(reason);
        }
    }

    /// How many jobs are in flight.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// What each job is doing, the oldest first.
    pub(crate) fn report(&self) -> Vec<Report> {
        let mut reports: Vec<_> = self
            .lock()
            .values()
            .map(|job| Report {
                execution_id: job.execution_id.clone(),
                doing: job.handle.activity.sign(),
                age: job.handle.started.elapsed(),
                messages: job.messages.len(),
            })
            .collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.age));
        reports
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn messages_share_their_job_and_leave_it_one_by_one() {
        let permits = Arc::new(Semaphore::new(9));
        let message = |id: &str| HeldMessage {
            message_id: id.to_owned(),
            receive_count: 1,
            about: None,
            _permit: Arc::clone(&permits).try_acquire_owned().unwrap(),
        };
        let key = |job: &str| JobKey::from(job.to_owned());
        let over = |id: &str| Over {
            message_id: id.to_owned(),
            reason: StopReason::LeaseLost,
        };
        let jobs = Jobs::default();
        let (older, newer) = (key("older"), key("newer"));
        let handle = jobs.attach(&older, "execution 1", message("a")).unwrap();
        assert!(jobs.attach(&older, "execution 1", message("b")).is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        jobs.attach(&newer, "execution 2", message("c")).unwrap();
        assert!(jobs.hold("a", 1) && jobs.hold("b", 1) && jobs.hold("c", 1) && !jobs.hold("d", 1));
        let reports: Vec<_> = jobs
            .report()
            .into_iter()
            .map(|report| (report.execution_id, report.age.as_secs(), report.messages))
            .collect();
        let expected = [
            ("execution 1".to_owned(), 5, 2),
            ("execution 2".to_owned(), 0, 1),
        ];
        assert_eq!(reports, expected);

        assert!(jobs.lease_over(&over("d")).is_none());
        assert_eq!(jobs.lease_over(&over("a")).unwrap().message_id, "a");
        assert!(jobs.hold("b", 1) && !jobs.hold("a", 1));
        assert!(handle.stop.reason().is_none());
        // The job stops for its last one, and settles it at its end.
        assert!(jobs.lease_over(&over("b")).is_none());
        assert_eq!(handle.stop.reason(), Some(StopReason::LeaseLost));
        assert_eq!(jobs.end(&older).len(), 1);
        assert_eq!((jobs.end(&older).len(), jobs.len()), (0, 1));
    }
}
