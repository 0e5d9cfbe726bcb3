//! The formats of single values. An error completes a sentence that begins with the value.

use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::MetricsSink;
use crate::domain::arn::{Arn, is_account};
use crate::domain::partition::{QueueHost, sqs_host};

/// A text as a fault quotes it: escaped, and cut where nobody would read on.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// What the address of a Unix socket has room for (`unix(7)`).
const MAX_SOCKET: usize = 107;

/// Nothing, an absolute path, or a name in the abstract namespace after `@`.
pub(super) fn check_socket(text: &str) -> Result<(), String> {
    let named = text.len() > 1 && text.starts_with(['/', '@']) && !text.ends_with('/');
    if text.is_empty() || named && text.len() <= MAX_SOCKET && !text.contains('\0') {
        return Ok(());
    }
    Err(format!(
        "is no socket: expected an absolute path or \"@\" and a name, {MAX_SOCKET} bytes at most"
    ))
}

pub(super) fn check_ledger_path(text: &str) -> Result<(), String> {
    if text.is_empty() || text.ends_with('/') {
        return Err("does not name a file".to_owned());
    }
    Ok(())
}

pub(super) fn check_account(text: &str) -> Result<(), String> {
    if is_account(text) {
        return Ok(());
    }
    Err("is not an account id; expected twelve digits".to_owned())
}

/// One element of a program's absolute path and arguments.
pub(super) fn check_program(index: usize, text: &str) -> Result<(), String> {
    if index == 0 && !text.starts_with('/') {
        return Err("is not an absolute path".to_owned());
    }
    if text.contains('\0') {
        return Err("has a zero byte".to_owned());
    }
    Ok(())
}

/// A duration in the form in which the file takes it.
pub(super) fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.parse::<f64>().is_ok() {
        return Err(format!("has no unit; write for instance \"{trimmed}s\""));
    }
    humantime::parse_duration(text).map_err(|_| {
        "is not a duration; expected for instance \"500ms\", \"20s\" or \"2m\"".to_owned()
    })
}

/// The account (twelve digits before the queue's name) and the region (of an AWS host).
pub(super) fn parse_queue_url(url: &str) -> Result<(Option<String>, Option<String>), String> {
    const EXAMPLE: &str =
        "expected for instance \"https://sqs.us-east-1.amazonaws.com/123456789012/my-queue\"";
    if let Some(arn) = Arn::parse(url).filter(|arn| arn.service == "sqs") {
        let host = sqs_host(arn.region, false, false);
        let (account, name) = (arn.account, arn.resource);
        return Err(format!(
            "is the queue's ARN; its URL is \"https://{host}/{account}/{name}\""
        ));
    }
    let uri: http::Uri = url
        .parse()
        .map_err(|_| format!("is not a URL; {EXAMPLE}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("is not an http or https URL; {EXAMPLE}"));
    }
    let host = uri.host().unwrap_or_default();
    if host.is_empty() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(format!("does not name a plain host; {EXAMPLE}"));
    }
    if url.contains(['?', '#']) {
        return Err("has a query or a fragment, which a queue's URL has not".to_owned());
    }
    let segments: Vec<&str> = uri.path().split('/').skip(1).collect();
    let name = segments.last().copied().unwrap_or_default();
    let bare = name.strip_suffix(".fifo").unwrap_or(name);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if bare.is_empty() || name.len() > 80 || !bare.bytes().all(valid) {
        return Err(format!("does not end in a queue's name; {EXAMPLE}"));
    }
    let account = segments
        .iter()
        .rev()
        .nth(1)
        .filter(|segment| is_account(segment))
        .map(|&segment| segment.to_owned());
    Ok((account, QueueHost::parse(host).map(|host| host.region)))
}

