//! `plan`: what is there, and what a rejection would do now. Changes nothing.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::exits::{REFUSED, STEPS};
use super::setup::{Setup, TargetArgument, load};
use super::terminal::{Style, plain, print, print_json, when};
use super::width::Width;
use super::{FATAL, Invocation, history, json, open_job};
use crate::aws::cloudfront::Reading;
use crate::domain::binding::ParameterVersion;
use crate::domain::decision::{Outcome, Step, Wait};
use crate::domain::refusal::Place;
use crate::domain::targets::lookup::Named;
use crate::domain::targets::{Mode, Parameters, Program};
use crate::domain::words::counted;
use crate::reconcile::dry_run::{End, Forecast, Found, Planned, look};
use crate::runtime::clock::Clock;
use crate::runtime::programs;
use crate::runtime::tasks::Tasks;
use crate::telemetry::chain;

/// What `plan` takes besides its target.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Options {
    /// Exit with 0 if there is nothing to do, 2 if there are steps to take, 3 if it would be refused, 1 on an
    /// error.
    #[arg(long)]
    detailed_exitcode: bool,
    /// Write one JSON document.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) width: Width,
}

impl Options {
    /// As `clean --dry-run` looks.
    pub(super) fn of_clean(json: bool, width: Width) -> Self {
        Self {
            detailed_exitcode: false,
            json,
            width,
        }
    }

    fn status(self, forecast: &Forecast, more: bool) -> u8 {
        match (self.detailed_exitcode, forecast.end) {
            (false, End::Done(_) | End::Open) => 0,
            (false, End::Refused(_)) => FATAL,
            (true, End::Refused(_)) => REFUSED,
            (true, End::Open) => STEPS,
            (true, End::Done(_)) if more || !forecast.steps.is_empty() => STEPS,
            (true, End::Done(_)) => 0,
        }
    }
}

/// Looks, shows, and returns 0; or 1 if a rejection would be refused. With `--detailed-exitcode` see there.
///
/// # Errors
/// If the target cannot be told, or AWS cannot be asked.
pub(super) async fn plan(
    from: &Invocation,
    target: &TargetArgument,
    options: &Options,
) -> anyhow::Result<u8> {
    let config = load(from)?;
    let setup = Setup::new(config, from, |telemetry| telemetry).await?;
    let named = setup.named(target).await?;
    let tasks = Tasks::default();
    let _ended = tasks.end_on_drop();
    let style = Style::stdout();
    let Some(parameters) = &named.target.parameters else {
        if options.json {
            print_json(&document(&named, None, None))?;
        } else {
            let text = heading(&named, style) + mode(&named) + &program(&named, style);
            print(&options.width.fit(&text))?;
        }
        return Ok(if options.detailed_exitcode { STEPS } else { 0 });
    };
    let accounts = setup.accounts(&tasks);
    let place = accounts.place(parameters, &named.target.access);
    let account = accounts.get(&named.target.access);
    let found = look(&account.clients, parameters, None).await?;
    let forecast = found.forecast();
    // Without a ledger there is no job.
    let records = setup.history().await.unwrap_or_default();
    let open = open_job::of(&records, &named);
    let more = open.is_some() || named.target.program.is_some();
    if options.json {
        let open = open.map(|record| history::item(record, setup.clock.now()));
        print_json(&document(&named, Some((place, &found, &forecast)), open))?;
    } else {
        let mut text = heading(&named, style) + mode(&named);
        text.push_str(&inventory(parameters, &found, &setup.clock, style));
        if let Some(record) = open {
            text.push_str(&open_job::announced(record, &setup.clock, style));
        }
        let heading = "What a rejection would do now";
        text.push_str(&steps(&forecast, &found, place, heading, style));
        if let End::Done(_) | End::Open = forecast.end {
            text.push_str(&program(&named, style));
        }
        print(&options.width.fit(&text))?;
    }
    Ok(options.status(&forecast, more))
}

