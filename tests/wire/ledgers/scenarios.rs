//! What every ledger must do.

use std::time::Duration;

use stagesweep::domain::binding::{Binding, Evidence, Staged, Subject};
use stagesweep::domain::decision::Outcome;
use stagesweep::ledger::{Bound, Claim, LedgerError, RETENTION, Unfinished};

use super::{Instance, MARGIN, Place, binding, not_owner};

pub(super) async fn a_job_is_granted_to_one_at_a_time(place: &Place) {
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
    one.ledger.release(&again, "stopped").await.unwrap();
    assert!(not_owner(one.renew(&again).await));
    let next = two.grant("job").await;
    assert!(next.epoch > again.epoch);
    // A void grant is given back in vain.
    one.ledger.release(&again, "stopped").await.unwrap();
    two.renew(&next).await.unwrap();
}

pub(super) async fn a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends(place: &Place) {
    let (one, two) = place.two().await;
    let grant = one.grant("job").await;
    for _ in 0..3 {
        place.pass(place.lease() * 3 / 4).await;
        one.renew(&grant).await.unwrap();
        assert!(matches!(two.claim("job").await, Claim::Leased { .. }));
    }
    place.pass(place.lease() - Duration::from_secs(3)).await;
    assert!(matches!(two.claim("job").await, Claim::Leased { .. }));
    place.pass(MARGIN + Duration::from_secs(3)).await;
    let taken = two.grant("job").await;
    assert!(taken.epoch > grant.epoch);
    assert!(not_owner(one.renew(&grant).await));
    assert!(not_owner(
        one.ledger.complete(&grant, Outcome::Cleaned).await
    ));
    assert!(not_owner(one.ledger.bind(&grant, &binding("EPROD")).await));
}

