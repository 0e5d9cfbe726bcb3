//! The rules of the model, driven as a client would: request in, response out.

use std::time::Duration;

use http::Request;
use serde_json::{Value, json};

use super::testing::json_call;
use super::*;

/// One world with one service, on virtual time.
fn world(change: impl FnOnce(&mut Switches)) -> (EmbeddedAws, Service) {
    let world = testing::world(|settings| change(&mut settings.switches));
    let service = world.create_service("shop").unwrap();
    (world, service)
}

/// What came back: status, error code if any, ETag if any, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    code: String,
    etag: String,
    body: String,
}

impl Answer {
    fn outcome(&self) -> (u16, &str) {
        (self.status, &self.code)
    }
}

async fn cloudfront(
    world: &EmbeddedAws,
    method: &str,
    path: &str,
    if_match: &str,
    body: &str,
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/2020-05-31/{path}"));
    if !if_match.is_empty() {
        request = request.header("if-match", if_match);
    }
    let request = request.body(body.as_bytes().to_vec()).unwrap();
    let Exchange::Reply(response) = world.handle(request).await else {
        panic!("dropped")
    };
    let etag = response
        .headers()
        .get("etag")
        .map_or("", |it| it.to_str().unwrap())
        .to_owned();
    let status = response.status().as_u16();
    let body = String::from_utf8(response.into_body()).unwrap();
    let code = body
        .split_once("<Code>")
        .and_then(|(_, it)| it.split_once("</Code>"));
    Answer {
        status,
        code: code.map_or("", |it| it.0).to_owned(),
        etag,
        body,
    }
}

/// PUTs a distribution's own configuration back with one edit.
async fn put(world: &EmbeddedAws, id: &str, edit: impl FnOnce(String) -> String) -> Answer {
    let got = cloudfront(world, "GET", &format!("distribution/{id}/config"), "", "").await;
    let path = format!("distribution/{id}/config");
    cloudfront(world, "PUT", &path, &got.etag, &edit(got.body)).await
}

async fn delete(world: &EmbeddedAws, kind: &str, id: &str) -> Answer {
    let path = format!("{kind}/{id}");
    let etag = cloudfront(world, "GET", &path, "", "").await.etag;
    cloudfront(world, "DELETE", &path, &etag, "").await
}

const POLICY: &str = "continuous-deployment-policy";

fn detached(config: String) -> String {
    let (head, tail) = config.split_once("<ContinuousDeploymentPolicyId>").unwrap();
    let (_, tail) = tail.split_once("</ContinuousDeploymentPolicyId>").unwrap();
    format!("{head}<ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId>{tail}")
}

fn disabled(config: String) -> String {
    // The first direct `Enabled` after the price class is the distribution's own.
    config.replace(
        "</PriceClass><Enabled>true</Enabled>",
        "</PriceClass><Enabled>false</Enabled>",
    )
}

/// A full propagation.
async fn propagate() {
    tokio::time::advance(Duration::from_secs(171)).await;
}

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

