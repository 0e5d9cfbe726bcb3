//! What is known, and what is decided by it. Pure: no I/O, no clock, not async; the time and the
//! observation are handed in.

pub mod arn;
pub mod at_work;
pub mod attribution;
pub mod binding;
pub mod decision;
pub mod error_class;
pub mod event;
pub mod executions;
pub mod found;
pub mod history;
pub mod lease_terms;
pub mod partition;
pub mod targets;
pub mod verdict;
pub mod words;
