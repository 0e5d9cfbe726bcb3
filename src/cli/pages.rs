//! The manual pages and the shells' completions, from the same source as `--help`.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Arguments;

/// Writes `man1/` and `completions/` below `directory`.
///
/// # Errors
/// If a file cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let manual = directory.join("man1");
    let completions = directory.join("completions");
    std::fs::create_dir_all(&manual)?;
    std::fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Arguments::command(), &manual)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Arguments::command(), "stagesweep", &completions)?;
    }
    Ok(())
}
