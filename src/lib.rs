//! stagesweep
#![forbid(unsafe_code)]
pub mod clock;
