//! The jobs in flight, and the messages that ask for each.
//!
//! **Guarantees.** A rejection has at most one job here; further messages for it are attached to
//! that job and share its end. Ending a job and taking its messages is one step, so that none is
//! attached to a job that has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::Span;

use crate::consumer::lease::Over;
use crate::domain::assignment::Assignment;
use crate::domain::event::JobKey;
use crate::reconcile::place::Place;
use crate::runtime::activity::{Activity, Sign};
use crate::runtime::stop::{Stop, StopReason};

/// A message that is held for a job.
#[derive(Debug)]
pub(crate) struct HeldMessage {
    pub(crate) message_id: String,
    pub(crate) receive_count: u32,
    /// What its job is about; `None` until it is attached to one.
    pub(crate) assignment: Option<Arc<Assignment>>,
    /// For what is logged of it.
    pub(crate) span: Span,
    /// Its place among the messages that may be held.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// A job that is begun.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    pub(crate) assignment: &'a Arc<Assignment>,
    pub(crate) place: Place,
    /// For what is logged of it.
    pub(crate) span: Span,
}

/// What ends a job, and what watches it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) stop: Stop,
    pub(crate) activity: Activity,
    pub(crate) place: Place,
    pub(crate) started: Instant,
}

#[derive(Debug)]
struct InFlight {
    assignment: Arc<Assignment>,
    /// Who waits for the same: the messages of one production distribution.
    crowd: String,
    span: Span,
    handle: Handle,
    messages: Vec<HeldMessage>,
}

impl InFlight {
    /// How many of its messages only wait: all but that of a job that works. Those of a job that is told to
    /// stop do not any more.
    fn held(&self) -> usize {
        let works = !self.handle.place.is_left();
        match self.handle.stop.reason() {
            Some(_) => 0,
            None => self.messages.len().saturating_sub(usize::from(works)),
        }
    }
}

/// What stepped back for the sake of others.
#[derive(Debug)]
pub(crate) struct SteppedBack {
    pub(crate) crowd: String,
    /// How many messages the crowd held before.
    pub(crate) held: usize,
    /// What is to be released; `None` if a job was told to stop.
    pub(crate) message: Option<HeldMessage>,
}

/// One job, for a report.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) doing: Sign,
    pub(crate) age: Duration,
    pub(crate) messages: usize,
    pub(crate) span: Span,
}

/// All jobs in flight.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    in_flight: Mutex<BTreeMap<JobKey, InFlight>>,
    /// Why all were told to stop, and those still to come are.
    stopping: OnceLock<StopReason>,
}

impl Jobs {
    /// Attaches a message to its job. Returns a handle if that made the job: then the caller must work on
    /// it, and end it.
    pub(crate) fn attach(&self, begun: Begun<'_>, message: HeldMessage) -> Option<Handle> {
        let mut jobs = self.in_flight.lock();
        if let Some(job) = jobs.get_mut(begun.assignment.key()) {
            job.messages.push(message);
            return None;
        }
        Some(self.make(&mut jobs, begun, vec![message]))
    }

    /// Makes a job without a message; `None` if there is one. The caller must work on it, and end it.
    pub(crate) fn begin(&self, begun: Begun<'_>) -> Option<Handle> {
        let mut jobs = self.in_flight.lock();
        let new = !jobs.contains_key(begun.assignment.key());
        new.then(|| self.make(&mut jobs, begun, Vec::new()))
    }

    fn make(
        &self,
        jobs: &mut BTreeMap<JobKey, InFlight>,
        begun: Begun<'_>,
        messages: Vec<HeldMessage>,
    ) -> Handle {
        let handle = Handle {
            stop: Stop::default(),
            activity: Activity::default(),
            place: begun.place,
            started: Instant::now(),
        };
        let job = InFlight {
            assignment: Arc::clone(begun.assignment),
            crowd: begun.assignment.crowd(),
            span: begun.span,
            handle: handle.clone(),
            messages,
        };
        jobs.insert(begun.assignment.key().clone(), job);
        if let Some(reason) = self.stopping.get() {
            handle.stop.now(*reason);
        }
        handle
    }

