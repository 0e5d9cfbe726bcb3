//! What goes over the wire, against the embedded AWS.

// Futures that contain whole jobs are deep: a build from nothing computes their layout in one go.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod accounts;
mod calls;
mod embedded;
mod events;
mod fuzz;
mod ledgers;
#[path = "../ledgers/mod.rs"]
mod ledgers_of_all;
mod signature;
