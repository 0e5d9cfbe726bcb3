//! The consumer: polls the queue, starts jobs, and settles every message.
//!
//! **Guarantees.** This is the only file that deletes a message, and it does so in one place
//! (`Consumer::delete`), reached only for a job that the ledger has as done and for a well-formed
//! event that is no rejection. Whatever else happens to a message, it stays in the queue. No more
//! messages are asked for than there are permits.
//!
//! **Races.** A message that comes back while it is held brings the newer receipt handle; that one
//! is used from then on. A receive that is under way when the daemon stops is dropped: messages that
//! SQS was just handing out come back when their visibility timeout ends.
//!
//! **Not handled here.** What a job does ([`crate::reconcile`]); how long a message stays ours
//! ([`crate::lease`]).

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::activity::Activity;
use crate::aws::sqs::{MAX_BATCH, Message, Queue};
use crate::aws::{AwsError, RECEIVE_MARGIN};
use crate::batch::{Batcher, SettleError};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::{self, Kind, Rejection};
use crate::health::{self, NotPolling, Vitals};
use crate::jobs::{Handle, HeldMessage, Jobs};
use crate::lease::{Leases, Over, Terms, VISIBILITY_CEILING};
use crate::ledger::{Claim, Grant, Ledger, LedgerError};
use crate::reconcile::{Ended, Failure, Job, Reconciler};
use crate::retry::{Backoff, ErrorClass};
use crate::stop::{Stop, StopReason};
use crate::target::{Resolution, ResolvedTarget, Targets};
use crate::tasks::Tasks;
use crate::telemetry::{Gauges, Telemetry, events};

/// A message that can never be handled is released at once this many times: a redrive policy has
/// usually moved it to the dead-letter queue by then. Where there is none, it must not spin.
const QUICK_RECEIVES: u32 = 10;

/// While receiving fails because of the network, no pause is longer.
const MAX_NETWORK_PAUSE: Duration = Duration::from_secs(20);

/// While receiving fails for any other reason, no pause is longer.
const MAX_RECEIVE_PAUSE: Duration = Duration::from_secs(120);

/// How long a receive waits while draining, at most.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// Between two looks at an empty queue while draining, where long polling does not pace them.
const DRAIN_PAUSE: Duration = Duration::from_millis(250);

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
    /// Since when the ledger fails.
    ledger_failing: Mutex<Option<Instant>>,
    /// When the last message that was released with a delay comes back.
    released_until: Mutex<Option<Instant>>,
}

/// What is done with the messages of a job that has ended.
enum Disposition {
    Delete {
        reason: &'static str,
    },
    /// To come back after a delay.
    Release {
        delay: Delay,
        reason: &'static str,
    },
    /// To the dead-letter queue, by way of the redrive policy.
    Reject {
        reason: &'static str,
        detail: String,
    },
}

enum Delay {
    None,
    /// By receive count.
    Backoff,
    Until(Timestamp),
}

