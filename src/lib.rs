//! stagesweep
#![forbid(unsafe_code)]
pub mod clock;
pub mod config;
pub mod target;
