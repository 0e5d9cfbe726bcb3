//! A job that has changed something and is not done: what people are told of it.

use std::fmt::Write as _;

use super::terminal::{Style, describe, when};
use crate::domain::event::JobKey;
use crate::domain::history::{Kind, Record, State};
use crate::domain::targets::lookup::Named;
use crate::runtime::clock::Clock;

/// The open job of a target: one that somebody works on, or else the oldest.
pub(super) fn of<'a>(records: &'a [Record], named: &Named) -> Option<&'a Record> {
    let of_target = |record: &&Record| {
        let subject = record.evidence.subject.as_ref();
        let open = !matches!(record.state, State::Done(_)) && record.evidence.changed;
        open && subject.is_some_and(|subject| named.is_about(subject))
    };
    let mut oldest_first = records.iter().rev().filter(of_target);
    let mut worked_on = oldest_first.clone();
    worked_on
        .find(|record| record.state == State::Working)
        .or_else(|| oldest_first.next())
}

/// The job of this key.
pub(super) fn of_key<'a>(records: &'a [Record], key: &JobKey) -> Option<&'a Record> {
    records.iter().find(|record| record.key == *key)
}

/// The names of the steps that are done, in their order.
pub(super) fn done(record: &Record) -> Vec<&str> {
    let entries = record.trail.entries.iter();
    let done = entries.filter(|it| matches!(it.kind, Kind::Applied | Kind::Found));
    done.map(|entry| entry.name.as_str()).collect()
}

/// Says that there is one, how far it is, and who goes on with it.
pub(super) fn announced(record: &Record, clock: &Clock, style: Style) -> String {
    let mut text = told(record, "An open job", clock, style);
    let next = match record.state {
        State::Working => {
            "somebody works on it, or was killed less than queue.visibility_timeout ago: \
             `stagesweep history show` has it"
        }
        _ => {
            "`stagesweep clean` goes on with it; so does the daemon, at its start and every 15 minutes"
        }
    };
    let _ = writeln!(text, "  {next}");
    text
}

/// Says of one that it is gone on with, and how far it is.
pub(super) fn told(record: &Record, heading: &str, clock: &Clock, style: Style) -> String {
    let mut text = format!("\n{}\n", style.bold(heading));
    let mut line = |what: &str, is: &str| {
        // Writing to a text does not fail.
        let _ = writeln!(text, "  {what:<22}{is}");
    };
    line("execution", record.execution_id());
    line("began", &when(record.first_seen, clock));
    if let State::Open(Some(reason)) = &record.state {
        line("last run ended", describe(reason));
    }
    let more = record.evidence.more.iter().map(|staged| &staged.id);
    for id in record.staging_id.iter().chain(more) {
        line("staging", id);
    }
    let done: Vec<&str> = done(record).into_iter().map(describe).collect();
    line(
        "done already",
        &match done.is_empty() {
            true => "nothing that was answered".to_owned(),
            false => done.join("; "),
        },
    );
    text
}
