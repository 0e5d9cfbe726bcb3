//! stagesweep: an SQS event consumer that takes down what a rejected CloudFront blue/green
//! deployment leaves behind.
//!
//! A room imports rooms that stand below it here, and no other: `tests/architecture.rs` reads the sources
//! and fails otherwise. `docs/ARCHITECTURE.md` says why, and what must stay true.

// Futures that contain whole jobs are deep: a build from nothing computes their layout in one go.
#![recursion_limit = "256"]
#![forbid(unsafe_code)]

// The command line: arguments, what is printed, exit status; one file a verb.
pub mod cli;

// What the verbs do that an operator calls: `clean`, `orphans`, `dead-letters`, `doctor`.
pub mod ops;

// The daemon put together: catching up, the health socket, signals, systemd and its watchdog.
pub mod daemon;

// The queue: receives messages, begins jobs, extends leases, deletes messages at the end.
pub mod consumer;

// One job: observes, decides, asks CodePipeline, then takes one step (the parameter, the policy, the distributions) or
// waits, and again; how calls are retried, and `plan`'s dry run.
pub mod reconcile;

// Tells people how jobs ended: on an event bus, and by a program.
pub mod notify;

// What outlives the process: who works on which job, what is done, what `history` shows.
pub mod ledger;

// The only room that imports an AWS SDK: one small client a service.
pub mod aws;

// The configuration: default, file and environment, checked as a whole.
pub mod config;

// Logs, metrics and progress: one struct an event.
pub mod telemetry;

// What a process needs whatever it does: the clock, tasks and their stop, signs of life, programs.
pub mod runtime;

// What is known, and what is decided by it: events, targets, bindings, decisions. Pure.
pub mod domain;
