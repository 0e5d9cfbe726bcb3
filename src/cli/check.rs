//! `check`: validate the configuration, and what it makes of an event or a pipeline, without a look at AWS.

mod explain;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::json;
use super::terminal::print_json;
use crate::aws::settings::{Misconfigured, Said};
use crate::aws::{Asked, Settings, queue_endpoint};
use crate::config::{Config, FIFO, Origins, is_fifo};
use crate::domain::targets::{Program, Target};
use crate::domain::words::counted;

/// What `check` takes.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// An event as EventBridge sends it, a message's body: which target takes it, or why none does. `-` is
    /// standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "pipeline")]
    event: Option<PathBuf>,
    /// A pipeline, by its name or ARN: which targets take its rejections.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Write faults and warnings only.
    #[arg(short, long)]
    quiet: bool,
    /// Write one JSON document.
    #[arg(long, conflicts_with_all = ["event", "pipeline", "quiet"])]
    json: bool,
}

/// Writes a summary of the effective configuration to `out`, or what it makes of an event or a pipeline; and
/// warnings to `err`. Returns the exit status.
///
/// # Errors
/// [`Faults`](crate::config::Faults), an event that cannot be read, or what writing comes to.
pub fn check(
    path: &Path,
    asked: &Asked,
    options: &Options,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> anyhow::Result<u8> {
    if options.json {
        return check_json(path, asked, env).map(|()| 0);
    }
    let (config, origins) = Config::load_with_origins(path, env)?;
    let settings = Settings::of_variables(asked, env);
    let mut status = 0;
    if options.event.is_some() || options.pipeline.is_some() {
        let region = settings.as_ref().ok().and_then(Settings::region);
        let region = region
            .map(|it| it.value)
            .or_else(|| config.queue.region.clone());
        let explained = explain::explained(options, &config, &origins, region.as_deref())?;
        status = explain::status(&explained);
        if !options.quiet {
            out.write_all(explain::text(&explained, path).as_bytes())?;
        }
    } else if !options.quiet {
        out.write_all(summary(path, &config, &origins, settings.as_ref().ok()).as_bytes())?;
    }
    for warning in warnings(&config, settings) {
        writeln!(err, "warning: {warning}")?;
    }
    Ok(status)
}

/// The effective values, each with who says so.
fn summary(path: &Path, config: &Config, origins: &Origins, settings: Option<&Settings>) -> String {
    let more = match origins.from_environment() {
        0 => String::new(),
        count => format!(" (+{count} from the environment)"),
    };
    let targets = counted(config.targets.len(), "target");
    let mut text = format!("{}{more} is valid: {targets}\n", path.display());
    let mut row = |key: &str, from: &str, value: &str| {
        text.push_str(&format!("  {key:<29}{from:<9}{value}\n"));
    };
    for (key, value) in config.settings() {
        let value = if value.is_empty() { "(none)" } else { &value };
        row(key, origins.of(key), value);
    }
    for (key, said) in settings.into_iter().flat_map(|it| places(it, config)) {
        row(key, "", &said.to_string());
    }
    for target in config.targets.iter() {
        row("target", "file", &target.to_string());
        for (key, value) in of_target(target, config) {
            row(&format!("  {key}"), "", &value);
        }
    }
    text
}

/// What a target says besides its pipeline, stage and action.
fn of_target(target: &Target, config: &Config) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    if let Some((production, staging)) = target.parameters() {
        said.push(("production_parameter", production));
        said.push(("staging_parameter", staging));
    }
    if let Some(stage) = target.deploy_stage() {
        said.push(("deploy_stage", stage.to_owned()));
    }
    if target.mode() != config.cleanup.mode {
        said.push(("mode", target.mode().to_string()));
    }
    if target.delay() != config.cleanup.delay {
        let delay = humantime::format_duration(target.delay());
        said.push(("delay", delay.to_string()));
    }
    said.extend(target.access());
    if let Some(program) = target.program() {
        said.push(("run", program.to_string()));
    }
    said
}

/// What is valid, and yet not as it should be.
fn warnings(config: &Config, settings: Result<Settings, Misconfigured>) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_fifo(&config.queue.url) {
        warnings.push(format!("queue.url: {FIFO}; use a standard queue"));
    }
    let wrong = settings.and_then(|it| it.check());
    warnings.extend(wrong.err().map(|it| it.to_string()));
    warnings
}

