//! The stagesweep program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(stagesweep::cli::main())
}