/// What the target's mode means for the daemon, where it only observes.
fn mode(named: &Named) -> &'static str {
    match named.target.mode {
        Mode::Observe => "mode observe: the daemon changes nothing, and says what it would do\n",
        Mode::Act => "",
    }
}

/// Which target it is about, and as whom it is looked at.
pub(super) fn heading(named: &Named, style: Style) -> String {
    let mut text = format!(
        "{}  (target {}, stage {}, action {})\n",
        style.bold(&named.pipeline.name),
        named.target.label,
        named.stage.as_deref().unwrap_or("any"),
        named.action.as_deref().unwrap_or("any approval")
    );
    if let Some(role) = &named.target.access.role {
        let _ = writeln!(text, "as {}", role.arn());
    }
    text
}

/// What is there.
pub(super) fn inventory(
    parameters: &Parameters,
    found: &Found,
    clock: &Clock,
    style: Style,
) -> String {
    let mut text = format!("\n{}\n", style.bold("What is there"));
    let mut line = |what: &str, is: &str| {
        // Writing to a text does not fail.
        let _ = writeln!(text, "  {what:<22}{is}");
    };
    let written = |parameter: &Option<ParameterVersion>, by: Option<&String>| {
        let Some(parameter) = parameter else {
            return style.bad("does not exist");
        };
        let mut said = format!("{}  ", plain(&parameter.value));
        let mut about = format!("version {}", parameter.version);
        if let Some(at) = parameter.modified_at {
            about.push_str(&format!(", written {}", when(at, clock)));
        }
        if let Some(by) = by {
            about.push_str(&format!(", by {}", plain(by)));
        }
        said.push_str(&style.dim(&about));
        said
    };
    line("production parameter", &parameters.production);
    line("", &written(&found.production_parameter, None));
    line("staging parameter", &parameters.staging);
    line(
        "",
        &written(&found.staging_parameter, found.written_by.as_ref()),
    );
    for (what, reading) in [
        ("production", &found.production),
        ("staging", &found.staging),
    ] {
        let Some(reading) = reading else {
            line(what, &style.dim("no such distribution"));
            continue;
        };
        line(what, &distribution(reading, clock, style));
    }
    for policy in &found.policies {
        let domains = policy.staging_domains.join(", ");
        line("policy", &format!("{}  lists {domains}", policy.id));
    }
    if found.policies.is_empty() {
        line("policy", &style.dim("none"));
    }
    text
}

fn distribution(reading: &Reading, clock: &Clock, style: Style) -> String {
    let it = &reading.distribution;
    let mut said = format!("{}  {}, ", it.id, it.domain);
    said.push_str(&if it.deployed {
        style.good("deployed")
    } else {
        style.odd("in progress")
    });
    said.push_str(if it.enabled {
        ", enabled"
    } else {
        ", disabled"
    });
    if it.staging {
        said.push_str(", staging");
    }
    if it.aliases > 0 {
        said.push_str(&format!(", {}", counted(it.aliases, "alias")));
    }
    if let Some(policy) = &it.policy_id {
        said.push_str(&format!(", policy {policy}"));
    }
    if let Some(at) = reading.modified_at {
        said.push_str(&style.dim(&format!(", changed {}", when(at, clock))));
    }
    said
}

/// What would be done.
pub(super) fn steps(
    forecast: &Forecast,
    found: &Found,
    place: Place<'_>,
    heading: &str,
    style: Style,
) -> String {
    let mut text = format!("\n{}\n", style.bold(heading));
    if !forecast.steps.is_empty() {
        let whose =
            "of the execution that made this staging distribution, while no other is at work";
        let _ = writeln!(text, "  {}", style.dim(whose));
    }
    text.push_str(&listed(forecast, found, place, style));
    text
}

