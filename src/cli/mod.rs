//! The verbs of the command line, one file each.

use std::collections::BTreeMap;

pub mod check;

/// The process's environment, as the configuration takes it.
///
/// What is not Unicode is kept with replacement characters: [`std::env::vars`] would panic.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect()
}
