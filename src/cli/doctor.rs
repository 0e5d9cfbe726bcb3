//! `doctor`: the preflight against the real account. Changes nothing.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::setup::{Setup, load};
use super::terminal::{Style, plain, print, print_json};
use super::width::{Width, of_terminal};
use super::{FATAL, Invocation, json};
use crate::aws::NotSignedIn;
use crate::domain::arn::{Arn, is_account};
use crate::domain::targets::NotAtHome;
use crate::domain::words::counted;
use crate::ops::doctor::not_signed_in;
use crate::ops::doctor::{Check, Preflight, Status, not_at_home, without_region};
use crate::runtime::tasks::Tasks;

/// Of a longer list, the failures are shown once more at the end.
const AT_A_GLANCE: usize = 20;

/// What `doctor` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Pipelines that are looked at as a rejection of theirs would be, besides what the
    /// configuration tells by itself.
    #[arg(value_name = "TARGET")]
    pipelines: Vec<String>,
    /// The role or user whose permissions to change something are looked at, by its ARN. Without it,
    /// those of the credentials.
    #[arg(long, value_name = "ARN", value_parser = role)]
    role: Option<String>,
    /// Write warnings and failures only.
    #[arg(short, long)]
    quiet: bool,
    /// Write one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    width: Width,
}

/// Examines, shows, and returns 0; or 1 if a check is a failure.
///
/// # Errors
/// If a target cannot be told, or there is no region.
pub(super) async fn doctor(from: &Invocation, options: &Options) -> anyhow::Result<u8> {
    let config = load(from)?;
    let setup = match Setup::new(config.clone(), from, |telemetry| telemetry).await {
        Ok(setup) => setup,
        Err(error) => {
            let checks = if let Some(error) = error.downcast_ref::<NotAtHome>() {
                not_at_home(error)
            } else if let Some(error) = error.downcast_ref::<NotSignedIn>() {
                not_signed_in(error, &config, &from.asked())
            } else {
                // There is no telling where to look.
                without_region()
            };
            return show(&checks, options);
        }
    };
    let asked = from.asked();
    let mut named = Vec::new();
    for pipeline in &options.pipelines {
        named.push(setup.named(&pipeline.as_str().into()).await?);
    }
    let tasks = Tasks::default();
    let _ended = tasks.end_on_drop();
    let accounts = setup.accounts(&tasks);
    let preflight = Preflight {
        config: &setup.config,
        connector: &setup.connector,
        asked: &asked,
        accounts: &accounts,
        clock: &setup.clock,
        named: &named,
        role: options.role.as_deref(),
    };
    let checks = preflight.examine().await;
    show(&checks, options)
}

fn show(checks: &[Check], options: &Options) -> anyhow::Result<u8> {
    let worst = checks.iter().map(|check| check.status).max();
    let worst = worst.unwrap_or(Status::Ok);
    if options.json {
        print_json(&document(checks, worst))?;
    } else {
        let listing = listing(checks, options.quiet, Style::stdout());
        // What is piped is searched by lines.
        print(&match of_terminal() {
            Some(_) => options.width.fit(&listing),
            None => listing,
        })?;
    }
    Ok(match worst {
        Status::Ok | Status::Warning => 0,
        Status::Failure => FATAL,
    })
}

/// The same for a program.
fn document(checks: &[Check], worst: Status) -> Value {
    let items = checks.iter().map(|check| {
        let came = json::came(check.status.code(), None, Some(&check.detail));
        let rest = json!({
            "check": check.name,
            "subject": check.subject,
            "remedy": check.remedy,
        });
        json::joined([came, rest])
    });
    let came = json::came(worst.code(), None, Some(&summary(checks)));
    let rest = json!({ "items": items.collect::<Vec<_>>() });
    json::document("doctor", &[], [came, rest])
}

/// The ARN of a role or a user.
fn role(text: &str) -> Result<String, String> {
    let named = |arn: &Arn<'_>| {
        let resource = arn.resource;
        (arn.service, arn.region) == ("iam", "")
            && !arn.partition.is_empty()
            && is_account(arn.account)
            && !resource.ends_with('/')
            && (resource.starts_with("role/") || resource.starts_with("user/"))
    };
    match Arn::parse(text).filter(named) {
        Some(_) => Ok(text.to_owned()),
        None => Err("is not of the form arn:PARTITION:iam::ACCOUNT:role/NAME".to_owned()),
    }
}

fn listing(checks: &[Check], quiet: bool, style: Style) -> String {
    let shown = checks
        .iter()
        .filter(|check| !quiet || check.status != Status::Ok);
    let mut text: String = shown.map(|check| line(check, style)).collect();
    let _ = writeln!(text, "{}", summary(checks));
    let failures = checks.iter().any(|it| it.status == Status::Failure);
    if failures && checks.len() > AT_A_GLANCE && !quiet {
        let _ = writeln!(text, "\n{}", style.bold("The failures again"));
        let failed = checks.iter().filter(|it| it.status == Status::Failure);
        text.extend(failed.map(|check| line(check, style)));
    }
    text
}

fn summary(checks: &[Check]) -> String {
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    format!(
        "{} ok, {}, {}",
        count(Status::Ok),
        counted(count(Status::Warning), "warning"),
        counted(count(Status::Failure), "failure")
    )
}

fn line(check: &Check, style: Style) -> String {
    let code = format!("{:<8}", check.status.code());
    let code = match check.status {
        Status::Ok => style.good(&code),
        Status::Warning => style.odd(&code),
        Status::Failure => style.bad(&code),
    };
    let subject = match &check.subject {
        Some(subject) => format!(" {subject}"),
        None => String::new(),
    };
    let name = style.bold(check.name);
    let mut text = format!("{code} {name}{subject}: {}\n", plain(&check.detail));
    if let Some(remedy) = &check.remedy {
        let _ = writeln!(text, "         {remedy}");
    }
    text
}
