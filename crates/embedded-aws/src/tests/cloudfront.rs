//! CloudFront: the rules of change, and what reads show.

use std::time::Duration;

use serde_json::Value;

use super::{POLICY, cloudfront, delete, detached, disabled, propagate, put, world};
use crate::{AttachedPolicyDelete, EventOptions, OmittedPolicyId, StagingAfterPolicyDelete};

#[tokio::test(start_paused = true)]
async fn the_safe_order_takes_two_propagations_and_leaves_nothing() {
    let (world, service) = world(|_| ());
    let staging = service.staging_id.as_str();
    let in_use = (409, "StagingDistributionInUse");
    assert_eq!(put(&world, staging, disabled).await.outcome(), in_use);
    let policy_in_use = (409, "ContinuousDeploymentPolicyInUse");
    assert_eq!(
        delete(&world, POLICY, &service.policy_id).await.outcome(),
        policy_in_use
    );

    let answer = put(&world, &service.production_id, detached).await;
    assert_eq!(answer.outcome(), (200, ""));
    assert!(answer.body.contains("<Status>InProgress</Status>"));
    assert_eq!(
        delete(&world, POLICY, &service.policy_id).await.outcome(),
        policy_in_use
    );
    assert_eq!(
        put(&world, staging, disabled).await.outcome(),
        in_use,
        "unattached but listing"
    );
    propagate().await;
    assert_eq!(
        delete(&world, POLICY, &service.policy_id).await.outcome(),
        (204, "")
    );

    let not_disabled = (409, "DistributionNotDisabled");
    assert_eq!(
        delete(&world, "distribution", staging).await.outcome(),
        not_disabled
    );
    assert_eq!(put(&world, staging, disabled).await.outcome(), (200, ""));
    assert_eq!(
        delete(&world, "distribution", staging).await.outcome(),
        not_disabled
    );
    propagate().await;
    assert_eq!(
        delete(&world, "distribution", staging).await.outcome(),
        (204, "")
    );
    let gone = cloudfront(&world, "GET", &format!("distribution/{staging}"), "", "").await;
    assert_eq!(gone.outcome(), (404, "NoSuchDistribution"));
    assert_eq!(world.inventory().distributions.len(), 1);
    assert!(world.inventory().policies.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_configuration_comes_back_byte_for_byte() {
    let (world, service) = world(|_| ());
    let before = world.distribution(&service.production_id).unwrap().config;
    assert!(before.contains("<FutureFeatureConfig mode=\"strict\">"));
    let edited = detached(before).replace("friends", "friends &#38; family<!-- note -->");
    let answer = put(&world, &service.production_id, |_| edited.clone()).await;
    assert_eq!(answer.status, 200);
    let path = format!("distribution/{}/config", service.production_id);
    assert_eq!(cloudfront(&world, "GET", &path, "", "").await.body, edited);
    let copy = world.distribution(&service.staging_id).unwrap();
    assert!(copy.staging && copy.aliases.is_empty() && copy.config.contains("FutureItem"));
}

#[tokio::test(start_paused = true)]
async fn only_an_explicit_empty_policy_id_detaches() {
    for (omitted, expected) in [
        (OmittedPolicyId::Keeps, true),
        (OmittedPolicyId::Clears, false),
    ] {
        let (world, service) = world(|switches| switches.omitted_policy_id = omitted);
        let id = service.production_id.as_str();
        let element = "<ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId>";
        let answer = put(&world, id, |it| detached(it).replace(element, "")).await;
        assert_eq!(answer.status, 200);
        let attached = world.distribution(id).unwrap().policy_id == service.policy_id;
        assert_eq!(attached, expected);
        assert_eq!(
            world
                .distribution(id)
                .unwrap()
                .config
                .contains(&service.policy_id),
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn writes_need_the_current_etag() {
    let (world, service) = world(|_| ());
    let path = format!("distribution/{}/config", service.production_id);
    let old = cloudfront(&world, "GET", &path, "", "").await;
    let none = cloudfront(&world, "PUT", &path, "", &old.body).await;
    assert_eq!(none.outcome(), (400, "InvalidIfMatchVersion"));
    let foreign = cloudfront(&world, "PUT", &path, "E0000000000000", &old.body).await;
    assert_eq!(foreign.outcome(), (400, "InvalidIfMatchVersion"));
    let new = put(&world, &service.production_id, detached).await;
    assert_ne!(new.etag, old.etag);
    let stale = cloudfront(&world, "PUT", &path, &old.etag, &old.body).await;
    assert_eq!(stale.outcome(), (412, "PreconditionFailed"));
    let same = put(&world, &service.production_id, |it| it).await;
    assert_eq!((same.status, same.etag), (200, new.etag), "nothing changed");
    assert_eq!(world.journal().mutations().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn illegal_updates_are_refused_and_change_nothing() {
    let (world, service) = world(|_| ());
    let id = service.production_id.as_str();
    let before = world.distribution(id).unwrap().config;
    let illegal = (400, "IllegalUpdate");
    let reference = |it: String| it.replace("shop-production", "another");
    assert_eq!(put(&world, id, reference).await.outcome(), illegal);
    assert_eq!(
        put(&world, id, disabled).await.outcome(),
        illegal,
        "a policy is attached"
    );
    let unknown = |it: String| it.replace(&service.policy_id, "no-such");
    let unknown = put(&world, id, unknown).await;
    assert_eq!(unknown.outcome(), (404, "NoSuchContinuousDeploymentPolicy"));
    let no_namespace = |it: String| it.replace(" xmlns=", " other=");
    assert_eq!(
        put(&world, id, no_namespace).await.outcome(),
        (400, "MalformedXML")
    );
    assert_eq!(
        put(&world, id, |_| String::new()).await.outcome(),
        (400, "MissingBody")
    );
    assert_eq!(world.distribution(id).unwrap().config, before);
    assert!(world.journal().mutations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stale_read_never_shows_a_replaced_version_as_deployed() {
    let (world, service) = world(|switches| switches.stale_reads = Duration::from_secs(600));
    let production = service.production_id.as_str();
    put(&world, production, detached).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    world.deploy_again(&service).unwrap();
    tokio::time::advance(Duration::from_secs(599)).await;
    let path = format!("distribution/{production}");
    let stale = cloudfront(&world, "GET", &path, "", "").await;
    assert!(stale.body.contains("<Status>InProgress</Status>"));
}

#[tokio::test(start_paused = true)]
async fn reads_may_be_stale_and_the_deleted_may_linger() {
    let (world, service) = world(|switches| {
        switches.stale_reads = Duration::from_secs(5);
        switches.deleted_stays_visible = Duration::from_secs(9);
        switches.delete_lag = Duration::from_secs(3);
        switches.policy_delete_waits_for_detach = false;
    });
    let id = service.staging_id.as_str();
    put(&world, &service.production_id, detached).await;
    assert_eq!(delete(&world, POLICY, &service.policy_id).await.status, 204);
    let accepted = put(&world, id, disabled).await;
    let path = format!("distribution/{id}");
    let stale = cloudfront(&world, "GET", &path, "", "").await;
    assert_ne!(stale.etag, accepted.etag);
    assert!(stale.body.contains("<Status>Deployed</Status>"));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(
        cloudfront(&world, "GET", &path, "", "").await.etag,
        accepted.etag
    );
    tokio::time::advance(Duration::from_secs(165)).await;
    assert!(world.distribution(id).unwrap().deployed);
    let lag = (409, "DistributionNotDisabled");
    assert_eq!(delete(&world, "distribution", id).await.outcome(), lag);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(delete(&world, "distribution", id).await.status, 204);
    assert_eq!(
        cloudfront(&world, "GET", &path, "", "").await.status,
        200,
        "lingers"
    );
    assert_eq!(
        delete(&world, "distribution", id).await.outcome(),
        (404, "NoSuchDistribution")
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(cloudfront(&world, "GET", &path, "", "").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn what_staging_shows_after_its_policy_is_gone() {
    for (after, shown) in [
        (StagingAfterPolicyDelete::Empty, false),
        (StagingAfterPolicyDelete::StaleId, true),
    ] {
        let (world, service) = world(|switches| switches.staging_after_policy_delete = after);
        let id = service.staging_id.as_str();
        let read_early = world.distribution(id).unwrap().config;
        assert!(read_early.contains(&service.policy_id));
        put(&world, &service.production_id, detached).await;
        propagate().await;
        delete(&world, POLICY, &service.policy_id).await;
        let config = world.distribution(id).unwrap().config;
        assert_eq!(config.contains(&service.policy_id), shown);
        let early = put(&world, id, |_| disabled(read_early)).await;
        let refused = (404, "NoSuchContinuousDeploymentPolicy");
        assert_eq!(early.outcome(), if shown { (200, "") } else { refused });
        assert_eq!(put(&world, id, disabled).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disabled_attached_policy_may_be_deletable() {
    let (world, service) = world(|switches| {
        switches.disabled_attached_policy_delete = AttachedPolicyDelete::ClearsPrimary;
    });
    let path = format!("{POLICY}/{}/config", service.policy_id);
    let got = cloudfront(&world, "GET", &path, "", "").await;
    assert_eq!(delete(&world, POLICY, &service.policy_id).await.status, 409);
    let off = got
        .body
        .replace("<Enabled>true</Enabled>", "<Enabled>false</Enabled>");
    let path = format!("{POLICY}/{}", service.policy_id);
    assert_eq!(
        cloudfront(&world, "PUT", &path, &got.etag, &off)
            .await
            .status,
        200
    );
    assert!(!world.distribution(&service.production_id).unwrap().deployed);
    assert_eq!(delete(&world, POLICY, &service.policy_id).await.status, 204);
    assert_eq!(
        world
            .distribution(&service.production_id)
            .unwrap()
            .policy_id,
        ""
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_deployment_leaves_the_older_behind() {
    let (world, older) = world(|_| ());
    let newer = world.deploy_again(&older).unwrap();
    let production = world.distribution(&older.production_id).unwrap();
    assert_eq!(production.policy_id, newer.policy_id);
    assert_eq!(
        world.parameter(&older.staging_parameter).unwrap(),
        newer.staging_id
    );
    let orphan = world.policy(&older.policy_id).unwrap();
    assert!(orphan.attached_to.is_empty());
    assert_eq!(
        orphan.staging_domains,
        std::slice::from_ref(&older.staging_domain)
    );
    let values: Vec<String> = world
        .parameter_history(&older.staging_parameter)
        .into_iter()
        .map(|it| it.value)
        .collect();
    assert_eq!(
        values,
        [
            "dummy".to_owned(),
            older.staging_id.clone(),
            newer.staging_id.clone()
        ]
    );
    let event = world.rejection_event(&newer, &EventOptions::default());
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["detail"]["start-time"], "2026-08-24T06:00:01.000Z");
    assert_eq!(event["time"], "2026-08-24T06:00:01Z");
    assert_eq!(event["detail"]["version"].to_string(), "2.0");
}

#[tokio::test(start_paused = true)]
async fn promotion_keeps_aliases_and_leaves_the_policy_disabled() {
    let (world, service) = world(|_| ());
    world
        .edit_distribution(&service.staging_id, "Comment", "green")
        .unwrap();
    let etag = |id: &str| world.distribution(id).unwrap().etag;
    let both = format!(
        "{}, {}",
        etag(&service.production_id),
        etag(&service.staging_id)
    );
    let path = format!(
        "distribution/{}/promote-staging-config?StagingDistributionId={}",
        service.production_id, service.staging_id
    );
    assert_eq!(
        cloudfront(&world, "PUT", &path, &both, "").await.outcome(),
        (200, "")
    );
    let production = world.distribution(&service.production_id).unwrap();
    assert!(production.config.contains("<Comment>green</Comment>"));
    assert_eq!(production.aliases.len(), 2);
    assert_eq!(production.policy_id, service.policy_id);
    assert!(!world.policy(&service.policy_id).unwrap().enabled);
}
