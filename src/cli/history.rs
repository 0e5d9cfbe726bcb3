//! `history`: what the ledger knows of the jobs, and the timeline of one.

mod svg;
mod timeline;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::setup::{Setup, load};
use super::terminal::{Style, moment, plain, print, print_json, rough};
use super::usage::{duration, limit};
use super::width::{Width, fit, width};
use super::{Invocation, json, open_job};
use crate::domain::binding::Subject;
use crate::domain::decision::Outcome;
use crate::domain::history::{About, Record, State, end_observed};
use crate::domain::words::counted;
use crate::ops::doctor::wildcard::fits;
use crate::ops::orphans::removed_by;
use crate::runtime::clock::Clock;

/// A list shows so many characters of a comment.
const MAX_COMMENT: usize = 60;

/// Which jobs are shown, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Only jobs of this pipeline; `*` stands for anything.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only jobs that came to this: cleaned, already_clean, superseded, retracted, undecided, observed, ran,
    /// working, refused, failed, open, or the reason for which the last run ended.
    #[arg(long, value_name = "CODE")]
    outcome: Option<String>,
    /// Only jobs that began within this time.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Not more than so many jobs, the newest.
    #[arg(long, value_name = "N", default_value = "50", value_parser = limit)]
    limit: NonZeroUsize,
    /// Write one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    width: Width,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Draw the timeline of one job.
    #[command(
        after_help = "Example:\n  stagesweep history show 4f1c2d7a --svg timeline.svg\n\n\
                      The id may be cut short, as long as it tells one execution from the others."
    )]
    Show {
        /// The pipeline execution's id, or a job's key.
        #[arg(value_name = "ID")]
        id: String,
        /// Write the timeline as a picture too.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

/// Shows the history, and returns 0.
///
/// # Errors
/// If the ledger cannot be read, or there is no such job.
pub(super) async fn history(from: &Invocation, options: &Options) -> anyhow::Result<u8> {
    let config = load(from)?;
    let clock = Clock::system();
    let mut records = Setup::records(&config, from, &clock).await?;
    end_observed(&mut records);
    match &options.what {
        None => {
            let shown = filtered(&records, options, clock.now());
            if options.json {
                let items = shown.iter().map(|it| item(it, clock.now()));
                let items = json!({ "items": items.collect::<Vec<_>>() });
                let warnings = match shown.is_empty() {
                    true => unknown(&records, options),
                    false => Vec::new(),
                };
                print_json(&json::document("history", &warnings, [items]))?;
            } else {
                let columns = options.width.columns();
                print(&table(&shown, clock.now(), columns, Style::stdout()))?;
            }
            if shown.is_empty() && !options.json {
                unknown(&records, options)
                    .iter()
                    .for_each(|it| eprintln!("stagesweep: {it}"));
            }
        }
        Some(What::Show { id, svg }) => {
            let shown = named(&records, id)?;
            if options.json {
                print_json(&document(&shown, clock.now()))?;
            } else {
                for record in &shown {
                    print(&timeline::draw(record, clock.now(), Style::stdout()))?;
                }
            }
            if let Some(file) = svg {
                let picture = svg::draw(&shown, clock.now());
                std::fs::write(file, picture)
                    .with_context(|| format!("{} cannot be written", file.display()))?;
                if !options.json {
                    eprintln!("The timeline was written to {}.", file.display());
                }
            }
        }
    }
    Ok(0)
}

fn filtered<'a>(records: &'a [Record], options: &Options, now: Timestamp) -> Vec<&'a Record> {
    let since = options
        .since
        .and_then(|since| now.checked_sub(since).ok())
        .unwrap_or(Timestamp::MIN);
    let pipeline = options.pipeline.as_ref();
    let came_to =
        |record: &Record, wanted: &str| wanted == record.state.code() || wanted == outcome(record);
    records
        .iter()
        .filter(|record| record.first_seen >= since)
        .filter(|record| pipeline.is_none_or(|wanted| fits(wanted, &record.pipeline)))
        .filter(|record| {
            let wanted = options.outcome.as_ref();
            wanted.is_none_or(|wanted| came_to(record, wanted))
        })
        .take(options.limit.get())
        .collect()
}

