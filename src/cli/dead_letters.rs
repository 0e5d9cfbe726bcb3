//! `dead-letters`: what lies in the dead-letter queue and why; `--redrive` sends chosen ones back.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::num::NonZeroUsize;

use anyhow::Context;
use serde_json::{Value, json};

use super::setup::{Setup, load};
use super::terminal::{Style, moment, plain, print, print_json};
use super::usage::limit;
use super::width::Width;
use super::{FATAL, Invocation, json};
use crate::aws::sqs::{Message, Queue, beside};
use crate::daemon::CannotStart;
use crate::domain::error_class::ErrorClass;
use crate::ops::dead_letters::{DeadLetter, give_back, look, reason, redrive};
use crate::telemetry::chain;

/// What `dead-letters` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Send these back to the queue, by message id or pipeline execution id. An id may be cut short.
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "redrive_all")]
    redrive: Vec<String>,
    /// Send all that are listed back to the queue, but for those that would be refused again.
    #[arg(long)]
    redrive_all: bool,
    /// With --redrive-all: those too.
    #[arg(long, requires = "redrive_all")]
    force: bool,
    /// Not more than so many messages.
    #[arg(long, value_name = "N", default_value = "100", value_parser = limit)]
    limit: NonZeroUsize,
    /// Write one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    width: Width,
}

/// Lists, and sends back what was chosen. Returns 0, or 1 if something could not be sent back.
///
/// # Errors
/// If there is no dead-letter queue, or it cannot be asked.
pub(super) async fn dead_letters(from: &Invocation, options: &Options) -> anyhow::Result<u8> {
    let config = load(from)?;
    let setup = Setup::new(config, from, |telemetry| telemetry).await?;
    let open = |url: &str| -> Queue {
        let queue = &setup.config.queue;
        let region = queue.region.as_deref();
        setup.connector.queue(url, region, queue.wait_time)
    };
    let url = &setup.config.queue.url;
    let queue = open(url);
    let attributes = match queue.attributes().await {
        Err(source) if source.class == ErrorClass::NotFound => {
            let queue_url = url.clone();
            return Err(CannotStart::NoSuchQueue { queue_url, source }.into());
        }
        attributes => attributes?,
    };
    let arn = attributes.dead_letter_arn.with_context(|| {
        format!("the queue {url} has no redrive policy, and so no dead-letter queue: set one")
    })?;
    let dead = open(&beside(url, &arn));
    // That the ledger cannot be read takes the reasons away, and nothing else.
    let records = setup.history().await;
    let mut warnings = Vec::new();
    if let Err(error) = &records {
        let warning = format!("{}; why jobs ended is not known", chain(error));
        if !options.json {
            eprintln!("stagesweep: {warning}");
        }
        warnings.push(warning);
    }
    let unreadable = records.is_err();
    let messages = look(&dead, options.limit.get())
        .await
        .with_context(|| format!("the dead-letter queue {arn} could not be read"))?;
    let letters: Vec<DeadLetter> = messages
        .into_iter()
        .map(|message| DeadLetter {
            reason: reason(&message.body, &setup.config, records.as_deref()),
            message,
        })
        .collect();
    let Chosen { ids, not } = choose(&letters, options);
    let chosen = |letter: &DeadLetter| ids.contains(&letter.message.message_id);
    let mut results = Vec::new();
    for letter in letters.iter().filter(|letter| chosen(letter)) {
        let sent = redrive(&dead, &queue, &letter.message).await;
        results.push((
            letter.message.message_id.as_str(),
            sent.map_err(|error| chain(&error)),
        ));
    }
    let rest: Vec<&Message> = letters
        .iter()
        .filter(|letter| !chosen(letter))
        .map(|letter| &letter.message)
        .collect();
    if options.json {
        let items: Vec<Value> = letters.iter().map(|it| item(it, &results)).collect();
        let items = json!({ "items": items, "not_sent": not });
        print_json(&json::document("dead_letters", &warnings, [items]))?;
    } else {
        let listing = listing(&letters, &results, Style::stdout());
        print(&options.width.fit(&listing))?;
    }
    // After what was done is reported: they come back by themselves, too.
    give_back(&dead, &rest).await?;
    for why in not.iter().filter(|_| !options.json) {
        eprintln!("stagesweep: {why}");
    }
    let failed = results.iter().any(|(_, sent)| sent.is_err()) || unreadable || !not.is_empty();
    Ok(if failed { FATAL } else { 0 })
}

/// What is sent back, and why something that was asked for is not.
#[derive(Debug, Default)]
struct Chosen {
    /// The messages' ids.
    ids: BTreeSet<String>,
    not: Vec<String>,
}

