//! Short lines for people: the time in UTC, the job, what happened, and the rest of the fields.
//!
//! ```text
//! 03:47:20  shop-frontend-pipeline 3c1e9a54  policy detached from production
//! 03:47:21  WARN  receiving fails; trying again with backoff: connection refused
//! ```
//!
//! **Guarantees.** An event is one line. What is not ours to trust is shown without its control characters.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::line::Line;
use super::logging::{is_ours, source};
use crate::domain::plain::plain;
use crate::domain::words::{describe, rough};

/// So many characters of a UUID tell it from the others on a terminal.
const SHORT_ID: usize = 8;

/// Writes such lines.
pub(super) struct Short;

impl<S> FormatEvent<S, JsonFields> for Short
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut at = String::new();
        SystemTime.format_time(&mut Writer::new(&mut at))?;
        let (level, from) = (event.metadata().level(), event.metadata().target());
        let words = Words::of(Line::of(context, event));
        let colours = writer.has_ansi_escapes();
        let (on, off, colour) = match (colours, *level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\x1b[2m", "\x1b[0m", "\x1b[31m"),
            (true, _) => ("\x1b[2m", "\x1b[0m", "\x1b[33m"),
        };
        // `2026-11-30T03:47:20.123456Z`
        write!(writer, "{on}{}{off}", at.get(11..19).unwrap_or(&at))?;
        if *level != Level::INFO {
            write!(writer, "  {colour}{level}{off}")?;
        }
        if let Some(job) = words.job {
            write!(writer, "  {job}")?;
        }
        match is_ours(from) {
            true => write!(writer, "  {}", words.said)?,
            false => write!(writer, "  {}: {}", source(from), words.said)?,
        }
        if !words.more.is_empty() {
            write!(writer, "  {on}{}{off}", words.more)?;
        }
        writeln!(writer)
    }
}

/// A line in words.
struct Words {
    /// Which job it is about.
    job: Option<String>,
    /// What happened.
    said: String,
    /// The fields that are not in there.
    more: String,
}

impl Words {
    fn of(line: Line) -> Self {
        let mut fields = line.0;
        let mut take = |name: &str| {
            let at = fields.iter().position(|(field, _)| field == name)?;
            Some(shown(&fields.remove(at).1))
        };
        let message = take("message").unwrap_or_default();
        let job: Vec<String> = [take("pipeline"), take("execution.id")]
            .into_iter()
            .flatten()
            .map(short)
            .collect();
        // The pipeline as the target writes it; and where a browser finds what is named already.
        let _ = (take("target"), take("execution.url"));
        let mut said = match message.as_str() {
            "step applied" => take("step").map(|step| describe(&step).to_owned()),
            "waiting" => take("wait").map(|wait| format!("waiting for {}", describe(&wait))),
            "still waiting" => {
                take("wait").map(|wait| format!("still waiting for {}", describe(&wait)))
            }
            "wait ended" | "goes on" => {
                take("wait").map(|wait| format!("waited for {}", describe(&wait)))
            }
            "program wrote" => take("line").map(|line| format!("program: {line}")),
            "message refused; it is left to the redrive policy" => take("queue.max_receive_count")
                .map(|most| {
                    let count = take("message.receive_count").unwrap_or_default();
                    format!(
                        "message refused, receive {count} of {most} before the dead-letter queue"
                    )
                }),
            _ => None,
        }
        .unwrap_or(message);
        if said.starts_with("found: ") {
            let _ = take("step");
        }
        for code in [take("outcome"), take("reason")].into_iter().flatten() {
            said = format!("{said} ({code})");
        }
        for why in [take("detail"), take("error")].into_iter().flatten() {
            said = format!("{said}: {why}");
        }
        let more = fields.iter().filter_map(|(name, value)| pair(name, value));
        Self {
            job: (!job.is_empty()).then(|| job.join(" ")),
            said,
            more: more.collect::<Vec<_>>().join(" "),
        }
    }
}

/// A field as `name=value`; nothing of one that says no.
fn pair(name: &str, value: &Value) -> Option<String> {
    Some(match (name.strip_suffix("_ms"), value) {
        (_, Value::Bool(false)) => return None,
        (Some(name), Value::Number(ms)) => {
            let took = Duration::from_millis(ms.as_u64()?);
            format!("{name}={}", rough(took).replace(' ', ""))
        }
        (_, Value::String(text)) if text.contains(char::is_whitespace) => {
            format!("{name}=\"{}\"", plain(text))
        }
        _ => format!("{name}={}", short(shown(value))),
    })
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// A UUID by its beginning, anything else whole.
fn short(text: String) -> String {
    match uuid::Uuid::try_parse(&text) {
        Ok(_) => text.chars().take(SHORT_ID).collect(),
        Err(_) => text,
    }
}
