//! The stagesweep program: arguments, wiring, exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use stagesweep::cli;
use stagesweep::telemetry::chain;

fn main() -> ExitCode {
    match cli::main(cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("stagesweep: {}", chain(error.as_ref()));
            ExitCode::from(cli::FATAL)
        }
    }
}
