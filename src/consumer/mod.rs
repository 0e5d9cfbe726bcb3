//! The consumer: polls the queue, starts jobs, and settles every message.
//!
//! | file | what |
//! |---|---|
//! | `poll` | how many receives are under way, and what happens when they fail |
//! | `classify` | what a message is, or why it makes no job |
//! | `intake` | which job a message belongs to |
//! | `work` | one job, from its claim to its end |
//! | `unasked` | a job that no message asked for |
//! | `settle` | what becomes of a message; the only file that deletes one |
//! | `jobs` | the jobs in flight, and the messages attached to each |
//! | `lease` | the visibility timeout, extended while work goes on |
//! | `batch` | many single deletions and releases in calls of ten |
//!
//! **Guarantees.** A message is deleted only for a job that the ledger has as done, or if it is a
//! well-formed event that is no rejection. Whatever else happens to it, it stays in the queue. No
//! more messages are asked for than there are places for their jobs, and permits for themselves: a crowd
//! that waits takes no place, and where it has taken all permits, it steps back.
//!
//! **Races.** A message that comes back while it is held brings the newer receipt handle; that one
//! is used from then on.
//!
//! **Not handled here.** What a job does ([`crate::reconcile`]); how long a message stays ours
//! ([`crate::consumer::lease`]).

mod batch;
pub(crate) mod classify;
mod intake;
mod jobs;
pub mod lease;
mod poll;
mod settle;
mod unasked;
mod work;

pub(crate) use work::Origin;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::aws::sqs::Queue;
use crate::config::Config;
use crate::consumer::batch::Batcher;
use crate::consumer::jobs::Jobs;
use crate::consumer::lease::{Leases, Over};
use crate::domain::error_class::ErrorClass;
use crate::domain::lease_terms::Terms;
use crate::domain::targets::{NotAtHome, Targets};
use crate::ledger::Ledger;
use crate::notify::Notifier;
use crate::reconcile::Reconciler;
use crate::reconcile::place::Places;
use crate::runtime::activity::Activity;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::health::{self, NotPolling, Vitals};
use crate::runtime::lasting::Failing;
use crate::runtime::stop::StopReason;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Gauges, Telemetry, events};

/// What the poll loop does where it rightly does not poll.
const FULL: &str = "waiting_for_room";
const STOPPING: &str = "stopping";

/// So many messages wait for each job that may work, at most.
const WAITING: usize = 10;

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
    /// The daemon's own account and its region, once known.
    home: OnceLock<(String, String)>,
    leases: Leases,
    jobs: Jobs,
    /// For the jobs that work.
    places: Places,
    /// For every message that is held, of whatever job.
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
    /// By message, why it was last given back.
    given_back: Mutex<HashMap<String, settle::GivenBack>>,
    /// Of which pipelines the rule was said to ask for the wrong kind of event, and for which.
    warned: Mutex<HashSet<(&'static str, String)>>,
    /// The crowds that have stepped back, and when each last did.
    crowds: Mutex<HashMap<String, Instant>>,
    /// Whether the ledger fails.
    ledger_failing: Mutex<Failing>,
    /// Whether the ledger was asked once for jobs that are not done.
    looked_for_unfinished: CancellationToken,
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
            home: OnceLock::new(),
            leases: Leases::new(
                parts.queue.clone(),
                terms,
                Arc::clone(&parts.telemetry),
                parts.tasks.clone(),
            ),
            jobs: Jobs::default(),
            places: Places::new(config.queue.max_in_flight),
            permits: Arc::new(Semaphore::new(most_messages(&config))),
            deletes: settle::deletes(parts.queue.clone(), &parts.tasks),
            releases: settle::releases(parts.queue.clone(), &parts.tasks),
            polling: Activity::default(),
            polled_at: Mutex::new(Instant::now()),
            answered: CancellationToken::new(),
            receiving_fails: Mutex::default(),
            given_back: Mutex::default(),
            warned: Mutex::default(),
            crowds: Mutex::default(),
            ledger_failing: Mutex::default(),
            looked_for_unfinished: CancellationToken::new(),
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
            () = self.watch_ledger() => {}
            () = self.watch_places() => {}
        }
    }

    /// Replaces the targets. Jobs in flight keep theirs.
    ///
    /// # Errors
    /// [`NotAtHome`]; then nothing has changed.
    pub fn set_targets(&self, targets: Targets) -> Result<(), NotAtHome> {
        let targets = match self.home.get() {
            Some((account, region)) => targets.at_home(account, region)?,
            None => targets,
        };
        *self.targets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(targets);
        Ok(())
    }

    /// From now on it is known where the daemon is; what the queue's URL says comes first.
    ///
    /// # Errors
    /// [`NotAtHome`].
    pub fn at_home(&self, account: &str, region: &str) -> Result<(), NotAtHome> {
        let targets = Targets::clone(&self.targets());
        let _ = self.home.set((account.to_owned(), region.to_owned()));
        self.set_targets(targets)
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

    /// Nothing is received yet, and why.
    pub(crate) fn cannot_receive(&self, class: ErrorClass) {
        *lock(&self.receiving_fails) = Some(class);
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
            ledger_fails: lock(&self.ledger_failing).is_so(),
            ledger_trouble: self.parts.ledger.trouble(),
            not_polling,
            mode: self.targets().mode(),
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
            let _about = report.span.enter();
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
        let all = most_messages(&self.config);
        let settled = self.permits.acquire_many(poll::whole(all));
        let grace = self.config.shutdown.grace_period;
        let _ = tokio::time::timeout(grace, settled).await;
        let unsettled = all - self.permits.available_permits();
        self.emit(events::Stopped { unsettled });
    }

    fn is_stopping(&self) -> bool {
        self.polling.sign().what == STOPPING
    }

    fn lease_over(self: &Arc<Self>, over: Over) {
        let span = self.leases.span(&over.message_id);
        let _about = span.enter();
        self.emit(events::LeaseLost {
            message_id: &over.message_id,
            reason: over.reason.code(),
        });
        if let Some(held) = self.jobs.lease_over(&over) {
            self.let_go(held, Duration::ZERO, over.reason);
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            initial: self.config.retry.initial_backoff,
            max: self.config.retry.max_backoff,
        }
    }
}

/// How many messages may be held: those of the jobs that work, and ten times as many that wait.
fn most_messages(config: &Config) -> usize {
    config.queue.max_in_flight.saturating_mul(1 + WAITING)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every critical section here is an assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
