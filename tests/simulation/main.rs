//! Whole jobs in one process under tokio's paused clock, against the embedded AWS.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod accounts;
mod bindings;
mod by_hand;
mod catch_up;
mod cleanup;
mod crowds;
mod delay;
mod faults;
mod harness;
mod held;
mod lifecycle;
mod messages;
mod notify;
mod observe;
mod programs;
mod propagation;
mod reports;
mod seeds;
mod stories;
mod table;
mod verify;
mod vitals;
