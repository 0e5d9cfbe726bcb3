//! The lease on a message: its visibility timeout, extended while work goes on.
//!
//! **Guarantees.** A lease is advanced only when SQS confirms, and then from the moment the request
//! was *sent*. A failed extension is tried again, with jitter, until the safety margin; then the
//! lease is lost, while the message is still invisible to others. No extension of a message is
//! under way once [`Leases::take`] has returned: one owner for extend, release and delete. What was
//! taken knows when its message was received again: an older receipt handle is used no more.
//!
//! **Assumptions.** A received message is invisible from the arrival of the reply on, give or take
//! the network's latency, which is far below the safety margin.
//!
//! **Not handled.** The monotonic clock of a machine that sleeps may stand still, and a lease then looks longer than
//! it is. The next extension fails and stops the job; a step may have been taken before.
//!
//! **Not handled here.** What a job does when it loses its lease ([`crate::consumer`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Span, info};

use crate::aws::sqs::{MAX_BATCH, Queue};
use crate::domain::lease_terms::Terms;
use crate::runtime::lasting::Failing;
use crate::runtime::stop::StopReason;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Telemetry, events, ms};

/// SQS lets no message stay invisible for longer than this after its receive, however often it is
/// extended: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html>.
pub const VISIBILITY_CEILING: Duration = Duration::from_secs(12 * 60 * 60);

/// A message is given back at least this long before the ceiling, so that the job can reach a step
/// boundary.
const CEILING_MARGIN: Duration = Duration::from_secs(10 * 60);

/// No extension reaches closer to the ceiling: SQS counts it from its own moment of the receive, and
/// refuses what goes beyond it.
const CEILING_SLACK: Duration = Duration::from_secs(5 * 60);

/// One message's lease. Pure: it is told the time.
#[derive(Clone, Debug)]
pub struct Lease {
    terms: Terms,
    received_at: Instant,
    /// When the request was sent that was confirmed last; at first, the receive.
    confirmed_at: Instant,
    /// Confirmed up to here.
    until: Instant,
    next: Instant,
    failures: u32,
    /// SQS said that the message is not ours any more.
    lost: bool,
}

/// What a lease asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this moment.
    At(Instant),
    /// An extension by this much, now.
    Extend(Duration),
    /// Nothing more: it has ended.
    Over(StopReason),
}

impl Lease {
    /// The lease of a message that was received at `received_at`.
    #[must_use]
    pub fn new(terms: Terms, received_at: Instant) -> Self {
        Self {
            terms,
            received_at,
            confirmed_at: received_at,
            until: received_at
                + terms
                    .visibility_timeout
                    .min(VISIBILITY_CEILING - CEILING_SLACK),
            next: received_at + terms.heartbeat_interval,
            failures: 0,
            lost: false,
        }
    }

    /// What is to be done at `now`.
    #[must_use]
    pub fn due(&self, now: Instant) -> Due {
        let margin = self.terms.safety_margin();
        let limit = self.received_at + VISIBILITY_CEILING - CEILING_SLACK;
        let give_back = limit - margin.max(CEILING_MARGIN - CEILING_SLACK);
        let lost = self.until - margin;
        if now >= give_back {
            Due::Over(StopReason::VisibilityCeiling)
        } else if self.lost || now >= lost {
            Due::Over(StopReason::LeaseLost)
        } else if now >= self.next {
            Due::Extend(self.extension(now))
        } else {
            Due::At(self.next.min(lost).min(give_back))
        }
    }

    /// The extension that is due within a tenth of the heartbeat interval, if it is: it costs no call
    /// of its own where another one is sent now. One that is tried again keeps its time.
    #[must_use]
    pub fn due_soon(&self, now: Instant) -> Option<Duration> {
        let soon = self.failures == 0
            && self.next <= now + self.terms.heartbeat_interval / 10
            && matches!(self.due(now), Due::At(_));
        soon.then(|| self.extension(now))
    }

    /// By how much an extension extends that is sent now. SQS takes whole seconds.
    fn extension(&self, now: Instant) -> Duration {
        let limit = self.received_at + VISIBILITY_CEILING - CEILING_SLACK;
        let by = self.terms.visibility_timeout.min(limit - now);
        Duration::from_secs(by.as_secs())
    }

    /// SQS confirmed an extension by `visibility` that was sent at `sent_at`.
    pub fn confirmed(&mut self, sent_at: Instant, visibility: Duration) {
        if self.lost || sent_at < self.confirmed_at {
            // A late confirmation of an earlier request says nothing about a later one. And what
            // is lost was lost after whatever is confirmed now.
            return;
        }
        self.confirmed_at = sent_at;
        self.until = sent_at + visibility;
        self.next = sent_at + self.terms.heartbeat_interval;
        self.failures = 0;
    }