/// The steps, and the end.
pub(super) fn listed(forecast: &Forecast, found: &Found, place: Place<'_>, style: Style) -> String {
    let mut text = String::new();
    let mut number = 0;
    for planned in &forecast.steps {
        let _ = match planned {
            Planned::Apply(step) => {
                number += 1;
                writeln!(text, "  {number}. {}", instruction(step))
            }
            Planned::Wait(wait) => writeln!(text, "     {}", style.dim(waiting(wait))),
        };
    }
    let end = match forecast.end {
        End::Done(outcome) if forecast.steps.is_empty() => {
            format!("Nothing: {}.", super::terminal::describe(outcome.code()))
        }
        End::Done(outcome) => format!(
            "Then it is done: {}.",
            style.good(super::terminal::describe(outcome.code()))
        ),
        End::Refused(refusal) => format!(
            "{} {}. Nothing {}is touched.",
            style.bad(&format!("Refused ({}):", refusal.code())),
            found.refused(refusal, place),
            if number > 0 { "more " } else { "" },
        ),
        End::Open => "It would wait there for what others do.".to_owned(),
    };
    let _ = writeln!(text, "  {end}");
    if let Some(sum) = sum(forecast) {
        let _ = writeln!(text, "\n{} {sum}.", style.bold("Plan:"));
    }
    text
}