    /// The largest crowd steps back by one message, and by one that was received seldom. Of copies, that is
    /// returned; a job that waits is told to stop, but for the oldest, and settles its messages then.
    pub(crate) fn step_back(&self) -> Option<SteppedBack> {
        let mut jobs = self.in_flight.lock();
        let mut crowds = BTreeMap::<&str, usize>::new();
        for job in jobs.values() {
            *crowds.entry(&job.crowd).or_default() += job.held();
        }
        let (crowd, held) = crowds.into_iter().max_by_key(|(_, held)| *held)?;
        let crowd = crowd.to_owned();
        let mut waiting: Vec<_> = jobs
            .values_mut()
            .filter(|job| job.crowd == crowd && job.held() > 0)
            .collect();
        let copied = waiting.iter_mut().max_by_key(|job| job.messages.len())?;
        let copies = copied.messages.iter().enumerate().skip(1);
        let copy = copies.min_by_key(|(_, held)| held.receive_count);
        let message = copy.map(|(index, _)| index);
        let message = message.map(|index| copied.messages.remove(index));
        if message.is_none() {
            waiting.sort_by_key(|job| job.handle.started);
            let but_the_oldest = usize::from(waiting.len() > 1);
            let newest = waiting.into_iter().skip(but_the_oldest).rev();
            let receives = |job: &&mut InFlight| job.messages.first().map(|it| it.receive_count);
            newest
                .min_by_key(receives)?
                .handle
                .stop
                .now(StopReason::Crowded);
        }
        Some(SteppedBack {
            crowd,
            held,
            message,
        })
    }

    /// How many messages are on their way back for the sake of others.
    pub(crate) fn stepping_back(&self) -> usize {
        let jobs = self.in_flight.lock();
        let leaving = |job: &&InFlight| job.handle.stop.reason() == Some(StopReason::Crowded);
        jobs.values()
            .filter(leaving)
            .map(|job| job.messages.len())
            .sum()
    }

    /// Whether there is a job of this key.
    pub(crate) fn has(&self, key: &JobKey) -> bool {
        self.in_flight.lock().contains_key(key)
    }

    /// Whether a job holds this message, which was received once more.
    pub(crate) fn hold(&self, message_id: &str, receive_count: u32) -> bool {
        let mut jobs = self.in_flight.lock();
        let mut held = jobs.values_mut().flat_map(|job| &mut job.messages);
        let held = held.find(|held| held.message_id == message_id);
        held.map(|held| held.receive_count = receive_count)
            .is_some()
    }

    /// Ends a job and takes its messages.
    pub(crate) fn end(&self, key: &JobKey) -> Vec<HeldMessage> {
        self.in_flight
            .lock()
            .remove(key)
            .map(|job| job.messages)
            .unwrap_or_default()
    }

    /// A message's lease is over. If it was its job's last one, the job is told to stop and settles
    /// the message at its end. Otherwise the message is returned, to be given back now.
    pub(crate) fn lease_over(&self, over: &Over) -> Option<HeldMessage> {
        let mut jobs = self.in_flight.lock();
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

    /// Tells every job to stop, and those that are made from now on.
    pub(crate) fn stop_all(&self, reason: StopReason) {
        let jobs = self.in_flight.lock();
        // The first reason stays.
        let _ = self.stopping.set(reason);
        for job in jobs.values() {
            job.handle.stop.now(reason);
        }
    }

    /// How many jobs are in flight.
    pub(crate) fn len(&self) -> usize {
        self.in_flight.lock().len()
    }

    /// What each job is doing, the oldest first.
    pub(crate) fn report(&self) -> Vec<Report> {
        let mut reports: Vec<_> = self
            .in_flight
            .lock()
            .values()
            .map(|job| Report {
                assignment: Arc::clone(&job.assignment),
                doing: job.handle.activity.sign(),
                age: job.handle.started.elapsed(),
                messages: job.messages.len(),
                span: job.span.clone(),
            })
            .collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.age));
        reports
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::domain::event::Rejection;
    use crate::reconcile::place::Places;

    fn message(id: &str) -> HeldMessage {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned();
        HeldMessage {
            message_id: id.to_owned(),
            receive_count: 1,
            assignment: None,
            span: Span::none(),
            _permit: permit.unwrap(),
        }
    }

