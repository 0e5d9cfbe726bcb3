//! `orphans`: staging distributions that no parameter names, and policies attached to nothing.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::setup::{Setup, load};
use super::terminal::{
    Style, confirmed, describe, found, held, line, moment, print, print_json, rough,
};
use super::usage::duration;
use super::width::Width;
use super::{FATAL, Invocation, history, json};
use crate::daemon::signals::{Request, Requests};
use crate::domain::decision::Orphan;
use crate::domain::executions::MIN_AGE;
use crate::domain::targets::{Access, Neighbour, Parameters};
use crate::domain::words::counted;
use crate::ledger::{LedgerError, OpenError};
use crate::ops::orphans::{
    QUOTA, Removed, Remover, Report, StagingFinding, Survey, Verdict, judge, removed_by,
};
use crate::reconcile::accounts::Accounts;
use crate::runtime::activity::Activity;
use crate::runtime::stop::{Stop, StopReason};
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Milestone, What};

/// So many orphans are taken down at once: CloudFront throttles soon.
const AT_ONCE: usize = 4;

/// What `orphans` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Take them down, each after a question.
    #[arg(long)]
    delete: bool,
    /// Do not ask. Needed where there is no terminal.
    #[arg(short, long, requires = "delete")]
    yes: bool,
    /// Only what was not changed for so long is an orphan; never less than an hour.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    min_age: Duration,
    /// Write one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    width: Width,
}

/// Something to be taken down.
#[derive(Clone)]
enum Chosen {
    /// A staging distribution, and its policy if it has one.
    Staging {
        orphan: Orphan,
        modified_at: Option<Timestamp>,
    },
    /// A policy that listed these.
    Policy { id: String, listed: Vec<String> },
}

/// Lists, and with `--delete` takes down. Returns 0, or 1 if something could not be taken down.
///
/// # Errors
/// If the account or the ledger cannot be read.
pub(super) async fn orphans(from: &Invocation, options: &Options) -> anyhow::Result<u8> {
    let config = load(from)?;
    anyhow::ensure!(
        !options.delete || options.yes || (std::io::stdin().is_terminal() && !options.json),
        "there is no terminal to ask on: add --yes to take all orphans down"
    );
    let (sender, milestones) = mpsc::unbounded_channel();
    let setup = Setup::new(config, from, |telemetry| telemetry.with_milestones(sender)).await?;
    let setup = Arc::new(setup);
    let elsewhere = elsewhere(&setup);
    anyhow::ensure!(
        !options.delete || elsewhere.is_empty(),
        "--delete knows only the daemon's own account and the parameters of its own region, and these \
         targets lead elsewhere, so that a parameter it cannot see may name what it would delete: {}. \
         Take orphans down with a configuration for this account and region alone",
        elsewhere.join(", ")
    );
    let survey = Survey {
        account: setup.connector.account(),
        targets: setup.config.targets.clone(),
    };
    let (mut known, mut warnings) = (true, Vec::new());
    let records = match setup.history().await {
        // Where nothing is taken down, nothing is lost by not knowing the jobs.
        Err(error @ LedgerError::Open(OpenError::Missing { .. })) if !options.delete => {
            let warning = format!("{error}; open jobs are not known");
            if !options.json {
                eprintln!("stagesweep: {warning}");
            }
            warnings.push(warning);
            known = false;
            Vec::new()
        }
        records => records?,
    };
    let inventory = survey.inventory(&records).await?;
    let report = judge(&inventory, setup.clock.now(), options.min_age);
    if options.min_age < MIN_AGE {
        let (asked, least) = [options.min_age, MIN_AGE]
            .map(humantime::format_duration)
            .into();
        let warning = format!("--min-age {asked} was raised to {least}, the least");
        if !options.json {
            eprintln!("stagesweep: {warning}");
        }
        warnings.push(warning);
    }
    if !options.json {
        let listing = listing(&report, &elsewhere, Style::stdout());
        print(&options.width.fit(&listing))?;
    } else if !options.delete {
        print_json(&document(&report, &elsewhere, &warnings, options, &[]))?;
    }
    if !options.delete {
        return Ok(if known { 0 } else { FATAL });
    }
    let chosen = choose(&report, options)?;
    let removed = delete(&setup, survey, chosen, options, milestones).await?;
    let left = removed.iter().any(|(_, why)| why.is_some());
    if options.json {
        print_json(&document(&report, &elsewhere, &warnings, options, &removed))?;
    }
    Ok(if left { FATAL } else { 0 })
}

