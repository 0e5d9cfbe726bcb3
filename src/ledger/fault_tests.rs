//! The ledger on a disk, or in a file, that is not as it should be.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use super::{Claim, Grant, LedgerError, OpenError, Records};
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::Notes;
use crate::telemetry::chain;

const PAGE: u64 = 4096;

fn now() -> Timestamp {
    "2026-09-03T14:21:08Z".parse().unwrap()
}

fn key(job: &str) -> JobKey {
    JobKey::from(job.to_owned())
}

fn claim(records: &mut Records, job: &str) -> Result<Grant, LedgerError> {
    match records.claim("one", &key(job), "shop", now(), now())? {
        Claim::Granted { grant, .. } => Ok(grant),
        other => panic!("{other:?}"),
    }
}

/// A ledger of some pages with one done job, all of it in the one file.
fn ledger(directory: &Path) -> PathBuf {
    let path = directory.join("ledger.db");
    let mut records = Records::open(&path).unwrap();
    let done = claim(&mut records, "done").unwrap();
    records
        .complete(&done, Outcome::Cleaned, &Notes::default(), now())
        .unwrap();
    for n in 0..200 {
        claim(&mut records, &format!("open {n}")).unwrap();
    }
    path
}

fn overwrite(path: &Path, offset: u64, with: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(with).unwrap();
}

fn pragma(records: &Records, name: &str, value: i64) {
    let set = records.database().pragma_update(None, name, value);
    set.unwrap();
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_is_over_when_there_is_space() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = Records::open(&ledger(directory.path())).unwrap();
    let open = claim(&mut records, "open").unwrap();
    // No more pages than it has.
    pragma(&records, "max_page_count", 1);
    let mut claimed = 0;
    let error = loop {
        match claim(&mut records, &format!("job {claimed}")) {
            Ok(_) => claimed += 1,
            Err(error) => break error,
        }
    };
    assert!(claimed < 100, "there is room in its pages");
    assert!(chain(&error).contains("full"), "{error:?}");
    let refused = records.release(
        &open,
        &"a long reason ".repeat(1000),
        &Notes::default(),
        now(),
    );
    assert!(chain(&refused.unwrap_err()).contains("full"));
    // What can be answered without more space is answered as before.
    let done = records.claim("one", &key("done"), "shop", now(), now());
    assert!(matches!(done, Ok(Claim::Done { .. })));

    pragma(&records, "max_page_count", 1_000_000);
    claim(&mut records, &format!("job {claimed}")).unwrap();
    // The refused release has left no trace.
    records
        .complete(&open, Outcome::Cleaned, &Notes::default(), now())
        .unwrap();
}

#[test]
fn a_database_of_something_else_is_named_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    for sql in [
        "CREATE TABLE notes (text TEXT)",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 7",
    ] {
        let other = Connection::open(&path).unwrap();
        other.execute_batch(sql).unwrap();
        drop(other);
        let before = std::fs::read(&path).unwrap();
        let error = Records::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains("ledger.db"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{sql}");
        let names: Vec<_> = directory.path().read_dir().unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        std::fs::remove_file(&path).unwrap();
    }
    // An empty file is nobody's.
    std::fs::write(&path, "").unwrap();
    Records::open(&path).unwrap();
    Records::open(&path).unwrap();
}

#[test]
fn names_that_mean_something_to_sqlite_are_files_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file:a?mode=memory");
    claim(&mut Records::open(&path).unwrap(), "job").unwrap();
    assert!(path.metadata().unwrap().len() > 0);
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is_at_every_page() {
    let directory = tempfile::tempdir().unwrap();
    let path = ledger(directory.path());
    let whole = std::fs::read(&path).unwrap();
    let pages = whole.len() as u64 / PAGE;
    assert!(pages > 8, "{pages}");
    let check = |what: &str| {
        let before = std::fs::read(&path).unwrap();
        let error = Records::open(&path).unwrap_err();
        let text = chain(&error);
        assert!(text.contains("ledger.db"), "{what}: {text}");
        assert!(text.contains("restore it"), "{what}: {text}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{what}");
    };
    for page in 0..pages {
        std::fs::write(&path, &whole).unwrap();
        overwrite(&path, page * PAGE, &[0x5a; 100]);
        check(&format!("page {page}"));
    }
    for pages in 1..pages {
        std::fs::write(&path, &whole[..(pages * PAGE) as usize]).unwrap();
        check(&format!("cut to {pages} pages"));
    }
    std::fs::write(&path, &whole).unwrap();
    Records::open(&path).unwrap();
}

#[test]
fn a_page_that_is_damaged_in_mid_run_is_an_error_and_over_when_it_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let path = ledger(directory.path());
    let mut records = Records::open(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    // As if memory had been short: the pages are read again.
    pragma(&records, "shrink_memory", 0);
    for page in 1..whole.len() as u64 / PAGE {
        overwrite(&path, page * PAGE, &[0x5a; 100]);
    }
    for _ in 0..2 {
        let error = claim(&mut records, "done").unwrap_err();
        assert!(chain(&error).contains("malformed"), "{error:?}");
    }
    std::fs::write(&path, &whole).unwrap();
    let done = records.claim("one", &key("done"), "shop", now(), now());
    assert!(matches!(done, Ok(Claim::Done { .. })), "{done:?}");
}

#[test]
fn half_a_binding_is_damage_and_never_no_binding() {
    let directory = tempfile::tempdir().unwrap();
    let path = ledger(directory.path());
    let mut records = Records::open(&path).unwrap();
    let half = "UPDATE jobs SET staging_id = 'E1' WHERE key = 'open 7'";
    Connection::open(&path).unwrap().execute(half, []).unwrap();
    let error = claim(&mut records, "open 7").unwrap_err();
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
}
