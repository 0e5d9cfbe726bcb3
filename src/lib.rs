//! stagesweep: an SQS event consumer that takes down what a rejected CloudFront blue/green
//! deployment leaves behind.
//!
//! `docs/ARCHITECTURE.md` is the map. In short: [`event`], [`target`], [`binding`], [`plan`],
//! [`verdict`], [`retry`] and [`pace`] decide and do no I/O; [`reconcile`] carries out what they decide;
//! [`consumer`] owns the messages, [`lease`] their visibility, [`ledger`] what outlives the process.

// Futures that contain whole jobs are deep: a build from nothing computes their layout in one go.
#![recursion_limit = "256"]
#![forbid(unsafe_code)]

pub mod accounts;
pub mod activity;
pub mod at_work;
pub mod attribution;
pub mod aws;
mod batch;
pub mod binding;
pub mod catch_up;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consumer;
pub mod daemon;
pub mod dead_letters;
pub mod doctor;
pub mod event;
pub mod event_pattern;
pub mod executions;
pub mod health;
pub mod history;
mod jobs;
pub mod lasting;
pub mod lease;
pub mod ledger;
mod listing;
pub mod manual;
pub mod named;
pub mod notify;
pub mod orphans;
pub mod pace;
pub mod partition;
pub mod place;
pub mod plan;
pub mod preview;
pub mod programs;
pub mod reconcile;
#[cfg(feature = "rehearsal")]
pub mod rehearsal;
pub mod retry;
pub mod signals;
pub mod stop;
pub mod systemd;
pub mod target;
pub mod tasks;
pub mod telemetry;
pub mod verdict;
pub mod watch;
mod wildcard;
