//! The rooms of the house, read from the sources: `src/lib.rs` lists them from the top to the bottom.
//!
//! A room imports rooms below it only. `domain` and `runtime` import none; `domain` does no I/O, is not async
//! and reads no clock. Nothing but `aws` imports an SDK. No function and no file is too long. Tests within the sources may import what they like.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::path::Path;

/// From the bottom to the top.
const ROOMS: [&str; 12] = [
    "domain",
    "runtime",
    "telemetry",
    "config",
    "aws",
    "ledger",
    "notify",
    "reconcile",
    "consumer",
    "daemon",
    "ops",
    "cli",
];

/// The first does not import the second, though it stands above it.
const APART: [(&str, &str); 3] = [
    ("aws", "config"),
    ("config", "runtime"),
    ("runtime", "domain"),
];

/// What `domain` does without: words of its sources.
const IMPURE: [&str; 8] = [
    "async",
    "await",
    "tokio",
    "Instant",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "tracing",
];

/// What `domain` does without: modules of `std`.
const IMPURE_STD: [&str; 7] = ["env", "fs", "io", "net", "os", "process", "thread"];

/// The time source of the SDK's clients is our clock.
const SDK_OUTSIDE: (&str, &str) = ("runtime/clock.rs", "aws_smithy_async");

/// No function is longer, in lines.
const LONGEST_FUNCTION: usize = 80;

/// No file is longer, in lines, with the tests within it.
const LONGEST_FILE: usize = 600;

/// The code alone: comments, and what is between quotes, are blank.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let before = out.chars().next_back().unwrap_or(' ');
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            quoted(rest)
        } else if first == 'r' && !before.is_alphanumeric() && before != '_' {
            raw(rest)
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        let taken = skipped.max(first.len_utf8());
        out.push_str(if skipped == 0 { &rest[..taken] } else { " " });
        rest = &rest[taken..];
    }
    out
}

/// The length of the text in quotes that `rest` begins with.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of the raw text that `rest` begins with; 0 if it begins with none.
fn raw(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let Some(body) = rest[1 + hashes..].strip_prefix('"') else {
        return 0;
    };
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).unwrap_or(body.len());
    (2 + hashes + length + end.len()).min(rest.len())
}

/// The length of the character that `rest` begins with; 0 of a lifetime.
fn character(rest: &str) -> usize {
    if rest[1..].starts_with('\\') {
        return rest[3..].find('\'').map_or(0, |end| end + 4);
    }
    let mut chars = rest.char_indices().skip(2);
    match chars.next() {
        Some((at, '\'')) => at + 1,
        _ => 0,
    }
}

/// Without the items that only tests have.
fn without_tests(code: &str) -> String {
    const TEST: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(begin) = rest.find(TEST) {
        out.push_str(&rest[..begin]);
        let item = &rest[begin + TEST.len()..];
        let mut depth = 0;
        let end = item.char_indices().find(|(_, char)| {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(char, ';' | '}')
        });
        rest = end.map_or("", |(at, _)| &item[at + 1..]);
    }
    out + rest
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// What follows each `word` that stands by itself.
fn after<'a>(code: &'a str, word: &str) -> Vec<&'a str> {
    code.match_indices(word)
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .map(|(at, _)| &code[at + word.len()..])
        .filter(|rest| !rest.starts_with(is_word))
        .collect()
}

fn word(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|char| !is_word(char)).unwrap_or(text.len())]
}

/// The first names of the paths that go on from a `crate`, a `super` or a `std`: one, or those of a group.
fn heads(rest: &str) -> Vec<&str> {
    let Some(rest) = rest.trim_start().strip_prefix("::") else {
        return Vec::new();
    };
    let Some(group) = rest.trim_start().strip_prefix('{') else {
        return vec![word(rest)];
    };
    let mut heads = vec![word(group)];
    let mut depth = 1;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => heads.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// The names right under the crate's root that a file of `src` uses.
fn root_names<'a>(path: &str, code: &'a str) -> Vec<&'a str> {
    let mut names: Vec<_> = after(code, "crate").into_iter().flat_map(heads).collect();
    let parts = path.trim_end_matches(".rs").split('/');
    let depth = parts.filter(|part| *part != "mod").count();
    let supers = vec!["super"; depth].join("::");
    let deep = after(code, &supers).into_iter().flat_map(heads);
    names.extend(deep.filter(|name| ROOMS.contains(name)));
    names
}

