//! Tells people what became of their rejections: on an event bus, and to a program.
//!
//! | file | what |
//! |---|---|
//! | `notice` | what is told of which end, and in which words |
//! | `dispatcher` | carries notices to one sink until each is taken |
//! | `sink` | the event bus, and the program |
//!
//! **Guarantees.** At least once: a notice is in the ledger before the end that it tells of is (the job is
//! recorded as done, or the message given back), and leaves it when every sink has taken it. What a
//! crash leaves is sent at the next start. Nothing here blocks or fails a job: a ledger that does not take
//! a notice is logged, and the notice is carried from memory alone.
//!
//! **Races.** A crash between the sending and the forgetting sends again: receivers tell a notice by its
//! `id`. An end that could not be recorded is told all the same, since it may have been, and the account was
//! found so; the job's next run tells it again. Of a refusal or a failure, which is met again at each receive,
//! one notice is made by each process.
//! An instance that starts sends what it finds owed, though another one may be about to.
//!
//! **Not handled.** A message that becomes a dead letter because its last receiver died: nobody is left to
//! tell. The alarm on the dead-letter queue does.

mod dispatcher;
mod notice;
mod sink;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{Instrument, warn};

pub use dispatcher::MAX_WAITING;
pub use notice::{End, Notice, Run};
pub use sink::{DETAIL_TYPE, PROGRAM_TIMEOUT};

use crate::aws::Connector;
use crate::config::Notify as Settings;
use crate::domain::assignment::Assignment;
use crate::domain::event::JobKey;
use crate::ledger::Outbox;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::programs::Programs;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Telemetry, chain};
use dispatcher::Dispatcher;
use sink::{Bus, Program, Sink};

/// So many refusals and failures are remembered, so that each is told once.
const MAX_TOLD: usize = 4096;

/// Between two tries of reading what is owed.
const BACKOFF: Backoff = Backoff {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// Whom notices are given to. Clones are the same; the default tells nobody.
#[derive(Clone, Default)]
pub struct Notifier(
    Option<Arc<Inner>>,
    /// After how many receives a message becomes a dead letter; 0 if that is not known.
    Arc<AtomicU32>,
);

struct Inner {
    outbox: Arc<dyn Outbox>,
    clock: Clock,
    tasks: Tasks,
    dispatchers: Vec<Arc<Dispatcher>>,
    open: Arc<Open>,
    /// Notices that every dispatcher is done with, to be forgotten.
    settled: Mutex<Option<mpsc::UnboundedReceiver<String>>>,
    told: Mutex<Told>,
}

/// The notices on their way: by id, how many dispatchers still have it; none, until the ledger has forgotten it.
#[derive(Default)]
struct Open {
    notices: Mutex<BTreeMap<String, usize>>,
    fewer: tokio::sync::Notify,
}

/// What was told of which job, oldest first.
#[derive(Default)]
struct Told {
    order: VecDeque<(JobKey, (&'static str, &'static str))>,
    known: HashSet<(JobKey, (&'static str, &'static str))>,
}

impl Told {
    /// Whether it is new, and from now on it is not.
    fn is_first(&mut self, key: &JobKey, kind: (&'static str, &'static str)) -> bool {
        let it = (key.clone(), kind);
        if !self.known.insert(it.clone()) {
            return false;
        }
        self.order.push_back(it);
        if self.order.len() > MAX_TOLD
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    fn forget(&mut self, key: &JobKey) {
        self.order.retain(|(it, _)| it != key);
        self.known.retain(|(it, _)| it != key);
    }
}

/// A message that may have been received for the last time.
#[derive(Clone, Copy, Debug)]
pub struct LastReceive<'a> {
    pub message_id: &'a str,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// Why it is given back: a bounded code.
    pub reason: &'static str,
    /// The same in words, where there is more to say.
    pub detail: Option<&'a str>,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_on = self.0.is_some();
        f.debug_struct("Notifier").field("on", &is_on).finish()
    }
}

