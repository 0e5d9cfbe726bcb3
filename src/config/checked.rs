//! From the layers to the checked configuration: bounds, formats, and how values relate.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::fault::Fault;
use super::formats::{
    MAX_SOCKET, check_event_source, check_log_group, check_log_level, check_namespace,
    is_event_bus, is_socket, is_table_name, parse_queue_url, parse_sink, quoted,
};
use super::layers::Layers;
use super::reader::{Bounds, Reader};
use super::{
    CatchUp, Cleanup, Config, Events, Health, Ledger, LedgerBackend, MetricsFormat, MetricsSink,
    Notify, OnTimeout, Queue, Retry, Shutdown, Telemetry, Verify,
};
use crate::domain::arn::is_account;
use crate::domain::targets::{Mode, Surroundings};
use crate::telemetry::MetricsDetail;
use crate::telemetry::logging::LogFormat;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// SQS waits no longer for a message (SQS API reference: `ReceiveMessage`).
const SQS_MAX_WAIT: Duration = Duration::from_secs(20);

/// SQS hides no message for longer (SQS API reference: `ChangeMessageVisibility`).
const SQS_MAX_VISIBILITY: Duration = HOUR.saturating_mul(12);

/// Far above the 20 staging distributions that an account has by default; a larger number is a
/// slip, and every job in flight costs a share of CloudFront's request rate.
const MAX_IN_FLIGHT: i64 = 1000;

/// With the longest propagation behind it, a message is done before SQS's ceiling of 12 h.
pub(super) const MAX_DELAY: Duration = HOUR.saturating_mul(6);

/// Over a longer time than this, the times of writes say nothing.
const MAX_GRACE: Duration = Duration::from_secs(10 * 60);

/// Checks everything; `None` only after at least one fault was reported.
pub(super) fn check(layers: &Layers, faults: &mut Vec<Fault>) -> Option<Config> {
    let mut reader = Reader { layers, faults };
    let queue = reader.queue();
    let cleanup = reader.cleanup();
    let retry = reader.retry();
    let shutdown = reader.shutdown();
    let ledger = reader.ledger();
    let health = reader.health();
    let events = reader.events();
    let verify = reader.verify();
    let catch_up = reader.catch_up();
    let notify = reader.notify();
    let telemetry = reader.telemetry();
    let surroundings = Surroundings {
        account: queue.as_ref().and_then(|queue| queue.account.clone()),
        region: queue.as_ref().and_then(|queue| queue.region.clone()),
        asks_codepipeline: verify.as_ref().is_some_and(|verify| verify.codepipeline),
    };
    let targets = reader.targets(surroundings, events.as_ref(), cleanup.as_ref());
    let (queue, events) = (queue?, events?);
    if queue.account.is_none() && events.allowed_accounts.is_empty() {
        reader.fault(
            "events.allowed_accounts",
            "is empty, and queue.url names no account: no event could ever be accepted; \
             list the accounts that events may come from",
        );
    }
    Some(Config {
        queue,
        cleanup: cleanup?,
        retry: retry?,
        shutdown: shutdown?,
        ledger: ledger?,
        health: health?,
        events,
        verify: verify?,
        catch_up: catch_up?,
        notify: notify?,
        telemetry: telemetry?,
        targets: targets?,
    })
}

