//! The exit statuses of every verb: the one source of `--help`, of the manual pages, and of the table in
//! `docs/CLI.md`, which a test compares.

use clap::Command;

/// The exit status of a fatal error.
pub(super) const FATAL: u8 = 1;

/// The exit status of a usage error, as clap has it.
pub(super) const USAGE: u8 = 2;

/// The exit status of a bad configuration: `EX_CONFIG` of `sysexits.h`.
pub(super) const EX_CONFIG: u8 = 78;

/// With `--detailed-exitcode`: there are steps to take. The same as a usage error, as in terraform.
pub(super) const STEPS: u8 = 2;

/// With `--detailed-exitcode`: a fence would refuse.
pub(super) const REFUSED: u8 = 3;

type Statuses = &'static [(u8, &'static str)];

const BAD: (u8, &str) = (EX_CONFIG, "bad configuration");

/// Each verb, and when it exits with what. A usage error is 2 with every one.
const EXITS: [(&str, Statuses); 12] = [
    (
        "run",
        &[
            (0, "asked to stop, or drained with `--drain`"),
            (FATAL, "fatal error"),
            BAD,
        ],
    ),
    (
        "check",
        &[
            (
                0,
                "valid; with `--event` or `--pipeline`, taken by a target",
            ),
            (FATAL, "the event cannot be read"),
            (EX_CONFIG, "not valid, or taken by no target"),
        ],
    ),
    (
        "plan",
        &[
            (0, "shown; with `--detailed-exitcode`, nothing to do"),
            (
                FATAL,
                "it would be refused, or AWS cannot be asked; with `--detailed-exitcode`, only the latter",
            ),
            (STEPS, "with `--detailed-exitcode`, steps to take"),
            (REFUSED, "with `--detailed-exitcode`, it would be refused"),
            BAD,
        ],
    ),
    (
        "clean",
        &[
            (0, "nothing is left behind"),
            (FATAL, "something is, or nothing was done"),
            BAD,
        ],
    ),
    (
        "history",
        &[
            (0, "shown"),
            (FATAL, "the ledger cannot be read, or there is no such job"),
            BAD,
        ],
    ),
    (
        "orphans",
        &[
            (0, "listed; with `--delete`, taken down"),
            (
                FATAL,
                "something that was chosen is left, or the account or the ledger cannot be read",
            ),
            BAD,
        ],
    ),
    (
        "dead-letters",
        &[
            (0, "listed, or sent back"),
            (
                FATAL,
                "something was not sent back, or the queue cannot be asked",
            ),
            BAD,
        ],
    ),
    (
        "doctor",
        &[(0, "no check failed"), (FATAL, "a check failed"), BAD],
    ),
    (
        "iam-policy",
        &[
            (0, "written"),
            (
                EX_CONFIG,
                "bad configuration, or a role that no target names",
            ),
        ],
    ),
    (
        "health",
        &[
            (0, "the daemon does its work"),
            (FATAL, "it does not, or does not answer"),
        ],
    ),
    ("completion", &[(0, "written")]),
    (
        "rehearse",
        &[
            (
                0,
                "nothing is left behind; with `--scenario`, it ended as it must; with `--serve`, asked to stop",
            ),
            (
                FATAL,
                "something is left, the scenario ended otherwise, interrupted, or fatal error",
            ),
            BAD,
        ],
    ),
];

/// A command's `--help` with the statuses before the examples.
pub(super) fn explained(mut command: Command) -> Command {
    for (verb, statuses) in EXITS {
        if command.find_subcommand(verb).is_none() {
            // A verb of a feature that is off.
            continue;
        }
        command = command.mut_subcommand(verb, |verb| {
            let mut statuses = statuses.to_vec();
            if statuses.iter().all(|(status, _)| *status != USAGE) {
                statuses.push((USAGE, "usage error"));
            }
            statuses.sort_by_key(|(status, _)| *status);
            let mut text = "Exit status:\n".to_owned();
            for (status, when) in statuses {
                text.push_str(&format!("  {status:<4}{}\n", when.replace('`', "")));
            }
            if let Some(examples) = verb.get_after_help() {
                text.push_str(&format!("\n{examples}"));
            }
            verb.after_help(text.trim_end().to_owned())
        });
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_this_one() {
        let page = include_str!("../../docs/CLI.md");
        for (verb, statuses) in EXITS {
            let statuses = statuses.iter();
            let cell: Vec<String> = statuses
                .map(|(status, when)| format!("{status} {when}"))
                .collect();
            let cell = format!("| {} |", cell.join("; "));
            let mut rows = page.lines().filter(|line| line.starts_with("| [`"));
            let row = rows.find(|row| {
                let name = row.trim_start_matches("| [`");
                name.split(['`', ' ']).next() == Some(verb)
            });
            assert!(
                row.is_some_and(|row| row.ends_with(&cell)),
                "{verb}: {cell}\n{row:?}"
            );
        }
    }

    #[test]
    fn every_verb_says_with_what_it_exits() {
        let command = crate::cli::command();
        for verb in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let help = verb.clone().render_long_help().to_string();
            assert!(help.contains("Exit status:\n  0  "), "{help}");
        }
    }
}