    /// An extension was not confirmed.
    pub fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        self.failures += 1;
        let interval = self.terms.retry_interval();
        self.next = now + interval / 2 + interval.mul_f64(rng.f64());
    }

    /// SQS says that the message is not ours any more.
    pub fn lost(&mut self, now: Instant) {
        self.lost = true;
        self.until = self.until.min(now);
    }

    /// How much is left at `now`.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}

/// A lease that ended while its message was still held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    pub message_id: String,
    pub reason: StopReason,
}

/// The leases of all messages that are held.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    terms: Terms,
    telemetry: Arc<Telemetry>,
    /// By message id: an order that the same messages always have.
    held: Mutex<BTreeMap<String, Arc<Held>>>,
    /// By message id: receipt handles that were taken and are still in use.
    taken: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
    tasks: Tasks,
    changed: Notify,
}

/// The receipt handle of a message that is not held any more, to settle it with.
#[derive(Debug)]
pub struct Taken {
    message_id: String,
    receipt_handle: String,
    superseded: Arc<AtomicBool>,
    inner: Arc<Inner>,
}

impl Taken {
    /// What SQS knows the receive by.
    #[must_use]
    pub fn receipt_handle(&self) -> &str {
        &self.receipt_handle
    }

    /// Whether the message was received again since. Where SQS honours an older receipt handle, its
    /// use would now end the newer lease.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.inner.taken.lock();
        if let Entry::Occupied(entry) = taken.entry(self.message_id.clone())
            && Arc::ptr_eq(entry.get(), &self.superseded)
        {
            entry.remove();
        }
    }
}

#[derive(Debug)]
struct Held {
    message_id: String,
    /// Locked while an extension uses it: extending, releasing and deleting never overlap.
    receipt_handle: tokio::sync::Mutex<String>,
    state: Mutex<State>,
    /// The same message under an earlier receipt handle, if that is still being extended.
    earlier: Option<Arc<Held>>,
}

#[derive(Debug)]
struct State {
    lease: Lease,
    /// Its end was told, or it is nobody's to extend any more.
    over: bool,
    /// Whether extending it fails.
    failing: Failing,
    /// For what is logged of it.
    span: Span,
}

impl Held {
    fn span(&self) -> Span {
        self.state.lock().span.clone()
    }

    /// No extension begins from now on. Returns whether none is under way either, of this one or
    /// of one before it.
    fn stop_extending(&self) -> bool {
        self.state.lock().over = true;
        self.earlier.is_none() && self.receipt_handle.try_lock().is_ok()
    }
}

