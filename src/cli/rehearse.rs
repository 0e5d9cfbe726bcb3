//! `stagesweep rehearse`: whole cleanups on this machine, against the embedded AWS.
//!
//! The daemon that runs here is the real one with the real SDK clients; only the AWS at the other
//! end of its loopback connections is not.

mod crash;
mod report;
mod scenarios;
mod scene;
mod show;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FATAL, environment, terminal};
use crate::aws::Connector;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::daemon::signals::{Request, Requests};
use crate::ledger::EmbeddedLedger;
use crate::runtime::clock::Clock;
use crate::runtime::programs::{Finish, Invocation, Listener, Output, Programs};
use crate::runtime::stop::Stop;
use crate::telemetry::{Telemetry, What};
use crash::Heard;
use embedded_aws::{EmbeddedAws, Faults, Settings};
use report::Report;
use scenarios::{Cast, Past, Scenario, THROTTLED};
use scene::{Scene, WorkDirectory};
use show::Show;

/// CloudFront's quota of staging distributions an account, which the embedded AWS keeps.
const MAX_SERVICES: u16 = 20;

/// What `stagesweep rehearse` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A story in which a simpler cleanup does harm; exits with 1 if it does not end as it must.
    #[arg(long, value_enum,
          conflicts_with_all = ["services", "faults", "duplicates", "config", "serve"])]
    scenario: Option<Scenario>,
    /// How many services are rejected at once; with --config, for each target.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SERVICES)))]
    services: u16,
    /// How long CloudFront takes to propagate a change; minutes in reality [default: 5s, with --scenario 1s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    propagation: Option<Duration>,
    /// How long every call to the embedded AWS takes on its way.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    latency: Duration,
    /// What goes wrong on the way: throttling, failures, cut connections, stale reads.
    #[arg(long, value_enum, default_value_t = FaultLevel::None)]
    faults: FaultLevel,
    /// How many duplicates of each rejection arrive, half of them late.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    duplicates: u16,
    /// What decides on identifiers and faults: the same seed, the same ones.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Rehearse the targets and settings of this configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write one JSON document at the end, and nothing else.
    #[arg(long, conflicts_with = "serve")]
    json: bool,
    /// Only serve the embedded AWS at this loopback address, such as 127.0.0.1:4701, with the rejections on
    /// its queue, and print what points a daemon or the AWS CLI at it.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    serve: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FaultLevel {
    None,
    Mild,
    Storm,
}

impl Options {
    fn propagation(&self) -> Duration {
        let usual = if self.scenario.is_some() { 1 } else { 5 };
        self.propagation.unwrap_or(Duration::from_secs(usual))
    }

    fn rates(&self) -> Faults {
        match (self.scenario, self.faults) {
            (Some(scenario), _) => scenario.faults(),
            (None, FaultLevel::None) => Faults::none(),
            (None, FaultLevel::Mild) => Faults::mild(),
            (None, FaultLevel::Storm) => Faults::storm(),
        }
    }

    fn faults_name(&self) -> &'static str {
        match (self.scenario, self.faults) {
            (Some(Scenario::Throttled), _) => "throttling",
            (_, FaultLevel::None) => "none",
            (_, FaultLevel::Mild) => "mild",
            (_, FaultLevel::Storm) => "storm",
        }
    }
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let port = text.strip_prefix("localhost:");
    let address = match port {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| (Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().ok(),
    };
    address.ok_or("write ADDR:PORT, such as 127.0.0.1:4701")
}

/// Rehearses, and returns the exit status: 0 if nothing is left behind.
///
/// # Errors
/// If the rehearsal cannot be set up.
pub async fn rehearse(options: Options) -> anyhow::Result<u8> {
    let config = scene::config(&options, &environment())?;
    let mut settings = Settings {
        propagation: options.propagation(),
        latency: options.latency,
        seed: options.seed,
        ..Settings::default()
    };
    // Targets without a role are of the queue's account, here as there.
    if let Some(account) = &config.queue.account {
        settings.account.clone_from(account);
    }
    let (aws, scene, cast) = match options.scenario {
        Some(scenario) => {
            let past = Past::new(settings);
            let cast = scenario.play(&past)?;
            let (aws, most) = (past.aws, scenario.max_receives());
            let scene = Scene::of_scenario(&aws, &config, most, &cast.rejected)?;
            let before = scenarios::everything(&aws);
            (aws, scene, Some((cast, before)))
        }
        None => {
            let aws = EmbeddedAws::new(Clock::system(), settings);
            let scene = Scene::set(&aws, &config, options.services)?;
            (aws, scene, None)
        }
    };
    aws.set_faults(options.rates());
    let requests = Requests::listen().context("signal handlers could not be installed")?;
    let stage = Stage {
        aws,
        scene,
        directory: WorkDirectory::new()?,
    };
    match options.serve {
        Some(address) => stage.serve(&options, address, requests).await,
        None => stage.perform(&options, config, cast, requests).await,
    }
}

/// Where a rehearsal takes place.
struct Stage {
    aws: EmbeddedAws,
    scene: Scene,
    directory: WorkDirectory,
}

