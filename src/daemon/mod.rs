//! The daemon: the parts put together, and what runs beside the consumer.

pub mod catch_up;
pub mod health_socket;
pub mod signals;
pub mod systemd;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::catch_up::CatchUp;
use tracing::{info, warn};

use crate::aws::identity::Identity;
use crate::aws::{AwsError, Connector};
use crate::config::Config;
use crate::consumer::{self, Consumer, Parts};
use crate::domain::error_class::ErrorClass;
use crate::domain::targets::NotAtHome;
use crate::ledger::{Ledger, Outbox, Store};
use crate::notify::Notifier;
use crate::reconcile::accounts::Accounts;
use crate::reconcile::watch::pace::Pace;
use crate::reconcile::{Reconciler, Settings};
use crate::runtime::clock::Clock;
use crate::runtime::lasting::Failing;
use crate::runtime::programs::Programs;
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Telemetry, chain, fails, ms};

/// How often old records are removed from the ledger.
const PRUNE_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// How soon a queue or a ledger that did not answer is asked again.
const SOON: Duration = Duration::from_secs(60);

/// Between two questions to STS whose account the daemon works in.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The same, where it is not STS that does not answer.
const ASK_SLOWLY: Duration = Duration::from_secs(30);

/// How long the daemon's end waits for notices to be sent. The others are sent at the next start.
const LAST_NOTICES: Duration = Duration::from_secs(2);

/// Everything that runs for one queue.
#[derive(Clone)]
pub struct Daemon {
    consumer: Arc<Consumer>,
    queue: crate::aws::sqs::Queue,
    ledger: Arc<dyn Ledger>,
    notifier: Notifier,
    telemetry: Arc<Telemetry>,
    tasks: Tasks,
    catch_up: Option<CatchUp>,
    identity: Identity,
    /// The account that the queue's URL names.
    account: Option<String>,
    region: String,
    queue_url: String,
    metrics_interval: Duration,
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// SQS does not know the queue.
    #[error("there is no queue {queue_url}; check queue.url, the region and the account")]
    NoSuchQueue {
        queue_url: String,
        /// What SQS says.
        source: AwsError,
    },
    /// The targets do not fit the daemon's own account.
    #[error(transparent)]
    NotAtHome(#[from] NotAtHome),
}

/// The accounts that the jobs of a configuration work in. What is done there beside the jobs belongs to
/// `tasks`.
#[must_use]
pub fn accounts(config: &Config, connector: &Connector, tasks: &Tasks) -> Accounts {
    let pace = Pace {
        min: config.cleanup.poll_interval_min,
        max: config.cleanup.poll_interval_max,
    };
    Accounts::new(connector.clone(), &config.queue.url, pace, tasks.clone())
}

/// What carries out the jobs of a configuration.
#[must_use]
pub fn reconciler(
    config: &Config,
    accounts: Accounts,
    ledger: Arc<dyn Ledger>,
    telemetry: Arc<Telemetry>,
    programs: Arc<dyn Programs>,
    clock: Clock,
) -> Reconciler {
    let settings = Settings {
        propagation_timeout: config.cleanup.propagation_timeout,
        backoff: consumer::backoff(config),
        grace_period: config.shutdown.grace_period,
        verify: config
            .verify
            .codepipeline
            .then_some(config.verify.on_timeout),
        grace: config.verify.grace,
    };
    Reconciler::new(accounts, ledger, telemetry, programs, settings, clock)
}

fn catch_up_settings(config: &Config, region: &str) -> catch_up::Settings {
    catch_up::Settings {
        interval: config.catch_up.interval,
        reclaim: config.catch_up.reclaim,
        on_timeout: config.verify.on_timeout,
        account: config.queue.account.clone(),
        region: region.to_owned(),
    }
}

/// How often the ledger is asked for jobs that have changed something and are not done.
const FINISH_INTERVAL: Duration = Duration::from_secs(15 * 60);

impl Daemon {
    /// Puts the parts together. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(
        config: Config,
        connector: &Connector,
        store: Arc<dyn Store>,
        clock: Clock,
        telemetry: Arc<Telemetry>,
        programs: Arc<dyn Programs>,
    ) -> Self {
        let queue = connector.queue(
            &config.queue.url,
            config.queue.region.as_deref(),
            config.queue.wait_time,
        );
        let ledger: Arc<dyn Ledger> = store.clone();
        let outbox: Arc<dyn Outbox> = store;
        let tasks = Tasks::default();
        let accounts = accounts(&config, connector, &tasks);
        let notifier = Notifier::new(
            &config.notify,
            connector,
            outbox,
            clock.clone(),
            Arc::clone(&telemetry),
            Arc::clone(&programs),
            tasks.clone(),
        );
        let reconciler = reconciler(
            &config,
            accounts.clone(),
            Arc::clone(&ledger),
            Arc::clone(&telemetry),
            programs,
            clock.clone(),
        )
        .notifying(notifier.clone());
        let parts = Parts {
            queue: queue.clone(),
            ledger: Arc::clone(&ledger),
            reconciler,
            notifier: notifier.clone(),
            clock: clock.clone(),
            telemetry: Arc::clone(&telemetry),
            tasks: tasks.clone(),
        };
        let region = connector.region().unwrap_or_default().to_owned();
        let settings = catch_up_settings(&config, &region);
        let (queue_url, metrics_interval) =
            (config.queue.url.clone(), config.telemetry.metrics_interval);
        let account = config.queue.account.clone();
        let consumer = Consumer::new(parts, config);
        let catches_up = !settings.interval.is_zero();
        let catch_up = catches_up.then(|| CatchUp {
            settings,
            accounts,
            identity: connector.identity(),
            consumer: Arc::clone(&consumer),
            ledger: Arc::clone(&ledger),
            clock,
        });
        Self {
            catch_up,
            identity: connector.identity(),
            account,
            region,
            queue,
            ledger,
            notifier,
            telemetry,
            tasks,
            queue_url,
            metrics_interval,
            consumer,
        }
    }

