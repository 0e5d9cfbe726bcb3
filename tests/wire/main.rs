//! What goes over the wire, against the embedded AWS.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod accounts;
mod calls;
mod embedded;
mod events;
mod fuzz;
mod ledgers;
mod signature;
