//! Carries notices to one sink, in their order, until each is taken.
//!
//! **Guarantees.** A notice that is not taken is tried again with backoff, for as long as the process lives;
//! one that would be refused for ever is dropped and logged. At most [`MAX_WAITING`] wait: beyond that the
//! oldest is dropped and logged. Nothing that a sink does holds up whoever hands a notice over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info};

use super::notice::Notice;
use super::sink::{DeliveryError, Sink};
use crate::runtime::backoff::Backoff;
use crate::runtime::lasting::Failing;
use crate::telemetry::{fails, ms};

/// So many notices wait for a sink at most.
pub const MAX_WAITING: usize = 1000;

/// Between two tries.
const BACKOFF: Backoff = Backoff {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(5 * 60),
};

/// Told of each notice that this dispatcher is done with: taken, or dropped.
pub(super) type Done = Box<dyn Fn(&str) + Send + Sync>;

pub(super) struct Dispatcher {
    sink: Box<dyn Sink>,
    waiting: Mutex<VecDeque<Arc<Notice>>>,
    handed: Notify,
    done: Done,
}

impl Dispatcher {
    pub(super) fn new(sink: Box<dyn Sink>, done: Done) -> Self {
        Self {
            sink,
            waiting: Mutex::default(),
            handed: Notify::new(),
            done,
        }
    }

    /// Hands a notice over; one that waits already is not taken twice.
    pub(super) fn hand(&self, notice: &Arc<Notice>) {
        let dropped = {
            let mut waiting = self.waiting.lock();
            if waiting.iter().any(|it| it.id == notice.id) {
                return;
            }
            waiting.push_back(Arc::clone(notice));
            (waiting.len() > MAX_WAITING)
                .then(|| waiting.pop_front())
                .flatten()
        };
        if let Some(dropped) = dropped {
            self.drop(&dropped, "too many wait");
        }
        self.handed.notify_one();
    }

    /// Carries, for ever.
    pub(super) async fn carry(&self) {
        let mut failures = 0;
        let mut failing = Failing::default();
        loop {
            let batch = self.batch(failures).await;
            let results = self.sink.take(&batch).await;
            let mut failed = None;
            for (notice, result) in batch.iter().zip(results) {
                match result {
                    Ok(()) => {
                        let span = notice.span();
                        let _about = span.enter();
                        info!(
                            notify.outlet = self.sink.name(),
                            notify.id = notice.id,
                            "outcome notified"
                        );
                        self.settle(notice);
                    }
                    Err(DeliveryError {
                        why,
                        permanent: true,
                    }) => self.drop(notice, &why),
                    Err(DeliveryError { why, .. }) => failed = Some(why),
                }
            }
            let Some(why) = failed else {
                if let Some(took) = failing.recovered() {
                    info!(
                        notify.outlet = self.sink.name(),
                        took_ms = ms(took),
                        "outcomes can be notified again"
                    );
                }
                failures = 0;
                continue;
            };
            failures += 1;
            let delay = BACKOFF.delay(failures, &mut fastrand::Rng::new());
            fails!(
                warn,
                failing.failed(),
                notify.outlet = self.sink.name(),
                notify.waiting = self.waiting.lock().len(),
                retry.delay_ms = ms(delay),
                detail = why,
                "outcomes cannot be notified; they are kept and tried again"
            );
            tokio::time::sleep(delay).await;
        }
    }

    /// What goes next. After failures one by one, so that what is refused for good is told from the rest.
    async fn batch(&self, failures: u32) -> Vec<Arc<Notice>> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let waiting = waiting.make_contiguous();
                if !waiting.is_empty() {
                    let count = match failures {
                        0 => self.sink.at_once(waiting),
                        _ => 1,
                    };
                    return waiting[..count].to_vec();
                }
            }
            self.handed.notified().await;
        }
    }

    fn settle(&self, notice: &Notice) {
        self.waiting.lock().retain(|it| it.id != notice.id);
        (self.done)(&notice.id);
    }

    fn drop(&self, notice: &Notice, why: &str) {
        let span = notice.span();
        let _about = span.enter();
        error!(
            notify.outlet = self.sink.name(),
            notify.id = notice.id,
            detail = why,
            "an outcome is not notified"
        );
        self.settle(notice);
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Takes three at once; refuses a batch that has a notice of which it will never hear.
    #[derive(Default)]
    struct Picky {
        tried: Arc<Mutex<Vec<Vec<String>>>>,
    }

    #[async_trait]
    impl Sink for Picky {
        fn name(&self) -> &'static str {
            "picky"
        }

        fn at_once(&self, notices: &[Arc<Notice>]) -> usize {
            notices.len().min(3)
        }

        async fn take(&self, notices: &[Arc<Notice>]) -> Vec<Result<(), DeliveryError>> {
            let ids: Vec<String> = notices.iter().map(|it| it.id.clone()).collect();
            let bad = ids.iter().any(|id| id == "bad");
            self.tried.lock().push(ids);
            let refused = DeliveryError {
                why: "malformed".to_owned(),
                permanent: notices.len() == 1,
            };
            match bad {
                true => vec![Err(refused); notices.len()],
                false => vec![Ok(()); notices.len()],
            }
        }
    }

    fn notice(id: &str) -> Arc<Notice> {
        Arc::new(Notice {
            id: id.to_owned(),
            resources: Vec::new(),
            detail: "{}".to_owned(),
        })
    }

    type Log<T> = Arc<Mutex<Vec<T>>>;

    /// A dispatcher, what it tries at once, and what it is done with.
    fn dispatcher() -> (Dispatcher, Log<Vec<String>>, Log<String>) {
        let sink = Picky::default();
        let (tried, done) = (
            Arc::clone(&sink.tried),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let ended = Arc::clone(&done);
        let dispatcher = Dispatcher::new(
            Box::new(sink),
            Box::new(move |id| ended.lock().push(id.to_owned())),
        );
        (dispatcher, tried, done)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_is_told_from_the_rest_and_dropped() {
        let (dispatcher, tried, done) = dispatcher();
        for id in ["one", "bad", "two", "three", "one"] {
            dispatcher.hand(&notice(id));
        }
        let carried = tokio::time::timeout(Duration::from_secs(60), dispatcher.carry());
        assert!(carried.await.is_err(), "it carries for ever");
        assert_eq!(*done.lock(), ["one", "bad", "two", "three"]);
        let tried = tried.lock();
        assert_eq!(tried[0], ["one", "bad", "two"]);
        assert_eq!(tried[1], ["one"]);
        assert!(tried.contains(&vec!["bad".to_owned()]), "{tried:?}");
    }

    #[test]
    fn no_more_than_so_many_wait_and_the_oldest_go() {
        let (dispatcher, _, done) = dispatcher();
        for n in 0..MAX_WAITING + 2 {
            dispatcher.hand(&notice(&n.to_string()));
        }
        assert_eq!(*done.lock(), ["0", "1"]);
        assert_eq!(dispatcher.waiting.lock().len(), MAX_WAITING);
    }
}