#[tokio::test(start_paused = true)]
async fn visibility_ends_at_twelve_hours_and_redrive_at_the_limit() {
    let (world, _) = world(|_| ());
    let queues = world.create_queue_with_dlq("q", 2, Duration::from_secs(30));
    world.send("q", "hello").unwrap();
    let receive = |wait: u64| {
        let body =
            json!({ "QueueUrl": queues.url, "WaitTimeSeconds": wait, "AttributeNames": ["All"] });
        json_call(&world, "AmazonSQS.ReceiveMessage", body)
    };
    let change = |handle: &Value, seconds: u64| {
        let body = json!({
            "QueueUrl": queues.url, "ReceiptHandle": handle, "VisibilityTimeout": seconds,
        });
        json_call(&world, "AmazonSQS.ChangeMessageVisibility", body)
    };
    let first = receive(0).await.1["Messages"][0].clone();
    assert_eq!(first["MD5OfBody"], "5d41402abc4b2a76b9719d911017c592");
    tokio::time::advance(Duration::from_secs(10)).await;
    let (status, error) = change(&first["ReceiptHandle"], 43_195).await;
    assert_eq!(
        (status, &error["__type"]),
        (400, &json!("com.amazonaws.sqs#InvalidParameterValue"))
    );
    assert_eq!(change(&first["ReceiptHandle"], 43_190).await.0, 200);
    assert_eq!(change(&first["ReceiptHandle"], 12).await.0, 200);

    // The long poll wakes when the visibility timeout ends, not when the poll does.
    let began = Instant::now();
    let second = receive(20).await.1["Messages"][0].clone();
    assert_eq!(began.elapsed().as_secs(), 12);
    assert_eq!(second["Attributes"]["ApproximateReceiveCount"], "2");
    let (status, _) = change(&first["ReceiptHandle"], 1).await;
    assert_eq!(status, 400, "an older receive's handle");
    let delete = json!({ "QueueUrl": queues.url, "ReceiptHandle": first["ReceiptHandle"] });
    assert_eq!(
        json_call(&world, "AmazonSQS.DeleteMessage", delete).await.0,
        200
    );
    assert_eq!(
        world.depth("q").unwrap().in_flight,
        1,
        "an old handle deletes nothing"
    );

    assert_eq!(change(&second["ReceiptHandle"], 0).await.0, 200);
    let (_, error) = change(&second["ReceiptHandle"], 0).await;
    assert_eq!(error["__type"], "com.amazonaws.sqs#MessageNotInflight");
    assert_eq!(receive(0).await.1, json!({}));
    assert_eq!(world.messages("q-dlq")[0].body, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_on_arrival_and_takes_nothing_when_given_up() {
    let (world, _) = world(|_| ());
    world.create_queue_with_dlq("q", 5, Duration::from_secs(30));
    let poll = |world: EmbeddedAws| async move {
        let body = json!({ "QueueUrl": "q", "WaitTimeSeconds": 20 });
        json_call(&world, "AmazonSQS.ReceiveMessage", body).await.1
    };
    let given_up = tokio::spawn(poll(world.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    world.send("q", "a").unwrap();
    assert_eq!(world.depth("q").unwrap().visible, 1);

    let began = Instant::now();
    poll(world.clone()).await;
    let waiting = tokio::spawn(poll(world.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.send("q", "b").unwrap();
    assert_eq!(waiting.await.unwrap()["Messages"][0]["Body"], "b");
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(poll(world.clone()).await, json!({}));
    assert_eq!(began.elapsed().as_secs(), 22);
}

#[tokio::test(start_paused = true)]
async fn messages_may_come_twice_and_come_back() {
    let (world, _) = world(|_| ());
    world.create_queue_with_dlq("q", 5, Duration::from_secs(30));
    world.send("q", "a").unwrap();
    world.add_rule(Rule::on("ReceiveMessage").nth(1).then(Action::Duplicate));
    world.add_rule(Rule::on("DeleteMessage").nth(1).then(Action::Undelete));
    let mut handles = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let ask = json!({ "QueueUrl": "q", "MaxNumberOfMessages": 10 });
        let (_, got) = json_call(&world, "AmazonSQS.ReceiveMessage", ask).await;
        assert_eq!(got["Messages"].as_array().unwrap().len(), 1);
        ids.push(got["Messages"][0]["MessageId"].clone());
        handles.push(got["Messages"][0]["ReceiptHandle"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(handles[0], handles[1]);
    for handle in handles {
        let ask = json!({ "QueueUrl": "q", "ReceiptHandle": handle });
        assert_eq!(
            json_call(&world, "AmazonSQS.DeleteMessage", ask).await.0,
            200
        );
    }
    let back = Depth {
        visible: 1,
        ..Depth::default()
    };
    assert_eq!(
        world.depth("q"),
        Some(back),
        "the first delete was answered and not done"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_fail_by_entry_or_as_a_whole() {
    let (world, _) = world(|_| ());
    world.create_queue_with_dlq("q", 5, Duration::from_secs(30));
    world.send("q", "a").unwrap();
    let (_, got) = json_call(
        &world,
        "AmazonSQS.ReceiveMessage",
        json!({ "QueueUrl": "q" }),
    )
    .await;
    let good = &got["Messages"][0]["ReceiptHandle"];
    let entries = json!([
        { "Id": "1", "ReceiptHandle": good, "VisibilityTimeout": 60 },
        { "Id": "2", "ReceiptHandle": "nonsense", "VisibilityTimeout": 60 },
    ]);
    let batch = |entries: Value| {
        let body = json!({ "QueueUrl": "q", "Entries": entries });
        json_call(&world, "AmazonSQS.ChangeMessageVisibilityBatch", body)
    };
    let (status, result) = batch(entries).await;
    assert_eq!(
        (status, &result["Successful"]),
        (200, &json!([{ "Id": "1" }]))
    );
    assert_eq!(result["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
    assert_eq!(result["Failed"][0]["SenderFault"], true);
    let many: Vec<Value> = (0..11).map(|it| json!({ "Id": it.to_string() })).collect();
    let code = "com.amazonaws.sqs#TooManyEntriesInBatchRequest";
    assert_eq!(batch(many.into()).await.1["__type"], code);
    assert_eq!(
        batch(json!([])).await.1["__type"],
        "com.amazonaws.sqs#EmptyBatchRequest"
    );
}

#[tokio::test(start_paused = true)]
async fn parameter_history_is_paged_oldest_first_and_trimmed() {
    let (world, _) = world(|_| ());
    let body = json!({ "Name": "/p", "Value": "v", "Type": "String" });
    assert_eq!(
        json_call(&world, "AmazonSSM.PutParameter", body.clone())
            .await
            .0,
        200
    );
    let (status, error) = json_call(&world, "AmazonSSM.PutParameter", body).await;
    assert_eq!(
        (status, &error["__type"]),
        (400, &json!("ParameterAlreadyExists"))
    );
    for _ in 0..109 {
        world.put_parameter("/p", "v");
    }
    let page = |token: Value| {
        let body = json!({ "Name": "/p", "MaxResults": 40, "NextToken": token });
        json_call(&world, "AmazonSSM.GetParameterHistory", body)
    };
    let (mut token, mut seen) = (Value::Null, Vec::new());
    loop {
        let (_, body) = page(token).await;
        let versions = body["Parameters"].as_array().unwrap();
        seen.extend(versions.iter().map(|it| it["Version"].as_u64().unwrap()));
        token = body["NextToken"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(seen, (11..=110).collect::<Vec<_>>());
    let (_, got) = json_call(&world, "AmazonSSM.GetParameter", json!({ "Name": "/p" })).await;
    assert_eq!(got["Parameter"]["LastModifiedDate"], 1_787_551_200.0);
}

#[tokio::test(start_paused = true)]
async fn rules_strike_the_nth_call_and_hooks_come_between() {
    let (world, service) = world(|_| ());
    let id = service.production_id.clone();
    world.add_rule(
        Rule::on("UpdateDistribution")
            .about(&id)
            .nth(1)
            .then(Action::DropAfter),
    );
    let path = format!("distribution/{id}/config");
    let got = cloudfront(&world, "GET", &path, "", "").await;
    let request = |body: String| {
        Request::put(format!("/2020-05-31/{path}"))
            .header("if-match", &got.etag)
            .body(body.into_bytes())
            .unwrap()
    };
    let lost = world.handle(request(detached(got.body.clone()))).await;
    assert!(matches!(lost, Exchange::Dropped));
    assert_eq!(
        world.distribution(&id).unwrap().policy_id,
        "",
        "it took effect all the same"
    );
    let entry = world.journal().mutations().pop().unwrap();
    assert_eq!(entry.seen, Seen::Dropped);
    assert!(
        entry
            .to_string()
            .contains(&format!("policy {} detached", service.policy_id))
    );

    let other = service.clone();
    let between = Action::before(move |world, _| {
        world.deploy_again(&other).unwrap();
    });
    world.add_rule(Rule::on("UpdateDistribution").nth(1).then(between));
    assert_eq!(
        put(&world, &id, detached).await.outcome(),
        (412, "PreconditionFailed")
    );

    let denied = world.deny("GetDistribution");
    let path = format!("distribution/{id}");
    let answer = cloudfront(&world, "GET", &path, "", "").await;
    assert_eq!(answer.outcome(), (403, "AccessDenied"));
    world.remove_rule(denied);
    assert_eq!(cloudfront(&world, "GET", &path, "", "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_hurts_the_same_calls() {
    async fn run(seed: u64) -> Vec<String> {
        let world = testing::world(|settings| settings.seed = seed);
        let service = world.create_service("shop").unwrap();
        world.set_faults(Faults::storm());
        for _ in 0..60 {
            let path = format!("/2020-05-31/distribution/{}", service.staging_id);
            world
                .handle(Request::get(path).body(Vec::new()).unwrap())
                .await;
        }
        world
            .journal()
            .entries()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
    assert!(first.iter().any(|it| it.contains("throttled")));
    assert!(first.iter().any(|it| it.contains("connection cut")));
}

/// A call signed with credentials that STS gave out; status and body.
async fn signed(
    world: &EmbeddedAws,
    [key, token]: [&str; 2],
    target: &str,
    body: Value,
) -> (u16, String) {
    let credential = format!("AWS4-HMAC-SHA256 Credential={key}/20260824/eu-west-1/x/aws4_request");
    let request = Request::post("/")
        .header("authorization", credential)
        .header("x-amz-security-token", token)
        .header("x-amz-target", target)
        .body(body.to_string().into_bytes())
        .unwrap();
    let Exchange::Reply(response) = world.handle(request).await else {
        panic!("dropped")
    };
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_roles_credentials_open_its_account_and_nothing_else_until_they_end() {
    let (world, home) = world(|_| ());
    let there = world.in_account("210987654321", "eu-west-1");
    let service = there.create_service("other").unwrap();
    world.create_role("arn:aws:iam::210987654321:role/x", Some("a b"));
    let assume = async |external_id: &str| {
        let body = format!(
            "Action=AssumeRole&Version=2011-06-15&RoleSessionName=me&DurationSeconds=900\
             &RoleArn=arn%3Aaws%3Aiam%3A%3A210987654321%3Arole%2Fx&ExternalId={external_id}"
        );
        let request = Request::post("/").body(body.into_bytes()).unwrap();
        match world.handle(request).await {
            Exchange::Reply(response) => String::from_utf8(response.into_body()).unwrap(),
            Exchange::Dropped => panic!("dropped"),
        }
    };
    assert!(assume("a").await.contains("<Code>AccessDenied</Code>"));
    let session = assume("a+b").await;
    let field = |name: &str| {
        let (_, rest) = session.split_once(&format!("<{name}>")).unwrap();
        rest.split('<').next().unwrap()
    };
    let (key, token) = (field("AccessKeyId"), field("SessionToken"));

    let get = |parameter: &str| json!({ "Name": parameter });
    let read = "AmazonSSM.GetParameter";
    let own = get(&service.production_parameter);
    let (status, body) = signed(&world, [key, token], read, own.clone()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(&service.production_id), "{body}");
    // What is at home is not there, and the queue is nobody else's.
    let (_, body) = signed(&world, [key, token], read, get(&home.production_parameter)).await;
    assert!(body.contains("ParameterNotFound"), "{body}");
    let (_, body) = signed(&world, [key, token], "AmazonSQS.ListQueues", json!({})).await;
    assert!(body.contains("AccessDenied"), "{body}");

    let (status, body) = signed(&world, [key, "another"], read, own.clone()).await;
    assert_eq!(status, 403, "{body}");
    tokio::time::advance(Duration::from_secs(900)).await;
    let (_, body) = signed(&world, [key, token], read, own).await;
    assert!(body.contains("ExpiredToken"), "{body}");
}
