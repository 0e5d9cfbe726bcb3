//! Distributions and policies as they are read, changed and deleted.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_distribution_is_updated_with_the_very_bytes_that_were_read_but_for_one_element() {
    let (rig, aws, service) = deployed();
    let table = [
        (
            &service.production_id,
            true,
            format!(
                "<ContinuousDeploymentPolicyId>{}</ContinuousDeploymentPolicyId>",
                service.policy_id
            ),
            // Explicit and empty: left out, it would change nothing.
            "<ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId>",
        ),
        (
            &service.staging_id,
            false,
            "</PriceClass><Enabled>true</Enabled>".to_owned(),
            "</PriceClass><Enabled>false</Enabled>",
        ),
    ];
    for (id, detaches, from, to) in table {
        let before = aws.distribution(id).unwrap();
        assert_eq!(before.config.matches(&from).count(), 1);
        let cloudfront = &rig.account.cloudfront;
        match detaches {
            true => detach(cloudfront, id, &before.etag, &service.policy_id).await,
            false => disable(cloudfront, id, &before.etag).await,
        }
        .unwrap();
        let sent = rig.sent(CLOUDFRONT);
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].method, "GET");
        assert_eq!(
            sent[0].target,
            format!("/2020-05-31/distribution/{id}/config")
        );
        assert_eq!(sent[1].method, "PUT");
        assert_eq!(sent[1].target, sent[0].target);
        assert_eq!(sent[1].header("if-match"), before.etag);
        assert_eq!(sent[1].header("content-type"), "application/xml");
        let body = String::from_utf8(sent[1].body.clone()).unwrap();
        assert_eq!(sent[1].header("content-length"), body.len().to_string());
        assert_eq!(body, before.config.replace(&from, to));
        assert_eq!(aws.distribution(id).unwrap().config, body);

        aws.settle();
        let policy = aws.policy(&service.policy_id);
        if let Some(policy) = policy {
            rig.account
                .cloudfront
                .delete_policy(&policy.id, &policy.etag)
                .await
                .unwrap();
            let sent = rig.one(CLOUDFRONT);
            assert_eq!(sent.method, "DELETE");
            assert_eq!(
                sent.target,
                format!("/2020-05-31/continuous-deployment-policy/{}", policy.id)
            );
            assert_eq!(sent.header("if-match"), policy.etag);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_was_not_decided_on_this_configuration_is_not_sent() {
    let (rig, aws, service) = deployed();
    let cloudfront = &rig.account.cloudfront;
    let id = &service.production_id;
    let etag = aws.distribution(id).unwrap().etag;
    aws.edit_distribution(id, "Comment", "someone was here")
        .unwrap();
    let error = detach(cloudfront, id, &etag, &service.policy_id)
        .await
        .unwrap_err();
    assert_eq!(error.class, ErrorClass::Changed);
    let etag = aws.distribution(id).unwrap().etag;
    detach(cloudfront, id, &etag, "another-policy")
        .await
        .unwrap_err();
    assert!(rig.sent(CLOUDFRONT).iter().all(|sent| sent.method == "GET"));
    assert!(aws.journal().mutations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_is_not_sent_again() {
    let (rig, aws, service) = deployed();
    aws.add_rule(
        Rule::on("UpdateDistribution")
            .nth(1)
            .then(Action::DropAfter),
    );
    let id = &service.production_id;
    let etag = aws.distribution(id).unwrap().etag;
    let error = detach(&rig.account.cloudfront, id, &etag, &service.policy_id).await;
    assert!(error.unwrap_err().class.is_transient());
    let sent = rig.sent(CLOUDFRONT);
    let puts = sent.iter().filter(|sent| sent.method == "PUT").count();
    assert_eq!((puts, aws.journal().mutations().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn cloudfronts_other_calls_go_out_as_documented() {
    let (rig, aws, service) = deployed();
    let cloudfront = &rig.account.cloudfront;
    let found = cloudfront.distribution(&service.staging_id).await.unwrap();
    let sent = rig.one(CLOUDFRONT);
    assert_eq!(
        (&*sent.method, &*sent.target),
        (
            "GET",
            &*format!("/2020-05-31/distribution/{}", service.staging_id)
        )
    );
    assert!(sent.body.is_empty() && !sent.headers.contains_key("if-match"));
    let view = aws.distribution(&service.staging_id).unwrap();
    let expected = Distribution {
        id: service.staging_id.clone(),
        domain: service.staging_domain.clone(),
        etag: view.etag,
        deployed: true,
        enabled: true,
        staging: true,
        aliases: 0,
        policy_id: Some(service.policy_id.clone()),
    };
    assert_eq!(found, Some(expected));

    let policy = cloudfront
        .policy(&service.policy_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        rig.one(CLOUDFRONT).target,
        format!(
            "/2020-05-31/continuous-deployment-policy/{}",
            service.policy_id
        )
    );
    assert_eq!(
        policy.staging_domains,
        std::slice::from_ref(&service.staging_domain)
    );

    let listed = cloudfront
        .policies_listing(&service.staging_domain)
        .await
        .unwrap();
    assert_eq!(listed, std::slice::from_ref(&service.policy_id));
    assert_eq!(
        rig.one(CLOUDFRONT).target,
        "/2020-05-31/continuous-deployment-policy?MaxItems=100"
    );
    assert!(
        cloudfront
            .policies_listing("d0.cloudfront.net")
            .await
            .unwrap()
            .is_empty()
    );
    rig.sent(CLOUDFRONT);

    let all = cloudfront.distributions().await.unwrap();
    assert_eq!(
        rig.one(CLOUDFRONT).target,
        "/2020-05-31/distribution?MaxItems=100"
    );
    let mut ids: Vec<_> = all.iter().map(|it| &it.id).collect();
    ids.sort();
    let mut both = [&service.production_id, &service.staging_id];
    both.sort();
    assert_eq!(ids, both);

    let staging = deletable("ESTAGING222222", "the-etag");
    let error = cloudfront.delete_distribution(&staging).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound);
    let sent = rig.one(CLOUDFRONT);
    assert_eq!(
        (&*sent.method, &*sent.target, sent.header("if-match")),
        (
            "DELETE",
            "/2020-05-31/distribution/ESTAGING222222",
            "the-etag"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn lists_of_distributions_are_read_page_by_page() {
    let (rig, aws, service) = deployed();
    let cloudfront = &rig.account.cloudfront;
    for number in 0..230 {
        aws.create_distribution(&format!("other{number}")).unwrap();
    }
    let all = cloudfront.distributions().await.unwrap();
    let targets: Vec<_> = rig
        .sent(CLOUDFRONT)
        .into_iter()
        .map(|it| it.target)
        .collect();
    assert_eq!(targets.len(), 3, "{targets:?}");
    assert_eq!(targets[0], "/2020-05-31/distribution?MaxItems=100");
    for (target, last) in targets[1..].iter().zip([&all[99], &all[199]]) {
        let marker = format!("Marker={}", last.id);
        assert!(
            target.contains("MaxItems=100") && target.contains(&marker),
            "{target}"
        );
    }
    let found: BTreeMap<_, _> = all.iter().map(|it| (&it.id, it)).collect();
    assert_eq!((all.len(), found.len()), (232, 232), "each is on one page");

    // A list tells the same time of the last change as a look, and another one after a change.
    let id = &service.staging_id;
    let seen = cloudfront.look(id).await.unwrap().found.unwrap();
    assert!(seen.modified_at.is_some() && found[id].enabled);
    assert_eq!(found[id].modified_at, seen.modified_at);
    tokio::time::advance(Duration::from_secs(1)).await;
    aws.edit_distribution(id, "Comment", "changed").unwrap();
    let changed = cloudfront.look(id).await.unwrap().found.unwrap();
    assert_ne!(changed.modified_at, seen.modified_at);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_attempt_slows_the_whole_account_down() {
    let (rig, aws, service) = deployed();
    let cloudfront = &rig.account.cloudfront;
    let id = &service.production_id;
    let spacing = async || {
        cloudfront.look(id).await.unwrap();
        let began = Instant::now();
        cloudfront.distributions().await.unwrap();
        began.elapsed()
    };
    assert_eq!(spacing().await, Duration::ZERO);
    // The SDK tries again by itself, and succeeds: it was throttled all the same.
    aws.add_rule(Rule::on("GetDistribution").nth(1).then(Action::Throttle));
    cloudfront.look(id).await.unwrap();
    assert!(spacing().await > Duration::from_millis(30));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(spacing().await, Duration::ZERO);

    // By rate, as the embedded AWS throttles.
    aws.change_settings(|settings| settings.switches.calls_per_second = Some(4));
    let throttled = || {
        let entries = aws.journal().entries();
        let codes = entries.iter().filter_map(|entry| entry.code.as_deref());
        codes.filter(|code| *code == "Throttling").count()
    };
    let before = throttled();
    for _ in 0..8 {
        if let Err(error) = cloudfront.look(id).await {
            assert_eq!(error.class, ErrorClass::Throttled, "{error}");
        }
    }
    assert!(throttled() > before);
}
