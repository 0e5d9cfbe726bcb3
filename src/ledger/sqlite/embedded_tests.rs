use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::domain::history::{About, Asked, Kind, Note, State};

#[path = "embedded_schema_tests.rs"]
mod schemas;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory for one ledger, and the time.
struct Place {
    directory: TempDir,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap()),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    fn open(&self, owner: &str) -> EmbeddedLedger {
        EmbeddedLedger::open(&self.path(), owner.to_owned(), self.clock.clone()).unwrap()
    }

    fn soon(&self) -> Timestamp {
        self.clock.now().checked_add(2 * MINUTE).unwrap()
    }

    async fn claim(&self, ledger: &EmbeddedLedger, job: &str) -> Claim {
        let key = key(job);
        ledger.claim(&key, "shop", self.soon()).await.unwrap()
    }

    async fn grant(&self, ledger: &EmbeddedLedger, job: &str) -> Grant {
        match self.claim(ledger, job).await {
            Claim::Granted { grant, .. } => grant,
            other => panic!("{other:?}"),
        }
    }
}

fn key(job: &str) -> JobKey {
    JobKey::from(job.to_owned())
}

fn binding(production: &str) -> Binding {
    Binding {
        production_id: production.to_owned(),
        staging_id: "ESTAGING222222".to_owned(),
        staging_domain: Some("d222.cloudfront.net".to_owned()),
        policy_id: None,
        overwriting: None,
        evidence: Default::default(),
    }
}

