//! The configuration: default, file and environment, checked as a whole.
//!
//! **Guarantees.** A [`Config`] is valid: every bound and every relation between values holds.
//! Where it is not, every fault is reported at once with its place, its key, what was found and
//! what is expected. Nothing here reads the process's environment or a clock; the only I/O is
//! reading the file.
//!
//! **Not handled.** Whether the queue, the parameters and the distributions exist: that takes an
//! account to ask.

mod checked;
mod fault;
mod formats;
mod keys;
mod layers;
mod reader;
mod targets;
mod values;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::fault::{Fault, Faults, Place};
pub use self::variables::without_effect;

use crate::domain::arn::Arn;
use crate::domain::lease_terms::Terms;
use crate::domain::targets::{Mode, Targets};
use crate::telemetry::MetricsDetail;
use crate::telemetry::logging::LogFormat;

/// The file that is read where neither the command line nor the environment names one.
pub const DEFAULT_PATH: &str = "/etc/stagesweep/config.toml";

/// The environment variable that names the file.
pub const PATH_VARIABLE: &str = "STAGESWEEP_CONFIG";

/// The environment variable that holds the file's text, where there is no place for a file: a task
/// definition of ECS. In faults, its name stands for the file's.
pub const TEXT_VARIABLE: &str = "STAGESWEEP_CONFIG_TOML";

/// Where the values of a configuration stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// Each key that the file or the environment sets.
    places: BTreeMap<String, Place>,
    /// Each target, in the order of the file.
    targets: Vec<Place>,
}

impl Origins {
    /// Where the file or the environment sets a key, by its dotted name; the others have their defaults.
    #[must_use]
    pub fn places(&self) -> &BTreeMap<String, Place> {
        &self.places
    }

    /// Who sets a key: `default`, `file` or `env`.
    #[must_use]
    pub fn of(&self, key: &str) -> &'static str {
        match self.places.get(key) {
            None | Some(Place::Default) => "default",
            Some(Place::Variable(_)) => "env",
            Some(Place::At { .. } | Place::File(_)) => "file",
        }
    }

    /// How many keys the environment sets.
    #[must_use]
    pub fn from_environment(&self) -> usize {
        let places = self.places.values();
        places
            .filter(|place| matches!(place, Place::Variable(_)))
            .count()
    }

    /// The line of the target that is so many entries from the first.
    #[must_use]
    pub fn line_of_target(&self, index: usize) -> Option<usize> {
        match self.targets.get(index)? {
            Place::At { line, .. } => Some(*line),
            _ => None,
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The queue, and how it is read.
    pub queue: Queue,
    /// When a cleanup begins, and how propagation is waited for.
    pub cleanup: Cleanup,
    /// When a message that failed comes back.
    pub retry: Retry,
    /// What happens when the daemon is asked to stop.
    pub shutdown: Shutdown,
    /// Where it is kept what was done.
    pub ledger: Ledger,
    /// Where the daemon can be asked for its health.
    pub health: Health,
    /// Which events are accepted.
    pub events: Events,
    /// What is asked before anything is changed.
    pub verify: Verify,
    /// How lost rejections are found.
    pub catch_up: CatchUp,
    /// Who is told what became of rejections.
    pub notify: Notify,
    /// Logs and metrics.
    pub telemetry: Telemetry,
    /// What is taken down for which approval action; at least one.
    #[serde(skip)]
    pub targets: Targets,
}

/// What is wrong with a FIFO queue, as warnings say it.
pub const FIFO: &str = "it is a FIFO queue: a message that waits, or that cannot be handled, holds back \
                        every one behind it in its group";

/// Whether a queue's URL names a FIFO queue.
#[must_use]
pub fn is_fifo(url: &str) -> bool {
    url.ends_with(".fifo")
}

/// The queue, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// The queue's URL, http or https.
    pub url: String,
    /// The account in the URL's path, if there is one: twelve digits.
    #[serde(skip)]
    pub account: Option<String>,
    /// The region of an AWS host (`sqs.REGION.amazonaws.com`), if the URL has one.
    #[serde(skip)]
    pub region: Option<String>,
    /// How long one receive waits for messages: whole seconds, 0 to 20.
    pub wait_time: Duration,
    /// How long a message stays hidden without an extension: whole seconds, 1 s to 12 h.
    pub visibility_timeout: Duration,
    /// How often the visibility is extended: at most three quarters of the timeout.
    pub heartbeat_interval: Duration,
    /// How many jobs work at once: 1 to 1000. Ten times as many messages may wait.
    pub max_in_flight: usize,
}

