use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn about() -> About {
    About {
        execution_id: "e".to_owned(),
        pipeline_arn: "arn".to_owned(),
        stage: "s".to_owned(),
        action: "a".to_owned(),
        target: "{service}".to_owned(),
        comment: Some("no \"good\"\n".to_owned()),
        rejected_at_ms: 5,
        unasked: false,
        last_receive: false,
    }
}

#[test]
fn a_run_without_an_event_keeps_the_comment_of_the_one_before() {
    let mut trail = Trail::default();
    trail.note(Note::Began(about()), at(10));
    let resumed = About {
        comment: None,
        ..about()
    };
    trail.note(Note::Began(resumed), at(20));
    assert_eq!(trail.about.as_ref(), Some(&about()));
    let other = About {
        comment: Some("other".to_owned()),
        ..about()
    };
    trail.note(Note::Began(other.clone()), at(30));
    assert_eq!(trail.about, Some(other));
}

#[test]
fn a_trail_is_read_back_and_any_other_text_is_an_empty_one() {
    let mut trail = Trail::default();
    trail.note(Note::Began(about()), at(10));
    trail.note(Note::Entry(Kind::Applied, "detach_policy"), at(20));
    assert_eq!(Trail::read(&trail.text()), trail);
    let older = trail.text().replace("\"applied\"", "\"was_done\"");
    assert_eq!(Trail::read(&older).entries[1].kind, Kind::Found);
    for other in ["", "{}", "[1]", "{\"entries\": 7}"] {
        assert_eq!(Trail::read(other), Trail::default(), "{other}");
    }
}

#[test]
fn a_cause_is_news_once_for_a_job_and_its_kind_of_end_is_counted_once() {
    let mut trail = Trail::default();
    let failure = |trail: &Trail, reason| Trail::read(&trail.text()).told.failure(reason);
    assert_eq!(failure(&trail, "throttled"), News::First);
    trail.note(Note::Failed("throttled"), at(1));
    trail.note(Note::Entry(Kind::Ended, "shutting_down"), at(2));
    assert_eq!(failure(&trail, "throttled"), News::Known);
    assert_eq!(failure(&trail, "access_denied"), News::Another);
    assert_eq!(trail.told.refusal("policy_shared"), News::First);
    trail.note(Note::Refused("policy_shared"), at(3));
    assert_eq!(trail.told.refusal("policy_shared"), News::Known);
    let came = |reason| trail.told.outcome(reason);
    assert_eq!(came(Some("policy_shared")), "refused");
    assert_eq!(came(Some("throttled")), "failed");
    assert_eq!((came(Some("shutting_down")), came(None)), ("open", "open"));
    assert_eq!(trail.last_end(), Some("policy_shared"));
    trail.note(Note::Why("policy P lists others".to_owned()), at(3));
    let kept = Trail::read(&trail.text());
    assert_eq!(kept.why.as_deref(), Some("policy P lists others"));
    trail.note(Note::Entry(Kind::Ended, "shutting_down"), at(3));
    assert_eq!(trail.why, None);
    trail.note(Note::Refused("policy_shared"), at(3));
    // However long it goes on.
    for ms in 0..1000 {
        trail.note(Note::Entry(Kind::Applied, "detach_policy"), at(ms));
    }
    assert_eq!(failure(&trail, "throttled"), News::Known);
}

#[test]
fn a_trail_is_bounded_and_forgets_the_oldest() {
    let mut trail = Trail::default();
    for ms in 0..1000 {
        trail.note(Note::Entry(Kind::Applied, "detach_policy"), at(ms));
    }
    assert_eq!(trail.entries.len(), MAX_ENTRIES);
    assert_eq!(trail.entries.last().unwrap().at_ms, 999);
    assert_eq!(trail.dropped, 1000 - MAX_ENTRIES as u64);
}

