//! The real program as a process of its own, over loopback against the embedded AWS.

// Futures that contain whole jobs are deep: a build from nothing computes their layout in one go.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod accounts;
mod calls;
mod cleanup;
mod command_line;
mod crash;
mod desk;
mod doctor;
mod hangs;
mod harness;
mod health;
mod json;
mod kept;
mod kill_matrix;
mod ledger;
mod notify;
mod open_jobs;
mod programs;
mod queue;
mod rehearse;
mod sign_in;
mod signals;
mod soak;
mod telemetry;
mod verbs;
mod way_out;
