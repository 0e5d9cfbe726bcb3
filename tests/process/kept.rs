//! What the verbs wrote for programs, kept for `tests/deploy/test_json.py`.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::harness::Finished;

thread_local! {
    /// Whether this test has kept something.
    static KEEPS: Cell<bool> = const { Cell::new(false) };
}

/// Holds what ended with `--json` to what is true of every verb, and appends it to a file of the test's own
/// below `json` in cargo's directory for tests, one document a line.
pub(crate) fn keep(ended: &Finished) {
    let (stdout, stderr) = (&ended.stdout, &ended.stderr);
    let said = format!("{:?}\n{stdout}\n{stderr}", ended.code);
    let mut documents = Vec::new();
    for text in [stdout, stderr] {
        if !text.is_empty() {
            documents.push(serde_json::from_str::<Value>(text).expect(&said));
        }
    }
    assert!(documents.iter().all(|it| it["version"] == 1), "{said}");
    let kind = |text: &str| serde_json::from_str(text).map(|it: Value| it["kind"].clone());
    assert!(
        stdout.is_empty() || kind(stdout).unwrap() != "error",
        "{said}"
    );
    if !stderr.is_empty() {
        assert_eq!(kind(stderr).unwrap(), "error", "{said}");
        assert_eq!(stderr.lines().count(), 1, "{said}");
        // The answer of `check` is what is wrong.
        assert!(
            stdout.is_empty() || kind(stdout).unwrap() == "check",
            "{said}"
        );
    }
    documents.iter().for_each(keep_document);
}

/// Appends a document to the file.
pub(crate) fn keep_document(document: &Value) {
    let mut options = OpenOptions::new();
    options.create(true).write(true);
    match KEEPS.replace(true) {
        false => options.truncate(true),
        true => options.append(true),
    };
    let directory = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/json"));
    std::fs::create_dir_all(directory).unwrap();
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main").replace("::", ".");
    let file = options.open(directory.join(format!("{test}.jsonl")));
    writeln!(file.unwrap(), "{document}").unwrap();
}