/// How much would be changed: `2 deletions, 2 changes, 1 parameter`.
fn sum(forecast: &Forecast) -> Option<String> {
    let count = |counts: fn(&Step) -> bool| {
        let steps = forecast.steps.iter();
        let applied = steps.filter(|it| matches!(it, Planned::Apply(step) if counts(step)));
        applied.count()
    };
    let deletions = count(|it| matches!(it, Step::DeletePolicy { .. } | Step::DeleteStaging(_)));
    let changes = count(|it| matches!(it, Step::Detach(_) | Step::DisableStaging(_)));
    let parameters = count(|it| matches!(it, Step::RecordDeleted { .. }));
    let parts = [
        (deletions, "deletion"),
        (changes, "change"),
        (parameters, "parameter"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| counted(count, noun))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(super) fn instruction(step: &Step) -> String {
    match step {
        Step::Detach(it) => {
            format!(
                "detach policy {} from production {}",
                it.policy_id(),
                it.id()
            )
        }
        Step::DeletePolicy { policy_id, .. } => format!("delete policy {policy_id}"),
        Step::DisableStaging(it) => format!("disable the staging distribution {}", it.id()),
        Step::DeleteStaging(staging) => format!("delete the staging distribution {}", staging.id()),
        Step::RecordDeleted { .. } => "set the staging parameter to `deleted`".to_owned(),
    }
}

fn waiting(wait: &Wait) -> &'static str {
    match wait {
        Wait::BothDeployed => "wait until both distributions are deployed",
        Wait::Detached { .. } => "wait until the detach has propagated (usually minutes)",
        Wait::StagingDeployed => "wait until the staging distribution is deployed",
        Wait::StagingDisabled => "wait until the disable has propagated (usually minutes)",
        Wait::StagingGone => "wait until the staging distribution is gone",
        Wait::LookAgain => "look again",
        Wait::PolicyUnused { .. } => "wait until nothing uses the policy",
        Wait::Evidence => "wait until CloudFront's answers agree",
    }
}

/// The same for a program; of a target that only runs a program nothing was looked at.
fn document(
    named: &Named,
    looked: Option<(Place<'_>, &Found, &Forecast)>,
    open_job: Option<Value>,
) -> Value {
    let came = match looked {
        None => json::came(Outcome::Ran.code(), None, None),
        Some((place, found, forecast)) => came(found, place, forecast),
    };
    let found = looked.map(|(_, found, _)| found);
    let read = |of: fn(&Found) -> &Option<Reading>| found.and_then(|it| of(it).as_ref());
    let policies = found.into_iter().flat_map(|it| &it.policies);
    let rest = json!({
        "mode": named.target.mode.code(),
        "production_parameter": looked.map(|(place, found, _)| parameter(
            &place.parameters.production, found.production_parameter.as_ref(), None)),
        "staging_parameter": looked.map(|(place, found, _)| parameter(
            &place.parameters.staging, found.staging_parameter.as_ref(), found.written_by.as_ref())),
        "production": read(|it| &it.production).map(distribution_document),
        "staging": read(|it| &it.staging).map(distribution_document),
        "policies": policies.map(|policy| json!({
            "id": policy.id,
            "staging_domains": policy.staging_domains,
        })).collect::<Vec<_>>(),
        "steps": looked.map(|(_, _, forecast)| steps_document(forecast)).unwrap_or_default(),
        "open_job": open_job,
        "program": named.target.program.as_ref().map(Program::words),
        "program_fault": program_fault(named),
    });
    json::document("plan", &[], [about(named, None), came, rest])
}

/// Which target it is about.
pub(super) fn about(named: &Named, execution_id: Option<&str>) -> Value {
    json::About {
        pipeline: Some(&named.pipeline.name),
        pipeline_arn: Some(&named.pipeline.to_string()),
        target: Some(&named.target.label),
        stage: named.stage.as_deref(),
        action: named.action.as_deref(),
        execution_id,
    }
    .document()
}

/// What it would come to.
pub(super) fn came(found: &Found, place: Place<'_>, forecast: &Forecast) -> Value {
    match forecast.end {
        End::Done(outcome) => json::came(outcome.code(), None, None),
        End::Refused(refusal) => {
            let detail = found.refused(refusal, place);
            json::came("refused", Some(refusal.code()), Some(&detail))
        }
        End::Open => json::came("waiting", None, None),
    }
}

/// The steps and waits, each with what it is about.
pub(super) fn steps_document(forecast: &Forecast) -> Vec<Value> {
    let steps = forecast.steps.iter().map(|planned| {
        let (kind, distribution_id, policy_id) = match planned {
            Planned::Apply(Step::Detach(it)) => ("apply", Some(it.id()), Some(it.policy_id())),
            Planned::Apply(Step::DeletePolicy { policy_id, .. }) => {
                ("apply", None, Some(policy_id.as_str()))
            }
            Planned::Apply(Step::DisableStaging(it)) => ("apply", Some(it.id()), None),
            Planned::Apply(Step::DeleteStaging(it)) => ("apply", Some(it.id()), None),
            Planned::Apply(Step::RecordDeleted { .. }) => ("apply", None, None),
            Planned::Wait(_) => ("wait", None, None),
        };
        json!({
            "kind": kind,
            "name": planned.name(),
            "distribution_id": distribution_id,
            "policy_id": policy_id,
        })
    });
    steps.collect()
}

fn parameter(name: &str, version: Option<&ParameterVersion>, by: Option<&String>) -> Value {
    let modified_at = version.and_then(|it| it.modified_at);
    json!({
        "name": name,
        "value": version.map(|it| &it.value),
        "version": version.map(|it| it.version),
        "modified_at": modified_at.map(json::time),
        "modified_by": by,
    })
}

fn distribution_document(reading: &Reading) -> Value {
    let it = &reading.distribution;
    json!({
        "id": it.id,
        "domain": it.domain,
        "deployed": it.deployed,
        "enabled": it.enabled,
        "is_staging": it.staging,
        "alias_count": it.aliases,
        "policy_id": it.policy_id,
        "modified_at": reading.modified_at.map(json::time),
    })
}

/// Why the program could not be run for this pipeline, or not be started on this machine, as far as its
/// file tells.
fn program_fault(named: &Named) -> Option<String> {
    let program = named.target.program.as_ref()?;
    if let Some(fault) = program.fault_of(&named.pipeline.name) {
        return Some(format!("is not run for this pipeline: {fault}"));
    }
    let looked = programs::look(program.path());
    looked.err().map(|error| chain(&error))
}

/// What would be run, if anything.
fn program(named: &Named, style: Style) -> String {
    match &named.target.program {
        Some(program) => {
            let mut text = format!(
                "\n{}\n  {}\n",
                style.bold("The program that a rejection would run then"),
                plain(&program.to_string())
            );
            if let Some(fault) = program_fault(named) {
                let fault = format!("{} {fault}", program.path().display());
                let told = style.bad("It could not be run from here:");
                let _ = writeln!(text, "  {told} {}", plain(&fault));
            }
            text
        }
        None => String::new(),
    }
}