fn number(room: &str) -> Option<usize> {
    ROOMS.iter().position(|it| *it == room)
}

/// What one file does that it must not.
fn faults(path: &str, text: &str) -> Vec<String> {
    let code = without_tests(&code(text));
    let room = path.split('/').next().unwrap_or_default();
    let Some(own) = number(room) else {
        return vec![format!("{path} is in no room")];
    };
    let mut faults = Vec::new();
    for name in root_names(path, &code) {
        let forbidden = match number(name) {
            None => true,
            Some(other) => other > own || APART.contains(&(room, name)),
        };
        if forbidden {
            faults.push(format!("{path} imports {name}"));
        }
    }
    if room != "aws" {
        let sdk = code.split(|char| !is_word(char)).filter(|it| {
            it.starts_with("aws_")
                && (path, *it) != SDK_OUTSIDE
                && after(&code, it).iter().any(|rest| rest.starts_with("::"))
        });
        faults.extend(sdk.map(|sdk| format!("{path} imports {sdk}")));
    }
    if room == "domain" {
        let words = IMPURE.into_iter().filter(|it| !after(&code, it).is_empty());
        faults.extend(words.map(|word| format!("{path} has {word}")));
        let std = after(&code, "std").into_iter().flat_map(heads);
        let std = std.filter(|it| IMPURE_STD.contains(it));
        faults.extend(std.map(|module| format!("{path} imports std::{module}")));
    }
    faults
}

/// The name of the function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let at = line.find("fn ")?;
    let qualifies = |word: &str| {
        word.starts_with("pub") || word.ends_with(')') || ["async", "const"].contains(&word)
    };
    let begins = line[..at].split_whitespace().all(qualifies);
    begins.then(|| word(&line[at + 3..]))
}

/// The functions of a file and their lengths, without those of the tests within it. The sources are formatted: a
/// function ends with a brace as deep as its first line.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let tests = text.find("#[cfg(test)]\nmod tests {");
    let lines: Vec<_> = text[..tests.unwrap_or(text.len())].lines().collect();
    let begun = lines.iter().enumerate();
    let begun = begun.filter_map(|(at, line)| Some((at, function(line)?)));
    begun
        .filter_map(|(at, name)| {
            let lines = &lines[at..];
            let opened = lines.iter().find(|line| line.ends_with(['{', '}', ';']))?;
            let deep = lines[0].len() - lines[0].trim_start().len();
            let end = format!("{}}}", " ".repeat(deep));
            let length = lines.iter().position(|line| *line == end).map(|at| at + 1);
            let length = if opened.ends_with('{') { length? } else { 1 };
            Some((name, length))
        })
        .collect()
}

/// The modules that `lib.rs` declares.
fn declared(lib: &str) -> Vec<String> {
    let code = without_tests(&code(lib));
    let mods = after(&code, "mod").into_iter();
    mods.map(|rest| word(rest).to_owned()).collect()
}

fn read(directory: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "tests" {
                read(&path, sources);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            sources.push((
                path.display().to_string(),
                fs::read_to_string(&path).unwrap(),
            ));
        }
    }
}

/// The files of `src` and their texts, without tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    read(&root, &mut sources);
    let prefix = format!("{}/", root.display());
    for (path, _) in &mut sources {
        *path = path.strip_prefix(&prefix).unwrap().to_owned();
    }
    sources
}

