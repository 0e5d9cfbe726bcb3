//! Writing for people: colours where there is a terminal, and words for codes.

use std::io::{self, BufRead, Write};

use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;

pub(super) use crate::domain::words::{describe, found, plain, rough};
use crate::runtime::clock::Clock;

/// How text is written: with colours on a terminal, unless the environment refuses them
/// (<https://no-color.org>, <https://bixense.com/clicolors>).
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
}

impl Style {
    pub(super) fn stdout() -> Self {
        Self {
            colours: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn odd(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Writes to standard output. A reader that went away is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written.map_err(|error| (error.kind(), error)) {
        Err((io::ErrorKind::BrokenPipe, _)) => Ok(()),
        Err((kind, error)) => Err(io::Error::new(
            kind,
            format!("standard output cannot be written: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// Asks the person at the terminal; any other answer is a no.
pub(super) fn confirmed(question: &str) -> io::Result<bool> {
    print!("{question}? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Writes one line to standard output, in the middle of work that must go on whoever reads it.
pub(super) fn line(text: &str) {
    // Unlike `println!`, which panics: what cannot be shown is no reason to stop half-way.
    drop(writeln!(io::stdout().lock(), "{text}"));
}

/// Writes one JSON document to standard output.
pub(super) fn print_json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// When that was, for people: `2026-08-24 06:05:07Z, 15m 2s ago`.
pub(super) fn when(at: Timestamp, clock: &Clock) -> String {
    format!("{}, {} ago", moment(at), rough(clock.since(at)))
}

/// A time in UTC to the second.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// What is waited for, in words, where somebody else has to end first.
pub(super) fn held(by: &str) -> String {
    format!("held: {}; goes on once that has ended", plain(by))
}
