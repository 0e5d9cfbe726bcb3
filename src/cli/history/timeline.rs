//! The timeline of one job on a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::{painted, took};
use crate::cli::terminal::{Style, describe, found, moment, plain, rough};
use crate::domain::history::{Kind, Record, Span};

/// How many columns the time axis has.
const COLUMNS: usize = 40;

/// What a span is called for people.
pub(super) fn label(span: &Span) -> String {
    match span.kind {
        Kind::Began => "a run began".to_owned(),
        Kind::Applied => describe(&span.name).to_owned(),
        Kind::Planned => format!("would be done: {}", describe(&span.name)),
        Kind::Found => format!("found: {}", found(&span.name)),
        Kind::Ended => format!("the run ended: {}", describe(&span.name)),
        Kind::Waiting | Kind::Waited => {
            let what = describe(&span.name);
            match span.until_ms {
                None => format!("waiting for {what}"),
                Some(until) if span.cut => {
                    format!("waited {} for {what}, cut off", length(span.from_ms, until))
                }
                Some(until) => format!("waited {} for {what}", length(span.from_ms, until)),
            }
        }
    }
}

fn length(from_ms: i64, until_ms: i64) -> String {
    let ms = u64::try_from(until_ms.saturating_sub(from_ms)).unwrap_or_default();
    rough(Duration::from_millis(ms))
}

/// The first and the last moment of a job. At least a millisecond lies between them.
pub(super) fn bounds(record: &Record, spans: &[Span], now: Timestamp) -> (i64, i64) {
    let from = record.first_seen.as_millisecond();
    let ends = spans
        .iter()
        .map(|span| span.until_ms.unwrap_or(now.as_millisecond()));
    let last = ends.max().unwrap_or(from);
    (from.min(last), last.max(from + 1))
}

/// What is known of one job, in lines.
pub(super) fn draw(record: &Record, now: Timestamp, style: Style) -> String {
    let mut text = format!(
        "{}  execution {}  {}, {}\n",
        style.bold(&record.pipeline),
        record.execution_id(),
        painted(&record.state, describe(record.state.code()), style),
        rough(took(record, now)),
    );
    let mut line = |what: &str, is: &str| {
        let _ = writeln!(text, "  {what:<12}{is}");
    };
    line("key", record.key.as_str());
    if let Some(about) = &record.trail.about {
        line("target", &about.target);
        if let Ok(at) = Timestamp::from_millisecond(about.rejected_at_ms) {
            line("rejected", &moment(at));
        }
        if let Some(comment) = &about.comment {
            line("comment", &plain(comment));
        }
    }
    line("begun", &moment(record.first_seen));
    let left = &record.evidence.left;
    let why = record
        .trail
        .why
        .clone()
        .filter(|why| Some(why) != left.as_ref());
    for (what, is) in [
        ("production", &record.production_id),
        ("staging", &record.staging_id),
        ("left", left),
        ("because", &why),
    ] {
        if let Some(is) = is {
            line(what, &plain(is));
        }
    }
    let spans = record.spans();
    if spans.is_empty() {
        text.push_str("\n  No steps were recorded of this job.\n\n");
        return text;
    }
    text.push('\n');
    if record.trail.dropped > 0 {
        let _ = writeln!(
            text,
            "  ({} earlier entries were dropped)",
            record.trail.dropped
        );
    }
    let (from, until) = bounds(record, &spans, now);
    for span in &spans {
        let end = span.until_ms.unwrap_or(now.as_millisecond());
        let (first, last) = (column(span.from_ms, from, until), column(end, from, until));
        let mark = match span.kind {
            Kind::Waiting | Kind::Waited => '━',
            _ => '●',
        };
        let axis: String = (0..COLUMNS)
            .map(|at| {
                if (first..=last).contains(&at) {
                    mark
                } else {
                    '·'
                }
            })
            .collect();
        let since = u64::try_from(span.from_ms - from).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:>9}  {}  {}",
            rough(Duration::from_millis(since)),
            style.dim(&axis),
            label(span)
        );
    }
    text.push('\n');
    text
}

fn column(at: i64, from: i64, until: i64) -> usize {
    let columns = i64::try_from(COLUMNS - 1).unwrap_or(i64::MAX);
    let column = at.saturating_sub(from).saturating_mul(columns) / (until - from);
    usize::try_from(column).unwrap_or_default().min(COLUMNS - 1)
}