fn not_owner<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> bool {
    matches!(result, Err(LedgerError::NotOwner { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_job_is_claimed_bound_renewed_and_done_and_stays_done_through_a_reopen() {
    let place = Place::new();
    let ledger = place.open("one");
    let grant = place.grant(&ledger, "job").await;
    assert_eq!((&*grant.owner, grant.epoch), ("one", 1));
    let bound = ledger
        .bind(&grant, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    assert_eq!(bound, Bound::Bound);
    ledger
        .renew(&grant, place.soon(), &Notes::default())
        .await
        .unwrap();
    ledger
        .complete(&grant, Outcome::Superseded, &Notes::default())
        .await
        .unwrap();
    // The answer to the first call may have been lost: the second one changes nothing.
    ledger
        .complete(&grant, Outcome::Superseded, &Notes::default())
        .await
        .unwrap();
    ledger
        .release(&grant, "too late", &Notes::default())
        .await
        .unwrap();
    assert!(not_owner(
        ledger.renew(&grant, place.soon(), &Notes::default()).await
    ));

    let done = Claim::Done {
        outcome: Outcome::Superseded,
    };
    assert_eq!(place.claim(&ledger, "job").await, done);
    drop(ledger);
    let ledger = place.open("two");
    assert_eq!(place.claim(&ledger, "job").await, done);
}

#[tokio::test(start_paused = true)]
async fn a_late_holder_can_neither_bind_nor_renew_nor_complete_nor_release() {
    let place = Place::new();
    let ledger = place.open("one");
    let late = place.grant(&ledger, "job").await;
    let newer = place.grant(&ledger, "job").await;
    assert!(not_owner(
        ledger
            .bind(&late, &binding("EPROD"), &Notes::default())
            .await
    ));
    assert!(not_owner(
        ledger.renew(&late, place.soon(), &Notes::default()).await
    ));
    assert!(not_owner(
        ledger
            .complete(&late, Outcome::Cleaned, &Notes::default())
            .await
    ));
    ledger
        .release(&late, "late", &Notes::default())
        .await
        .unwrap();

    // Nothing of it left a trace: the newer grant stands, unbound and leased.
    let stranger = Grant {
        owner: "someone else".to_owned(),
        ..newer.clone()
    };
    assert!(not_owner(
        ledger
            .complete(&stranger, Outcome::Cleaned, &Notes::default())
            .await
    ));
    assert!(not_owner(
        ledger
            .renew(&stranger, place.soon(), &Notes::default())
            .await
    ));
    let database = Connection::open(place.path()).unwrap();
    let (production, until) = database
        .query_row(
            "SELECT production_id, lease_until FROM jobs WHERE key = ?1",
            [newer.key.as_str()],
            |row| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, i64>(1)?)),
        )
        .unwrap();
    assert_eq!((production, until), (None, place.soon().as_millisecond()));

    // Not even while another job has the production distribution.
    let other = place.grant(&ledger, "other job").await;
    ledger
        .bind(&other, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    assert!(not_owner(
        ledger
            .bind(&late, &binding("EPROD"), &Notes::default())
            .await
    ));
}

#[tokio::test(start_paused = true)]
async fn a_killed_owners_lease_ends_when_the_ledger_is_opened_again() {
    let place = Place::new();
    let ledger = place.open("killed");
    let dead = place.grant(&ledger, "job").await;
    ledger
        .bind(&dead, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    drop(ledger);

    let ledger = place.open("heir");
    // The production distribution is free again as well.
    let other = place.grant(&ledger, "other job").await;
    let bound = ledger
        .bind(&other, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    assert_eq!(bound, Bound::Bound);
    let Claim::Granted {
        grant,
        binding: kept,
        ..
    } = place.claim(&ledger, "job").await
    else {
        panic!("not granted")
    };
    assert_eq!(&*grant.owner, "heir");
    assert!(grant.epoch > dead.epoch);
    assert_eq!(kept, Some(binding("EPROD")));
    assert!(not_owner(
        ledger
            .complete(&dead, Outcome::Cleaned, &Notes::default())
            .await
    ));
}

#[tokio::test(start_paused = true)]
async fn done_jobs_are_kept_for_15_days_and_open_ones_for_30() {
    let place = Place::new();
    let ledger = place.open("one");
    let done = place.grant(&ledger, "done").await;
    ledger
        .complete(&done, Outcome::Cleaned, &Notes::default())
        .await
        .unwrap();
    let abandoned = place.grant(&ledger, "abandoned").await;
    ledger
        .bind(&abandoned, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    ledger
        .release(&abandoned, "unavailable", &Notes::default())
        .await
        .unwrap();
    let working = place.grant(&ledger, "working").await;
    let far = place.clock.now().checked_add(60 * DAY).unwrap();
    ledger
        .renew(&working, far, &Notes::default())
        .await
        .unwrap();

    tokio::time::advance(15 * DAY).await;
    assert_eq!(ledger.prune().await.unwrap(), 0);
    assert!(matches!(
        place.claim(&ledger, "done").await,
        Claim::Done { .. }
    ));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(ledger.prune().await.unwrap(), 1);
    let again = place.grant(&ledger, "done").await;
    assert!(again.epoch > done.epoch, "no earlier grant is like it");

    // What was not finished is remembered for longer: its message may come back late.
    let claim = place.claim(&ledger, "abandoned").await;
    assert!(matches!(
        claim,
        Claim::Granted {
            binding: Some(_),
            ..
        }
    ));
    tokio::time::advance(30 * DAY).await;
    assert_eq!(ledger.prune().await.unwrap(), 0);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(ledger.prune().await.unwrap(), 2);
    // What is leased is worked on, however old.
    ledger
        .renew(&working, far, &Notes::default())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_opener_is_told_that_the_file_is_in_use() {
    let place = Place::new();
    let ledger = place.open("one");
    let grant = place.grant(&ledger, "job").await;
    let second = EmbeddedLedger::open(&place.path(), "two".to_owned(), place.clock.clone());
    let error = second.unwrap_err();
    assert!(matches!(error, LedgerError::Open(OpenError::InUse { .. })));
    assert!(error.to_string().contains("ledger.db"), "{error}");
    // And has ended nobody's lease.
    ledger
        .renew(&grant, place.soon(), &Notes::default())
        .await
        .unwrap();
    drop(ledger);
    place.open("two");
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_is_history_from_the_next_change_on() {
    let place = Place::new();
    let ledger = place.open("one");
    let steps = || {
        let records = EmbeddedLedger::history(&place.path(), &place.clock).unwrap();
        (records[0].steps(), records[0].state.clone())
    };
    let first = place.grant(&ledger, "job").await;
    let mut notes = Notes::default();
    notes.note(
        Note::Entry(Kind::Applied, "detach_policy"),
        place.clock.now(),
    );
    assert_eq!(steps(), (0, State::Working));
    ledger.release(&first, "throttled", &notes).await.unwrap();
    assert_eq!(steps(), (1, State::Open(Some("throttled".to_owned()))));

    let second = place.grant(&ledger, "job").await;
    notes.note(
        Note::Entry(Kind::Applied, "disable_staging"),
        place.clock.now(),
    );
    ledger
        .complete(&second, Outcome::Cleaned, &notes)
        .await
        .unwrap();
    assert_eq!(steps(), (2, State::Done(Outcome::Cleaned)));
}

#[tokio::test(start_paused = true)]
async fn a_guest_shares_the_file_with_its_holder_by_the_same_rules() {
    let place = Place::new();
    let guest =
        |name: &str| EmbeddedLedger::open_beside(&place.path(), name, place.clock.clone()).unwrap();
    let daemon = place.open("daemon");
    let held = place.grant(&daemon, "job").await;
    daemon
        .bind(&held, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();

    // It ends no lease of the holder, and has to wait for the production distribution.
    let one = guest("one");
    daemon
        .renew(&held, place.soon(), &Notes::default())
        .await
        .unwrap();
    assert!(matches!(
        place.claim(&one, "job").await,
        Claim::Leased { .. }
    ));
    let mine = place.grant(&one, "manual").await;
    let busy = one
        .bind(&mine, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    assert!(matches!(busy, Bound::ProductionBusy { .. }));
    daemon
        .complete(&held, Outcome::Cleaned, &Notes::default())
        .await
        .unwrap();
    let bound = one
        .bind(&mine, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    assert_eq!(bound, Bound::Bound);

    // A daemon that starts, and another guest, leave a live guest's lease alone.
    drop(daemon);
    let daemon = place.open("next");
    let two = guest("two");
    one.renew(&mine, place.soon(), &Notes::default())
        .await
        .unwrap();
    let next = place.grant(&daemon, "next job").await;
    let busy = daemon
        .bind(&next, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    assert!(matches!(busy, Bound::ProductionBusy { .. }));
    assert!(matches!(
        place.claim(&two, "manual").await,
        Claim::Leased { .. }
    ));

    // The next guest ends a dead one's, and not the daemon's.
    drop((one, two));
    let three = guest("three");
    place.grant(&three, "manual").await;
    daemon
        .renew(&next, place.soon(), &Notes::default())
        .await
        .unwrap();

    // And so does the next daemon.
    let lost = place.grant(&three, "other").await;
    drop((three, daemon));
    let daemon = place.open("last");
    assert!(not_owner(
        daemon.renew(&lost, place.soon(), &Notes::default()).await
    ));
}

fn open_error(path: &Path) -> String {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let error = EmbeddedLedger::open(path, "one".to_owned(), clock).unwrap_err();
    crate::telemetry::chain(&error)
}

#[tokio::test(start_paused = true)]
async fn what_is_no_ledger_is_named_and_left_untouched() {
    let place = Place::new();
    for content in [
        b"not a database, but a text of more than one hundred bytes: ".repeat(3),
        b"SQLite format 3\0 and then nothing that makes sense".repeat(30),
    ] {
        std::fs::write(place.path(), &content).unwrap();
        let error = open_error(&place.path());
        assert!(error.contains("ledger.db"), "{error}");
        assert!(
            error.contains("not a database") || error.contains("malformed"),
            "{error}"
        );
        assert_eq!(std::fs::read(place.path()).unwrap(), content);
    }
    // A directory in its place, and a file in the place of its directory.
    let directory = place.directory.path().join("directory.db");
    std::fs::create_dir(&directory).unwrap();
    let error = open_error(&directory);
    assert!(error.contains("directory.db"), "{error}");
    let error = open_error(&place.path().join("below").join("ledger.db"));
    assert!(error.contains("below"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn while_it_cannot_be_written_nothing_is_granted_and_check_says_so() {
    let place = Place::new();
    let ledger = place.open("one");
    ledger.check().await.unwrap();
    let grant = place.grant(&ledger, "job").await;
    let query_only = |on: bool| {
        let records = ledger.opened.records.lock();
        records
            .database()
            .pragma_update(None, "query_only", on)
            .unwrap();
    };
    query_only(true);
    let failed = |result: Result<(), LedgerError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, LedgerError::Failing { .. }), "{error:?}");
        let text = crate::telemetry::chain(&error);
        assert!(text.contains("readonly"), "{text}");
    };
    failed(ledger.check().await);
    let claim = ledger.claim(&key("new"), "shop", place.soon()).await;
    failed(claim.map(|_| ()));
    failed(
        ledger
            .complete(&grant, Outcome::Cleaned, &Notes::default())
            .await,
    );
    query_only(false);
    ledger.check().await.unwrap();
    ledger
        .complete(&grant, Outcome::Cleaned, &Notes::default())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_is_an_error_and_never_a_grant() {
    let place = Place::new();
    let ledger = place.open("one");
    let grant = place.grant(&ledger, "job").await;
    ledger
        .complete(&grant, Outcome::Cleaned, &Notes::default())
        .await
        .unwrap();
    for outcome in ["NULL", "'unheard_of'"] {
        Connection::open(place.path())
            .unwrap()
            .execute(&format!("UPDATE jobs SET outcome = {outcome}"), [])
            .unwrap();
        let claim = ledger.claim(&key("job"), "shop", place.soon()).await;
        assert!(matches!(claim, Err(LedgerError::Damaged { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_removed_or_replaced_in_mid_run_is_not_written_to_any_more() {
    let place = Place::new();
    let ledger = place.open("one");
    let grant = place.grant(&ledger, "job").await;
    let aside = place.directory.path().join("aside");
    let replaced = |result: Result<(), LedgerError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, LedgerError::Replaced { .. }), "{error:?}");
        assert!(error.to_string().contains("ledger.db"), "{error}");
    };
    std::fs::rename(place.path(), &aside).unwrap();
    replaced(ledger.check().await);
    replaced(
        ledger
            .complete(&grant, Outcome::Cleaned, &Notes::default())
            .await,
    );
    std::fs::copy(&aside, place.path()).unwrap();
    replaced(ledger.check().await);

    std::fs::rename(&aside, place.path()).unwrap();
    ledger.check().await.unwrap();
    ledger
        .complete(&grant, Outcome::Cleaned, &Notes::default())
        .await
        .unwrap();
}

/// Dropping a task in the middle of a call does not end the call.
#[tokio::test(start_paused = true)]
async fn the_file_stays_locked_while_a_call_to_a_dropped_ledger_goes_on() {
    let place = Place::new();
    let ledger = place.open("one");
    let mut reader = Connection::open(place.path()).unwrap();
    let held = reader
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    // Begun, and dropped: it waits for the other program's lock.
    let begun = tokio::time::timeout(Duration::ZERO, ledger.check()).await;
    assert!(begun.is_err());
    drop(ledger);
    let open = || EmbeddedLedger::open(&place.path(), "two".to_owned(), place.clock.clone());
    assert!(matches!(
        open(),
        Err(LedgerError::Open(OpenError::InUse { .. }))
    ));
    held.rollback().unwrap();
    let second = loop {
        match open() {
            Err(LedgerError::Open(OpenError::InUse { .. })) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    second.check().await.unwrap();
}
