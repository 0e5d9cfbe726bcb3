//! Whole jobs in one process under tokio's paused clock, against the embedded AWS.

// Futures that contain whole jobs are deep: a build from nothing computes their layout in one go.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod accounts;
mod approvals;
mod bindings;
mod by_hand;
mod catch_up;
mod cleanup;
mod crowds;
mod delay;
mod deployed_into;
mod faults;
mod harness;
mod held;
#[path = "../ledgers/mod.rs"]
mod ledgers_of_all;
mod lifecycle;
mod messages;
mod notify;
mod observe;
mod programs;
mod propagation;
mod races;
mod reports;
mod seeds;
mod stories;
mod table;
mod verify;
mod vitals;
