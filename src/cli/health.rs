//! `health`: whether the running daemon does its work.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{FATAL, json};
use crate::config::Config;
use crate::daemon::health_socket::{Address, ask};
use crate::runtime::health::Report;
use crate::telemetry::chain;

/// Asks the daemon of this configuration how it is. Writes one line, or with `json` one object, and
/// returns 0 if it is well, 1 if it is not or does not answer.
///
/// # Errors
/// Only what writing comes to.
pub async fn health(
    path: &Path,
    env: &BTreeMap<String, String>,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let report = match Config::load(path, env) {
        Err(faults) => unwell("bad_configuration", faults.to_string()),
        Ok(config) => match ask(&Address::of(&config)).await {
            Ok(report) => report,
            Err(error) => unwell(error.code(), chain(&error)),
        },
    };
    let word = if report.healthy {
        "healthy"
    } else {
        "unhealthy"
    };
    if json {
        writeln!(out, "{}", document(&report, word))?;
    } else if report.healthy {
        writeln!(out, "{word}: {}", report.detail)?;
    } else {
        writeln!(err, "{word}: {}", report.detail)?;
    }
    Ok(if report.healthy { 0 } else { FATAL })
}

/// The same for a program.
fn document(report: &Report, word: &str) -> Value {
    let came = json::came(word, report.reason.as_deref(), Some(&report.detail));
    let rest = json!({
        "mode": report.mode,
        "poll_age_ms": report.last_poll_ms,
        "in_flight": report.in_flight,
    });
    json::document("health", &[], [came, rest])
}

/// The report on a daemon that does not report.
fn unwell(reason: &str, detail: String) -> Report {
    Report {
        healthy: false,
        reason: Some(reason.to_owned()),
        detail,
        mode: None,
        last_poll_ms: None,
        in_flight: 0,
    }
}
