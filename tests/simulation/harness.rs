//! A whole world in one process: the embedded AWS, one or more daemons, virtual time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use embedded_aws::{
    Action, AwsService, Call, EmbeddedAws, EventOptions, Queues, Rule, Service, Settings, Shape,
};
use stagesweep::aws::Connector;
use stagesweep::config::Config;
use stagesweep::daemon::Daemon;
use stagesweep::ledger::{DynamoDbLedger, EmbeddedLedger, Store};
use stagesweep::runtime::clock::Clock;
use stagesweep::runtime::programs::Programs;
use stagesweep::telemetry::{Telemetry, logging};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use crate::programs::Scripted;

/// Longer than any scenario takes, in virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(48 * 60 * 60);

pub(crate) const PROPAGATION: Duration = Duration::from_secs(170);

pub(crate) struct World {
    pub(crate) aws: EmbeddedAws,
    pub(crate) clock: Clock,
    pub(crate) queues: Queues,
    /// The target's pipeline.
    pub(crate) pipeline: String,
    /// Further keys of the target.
    pub(crate) target: String,
    /// Stands for the programs of this machine.
    pub(crate) programs: Arc<Scripted>,
    directory: TempDir,
}

/// The log of what this thread runs, line by line, at every level.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens for as long as the guard lives.
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        // Where there is one listener alone, `tracing` goes by the thread that first comes to a line, which may be
        // one that does not listen.
        static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| {
            let nowhere = tracing_subscriber::fmt().with_writer(std::io::sink);
            tracing::Dispatch::new(nowhere.finish())
        });
        let log = Self::default();
        let writer = log.clone();
        let ours = filter_fn(|line| line.target().starts_with("stagesweep"));
        let lines = logging::json(move || writer.clone()).with_filter(ours);
        let subscriber = Registry::default().with(lines);
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines with this text in them.
    pub(crate) fn with(&self, text: &str) -> Vec<serde_json::Value> {
        let written = self.0.lock().unwrap().clone();
        let written = String::from_utf8(written).unwrap();
        let lines = written.lines().filter(|line| line.contains(text));
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One daemon of a world.
pub(crate) struct Instance {
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) daemon: Daemon,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        if std::env::var_os("LOG").is_some() {
            // The log of the daemons, for whoever looks for a reason.
            let _ = tracing_subscriber::fmt().without_time().try_init();
        }
        let clock = Clock::following_tokio("2026-08-24T06:30:00Z".parse().unwrap());
        let mut settings = Settings {
            propagation: PROPAGATION,
            ..Settings::default()
        };
        change(&mut settings);
        let aws = EmbeddedAws::new(clock.clone(), settings);
        let queues = aws.create_queue_with_dlq("stagesweep", 5, Duration::from_secs(120));
        let directory = tempfile::tempdir().unwrap();
        Self {
            aws,
            clock,
            queues,
            pipeline: "{service}-frontend-pipeline".to_owned(),
            target: String::new(),
            programs: Arc::default(),
            directory,
        }
    }

    pub(crate) fn service(&self, name: &str) -> Service {
        self.aws.create_service(name).unwrap()
    }

    /// A service at whose approval an execution waits that has deployed nothing: its stage was rolled back.
    pub(crate) fn rolled_back(&self, name: &str) -> Service {
        let shape = Shape::default();
        let idle = self.aws.create_idle_service(name, &shape).unwrap();
        self.aws.roll_back(&idle, "Approve")
    }

    /// Puts the service's rejection on the queue.
    pub(crate) fn reject(&self, service: &Service) -> String {
        self.send(&self.aws.rejection_event(service, &EventOptions::default()))
    }

    pub(crate) fn send(&self, body: &str) -> String {
        self.aws.send(&self.queues.url, body).unwrap()
    }

    pub(crate) fn ledger_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self, ledger: &Path, more: &str) -> Config {
        let text = format!(
            r#"
[queue]
url = "{}"
{more}
[ledger]
path = "{}"
[[targets]]
pipeline = "{}"
stage = "Approve"
action = "Approve"
production_parameter = "/{{service}}/cloudfront/cfcd-production"
staging_parameter = "/{{service}}/cloudfront/cfcd-staging"
{}
"#,
            self.queues.url,
            ledger.display(),
            self.pipeline,
            self.target
        );
        Config::parse(Path::new("test.toml"), &text, &Default::default()).unwrap()
    }

    /// Starts a daemon with the ledger of that name.
    pub(crate) fn start(&self, ledger: &str) -> Instance {
        self.start_with(ledger, "", false)
    }

    pub(crate) fn start_with(&self, ledger: &str, more: &str, drain: bool) -> Instance {
        let config = self.config(&self.ledger_path(ledger), more);
        self.start_as(config, drain)
    }

    /// Starts a daemon with this configuration file, but for this world's queue and ledger.
    pub(crate) fn start_file(&self, file: &str) -> Instance {
        let ledger = self.ledger_path("ledger.db").display().to_string();
        let variables = [
            ("STAGESWEEP__QUEUE__URL", self.queues.url.clone()),
            ("STAGESWEEP__LEDGER__PATH", ledger),
        ];
        let env = variables.map(|(name, value)| (name.to_owned(), value));
        let config = Config::parse(Path::new("file.toml"), file, &env.into()).unwrap();
        self.start_as(config, false)
    }

    fn start_as(&self, config: Config, drain: bool) -> Instance {
        let owner = uuid::Uuid::new_v4().to_string();
        let path = &config.ledger.path;
        let ledger = EmbeddedLedger::open(path, owner, self.clock.clone()).unwrap();
        let (connector, telemetry) = self.connector();
        self.start_on(Arc::new(ledger), config, drain, &connector, telemetry)
    }

    /// Starts one of a fleet, whose ledger is the table of that name.
    pub(crate) async fn start_in_table(&self, table: &str, more: &str) -> Instance {
        let config = self.config(&self.ledger_path("none.db"), more);
        let owner = uuid::Uuid::new_v4().to_string();
        let (connector, telemetry) = self.connector();
        let ledger = DynamoDbLedger::open(connector.table(table), owner, self.clock.clone());
        let ledger = Arc::new(ledger.await.unwrap());
        self.start_on(ledger, config, false, &connector, telemetry)
    }

    fn connector(&self) -> (Connector, Arc<Telemetry>) {
        let telemetry = Arc::new(Telemetry::new(self.clock.clone()));
        let connector = Connector::to_endpoint(
            "http://aws.test",
            "ap-northeast-1",
            Some(self.aws.http_client()),
            &self.clock,
            Arc::clone(&telemetry),
        );
        (connector, telemetry)
    }

    fn start_on(
        &self,
        ledger: Arc<dyn Store>,
        config: Config,
        drain: bool,
        connector: &Connector,
        telemetry: Arc<Telemetry>,
    ) -> Instance {
        let daemon = Daemon::new(
            config,
            connector,
            ledger,
            self.clock.clone(),
            Arc::clone(&telemetry),
            Arc::clone(&self.programs) as Arc<dyn Programs>,
        );
        let stop = CancellationToken::new();
        let running = (daemon.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let (daemon, stop) = running;
            daemon.run(stop, drain).await.unwrap();
        });
        Instance {
            telemetry,
            daemon,
            stop,
            task: Some(task),
        }
    }

    /// Runs `act` before the nth call of a cleanup, counted from 1.
    pub(crate) fn before_cleanup_call(
        &self,
        nth: u64,
        act: impl Fn(&EmbeddedAws) + Send + Sync + 'static,
    ) {
        let seen = AtomicU64::new(0);
        self.aws
            .add_rule(Rule::on_any().then(Action::before(move |aws, call| {
                if is_cleanup_call(call) && seen.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                    act(aws);
                }
            })));
    }

    /// Waits until the first policy has been taken off its production distribution.
    pub(crate) async fn detached(&self) {
        let detached = |aws: &EmbeddedAws| aws.journal().calls("UpdateDistribution", None) == 1;
        self.aws.wait_until(detached, PATIENCE).await.unwrap();
    }

    /// Waits until the queue has no message left.
    pub(crate) async fn settled(&self) {
        self.aws
            .wait_until(
                |aws| {
                    let depth = aws.depth(&self.queues.url).unwrap();
                    depth.visible + depth.in_flight + depth.delayed == 0
                },
                PATIENCE,
            )
            .await
            .unwrap();
    }

    pub(crate) fn dead_letters(&self) -> usize {
        self.aws.messages(&self.queues.dead_letter_url).len()
    }

    /// What the daemon changed in CloudFront and SSM, in order.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.aws
            .journal()
            .mutations()
            .iter()
            .filter(|entry| !is_queue_call(&entry.call.operation))
            .map(|entry| entry.call.operation.clone())
            .collect()
    }
}