impl Notifier {
    /// Tells whom the configuration names; nobody if it names none.
    #[must_use]
    pub fn new(
        settings: &Settings,
        connector: &Connector,
        outbox: Arc<dyn Outbox>,
        clock: Clock,
        telemetry: Arc<Telemetry>,
        programs: Arc<dyn Programs>,
        tasks: Tasks,
    ) -> Self {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if !settings.event_bus.is_empty() {
            sinks.push(Box::new(Bus {
                events: connector.events(settings.region()),
                bus: settings.event_bus.clone(),
                source: settings.source.clone(),
            }));
        }
        if let Some((path, arguments)) = settings.program.split_first() {
            sinks.push(Box::new(Program {
                programs,
                path: path.into(),
                arguments: arguments.to_vec(),
                telemetry,
            }));
        }
        if sinks.is_empty() {
            return Self::default();
        }
        let open: Arc<Open> = Arc::default();
        let (sender, receiver) = mpsc::unbounded_channel();
        let dispatchers = sinks.into_iter().map(|sink| {
            let (open, sender) = (Arc::clone(&open), sender.clone());
            let done = Box::new(move |id: &str| {
                let mut open = open.notices.lock();
                let left = open.get_mut(id);
                let left = left.map(|left| {
                    *left = left.saturating_sub(1);
                    *left
                });
                if left == Some(0) {
                    // Nobody listens any more when the daemon ends; then it is sent once more.
                    let _ = sender.send(id.to_owned());
                }
            });
            Arc::new(Dispatcher::new(sink, done))
        });
        let dispatchers = dispatchers.collect();
        Self(
            Some(Arc::new(Inner {
                outbox,
                clock,
                tasks,
                dispatchers,
                open,
                settled: Mutex::new(Some(receiver)),
                told: Mutex::default(),
            })),
            Arc::default(),
        )
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// After how many receives a message becomes a dead letter, by the queue's redrive policy.
    pub fn expect_dead_letters_after(&self, max_receives: Option<u32>) {
        self.1.store(max_receives.unwrap_or(0), Ordering::Relaxed);
    }

    /// The same; `None` if that is not known, or never.
    #[must_use]
    pub fn max_receives(&self) -> Option<u32> {
        Some(self.1.load(Ordering::Relaxed)).filter(|it| *it > 0)
    }

    /// Whether a message that was received so often becomes a dead letter next.
    #[must_use]
    pub fn is_last_receive(&self, receive_count: u32) -> bool {
        self.max_receives().is_some_and(|it| receive_count >= it)
    }

    /// The notice of the end of a job's run; `None` if nobody is told, or it was told before.
    #[must_use]
    pub fn of_run(&self, job: &Assignment, run: i64, end: &End, took: Duration) -> Option<Notice> {
        let inner = self.0.as_ref()?;
        let key = job.key();
        if !matches!(end, End::Done { .. }) && !inner.told.lock().is_first(key, end.kind()) {
            return None;
        }
        let took = Some(took);
        let run = Run { number: run, took };
        Some(end.notice(Some(job), run, inner.clock.now()))
    }

    /// The notice of a message that is about to become a dead letter; `None` if it is not, or nobody is
    /// told.
    #[must_use]
    pub fn of_last_receive(
        &self,
        last: LastReceive<'_>,
        job: Option<&Assignment>,
    ) -> Option<Notice> {
        let inner = self.0.as_ref()?;
        let max_receive_count = self.max_receives()?;
        if last.receive_count < max_receive_count {
            return None;
        }
        if let Some(job) = job {
            // Should it be sent back one day, what is met then is news.
            inner.told.lock().forget(job.key());
        }
        let end = End::DeadLettered {
            reason: last.reason,
            detail: last.detail.map(str::to_owned),
            message_id: last.message_id.to_owned(),
            receive_count: last.receive_count,
            max_receive_count,
        };
        Some(end.notice(job, Run::default(), inner.clock.now()))
    }

    /// Keeps a notice in the ledger until it has been sent. Comes before what it tells of is recorded.
    pub async fn enqueue(&self, notice: &Notice) {
        let Some(inner) = &self.0 else { return };
        // Texts under keys that are texts: there is always a form.
        let text = serde_json::to_string(notice).unwrap_or_default();
        if let Err(error) = inner.outbox.enqueue(&notice.id, &text).await {
            warn!(
                notify.id = notice.id,
                error = chain(&error),
                "the ledger does not keep a notice: a crash before it is sent would lose it"
            );
        }
    }

    /// Sends a notice that is owed. Returns at once.
    pub fn send(&self, notice: Notice) {
        if let Some(inner) = &self.0
            && inner.is_new(&notice)
        {
            inner.hand(notice);
        }
    }

    /// Keeps a notice, and sends it. Returns at once.
    pub fn tell(&self, notice: Notice) {
        let Some(inner) = &self.0 else { return };
        if !inner.is_new(&notice) {
            return;
        }
        let (notifier, carrier) = (self.clone(), Arc::clone(inner));
        let kept = async move {
            notifier.enqueue(&notice).await;
            carrier.hand(notice);
        };
        inner.tasks.spawn(kept.in_current_span());
    }

    /// Carries notices, for ever; first those that an earlier process left. To be called once.
    pub async fn run(&self) {
        let Some(inner) = &self.0 else {
            return std::future::pending().await;
        };
        let settled = inner.settled.lock().take();
        let carry = futures_util::future::join_all(inner.dispatchers.iter().map(|it| it.carry()));
        tokio::join!(carry, self.take_up(), inner.forget(settled));
    }

    /// Takes up what is owed from earlier.
    async fn take_up(&self) {
        let Some(inner) = &self.0 else { return };
        let mut failures = 0;
        let owed = loop {
            match inner.outbox.pending().await {
                Ok(owed) => break owed,
                Err(_) => {
                    // That the ledger fails is said where it is needed.
                    failures += 1;
                    let delay = BACKOFF.delay(failures, &mut fastrand::Rng::new());
                    tokio::time::sleep(delay).await;
                }
            }
        };
        for text in owed {
            // What cannot be read is not ours to send.
            if let Ok(notice) = serde_json::from_str(&text) {
                self.send(notice);
            }
        }
    }

    /// Waits until nothing is left to be sent, but no longer than `limit`. What is left is sent at the next
    /// start.
    pub async fn flush(&self, limit: Duration) {
        let Some(inner) = &self.0 else { return };
        // That time is up is no error.
        let _ = tokio::time::timeout(limit, async {
            loop {
                let fewer = inner.open.fewer.notified();
                if inner.open.notices.lock().is_empty() {
                    return;
                }
                fewer.await;
            }
        })
        .await;
    }
}

impl Inner {
    /// Whether a notice is not on its way yet; from now on it is.
    fn is_new(&self, notice: &Notice) -> bool {
        let mut open = self.open.notices.lock();
        if open.contains_key(&notice.id) {
            return false;
        }
        open.insert(notice.id.clone(), self.dispatchers.len());
        true
    }

    fn hand(&self, notice: Notice) {
        let notice = Arc::new(notice);
        for dispatcher in &self.dispatchers {
            dispatcher.hand(&notice);
        }
    }

    /// Lets the ledger forget what was sent.
    async fn forget(&self, settled: Option<mpsc::UnboundedReceiver<String>>) {
        let Some(mut settled) = settled else { return };
        let mut ids = Vec::new();
        while settled.recv_many(&mut ids, MAX_WAITING).await > 0 {
            // What cannot be forgotten now is sent once more after a restart.
            let _ = self.outbox.acknowledge(&ids).await;
            let mut open = self.open.notices.lock();
            for id in ids.drain(..) {
                open.remove(&id);
            }
            drop(open);
            self.open.fewer.notify_waiters();
        }
    }
}