/// What was asked for and no job of the ledger has, with what they have: it may be a slip.
fn unknown(records: &[Record], options: &Options) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(wanted) = &options.outcome {
        let mut codes: BTreeSet<&str> = Outcome::ALL.into_iter().map(Outcome::code).collect();
        codes.extend(["working", "open", "refused", "failed"]);
        codes.extend(records.iter().map(|record| record.state.code()));
        if !codes.contains(&**wanted) {
            let codes = Vec::from_iter(codes).join(", ");
            said.push(format!(
                "no job came to {wanted:?}; what jobs come to: {codes}"
            ));
        }
    }
    if let Some(wanted) = &options.pipeline
        && !records.iter().any(|record| fits(wanted, &record.pipeline))
    {
        let names: BTreeSet<&str> = records.iter().map(|it| &*it.pipeline).collect();
        let names = match names.is_empty() {
            true => "none".to_owned(),
            false => Vec::from_iter(names).join(", "),
        };
        said.push(format!(
            "the ledger has no job of a pipeline {wanted:?}; it has jobs of: {names}"
        ));
    }
    said
}

/// The jobs of the one execution that `id` stands for, oldest first.
fn named<'a>(records: &'a [Record], id: &str) -> anyhow::Result<Vec<&'a Record>> {
    let exact = |record: &&Record| record.execution_id() == id || record.key.as_str() == id;
    let mut found: Vec<&Record> = records.iter().filter(exact).collect();
    if found.is_empty() && !id.is_empty() {
        found = records
            .iter()
            .filter(|record| record.execution_id().starts_with(id))
            .collect();
    }
    let Some(first) = found.first() else {
        anyhow::bail!(
            "the ledger knows no execution {id:?}; `stagesweep history` lists those it knows"
        );
    };
    let execution_id = first.execution_id();
    if let Some(other) = found
        .iter()
        .find(|record| record.execution_id() != execution_id)
    {
        anyhow::bail!(
            "{id:?} stands for several executions, {execution_id} and {} among them: write more of \
             the id",
            other.execution_id()
        );
    }
    found.reverse();
    Ok(found)
}

/// How long the job took, or takes by now.
fn took(record: &Record, now: Timestamp) -> Duration {
    match record.state {
        State::Working => {
            Duration::try_from(now.duration_since(record.first_seen)).unwrap_or_default()
        }
        _ => record.took(),
    }
}

/// The state, in the colour that fits it.
fn painted(state: &State, text: &str, style: Style) -> String {
    match state {
        State::Done(_) => style.good(text),
        State::Working => style.odd(text),
        State::Open(_) => style.bad(text),
    }
}

/// How far the job is; of one that waits, for what.
fn state(record: &Record) -> String {
    let code = record.state.code();
    match record.waits_for() {
        Some(wait) => format!("{code}: {wait}"),
        None => code.to_owned(),
    }
}

/// A table; or, where that is wider than it may be, some lines for each job.
fn table(records: &[&Record], now: Timestamp, columns: usize, style: Style) -> String {
    if records.is_empty() {
        return "No jobs.\n".to_owned();
    }
    let longest = |of: &dyn Fn(&Record) -> usize, least: usize| {
        records
            .iter()
            .map(|record| of(record))
            .fold(least, usize::max)
    };
    let id = longest(&|record| record.execution_id().len(), 9);
    let pipeline = longest(&|record| record.pipeline.len(), 8);
    let outcome = longest(&|record| state(record).len(), 7);
    // What follows: began, took, steps, the beginning of a comment.
    if id + pipeline + outcome + 59 > columns {
        let rows = records.iter().map(|record| stacked(record, now, style));
        return fit(&rows.collect::<String>(), columns);
    }
    let heading = format!(
        "{:id$}  {:pipeline$}  {:outcome$}  {:20}  {:>8}  {:>5}  COMMENT",
        "EXECUTION", "PIPELINE", "OUTCOME", "BEGAN", "TOOK", "STEPS"
    );
    let room = columns - (width(&heading) - "COMMENT".len());
    let mut text = style.bold(&heading);
    text.push('\n');
    for record in records {
        let code = format!("{:outcome$}", state(record));
        let _ = writeln!(
            text,
            "{:id$}  {:pipeline$}  {}  {:20}  {:>8}  {:>5}  {}",
            record.execution_id(),
            record.pipeline,
            painted(&record.state, &code, style),
            moment(record.first_seen),
            rough(took(record, now)),
            record.steps(),
            style.dim(&comment(record, room)),
        );
    }
    text
}

