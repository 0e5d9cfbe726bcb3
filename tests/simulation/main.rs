//! Whole jobs in one process under tokio's paused clock, against the embedded AWS.

mod bindings;
mod cleanup;
mod faults;
mod harness;
mod lifecycle;
mod messages;