/// The targets whose distributions or parameters are not looked at, or not all of them.
fn elsewhere(setup: &Setup) -> Vec<String> {
    let region = setup.connector.region().unwrap_or_default();
    let targets = setup.config.targets.iter();
    targets
        .filter(|target| target.leads_elsewhere(region))
        .map(ToString::to_string)
        .collect()
}

fn choose(report: &Report, options: &Options) -> anyhow::Result<Vec<Chosen>> {
    let staging = report.orphaned_staging().map(|finding| Chosen::Staging {
        orphan: Orphan {
            staging_id: finding.listed.id.clone(),
            policy_id: finding.policy_id.clone(),
        },
        modified_at: finding.listed.modified_at,
    });
    let policies = report.orphaned_policies().map(|finding| Chosen::Policy {
        id: finding.listed.id.clone(),
        listed: finding.listed.staging_domains.clone(),
    });
    let mut chosen = Vec::new();
    for orphan in staging.chain(policies) {
        if options.yes || confirmed(&orphan.question())? {
            chosen.push(orphan);
        }
    }
    Ok(chosen)
}

impl Chosen {
    fn question(&self) -> String {
        match self {
            Self::Policy { id, .. } => format!("Take down the policy {id}"),
            Self::Staging { orphan, .. } => {
                let staging = format!("Take down the staging distribution {}", orphan.staging_id);
                match &orphan.policy_id {
                    Some(policy) => format!("{staging} and its policy {policy}"),
                    None => staging,
                }
            }
        }
    }
}

/// The pipelines of all slots: which of them an orphan was of, nobody knows for certain.
async fn neighbours(
    accounts: &Accounts,
    survey: &Survey,
    access: &Access,
) -> anyhow::Result<Vec<Neighbour>> {
    let (stop, activity) = (Stop::default(), Activity::default());
    let mut neighbours: Vec<Neighbour> = Vec::new();
    for staging in survey.slots().await? {
        let production = String::new();
        let parameters = Parameters {
            production,
            staging,
        };
        let targets = &survey.targets;
        let lead = accounts.leading_to(targets, &parameters, access, (&stop, &activity));
        for neighbour in lead.await? {
            if !neighbours.contains(&neighbour) {
                neighbours.push(neighbour);
            }
        }
    }
    Ok(neighbours)
}

/// Tells a person what happens to an orphan.
fn tell(milestone: &Milestone) {
    let said = match &milestone.what {
        What::Applied { step } => describe(step).to_owned(),
        What::Waiting { wait } => format!("waiting for {}", describe(wait)),
        What::Held { by } => held(by),
        What::Found { step } => format!("found: {}", found(step)),
        What::Started { .. } | What::Waited { .. } | What::Ended { .. } | What::Deleted => return,
    };
    let id = removed_by(&milestone.execution_id).unwrap_or_default();
    line(&format!("{id}  {said}"));
}

/// What takes orphans down, as the daemon would take down what a rejection left.
async fn remover(setup: &Arc<Setup>, survey: Survey, tasks: &Tasks) -> anyhow::Result<Remover> {
    let reader = Arc::clone(setup);
    let access = Access {
        role: None,
        region: setup.connector.region().unwrap_or_default().to_owned(),
    };
    let ledger = setup.ledger_beside().await?;
    let accounts = setup.accounts(tasks);
    Ok(Remover {
        neighbours: match setup.config.verify.codepipeline {
            true => neighbours(&accounts, &survey, &access).await?,
            false => Vec::new(),
        },
        access,
        survey,
        reconciler: setup.reconciler(accounts, Arc::clone(&ledger)),
        ledger,
        records: Arc::new(move || {
            let reader = Arc::clone(&reader);
            async move { reader.history().await }.boxed()
        }),
        clock: setup.clock.clone(),
        terms: setup.config.queue.terms(),
    })
}