/// The same for a program, to standard output. Its faults are there too.
///
/// # Errors
/// As [`check`].
fn check_json(path: &Path, asked: &Asked, env: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let (config, origins) = match Config::load_with_origins(path, env) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let listed = faults.iter().map(json::fault);
            let rest = json!({
                "config": null, "sources": {}, "aws": null, "targets": [],
                "faults": listed.collect::<Vec<_>>(),
            });
            let came = json::came("invalid", None, None);
            print_json(&json::document("check", &[], [came, rest]))?;
            return Err(faults.into());
        }
    };
    let settings = Settings::of_variables(asked, env);
    let places = settings.iter().flat_map(|it| places(it, &config));
    let aws: Map<String, Value> = places
        .map(|(key, said)| {
            let value = Some(said.value).filter(|it| it != NOT_KNOWN);
            let said = json!({ "value": value, "source": said.from });
            (key.replace(' ', "_"), said)
        })
        .collect();
    let sources = origins.places().iter();
    let sources = sources.map(|(key, place)| (key.clone(), place.to_string().into()));
    let rest = json!({
        "config": config.values(),
        "sources": sources.collect::<Map<_, _>>(),
        "aws": aws,
        "targets": config.targets.iter().map(target).collect::<Vec<_>>(),
        "faults": [],
    });
    let came = json::came("valid", None, None);
    let warnings = warnings(&config, settings);
    print_json(&json::document("check", &warnings, [came, rest]))
}

/// One target for a program: its texts as written, with the values that it takes from `[cleanup]`.
fn target(target: &Target) -> Value {
    let (production, staging) = target.parameters().unzip();
    let access: BTreeMap<_, _> = target.access().collect();
    json!({
        "target": target.pipeline(),
        "stage": target.stage(),
        "action": target.action(),
        "deploy_stage": target.deploy_stage(),
        "mode": target.mode().code(),
        "delay_ms": json::ms(target.delay()),
        "production_parameter": production,
        "staging_parameter": staging,
        "role_arn": access.get("role_arn"),
        "pipeline_role_arn": access.get("pipeline_role_arn"),
        "external_id": access.get("external_id"),
        "region": access.get("region"),
        "run": target.program().map(Program::words),
    })
}

/// What stands for a region that nothing says.
const NOT_KNOWN: &str = "not known";

/// Where AWS is asked, and who says so.
fn places(settings: &Settings, config: &Config) -> Vec<(&'static str, Said)> {
    let of_url = config.queue.region.clone().map(|value| Said {
        value,
        from: "queue.url".to_owned(),
    });
    let nobody = || Said {
        value: NOT_KNOWN.to_owned(),
        from: "set AWS_REGION, unless the instance tells".to_owned(),
    };
    let region = settings.region();
    let queue = of_url.clone().or_else(|| region.clone());
    vec![
        ("queue region", queue.unwrap_or_else(nobody)),
        (
            "queue endpoint",
            queue_endpoint(settings, &config.queue.url),
        ),
        ("region", region.or(of_url).unwrap_or_else(nobody)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of the fenced block that follows `text`.
    fn block_after<'a>(documentation: &'a str, text: &str) -> &'a str {
        let (_, after) = documentation.split_once(text).unwrap();
        let (_, block) = after.split_once("```").unwrap();
        let (_, block) = block.split_once('\n').unwrap();
        block.split_once("```").unwrap().0
    }

    #[test]
    fn the_documented_output_is_the_real_one() {
        let documentation = include_str!("../../docs/CONFIGURATION.md");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");

        std::fs::write(&path, include_str!("../../config/example.toml")).unwrap();
        let asked = Asked::default();
        let (mut out, mut warnings) = (Vec::new(), Vec::new());
        let (all, nothing) = (Options::default(), BTreeMap::new());
        check(&path, &asked, &all, &nothing, &mut out, &mut warnings).unwrap();
        assert!(warnings.is_empty());
        let out = String::from_utf8(out).unwrap();
        let documented = block_after(documentation, "effective values of the example");
        let out = out.replace(&path.display().to_string(), "config/example.toml");
        assert_eq!(out, documented, "\n{out}");

        let bad = block_after(documentation, "With this file");
        std::fs::write(&path, bad).unwrap();
        let variable = "STAGESWEEP__QUEUE__WAITTIME".to_owned();
        let env = BTreeMap::from([(variable, "20s".to_owned())]);
        let mut out = Vec::new();
        let err = check(&path, &asked, &all, &env, &mut out, &mut warnings).unwrap_err();
        assert!(out.is_empty() && warnings.is_empty());
        let place = path.display().to_string();
        let err = format!("{err}\n").replace(&place, "/etc/stagesweep/config.toml");
        assert_eq!(
            err,
            block_after(documentation, "in the environment:"),
            "\n{err}"
        );
    }
}