impl Queue {
    /// How the leases of messages and of jobs are kept.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            visibility_timeout: self.visibility_timeout,
            heartbeat_interval: self.heartbeat_interval,
        }
    }
}

/// When a cleanup begins, and how propagation is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleanup {
    /// Whether anything is changed, where its target says nothing else.
    pub mode: Mode,
    /// How long a rejection is held before the first change, where its target says nothing else: at most 6 h.
    pub delay: Duration,
    /// The shortest time between two looks; never zero.
    pub poll_interval_min: Duration,
    /// The longest time between two looks; no shorter than the minimum.
    pub poll_interval_max: Duration,
    /// How long one propagation may take; no shorter than the longest interval.
    pub propagation_timeout: Duration,
}

/// When a message that failed comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// After the first failure; never zero.
    pub initial_backoff: Duration,
    /// At most; no shorter than the initial one, no longer than 12 h.
    pub max_backoff: Duration,
}

/// What happens when the daemon is asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long jobs may take to reach the end of their step; may be zero.
    pub grace_period: Duration,
}

/// Where it is kept what was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// For one instance or for several.
    pub backend: LedgerBackend,
    /// The file of [`LedgerBackend::Embedded`].
    pub path: PathBuf,
    /// The table of [`LedgerBackend::DynamoDb`]; empty for the other.
    pub table: String,
}

/// What the ledger is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LedgerBackend {
    /// A file, for one instance.
    Embedded,
    /// A DynamoDB table, for any number of instances.
    DynamoDb,
}

/// Where the daemon can be asked for its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// A file, a name in the abstract namespace after `@`, or empty for a name of its own.
    pub socket: String,
}

/// Which events are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Accounts besides the queue's own: twelve digits each.
    pub allowed_accounts: BTreeSet<String>,
}

/// What is asked before anything is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Whether CodePipeline is asked if the rejection still stands.
    pub codepipeline: bool,
    /// What becomes of an approval that timed out; only CodePipeline can tell.
    pub on_timeout: OnTimeout,
    /// How far a write may be from the action that made it: at most 10 min.
    pub grace: Duration,
}

/// What becomes of the deployment whose approval was not given in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It is taken down like a rejected one.
    Clean,
    /// It is left alone.
    Ignore,
}

/// How lost rejections are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatchUp {
    /// How often it is looked for them; zero is never.
    pub interval: Duration,
    /// Whether what executions left that ended without a rejection is cleaned, and not only reported.
    pub reclaim: bool,
}

impl CatchUp {
    /// Whether it is looked for them at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.interval.is_zero()
    }
}

/// Who is told what became of rejections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// The event bus, by name or ARN; empty: none.
    pub event_bus: String,
    /// `source` of the events.
    pub source: String,
    /// A program's absolute path and its arguments; empty: none.
    pub program: Vec<String>,
}

impl Notify {
    /// The bus's region, where its ARN says it.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        Arn::parse(&self.event_bus).map(|arn| arn.region)
    }
}

/// Logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Directives as `tracing_subscriber::EnvFilter` parses them.
    pub log_level: String,
    /// The CloudWatch namespace of the metrics.
    pub metrics_namespace: String,
    /// How often metrics are written: 100 ms to 1 h.
    pub metrics_interval: Duration,
    /// Where metrics are written.
    pub metrics_sink: MetricsSink,
    /// How metrics are written.
    pub metrics_format: MetricsFormat,
    /// How much of what was counted is written.
    pub metrics_detail: MetricsDetail,
    /// The log group that the CloudWatch agent is told to put EMF lines into which come over TCP.
    pub metrics_log_group: String,
}

