//! Files of other schemas.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    let place = Place::new();
    drop(place.open("one"));
    let database = Connection::open(place.path()).unwrap();
    database.pragma_update(None, "user_version", 7).unwrap();
    drop(database);
    let before = std::fs::read(place.path()).unwrap();
    let error =
        EmbeddedLedger::open(&place.path(), "two".to_owned(), place.clock.clone()).unwrap_err();
    assert!(matches!(
        error,
        LedgerError::Open(OpenError::NewerSchema {
            found: 7,
            known: 5,
            ..
        })
    ));
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_file_of_the_first_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    let place = Place::new();
    let ledger = place.open("one");
    let grant = place.grant(&ledger, "job/1").await;
    ledger
        .bind(&grant, &binding("EPROD"), &Notes::default())
        .await
        .unwrap();
    drop(ledger);
    let database = Connection::open(place.path()).unwrap();
    database
        .execute_batch(
            "ALTER TABLE jobs DROP COLUMN trail; ALTER TABLE jobs DROP COLUMN evidence;
             ALTER TABLE jobs DROP COLUMN changed; ALTER TABLE jobs DROP COLUMN asked;
             ALTER TABLE jobs DROP COLUMN last_receive; DROP TABLE notices; PRAGMA user_version = 1",
        )
        .unwrap();
    drop(database);

    // It can be read as it is, and is not a guest's to change.
    let records = EmbeddedLedger::history(&place.path(), &place.clock).unwrap();
    assert_eq!(records[0].execution_id(), "job");
    assert_eq!(records[0].production_id.as_deref(), Some("EPROD"));
    let guest = EmbeddedLedger::open_beside(&place.path(), "g", place.clock.clone());
    assert!(matches!(
        guest,
        Err(LedgerError::Open(OpenError::OlderSchema { found: 1, .. }))
    ));

    let ledger = place.open("two");
    let Claim::Granted {
        binding: kept,
        grant,
        past,
    } = place.claim(&ledger, "job/1").await
    else {
        panic!("not granted")
    };
    assert_eq!(kept, Some(binding("EPROD")));
    assert_eq!(past.notes, Notes::default());
    let mut notes = past.notes;
    notes.note(Note::Entry(Kind::Applied, "detach_policy"), place.soon());
    ledger.renew(&grant, place.soon(), &notes).await.unwrap();
    ledger.enqueue("id", "notice").await.unwrap();
    let records = EmbeddedLedger::history(&place.path(), &place.clock).unwrap();
    assert_eq!(records[0].steps(), 1);
}

/// Until the fifth schema, the trail alone said who asked.
#[tokio::test(start_paused = true)]
async fn a_file_of_the_fourth_schema_says_by_its_trails_who_asked() {
    let place = Place::new();
    let ledger = place.open("one");
    let about = |unasked, last_receive| About {
        execution_id: "execution".to_owned(),
        pipeline_arn: "arn:aws:codepipeline:eu-west-1:123456789012:shop".to_owned(),
        stage: "Approve".to_owned(),
        action: "Approve".to_owned(),
        target: "shop".to_owned(),
        comment: Some("\"quoted\"".to_owned()),
        rejected_at_ms: 1,
        unasked,
        last_receive,
    };
    let at = place.clock.now();
    let asked = |last_receive| {
        let at_ms = at.as_millisecond();
        Some(Asked {
            at_ms,
            last_receive,
        })
    };
    let cases = [
        ("last", Some(about(false, true)), asked(true)),
        ("asked", Some(about(false, false)), asked(false)),
        ("unasked", Some(about(true, false)), None),
        ("not begun", None, None),
    ];
    for (job, about, _) in &cases {
        let grant = place.grant(&ledger, job).await;
        let mut notes = Notes::default();
        if let Some(about) = about {
            notes.note(Note::Began(about.clone()), at);
        }
        ledger.release(&grant, "stopped", &notes).await.unwrap();
    }
    drop(ledger);
    let older = |sql: &str| {
        let database = Connection::open(place.path()).unwrap();
        database.execute_batch(sql).unwrap();
    };
    older(
        "ALTER TABLE jobs DROP COLUMN asked; ALTER TABLE jobs DROP COLUMN last_receive;
         INSERT INTO jobs (key, pipeline, state, owner, epoch, lease_until, first_seen, updated, trail)
         VALUES ('damaged', 'shop', 'open', '', 9, 0, 0, 0, '{no json'),
                ('without', 'shop', 'open', '', 9, 0, 0, 0, NULL);
         PRAGMA user_version = 4",
    );
    let ledger = place.open("two");
    let without = [("damaged", None, None), ("without", None, None)];
    for (job, _, expected) in cases.into_iter().chain(without) {
        let Claim::Granted { past, .. } = place.claim(&ledger, job).await else {
            panic!("not granted")
        };
        assert_eq!(past.notes.asked, expected, "{job}");
    }
}
