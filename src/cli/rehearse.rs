//! `stagesweep rehearse`: whole cleanups on this machine, against the embedded AWS.
//!
//! The daemon that runs here is the real one with the real SDK clients; only the AWS at the other
//! end of its loopback connections is not.

mod report;
mod scene;
mod show;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FATAL, environment};
use crate::aws::Connector;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::daemon::signals::{Request, Requests};
use crate::ledger::EmbeddedLedger;
use crate::runtime::clock::Clock;
use crate::runtime::programs::{Finish, Invocation, Listener, Output, Programs};
use crate::runtime::stop::Stop;
use crate::telemetry::{Telemetry, What};
use embedded_aws::{EmbeddedAws, Faults, Settings};
use report::Report;
use scene::Scene;
use show::Show;

/// CloudFront's quota of staging distributions an account, which the embedded AWS keeps.
const MAX_SERVICES: u16 = 20;

/// What `stagesweep rehearse` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many services are rejected at once; with --config, for each target.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SERVICES)))]
    services: u16,
    /// How long CloudFront takes to propagate a change; minutes in reality.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    propagation: Duration,
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
    /// Only serve the embedded AWS at this loopback address, with the rejections on its queue, and
    /// print what points a daemon or the AWS CLI at it.
    #[arg(long, value_name = "ADDR")]
    serve: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FaultLevel {
    None,
    Mild,
    Storm,
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// Rehearses, and returns the exit status: 0 if nothing is left behind.
///
/// # Errors
/// If the rehearsal cannot be set up.
pub async fn rehearse(options: Options) -> anyhow::Result<u8> {
    let config = scene::config(options.config.as_deref(), &environment())?;
    let mut settings = Settings {
        propagation: options.propagation,
        latency: options.latency,
        seed: options.seed,
        ..Settings::default()
    };
    // Targets without a role are of the queue's account, here as there.
    if let Some(account) = &config.queue.account {
        settings.account.clone_from(account);
    }
    let clock = Clock::system();
    let aws = EmbeddedAws::new(clock.clone(), settings);
    aws.set_faults(match options.faults {
        FaultLevel::None => Faults::none(),
        FaultLevel::Mild => Faults::mild(),
        FaultLevel::Storm => Faults::storm(),
    });
    let scene = Scene::set(&aws, &config, options.services)?;
    let requests = Requests::listen().context("signal handlers could not be installed")?;
    match options.serve {
        Some(address) => serve(&aws, &scene, address, requests).await,
        None => perform(&options, config, aws, scene, clock, requests).await,
    }
}

/// Leaves the embedded AWS running until the process is asked to stop.
async fn serve(
    aws: &EmbeddedAws,
    scene: &Scene,
    address: SocketAddr,
    mut requests: Requests,
) -> anyhow::Result<u8> {
    let listener = aws
        .listen(address)
        .await
        .with_context(|| format!("the embedded AWS cannot listen at {address}"))?;
    for rejection in &scene.rejections {
        scene.send(aws, rejection)?;
    }
    print!("{}", scene.instructions(&listener.endpoint_url(), aws));
    while !matches!(requests.next().await, Request::Stop { .. }) {}
    listener.stop().await;
    Ok(0)
}

/// Runs the daemon against the embedded AWS until every message is settled.
async fn perform(
    options: &Options,
    config: Config,
    aws: EmbeddedAws,
    scene: Scene,
    clock: Clock,
    mut requests: Requests,
) -> anyhow::Result<u8> {
    let listener = aws
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await?;
    let directory = scene::WorkDirectory::new()?;
    let ledger_path = directory.path().join("ledger.db");
    let config = scene.point(config, &listener.endpoint_url(), &ledger_path);
    let (sender, mut milestones) = mpsc::unbounded_channel();
    let telemetry = Arc::new(Telemetry::new(clock.clone()).with_milestones(sender));
    let connector = Connector::to_endpoint(
        &listener.endpoint_url(),
        &aws.settings().region,
        None,
        &clock,
        Arc::clone(&telemetry),
    );
    let owner = Uuid::new_v4().to_string();
    let ledger = EmbeddedLedger::open(&ledger_path, owner, clock.clone())?;
    let ledger = Arc::new(ledger);
    let programs = Arc::new(NotRun);
    let daemon = Daemon::new(config, &connector, ledger, clock, telemetry, programs);

    let began = Instant::now();
    let mut show = Show::new(&scene, began);
    show.opening(options, &listener.endpoint_url());
    let mut report = Report::new(&scene, began);
    let mut late = scene.late_duplicates(options.duplicates);
    for rejection in &scene.rejections {
        scene.send(&aws, rejection)?;
        for _ in 0..options.duplicates - late.each() {
            scene.send(&aws, rejection)?;
        }
    }

    let stop = CancellationToken::new();
    let running = daemon.run(stop.clone(), false);
    tokio::pin!(running);
    let mut settled = std::pin::pin!(scene.settled(&aws));
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
                    late.send(&aws, &scene, &milestone.execution_id)?;
                }
                show.milestone(&milestone);
                report.milestone(milestone);
            }
            request = requests.next() => {
                if let Request::Stop { .. } = request {
                    interrupted = true;
                    stop.cancel();
                }
            }
            () = show.tick() => {}
            () = &mut settled, if !stop.is_cancelled() && late.is_empty() => stop.cancel(),
        }
    }
    while let Ok(milestone) = milestones.try_recv() {
        show.milestone(&milestone);
        report.milestone(milestone);
    }
    show.close();
    listener.stop().await;
    let clean = report.print(&aws, &scene, interrupted);
    Ok(if clean && !interrupted { 0 } else { FATAL })
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
