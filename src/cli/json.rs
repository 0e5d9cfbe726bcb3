//! What every `--json` shares: one envelope, and one word for one thing.
//!
//! `docs/CLI.md` has the fields, and `docs/schemas` a schema of each kind. Keys are only ever added.

use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::aws::{AwsError, NotSignedIn};
use crate::config::{self, Faults, Place};
use crate::domain::targets::NotAtHome;
use crate::domain::targets::lookup::NotNamed;
use crate::ledger::{LedgerError, OpenError};
use crate::telemetry::chain;

/// The version of all documents.
const VERSION: u64 = 1;

/// Whether this invocation is for a program, its usage errors included.
pub(super) fn asked() -> bool {
    let arguments = std::env::args_os().skip(1);
    let mut options = arguments.take_while(|argument| argument != "--");
    options.any(|argument| argument == "--json")
}

/// One document.
pub(super) fn document<const N: usize>(
    kind: &str,
    warnings: &[String],
    parts: [Value; N],
) -> Value {
    let without_effect = config::without_effect(&super::environment()).into_iter();
    let warnings: Vec<String> = without_effect.chain(warnings.iter().cloned()).collect();
    let envelope = json!({ "version": VERSION, "kind": kind, "warnings": warnings });
    joined([envelope].into_iter().chain(parts))
}

/// The members of several objects in one.
pub(super) fn joined(parts: impl IntoIterator<Item = Value>) -> Value {
    let mut all = Map::new();
    for part in parts {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

/// What a document or an item is about; null where that is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct About<'a> {
    pub(super) pipeline: Option<&'a str>,
    pub(super) pipeline_arn: Option<&'a str>,
    /// The target's pipeline as written.
    pub(super) target: Option<&'a str>,
    pub(super) stage: Option<&'a str>,
    pub(super) action: Option<&'a str>,
    /// Of a job that a person began there is none.
    pub(super) execution_id: Option<&'a str>,
}

impl About<'_> {
    pub(super) fn document(&self) -> Value {
        json!(self)
    }
}

/// An execution's id; `None` for what stands in its place in a job that has none.
pub(super) fn execution_id(id: &str) -> Option<&str> {
    uuid::Uuid::try_parse(id).is_ok().then_some(id)
}

/// What something came to. Without a `reason` of its own, the outcome says it all.
pub(super) fn came(outcome: &str, reason: Option<&str>, detail: Option<&str>) -> Value {
    json!({ "outcome": outcome, "reason": reason.unwrap_or(outcome), "detail": detail })
}

/// A time, of a width that sorts as text.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// The same of milliseconds since the Unix epoch; `None` for what is none.
pub(super) fn time_of_ms(ms: i64) -> Option<String> {
    Timestamp::from_millisecond(ms).ok().map(time)
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes what ended a verb to standard error, as one line.
pub(super) fn write_error(code: &str, message: &str, faults: Option<&Faults>) {
    let faults: Vec<Value> = faults
        .into_iter()
        .flat_map(Faults::iter)
        .map(fault)
        .collect();
    let error = json!({
        "version": VERSION,
        "kind": "error",
        "code": code,
        "message": message,
        "faults": faults,
    });
    // Whoever closed it does not want to know.
    drop(writeln!(std::io::stderr().lock(), "{error}"));
}

/// One fault of a configuration, with its place as text and in parts.
pub(super) fn fault(fault: &crate::config::Fault) -> Value {
    let (file, line, column, variable) = match &fault.place {
        Place::At { file, line, column } => (Some(file), Some(line), Some(column), None),
        Place::File(file) => (Some(file), None, None, None),
        Place::Variable(name) => (None, None, None, Some(name)),
        Place::Default => (None, None, None, None),
    };
    json!({
        "place": fault.place.to_string(),
        "file": file.map(|file| file.display().to_string()),
        "line": line,
        "column": column,
        "variable": variable,
        "key": fault.key,
        "message": fault.message,
    })
}

/// Writes a usage error.
pub(super) fn write_usage_error(error: &clap::Error) {
    let text = error.render().to_string();
    let said = text.strip_prefix("error: ").unwrap_or(&text);
    // The usage and a pointer to --help follow.
    let said = said.split("\n\nUsage:").next().unwrap_or(said);
    let said = said.split("\n\nFor more").next().unwrap_or(said);
    let words: Vec<&str> = said.split_whitespace().collect();
    write_error("usage", &words.join(" "), None);
}

/// Writes an error that ends a verb.
pub(super) fn write_fatal(error: &anyhow::Error) {
    write_error(code(error), &chain(error.as_ref()), None);
}

/// A bounded code of the first cause that has one.
fn code(error: &anyhow::Error) -> &'static str {
    let of = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(error) = cause.downcast_ref::<NotSignedIn>() {
            Some(error.class.code())
        } else if let Some(error) = cause.downcast_ref::<AwsError>() {
            Some(error.class.code())
        } else if let Some(error) = cause.downcast_ref::<LedgerError>() {
            Some(match error {
                LedgerError::Open(OpenError::Missing { .. }) => "ledger_missing",
                LedgerError::Open(OpenError::InUse { .. }) => "ledger_in_use",
                _ => "ledger_failed",
            })
        } else if cause.is::<NotNamed>() {
            Some("unknown_target")
        } else if cause.is::<NotAtHome>() {
            Some("misconfigured")
        } else {
            None
        }
    };
    error.chain().find_map(of).unwrap_or("fatal")
}