pub(super) async fn what_is_done_stays_done(place: &Place) {
    let (one, two) = place.two().await;
    let grant = one.bound("job", "EPROD").await;
    let complete = || one.ledger.complete(&grant, Outcome::Superseded);
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

pub(super) async fn a_binding_is_for_good(place: &Place) {
    let (one, two) = place.two().await;
    let grant = one.bound("job", "EPROD").await;
    let complete = Binding {
        policy_id: Some("policy".to_owned()),
        overwriting: Some(7),
        ..binding("EPROD")
    };
    one.ledger.bind(&grant, &complete).await.unwrap();
    let elsewhere = one.ledger.bind(&grant, &binding("EOTHER")).await;
    assert!(matches!(
        elsewhere.unwrap_err(),
        LedgerError::BoundOtherwise { .. }
    ));
    place.pass(place.lease() + MARGIN).await;
    match two.claim("job").await {
        Claim::Granted { binding, .. } => assert_eq!(binding, Some(complete)),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_production_distribution_is_held_by_one_job_at_a_time(place: &Place) {
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
        .complete(&holder, Outcome::Cleaned)
        .await
        .unwrap();
    assert_eq!(two.bind(&waiting, "EPROD").await, Bound::Bound);
    two.ledger.release(&waiting, "stopped").await.unwrap();
    one.bound("fourth", "EPROD").await;
}

pub(super) async fn a_dead_holders_production_distribution_is_taken_and_its_grant_is_void(
    place: &Place,
) {
    let (one, two) = place.two().await;
    let dead = one.bound("first", "EPROD").await;
    place.pass(place.lease() / 2).await;
    let second = two.grant("second").await;
    assert_ne!(two.bind(&second, "EPROD").await, Bound::Bound);
    place.pass(place.lease() / 2 + MARGIN).await;
    assert_eq!(two.bind(&second, "EPROD").await, Bound::Bound);
    assert!(not_owner(one.renew(&dead).await));
    assert!(not_owner(one.ledger.bind(&dead, &binding("EPROD")).await));
    // Claimed anew it waits its turn.
    let again = one.grant("first").await;
    assert_ne!(one.bind(&again, "EPROD").await, Bound::Bound);
    two.renew(&second).await.unwrap();
}

pub(super) async fn a_job_that_is_claimed_again_holds_nothing_until_it_is_bound_again(
    place: &Place,
) {
    let (one, two) = place.two().await;
    one.bound("first", "EPROD").await;
    let again = one.grant("first").await;
    let second = two.bound("second", "EPROD").await;
    assert_ne!(one.bind(&again, "EPROD").await, Bound::Bound);
    two.ledger
        .complete(&second, Outcome::Cleaned)
        .await
        .unwrap();
    assert_eq!(one.bind(&again, "EPROD").await, Bound::Bound);
}

pub(super) async fn of_many_who_ask_at_once_one_is_granted(place: &Place) {
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

pub(super) async fn what_is_owed_is_kept_until_it_is_paid_and_not_without_a_bound(place: &Place) {
    let (one, two) = place.two().await;
    let (one, two) = (one.ledger, two.ledger);
    assert_eq!(two.owed().await.unwrap(), [""; 0]);
    two.paid(&["nobody".to_owned()]).await.unwrap();
    let long = "an/id with (other) characters/".repeat(20);
    one.owe(&long, "{\"first\": 1}").await.unwrap();
    place.pass(Duration::from_secs(1)).await;
    two.owe("second", "2").await.unwrap();
    // Once more the same.
    one.owe("second", "2").await.unwrap();
    assert_eq!(one.owed().await.unwrap(), ["{\"first\": 1}", "2"]);
    two.paid(&[long, "nobody".to_owned()]).await.unwrap();
    assert_eq!(one.owed().await.unwrap(), ["2"]);

    let count = if place.is_virtual() { 1100 } else { 110 };
    for n in 0..count {
        if place.is_virtual() {
            place.pass(Duration::from_millis(1)).await;
        }
        one.owe(&format!("{n}"), &format!("{n}")).await.unwrap();
    }
    let owed = two.owed().await.unwrap();
    assert!(owed.len() == 100 || owed.len() == 1000, "{}", owed.len());
    assert!(owed.contains(&(count - 1).to_string()));
    let all: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    two.paid(&all).await.unwrap();
    assert!(one.owed().await.unwrap().len() <= 1);
}

pub(super) async fn who_waits_gives_the_production_distribution_back_and_keeps_the_grant(
    place: &Place,
) {
    let (one, two) = place.two().await;
    let first = one.bound("first", "EPROD").await;
    let second = two.grant("second").await;
    assert_ne!(two.bind(&second, "EPROD").await, Bound::Bound);
    one.ledger.yield_production(&first).await.unwrap();
    // Nothing is left to give back.
    one.ledger.yield_production(&first).await.unwrap();
    assert_eq!(two.bind(&second, "EPROD").await, Bound::Bound);
    // The grant goes on, and what it is bound to stands.
    one.renew(&first).await.unwrap();
    assert!(matches!(two.claim("first").await, Claim::Leased { .. }));
    match one.bind(&first, "EPROD").await {
        Bound::ProductionBusy { until } => one.is_end_of_lease(until),
        Bound::Bound => panic!("both hold it"),
    }
    // Nobody gives back what another one holds.
    one.ledger.yield_production(&first).await.unwrap();
    assert_ne!(one.bind(&first, "EPROD").await, Bound::Bound);
    two.ledger
        .complete(&second, Outcome::Cleaned)
        .await
        .unwrap();
    assert_eq!(one.bind(&first, "EPROD").await, Bound::Bound);

    // A void grant gives nothing back, and that is no error.
    let again = one.bound("first", "EPROD").await;
    one.ledger.yield_production(&first).await.unwrap();
    let third = two.grant("third").await;
    assert_ne!(two.bind(&third, "EPROD").await, Bound::Bound);
    one.renew(&again).await.unwrap();
    // Neither does one that was never bound.
    two.ledger.yield_production(&third).await.unwrap();
    assert_ne!(two.bind(&third, "EPROD").await, Bound::Bound);
}

pub(super) async fn what_has_changed_something_is_unfinished_until_it_is_done(place: &Place) {
    let (one, two) = place.two().await;
    let unfinished = async |instance: &Instance| {
        let unfinished = instance.ledger.unfinished().await.unwrap();
        let text = |it: &Unfinished| match it.leased {
            true => format!("{}, leased", it.key),
            false => it.key.to_string(),
        };
        unfinished.iter().map(text).collect::<Vec<_>>()
    };
    let changed = |production| Binding {
        evidence: evidence(),
        ..binding(production)
    };
    // One that has changed nothing, and one that has, given back; one that has, whose holder has died.
    let untouched = one.bound("untouched", "ETHIRD").await;
    one.ledger.release(&untouched, "stopped").await.unwrap();
    let dead = one.bound("dead", "EPROD").await;
    place.pass(Duration::from_millis(50)).await;
    let given_back = one.bound("given back", "EOTHER").await;
    let bound = one.ledger.bind(&dead, &changed("EPROD")).await;
    assert_eq!(bound.unwrap(), Bound::Bound);
    let bound = one.ledger.bind(&given_back, &changed("EOTHER")).await;
    assert_eq!(bound.unwrap(), Bound::Bound);
    let both = ["dead, leased", "given back, leased"];
    assert_eq!(unfinished(&two).await, both);
    one.ledger.release(&given_back, "stopped").await.unwrap();
    assert_eq!(unfinished(&two).await, ["dead, leased", "given back"]);
    place.pass(place.lease() + MARGIN).await;
    // The oldest first.
    for instance in [&one, &two] {
        assert_eq!(unfinished(instance).await, ["dead", "given back"]);
    }
    let found = two.ledger.unfinished().await.unwrap();
    assert_eq!(found[0].binding, changed("EPROD"));

    let taken_up = two.grant("given back").await;
    assert_eq!(unfinished(&one).await, ["dead", "given back, leased"]);
    two.ledger
        .complete(&taken_up, Outcome::Cleaned)
        .await
        .unwrap();
    assert_eq!(unfinished(&one).await, ["dead"]);
    two.ledger.prune().await.unwrap();
    assert_eq!(unfinished(&one).await, ["dead"]);
}

pub(super) async fn the_evidence_of_a_job_outlives_its_holder(place: &Place) {
    let (one, two) = place.two().await;
    let grant = one.grant("job").await;
    let mut bound = Binding {
        evidence: evidence(),
        ..binding("EPROD")
    };
    one.ledger.bind(&grant, &bound).await.unwrap();
    // A later look adds to it.
    bound.evidence.touched = true;
    bound.evidence.restored = Some(12);
    bound.evidence.left = Some("left: staging distribution \"ESTAGING222222\"".to_owned());
    one.ledger.bind(&grant, &bound).await.unwrap();
    one.ledger.release(&grant, "stopped").await.unwrap();
    for instance in [&two, &one] {
        let found = instance.ledger.unfinished().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].binding, bound);
        match instance.claim("job").await {
            Claim::Granted { binding, grant } => {
                assert_eq!(binding, Some(bound.clone()));
                instance.ledger.release(&grant, "stopped").await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
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
        }],
        superseded: true,
        recorded: Some(8),
        changed: true,
        production_enabled: true,
        modified_at_ms: Some(1_756_000_000_123),
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
