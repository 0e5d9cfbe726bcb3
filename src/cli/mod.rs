//! The verbs of the command line, one file each.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::aws::Asked;
use crate::config;
use crate::telemetry::chain;

pub mod check;
mod clean;
mod dead_letters;
mod doctor;
mod exits;
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
mod usage;
mod version;
mod width;

use exits::{EX_CONFIG, FATAL, USAGE};

/// Takes down what a rejected CloudFront blue/green deployment leaves behind.
///
/// Consumes the SQS queue to which EventBridge routes rejected CodePipeline approvals.
#[derive(Debug, Parser)]
#[command(name = "stagesweep", version, long_version = version::full())]
pub struct Arguments {
    #[command(flatten)]
    from: Invocation,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon.
    #[command(after_help = "Example:\n  stagesweep run --config /etc/stagesweep/config.toml")]
    Run {
        /// Stop once the queue is empty and all jobs are done.
        #[arg(long)]
        drain: bool,
    },
    /// Validate the configuration offline and list every fault with its place.
    ///
    /// With --event or --pipeline: which target takes this event or this pipeline's rejections, with which captures,
    /// parameters and roles; or why none does.
    #[command(
        visible_alias = "validate",
        after_help = "Examples:\n  stagesweep check --config ./config.toml\n  \
                      stagesweep check --event event.json\n  \
                      stagesweep check --pipeline shop-frontend-pipeline"
    )]
    Check(check::Options),
    /// Show what is there, and the steps that a rejection would take now. Changes nothing.
    ///
    /// A job of the target that has changed something and is not done is shown too.
    #[command(after_help = "Example:\n  stagesweep plan shop-frontend-pipeline")]
    Plan {
        #[command(flatten)]
        target: setup::TargetArgument,
        #[command(flatten)]
        options: plan::Options,
    },
    /// Take one staging distribution down by hand, with the daemon's own steps and fences.
    ///
    /// It is safe beside a running daemon: both follow one ledger. A job of the target that has changed
    /// something and that nobody works on is gone on with instead. While another execution is at work on
    /// the production distribution, it waits. Ctrl-C stops it at the next step boundary; run again, it
    /// goes on from there.
    #[command(after_help = "Example:\n  stagesweep clean shop-frontend-pipeline --yes")]
    Clean {
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
    /// approval is at work.
    #[command(
        after_help = "Examples:\n  stagesweep orphans\n  stagesweep orphans --delete --min-age 1d"
    )]
    Orphans(orphans::Options),
    /// Look, against the real account, for what would keep the daemon from its work. Changes nothing.
    ///
    /// Credentials, clock, ledger; the queue, its redrive policy and its policy; the rules that send to
    /// it; parameters, distributions and their quota; pipelines; programs and notices; the permissions to
    /// read, and those to change something: each is ok, a warning or a failure, with one line of how to
    /// fix it.
    #[command(after_help = "Example:\n  stagesweep doctor shop-frontend-pipeline")]
    Doctor(doctor::Options),
    /// List what lies in the dead-letter queue, and why; send chosen ones back.
    #[command(
        visible_alias = "dlq",
        after_help = "Examples:\n  stagesweep dead-letters\n  stagesweep dead-letters --redrive \
                      4f1c2d7a-52b1-4d5c-9a0f-7f0c3f1f5b11"
    )]
    DeadLetters(dead_letters::Options),
    /// Show what the ledger knows of the jobs: execution, target, outcome, duration, steps.
    #[command(
        after_help = "Examples:\n  stagesweep history --since 7d --outcome superseded\n  \
                      stagesweep history show 4f1c2d7a --svg timeline.svg"
    )]
    History(history::Options),
    /// Write the least IAM policy for this configuration. Calls nobody.
    ///
    /// It is the daemon's; with --operator that of whoever uses the other verbs; with --role that of a role in
    /// another account which targets name. A * stands for what the configuration leaves open.
    #[command(after_help = "Examples:\n  stagesweep iam-policy > policy.json\n  \
                            stagesweep iam-policy --operator")]
    IamPolicy(iam_policy::Options),
    /// Ask the running daemon of this configuration whether it does its work.
    ///
    /// It does while its last completed poll is fresh, its jobs make progress and its ledger works. Otherwise one
    /// line says why.
    #[command(
        visible_alias = "status",
        after_help = "Example:\n  stagesweep health --config /etc/stagesweep/config.toml"
    )]
    Health {
        /// Write one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write a shell's completions to standard output.
    #[command(after_help = "Examples:\n  source <(stagesweep completion bash)\n  \
                      stagesweep completion zsh > ~/.zfunc/_stagesweep\n  \
                      stagesweep completion fish > ~/.config/fish/completions/stagesweep.fish")]
    Completion {
        /// The shell: bash, fish or zsh.
        #[arg(value_name = "SHELL", value_parser = pages::shell(), hide_possible_values = true)]
        shell: String,
    },
    /// Write the manual pages and the shells' completions.
    #[command(hide = true)]
    Pages {
        /// The directory that they are written to.
        directory: PathBuf,
    },
    /// Rehearse whole cleanups on this machine, against an embedded AWS. No account is needed.
    #[cfg(feature = "rehearsal")]
    #[command(after_help = "Examples:\n  stagesweep rehearse --scenario crash\n  \
                            stagesweep rehearse --services 3 --faults mild")]
    Rehearse(rehearse::Options),
}

/// The heading of what stands before the verb or after it.
const EVERYWHERE: &str = "Before or after the verb";