    /// A job of the crowd of a name.
    fn job(key: &str, crowd: &str) -> Arc<Assignment> {
        let pipeline = "arn:aws:codepipeline:us-east-1:123456789012:shop";
        let key = JobKey::from(key.to_owned());
        let pipeline = pipeline.parse().unwrap();
        let rejection = Rejection {
            execution_id: crowd.to_owned(),
            ..Rejection::by_hand(key, pipeline, Timestamp::UNIX_EPOCH, "")
        };
        Assignment::of_label(rejection, "shop")
    }

    /// A job without a place.
    fn begun(assignment: &Arc<Assignment>) -> Begun<'_> {
        Begun {
            assignment,
            place: Places::new(9).none_yet(),
            span: Span::none(),
        }
    }

    #[test]
    fn the_largest_crowd_steps_back_and_never_who_works_or_came_first() {
        let jobs = Jobs::default();
        let step_back = || {
            let back = jobs.step_back()?;
            let message = back.message.map(|it| it.message_id);
            Some((back.crowd, back.held, message.unwrap_or_default()))
        };
        assert_eq!(step_back(), None);
        let works = Place::uncounted();
        let copied = job("copied", "shop");
        let begun_with = |place| Begun {
            place,
            ..begun(&copied)
        };
        jobs.attach(begun_with(works.clone()), message("a"))
            .unwrap();
        assert_eq!(step_back(), None, "one job, which works");
        for id in ["b", "c", "d"] {
            assert!(
                jobs.attach(begun_with(works.clone()), message(id))
                    .is_none()
            );
        }
        let [first, second] = [job("first", "blog"), job("second", "blog")];
        let first_stop = jobs.attach(begun(&first), message("x")).unwrap().stop;
        let second_stop = jobs.attach(begun(&second), message("y")).unwrap().stop;
        let took =
            |crowd: &str, held, message: &str| Some((crowd.to_owned(), held, message.to_owned()));
        assert_eq!(step_back(), took("shop", 3, "b"));
        // As many wait in both.
        assert_eq!(step_back(), took("shop", 2, "c"));
        assert_eq!(step_back(), took("blog", 2, ""));
        assert_eq!(first_stop.reason(), None);
        assert_eq!(second_stop.reason(), Some(StopReason::Crowded));
        assert_eq!(jobs.stepping_back(), 1);
        assert_eq!(step_back(), took("shop", 1, "d"));
        assert_eq!(step_back(), took("blog", 1, ""));
        assert_eq!(step_back(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_share_their_job_and_leave_it_one_by_one() {
        let over = |id: &str| Over {
            message_id: id.to_owned(),
            reason: StopReason::LeaseLost,
        };
        let jobs = Jobs::default();
        let (older, newer) = (job("older", "1"), job("newer", "2"));
        let handle = jobs.attach(begun(&older), message("a")).unwrap();
        assert!(jobs.attach(begun(&older), message("b")).is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        jobs.attach(begun(&newer), message("c")).unwrap();
        assert!(jobs.hold("a", 1) && jobs.hold("b", 1) && jobs.hold("c", 1) && !jobs.hold("d", 1));
        let reports: Vec<_> = jobs
            .report()
            .into_iter()
            .map(|report| {
                let id = report.assignment.execution_id().to_owned();
                (id, report.age.as_secs(), report.messages)
            })
            .collect();
        let expected = [("1".to_owned(), 5, 2), ("2".to_owned(), 0, 1)];
        assert_eq!(reports, expected);

        assert!(jobs.lease_over(&over("d")).is_none());
        assert_eq!(jobs.lease_over(&over("a")).unwrap().message_id, "a");
        assert!(jobs.hold("b", 1) && !jobs.hold("a", 1));
        assert!(handle.stop.reason().is_none());
        // The job stops for its last one, and settles it at its end.
        assert!(jobs.lease_over(&over("b")).is_none());
        assert_eq!(handle.stop.reason(), Some(StopReason::LeaseLost));
        assert_eq!(jobs.end(older.key()).len(), 1);
        assert_eq!((jobs.end(older.key()).len(), jobs.len()), (0, 1));
    }
}