/// Takes down what was chosen; each with why it was left, if it was.
async fn delete(
    setup: &Arc<Setup>,
    survey: Survey,
    chosen: Vec<Chosen>,
    options: &Options,
    mut milestones: mpsc::UnboundedReceiver<Milestone>,
) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let tasks = Tasks::default();
    let _ended = tasks.end_on_drop();
    let quiet = options.json;
    let remover = remover(setup, survey, &tasks).await?;
    let mut requests = Requests::listen().context("signal handlers could not be installed")?;
    let stops: Vec<Stop> = chosen.iter().map(|_| Stop::default()).collect();
    let (remover, all) = (&remover, stops.clone());
    let mut removals = stream::iter(chosen.into_iter().zip(all))
        .map(|(chosen, stop)| async move {
            match chosen {
                Chosen::Policy { id, listed } => {
                    let removed = remover.policy(&id, &listed, &stop).await;
                    (id, removed)
                }
                Chosen::Staging {
                    orphan,
                    modified_at,
                } => {
                    let id = orphan.staging_id.clone();
                    (id, remover.staging(orphan, modified_at, &stop).await)
                }
            }
        })
        .buffer_unordered(AT_ONCE);
    let mut results = Vec::new();
    let style = Style::stdout();
    loop {
        let (id, removed) = tokio::select! {
            Some(milestone) = milestones.recv(), if !quiet => {
                tell(&milestone);
                continue;
            }
            removed = removals.next() => match removed {
                Some(removed) => removed,
                None => return Ok(results),
            },
            request = requests.next() => {
                if let Request::Stop { .. } = request {
                    for stop in &stops {
                        stop.now(StopReason::ShuttingDown);
                    }
                }
                continue;
            }
        };
        while let Ok(milestone) = milestones.try_recv() {
            if !quiet {
                tell(&milestone);
            }
        }
        let why = match removed {
            Removed::Gone => None,
            Removed::Left(why) => Some(why),
        };
        match &why {
            _ if quiet => {}
            None => line(&format!("{id}  {}", style.good("gone"))),
            Some(why) => line(&format!("{id}  {}: {why}", style.bad("left"))),
        }
        results.push((id, why));
    }
}

fn listing(report: &Report, elsewhere: &[String], style: Style) -> String {
    let used = report.staging.len();
    let mut text = format!(
        "{}  {}, {}; by the default quota of {QUOTA} each, {} and {} are left.\n",
        style.bold("In use:"),
        counted(used, "staging distribution"),
        match report.policies_used {
            1 => "1 policy".to_owned(),
            count => format!("{count} policies"),
        },
        QUOTA.saturating_sub(used),
        QUOTA.saturating_sub(report.policies_used),
    );
    let aged = |age: Option<Duration>| age.map_or("unknown".to_owned(), rough);
    let policy = |id: Option<&String>| id.map_or("-".to_owned(), Clone::clone);
    let staging = report.staging.iter().map(|it| Row {
        verdict: &it.verdict,
        id: &it.listed.id,
        age: aged(it.age),
        policy: policy(it.policy_id.as_ref()),
        why: past(it),
    });
    let policies = report.policies.iter().map(|it| Row {
        verdict: &it.verdict,
        id: "-",
        age: aged(it.age),
        policy: policy(Some(&it.listed.id)),
        why: "lists no staging distribution that exists".to_owned(),
    });
    let rows: Vec<Row<'_>> = staging.chain(policies).collect();
    if !rows.is_empty() {
        let longest = |of: fn(&Row<'_>) -> usize| rows.iter().map(of).fold(6, usize::max);
        let (id, age) = (longest(|it| it.id.len()), longest(|it| it.age.len()));
        let policy = longest(|it| it.policy.len());
        let heading = format!(
            "VERDICT  {:id$}  {:age$}  {:policy$}  WHY",
            "ID", "AGE", "POLICY"
        );
        let _ = writeln!(text, "{}", style.bold(&heading));
        for row in &rows {
            let _ = writeln!(
                text,
                "{}  {:id$}  {:age$}  {:policy$}  {}",
                verdict(row.verdict, style),
                row.id,
                row.age,
                row.policy,
                row.why(style),
            );
        }
    }
    let _ = match elsewhere {
        [] => writeln!(text, "Other accounts and regions were not looked at."),
        _ => writeln!(
            text,
            "{} Other accounts and regions were not looked at, and these targets lead there: {}. An \
             orphan may be theirs.",
            style.odd("Careful:"),
            elsewhere.join(", ")
        ),
    };
    let count = report.orphans().len();
    let _ = match count {
        0 => writeln!(text, "No orphans."),
        _ if !elsewhere.is_empty() => writeln!(text, "{} at most.", counted(count, "orphan")),
        1 => writeln!(
            text,
            "1 orphan. `stagesweep orphans --delete` takes it down."
        ),
        _ => writeln!(
            text,
            "{count} orphans. `stagesweep orphans --delete` takes them down."
        ),
    };
    text
}

/// A line of the list.
struct Row<'a> {
    verdict: &'a Verdict,
    id: &'a str,
    age: String,
    policy: String,
    why: String,
}

