//! What is said of a command line that is wrong, and the values that options take.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::CommandFactory;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Arguments;

/// A usage error of a verb.
pub(super) fn wrong(verb: &str, kind: ErrorKind, message: &str) -> clap::Error {
    let mut command = Arguments::command();
    command.build();
    match command.find_subcommand_mut(verb) {
        Some(verb) => verb.error(kind, message),
        None => command.error(kind, message),
    }
}

/// The error with what was likely meant.
pub(super) fn helped(mut error: clap::Error) -> clap::Error {
    let invalid = |error: &clap::Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let option = invalid(&error, ContextKind::InvalidArg);
            // No value of a verb begins with a dash.
            error.remove(ContextKind::Suggested);
            if matches!(
                &*option,
                "--dry-run" | "--dryrun" | "--observe" | "--what-if" | "-n"
            ) {
                error.remove(ContextKind::SuggestedArg);
                let tips = [
                    "to only look: stagesweep plan NAME",
                    "a daemon that only looks: STAGESWEEP__CLEANUP__MODE=observe stagesweep run",
                ];
                let tips = tips.map(StyledStr::from).into();
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
            }
        }
        ErrorKind::InvalidSubcommand => {
            let suggested = error.remove(ContextKind::SuggestedSubcommand);
            if let Some(ContextValue::Strings(mut verbs)) = suggested {
                verbs.retain(|verb| verb != HIDDEN);
                if !verbs.is_empty() {
                    let verbs = ContextValue::Strings(verbs);
                    error.insert(ContextKind::SuggestedSubcommand, verbs);
                }
            }
        }
        _ => {}
    }
    error
}

/// The verb that is not for people.
const HIDDEN: &str = "pages";

/// Whether `stagesweep help --help` was asked for, which clap takes for a verb called `--help`.
pub(super) fn asks_for_help(error: &clap::Error) -> bool {
    let of_help = matches!(error.kind(), ErrorKind::InvalidSubcommand);
    let verb = error.get(ContextKind::InvalidSubcommand);
    let help = |text: &String| text == "--help" || text == "-h";
    of_help && matches!(verb, Some(ContextValue::String(text)) if help(text))
}

/// How many there may be.
pub(super) fn limit(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "must be a whole number, at least 1".to_owned())
}

/// A duration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "is no duration; write for instance 7d, 12h or 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::cli::parsed;

    fn said(arguments: &[&str]) -> String {
        let line = ["stagesweep"].iter().chain(arguments);
        parsed(line).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_command_line_is_answered_with_what_was_meant() {
        for (line, expected) in [
            (
                &["run", "--dry-run"][..],
                "to only look: stagesweep plan NAME",
            ),
            (&["run", "--observe"], "STAGESWEEP__CLEANUP__MODE=observe"),
            (
                &["history", "--limit", "0"],
                "must be a whole number, at least 1",
            ),
            (
                &["history", "--since", "yesterday"],
                "is no duration; write for instance 7d",
            ),
            (&["orphans", "--min-age", "old"], "is no duration"),
            (
                &["clean", "shop", "--json"],
                "add --yes; to only look: stagesweep plan shop --json",
            ),
            (&["health", "--region", "us-east-1"], "asks AWS nothing"),
            (
                &["check", "--event", "a", "--pipeline", "b"],
                "cannot be used with",
            ),
        ] {
            let said = said(line);
            assert!(said.contains(expected), "{line:?}\n{said}");
            assert!(!said.contains("as a value"), "{said}");
        }
        assert!(!said(&["targets"]).contains("pages"));
        assert!(parsed(["stagesweep", "clean", "shop", "--dry-run", "--json"]).is_ok());
    }

    #[test]
    fn options_stand_before_the_verb_and_after_it() {
        for line in [
            &["-c", "f", "check"][..],
            &["check", "-c", "f"],
            &["--config", "f", "validate", "-q"],
            &["-c", "f", "history", "show", "x"],
            &["-c", "f", "dlq"],
            &[
                "--region",
                "us-east-1",
                "--profile",
                "p",
                "plan",
                "x",
                "-c",
                "f",
            ],
            &["clean", "x", "-y", "-c", "f"],
        ] {
            let parsed = parsed(["stagesweep"].iter().chain(line)).unwrap();
            assert_eq!(
                parsed.from.config.as_deref(),
                Some("f".as_ref()),
                "{line:?}"
            );
        }
    }
}