/// Where metrics are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MetricsSink {
    /// Among the log lines; nowhere if those are for people.
    Stdout,
    /// Appended to a file, which may be rotated under it.
    File(PathBuf),
    /// To whatever listens there, such as the CloudWatch agent: `host:port`.
    Tcp(String),
}

impl TryFrom<String> for MetricsSink {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        formats::parse_sink(&text)
    }
}

impl From<MetricsSink> for String {
    fn from(sink: MetricsSink) -> Self {
        match sink {
            MetricsSink::Stdout => "stdout".to_owned(),
            MetricsSink::File(path) => format!("file://{}", path.display()),
            MetricsSink::Tcp(address) => format!("tcp://{address}"),
        }
    }
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsFormat {
    /// CloudWatch Embedded Metric Format.
    Emf,
    /// Flat JSON objects, for other scrapers.
    Json,
}

impl Config {
    /// Reads the file at `path` and lays the `STAGESWEEP__` variables of `env` over it. The path
    /// [`TEXT_VARIABLE`] stands for the text in that variable.
    ///
    /// # Errors
    ///
    /// Every fault of the file and of the environment. A file that cannot be read is a single
    /// one; in a file that is not TOML only that is reported.
    pub fn load(path: &Path, env: &BTreeMap<String, String>) -> Result<Self, Faults> {
        Self::load_with_origins(path, env).map(|(config, _)| config)
    }

    /// [`Config::load`], and where the values stand.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_with_origins(
        path: &Path,
        env: &BTreeMap<String, String>,
    ) -> Result<(Self, Origins), Faults> {
        if path == Path::new(TEXT_VARIABLE)
            && let Some(text) = env.get(TEXT_VARIABLE)
        {
            return Self::parse_with_origins(path, text, env);
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse_with_origins(path, &text, env),
            Err(error) => Err(Faults::new(vec![Fault {
                place: Place::File(path.to_owned()),
                key: None,
                message: match error.kind() {
                    ErrorKind::NotFound => NO_FILE.to_owned(),
                    _ => format!("cannot be read: {error}"),
                },
            }])),
        }
    }

    /// [`Config::load`] with the file's `text` given; `path` only names it in faults.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str, env: &BTreeMap<String, String>) -> Result<Self, Faults> {
        Self::parse_with_origins(path, text, env).map(|(config, _)| config)
    }

    fn parse_with_origins(
        path: &Path,
        text: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<(Self, Origins), Faults> {
        let mut faults = Vec::new();
        let read = layers::collect(path, text, env, &mut faults)
            .ok()
            .and_then(|layers| checked::check(&layers, &mut faults).zip(Some(layers)));
        match read {
            Some((config, layers)) if faults.is_empty() => Ok((
                config,
                Origins {
                    places: layers.places,
                    targets: layers.targets.into_iter().map(|it| it.place).collect(),
                },
            )),
            _ => Err(Faults::new(faults)),
        }
    }

    /// Whether an event of `account` may be acted on: the queue's own account, or a listed one.
    #[must_use]
    pub fn allows_account(&self, account: &str) -> bool {
        self.queue.account.as_deref() == Some(account)
            || self.events.allowed_accounts.contains(account)
    }
}

/// What is said where there is no file.
const NO_FILE: &str = "no configuration: the file does not exist; give --config FILE, set STAGESWEEP_CONFIG, or write \
                       one after the example (config/example.toml in the sources, \
                       /usr/share/doc/stagesweep/examples/config.toml of the packages)";

/// Which file to read: the one on the command line, else the one that `STAGESWEEP_CONFIG` names
/// (unless it is empty), else [`TEXT_VARIABLE`] if it has a text, else [`DEFAULT_PATH`].
#[must_use]
pub fn path(flag: Option<&Path>, env: &BTreeMap<String, String>) -> PathBuf {
    let set = |name| env.get(name).filter(|value| !value.is_empty());
    let named = set(PATH_VARIABLE).map(Path::new);
    let text = set(TEXT_VARIABLE).map(|_| Path::new(TEXT_VARIABLE));
    flag.or(named)
        .or(text)
        .unwrap_or(Path::new(DEFAULT_PATH))
        .to_owned()
}

#[cfg(test)]
mod tests;
