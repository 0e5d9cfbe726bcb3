//! What every ledger must do.

use std::time::Duration;

use stagesweep::domain::binding::{Binding, Evidence, Staged, Subject};
use stagesweep::domain::decision::Outcome;
use stagesweep::domain::history::{About, Kind, Note, Notes};
use stagesweep::ledger::{Bound, Claim, LedgerError, RETENTION, Unfinished};
use stagesweep::notify::Notice;

use super::{Instance, MARGIN, NOTHING, Place, binding, not_owner};

pub(crate) async fn a_job_is_granted_to_one_at_a_time(place: &impl Place) {
    let (one, two) = place.two().await;
    let grant = one.grant("job").await;
    match two.claim("job").await {
        Claim::Leased { until } => two.is_end_of_lease(until),
        other => panic!("{other:?}"),
    }
    // Its own may be claimed again, which voids the grant it had.
    let again = one.grant("job").await;
    assert!(again.epoch > grant.epoch);
    assert!(not_owner(one.renew(&grant).await));
    one.renew(&again).await.unwrap();
    one.ledger
        .release(&again, "stopped", &NOTHING)
        .await
        .unwrap();
    assert!(not_owner(one.renew(&again).await));
    let next = two.grant("job").await;
    assert!(next.epoch > again.epoch);
    // A void grant is given back in vain.
    one.ledger
        .release(&again, "stopped", &NOTHING)
        .await
        .unwrap();
    two.renew(&next).await.unwrap();
}

pub(crate) async fn a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends(place: &impl Place) {
    let (one, two) = place.two().await;
    let grant = one.grant("job").await;
    for _ in 0..3 {
        place.pass(place.lease() * 3 / 4).await;
        one.renew(&grant).await.unwrap();
        assert!(matches!(two.claim("job").await, Claim::Leased { .. }));
    }
    place.pass(place.lease() - place.slack()).await;
    assert!(matches!(two.claim("job").await, Claim::Leased { .. }));
    place.pass(MARGIN + 2 * place.slack()).await;
    let taken = two.grant("job").await;
    assert!(taken.epoch > grant.epoch);
    assert!(not_owner(one.renew(&grant).await));
    assert!(not_owner(
        one.ledger
            .complete(&grant, Outcome::Cleaned, &NOTHING)
            .await
    ));
    assert!(not_owner(
        one.ledger.bind(&grant, &binding("EPROD"), &NOTHING).await
    ));
}

pub(crate) async fn what_is_done_stays_done(place: &impl Place) {
    let (one, two) = place.two().await;
    let grant = one.bound("job", "EPROD").await;
    let complete = || one.ledger.complete(&grant, Outcome::Superseded, &NOTHING);
    complete().await.unwrap();
    // The answer may have been lost.
    complete().await.unwrap();
    for instance in [&one, &two] {
        let outcome = Outcome::Superseded;
        assert_eq!(instance.claim("job").await, Claim::Done { outcome });
    }
    assert!(not_owner(one.renew(&grant).await));
    if place.is_virtual() {
        place.pass(RETENTION - Duration::from_secs(60)).await;
    }
    two.ledger.prune().await.unwrap();
    assert!(matches!(two.claim("job").await, Claim::Done { .. }));
}