fn is_queue_call(operation: &str) -> bool {
    operation.contains("Message")
}

/// Whether a call is one of the cleanup itself, and not of the queue.
pub(crate) fn is_cleanup_call(call: &Call) -> bool {
    matches!(call.service, AwsService::CloudFront | AwsService::Ssm)
}

/// Everything of the service's deployment is gone, and so is the rejection.
pub(crate) fn assert_clean(world: &World, service: &Service) {
    assert_gone(world, service);
    let aws = world.aws.in_account(&service.account, &service.region);
    let production = aws.distribution(&service.production_id).unwrap();
    assert_eq!(production.policy_id, "");
    let value = aws.parameter(&service.staging_parameter);
    assert_eq!(value.as_deref(), Some("deleted"));
    assert_eq!(world.dead_letters(), 0);
}

/// The staging distribution and the policy of the service's deployment are gone.
pub(crate) fn assert_gone(world: &World, service: &Service) {
    let aws = world.aws.in_account(&service.account, &service.region);
    let staging = aws.distribution(&service.staging_id);
    assert!(
        staging.is_none(),
        "the staging distribution is left: {staging:?}"
    );
    let policy = aws.policy(&service.policy_id);
    assert!(policy.is_none(), "the policy is left: {policy:?}");
}

/// The service's deployment is as it was: deployed, attached, named by the parameter.
pub(crate) fn assert_untouched(world: &World, service: &Service) {
    let aws = world.aws.in_account(&service.account, &service.region);
    let staging = aws.distribution(&service.staging_id).unwrap();
    assert!(staging.enabled && staging.staging);
    let policy = aws.policy(&service.policy_id).unwrap();
    assert_eq!(
        policy.attached_to,
        std::slice::from_ref(&service.production_id)
    );
    let production = aws.distribution(&service.production_id).unwrap();
    assert_eq!(production.policy_id, service.policy_id);
    let value = aws.parameter(&service.staging_parameter);
    assert_eq!(value.as_ref(), Some(&service.staging_id));
}

impl Instance {
    /// Asks the daemon to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
    }

    /// Cuts off every task where it is.
    pub(crate) async fn crash(mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    /// Waits until the daemon ends by itself.
    pub(crate) async fn ended(mut self) {
        self.task.take().unwrap().await.unwrap();
    }
}
