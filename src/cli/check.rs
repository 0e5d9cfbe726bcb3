//! `check`: validate the configuration without a look at AWS.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use aws_types::os_shim_internal::Env;

use crate::aws::settings::{Misconfigured, Said};
use crate::aws::{Asked, Settings, queue_endpoint};
use crate::config::{Config, FIFO, is_fifo};

/// The exit code of a bad configuration: `EX_CONFIG` of `sysexits.h`.
pub const EX_CONFIG: u8 = 78;

/// Writes a summary of the effective configuration to `out` and returns 0, or every fault to
/// `err`, one a line, and returns [`EX_CONFIG`].
///
/// # Errors
///
/// Only what writing to `out` or `err` comes to.
pub fn check(
    path: &Path,
    asked: &Asked,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let config = match Config::load(path, env) {
        Ok(config) => config,
        Err(faults) => {
            writeln!(err, "{faults}")?;
            return Ok(EX_CONFIG);
        }
    };
    let targets = match config.targets.len() {
        1 => "1 target".to_owned(),
        count => format!("{count} targets"),
    };
    writeln!(out, "configuration is valid: {targets}")?;
    for (key, value) in config.settings() {
        let value = if value.is_empty() { "(none)" } else { &value };
        writeln!(out, "  {key:<29}{value}")?;
    }
    let settings = read_settings(asked, env);
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
    if is_fifo(&config.queue.url) {
        writeln!(err, "warning: queue.url: {FIFO}; use a standard queue")?;
    }
    let wrong = settings.and_then(|it| it.check());
    if let Err(misconfigured) = wrong {
        writeln!(err, "warning: {misconfigured}")?;
    }
    Ok(0)
}

fn read_settings(asked: &Asked, env: &BTreeMap<String, String>) -> Result<Settings, Misconfigured> {
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    Settings::read(asked, Env::from_slice(&env))
}

/// Where AWS is asked, and who says so.
fn places(settings: &Settings, config: &Config) -> Vec<(&'static str, Said)> {
    let of_url = config.queue.region.clone().map(|value| Said {
        value,
        from: "queue.url".to_owned(),
    });
    let nobody = || Said {
        value: "not known".to_owned(),
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

    fn run(path: &Path, env: &BTreeMap<String, String>) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(path, &Asked::default(), env, &mut out, &mut err).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(err))
    }

    #[test]
    fn the_documented_output_is_the_real_one() {
        let documentation = include_str!("../../docs/CONFIGURATION.md");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");

        std::fs::write(&path, include_str!("../../config/example.toml")).unwrap();
        let (code, out, err) = run(&path, &BTreeMap::new());
        assert_eq!((code, err.as_str()), (0, ""));
        let documented = block_after(documentation, "effective values of the example");
        assert_eq!(out, documented, "\n{out}");

        let bad = block_after(documentation, "With this file");
        std::fs::write(&path, bad).unwrap();
        let variable = "STAGESWEEP__QUEUE__WAITTIME".to_owned();
        let env = BTreeMap::from([(variable, "20s".to_owned())]);
        let (code, out, err) = run(&path, &env);
        assert_eq!((code, out.as_str()), (EX_CONFIG, ""));
        let place = path.display().to_string();
        let err = err.replace(&place, "/etc/stagesweep/config.toml");
        assert_eq!(
            err,
            block_after(documentation, "in the environment:"),
            "\n{err}"
        );
    }
}