pub(crate) async fn a_binding_is_for_good(place: &impl Place) {
    let (one, two) = place.two().await;
    let grant = one.bound("job", "EPROD").await;
    let complete = Binding {
        policy_id: Some("policy".to_owned()),
        overwriting: Some(7),
        ..binding("EPROD")
    };
    one.ledger.bind(&grant, &complete, &NOTHING).await.unwrap();
    let elsewhere = one.ledger.bind(&grant, &binding("EOTHER"), &NOTHING).await;
    assert!(matches!(
        elsewhere.unwrap_err(),
        LedgerError::BoundOtherwise { .. }
    ));
    place.pass(place.lease() + MARGIN + place.slack()).await;
    match two.claim("job").await {
        Claim::Granted { binding, .. } => assert_eq!(binding, Some(complete)),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_production_distribution_is_held_by_one_job_at_a_time(place: &impl Place) {
    let (one, two) = place.two().await;
    let holder = one.bound("first", "EPROD").await;
    let waiting = two.grant("second").await;
    match two.bind(&waiting, "EPROD").await {
        Bound::ProductionBusy { until } => two.is_end_of_lease(until),
        Bound::Bound => panic!("both hold it"),
    }
    // Another one is free, and bound again by the same job.
    let third = two.bound("third", "EOTHER").await;
    assert_eq!(two.bind(&third, "EOTHER").await, Bound::Bound);

    one.ledger
        .complete(&holder, Outcome::Cleaned, &NOTHING)
        .await
        .unwrap();
    assert_eq!(two.bind(&waiting, "EPROD").await, Bound::Bound);
    two.ledger
        .release(&waiting, "stopped", &NOTHING)
        .await
        .unwrap();
    one.bound("fourth", "EPROD").await;
}

pub(crate) async fn a_dead_holders_production_distribution_is_taken_and_its_grant_is_void(
    place: &impl Place,
) {
    let (one, two) = place.two().await;
    let dead = one.bound("first", "EPROD").await;
    place.pass(place.lease() / 2).await;
    let second = two.grant("second").await;
    assert_ne!(two.bind(&second, "EPROD").await, Bound::Bound);
    place.pass(place.lease() / 2 + MARGIN + place.slack()).await;
    assert_eq!(two.bind(&second, "EPROD").await, Bound::Bound);
    assert!(not_owner(one.renew(&dead).await));
    assert!(not_owner(
        one.ledger.bind(&dead, &binding("EPROD"), &NOTHING).await
    ));
    // Claimed anew it waits its turn.
    let again = one.grant("first").await;
    assert_ne!(one.bind(&again, "EPROD").await, Bound::Bound);
    two.renew(&second).await.unwrap();
}

pub(crate) async fn a_job_that_is_claimed_again_holds_nothing_until_it_is_bound_again(
    place: &impl Place,
) {
    let (one, two) = place.two().await;
    one.bound("first", "EPROD").await;
    let again = one.grant("first").await;
    let second = two.bound("second", "EPROD").await;
    assert_ne!(one.bind(&again, "EPROD").await, Bound::Bound);
    two.ledger
        .complete(&second, Outcome::Cleaned, &NOTHING)
        .await
        .unwrap();
    assert_eq!(one.bind(&again, "EPROD").await, Bound::Bound);
}

pub(crate) async fn of_many_who_ask_at_once_one_is_granted(place: &impl Place) {
    let mut instances = Vec::new();
    for number in 0..8 {
        let owner = number.to_string();
        instances.push(place.instance(&owner, i64::from(number) - 4).await);
    }
    let claims = instances.iter().map(|it| it.claim("job"));
    let claims = futures_util::future::join_all(claims).await;
    let granted = |claim: &&Claim| matches!(claim, Claim::Granted { .. });
    assert_eq!(claims.iter().filter(granted).count(), 1, "{claims:?}");

    let mut grants = Vec::new();
    for (number, instance) in instances.iter().enumerate() {
        grants.push(instance.grant(&format!("job {number}")).await);
    }
    let binds = instances.iter().zip(&grants);
    let binds = binds.map(|(instance, grant)| instance.bind(grant, "EPROD"));
    let binds = futures_util::future::join_all(binds).await;
    let bound = |bound: &&Bound| **bound == Bound::Bound;
    assert_eq!(binds.iter().filter(bound).count(), 1, "{binds:?}");
}

pub(crate) async fn a_notice_is_kept_until_it_is_acknowledged_and_not_without_a_bound(
    place: &impl Place,
) {
    let (one, two) = place.two().await;
    let (one, two) = (one.ledger, two.ledger);
    let notice = |id: &str| {
        let notice = Notice {
            id: id.to_owned(),
            resources: Vec::new(),
            detail: "{}".to_owned(),
        };
        serde_json::to_string(&notice).unwrap()
    };
    assert_eq!(two.pending().await.unwrap(), [""; 0]);
    two.acknowledge(&["nobody".to_owned()]).await.unwrap();
    let long = "an/id with (other) characters/".repeat(20);
    one.enqueue(&long, &notice(&long)).await.unwrap();
    place.pass(Duration::from_secs(1)).await;
    two.enqueue("second", &notice("second")).await.unwrap();
    // Once more the same.
    one.enqueue("second", &notice("second")).await.unwrap();
    let both = [notice(&long), notice("second")];
    assert_eq!(one.pending().await.unwrap(), both);
    two.acknowledge(&[long, "nobody".to_owned()]).await.unwrap();
    assert_eq!(one.pending().await.unwrap(), both[1..]);

    let count = if place.is_virtual() { 1100 } else { 110 };
    for n in 0..count {
        if place.is_virtual() {
            place.pass(Duration::from_millis(1)).await;
        }
        let id = n.to_string();
        one.enqueue(&id, &notice(&id)).await.unwrap();
    }
    let pending = two.pending().await.unwrap();
    assert!([100, 1000].contains(&pending.len()), "{}", pending.len());
    assert!(pending.contains(&notice(&(count - 1).to_string())));
    let all: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    two.acknowledge(&all).await.unwrap();
    assert!(one.pending().await.unwrap().len() <= 1);
}

pub(crate) async fn who_waits_gives_the_production_distribution_back_and_keeps_the_grant(
    place: &impl Place,
) {
    let (one, two) = place.two().await;
    let first = one.bound("first", "EPROD").await;
    let second = two.grant("second").await;
    assert_ne!(two.bind(&second, "EPROD").await, Bound::Bound);
    one.ledger.yield_production(&first, &NOTHING).await.unwrap();
    // Nothing is left to give back.
    one.ledger.yield_production(&first, &NOTHING).await.unwrap();
    assert_eq!(two.bind(&second, "EPROD").await, Bound::Bound);
    // The grant goes on, and what it is bound to stands.
    one.renew(&first).await.unwrap();
    assert!(matches!(two.claim("first").await, Claim::Leased { .. }));
    match one.bind(&first, "EPROD").await {
        Bound::ProductionBusy { until } => one.is_end_of_lease(until),
        Bound::Bound => panic!("both hold it"),
    }
    // Nobody gives back what another one holds.
    one.ledger.yield_production(&first, &NOTHING).await.unwrap();
    assert_ne!(one.bind(&first, "EPROD").await, Bound::Bound);
    two.ledger
        .complete(&second, Outcome::Cleaned, &NOTHING)
        .await
        .unwrap();
    assert_eq!(one.bind(&first, "EPROD").await, Bound::Bound);

    // A void grant gives nothing back, and that is no error.
    let again = one.bound("first", "EPROD").await;
    one.ledger.yield_production(&first, &NOTHING).await.unwrap();
    let third = two.grant("third").await;
    assert_ne!(two.bind(&third, "EPROD").await, Bound::Bound);
    one.renew(&again).await.unwrap();
    // Neither does one that was never bound.
    two.ledger.yield_production(&third, &NOTHING).await.unwrap();
    assert_ne!(two.bind(&third, "EPROD").await, Bound::Bound);
}

pub(crate) async fn what_has_changed_something_is_unfinished_until_it_is_done(place: &impl Place) {
    let (one, two) = place.two().await;
    let unfinished = async |instance: &Instance| {
        let unfinished = instance.ledger.unfinished().await.unwrap();
        let text = |it: &Unfinished| match it.leased {
            true => format!("{}, leased", it.key),
            false => it.key.to_string(),
        };
        // Two clocks may disagree about which of them is older.
        let mut texts: Vec<_> = unfinished.iter().map(text).collect();
        texts.sort_unstable();
        texts
    };
    let changed = |production| Binding {
        evidence: evidence(),
        ..binding(production)
    };
    // One that has changed nothing, and one that has, given back; one that has, whose holder has died.
    let untouched = one.bound("untouched", "ETHIRD").await;
    one.ledger
        .release(&untouched, "stopped", &NOTHING)
        .await
        .unwrap();
    let dead = one.bound("dead", "EPROD").await;
    place.pass(Duration::from_millis(50)).await;
    let given_back = one.bound("given back", "EOTHER").await;
    let bound = one.ledger.bind(&dead, &changed("EPROD"), &NOTHING).await;
    assert_eq!(bound.unwrap(), Bound::Bound);
    let bound = one
        .ledger
        .bind(&given_back, &changed("EOTHER"), &NOTHING)
        .await;
    assert_eq!(bound.unwrap(), Bound::Bound);
    let both = ["dead, leased", "given back, leased"];
    assert_eq!(unfinished(&two).await, both);
    one.ledger
        .release(&given_back, "stopped", &NOTHING)
        .await
        .unwrap();
    assert_eq!(unfinished(&two).await, ["dead, leased", "given back"]);
    place.pass(place.lease() + MARGIN + place.slack()).await;
    // The oldest first.
    for instance in [&one, &two] {
        assert_eq!(unfinished(instance).await, ["dead", "given back"]);
    }
    let found = two.ledger.unfinished().await.unwrap();
    assert_eq!(found[0].binding, changed("EPROD"));

    let taken_up = two.grant("given back").await;
    assert_eq!(unfinished(&one).await, ["dead", "given back, leased"]);
    two.ledger
        .complete(&taken_up, Outcome::Cleaned, &NOTHING)
        .await
        .unwrap();
    assert_eq!(unfinished(&one).await, ["dead"]);
    two.ledger.prune().await.unwrap();
    assert_eq!(unfinished(&one).await, ["dead"]);
}

pub(crate) async fn the_evidence_of_a_job_outlives_its_holder(place: &impl Place) {
    let (one, two) = place.two().await;
    let grant = one.grant("job").await;
    let mut bound = Binding {
        evidence: evidence(),
        ..binding("EPROD")
    };
    one.ledger.bind(&grant, &bound, &NOTHING).await.unwrap();
    // A later look adds to it.
    bound.evidence.touched = true;
    bound.evidence.restored = Some(12);
    bound.evidence.left = Some("left: staging distribution \"ESTAGING222222\"".to_owned());
    one.ledger.bind(&grant, &bound, &NOTHING).await.unwrap();
    one.ledger
        .release(&grant, "stopped", &NOTHING)
        .await
        .unwrap();
    for instance in [&two, &one] {
        let found = instance.ledger.unfinished().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].binding, bound);
        match instance.claim("job").await {
            Claim::Granted { binding, grant, .. } => {
                assert_eq!(binding, Some(bound.clone()));
                instance
                    .ledger
                    .release(&grant, "stopped", &NOTHING)
                    .await
                    .unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn what_is_noted_of_a_job_goes_with_each_change_and_outlives_its_holder(
    place: &impl Place,
) {
    let (one, two) = place.two().await;
    let past = async |instance: &Instance| match instance.claim("job").await {
        Claim::Granted { grant, past, .. } => (grant, past),
        other => panic!("{other:?}"),
    };
    let about = |unasked, last_receive| About {
        execution_id: "execution".to_owned(),
        pipeline_arn: "arn:aws:codepipeline:eu-west-1:123456789012:shop".to_owned(),
        stage: "Approve".to_owned(),
        action: "Approve".to_owned(),
        target: "shop".to_owned(),
        comment: Some("too slow".to_owned()),
        rejected_at_ms: 1,
        unasked,
        last_receive,
    };
    let (grant, first) = past(&one).await;
    assert_eq!((&first.notes, &first.last_reason), (&*NOTHING, &None));

    // Nobody asked, then a message did for the last time.
    let mut notes = first.notes.clone();
    notes.note(Note::Began(about(true, false)), first.first_claimed_at);
    one.ledger.renew(&grant, one.until(), &notes).await.unwrap();
    one.ledger.release(&grant, "stopped", &notes).await.unwrap();
    let (grant, second) = past(&two).await;
    assert_eq!(second.notes, notes);
    assert_eq!(second.notes.asked, None);
    assert_eq!(second.last_reason.as_deref(), Some("stopped"));
    assert_eq!(second.first_claimed_at, first.first_claimed_at);
    notes.note(Note::Began(about(false, true)), two.clock.now());
    notes.note(Note::Entry(Kind::Applied, "detach_policy"), two.clock.now());
    let bound = two.ledger.bind(&grant, &binding("EPROD"), &notes).await;
    assert_eq!(bound.unwrap(), Bound::Bound);
    notes.note(Note::Failed("throttled"), two.clock.now());
    two.ledger
        .release(&grant, "throttled", &notes)
        .await
        .unwrap();
    let (lost, third) = past(&one).await;
    assert_eq!(third.notes, notes);
    assert!(third.notes.asked.is_some_and(|asked| asked.last_receive));

    // A void grant adds nothing to it.
    let (grant, _) = past(&one).await;
    let renewed = one.ledger.renew(&lost, one.until(), &NOTHING).await;
    assert!(not_owner(renewed));
    one.ledger.release(&grant, "stopped", &notes).await.unwrap();
    assert_eq!(past(&two).await.1.notes, notes);
    let read_back = |text: String| Notes::of_trail(stagesweep::domain::history::Trail::read(&text));
    assert_eq!(read_back(notes.trail.text()), notes, "an older record");
}

/// Everything that a job may have to remember.
fn evidence() -> Evidence {
    Evidence {
        version: 7,
        more: vec![Staged {
            id: "ESTAGING111111".to_owned(),
            domain: Some("d111.cloudfront.net".to_owned()),
            policy_id: None,
            version: 5,
            modified_at_ms: Some(1_756_000_000_456),
            etag: Some("E2QWRUHEXAMPLE".to_owned()),
            detaching: true,
        }],
        superseded: true,
        recorded: Some(8),
        changed: true,
        production_enabled: true,
        modified_at_ms: Some(1_756_000_000_123),
        etag: None,
        subject: Some(Subject {
            pipeline: "arn:aws:codepipeline:us-east-1:123456789012:shop".to_owned(),
            execution_id: "12345678-1234-4234-8234-123456789012".to_owned(),
            action_execution_id: None,
            stage: "Approve \u{2028}".to_owned(),
            action: "Approve".to_owned(),
            rejected_at_ms: 1_756_000_000_000,
            by_hand: false,
            ended: true,
        }),
        ..Evidence::default()
    }
}
