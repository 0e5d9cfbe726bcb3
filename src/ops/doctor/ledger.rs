//! The ledger: that it can be read, and that the daemon could write it.

use std::path::Path;

use rustix::fs::{Access, access};

use super::Check;
use crate::aws::Connector;
use crate::config::{Config, LedgerBackend};
use crate::domain::error_class::ErrorClass;
use crate::domain::words::counted;
use crate::ledger::{EmbeddedLedger, LedgerError, OpenError};
use crate::runtime::clock::Clock;
use crate::telemetry::chain;

const NAME: &str = "ledger";

pub(super) async fn examine(config: &Config, connector: &Connector, clock: &Clock) -> Check {
    match config.ledger.backend {
        LedgerBackend::Embedded => {
            let path = &config.ledger.path;
            embedded(path, clock).about(path.display().to_string())
        }
        LedgerBackend::DynamoDb => {
            let table = connector.table(&config.ledger.table);
            match table.item("check").await {
                Ok(_) => Check::ok(NAME, "the table can be read"),
                Err(error) if error.class == ErrorClass::NotFound => Check::failure(
                    NAME,
                    "there is no such table",
                    "create it with the partition key pk of type String",
                ),
                Err(error) => Check::call(
                    NAME,
                    &error,
                    "dynamodb:GetItem, dynamodb:UpdateItem and dynamodb:Scan on it",
                ),
            }
            .about(config.ledger.table.clone())
        }
    }
}

fn embedded(path: &Path, clock: &Clock) -> Check {
    let writable = writable(path);
    match (EmbeddedLedger::history(path, clock), writable) {
        (Err(LedgerError::Open(OpenError::Missing { .. })), Ok(())) => Check::warning(
            NAME,
            "there is none yet",
            "none is needed before the first start; else run this where the daemon runs",
        ),
        (Ok(records), Ok(())) => Check::ok(NAME, counted(records.len(), "job")),
        (Ok(_) | Err(LedgerError::Open(OpenError::Missing { .. })), Err(why)) => Check::failure(
            NAME,
            why,
            "without it nothing is processed: run this as the daemon's user, or correct ledger.path",
        ),
        (Err(error), _) => Check::failure(
            NAME,
            chain(&error),
            "without it nothing is processed: run this as the daemon's user, or correct ledger.path",
        ),
    }
}

/// Whether whoever runs this could write the ledger, and the files beside it. Nothing is written.
fn writable(path: &Path) -> Result<(), String> {
    let may = |path: &Path, kind| {
        access(path, kind).map_err(|error| format!("{} cannot be written: {error}", path.display()))
    };
    if path.exists() {
        may(path, Access::READ_OK | Access::WRITE_OK)?;
    }
    // Directories that are not there yet are made.
    let here = Path::new(".");
    let above = path
        .ancestors()
        .skip(1)
        .map(|it| match it.as_os_str().is_empty() {
            true => here,
            false => it,
        });
    let directory = above.into_iter().find(|it| it.exists()).unwrap_or(here);
    if !directory.is_dir() {
        return Err(format!("{} is no directory", directory.display()));
    }
    may(directory, Access::WRITE_OK | Access::EXEC_OK)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Status;
    use super::*;

    #[test]
    fn a_place_where_no_ledger_can_be_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let of = |name: &str| embedded(&directory.path().join(name), &clock);
        assert_eq!(of("not/yet/ledger.db").status, Status::Warning);
        fs::write(directory.path().join("file"), "").unwrap();
        let found = of("file/ledger.db");
        assert_eq!(found.status, Status::Failure, "{found:?}");
        assert!(found.detail.contains("directory"), "{found:?}");
        let foreign = of("file");
        assert_eq!(foreign.status, Status::Failure, "{foreign:?}");
    }
}
