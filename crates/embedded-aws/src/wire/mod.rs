//! What every service has in common: a call and its answer, identifiers, settings, the journal.

pub(crate) mod exchange;
pub(crate) mod ids;
pub(crate) mod journal;
pub(crate) mod query;
pub(crate) mod recorder;
pub(crate) mod settings;
pub(crate) mod time;