fn record(key: &str, state: State, updated: i64) -> Record {
    let mut trail = Trail::default();
    trail.note(Note::Began(about()), at(10));
    trail.note(Note::Entry(Kind::Waiting, "delay"), at(20));
    Record {
        key: JobKey::from(key.to_owned()),
        pipeline: "shop".to_owned(),
        state,
        first_seen: at(10),
        updated: at(updated),
        production_id: None,
        staging_id: None,
        policy_id: None,
        evidence: Evidence::default(),
        trail,
    }
}

#[test]
fn a_wait_goes_on_while_the_job_is_worked_on_and_no_longer() {
    let working = record("e/1", State::Working, 30);
    assert_eq!(working.waits_for().as_deref(), Some("delay"));
    let killed = record("e/1", State::Open(None), 30);
    assert_eq!(killed.waits_for(), None);
    let wait = &killed.spans()[1];
    assert_eq!((wait.until_ms, wait.cut), (Some(30), true));
}

#[test]
fn a_job_that_was_held_and_then_only_observed_ends_as_observed_and_stays_open() {
    let held = record("e/1", State::Open(Some("shutting_down".to_owned())), 30);
    let seen = record("e/1/observe", State::Done(Outcome::Observed), 40);
    let mut records = [held.clone(), seen.clone()];
    end_observed(&mut records);
    assert_eq!(records[0].state, State::Open(Some("observed".to_owned())));
    assert_eq!(records[1], seen);
    // Begun again since, or changed something: it goes on.
    let mut again = held.clone();
    again.updated = at(50);
    let mut changed = held;
    changed.evidence.changed = true;
    for goes_on in [again, changed] {
        let mut records = [goes_on.clone(), seen.clone()];
        end_observed(&mut records);
        assert_eq!(records[0], goes_on);
    }
}

#[test]
fn a_wait_is_a_span_and_what_was_cut_off_says_so() {
    let mut trail = Trail::default();
    let entry = |trail: &mut Trail, kind, name, ms| trail.note(Note::Entry(kind, name), at(ms));
    trail.note(Note::Began(about()), at(0));
    entry(&mut trail, Kind::Waiting, "detach_propagated", 10);
    // A crash; then the next run.
    trail.note(Note::Began(about()), at(100));
    entry(&mut trail, Kind::Waiting, "detach_propagated", 110);
    entry(&mut trail, Kind::Waited, "detach_propagated", 150);
    entry(&mut trail, Kind::Waiting, "disable_propagated", 160);
    let waits: Vec<_> = trail
        .spans()
        .into_iter()
        .filter(|span| span.kind == Kind::Waiting)
        .map(|span| (span.from_ms, span.until_ms, span.cut))
        .collect();
    assert_eq!(
        waits,
        [
            (10, Some(100), true),
            (110, Some(150), false),
            (160, None, false)
        ]
    );
}

#[test]
fn who_asked_is_told_by_the_trail_where_that_is_newer_than_what_stands_beside_it() {
    let noted = |unasked, last_receive, at_ms| {
        let about = About {
            execution_id: "execution".to_owned(),
            pipeline_arn: String::new(),
            stage: String::new(),
            action: String::new(),
            target: String::new(),
            comment: None,
            rejected_at_ms: 1,
            unasked,
            last_receive,
        };
        let mut notes = Notes::default();
        let at = Timestamp::from_millisecond(at_ms).unwrap();
        notes.note(Note::Began(about), at);
        notes
    };
    let all = [
        noted(false, false, 10),
        noted(false, true, 20),
        noted(true, false, 30),
    ];
    for newest in &all {
        for beside in &all {
            // One that is written with the trail, or before it.
            let is_older = beside.trail.entries[0].at_ms <= newest.trail.entries[0].at_ms;
            if is_older {
                let kept = Notes::kept(newest.trail.clone(), beside.asked);
                assert_eq!(kept, *newest);
            }
        }
    }
    // What is no entry of the trail moves the time beside it alone.
    let mut notes = all[0].clone();
    let later = Timestamp::from_millisecond(15).unwrap();
    notes.note(Note::Why("words".to_owned()), later);
    assert_eq!(Notes::kept(notes.trail.clone(), notes.asked), notes);
}