/// Directives as `tracing` takes them, but a lone word must be a level: `inof` would otherwise
/// be the name of a module, and silence everything else.
pub(super) fn check_log_level(text: &str) -> Result<(), String> {
    const LEVELS: &str = "error, warn, info, debug, trace or off";
    for directive in text.split(',').map(str::trim) {
        if directive.is_empty() {
            return Err(format!("has no level; expected {LEVELS}, or target=level"));
        }
        let word = directive
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if word && directive.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "has the level {directive:?}; expected {LEVELS}, or target=level"
            ));
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map(|_| ())
        .map_err(|_| format!("is not a log level; expected {LEVELS}, or target=level"))
}

/// CloudWatch API reference, `PutMetricData`: 1 to 255 characters, none of AWS's own namespaces.
pub(super) fn check_namespace(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c);
    if text.trim().is_empty() {
        return Err("is empty; CloudWatch needs a namespace".to_owned());
    }
    if let Some(c) = text.chars().find(|&c| !allowed(c)) {
        return Err(format!(
            "contains {c:?}; a namespace has letters, digits, spaces and . - _ / # : only"
        ));
    }
    if text.len() > 255 {
        return Err("is longer than CloudWatch's maximum of 255 characters".to_owned());
    }
    if text.starts_with(':') || text.starts_with("AWS/") {
        return Err("must begin neither with : nor with AWS/, which CloudWatch keeps".to_owned());
    }
    Ok(())
}

/// CloudWatch Logs API reference, `CreateLogGroup`.
pub(super) fn check_log_group(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-/.#".contains(c);
    if !(1..=512).contains(&text.len()) || !text.chars().all(allowed) {
        return Err("is no log group: 1 to 512 letters, digits and _ - / . #".to_owned());
    }
    Ok(())
}

/// `stdout`, `file:///an/absolute/path` (or `file:/…`; RFC 8089), or `tcp://host:port`.
pub(super) fn parse_sink(text: &str) -> Result<MetricsSink, String> {
    if text == "stdout" {
        return Ok(MetricsSink::Stdout);
    }
    if let Some(path) = text.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(
                "does not name a file by its absolute path; expected for instance \
                 \"file:///var/log/stagesweep/metrics.log\""
                    .to_owned(),
            );
        }
        return Ok(MetricsSink::File(path.into()));
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        let uri: Option<http::uri::Authority> = address.parse().ok();
        let plain = |it: &http::uri::Authority| {
            !it.host().is_empty()
                && it.port_u16().is_some_and(|it| it > 0)
                && !address.contains('@')
        };
        if !uri.as_ref().is_some_and(plain) {
            return Err(
                "has no host and port; expected for instance \"tcp://127.0.0.1:25888\"".to_owned(),
            );
        }
        return Ok(MetricsSink::Tcp(address.to_owned()));
    }
    Err("is no sink; expected \"stdout\", \"file:///PATH\" or \"tcp://HOST:PORT\"".to_owned())
}

/// Nothing, a bus's name, or its ARN (EventBridge API reference: `PutEventsRequestEntry`).
pub(super) fn check_event_bus(text: &str) -> Result<(), String> {
    let is_name = |name: &str| {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_".contains(&byte);
        (1..=256).contains(&name.len()) && name.bytes().all(valid)
    };
    let named = match Arn::parse(text) {
        None => text.is_empty() || is_name(text),
        Some(arn) => {
            let name = arn.resource.strip_prefix("event-bus/");
            arn.service == "events"
                && arn.partition.starts_with("aws")
                && !arn.region.is_empty()
                && is_account(arn.account)
                && name.is_some_and(is_name)
        }
    };
    if named {
        return Ok(());
    }
    Err("is no event bus: expected its name, or \
         \"arn:aws:events:REGION:ACCOUNT:event-bus/NAME\""
        .to_owned())
}

pub(super) fn check_event_source(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 256 {
        return Err("is no source; expected 1 to 256 characters".to_owned());
    }
    if text.starts_with("aws.") {
        return Err("begins with \"aws.\", which only services of AWS may use".to_owned());
    }
    Ok(())
}

/// Whether DynamoDB takes this for a table's name.
pub(super) fn is_table_name(text: &str) -> bool {
    (3..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}
