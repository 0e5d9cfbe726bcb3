//! What is released, as its users get it: the packages under a real systemd, the image in a container.
//!
//! Both talk over loopback to the embedded AWS of this process. It needs root, and what
//! `./deploy/release` makes in `target/dist`; `./tests/run systemd` and `./tests/run image` see to both.

// Futures that contain whole jobs are deep: a build from nothing computes their layout in one go.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[allow(dead_code, reason = "shared with the tests of the process")]
#[path = "../process/desk.rs"]
mod desk;
#[allow(dead_code, reason = "shared with the tests of the process")]
#[path = "../process/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with the tests of the process")]
#[path = "../process/kept.rs"]
mod kept;

mod image;
mod machine;
mod systemd;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::desk::Desk;
use crate::harness::PATIENCE;

/// The authority that a desk's certificate is of.
const AUTHORITY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/process/certificates/authority.pem"
);

/// A host that only a desk leads to, as a proxy, and whose certificate is of [`AUTHORITY`].
const HOST: &str = "aws.test";

/// The variables of somebody behind a desk: its proxy, and the authority where it is named `authority`.
fn behind(desk: &Desk, authority: &str) -> [String; 6] {
    [
        format!("AWS_ENDPOINT_URL=https://{HOST}"),
        format!("HTTPS_PROXY={}", desk.url()),
        format!("AWS_CA_BUNDLE={authority}"),
        "AWS_REGION=ap-northeast-1".to_owned(),
        // The desk takes it for a key that holds until 2100.
        "AWS_ACCESS_KEY_ID=AKIATESTU4102444800".to_owned(),
        "AWS_SECRET_ACCESS_KEY=test".to_owned(),
    ]
}

/// Where `./deploy/release` puts what it makes.
fn dist() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/dist")
}

/// The one file of `target/dist` that ends like this.
fn released(ending: &str) -> PathBuf {
    let files = std::fs::read_dir(dist())
        .unwrap()
        .map(|it| it.unwrap().path());
    let mut found = files.filter(|path| path.to_string_lossy().ends_with(ending));
    let file = found.next();
    assert!(found.next().is_none(), "more than one {ending}");
    file.unwrap_or_else(|| panic!("no {ending} in target/dist: run ./deploy/release"))
}

/// Runs a command to its end.
fn output(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// What a command wrote to both of its streams.
fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Runs a command that must succeed, and returns what it wrote to standard output.
fn succeed(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}\n{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Asks again until the answer is there.
async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>, tell: impl Fn() -> String) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("never: {what}\n{}", tell()),
    }
}
