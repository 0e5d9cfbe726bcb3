//! The verbs of the command line, one file each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};

use crate::aws::Asked;
use crate::config;
use crate::telemetry::chain;

pub mod check;
mod clean;
mod dead_letters;
mod doctor;
pub mod health;
mod history;
mod iam_policy;
mod json;
mod open_job;
mod orphans;
pub mod pages;
mod plan;
#[cfg(feature = "rehearsal")]
pub mod rehearse;
pub mod run;
mod setup;
mod terminal;

/// The exit status of a fatal error.
const FATAL: u8 = 1;

/// The exit status of a usage error, as clap has it.
const USAGE: u8 = 2;

/// The exit status of a bad configuration: `EX_CONFIG` of `sysexits.h`.
const EX_CONFIG: u8 = 78;

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
        from: Invocation,
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
        from: Invocation,
        /// Write one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show what is there, and the steps that a rejection would take now. Changes nothing.
    ///
    /// A job of the target that has changed something and is not done is shown too.
    /// Exits with 0; with 1 if the rejection would be refused, or AWS cannot be asked; with 78 on a
    /// bad configuration.
    #[command(after_help = "Example:\n  stagesweep plan shop-frontend-pipeline")]
    Plan {
        #[command(flatten)]
        from: Invocation,
        #[command(flatten)]
        target: setup::TargetArgument,
        /// Write one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Take one staging distribution down by hand, with the daemon's own steps and fences.
    ///
    /// It is safe beside a running daemon: both follow one ledger. A job of the target that has changed
    /// something and that nobody works on is gone on with instead. While another execution is at work on
    /// the production distribution, it waits. Ctrl-C stops it at the next step boundary; run again, it
    /// goes on from there. Exits with 0 if nothing is left behind, 1 if something is, 78 on a bad
    /// configuration.
    #[command(after_help = "Example:\n  stagesweep clean shop-frontend-pipeline --yes")]
    Clean {
        #[command(flatten)]
        from: Invocation,
        #[command(flatten)]
        target: setup::TargetArgument,
        #[command(flatten)]
        options: clean::Options,
    },
    /// List staging distributions that no target's parameter names, and policies attached to nothing.
    ///
    /// With --delete it takes them down in the safe order, each after a question. It never touches
    /// what was changed within the last hour, what a parameter names, what is attached to a
    /// production distribution, or what an open job is bound to, and waits while an execution behind its
    /// approval is at work. Exits with 0; with 1 if something could not be taken down, or the account or
    /// the ledger could not be read; with 78 on a bad configuration.
    #[command(
        after_help = "Examples:\n  stagesweep orphans\n  stagesweep orphans --delete --min-age 1d"
    )]
    Orphans {
        #[command(flatten)]
        from: Invocation,
        #[command(flatten)]
        options: orphans::Options,
    },
    /// Look, against the real account, for what would keep the daemon from its work. Changes nothing.
    ///
    /// Credentials, clock, ledger; the queue, its redrive policy and its policy; the rules that send to
    /// it; parameters, distributions and their quota; pipelines; programs and notices; the permissions to
    /// read, and those to change something: each is ok, a warning or a failure, with one line of how to
    /// mend it. Exits with 0; with 1 if a check is a failure; with 78 on a bad configuration.
    #[command(after_help = "Example:\n  stagesweep doctor shop-frontend-pipeline")]
    Doctor {
        #[command(flatten)]
        from: Invocation,
        #[command(flatten)]
        options: doctor::Options,
    },
    /// List what lies in the dead-letter queue, and why; send chosen ones back.
    ///
    /// Exits with 0; with 1 if something could not be sent back, or the queue cannot be asked; with
    /// 78 on a bad configuration.
    #[command(
        after_help = "Examples:\n  stagesweep dead-letters\n  stagesweep dead-letters --redrive \
                      4f1c2d7a-52b1-4d5c-9a0f-7f0c3f1f5b11"
    )]
    DeadLetters {
        #[command(flatten)]
        from: Invocation,
        #[command(flatten)]
        options: dead_letters::Options,
    },
    /// Show what the ledger knows of the jobs: execution, target, outcome, duration, steps.
    ///
    /// Exits with 0; with 1 if the ledger cannot be read, or knows no such job; with 78 on a bad
    /// configuration.
    #[command(
        after_help = "Examples:\n  stagesweep history --since 7d --outcome superseded\n  \
                      stagesweep history show 4f1c2d7a --svg timeline.svg"
    )]
    History {
        #[command(flatten)]
        from: Invocation,
        #[command(flatten)]
        options: history::Options,
    },
    /// Write the least IAM policy for this configuration. Calls nobody.
    ///
    /// It is the daemon's; with --operator that of whoever uses the other verbs; with --role that of a role in
    /// another account which targets name. A * stands for what the configuration leaves open.
    /// Exits with 0, or 78 on a bad configuration or a role that no target names.
    #[command(after_help = "Examples:\n  stagesweep iam-policy > policy.json\n  \
                            stagesweep iam-policy --operator")]
    IamPolicy {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        options: iam_policy::Options,
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
    ///
    /// Exits with 0 if nothing is left behind; with 1 if something is, or it was interrupted; with 78
    /// on a bad configuration. With --serve, exits with 0 when asked to stop, 1 on a fatal error.
    #[cfg(feature = "rehearsal")]
    #[command(after_help = "Example:\n  stagesweep rehearse --services 3 --faults mild")]
    Rehearse(rehearse::Options),
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file [default: $STAGESWEEP_CONFIG, else the text in $STAGESWEEP_CONFIG_TOML,
    /// else /etc/stagesweep/config.toml].
    #[arg(long = "config", value_name = "FILE", global = true)]
    path: Option<PathBuf>,
}

/// Where a verb that asks AWS finds its configuration, and as whom it asks.
#[derive(Debug, clap::Args)]
pub struct Invocation {
    #[command(flatten)]
    config: ConfigArgument,
    /// The AWS profile, which then comes before keys in variables [default: $AWS_PROFILE, else the one
    /// called default].
    #[arg(long, value_name = "NAME", global = true, value_parser = NonEmptyStringValueParser::new())]
    profile: Option<String>,
    /// The AWS region [default: $AWS_REGION, else the profile's, the instance's, or that of queue.url].
    #[arg(long, value_name = "REGION", global = true, value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
}

impl Invocation {
    fn path(&self) -> PathBuf {
        self.config.path()
    }

    fn asked(&self) -> Asked {
        Asked {
            profile: self.profile.clone(),
            region: self.region.clone(),
        }
    }
}

impl ConfigArgument {
    fn path(&self) -> PathBuf {
        config::path(self.path.as_deref(), &environment())
    }
}

/// Runs the verb that the command line names, and returns the exit status. What ended it stands on standard
/// error, with `--json` as one JSON object.
#[must_use]
pub fn main() -> u8 {
    let json = json::asked();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if json && error.use_stderr() => {
            json::write_usage_error(&error);
            return USAGE;
        }
        Err(error) => error.exit(),
    };
    perform(arguments.verb).unwrap_or_else(|error| failed(&error, json))
}