/// One job on lines of its own.
fn stacked(record: &Record, now: Timestamp, style: Style) -> String {
    let mut text = format!(
        "{}  {}\n    {}\n    began {}, took {}, {}\n",
        style.bold(record.execution_id()),
        painted(&record.state, &state(record), style),
        record.pipeline,
        moment(record.first_seen),
        rough(took(record, now)),
        counted(record.steps(), "step"),
    );
    let comment = comment(record, MAX_COMMENT);
    if !comment.is_empty() {
        let _ = writeln!(text, "    {}", style.dim(&comment));
    }
    text
}

/// The reviewer's comment, cut off after so many characters.
fn comment(record: &Record, room: usize) -> String {
    let about = record.trail.about.as_ref();
    let comment = about.and_then(|about| about.comment.as_deref());
    let comment = plain(comment.unwrap_or_default());
    comment.chars().take(room.min(MAX_COMMENT)).collect()
}

/// The jobs of one execution for a program, oldest first: the last one, and those before it.
fn document(records: &[&Record], now: Timestamp) -> Value {
    let mut items: Vec<Value> = records.iter().map(|record| item(record, now)).collect();
    let last = items.pop().unwrap_or_default();
    json::document("job", &[], [last, json!({ "earlier": items })])
}

/// What a job is about.
pub(super) fn about(record: &Record) -> json::About<'_> {
    let about = record.trail.about.as_ref();
    let subject = record.evidence.subject.as_ref();
    // What a run noted; a record of before it did may be bound.
    let known = |noted: fn(&About) -> &String, bound: fn(&Subject) -> &String| {
        let found = about.map(noted).filter(|it| !it.is_empty());
        let found = found.or_else(|| subject.map(bound));
        found.map(String::as_str).filter(|it| !it.is_empty())
    };
    json::About {
        pipeline: Some(&record.pipeline),
        pipeline_arn: known(|it| &it.pipeline_arn, |it| &it.pipeline),
        target: about.map(|about| &*about.target),
        stage: known(|it| &it.stage, |it| &it.stage),
        action: known(|it| &it.action, |it| &it.action),
        execution_id: json::execution_id(record.execution_id()),
    }
}

/// One word for what it came to.
fn outcome(record: &Record) -> &str {
    match &record.state {
        State::Open(reason) => record.trail.told.outcome(reason.as_deref()),
        state => state.code(),
    }
}

/// One job for a program.
pub(super) fn item(record: &Record, now: Timestamp) -> Value {
    let about = record.trail.about.as_ref();
    let state = match &record.state {
        State::Done(_) => "done",
        State::Working => "working",
        State::Open(_) => "open",
    };
    let ids = record.ids();
    let said = record.trail.why.as_ref().or(record.evidence.left.as_ref());
    let came = json::came(
        outcome(record),
        Some(record.state.code()),
        said.map(String::as_str),
    );
    let entries = record.trail.entries.iter();
    let rest = json!({
        "key": record.key.as_str(),
        "state": state,
        "comment": about.and_then(|about| about.comment.as_ref()),
        "rejected_at": about.and_then(|about| json::time_of_ms(about.rejected_at_ms)),
        "began_at": json::time(record.first_seen),
        "updated_at": json::time(record.updated),
        "duration_ms": json::ms(took(record, now)),
        "production_id": ids.production_id,
        // The key of a removal names what is removed.
        "staging_id": ids.staging_id.as_deref().or_else(|| removed_by(record.key.as_str())),
        "policy_id": ids.policy_id,
        "more_staging_ids": ids.more_staging_ids,
        "done": open_job::done(record),
        "entries": entries.map(|entry| json!({
            "at": json::time_of_ms(entry.at_ms),
            "kind": entry.kind,
            "name": Some(&entry.name).filter(|name| !name.is_empty()),
        })).collect::<Vec<_>>(),
        "entries_dropped": record.trail.dropped,
    });
    json::joined([self::about(record).document(), came, rest])
}
