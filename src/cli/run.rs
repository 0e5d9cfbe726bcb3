//! `stagesweep run`: the daemon.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::setup::{connect, load, open_ledger, region_of};
use super::{FATAL, Invocation, environment};
use crate::aws::RECEIVE_MARGIN;
use crate::config::{self, Config, MetricsFormat, MetricsSink};
use crate::daemon::Daemon;
use crate::daemon::health_socket::{self, Address};
use crate::daemon::signals::{self, Request, Requests};
use crate::daemon::systemd::Systemd;
use crate::domain::targets::Changes;
use crate::runtime::clock::Clock;
use crate::runtime::health;
use crate::runtime::programs::Processes;
use crate::telemetry::logging::{self, LevelHandle, LogFormat, Logging};
use crate::telemetry::{Form, Telemetry, chain};

/// How soon it is tried again to listen where another daemon does.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Runs the daemon until it is asked to stop; with `drain`, until the queue is empty and all jobs
/// are done. Returns the exit status.
///
/// # Errors
/// [`Faults`](config::Faults); or if logging or signal handling cannot be started. What is fatal after that is
/// logged, and is the status 1.
pub async fn run(from: Invocation, drain: bool) -> anyhow::Result<u8> {
    let config = load(&from)?;
    let telemetry = &config.telemetry;
    let terminal = std::io::stdout().is_terminal();
    let logging = logging::start(telemetry.log_format, &telemetry.log_level)
        .map_err(|error| anyhow::anyhow!(error))
        .context("logging could not be started")?;
    let clock = Clock::system();
    let telemetry = Telemetry::new(clock.clone()).with_dropped_log_lines(logging.dropped());
    let telemetry = with_metrics(telemetry, &config.telemetry, &logging, terminal)
        .context("the thread that writes metrics could not be started")?;
    let telemetry = Arc::new(telemetry);

    // Before anything that takes time: a signal must never find the default handler, which would
    // end the process without a word.
    signals::end_within(config.shutdown.grace_period)
        .context("nothing would see to an end in time")?;
    let requests = Requests::listen().context("signal handlers could not be installed")?;
    for warning in config::without_effect(&environment()) {
        warn!("{warning}");
    }
    let status = serve(
        config,
        &from,
        clock,
        &telemetry,
        requests,
        logging.level(),
        drain,
    )
    .await;
    if let Err(error) = &status {
        error!(error = chain(error.as_ref()), "fatal");
        // On a terminal the line above is there already.
        if !terminal {
            eprintln!("stagesweep: {}", chain(error.as_ref()));
        }
    }
    telemetry.close();
    Ok(status.unwrap_or(FATAL))
}

/// Metrics go where the configuration says. Among log lines for people they would only be in the way.
fn with_metrics(
    telemetry: Telemetry,
    config: &config::Telemetry,
    logging: &Logging,
    terminal: bool,
) -> std::io::Result<Telemetry> {
    let form = match config.metrics_format {
        MetricsFormat::Emf => Form::Emf {
            namespace: config.metrics_namespace.clone(),
            log_group: match config.metrics_sink {
                MetricsSink::Tcp(_) => Some(config.metrics_log_group.clone()),
                MetricsSink::Stdout | MetricsSink::File(_) => None,
            },
        },
        MetricsFormat::Json => Form::Json,
    };
    let telemetry = telemetry.with_metrics_detail(config.metrics_detail);
    match &config.metrics_sink {
        MetricsSink::Stdout if config.log_format.on(terminal) == LogFormat::Pretty => Ok(telemetry),
        MetricsSink::Stdout => Ok(telemetry.with_metrics_sink(form, logging.line_writer())),
        MetricsSink::File(path) => telemetry.with_metrics_file(form, path.clone()),
        MetricsSink::Tcp(address) => telemetry.with_metrics_listener(form, address.clone()),
    }
}

