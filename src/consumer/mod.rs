//! The consumer: polls the queue, starts jobs, and settles every message.
//!
//! | file | what |
//! |---|---|
//! | `poll` | how many receives are under way, and what happens when they fail |
//! | `poll_health` | what the poll loop does, for the watchdog and the gauges |
//! | `room` | permits for messages, places for jobs |
//! | `classify` | what a message is, or why it makes no job |
//! | `intake` | the targets and accounts that messages are read by |
//! | `arrive` | which job a message belongs to |
//! | `work` | one job, from its claim to its end |
//! | `conclude` | how a run ended: its report, and what becomes of its messages |
//! | `ledger_health` | whether the ledger works, and what is reported of it |
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

mod arrive;
mod batch;
pub(crate) mod classify;
mod conclude;
#[cfg(test)]
mod exhaustive_tests;
mod intake;
mod jobs;
pub mod lease;
mod ledger_health;
mod poll;
mod poll_health;
mod room;
mod settle;
mod unasked;
mod work;

pub(crate) use work::Origin;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::intake::Intake;
use self::jobs::Jobs;
use self::lease::{Leases, Over};
use self::ledger_health::LedgerHealth;
use self::poll_health::{PollHealth, Polling};
use self::room::Rooms;
use self::settle::Settler;
use self::work::Worker;
use tracing::{info, warn};

use crate::aws::sqs::Queue;
use crate::config::Config;
use crate::domain::error_class::ErrorClass;
use crate::domain::targets::{NotAtHome, Targets};
use crate::ledger::{Ledger, LedgerError};
use crate::notify::Notifier;
use crate::reconcile::Reconciler;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::health::{self, Vitals};
use crate::runtime::stop::StopReason;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Gauges, Telemetry, events, ms};

/// Everything a consumer works with.
#[derive(Debug)]
pub struct Parts {
    pub queue: Queue,
    pub ledger: Arc<dyn Ledger>,
    pub reconciler: Reconciler,
    /// Tells people of ends.
    pub notifier: Notifier,
    pub clock: Clock,
    pub telemetry: Arc<Telemetry>,
    /// Where its tasks run.
    pub tasks: Tasks,
}

/// Consumes one queue.
pub struct Consumer {
    config: Arc<Config>,
    queue: Queue,
    ledger: Arc<dyn Ledger>,
    telemetry: Arc<Telemetry>,
    tasks: Tasks,
    polls: PollHealth,
    ledger_health: Arc<LedgerHealth>,
    intake: Arc<Intake>,
    rooms: Rooms,
    leases: Leases,
    jobs: Jobs,
    worker: Worker,
    settler: Arc<Settler>,
    /// Whether the ledger was asked once for jobs that are not done.
    looked_for_unfinished: CancellationToken,
}

impl Consumer {
    /// A consumer of one queue.
    #[must_use]
    pub fn new(parts: Parts, config: Config) -> Arc<Self> {
        let config = Arc::new(config);
        let terms = config.queue.terms();
        let (telemetry, tasks) = (Arc::clone(&parts.telemetry), parts.tasks.clone());
        let leases = Leases::new(parts.queue.clone(), terms, telemetry, tasks);
        let intake = Arc::new(Intake::new(Arc::clone(&config)));
        let settler = Settler::new(&parts, leases.clone(), backoff(&config));
        let (ledger, telemetry) = (Arc::clone(&parts.ledger), Arc::clone(&parts.telemetry));
        let ledger_health = Arc::new(LedgerHealth::new(ledger, telemetry));
        let max_backoff = config.retry.max_backoff;
        let entry = (&intake, &settler);
        Arc::new(Self {
            worker: Worker::new(&parts, entry, &ledger_health, terms, max_backoff),
            polls: PollHealth::new(),
            rooms: Rooms::new(config.queue.max_in_flight),
            jobs: Jobs::default(),
            looked_for_unfinished: CancellationToken::new(),
            queue: parts.queue,
            ledger: parts.ledger,
            telemetry: parts.telemetry,
            tasks: parts.tasks,
            config,
            ledger_health,
            intake,
            leases,
            settler,
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
            () = self.ledger_health.watch() => {}
            () = self.rooms.watch() => {}
        }
    }

    /// Replaces the targets. Jobs in flight keep theirs.
    ///
    /// # Errors
    /// [`NotAtHome`]; then nothing has changed.
    pub fn set_targets(&self, targets: Targets) -> Result<(), NotAtHome> {
        self.intake.set_targets(targets)
    }

    /// From now on it is known where the daemon is; what the queue's URL says comes first.
    ///
    /// # Errors
    /// [`NotAtHome`].
    pub fn at_home(&self, account: &str, region: &str) -> Result<(), NotAtHome> {
        self.intake.at_home(account, region)
    }

    /// What is so now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let oldest = self.jobs.report().first().map(|report| report.age);
        Gauges {
            in_flight: self.jobs.len(),
            oldest_in_flight_age: oldest.unwrap_or_default(),
            poll_age: self.polls.age(),
        }
    }

