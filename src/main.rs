//! The stagesweep program: arguments, wiring, exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use stagesweep::cli::{self, Arguments};
use stagesweep::telemetry::chain;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match cli::main(arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("stagesweep: {}", chain(error.as_ref()));
            ExitCode::from(cli::FATAL)
        }
    }
}