/// Says what ended a verb, and returns the exit status.
fn failed(error: &anyhow::Error, json: bool) -> u8 {
    let io = error.downcast_ref::<std::io::Error>();
    if io.is_some_and(|it| it.kind() == std::io::ErrorKind::BrokenPipe) {
        // Whoever reads it has read enough.
        return 0;
    }
    match error.downcast_ref::<config::Faults>() {
        Some(faults) if json => {
            json::write_error("bad_configuration", &faults.to_string(), Some(faults));
            EX_CONFIG
        }
        Some(faults) => {
            eprintln!("{faults}");
            EX_CONFIG
        }
        None if json => {
            json::write_fatal(error);
            FATAL
        }
        None => {
            eprintln!("stagesweep: {}", chain(error.as_ref()));
            FATAL
        }
    }
}

fn perform(verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Check { from, json } => {
            let env = environment();
            if json {
                check::check_json(&from.path(), &from.asked(), &env)?;
                return Ok(0);
            }
            let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
            check::check(&from.path(), &from.asked(), &env, &mut out, &mut err)?;
            Ok(0)
        }
        Verb::IamPolicy { config, options } => {
            let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
            let config = config::Config::load(&config.path(), &environment())?;
            let written = iam_policy::iam_policy(&config, &options, &mut out, &mut err)?;
            Ok(written)
        }
        Verb::Health { config, json } => {
            let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
            let (path, environment) = (config.path(), environment());
            let asked = health::health(&path, &environment, json, &mut out, &mut err);
            block_on(async { Ok(asked.await?) })
        }
        Verb::Pages { directory } => {
            pages::write(&directory)?;
            Ok(0)
        }
        Verb::Run { from, drain } => block_on(run::run(from, drain)),
        Verb::Plan { from, target, json } => block_on(plan::plan(&from, &target, json)),
        Verb::Clean {
            from,
            target,
            options,
        } => block_on(clean::clean(&from, &target, &options)),
        Verb::History { from, options } => block_on(history::history(&from, &options)),
        Verb::Orphans { from, options } => block_on(orphans::orphans(&from, &options)),
        Verb::Doctor { from, options } => block_on(doctor::doctor(&from, &options)),
        Verb::DeadLetters { from, options } => {
            block_on(dead_letters::dead_letters(&from, &options))
        }
        #[cfg(feature = "rehearsal")]
        Verb::Rehearse(options) => block_on(rehearse::rehearse(options)),
    }
}

/// What is left of a verb's tasks has so long to end. A name lookup or a disk that hangs does not end.
const LAST_TASKS: Duration = Duration::from_millis(500);

fn block_on<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(verb);
    runtime.shutdown_timeout(LAST_TASKS);
    done
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
