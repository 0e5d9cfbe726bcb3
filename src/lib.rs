//! stagesweep
#![forbid(unsafe_code)]
pub mod clock;
#[cfg(feature = "rehearsal")]
pub mod rehearsal;