impl Leases {
    /// Leases on messages of `queue`.
    #[must_use]
    pub fn new(queue: Queue, terms: Terms, telemetry: Arc<Telemetry>, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            queue,
            terms,
            telemetry,
            held: Mutex::default(),
            taken: Mutex::default(),
            tasks,
            changed: Notify::new(),
        }))
    }

    /// Holds a message that was received at `received_at`. Returns true if the message was held
    /// already: then the receipt handle, and with it the lease, is the newer one from now on.
    pub fn hold(&self, message_id: &str, receipt_handle: String, received_at: Instant) -> bool {
        let mut all = self.0.held.lock();
        if let Some(superseded) = self.0.taken.lock().remove(message_id) {
            superseded.store(true, Ordering::Relaxed);
        }
        let earlier = all.remove(message_id);
        let again = earlier.is_some();
        let span = earlier.as_ref().map_or_else(Span::none, |it| it.span());
        let held = Held {
            message_id: message_id.to_owned(),
            receipt_handle: tokio::sync::Mutex::new(receipt_handle),
            state: Mutex::new(State {
                lease: Lease::new(self.0.terms, received_at),
                over: false,
                failing: Failing::default(),
                span,
            }),
            earlier: earlier.filter(|earlier| !earlier.stop_extending()),
        };
        all.insert(message_id.to_owned(), Arc::new(held));
        drop(all);
        self.0.changed.notify_one();
        again
    }

    /// From now on it is known what the message is about.
    pub fn about(&self, message_id: &str, span: &Span) {
        if let Some(held) = self.0.held.lock().get(message_id) {
            held.state.lock().span = span.clone();
        }
    }

    /// The span of what a message that is held is about.
    #[must_use]
    pub fn span(&self, message_id: &str) -> Span {
        let held = self.0.held.lock().get(message_id).cloned();
        held.map_or_else(Span::none, |held| held.span())
    }

    /// Ends the lease of a message and returns its newest receipt handle, once no call is using it
    /// any more, nor an earlier one of the same message. `None` if the message is not held.
    pub async fn take(&self, message_id: &str) -> Option<Taken> {
        let mut taken = Taken {
            message_id: message_id.to_owned(),
            receipt_handle: String::new(),
            superseded: Arc::default(),
            inner: Arc::clone(&self.0),
        };
        let held = {
            // Both at once: a receive of the same message comes either before or after.
            let mut all = self.0.held.lock();
            let held = all.remove(message_id)?;
            let in_use = Arc::clone(&taken.superseded);
            self.0.taken.lock().insert(message_id.to_owned(), in_use);
            held
        };
        let mut earlier = &held;
        while let Some(before) = &earlier.earlier {
            drop(before.receipt_handle.lock().await);
            earlier = before;
        }
        let receipt_handle = held.receipt_handle.lock().await;
        // An extension that was decided upon and has not begun must not begin now.
        held.state.lock().over = true;
        taken.receipt_handle.clone_from(&receipt_handle);
        Some(taken)
    }

    /// Extends leases for ever. `over` is called once for each that ends; the message stays held,
    /// so that [`take`](Self::take) can still release it.
    pub async fn keep(&self, over: impl Fn(Over)) {
        loop {
            let now = Instant::now();
            let mut wake: Option<Instant> = None;
            let (mut due, mut soon, mut ended) = (Vec::new(), Vec::new(), Vec::new());
            for held in self.0.held.lock().values() {
                let mut state = held.state.lock();
                if state.over {
                    continue;
                }
                match state.lease.due(now) {
                    Due::At(at) => {
                        wake = Some(wake.map_or(at, |wake| wake.min(at)));
                        let by = state.lease.due_soon(now);
                        soon.extend(by.map(|by| (Arc::clone(held), by)));
                    }
                    Due::Extend(by) => due.push((Arc::clone(held), by)),
                    Due::Over(reason) => {
                        state.over = true;
                        ended.push(Over {
                            message_id: held.message_id.clone(),
                            reason,
                        });
                    }
                }
            }
            ended.into_iter().for_each(&over);
            if !due.is_empty() {
                due.append(&mut soon);
            }
            for (held, _) in &due {
                // No other try until this one is answered; it may be lost before.
                held.state.lock().lease.next = now + self.0.terms.visibility_timeout;
            }
            for batch in due.chunks(MAX_BATCH) {
                let (inner, batch) = (Arc::clone(&self.0), batch.to_vec());
                self.0.tasks.spawn(async move { inner.extend(batch).await });
            }
            if !due.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                () = sleep_until(wake) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

impl Inner {
    async fn extend(&self, batch: Vec<(Arc<Held>, Duration)>) {
        let mut locked = Vec::with_capacity(batch.len());
        for (held, by) in &batch {
            // One that is being settled right now, or was meanwhile, needs no extension.
            if let Ok(receipt_handle) = held.receipt_handle.try_lock()
                && !held.state.lock().over
            {
                locked.push((held, *by, receipt_handle));
            }
        }
        if locked.is_empty() {
            return;
        }
        let entries: Vec<_> = locked
            .iter()
            .map(|(_, by, handle)| (handle.to_string(), *by))
            .collect();
        let sent_at = Instant::now();
        let reply = self.queue.change_visibility(&entries).await;
        let now = Instant::now();
        let mut rng = fastrand::Rng::new();
        match reply {
            Ok(results) => {
                for ((held, by, _), result) in locked.iter().zip(results) {
                    let span = held.span();
                    let _about = span.enter();
                    match result {
                        Ok(()) => {
                            let mut state = held.state.lock();
                            let margin = state.lease.left(now);
                            state.lease.confirmed(sent_at, *by);
                            let recovered = state.failing.recovered();
                            drop(state);
                            self.telemetry.emit(events::LeaseExtended { margin });
                            if let Some(took) = recovered {
                                let message_id = &held.message_id;
                                info!(
                                    message.id = message_id,
                                    took_ms = ms(took),
                                    "the message's visibility is extended again"
                                );
                            }
                        }
                        Err(error) => {
                            self.not_extended(held, &error, error.handle_lost, &mut rng);
                        }
                    }
                }
            }
            Err(error) => {
                for (held, _, _) in &locked {
                    let span = held.span();
                    let _about = span.enter();
                    self.not_extended(held, &error, false, &mut rng);
                }
            }
        }
        drop(locked);
        self.changed.notify_one();
    }

    fn not_extended(
        &self,
        held: &Held,
        error: &(dyn StdError + 'static),
        handle_lost: bool,
        rng: &mut fastrand::Rng,
    ) {
        let now = Instant::now();
        let mut state = held.state.lock();
        state.lease.failed(now, rng);
        if handle_lost {
            state.lease.lost(now);
        }
        let phase = state.failing.failed();
        drop(state);
        self.telemetry.emit(events::HeartbeatFailed {
            message_id: &held.message_id,
            error,
            phase,
        });
    }
}

#[cfg(test)]
#[path = "lease_model_tests.rs"]
mod model_tests;
#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
