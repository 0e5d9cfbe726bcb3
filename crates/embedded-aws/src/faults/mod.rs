//! What goes wrong on purpose: at random by rate, or by rule.
//!
//! Random faults depend on the seed and, for each operation on each resource, on how many such
//! calls came before; not on what else happens between. So the same seed hurts the same calls
//! whatever the interleaving. Rules are for tests that need one certain thing to happen at one
//! certain call.

pub(crate) mod chance;
pub(crate) mod plan;
pub(crate) mod rule;