impl Consumer {
    /// A consumer of one queue.
    #[must_use]
    pub fn new(parts: Parts, config: Config) -> Arc<Self> {
        let terms = Terms {
            visibility_timeout: config.queue.visibility_timeout,
            heartbeat_interval: config.queue.heartbeat_interval,
        };
        let queue = parts.queue.clone();
        let deletes = Batcher::start(
            Arc::new(move |entries: Vec<(String, ())>| {
                let queue = queue.clone();
                let handles: Vec<_> = entries.into_iter().map(|(handle, ())| handle).collect();
                async move { queue.delete(&handles).await }.boxed()
            }),
            &parts.tasks,
        );
        let queue = parts.queue.clone();
        let releases = Batcher::start(
            Arc::new(move |entries: Vec<(String, Duration)>| {
                let queue = queue.clone();
                async move { queue.change_visibility(&entries).await }.boxed()
            }),
            &parts.tasks,
        );
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
            deletes,
            releases,
            polling: Activity::default(),
            polled_at: Mutex::new(Instant::now()),
            answered: CancellationToken::new(),
            receiving_fails: Mutex::default(),
            ledger_failing: Mutex::default(),
            released_until: Mutex::default(),
            parts,
            config,
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

    async fn poll(self: &Arc<Self>, stop: &CancellationToken, drain: bool) {
        let mut failing = Failing::default();
        loop {
            let permits = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                permits = self.permits() => permits,
            };
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.ledger_works() => {
                    let visibility = self.config.queue.visibility_timeout;
                    let wait = self.wait_time(drain);
                    self.polling.set_for("receiving", wait + RECEIVE_MARGIN);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        received = self.parts.queue.receive(permits.len(), visibility, wait) => received,
                    }
                }
            };
            match received {
                Ok(messages) => {
                    *lock(&self.polled_at) = Instant::now();
                    *lock(&self.receiving_fails) = None;
                    self.answered.cancel();
                    if let Some(failures) = failing.recovered() {
                        self.emit(events::ReceiveRecovered { failures });
                    }
                    let empty = messages.is_empty();
                    if !empty {
                        self.emit(events::MessagesReceived {
                            count: messages.len(),
                        });
                    }
                    for (message, permit) in messages.into_iter().zip(permits) {
                        self.take_in(message, permit);
                    }
                    if empty && drain {
                        if self.drained().await {
                            return;
                        }
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(DRAIN_PAUSE) => {}
                        }
                    }
                }
                Err(error) => {
                    drop(permits);
                    *lock(&self.receiving_fails) = Some(error.class);
                    if failing.is_news(error.class) {
                        self.emit(events::ReceiveFailing {
                            class: error.class,
                            error: &error,
                        });
                    }
                    let pause = failing.pause(&error, self.backoff());
                    self.polling.set_for("pausing", pause);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// How long a receive waits for messages.
    fn wait_time(&self, drain: bool) -> Duration {
        if !self.answered.is_cancelled() {
            // Soon after the start it is known whether the queue answers.
            Duration::ZERO
        } else if drain {
            // A drain ends soon after its last job, not a whole long poll later.
            DRAIN_WAIT
        } else {
            self.config.queue.wait_time
        }
    }

    /// At least one permit, and as many as one receive can use.
    async fn permits(&self) -> Vec<OwnedSemaphorePermit> {
        self.polling.rest(FULL);
        let mut permits = Vec::with_capacity(MAX_BATCH);
        // The semaphore is never closed.
        permits.extend(Arc::clone(&self.permits).acquire_owned().await);
        while permits.len() < MAX_BATCH {
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                break;
            };
            permits.push(permit);
        }
        permits
    }

