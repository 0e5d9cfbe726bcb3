//! What `check` writes of one event or one pipeline.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::Options;
use crate::cli::EX_CONFIG;
use crate::cli::terminal::plain;
use crate::cli::width::{COLUMNS, fit, of_terminal};
use crate::config::{Config, Origins};
use crate::domain::event::MAX_BODY_BYTES;
use crate::ops::explain::{Explained, Question, Taken};

/// What the configuration makes of what was asked for.
///
/// # Errors
/// If the event cannot be read.
pub(super) fn explained(
    options: &Options,
    config: &Config,
    origins: &Origins,
    region: Option<&str>,
) -> anyhow::Result<Explained> {
    let question = Question {
        config,
        origins,
        region,
    };
    Ok(match (&options.event, &options.pipeline) {
        (Some(file), _) => question.event(&body(file)?),
        (None, pipeline) => question.pipeline(pipeline.as_deref().unwrap_or_default()),
    })
}

/// The event's text. More than a message can hold is cut off, and refused as too large.
fn body(file: &Path) -> anyhow::Result<String> {
    let most = MAX_BODY_BYTES as u64 + 1;
    let mut body = Vec::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().lock().take(most).read_to_end(&mut body),
        false => std::fs::File::open(file).and_then(|it| it.take(most).read_to_end(&mut body)),
    };
    let name = file.display();
    read.with_context(|| format!("the event {name} cannot be read"))?;
    String::from_utf8(body).with_context(|| format!("the event {name} is not UTF-8"))
}

/// 0 if a target takes it. What none takes is what a test of a configuration wants to fail of.
pub(super) fn status(explained: &Explained) -> u8 {
    match explained.is_taken() {
        true => 0,
        false => EX_CONFIG,
    }
}

/// For people.
pub(super) fn text(explained: &Explained, path: &Path) -> String {
    let mut text = String::new();
    for taken in &explained.targets {
        text.push_str(&target(taken, explained, path));
    }
    if explained.targets.is_empty() {
        let reason = explained.reason.unwrap_or("no_target");
        text.push_str(&format!("no target takes it ({reason})\n"));
    }
    if let Some(detail) = &explained.detail {
        text.push_str(&row("why", detail));
    }
    if let Some(message) = explained.message {
        text.push_str(&row("the message", message));
    }
    fit(&text, of_terminal().unwrap_or(COLUMNS))
}

fn target(taken: &Taken, explained: &Explained, path: &Path) -> String {
    let line = taken.line.map(|line| format!(", line {line}"));
    let mut text = format!("the target {} takes it\n", taken.target);
    text.push_str(&row(
        "written in",
        &format!("{}{}", path.display(), line.unwrap_or_default()),
    ));
    text.push_str(&row("pipeline", &taken.pipeline_arn));
    if let Some(execution) = &explained.execution_id {
        text.push_str(&row("execution", execution));
    }
    let captures = taken.captures.iter();
    let captures: Vec<String> = captures
        .map(|(name, it)| format!("{name} = {it}"))
        .collect();
    if !captures.is_empty() {
        text.push_str(&row("captures", &captures.join(", ")));
    }
    let parameters = [
        ("production_parameter", &taken.production_parameter),
        ("staging_parameter", &taken.staging_parameter),
        ("deploy_stage", &taken.deploy_stage),
    ];
    for (key, value) in parameters {
        if let Some(value) = value {
            text.push_str(&row(key, value));
        }
    }
    if taken.production_parameter.is_some() {
        let account = taken.account.as_deref().unwrap_or("the credentials' own");
        text.push_str(&row("account", account));
        text.push_str(&row("region", &taken.region));
        let own = "none: the daemon's own credentials";
        text.push_str(&row("role", taken.role_arn.as_deref().unwrap_or(own)));
        let asked = taken.pipeline_role_arn.as_deref().unwrap_or(own);
        text.push_str(&row("role for CodePipeline", asked));
    }
    text.push_str(&row("mode", taken.mode));
    let delay = Duration::from_millis(taken.delay_ms);
    text.push_str(&row(
        "delay",
        &humantime::format_duration(delay).to_string(),
    ));
    if let Some(program) = &taken.program {
        text.push_str(&row("run", &program.join(" ")));
    }
    text
}

fn row(key: &str, value: &str) -> String {
    format!("  {key:<24}{}\n", plain(value))
}
