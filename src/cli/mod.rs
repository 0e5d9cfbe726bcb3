//! The verbs of the command line, one file each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config;

pub mod check;
pub mod health;
pub mod pages;
#[cfg(feature = "rehearsal")]
pub mod rehearse;
pub mod run;

/// The exit status of a fatal error.
pub const FATAL: u8 = 1;

/// Takes down what a rejected CloudFront blue/green deployment leaves behind.
///
/// Consumes the SQS queue to which EventBridge routes rejected CodePipeline approvals.
#[derive(Debug, Parser)]
#[command(name = "stagesweep", version)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon.
    ///
    /// Exits with 0 when asked to stop, 1 on a fatal error, 78 on a bad configuration.
    #[command(after_help = "Example:\n  stagesweep run --config /etc/stagesweep/config.toml")]
    Run {
        #[command(flatten)]
        config: ConfigArgument,
        /// Stop once the queue is empty and all jobs are done.
        #[arg(long)]
        drain: bool,
    },
    /// Validate the configuration offline and list every fault with its place.
    ///
    /// Exits with 0 if it is valid, 78 if not.
    #[command(after_help = "Example:\n  stagesweep check --config ./config.toml")]
    Check {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Ask the running daemon of this configuration whether it does its work.
    ///
    /// Exits with 0 while its last completed poll is fresh, its jobs make progress and its ledger works;
    /// otherwise with 1 and one line that says why.
    #[command(after_help = "Example:\n  stagesweep health --config /etc/stagesweep/config.toml")]
    Health {
        #[command(flatten)]
        config: ConfigArgument,
        /// Write one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write the manual pages and the shells' completions.
    #[command(hide = true)]
    Pages {
        /// The directory that they are written to.
        directory: PathBuf,
    },
    /// Rehearse whole cleanups on this machine, against an embedded AWS. No account is needed.
    #[cfg(feature = "rehearsal")]
    #[command(after_help = "Example:\n  stagesweep rehearse --services 3 --faults mild")]
    Rehearse(rehearse::Options),
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file [default: $STAGESWEEP_CONFIG, else the text in $STAGESWEEP_CONFIG_TOML,
    /// else /etc/stagesweep/config.toml].
    #[arg(long = "config", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl ConfigArgument {
    fn path(&self) -> PathBuf {
        config::path(self.path.as_deref(), &environment())
    }
}

/// Runs a verb and returns the exit status.
///
/// # Errors
/// What the verb could not handle; it is fatal.
pub fn main(arguments: Arguments) -> anyhow::Result<u8> {
    match arguments.verb {
        Verb::Check { config } => {
            let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
            Ok(check::check(
                &config.path(),
                &environment(),
                &mut out,
                &mut err,
            )?)
        }
        Verb::Health { config, json } => {
            let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
            let (path, environment) = (config.path(), environment());
            let asked = health::health(&path, &environment, json, &mut out, &mut err);
            Ok(runtime()?.block_on(asked)?)
        }
        Verb::Pages { directory } => {
            pages::write(&directory)?;
            Ok(0)
        }
        Verb::Run { config, drain } => runtime()?.block_on(run::run(config.path(), drain)),
        #[cfg(feature = "rehearsal")]
        Verb::Rehearse(options) => runtime()?.block_on(rehearse::rehearse(options)),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

/// The process's environment, as the configuration takes it.
///
/// What is not Unicode is kept with replacement characters: [`std::env::vars`] would panic.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect()
}
