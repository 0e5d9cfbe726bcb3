use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_788_445_268 + seconds).unwrap()
}

fn key(job: &str) -> JobKey {
    JobKey::from(job.to_owned())
}

fn binding(staging: &str) -> Binding {
    Binding {
        production_id: "EPROD".to_owned(),
        staging_id: staging.to_owned(),
        staging_domain: None,
        policy_id: None,
        overwriting: None,
        evidence: Default::default(),
    }
}

/// Claims a job for two minutes from then on.
fn grant(records: &mut Records, owner: &str, job: &str, now: i64) -> Grant {
    match records.claim(owner, &key(job), "shop", at(now), at(now + 120)) {
        Ok(Claim::Granted { grant, .. }) => grant,
        other => panic!("{other:?}"),
    }
}

fn not_owner<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> bool {
    matches!(result, Err(LedgerError::NotOwner { .. }))
}

/// Two rejections of one service after a restart: each was bound before, and both are claimed. The
/// one whose turn it is must not be sent away by the other, which waits for its own.
#[test]
fn a_job_that_was_bound_once_and_is_only_claimed_holds_no_production_distribution() {
    let mut records = Records::in_memory().unwrap();
    for (job, now) in [("first", 0), ("second", 1)] {
        let grant = grant(&mut records, "dead", job, now);
        records
            .bind(&grant, &binding(job), &Notes::default(), at(now))
            .unwrap();
        records
            .release(&grant, "unavailable", &Notes::default(), at(now))
            .unwrap();
    }
    let first = grant(&mut records, "one", "first", 10);
    let second = grant(&mut records, "one", "second", 10);
    let bound = records
        .bind(&first, &binding("first"), &Notes::default(), at(11))
        .unwrap();
    assert_eq!(bound, Bound::Bound);
    let busy = records
        .bind(&second, &binding("second"), &Notes::default(), at(11))
        .unwrap();
    assert_eq!(busy, Bound::ProductionBusy { until: at(130) });
}

#[test]
fn a_holder_whose_lease_ended_is_void_once_another_job_has_its_production_distribution() {
    let mut records = Records::in_memory().unwrap();
    let late = grant(&mut records, "one", "late", 0);
    records
        .bind(&late, &binding("late"), &Notes::default(), at(0))
        .unwrap();
    let next = grant(&mut records, "two", "next", 120);
    let bound = records
        .bind(&next, &binding("next"), &Notes::default(), at(120))
        .unwrap();
    assert_eq!(bound, Bound::Bound);

    assert!(not_owner(records.renew(
        &late,
        at(121),
        at(241),
        &Notes::default()
    )));
    assert!(not_owner(records.bind(
        &late,
        &binding("late"),
        &Notes::default(),
        at(121)
    )));
    assert!(not_owner(records.complete(
        &late,
        Outcome::Cleaned,
        &Notes::default(),
        at(121)
    )));
    records
        .renew(&next, at(122), at(242), &Notes::default())
        .unwrap();
}

#[test]
fn a_lease_that_ended_and_that_nobody_took_can_be_renewed() {
    let mut records = Records::in_memory().unwrap();
    let late = grant(&mut records, "one", "late", 0);
    records
        .bind(&late, &binding("late"), &Notes::default(), at(0))
        .unwrap();
    records
        .renew(&late, at(500), at(620), &Notes::default())
        .unwrap();
    let next = grant(&mut records, "two", "next", 501);
    let busy = records
        .bind(&next, &binding("next"), &Notes::default(), at(501))
        .unwrap();
    assert_eq!(busy, Bound::ProductionBusy { until: at(620) });
}

/// A renewal whose caller was dropped goes on in its thread, and may come in last.
#[test]
fn a_renewal_that_comes_in_after_the_release_takes_nothing_back() {
    let mut records = Records::in_memory().unwrap();
    let released = grant(&mut records, "one", "job", 0);
    records
        .bind(&released, &binding("job"), &Notes::default(), at(0))
        .unwrap();
    records
        .release(&released, "stopped", &Notes::default(), at(1))
        .unwrap();
    assert!(not_owner(records.renew(
        &released,
        at(1),
        at(121),
        &Notes::default()
    )));
    grant(&mut records, "two", "job", 2);
    // Nor after a restart has ended it.
    let ended = grant(&mut records, "two", "other", 2);
    records.end_leases().unwrap();
    assert!(not_owner(records.renew(
        &ended,
        at(3),
        at(123),
        &Notes::default()
    )));
}

#[test]
fn a_binding_is_for_good() {
    let mut records = Records::in_memory().unwrap();
    let first = grant(&mut records, "one", "job", 0);
    records
        .bind(&first, &binding("ours"), &Notes::default(), at(0))
        .unwrap();
    let other = records.bind(&first, &binding("theirs"), &Notes::default(), at(1));
    assert!(matches!(other, Err(LedgerError::BoundOtherwise { .. })));
    // What was not known at first may be added.
    let complete = Binding {
        policy_id: Some("policy".to_owned()),
        ..binding("ours")
    };
    records
        .bind(&first, &complete, &Notes::default(), at(1))
        .unwrap();
    let claim = records.claim("one", &key("job"), "shop", at(2), at(122));
    assert!(matches!(claim, Ok(Claim::Granted { binding, .. }) if binding == Some(complete)));
}

/// The clock was set forward by a month while a job was running, and the ledger was pruned.
#[test]
fn a_grant_of_a_record_that_was_pruned_is_void_for_ever() {
    const MONTH: i64 = 31 * 24 * 60 * 60;
    let mut records = Records::in_memory().unwrap();
    let old = grant(&mut records, "one", "job", 0);
    assert_eq!(records.prune(at(MONTH)).unwrap(), 1);
    assert!(not_owner(records.renew(
        &old,
        at(MONTH),
        at(MONTH + 120),
        &Notes::default()
    )));
    let new = grant(&mut records, "one", "job", 1);
    assert!(not_owner(records.complete(
        &old,
        Outcome::Cleaned,
        &Notes::default(),
        at(2)
    )));
    records
        .complete(&new, Outcome::Cleaned, &Notes::default(), at(2))
        .unwrap();
}

#[test]
fn only_what_is_done_is_named_as_done() {
    let mut records = Records::in_memory().unwrap();
    let done = grant(&mut records, "me", "done", 0);
    records
        .complete(&done, Outcome::Cleaned, &Notes::default(), at(1))
        .unwrap();
    grant(&mut records, "me", "open", 0);
    let asked = [key("done"), key("open"), key("unknown")];
    assert_eq!(records.done(&asked).unwrap(), [key("done")].into());
}

#[test]
fn the_leases_of_holders_end_and_those_of_guests_go_on() {
    let mut records = Records::in_memory().unwrap();
    let guest = grant(&mut records, &format!("{GUEST}one"), "guests", 0);
    let holder = grant(&mut records, "one", "holders", 0);
    records.end_leases_of_holders().unwrap();
    assert!(not_owner(records.renew(
        &holder,
        at(1),
        at(121),
        &Notes::default()
    )));
    records
        .renew(&guest, at(1), at(121), &Notes::default())
        .unwrap();
}
