//! What every ledger must do.

use std::time::Duration;

use stagesweep::binding::Binding;
use stagesweep::ledger::{Bound, Claim, LedgerError, RETENTION};
use stagesweep::plan::Outcome;

use super::{MARGIN, Place, binding, not_owner};

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
