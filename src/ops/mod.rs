//! What the verbs do that an operator calls beside the daemon; `cli` shows it.

pub mod clean;
pub mod dead_letters;
pub mod doctor;
pub mod explain;
pub mod orphans;
