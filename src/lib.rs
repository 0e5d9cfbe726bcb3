//! stagesweep
#![forbid(unsafe_code)]
pub mod cli;
pub mod clock;
pub mod config;
pub mod target;
