//! Whole jobs in one process under tokio's paused clock, against the embedded AWS.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod accounts;
mod bindings;
mod by_hand;
mod catch_up;
mod cleanup;
mod faults;
mod harness;
mod lifecycle;
mod messages;
mod notify;
mod programs;
mod propagation;
mod seeds;
mod verify;
mod vitals;