    /// Nothing is received yet, and why.
    pub(crate) fn cannot_receive(&self, class: ErrorClass) {
        self.polls.fail(class);
    }

    /// Whether it is well: for the watchdog, and for those who ask.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let (polling, not_polling) = self.polls.sign();
        let polls = &self.polls;
        let jobs = self.jobs.report().into_iter().map(|report| health::Job {
            execution_id: report.assignment.execution_id().to_owned(),
            doing: report.doing,
        });
        Vitals {
            polling,
            polled: polls.has_answered().then(|| polls.age()),
            receiving_fails: polls.failing().map(ErrorClass::code),
            ledger_fails: self.ledger_health.is_failing(),
            ledger_trouble: self.ledger.trouble(),
            not_polling,
            mode: self.intake.targets().mode(),
            jobs: jobs.collect(),
        }
    }

    /// Waits until the queue has answered a poll.
    pub async fn answered(&self) {
        self.polls.answered().await;
    }

    /// Logs the state of every job in flight.
    pub fn report(&self) {
        for report in self.jobs.report() {
            let _about = report.span.enter();
            info!(
                execution.id = report.assignment.execution_id(),
                activity = report.doing.what,
                job.age_ms = ms(report.age),
                messages = report.messages,
                "in flight"
            );
        }
    }

    fn emit(&self, event: impl events::Event) {
        self.telemetry.emit(event);
    }

    /// Stops all jobs at their next step boundary, and settles their messages.
    async fn wind_down(&self) {
        self.polls.begin(Polling::Stopping);
        self.settler.stop();
        self.jobs.stop_all(StopReason::ShuttingDown);
        // Every message has a permit until it is settled, and nothing takes new ones in any more.
        let grace = self.config.shutdown.grace_period;
        let _ = tokio::time::timeout(grace, self.rooms.is_empty()).await;
        let unsettled = self.rooms.held();
        info!(messages.unsettled = unsettled, "stopped");
    }

    /// The ledger answered somebody else with an error.
    pub(crate) fn ledger_failed(&self, error: &LedgerError) {
        self.ledger_health.failed(error);
    }

    fn lease_over(self: &Arc<Self>, over: Over) {
        let span = self.leases.span(&over.message_id);
        let _about = span.enter();
        warn!(
            message.id = over.message_id,
            reason = over.reason.code(),
            "lease ended; the job stops at its next step boundary"
        );
        if let Some(held) = self.jobs.lease_over(&over) {
            self.settler.let_go(held, Duration::ZERO, over.reason);
        }
    }

    fn backoff(&self) -> Backoff {
        backoff(&self.config)
    }
}

pub(crate) fn backoff(config: &Config) -> Backoff {
    Backoff {
        initial: config.retry.initial_backoff,
        max: config.retry.max_backoff,
    }
}