/// Where a verb finds its configuration, and as whom it asks AWS.
#[derive(Debug, clap::Args)]
pub struct Invocation {
    /// The configuration file [default: $STAGESWEEP_CONFIG, else the text in $STAGESWEEP_CONFIG_TOML,
    /// else /etc/stagesweep/config.toml].
    #[arg(short = 'c', long, value_name = "FILE", global = true, help_heading = EVERYWHERE)]
    config: Option<PathBuf>,
    /// The AWS profile, which then comes before keys in variables [default: $AWS_PROFILE, else the one
    /// called default].
    #[arg(long, value_name = "NAME", global = true, help_heading = EVERYWHERE,
          value_parser = NonEmptyStringValueParser::new())]
    profile: Option<String>,
    /// The AWS region [default: $AWS_REGION, else the profile's, the instance's, or that of queue.url].
    #[arg(long, value_name = "REGION", global = true, help_heading = EVERYWHERE,
          value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
}

impl Invocation {
    fn path(&self) -> PathBuf {
        config::path(self.config.as_deref(), &environment())
    }

    fn asked(&self) -> Asked {
        Asked {
            profile: self.profile.clone(),
            region: self.region.clone(),
        }
    }
}

/// The verbs that ask AWS nothing, so that neither a profile nor a region means anything to them.
const WITHOUT_AWS: [&str; 4] = ["iam-policy", "health", "completion", "pages"];

/// The command line as it is parsed, shown in help and written about in manual pages.
#[must_use]
pub fn command() -> Command {
    let mut command = exits::explained(Arguments::command());
    for verb in WITHOUT_AWS {
        let hidden = |id: &'static str| {
            let parser = NonEmptyStringValueParser::new();
            Arg::new(id).long(id).value_parser(parser).hide(true)
        };
        command =
            command.mut_subcommand(verb, |it| it.arg(hidden("profile")).arg(hidden("region")));
    }
    command
}

fn parsed<T: Into<OsString> + Clone>(
    line: impl IntoIterator<Item = T>,
) -> Result<Arguments, clap::Error> {
    let matches = command()
        .try_get_matches_from(line)
        .map_err(usage::helped)?;
    let arguments = Arguments::from_arg_matches(&matches)?;
    arguments.sound(matches.subcommand_name().unwrap_or_default())?;
    Ok(arguments)
}

impl Arguments {
    /// What clap cannot say well.
    fn sound(&self, verb: &str) -> Result<(), clap::Error> {
        let conflict = ErrorKind::ArgumentConflict;
        let Invocation {
            profile, region, ..
        } = &self.from;
        if WITHOUT_AWS.contains(&verb) && (profile.is_some() || region.is_some()) {
            let why = format!("{verb} asks AWS nothing: --profile and --region mean nothing to it");
            return Err(usage::wrong(verb, conflict, &why));
        }
        if let Verb::Clean { target, options } = &self.verb
            && options.needs_yes()
        {
            let name = target.name();
            let why = format!("add --yes; to only look: stagesweep plan {name} --json");
            return Err(usage::wrong(verb, ErrorKind::MissingRequiredArgument, &why));
        }
        Ok(())
    }
}

/// Runs the verb that the command line names, and returns the exit status. What ended it stands on standard
/// error, with `--json` as one JSON object.
#[must_use]
pub fn main() -> u8 {
    let json = json::asked();
    let arguments = match parsed(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) if usage::asks_for_help(&error) => {
            // Whoever reads it may have read enough.
            let _ = command().print_long_help();
            return 0;
        }
        Err(error) if json && error.use_stderr() => {
            json::write_usage_error(&error);
            return USAGE;
        }
        Err(error) => error.exit(),
    };
    perform(arguments).unwrap_or_else(|error| failed(&error, json))
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

fn perform(Arguments { from, verb }: Arguments) -> anyhow::Result<u8> {
    let env = environment();
    if !matches!(
        verb,
        Verb::Run { .. } | Verb::Pages { .. } | Verb::Completion { .. }
    ) && !json::asked()
    {
        for warning in config::without_effect(&env) {
            eprintln!("warning: {warning}");
        }
    }
    let mut out = Vec::new();
    let status = match verb {
        Verb::Check(options) => {
            let mut err = std::io::stderr().lock();
            check::check(
                &from.path(),
                &from.asked(),
                &options,
                &env,
                &mut out,
                &mut err,
            )?
        }
        Verb::IamPolicy(options) => {
            let mut err = std::io::stderr().lock();
            let config = config::Config::load(&from.path(), &env)?;
            iam_policy::iam_policy(&config, &options, &mut out, &mut err)?
        }
        Verb::Health { json } => {
            let mut err = std::io::stderr().lock();
            let path = from.path();
            let asked = health::health(&path, &env, json, &mut out, &mut err);
            block_on(async { Ok(asked.await?) })?
        }
        Verb::Completion { shell } => {
            pages::complete(&shell, &mut out)?;
            0
        }
        Verb::Pages { directory } => {
            pages::write(&directory)?;
            0
        }
        Verb::Run { drain } => block_on(run::run(from, drain))?,
        Verb::Plan { target, options } => block_on(plan::plan(&from, &target, &options))?,
        Verb::Clean { target, options } => match options.only_looks() {
            Some(options) => block_on(plan::plan(&from, &target, &options))?,
            None => block_on(clean::clean(&from, &target, &options))?,
        },
        Verb::History(options) => block_on(history::history(&from, &options))?,
        Verb::Orphans(options) => block_on(orphans::orphans(&from, &options))?,
        Verb::Doctor(options) => block_on(doctor::doctor(&from, &options))?,
        Verb::DeadLetters(options) => block_on(dead_letters::dead_letters(&from, &options))?,
        #[cfg(feature = "rehearsal")]
        Verb::Rehearse(options) => block_on(rehearse::rehearse(options))?,
    };
    terminal::print(&String::from_utf8_lossy(&out))?;
    Ok(status)
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