fn choose(letters: &[DeadLetter], options: &Options) -> Chosen {
    let mut chosen = Chosen::default();
    let id = |letter: &DeadLetter| letter.message.message_id.clone();
    if options.redrive_all {
        let again = |letter: &&DeadLetter| letter.reason.refused_again && !options.force;
        let kept: Vec<&DeadLetter> = letters.iter().filter(again).collect();
        chosen.ids = letters.iter().filter(|it| !again(it)).map(id).collect();
        if !kept.is_empty() {
            let codes: BTreeSet<&str> = kept.iter().map(|it| &*it.reason.code).collect();
            chosen.not.push(format!(
                "{} of {} would be refused again ({}): fix the cause, or add --force",
                kept.len(),
                letters.len(),
                Vec::from_iter(codes).join(", ")
            ));
        }
    }
    for wanted in &options.redrive {
        match named(letters, wanted) {
            Ok(found) => chosen.ids.extend(found.into_iter().map(id)),
            Err(why) => chosen.not.push(why),
        }
    }
    chosen
}

/// The messages of this id, or of the one id that begins so.
fn named<'a>(letters: &'a [DeadLetter], wanted: &str) -> Result<Vec<&'a DeadLetter>, String> {
    let by = |fits: &dyn Fn(&str) -> bool| -> Vec<(&'a str, &'a DeadLetter)> {
        let of = |letter: &'a DeadLetter| {
            let execution = letter.reason.execution_id.as_deref();
            let ids = [Some(&*letter.message.message_id), execution];
            let id = ids.into_iter().flatten().find(|id| fits(id));
            id.map(|id| (id, letter))
        };
        letters.iter().filter_map(of).collect()
    };
    let mut found = by(&|id| id == wanted);
    if found.is_empty() && !wanted.is_empty() {
        found = by(&|id| id.starts_with(wanted));
    }
    let ids: BTreeSet<&str> = found.iter().map(|(id, _)| *id).collect();
    match ids.len() {
        0 => Err(format!("not in the dead-letter queue: {wanted}")),
        1 => Ok(found.into_iter().map(|(_, letter)| letter).collect()),
        _ => Err(format!(
            "{wanted:?} stands for several: {}; write more of the id",
            Vec::from_iter(ids).join(", ")
        )),
    }
}

type Results<'a> = [(&'a str, Result<(), String>)];

fn result_of<'a>(letter: &DeadLetter, results: &'a Results<'a>) -> Option<&'a Result<(), String>> {
    let id = letter.message.message_id.as_str();
    let found = results.iter().find(|(sent, _)| *sent == id);
    found.map(|(_, result)| result)
}

fn listing(letters: &[DeadLetter], results: &Results<'_>, style: Style) -> String {
    if letters.is_empty() {
        return "No dead letters.\n".to_owned();
    }
    let mut text = String::new();
    for letter in letters {
        let reason = &letter.reason;
        let _ = writeln!(
            text,
            "{}  {}",
            style.bold(&letter.message.message_id),
            style.bad(&reason.code)
        );
        let _ = writeln!(text, "    {}", plain(&reason.detail));
        if let Some(at) = letter.message.sent_at {
            let _ = writeln!(text, "    sent {}", moment(at));
        }
        if let (Some(pipeline), Some(execution)) = (&reason.pipeline, &reason.execution_id) {
            let _ = writeln!(text, "    {pipeline}, execution {execution}");
        }
        let _ = match result_of(letter, results) {
            None => Ok(()),
            Some(Ok(())) => writeln!(text, "    {}", style.good("sent back to the queue")),
            Some(Err(why)) => writeln!(text, "    {}: {why}", style.bad("not sent back")),
        };
    }
    if results.is_empty() {
        text.push_str("Once the cause is fixed: `stagesweep dead-letters --redrive ID …`\n");
    }
    text
}

/// The same for a program.
fn item(letter: &DeadLetter, results: &Results<'_>) -> Value {
    let (message, reason) = (&letter.message, &letter.reason);
    let redriven = result_of(letter, results);
    let outcome = match redriven {
        Some(Ok(())) => "redriven",
        Some(Err(_)) | None => "dead_lettered",
    };
    let rejection = reason.rejection.as_ref();
    let arn = rejection.map(|it| it.pipeline.to_string());
    let about = json::About {
        pipeline: reason.pipeline.as_deref(),
        pipeline_arn: arn.as_deref(),
        target: reason.target.as_deref(),
        stage: rejection.map(|it| it.stage.as_str()),
        action: rejection.map(|it| it.action.as_str()),
        execution_id: reason.execution_id.as_deref(),
    };
    let came = json::came(outcome, Some(&reason.code), Some(&reason.detail));
    let rest = json!({
        "message_id": message.message_id,
        "sent_at": message.sent_at.map(json::time),
        "error": redriven.and_then(|result| result.as_ref().err()),
    });
    json::joined([about.document(), came, rest])
}