async fn serve(
    config: Config,
    from: &Invocation,
    clock: Clock,
    telemetry: &Arc<Telemetry>,
    mut requests: Requests,
    level: LevelHandle,
    drain: bool,
) -> anyhow::Result<u8> {
    let connector = connect(&config, from, &clock, telemetry).await;
    if connector.region().is_none() {
        // A profile that is not there has none either.
        connector.sign_in().await?;
    }
    region_of(&connector)?;
    let ledger = open_ledger(&config.ledger, &connector, &clock, false).await?;
    let daemon = Daemon::new(
        config.clone(),
        &connector,
        ledger,
        clock,
        Arc::clone(telemetry),
        Arc::new(Processes),
    );

    let stop = CancellationToken::new();
    let running = daemon.run(stop.clone(), drain);
    let answering = serve_health(&config, &daemon);
    tokio::pin!(running, answering);
    let mut systemd = Systemd::from_environment();
    let mut current = config.clone();
    loop {
        tokio::select! {
            ended = &mut running => {
                ended?;
                return Ok(0);
            }
            () = &mut answering => {}
            () = systemd.due(daemon.consumer().answered()) => {
                systemd.tell(&daemon.consumer().vitals());
            }
            request = requests.next() => match request {
                Request::Stop { signal } => {
                    let in_flight = daemon.consumer().gauges().in_flight;
                    info!(cause = signal, jobs = in_flight, "stopping");
                    systemd.stopping(current.shutdown.grace_period);
                    stop.cancel();
                }
                Request::Reload => {
                    systemd.reloading();
                    if let Err(faults) = reload(&mut current, &from.path(), &daemon, &level) {
                        error!(faults, "the new configuration is bad; the old one stays");
                    }
                    systemd.reloaded();
                }
                Request::Report => daemon.consumer().report(),
            }
        }
    }
}

/// Answers those who ask for the daemon's health, for ever. It works without that, too.
async fn serve_health(config: &Config, daemon: &Daemon) {
    let address = Address::of(config);
    let fresh = health::freshness(config.queue.wait_time, RECEIVE_MARGIN);
    let mut failed = false;
    loop {
        match health_socket::listen(&address).await {
            Ok(listener) => {
                health_socket::serve(listener, || daemon.consumer().vitals().report(fresh)).await;
            }
            Err(error) if !failed => {
                failed = true;
                let address = &address.to_string();
                warn!(
                    health.socket = address,
                    error = chain(&error),
                    "health cannot be asked for; set health.socket where several daemons share a network \
             namespace"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// Applies new targets and a new log level. A bad file changes nothing; its faults are returned, one a line.
fn reload(
    current: &mut Config,
    config_path: &Path,
    daemon: &Daemon,
    level: &LevelHandle,
) -> Result<(), String> {
    let new = Config::load(config_path, &environment()).map_err(|faults| faults.to_string())?;
    level
        .set(&new.telemetry.log_level)
        .map_err(|error| chain(error.as_ref()))?;
    if let Err(error) = daemon.consumer().set_targets(new.targets.clone()) {
        // It was in force until now, and so can be again.
        let _ = level.set(&current.telemetry.log_level);
        return Err(error.to_string());
    }
    log_changes(current, &new);
    current.targets = new.targets;
    current.telemetry.log_level = new.telemetry.log_level;
    Ok(())
}

fn log_changes(old: &Config, new: &Config) {
    let Changes {
        added,
        removed,
        changed,
    } = old.targets.changes(&new.targets);
    let [before, now] = [old, new].map(|it| it.telemetry.log_level.as_str());
    info!(
        targets = new.targets.len(),
        targets.added = added.len(),
        targets.removed = removed.len(),
        targets.changed = changed.len(),
        log_level.changed = before != now,
        "configuration reloaded: targets and log level"
    );
    for target in added {
        info!(reloaded = target.to_string(), "target added");
    }
    for target in removed {
        info!(reloaded = target.to_string(), "target removed");
    }
    for (target, keys) in changed {
        let keys = keys.join(", ");
        info!(reloaded = target.to_string(), keys, "target changed");
    }
    if before != now {
        info!(before, now, "log level changed");
    }
    let needs_restart = old.restart_required(new);
    if !needs_restart.is_empty() {
        warn!(
            settings = needs_restart.join(", "),
            "changed, but only a restart applies it"
        );
    }
}
