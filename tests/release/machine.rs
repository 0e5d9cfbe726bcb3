//! A machine with a systemd of its own: namespaces over a copy-on-write view of this one. See `rig`.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::{output, succeed, text, until};

/// The unit.
pub(crate) const UNIT: &str = "stagesweep.service";

/// A booted machine. Dropping it ends it.
pub(crate) struct Machine {
    directory: TempDir,
    /// What was logged before is forgotten.
    since: Mutex<String>,
}

impl Machine {
    pub(crate) fn boot() -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            since: Mutex::new("@0".to_owned()),
        };
        succeed(&mut machine.rig("up"));
        machine
    }

    fn rig(&self, verb: &str) -> Command {
        let rig = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/release/rig");
        let mut command = Command::new(rig);
        command
            .arg(verb)
            .arg(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.rig("run");
        command.args(words);
        command
    }

    /// Runs a command there.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        output(&mut self.command(words))
    }

    /// Runs a command there that must succeed.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        if !output.status.success() {
            panic!("{words:?}\n{}\n{}", text(&output), self.tell());
        }
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a command there that must fail, and returns its status and all that it wrote.
    pub(crate) fn must_fail(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = self.run(words);
        let wrote = text(&output);
        if output.status.success() {
            panic!("{words:?} did not fail\n{wrote}\n{}", self.tell());
        }
        (output.status.code(), wrote)
    }

    /// Writes a file there, with its directory.
    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1""#;
        let mut command = self.command(&["sh", "-c", script, "write", path]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        assert!(child.wait().unwrap().success(), "{path}");
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> String {
        self.must(&[&["systemctl"][..], words].concat())
    }

    /// What differs from the unit as it is shipped.
    pub(crate) fn drop_in(&self, name: &str, lines: &str) {
        let path = format!("/etc/systemd/system/{UNIT}.d/{name}.conf");
        self.write(&path, format!("[Service]\n{lines}\n").as_bytes());
        self.systemctl(&["daemon-reload"]);
    }

    /// A property of the unit.
    pub(crate) fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, UNIT])
    }

    /// Waits until a property of the unit is what it should be.
    pub(crate) async fn shows(&self, name: &str, condition: impl Fn(&str) -> bool) -> String {
        let ask = || Some(self.property(name)).filter(|value| condition(value));
        until(name, ask, || self.tell()).await
    }

    /// Forgets what was logged before.
    pub(crate) fn forget(&self) {
        *self.since.lock().unwrap() = self.must(&["date", "+@%s.%N"]);
    }

    /// The lines that the unit has logged.
    pub(crate) fn log(&self) -> Vec<Value> {
        let since = format!("--since={}", self.since.lock().unwrap());
        let log = self.must(&[
            "journalctl",
            "--quiet",
            "--output=cat",
            &since,
            "--unit",
            UNIT,
        ]);
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits until so many lines of the log fulfil a condition; returns the last.
    pub(crate) async fn logs(
        &self,
        what: &str,
        count: usize,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let ask = || self.log().into_iter().filter(&is).nth(count - 1);
        until(what, ask, || self.tell()).await
    }

    /// `stagesweep health` as an administrator runs it: its exit status, and what it wrote.
    pub(crate) fn health(&self) -> (Option<i32>, String) {
        let output = self.run(&["stagesweep", "health"]);
        (output.status.code(), text(&output))
    }

    /// What is known of the unit, for a test that failed.
    pub(crate) fn tell(&self) -> String {
        let status = ["systemctl", "status", "--no-pager", "--lines=0", UNIT];
        let log = ["journalctl", "--quiet", "--no-pager", "--lines=120"];
        text(&self.run(&status)) + &text(&self.run(&log))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        output(&mut self.rig("down"));
    }
}