#[test]
fn each_room_imports_rooms_below_it_only() {
    let sources = sources();
    assert!(sources.len() > 100, "{} files were read", sources.len());
    let files = sources.iter().filter(|(path, _)| path.contains('/'));
    let faults: Vec<_> = files.flat_map(|(path, text)| faults(path, text)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn lib_lists_the_rooms_from_the_top_to_the_bottom_and_nothing_else() {
    let sources = sources();
    let root: Vec<_> = sources
        .iter()
        .filter(|(path, _)| !path.contains('/'))
        .collect();
    let mut names: Vec<_> = root.iter().map(|(path, _)| path.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["lib.rs", "main.rs"]);
    let lib = root.iter().find(|(path, _)| path == "lib.rs").unwrap();
    let rooms: Vec<_> = ROOMS.into_iter().rev().collect();
    assert_eq!(declared(&lib.1), rooms);
}

#[test]
fn a_function_and_a_file_can_be_held_in_the_head() {
    let sources = sources();
    let mut found = 0;
    for (path, text) in &sources {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{path} has {lines} lines");
        for (name, length) in functions(text) {
            found += 1;
            assert!(
                length <= LONGEST_FUNCTION,
                "{name} in {path} has {length} lines"
            );
        }
    }
    assert!(found > 1500, "{found} functions were read");
}

#[test]
fn a_functions_length_is_from_its_first_line_to_its_last_brace() {
    let text = "impl A {\n    pub(in crate::x) async fn a(\n        &self,\n    ) -> B {\n        if c {\n        }\n    \
                }\n\n    fn b(&self);\n    fn c() {}\n}\n\nconst fn d() {\n}\n#[cfg(test)]\nmod tests {\n    fn e() {\n    }\n}\n";
    assert_eq!(functions(text), [("a", 6), ("b", 1), ("c", 1), ("d", 2)]);
}

/// The rules notice what they are for.
#[test]
fn an_import_that_is_turned_round_is_a_fault() {
    let fault = |path: &str, text: &str| faults(path, text).into_iter().next().unwrap_or_default();
    for (path, text, expected) in [
        (
            "ledger/mod.rs",
            "use crate::reconcile::Ended;",
            "imports reconcile",
        ),
        (
            "aws/mod.rs",
            "use crate::{domain::arn,\n    config::{self, Config}};",
            "imports config",
        ),
        (
            "config/keys.rs",
            "fn f() { crate::runtime::clock::now() }",
            "imports runtime",
        ),
        (
            "runtime/stop.rs",
            "use crate::domain::event;",
            "imports domain",
        ),
        (
            "consumer/lease.rs",
            "use super::super::daemon::Daemon;",
            "imports daemon",
        ),
        ("notify/mod.rs", "use super::cli;", "imports cli"),
        ("cli/run.rs", "use crate::helpers;", "imports helpers"),
        ("helpers/mod.rs", "", "is in no room"),
        (
            "ops/doctor.rs",
            "use aws_sdk_sqs::Client;",
            "imports aws_sdk_sqs",
        ),
        (
            "runtime/clock.rs",
            "fn f(c: aws_config::C) {}",
            "imports aws_config",
        ),
        ("domain/event.rs", "pub async fn parse() {}", "has async"),
        (
            "domain/event.rs",
            "let now = jiff::Timestamp::now();",
            "has Timestamp::now",
        ),
        (
            "domain/event.rs",
            "use std::time::{Duration, Instant};",
            "has Instant",
        ),
        (
            "domain/event.rs",
            "use std::{fmt, fs::File};",
            "imports std::fs",
        ),
        (
            "aws/x.rs",
            "let a = '\"'; let b = \"\"; use crate::cli;",
            "imports cli",
        ),
        (
            "aws/x.rs",
            "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::cli;",
            "imports cli",
        ),
    ] {
        assert_eq!(fault(path, text), format!("{path} {expected}"), "{text}");
    }
    assert_eq!(
        declared("//! Text\npub mod cli;\nmod helpers;"),
        ["cli", "helpers"]
    );
}

#[test]
fn an_import_of_a_room_below_a_test_and_a_comment_are_none() {
    for (path, text) in [
        ("cli/run.rs", "use crate::{domain::arn, config};"),
        ("daemon/mod.rs", "use super::reconcile::Ended;"),
        (
            "ledger/sqlite/records.rs",
            "use super::super::trails; pub(in crate::ledger) fn f() {}",
        ),
        ("aws/sqs.rs", "use aws_sdk_sqs::Client;"),
        (
            "runtime/clock.rs",
            "use aws_smithy_async::time::TimeSource;",
        ),
        (
            "domain/event.rs",
            "/// Not async; see [`crate::cli`].\nfn f<'a>(x: &'a str) {}",
        ),
        (
            "domain/event.rs",
            "const T: &str = r#\"use \"crate::cli;\"#; const U: &str = \"tokio\";",
        ),
        (
            "domain/event.rs",
            "#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nfn f() {}",
        ),
        (
            "domain/event.rs",
            "#[cfg(test)]\nmod tests { use crate::cli; const A: char = '}'; }",
        ),
    ] {
        assert_eq!(faults(path, text), [""; 0], "{text}");
    }
}
