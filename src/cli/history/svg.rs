//! The timeline of an execution's jobs as a picture.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::timeline::{bounds, label};
use crate::cli::terminal::{moment, plain, rough};
use crate::domain::history::{Kind, Record};

const WIDTH: i64 = 1000;
const LEFT: i64 = 330;
const RIGHT: i64 = 20;
const ROW: i64 = 24;
const HEAD: i64 = 64;
const TICKS: i64 = 5;

/// An SVG document; one block a job.
pub(super) fn draw(records: &[&Record], now: Timestamp) -> String {
    let rows = |record: &&&Record| i64::try_from(record.spans().len()).unwrap_or_default();
    let height: i64 = records
        .iter()
        .map(|record| HEAD + ROW * (rows(&record) + 2))
        .sum();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut top = 0;
    for record in records {
        top = block(&mut out, record, now, top);
    }
    out.push_str("</svg>\n");
    out
}

/// Draws one job below `top` and returns where it ends.
fn block(out: &mut String, record: &Record, now: Timestamp, top: i64) -> i64 {
    let spans = record.spans();
    let (from, until) = bounds(record, &spans, now);
    let x =
        |at: i64| LEFT + (at - from).max(0).saturating_mul(WIDTH - LEFT - RIGHT) / (until - from);
    let mut text = |x: i64, y: i64, style: &str, what: &str| {
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" {style}>{}</text>",
            escaped(what)
        );
    };
    let title = format!("{}: {}", record.pipeline, record.state.code());
    text(
        12,
        top + 24,
        "font-weight=\"bold\" font-size=\"15\"",
        &title,
    );
    let subtitle = format!(
        "execution {}, begun {}",
        record.execution_id(),
        moment(record.first_seen)
    );
    text(12, top + 44, "fill=\"#666666\"", &subtitle);

    let rows = i64::try_from(spans.len()).unwrap_or_default();
    let (first, last) = (top + HEAD, top + HEAD + ROW * rows);
    for tick in 0..=TICKS {
        let at = from + (until - from) * tick / TICKS;
        let x = x(at);
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{first}\" x2=\"{x}\" y2=\"{last}\" stroke=\"#dddddd\"/>"
        );
        let since = Duration::from_millis(u64::try_from(at - from).unwrap_or_default());
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666666\">{}</text>",
            last + 18,
            rough(since)
        );
    }
    for (row, span) in (0..).zip(&spans) {
        let y = first + ROW * row;
        let end = span.until_ms.unwrap_or(now.as_millisecond());
        let (left, right) = (x(span.from_ms), x(end));
        let _ = writeln!(
            out,
            "<text x=\"12\" y=\"{}\">{}</text>",
            y + 16,
            escaped(&label(span))
        );
        let _ = match span.kind {
            Kind::Waiting | Kind::Waited => writeln!(
                out,
                "<rect x=\"{left}\" y=\"{}\" width=\"{}\" height=\"12\" rx=\"2\" fill=\"{}\"/>",
                y + 6,
                (right - left).max(2),
                if span.cut { "#d9a441" } else { "#7fa8d9" }
            ),
            kind => writeln!(
                out,
                "<circle cx=\"{left}\" cy=\"{}\" r=\"5\" fill=\"{}\"/>",
                y + 12,
                match kind {
                    Kind::Applied => "#2f7d4f",
                    Kind::Found => "#9bbfa8",
                    _ => "#555555",
                }
            ),
        };
    }
    last + ROW * 2
}

fn escaped(text: &str) -> String {
    plain(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
