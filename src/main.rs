//! The stagesweep program.
fn main() {}
