//! The consumer: polls the queue, starts jobs, and settles every message.
//!
//! | file | what |
//! |---|---|
//! | `poll` | how many receives are under way, and what happens when they fail |
//! | `intake` | what a message is, and which job it belongs to |
//! | `work` | one job, from its claim to its end |
//! | `unasked` | a job that no message asked for |
//! | `settle` | what becomes of a message; the only file that deletes one |
//!
//! **Guarantees.** A message is deleted only for a job that the ledger has as done, or if it is a
//! well-formed event that is no rejection. Whatever else happens to it, it stays in the queue. No
//! more messages are asked for than there are permits.
//!
//! **Races.** A message that comes back while it is held brings the newer receipt handle; that one
//! is used from then on.
//!
//! **Not handled here.** What a job does ([`crate::reconcile`]); how long a message stays ours
//! ([`crate::lease`]).

mod intake;
mod poll;
mod settle;
mod unasked;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::activity::Activity;
use crate::aws::sqs::Queue;
use crate::batch::Batcher;
use crate::clock::Clock;
use crate::config::Config;
use crate::health::{self, NotPolling, Vitals};
use crate::jobs::Jobs;
use crate::lease::{Leases, Over, Terms};
use crate::ledger::Ledger;
use crate::notify::Notifier;
use crate::reconcile::Reconciler;
use crate::retry::{Backoff, ErrorClass};
use crate::stop::StopReason;
use crate::target::Targets;
use crate::tasks::Tasks;
use crate::telemetry::{Gauges, Telemetry, events};

/// What the poll loop does where it rightly does not poll.
const FULL: &str = "waiting_for_room";
const STOPPING: &str = "stopping";

/// Everything a consumer works with.
#[derive(Debug)]
pub struct Parts {
    /// The queue.
    pub queue: Queue,
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// Carries out jobs.
    pub reconciler: Reconciler,
    /// Tells people of ends.
    pub notifier: Notifier,
    /// Wall-clock time.
    pub clock: Clock,
    /// Logs and metrics.
    pub telemetry: Arc<Telemetry>,
    /// Where its tasks run.
    pub tasks: Tasks,
}

/// Consumes one queue.
pub struct Consumer {
    parts: Parts,
    config: Config,
    /// How messages are held, and grants kept beside them.
    terms: Terms,
    targets: RwLock<Arc<Targets>>,
    leases: Leases,
    jobs: Jobs,
    permits: Arc<Semaphore>,
    deletes: Batcher<()>,
    releases: Batcher<Duration>,
    /// What the poll loop does.
    polling: Activity,
    /// When the last poll was completed.
    polled_at: Mutex<Instant>,
    /// Whether any poll was completed.
    answered: CancellationToken,
    /// Why receiving fails.
    receiving_fails: Mutex<Option<ErrorClass>>,
    /// By message, at which receive the program of its job said that it cannot be done.
    said_no: Mutex<HashMap<String, u32>>,
    /// Since when the ledger fails.
    ledger_failing: Mutex<Option<Instant>>,
    /// When the last message that was released with a delay comes back.
    released_until: Mutex<Option<Instant>>,
}

impl Consumer {
    /// A consumer of one queue.
    #[must_use]
    pub fn new(parts: Parts, config: Config) -> Arc<Self> {
        let terms = Terms {
            visibility_timeout: config.queue.visibility_timeout,
            heartbeat_interval: config.queue.heartbeat_interval,
        };
        Arc::new(Self {
            targets: RwLock::new(Arc::new(config.targets.clone())),
            leases: Leases::new(
                parts.queue.clone(),
                terms,
                Arc::clone(&parts.telemetry),
                parts.tasks.clone(),
            ),
            jobs: Jobs::default(),
            permits: Arc::new(Semaphore::new(config.queue.max_in_flight)),
            deletes: settle::deletes(parts.queue.clone(), &parts.tasks),
            releases: settle::releases(parts.queue.clone(), &parts.tasks),
            polling: Activity::default(),
            polled_at: Mutex::new(Instant::now()),
            answered: CancellationToken::new(),
            receiving_fails: Mutex::default(),
            said_no: Mutex::default(),
            ledger_failing: Mutex::default(),
            released_until: Mutex::default(),
            parts,
            config,
            terms,
        })
    }

    /// Consumes until `stop` is cancelled, or, with `drain`, until the queue is empty and all jobs
    /// are done. Then stops within the grace period.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken, drain: bool) {
        let consume = async {
            self.poll(&stop, drain).await;
            self.wind_down().await;
        };
        // One task: a panic in the keeping of leases must not go unnoticed while jobs go on.
        tokio::select! {
            biased;
            () = consume => {}
            () = self.leases.keep(|over| self.lease_over(over)) => {}
        }
    }

    /// Replaces the targets. Jobs in flight keep theirs.
    pub fn set_targets(&self, targets: Targets) {
        *self.targets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(targets);
    }

    /// What is so now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let oldest = self.jobs.report().first().map(|report| report.age);
        Gauges {
            in_flight: self.jobs.len(),
            oldest_in_flight_age: oldest.unwrap_or_default(),
            poll_age: lock(&self.polled_at).elapsed(),
        }
    }

    /// Whether it is well: for the watchdog, and for those who ask.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let polling = self.polling.sign();
        let polled = self
            .answered
            .is_cancelled()
            .then(|| lock(&self.polled_at).elapsed());
        let not_polling = match polling.what {
            FULL => Some(NotPolling::Full),
            STOPPING => Some(NotPolling::Stopping),
            _ => None,
        };
        let jobs = self.jobs.report().into_iter().map(|report| health::Job {
            execution_id: report.execution_id,
            doing: report.doing,
        });
        Vitals {
            polling,
            polled,
            receiving_fails: lock(&self.receiving_fails).map(ErrorClass::code),
            ledger_fails: lock(&self.ledger_failing).is_some(),
            not_polling,
            jobs: jobs.collect(),
        }
    }

    /// Waits until the queue has answered a poll.
    pub async fn answered(&self) {
        self.answered.cancelled().await;
    }

    /// Logs the state of every job in flight.
    pub fn report(&self) {
        for report in self.jobs.report() {
            self.emit(events::InFlightReported {
                execution_id: &report.execution_id,
                activity: report.doing.what,
                age: report.age,
                messages: report.messages,
            });
        }
    }

    fn emit(&self, event: impl events::Event) {
        self.parts.telemetry.emit(event);
    }

    /// Stops all jobs at their next step boundary, and settles their messages.
    async fn wind_down(&self) {
        self.polling.rest(STOPPING);
        self.jobs.stop_all(StopReason::ShuttingDown);
        // Every message has a permit until it is settled, and nothing takes new ones in any more.
        let all = u32::try_from(self.config.queue.max_in_flight).unwrap_or(u32::MAX);
        let grace = self.config.shutdown.grace_period;
        let _ = tokio::time::timeout(grace, self.permits.acquire_many(all)).await;
        let unsettled = self.config.queue.max_in_flight - self.permits.available_permits();
        self.emit(events::Stopped { unsettled });
    }

    fn lease_over(self: &Arc<Self>, over: Over) {
        self.emit(events::LeaseLost {
            message_id: &over.message_id,
            reason: over.reason.code(),
        });
        if let Some(held) = self.jobs.lease_over(&over) {
            let reason = over.reason.code();
            let notice = self.dead_letter(&held, held.about.as_ref(), reason, None);
            self.release(held, Duration::ZERO, reason, notice);
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            initial: self.config.retry.initial_backoff,
            max: self.config.retry.max_backoff,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every critical section here is an assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
