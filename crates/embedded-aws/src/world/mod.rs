//! Setting a world up, telling what happens in it, and looking at it.
//!
//! What is done here bypasses faults and the journal: it is the test's own hand, not a caller's.

pub(crate) mod accounts;
pub(crate) mod aws;
pub(crate) mod distributions;
pub(crate) mod events;
pub(crate) mod parameters;
pub(crate) mod pipeline;
pub(crate) mod queues;
pub(crate) mod review;
pub(crate) mod rules;
pub(crate) mod service;
pub(crate) mod state;