impl Stage {
    /// Leaves the embedded AWS running until the process is asked to stop.
    async fn serve(
        self,
        options: &Options,
        address: SocketAddr,
        mut requests: Requests,
    ) -> anyhow::Result<u8> {
        let Self {
            aws,
            scene,
            directory,
        } = self;
        let listener = aws
            .listen(address)
            .await
            .with_context(|| format!("the embedded AWS cannot listen at {address}"))?;
        scene.send_all(&aws, 1)?;
        let endpoint = listener.endpoint_url();
        let environment = scene.environment(&aws, options, &endpoint, &directory)?;
        terminal::print(&scene.instructions(&endpoint, &environment))?;
        while !matches!(requests.next().await, Request::Stop { .. }) {}
        listener.stop().await;
        Ok(0)
    }

    /// Runs the daemon against the embedded AWS until every message is settled.
    async fn perform(
        self,
        options: &Options,
        config: Config,
        cast: Option<(Cast, BTreeMap<String, String>)>,
        mut requests: Requests,
    ) -> anyhow::Result<u8> {
        let (aws, scene) = (&self.aws, &self.scene);
        let listener = aws
            .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await?;
        let endpoint = listener.endpoint_url();
        let (heard, mut milestones, mut lines) = Heard::new();
        let mut changes = aws.journal().subscribe();

        let mut show = Show::new(scene, Instant::now(), options.json);
        show.opening(options, &endpoint);
        let mut report = Report::new(scene, Clock::system());
        let mut late = scene.late_duplicates(options.duplicates);
        scene.send_all(aws, 1 + options.duplicates - late.each())?;

        let stop = CancellationToken::new();
        let running = self.run(options, config, &endpoint, heard, stop.clone());
        tokio::pin!(running);
        let mut settled = std::pin::pin!(scene.settled(aws));
        let mut calms = std::pin::pin!(tokio::time::sleep(THROTTLED));
        // The daemons of that scenario end by themselves.
        let drains = options.scenario == Some(Scenario::Crash);
        let mut throttled = options.scenario == Some(Scenario::Throttled);
        let mut interrupted = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    ended?;
                    break;
                }
                Some(milestone) = milestones.recv() => {
                    if let What::Ended { success: true, .. } = milestone.what {
                        late.send(aws, scene, &milestone.execution_id)?;
                    }
                    show.milestone(&milestone);
                    report.milestone(&milestone);
                }
                Some(line) = lines.recv() => show.line(&line),
                Ok(entry) = changes.recv() => show.unanswered(scene, &entry),
                request = requests.next() => {
                    if let Request::Stop { .. } = request {
                        interrupted = true;
                        stop.cancel();
                    }
                }
                () = show.tick() => {}
                () = &mut calms, if throttled => {
                    throttled = false;
                    aws.calm();
                }
                () = &mut settled, if !drains && !stop.is_cancelled() && late.is_empty() => {
                    stop.cancel();
                }
            }
        }
        while let Ok(milestone) = milestones.try_recv() {
            show.milestone(&milestone);
            report.milestone(&milestone);
        }
        show.close();
        listener.stop().await;
        report.ask(&self.directory.ledger());
        let summary = report.summary((aws, scene), options, cast.as_ref(), interrupted);
        if options.json {
            terminal::print_json(&summary)?;
        } else {
            summary.print();
        }
        Ok(if summary.passed { 0 } else { FATAL })
    }

    /// The daemon: here, or in processes of its own where it is killed.
    async fn run(
        &self,
        options: &Options,
        config: Config,
        endpoint: &str,
        heard: Heard,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Self {
            aws,
            scene,
            directory,
        } = self;
        if options.scenario == Some(Scenario::Crash) {
            let environment = scene.environment(aws, options, endpoint, directory)?;
            return tokio::select! {
                ended = crash::perform(scene, &environment, &heard) => ended,
                () = stop.cancelled() => Ok(()),
            };
        }
        let ledger = directory.ledger();
        let config = scene.point(config, endpoint, &ledger);
        let clock = Clock::system();
        let telemetry = Telemetry::new(clock.clone()).with_milestones(heard.milestones);
        let telemetry = Arc::new(telemetry);
        let region = &aws.settings().region;
        let connector =
            Connector::to_endpoint(endpoint, region, None, &clock, Arc::clone(&telemetry));
        let owner = Uuid::new_v4().to_string();
        let ledger = Arc::new(EmbeddedLedger::open(&ledger, owner, clock.clone())?);
        let daemon = Daemon::new(
            config,
            &connector,
            ledger,
            clock,
            telemetry,
            Arc::new(NotRun),
        );
        daemon.run(stop, false).await?;
        Ok(())
    }
}

/// Runs no program: a rehearsal is no rejection, and must touch nothing on this machine.
#[derive(Debug)]
struct NotRun;

#[async_trait::async_trait]
impl Programs for NotRun {
    async fn run(
        &self,
        _invocation: &Invocation,
        _stop: &Stop,
        told: Listener<'_>,
    ) -> std::io::Result<Finish> {
        told(Output::Stdout, "not run: this is a rehearsal");
        Ok(Finish::Exited(0))
    }
}