    /// Whether nothing is left to do.
    async fn drained(&self) -> bool {
        if self.jobs.len() > 0 {
            return false;
        }
        match self.parts.queue.attributes().await {
            Ok(queue) => queue.visible + queue.in_flight + queue.delayed == 0,
            // Not allowed to ask: then what was released here must have come back, and nothing
            // else have come.
            Err(_) => lock(&self.released_until).is_none_or(|until| until < Instant::now()),
        }
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

    /// Decides what a message is, and what becomes of it.
    fn take_in(self: &Arc<Self>, message: Message, permit: OwnedSemaphorePermit) {
        let Message {
            message_id,
            receipt_handle,
            body,
            receive_count,
            ..
        } = message;
        let again = self
            .leases
            .hold(&message_id, receipt_handle, Instant::now());
        if again && self.jobs.hold(&message_id) {
            // The very message that a job holds: its lease had run out. The job goes on with the
            // newer receipt handle.
            self.emit(events::MessageRedelivered {
                message_id: &message_id,
            });
            return;
        }
        let held = HeldMessage {
            message_id,
            receive_count,
            _permit: permit,
        };
        match self.read(&body) {
            Err(disposition) => self.settle(held, None, &disposition),
            Ok((rejection, target)) => self.start(held, *rejection, target),
        }
    }

    /// A rejection and its target, or what to do with a message that has none.
    fn read(&self, body: &str) -> Result<(Box<Rejection>, ResolvedTarget), Disposition> {
        let reject = |reason, detail| Disposition::Reject { reason, detail };
        let event = event::parse(body)
            .map_err(|error| reject(error.code(), crate::telemetry::chain(&error)))?;
        if !self.config.allows_account(&event.account) {
            let detail = format!(
                "the event comes from account {}, which is neither the queue's nor in \
                 events.allowed_accounts",
                event.account
            );
            return Err(reject("foreign_account", detail));
        }
        let rejection = match event.kind {
            Kind::Rejection(rejection) => rejection,
            Kind::NotARejection(why) => return Err(Disposition::Delete { reason: why.code() }),
        };
        let targets = Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner));
        let what = || {
            format!(
                "pipeline {}, stage {}, action {}",
                rejection.pipeline, rejection.stage, rejection.action
            )
        };
        match targets.resolve(&rejection.pipeline, &rejection.stage, &rejection.action) {
            Resolution::Target(target) => Ok((rejection, target)),
            Resolution::InvalidAccess { label, error } => Err(reject(
                error.code(),
                format!("the target {label} cannot be used for {}: {error}", what()),
            )),
            Resolution::NoTarget => Err(reject("no_target", format!("no target for {}", what()))),
            Resolution::Ambiguous { label } => Err(reject(
                "ambiguous_target",
                format!(
                    "the target {label} can be read in more than one way for {}",
                    what()
                ),
            )),
            Resolution::InvalidParameter { label, error } => Err(reject(
                "invalid_parameter_name",
                format!(
                    "the target {label} names no valid parameters for {}: {error}",
                    what()
                ),
            )),
        }
    }

    /// Attaches the message to the job of its rejection, and starts that job if there is none.
    fn start(self: &Arc<Self>, held: HeldMessage, rejection: Rejection, target: ResolvedTarget) {
        let message_id = held.message_id.clone();
        let Some(handle) = self
            .jobs
            .attach(&rejection.key, &rejection.execution_id, held)
        else {
            self.emit(events::DuplicateSuppressed {
                message_id: &message_id,
                execution_id: &rejection.execution_id,
                job: "running",
            });
            return;
        };
        let consumer = Arc::clone(self);
        let span = tracing::info_span!(
            "job",
            execution.id = rejection.execution_id,
            pipeline = rejection.pipeline.name,
            target = target.label,
        );
        let task = async move {
            let (key, execution_id) = (rejection.key.clone(), rejection.execution_id.clone());
            let disposition = consumer.work(&message_id, rejection, target, handle).await;
            for held in consumer.jobs.end(&key) {
                consumer.settle(held, Some(&execution_id), &disposition);
            }
        };
        self.parts
            .tasks
            .spawn(tracing::Instrument::instrument(task, span));
    }

    /// Claims a job and works on it to its end.
    async fn work(
        self: &Arc<Self>,
        message_id: &str,
        rejection: Rejection,
        target: ResolvedTarget,
        handle: Handle,
    ) -> Disposition {
        let ledger = &self.parts.ledger;
        let claim = ledger
            .claim(&rejection.key, &rejection.pipeline.name, self.lease_until())
            .await;
        let execution_id = rejection.execution_id.clone();
        let duplicate = |job| {
            self.emit(events::DuplicateSuppressed {
                message_id,
                execution_id: &execution_id,
                job,
            });
        };
        let (grant, binding) = match claim {
            Ok(Claim::Granted { grant, binding }) => (grant, binding),
            Ok(Claim::Done { .. }) => {
                duplicate("done");
                return Disposition::Delete {
                    reason: "duplicate",
                };
            }
            Ok(Claim::Leased { until }) => {
                duplicate("leased_elsewhere");
                let delay = Delay::Until(until);
                return Disposition::Release {
                    delay,
                    reason: "leased_elsewhere",
                };
            }
            Err(error) => return self.failed(&execution_id, &Failure::Ledger(error), &handle),
        };
        self.ledger_worked();
        self.emit(events::JobStarted {
            rejection: &rejection,
            event_age: self.parts.clock.since(rejection.rejected_at),
            resumed: binding.is_some(),
        });

        let job = Job {
            rejection,
            target,
            grant: grant.clone(),
            binding,
            stop: handle.stop.clone(),
            activity: handle.activity.clone(),
        };
        let reconciler = self.parts.reconciler.clone();
        // A task of its own, so that a panic ends this job and no other.
        let run = self
            .parts
            .tasks
            .spawn(tracing::Instrument::in_current_span(async move {
                reconciler.run(&job).await
            }));
        let ended = {
            tokio::pin!(run);
            tokio::select! {
                biased;
                ended = &mut run => ended,
                () = self.keep_grant(&grant, &handle.stop) => run.await,
            }
        };
        match ended {
            Ok(Some(ended)) => self.disposition(&execution_id, ended, &handle),
            // The daemon has ended, and this task with it.
            Ok(None) => Disposition::Release {
                delay: Delay::None,
                reason: StopReason::ShuttingDown.code(),
            },
            Err(error) => {
                let took = handle.started.elapsed();
                let detail = panic_message(error);
                self.emit(events::JobPanicked {
                    execution_id: &execution_id,
                    detail: &detail,
                    took,
                });
                if let Err(error) = ledger.release(&grant, "panicked").await {
                    self.ledger_failed(&error);
                }
                Disposition::Release {
                    delay: Delay::Backoff,
                    reason: "panicked",
                }
            }
        }
    }

    fn disposition(&self, execution_id: &str, ended: Ended, handle: &Handle) -> Disposition {
        let took = handle.started.elapsed();
        match ended {
            Ended::Succeeded(outcome) => {
                self.emit(events::JobSucceeded {
                    execution_id,
                    outcome,
                    took,
                });
                Disposition::Delete {
                    reason: outcome.code(),
                }
            }
            Ended::Refused(refusal) => {
                self.emit(events::JobRefused {
                    execution_id,
                    refusal,
                    took,
                });
                Disposition::Reject {
                    reason: refusal.code(),
                    detail: refusal.to_string(),
                }
            }
            Ended::Stopped(reason) => {
                self.emit(events::JobStopped {
                    execution_id,
                    reason: reason.code(),
                    took,
                });
                let delay = match reason {
                    StopReason::LedgerLost => Delay::Backoff,
                    _ => Delay::None,
                };
                Disposition::Release {
                    delay,
                    reason: reason.code(),
                }
            }
            Ended::ProductionBusy { until } => {
                let reason = "production_busy";
                self.emit(events::JobStopped {
                    execution_id,
                    reason,
                    took,
                });
                Disposition::Release {
                    delay: Delay::Until(until),
                    reason,
                }
            }
            Ended::Failed(failure) => self.failed(execution_id, &failure, handle),
        }
    }

    fn failed(&self, execution_id: &str, failure: &Failure, handle: &Handle) -> Disposition {
        if let Failure::Ledger(error) = failure {
            self.ledger_failed(error);
        }
        self.emit(events::JobFailed {
            execution_id,
            reason: failure.code(),
            detail: &failure.detail(),
            took: handle.started.elapsed(),
        });
        Disposition::Release {
            delay: Delay::Backoff,
            reason: failure.code(),
        }
    }

    /// Settles one message as its job, or the message itself, demands.
    fn settle(
        self: &Arc<Self>,
        held: HeldMessage,
        execution_id: Option<&str>,
        disposition: &Disposition,
    ) {
        match disposition {
            Disposition::Delete { reason } => {
                self.delete(held, execution_id.map(str::to_owned), reason);
            }
            Disposition::Release { delay, reason } => {
                let delay = match delay {
                    Delay::None => Duration::ZERO,
                    Delay::Backoff => self
                        .backoff()
                        .delay(held.receive_count, &mut fastrand::Rng::new()),
                    Delay::Until(until) => self.until(*until),
                };
                self.release(held, delay, reason);
            }
            Disposition::Reject { reason, detail } => {
                self.emit(events::MessageRejected {
                    message_id: &held.message_id,
                    receive_count: held.receive_count,
                    reason,
                    detail,
                });
                let delay = match held.receive_count.checked_sub(QUICK_RECEIVES) {
                    None | Some(0) => Duration::ZERO,
                    Some(more) => self.backoff().delay(more, &mut fastrand::Rng::new()),
                };
                self.release(held, delay, reason);
            }
        }
    }

    /// The only place that deletes a message.
    fn delete(
        self: &Arc<Self>,
        held: HeldMessage,
        execution_id: Option<String>,
        reason: &'static str,
    ) {
        let consumer = Arc::clone(self);
        self.parts.tasks.spawn(async move {
            let Some(taken) = consumer.leases.take(&held.message_id).await else {
                return;
            };
            let telemetry = Arc::clone(&consumer.parts.telemetry);
            consumer.deletes.push(
                taken,
                (),
                Box::new(move |result| {
                    // The whole of it, with its permit: only now is the message settled.
                    let HeldMessage {
                        message_id,
                        _permit,
                        ..
                    } = held;
                    match result {
                        Ok(()) => telemetry.emit(events::MessageDeleted {
                            message_id: &message_id,
                            execution_id: execution_id.as_deref(),
                            reason,
                        }),
                        Err(SettleError::Superseded) => {}
                        Err(error) => telemetry.emit(events::DeleteFailed {
                            message_id: &message_id,
                            error: &error,
                        }),
                    }
                }),
            );
        });
    }

    fn release(self: &Arc<Self>, held: HeldMessage, delay: Duration, reason: &'static str) {
        let consumer = Arc::clone(self);
        let delay = delay.min(VISIBILITY_CEILING - Duration::from_secs(60 * 60));
        {
            let mut until = lock(&self.released_until);
            *until = (*until).max(Some(Instant::now() + delay));
        }
        self.parts.tasks.spawn(async move {
            let Some(taken) = consumer.leases.take(&held.message_id).await else {
                return;
            };
            let telemetry = Arc::clone(&consumer.parts.telemetry);
            consumer.releases.push(
                taken,
                delay,
                Box::new(move |result| {
                    let HeldMessage {
                        message_id,
                        _permit,
                        ..
                    } = held;
                    match result {
                        Ok(()) => telemetry.emit(events::MessageReleased {
                            message_id: &message_id,
                            delay,
                            reason,
                        }),
                        Err(SettleError::Superseded) => {}
                        Err(error) => telemetry.emit(events::ReleaseFailed {
                            message_id: &message_id,
                            error: &error,
                        }),
                    }
                }),
            );
        });
    }

    fn lease_over(self: &Arc<Self>, over: Over) {
        self.emit(events::LeaseLost {
            message_id: &over.message_id,
            reason: over.reason.code(),
        });
        if let Some(held) = self.jobs.lease_over(&over) {
            self.release(held, Duration::ZERO, over.reason.code());
        }
    }

    /// Renews the right to work on a job. Returns when that right is lost, having told the job.
    async fn keep_grant(&self, grant: &Grant, stop: &Stop) {
        let heartbeat = self.config.queue.heartbeat_interval;
        let terms = Terms {
            visibility_timeout: self.config.queue.visibility_timeout,
            heartbeat_interval: heartbeat,
        };
        let mut valid_until = Instant::now() + terms.visibility_timeout;
        let mut next = heartbeat;
        loop {
            tokio::time::sleep(next).await;
            let asked_at = Instant::now();
            match self.parts.ledger.renew(grant, self.lease_until()).await {
                Ok(()) => {
                    self.ledger_worked();
                    valid_until = asked_at + terms.visibility_timeout;
                    next = heartbeat;
                }
                Err(LedgerError::NotOwner { .. }) => break,
                Err(error) => {
                    self.ledger_failed(&error);
                    if Instant::now() + terms.safety_margin() >= valid_until {
                        break;
                    }
                    next = heartbeat / 10;
                }
            }
        }
        stop.now(StopReason::LedgerLost);
    }

    fn lease_until(&self) -> Timestamp {
        let now = self.parts.clock.now();
        now.checked_add(self.config.queue.visibility_timeout)
            .unwrap_or(Timestamp::MAX)
    }

    /// From now until then, and a second more, so that what ends then has ended.
    fn until(&self, then: Timestamp) -> Duration {
        let left = then.duration_since(self.parts.clock.now());
        Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            initial: self.config.retry.initial_backoff,
            max: self.config.retry.max_backoff,
        }
    }

    fn ledger_failed(&self, error: &LedgerError) {
        if matches!(error, LedgerError::NotOwner { .. }) {
            // It works, and says no.
            return;
        }
        let first = lock(&self.ledger_failing).replace(Instant::now()).is_none();
        self.emit(events::LedgerFailing { error, first });
    }

    fn ledger_worked(&self) {
        if lock(&self.ledger_failing).take().is_some() {
            self.emit(events::LedgerRecovered);
        }
    }

    /// Returns at once if the ledger works, else as soon as it does again.
    async fn ledger_works(&self) {
        let mut failures = 0;
        while lock(&self.ledger_failing).is_some() {
            failures += 1;
            let pause = self.backoff().delay(failures, &mut fastrand::Rng::new());
            self.polling
                .set_for("waiting_for_the_ledger", MAX_NETWORK_PAUSE);
            tokio::time::sleep(pause.min(MAX_NETWORK_PAUSE)).await;
            match self.parts.ledger.check().await {
                Ok(()) => self.ledger_worked(),
                Err(error) => self.ledger_failed(&error),
            }
        }
    }
}

/// Receives that fail, one after the other.
#[derive(Debug, Default)]
struct Failing {
    class: Option<ErrorClass>,
    failures: u32,
}

impl Failing {
    /// Whether this failure is the first, or of another kind than the last.
    fn is_news(&mut self, class: ErrorClass) -> bool {
        self.failures += 1;
        self.class.replace(class) != Some(class)
    }

    /// After a success: how many failures it ended.
    fn recovered(&mut self) -> Option<u32> {
        self.class.take()?;
        Some(std::mem::take(&mut self.failures))
    }

    /// How long to stay away. A network comes back by itself; what is denied or gone, someone
    /// must mend.
    fn pause(&self, error: &AwsError, backoff: Backoff) -> Duration {
        let (initial, max) = match error.class {
            ErrorClass::Unavailable => (Duration::from_millis(500), MAX_NETWORK_PAUSE),
            _ => (backoff.initial, MAX_RECEIVE_PAUSE),
        };
        let backoff = Backoff {
            initial: initial.min(backoff.initial),
            max: max.min(backoff.max),
        };
        backoff.delay(self.failures, &mut fastrand::Rng::new())
    }
}

fn panic_message(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned()),
        Err(error) => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every critical section here is an assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