impl Row<'_> {
    /// Why it is kept; else what is known of its past.
    fn why(&self, style: Style) -> String {
        match self.verdict {
            Verdict::Kept(reason) if self.why.is_empty() => style.dim(&reason.to_string()),
            Verdict::Kept(reason) => format!("{}; {}", style.dim(&reason.to_string()), self.why),
            Verdict::Orphan => self.why.clone(),
        }
    }
}

fn verdict(verdict: &Verdict, style: Style) -> String {
    match verdict {
        Verdict::Orphan => style.bad("orphan "),
        Verdict::Kept(_) => style.good("kept   "),
    }
}

/// What names it, or named it once.
fn past(finding: &StagingFinding) -> String {
    let mut said = Vec::new();
    if let Some(parameter) = &finding.past.parameter {
        let until = finding.past.replaced_at;
        let until = until.map_or(String::new(), |at| format!(" until {}", moment(at)));
        said.push(format!("{parameter} named it{until}"));
    }
    if let Some(execution) = &finding.past.execution_id {
        said.push(format!("execution {execution}"));
    }
    said.join(", ")
}

/// The same for a program. The alarm in the templates counts the lines that say `"orphan": true`.
fn document(
    report: &Report,
    elsewhere: &[String],
    warnings: &[String],
    options: &Options,
    removed: &[(String, Option<String>)],
) -> Value {
    let staging = report.staging.iter().map(|finding| {
        let (listed, past) = (&finding.listed, &finding.past);
        let rest = json!({
            "type": "staging_distribution",
            "domain": listed.domain,
            "enabled": listed.enabled,
            "comment": listed.comment,
            "policy_id": finding.policy_id,
            "parameter": past.parameter,
            "replaced_at": past.replaced_at.map(json::time),
        });
        let about = past.record.as_ref().map(history::about).unwrap_or_default();
        json::joined([
            about.document(),
            judged(&listed.id, finding.age, &finding.verdict, removed),
            rest,
        ])
    });
    let policies = report.policies.iter().map(|finding| {
        let id = &finding.listed.id;
        let rest = json!({
            "type": "policy",
            "domain": null,
            "enabled": null,
            "comment": null,
            "policy_id": id,
            "parameter": null,
            "replaced_at": null,
        });
        json::joined([
            json::About::default().document(),
            judged(id, finding.age, &finding.verdict, removed),
            rest,
        ])
    });
    let rest = json!({
        "items": staging.chain(policies).collect::<Vec<_>>(),
        "quota": {
            "staging_used": report.staging.len(),
            "policies_used": report.policies_used,
            "default_limit": QUOTA,
        },
        "targets_elsewhere": elsewhere,
        "min_age_ms": json::ms(options.min_age.max(MIN_AGE)),
    });
    json::document("orphans", warnings, [rest])
}

/// What became of one, or is to become of it.
fn judged(
    id: &str,
    age: Option<Duration>,
    verdict: &Verdict,
    removed: &[(String, Option<String>)],
) -> Value {
    let removal = removed.iter().find(|(removed, _)| removed == id);
    let came = match (verdict, removal) {
        (Verdict::Kept(reason), _) => {
            json::came("kept", Some(reason.code()), Some(&reason.to_string()))
        }
        (Verdict::Orphan, None) => json::came("orphan", None, None),
        (Verdict::Orphan, Some((_, None))) => json::came("gone", None, None),
        (Verdict::Orphan, Some((_, Some(why)))) => json::came("left", None, Some(why)),
    };
    let rest = json!({
        "id": id,
        "age_ms": age.map(json::ms),
        "orphan": *verdict == Verdict::Orphan,
    });
    json::joined([came, rest])
}
