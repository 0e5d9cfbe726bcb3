//! `check`: validate the configuration without a look at AWS.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::json;
use super::terminal::print_json;
use crate::aws::settings::{Misconfigured, Said};
use crate::aws::{Asked, Settings, queue_endpoint};
use crate::config::{Config, FIFO, is_fifo};
use crate::domain::targets::{Program, Target};

/// Writes a summary of the effective configuration to `out`, and warnings to `err`.
///
/// # Errors
/// [`Faults`](crate::config::Faults), or what writing comes to.
pub fn check(
    path: &Path,
    asked: &Asked,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> anyhow::Result<()> {
    let config = Config::load(path, env)?;
    let targets = match config.targets.len() {
        1 => "1 target".to_owned(),
        count => format!("{count} targets"),
    };
    writeln!(out, "configuration is valid: {targets}")?;
    for (key, value) in config.settings() {
        let value = if value.is_empty() { "(none)" } else { &value };
        writeln!(out, "  {key:<29}{value}")?;
    }
    let settings = Settings::of_variables(asked, env);
    for (key, said) in settings.iter().flat_map(|it| places(it, &config)) {
        writeln!(out, "  {key:<29}{said}")?;
    }
    for target in config.targets.iter() {
        writeln!(out, "  {:<29}{target}", "target")?;
        if let Some(stage) = target.deploy_stage() {
            writeln!(out, "    {:<27}{stage}", "deploy_stage")?;
        }
        if target.mode() != config.cleanup.mode {
            writeln!(out, "    {:<27}{}", "mode", target.mode())?;
        }
        if target.delay() != config.cleanup.delay {
            let delay = humantime::format_duration(target.delay());
            writeln!(out, "    {:<27}{delay}", "delay")?;
        }
        for (key, template) in target.access() {
            writeln!(out, "    {key:<27}{template}")?;
        }
        if let Some(program) = target.program() {
            writeln!(out, "    {:<27}{program}", "run")?;
        }
    }
    for warning in warnings(&config, settings) {
        writeln!(err, "warning: {warning}")?;
    }
    Ok(())
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
pub fn check_json(
    path: &Path,
    asked: &Asked,
    env: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let config = match Config::load(path, env) {
        Ok(config) => config,
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
    let sources = Config::places(path, env).into_iter();
    let sources = sources.map(|(key, place)| (key, place.to_string().into()));
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
        check(&path, &asked, &BTreeMap::new(), &mut out, &mut warnings).unwrap();
        assert!(warnings.is_empty());
        let out = String::from_utf8(out).unwrap();
        let documented = block_after(documentation, "effective values of the example");
        assert_eq!(out, documented, "\n{out}");

        let bad = block_after(documentation, "With this file");
        std::fs::write(&path, bad).unwrap();
        let variable = "STAGESWEEP__QUEUE__WAITTIME".to_owned();
        let env = BTreeMap::from([(variable, "20s".to_owned())]);
        let mut out = Vec::new();
        let err = check(&path, &asked, &env, &mut out, &mut warnings).unwrap_err();
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