impl Reader<'_> {
    fn queue(&mut self) -> Option<Queue> {
        let url = self.text("queue.url");
        let place = url.as_deref().and_then(|url| self.queue_url(url));
        let wait_time = self.duration(
            "queue.wait_time",
            &Bounds::sqs(Duration::ZERO, SQS_MAX_WAIT, true),
        );
        let visibility_timeout = self.duration(
            "queue.visibility_timeout",
            &Bounds::sqs(SECOND, SQS_MAX_VISIBILITY, true),
        );
        let heartbeat_interval = self.duration(
            "queue.heartbeat_interval",
            &Bounds::sqs(MILLISECOND, SQS_MAX_VISIBILITY, false),
        );
        if let (Some(heartbeat), Some(visibility)) = (heartbeat_interval, visibility_timeout)
            && heartbeat > visibility * 3 / 4
        {
            self.relation(
                "queue.heartbeat_interval",
                "is more than three quarters of",
                "queue.visibility_timeout",
                "an extension that fails could not be tried again before the message becomes \
                 visible to others",
            );
        }
        let max_in_flight = self.count("queue.max_in_flight", 1, MAX_IN_FLIGHT);
        let (account, region) = place?;
        Some(Queue {
            url: url?,
            account,
            region,
            wait_time: wait_time?,
            visibility_timeout: visibility_timeout?,
            heartbeat_interval: heartbeat_interval?,
            max_in_flight: max_in_flight?,
        })
    }

    /// The account and the region that the queue's URL names, each if it does.
    fn queue_url(&mut self, url: &str) -> Option<(Option<String>, Option<String>)> {
        match parse_queue_url(url) {
            Ok(place) => Some(place),
            Err(problem) => {
                self.fault("queue.url", &format!("{} {problem}", quoted(url)));
                None
            }
        }
    }

    fn cleanup(&mut self) -> Option<Cleanup> {
        let mode = self.one_of("cleanup.mode", &Mode::ALL.map(|it| (it.code(), it)));
        let delay = self.duration("cleanup.delay", &Bounds::new(Duration::ZERO, MAX_DELAY));
        let poll = Bounds::new(MILLISECOND, HOUR);
        let poll_interval_min = self.duration("cleanup.poll_interval_min", &poll);
        let poll_interval_max = self.duration("cleanup.poll_interval_max", &poll);
        let propagation_timeout = self.duration(
            "cleanup.propagation_timeout",
            &Bounds::new(MILLISECOND, HOUR * 24),
        );
        if poll_interval_min
            .zip(poll_interval_max)
            .is_some_and(|(min, max)| min > max)
        {
            self.relation(
                "cleanup.poll_interval_min",
                "is longer than",
                "cleanup.poll_interval_max",
                "the interval grows from the one to the other",
            );
        }
        let pair = poll_interval_max.zip(propagation_timeout);
        if pair.is_some_and(|(poll, timeout)| poll > timeout) {
            self.relation(
                "cleanup.propagation_timeout",
                "is shorter than",
                "cleanup.poll_interval_max",
                "a job would give up before it looks a second time",
            );
        }
        Some(Cleanup {
            mode: mode?,
            delay: delay?,
            poll_interval_min: poll_interval_min?,
            poll_interval_max: poll_interval_max?,
            propagation_timeout: propagation_timeout?,
        })
    }

    fn retry(&mut self) -> Option<Retry> {
        let bounds = Bounds::sqs(MILLISECOND, SQS_MAX_VISIBILITY, false);
        let initial_backoff = self.duration("retry.initial_backoff", &bounds);
        let max_backoff = self.duration("retry.max_backoff", &bounds);
        if initial_backoff
            .zip(max_backoff)
            .is_some_and(|(initial, max)| initial > max)
        {
            self.relation(
                "retry.initial_backoff",
                "is longer than",
                "retry.max_backoff",
                "the backoff grows from the one to the other",
            );
        }
        Some(Retry {
            initial_backoff: initial_backoff?,
            max_backoff: max_backoff?,
        })
    }

    fn shutdown(&mut self) -> Option<Shutdown> {
        let bounds = Bounds::new(Duration::ZERO, HOUR);
        let grace_period = self.duration("shutdown.grace_period", &bounds)?;
        Some(Shutdown { grace_period })
    }

    fn ledger(&mut self) -> Option<Ledger> {
        let backend = self.one_of(
            "ledger.backend",
            &[
                ("embedded", LedgerBackend::Embedded),
                ("dynamodb", LedgerBackend::DynamoDb),
            ],
        );
        let path = self.text("ledger.path").and_then(|path| {
            if path.is_empty() || path.ends_with('/') {
                let message = format!("{} does not name a file", quoted(&path));
                self.fault("ledger.path", &message);
                return None;
            }
            Some(PathBuf::from(path))
        });
        let table = self.text("ledger.table");
        let (backend, table) = (backend?, table?);
        if backend == LedgerBackend::DynamoDb && !is_table_name(&table) {
            let message = if table.is_empty() {
                "is needed with ledger.backend = \"dynamodb\"".to_owned()
            } else {
                format!(
                    "{} is no name of a DynamoDB table: 3 to 255 letters, digits, _ . or -",
                    quoted(&table)
                )
            };
            self.fault("ledger.table", &message);
            return None;
        }
        Some(Ledger {
            backend,
            path: path?,
            table,
        })
    }

    fn health(&mut self) -> Option<Health> {
        let socket = self.text("health.socket")?;
        if !is_socket(&socket) {
            let message = format!(
                "{} is no socket: expected an absolute path or \"@\" and a name, {MAX_SOCKET} bytes at most",
                quoted(&socket)
            );
            self.fault("health.socket", &message);
            return None;
        }
        Some(Health { socket })
    }

    fn events(&mut self) -> Option<Events> {
        let key = "events.allowed_accounts";
        let mut allowed_accounts = BTreeSet::new();
        let mut sound = !self.layers.tainted.contains(key);
        for (account, place) in self.elements(key) {
            let Some(account) = account else { continue };
            if is_account(&account) {
                allowed_accounts.insert(account);
                continue;
            }
            sound = false;
            let account = quoted(&account);
            let message = format!("{account} is not an account id; expected twelve digits");
            self.fault_at(place, key, message);
        }
        sound.then_some(Events { allowed_accounts })
    }

    fn verify(&mut self) -> Option<Verify> {
        let codepipeline = self.flag("verify.codepipeline");
        let on_timeout = self.one_of(
            "verify.on_timeout",
            &[("clean", OnTimeout::Clean), ("ignore", OnTimeout::Ignore)],
        );
        if (codepipeline, on_timeout) == (Some(false), Some(OnTimeout::Ignore)) {
            self.relation(
                "verify.on_timeout",
                "means nothing with",
                "verify.codepipeline",
                "only CodePipeline can tell that an approval timed out",
            );
        }
        let grace = Bounds::new(Duration::ZERO, MAX_GRACE);
        let grace = self.duration("verify.grace", &grace);
        Some(Verify {
            codepipeline: codepipeline?,
            on_timeout: on_timeout?,
            grace: grace?,
        })
    }

    fn catch_up(&mut self) -> Option<CatchUp> {
        let bounds = Bounds::new(Duration::ZERO, HOUR * 24);
        let interval = self.duration("catch_up.interval", &bounds);
        let reclaim = self.flag("catch_up.reclaim");
        if (interval, reclaim) == (Some(Duration::ZERO), Some(true)) {
            self.relation(
                "catch_up.reclaim",
                "means nothing with",
                "catch_up.interval",
                "an interval of zero is never",
            );
        }
        Some(CatchUp {
            interval: interval?,
            reclaim: reclaim?,
        })
    }

    fn notify(&mut self) -> Option<Notify> {
        let event_bus = self.text("notify.event_bus");
        let event_bus = event_bus.and_then(|bus| {
            if is_event_bus(&bus) {
                return Some(bus);
            }
            let message = format!(
                "{} is no event bus: expected its name, or \
                 \"arn:aws:events:REGION:ACCOUNT:event-bus/NAME\"",
                quoted(&bus)
            );
            self.fault("notify.event_bus", &message);
            None
        });
        let source = self.formatted("notify.source", check_event_source);
        let program = self.notify_program();
        Some(Notify {
            event_bus: event_bus?,
            source: source?,
            program: program?,
        })
    }

    fn notify_program(&mut self) -> Option<Vec<String>> {
        let key = "notify.program";
        let mut program = Vec::new();
        let mut sound = !self.layers.tainted.contains(key);
        for (index, (text, place)) in self.elements(key).into_iter().enumerate() {
            let Some(text) = text else { continue };
            let mut fail = |problem: &str| {
                sound = false;
                let message = format!("{} {problem}", quoted(&text));
                self.fault_at(place.clone(), key, message);
            };
            if index == 0 && !text.starts_with('/') {
                fail("is not an absolute path");
            }
            if text.contains('\0') {
                fail("has a zero byte");
            }
            program.push(text);
        }
        sound.then_some(program)
    }

    fn telemetry(&mut self) -> Option<Telemetry> {
        let log_format = self.one_of(
            "telemetry.log_format",
            &[
                ("auto", LogFormat::Auto),
                ("json", LogFormat::Json),
                ("pretty", LogFormat::Pretty),
            ],
        );
        let log_level = self.formatted("telemetry.log_level", check_log_level);
        let metrics_namespace = self.formatted("telemetry.metrics_namespace", check_namespace);
        let metrics_interval = self.duration(
            "telemetry.metrics_interval",
            &Bounds::new(Duration::from_millis(100), HOUR),
        );
        let metrics_sink = self.metrics_sink();
        let metrics_format = self.one_of(
            "telemetry.metrics_format",
            &[("emf", MetricsFormat::Emf), ("json", MetricsFormat::Json)],
        );
        let metrics_detail = self.one_of(
            "telemetry.metrics_detail",
            &[
                ("basic", MetricsDetail::Basic),
                ("full", MetricsDetail::Full),
            ],
        );
        let metrics_log_group = self.formatted("telemetry.metrics_log_group", check_log_group);
        Some(Telemetry {
            log_format: log_format?,
            log_level: log_level?,
            metrics_namespace: metrics_namespace?,
            metrics_interval: metrics_interval?,
            metrics_sink: metrics_sink?,
            metrics_format: metrics_format?,
            metrics_detail: metrics_detail?,
            metrics_log_group: metrics_log_group?,
        })
    }

    fn metrics_sink(&mut self) -> Option<MetricsSink> {
        let text = self.text("telemetry.metrics_sink")?;
        match parse_sink(&text) {
            Ok(sink) => Some(sink),
            Err(problem) => {
                let message = format!("{} {problem}", quoted(&text));
                self.fault("telemetry.metrics_sink", &message);
                None
            }
        }
    }
}
