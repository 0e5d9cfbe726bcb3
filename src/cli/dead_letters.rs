//! `dead-letters`: what lies in the dead-letter queue and why; `--redrive` sends chosen ones back.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use anyhow::Context;
use serde_json::{Value, json};

use super::setup::{Setup, load};
use super::terminal::{Style, moment, print, print_json};
use super::{FATAL, Invocation, json};
use crate::aws::sqs::{Message, Queue, beside};
use crate::ops::dead_letters::{DeadLetter, give_back, look, reason, redrive};
use crate::telemetry::chain;

/// What `dead-letters` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Send these back to the queue, by message id or pipeline execution id.
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "redrive_all")]
    redrive: Vec<String>,
    /// Send all that are listed back to the queue.
    #[arg(long)]
    redrive_all: bool,
    /// Not more than so many messages.
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroUsize,
    /// Write one JSON document.
    #[arg(long)]
    json: bool,
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
    let attributes = queue.attributes().await?;
    let arn = attributes.dead_letter_arn.with_context(|| {
        format!("the queue {url} has no redrive policy, and so no dead-letter queue: set one")
    })?;
    let dead = open(&beside(url, &arn));
    // That the ledger cannot be read takes the reasons away, and nothing else.
    let records = setup.history().await;
    let mut warnings = Vec::new();
    if let Err(error) = &records {
        let warning = format!("the ledger could not be read: {}", chain(error));
        if !options.json {
            eprintln!("stagesweep: {warning}");
        }
        warnings.push(warning);
    }
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
    let chosen = |letter: &DeadLetter| {
        let ids = [
            Some(&letter.message.message_id),
            letter.reason.execution_id.as_ref(),
        ];
        options.redrive_all
            || ids
                .into_iter()
                .flatten()
                .any(|id| options.redrive.contains(id))
    };
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
    let missed = options.redrive.iter().filter(|id| {
        !letters.iter().any(|letter| {
            letter.message.message_id == **id || letter.reason.execution_id.as_ref() == Some(*id)
        })
    });
    let missed: Vec<&str> = missed.map(String::as_str).collect();
    if options.json {
        let items: Vec<Value> = letters.iter().map(|it| item(it, &results)).collect();
        let items = json!({ "items": items, "not_found": missed });
        print_json(&json::document("dead_letters", &warnings, [items]))?;
    } else {
        print(&listing(&letters, &results, Style::stdout()))?;
    }
    // After what was done is told: they come back by themselves, too.
    give_back(&dead, &rest).await?;
    if !missed.is_empty() && !options.json {
        eprintln!(
            "stagesweep: not in the dead-letter queue: {}",
            missed.join(", ")
        );
    }
    let failed = results.iter().any(|(_, sent)| sent.is_err()) || !missed.is_empty();
    Ok(if failed { FATAL } else { 0 })
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
        let sent_at = letter.message.sent_at.map_or(String::new(), moment);
        let _ = writeln!(
            text,
            "{}  {}  {}",
            style.bold(&letter.message.message_id),
            sent_at,
            style.bad(&reason.code)
        );
        let _ = writeln!(text, "    {}", reason.detail);
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
        text.push_str("Once the cause is mended: `stagesweep dead-letters --redrive ID …`\n");
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
