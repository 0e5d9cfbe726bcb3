//! The manual pages and the shells' completions, from the same source as `--help`.

use std::io::{self, Write};
use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use super::command;

const SHELLS: [(&str, Shell); 3] = [
    ("bash", Shell::Bash),
    ("fish", Shell::Fish),
    ("zsh", Shell::Zsh),
];

/// The shells, by name.
pub(super) fn shell() -> PossibleValuesParser {
    SHELLS.map(|(name, _)| name).into()
}

/// Writes a shell's completions to `out`.
///
/// # Errors
/// What writing comes to.
pub(super) fn complete(shell: &str, out: &mut dyn Write) -> io::Result<()> {
    for (_, shell) in SHELLS.into_iter().filter(|(name, _)| *name == shell) {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command(), "stagesweep", &mut text);
        out.write_all(&text)?;
    }
    Ok(())
}

/// Writes `man1/` and `completions/` below `directory`.
///
/// # Errors
/// If a file cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let manual = directory.join("man1");
    let completions = directory.join("completions");
    std::fs::create_dir_all(&manual)?;
    std::fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(command(), &manual)?;
    for (_, shell) in SHELLS {
        clap_complete::generate_to(shell, &mut command(), "stagesweep", &completions)?;
    }
    Ok(())
}
