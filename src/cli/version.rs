//! What was built: version, commit, features, machine.

use std::env::consts::{ARCH, OS};
use std::sync::LazyLock;

/// The commit, where whoever built it set it (`deploy/release` does). A build script that asked git would
/// build anew with every commit, and differ between a checkout and an archive.
const COMMIT: Option<&str> = option_env!("STAGESWEEP_COMMIT");

/// Version, commit, features and machine: `0.1.0 (3db97b4, rehearsal, x86_64-linux)`.
pub(super) fn full() -> &'static str {
    static FULL: LazyLock<String> = LazyLock::new(|| {
        let commit = COMMIT.filter(|commit| !commit.is_empty());
        let rehearsal = cfg!(feature = "rehearsal").then_some("rehearsal");
        let machine = format!("{ARCH}-{OS}");
        let about: Vec<&str> = commit
            .into_iter()
            .chain(rehearsal)
            .chain([&*machine])
            .collect();
        format!("{} ({})", env!("CARGO_PKG_VERSION"), about.join(", "))
    });
    &FULL
}