    /// The consumer, to reload its targets or ask what it is doing.
    #[must_use]
    pub fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    /// Checks the queue, then consumes it until `stop` is cancelled or, with `drain`, until it is
    /// empty and all jobs are done. A daemon runs once: whatever it still does when this returns
    /// or is dropped, ends there.
    ///
    /// # Errors
    /// [`CannotStart`]. A queue that cannot be asked now is no error: the daemon may have started
    /// before its network or its credentials.
    pub async fn run(&self, stop: CancellationToken, drain: bool) -> Result<(), CannotStart> {
        let _ended = self.tasks.end_on_drop();
        let checked = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            checked = self.queue.attributes() => checked,
        };
        let attributes = match checked {
            Ok(attributes) => Some(attributes),
            Err(source) if source.class == ErrorClass::NotFound => {
                return Err(CannotStart::NoSuchQueue {
                    queue_url: self.queue_url.clone(),
                    source,
                });
            }
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "the queue's attributes could not be read"
                );
                None
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            home = self.find_home() => home?,
        }
        let max_receives = attributes.as_ref().map(|it| it.max_receive_count);
        self.notifier
            .expect_dead_letters_after(max_receives.flatten());
        let notifier = self.notifier.clone();
        self.tasks.spawn(async move { notifier.run().await });
        let targets = self.consumer.targets();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            queue.url = self.queue_url,
            targets = targets.len(),
            mode = targets.mode(),
            queue.max_receive_count = max_receives.flatten(),
            "started"
        );
        if max_receives == Some(None) {
            warn!(
                queue.url = self.queue_url,
                "the queue has no redrive policy: messages that can never be handled will come \
                 back until they expire"
            );
        }

        tokio::select! {
            biased;
            () = self.consumer.run(stop.clone(), drain) => {}
            () = self.catch_up(&stop, drain) => {}
            () = self.write_metrics() => {}
            () = self.prune_ledger() => {}
            () = self.finish_jobs() => {}
            () = self.refresh_redrive_policy(max_receives.is_none()) => {}
        }
        let gauges = self.consumer.gauges();
        // Jobs that have not ended have used up the grace period.
        if gauges.in_flight == 0 && self.notifier.is_on() {
            // Notices may take the rest of the time that there is.
            self.telemetry.flush(gauges);
            self.notifier.flush(LAST_NOTICES).await;
        }
        self.telemetry.flush(gauges);
        Ok(())
    }

    /// Finds the daemon's own account out: a bare name is a pipeline of this account. Where the queue's URL
    /// does not name the account, nothing is received before STS has.
    async fn find_home(&self) -> Result<(), NotAtHome> {
        let mut account = self.account.clone();
        let mut failing = Failing::default();
        let account = loop {
            if let Some(account) = account {
                break account;
            }
            account = match self.identity.caller().await {
                Ok(caller) => Some(caller.account),
                Err(error) => {
                    fails!(
                        error,
                        failing.failed(),
                        error = chain(&error),
                        "the account of the daemon's credentials is not known, and queue.url names none: nothing is \
             received until STS answers GetCallerIdentity, or queue.url names the account"
                    );
                    self.consumer.cannot_receive(error.class);
                    tokio::time::sleep(match error.class.is_of_sign_in() {
                        true => ASK_SLOWLY,
                        false => ASK_AGAIN,
                    })
                    .await;
                    None
                }
            };
        };
        if let Some(took) = failing.recovered() {
            info!(
                took_ms = ms(took),
                "the account of the daemon's credentials is known"
            );
        }
        self.consumer.at_home(&account, &self.region)
    }

    /// Looks for lost rejections. Never ends by itself; a drain only empties the queue.
    async fn catch_up(&self, stop: &CancellationToken, drain: bool) {
        if let Some(catch_up) = self.catch_up.as_ref().filter(|_| !drain) {
            catch_up.run(stop).await;
        }
        std::future::pending().await
    }

    async fn write_metrics(&self) {
        let mut ticks = tokio::time::interval(self.metrics_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate, and there is nothing to write yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.telemetry.flush(self.consumer.gauges());
        }
    }

    /// Asks the queue again when its messages become dead letters: its redrive policy may be changed, or the queue
    /// did not answer at first.
    async fn refresh_redrive_policy(&self, soon: bool) {
        let mut next = if soon { SOON } else { PRUNE_INTERVAL };
        loop {
            tokio::time::sleep(next).await;
            next = match self.queue.attributes().await {
                Ok(attributes) => {
                    let max_receives = attributes.max_receive_count;
                    self.notifier.expect_dead_letters_after(max_receives);
                    PRUNE_INTERVAL
                }
                Err(_) => SOON,
            };
        }
    }

    /// Finishes what has changed something, whatever became of its message.
    async fn finish_jobs(&self) {
        loop {
            let next = match self.consumer.take_up_unfinished().await {
                true => FINISH_INTERVAL,
                false => SOON,
            };
            tokio::time::sleep(next).await;
        }
    }

    async fn prune_ledger(&self) {
        let mut ticks = tokio::time::interval(PRUNE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.ledger.prune().await {
                self.consumer.ledger_failed(&error);
            }
        }
    }
}
