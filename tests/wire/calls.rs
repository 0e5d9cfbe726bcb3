//! What exactly goes over HTTP for each call of the daemon, and what each answer means.

mod parameters;
mod pipelines;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use embedded_aws::{Action, EmbeddedAws, Rule, Service, Settings, http_client};
use serde_json::{Value, json};
use stagesweep::aws::cloudfront::CloudFront;
use stagesweep::aws::sqs::Queue;
use stagesweep::aws::ssm::ParameterStore;
use stagesweep::aws::{Account, AwsError, Connector, RECEIVE_MARGIN};
use stagesweep::domain::binding::{Binding, Form};
use stagesweep::domain::decision::{
    Decision, Deletable, Distribution, Observed, Policy, Progress, Step, decide,
};
use stagesweep::domain::error_class::{Conflict, ErrorClass};
use stagesweep::runtime::clock::Clock;
use stagesweep::telemetry::Telemetry;
use tokio::time::Instant;

use crate::signature::verified_scope;

/// One request as it went out.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Sent {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What is answered.
#[derive(Clone)]
enum Answers {
    /// The same to everything.
    Always(http::Response<Vec<u8>>),
    /// What a world answers.
    World(EmbeddedAws),
}

/// An HTTP client that keeps what it was asked to send.
#[derive(Clone)]
pub(crate) struct Wire {
    sent: Arc<Mutex<Vec<Sent>>>,
    answers: Answers,
}

impl Wire {
    /// A wire to a world.
    pub(crate) fn to(aws: &EmbeddedAws) -> Self {
        Self {
            sent: Arc::default(),
            answers: Answers::World(aws.clone()),
        }
    }

    pub(crate) fn http_client(&self) -> SharedHttpClient {
        let wire = self.clone();
        http_client(move |request| {
            let wire = wire.clone();
            async move { wire.exchange(request).await }
        })
    }

    async fn exchange(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> io::Result<http::Response<Vec<u8>>> {
        let headers = request.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let mut headers: BTreeMap<_, _> = headers.collect();
        let host = request.uri().authority().unwrap().to_string();
        headers.entry("host".to_owned()).or_insert(host);
        self.sent.lock().unwrap().push(Sent {
            method: request.method().to_string(),
            target: request.uri().path_and_query().unwrap().to_string(),
            headers,
            body: request.body().clone(),
        });
        match &self.answers {
            Answers::Always(response) => Ok(response.clone()),
            Answers::World(aws) => aws.handle(request).await.into_response(),
        }
    }

    /// What was sent since the last time.
    pub(crate) fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

/// The daemon's clients on a wire.
struct Rig {
    wire: Wire,
    account: Account,
    queue: Queue,
}

const QUEUE_URL: &str = "https://sqs.ap-northeast-1.amazonaws.com/123456789012/work";
const POLL: Duration = Duration::from_secs(20);

impl Rig {
    fn new(answers: Answers) -> Self {
        let clock = match &answers {
            Answers::World(aws) => Clock::following_tokio(aws.now()),
            Answers::Always(_) => clock(),
        };
        let wire = Wire {
            sent: Arc::default(),
            answers,
        };
        let connector = Connector::to_endpoint(
            "http://aws.test",
            "ap-northeast-1",
            Some(wire.http_client()),
            &clock,
            Arc::new(Telemetry::new(clock.clone())),
        );
        Self {
            wire,
            account: connector.account(),
            queue: connector.queue(QUEUE_URL, None, POLL),
        }
    }

    fn answering(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Self::new(Answers::Always(
            response.body(body.as_bytes().to_vec()).unwrap(),
        ))
    }

    /// What was sent since the last time, each checked to be signed as it went out.
    fn sent(&self, scope: &str) -> Vec<Sent> {
        let sent = self.wire.take();
        for request in &sent {
            assert_eq!(verified_scope(request, "rehearsal"), scope);
        }
        sent
    }

    fn one(&self, scope: &str) -> Sent {
        let mut sent = self.sent(scope);
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }
}

fn clock() -> Clock {
    Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap())
}

/// A rig on a world in which a deployment waits at its approval.
fn deployed() -> (Rig, EmbeddedAws, Service) {
    let aws = EmbeddedAws::new(clock(), Settings::default());
    let service = aws.create_service("shop").unwrap();
    aws.create_queue_with_dlq("work", 5, Duration::from_secs(120));
    (Rig::new(Answers::World(aws.clone())), aws, service)
}

/// What may be done is decided, not made: the step for a production distribution that names a policy, or
/// none, and a staging distribution.
fn decided(production: (&str, &str, Option<&str>), staging: (&str, &str, bool)) -> Step {
    let distribution = |(id, etag): (&str, &str), staging| Distribution {
        id: id.to_owned(),
        domain: format!("{id}.cloudfront.net"),
        etag: etag.to_owned(),
        deployed: true,
        enabled: true,
        staging,
        aliases: 0,
        policy_id: None,
    };
    let policy_id = production.2.map(str::to_owned);
    let staging = Distribution {
        enabled: staging.2,
        ..distribution((staging.0, staging.1), true)
    };
    let binding = Binding {
        production_id: production.0.to_owned(),
        staging_id: staging.id.clone(),
        ..Binding::default()
    };
    let policies = policy_id.iter().map(|id| Policy {
        id: id.clone(),
        etag: "e".to_owned(),
        staging_domains: vec![staging.domain.clone()],
    });
    let observed = Observed {
        policies: policies.collect(),
        production: Some(Distribution {
            policy_id,
            ..distribution((production.0, production.1), false)
        }),
        staging: Some(staging),
        parameter: None,
        listed_gone: false,
    };
    match decide(&binding, &observed, &Progress::default()) {
        Decision::Apply(step) => step,
        other => panic!("{other:?}"),
    }
}

const SOME_PRODUCTION: (&str, &str, Option<&str>) = ("EPRODUCTION111", "e", None);

fn deletable(id: &str, etag: &str) -> Deletable {
    match decided(SOME_PRODUCTION, (id, etag, false)) {
        Step::DeleteStaging(deletable) => deletable,
        other => panic!("{other:?}"),
    }
}

async fn detach(
    cloudfront: &CloudFront,
    id: &str,
    etag: &str,
    policy_id: &str,
) -> Result<(), AwsError> {
    let step = decided((id, etag, Some(policy_id)), ("ESTAGING222222", "e", true));
    let Step::Detach(detachable) = step else {
        panic!("{step:?}");
    };
    let update = cloudfront.prepare_detach(&detachable).await?;
    cloudfront
        .update(update, cloudfront.change_turn().await?)
        .await
}

async fn disable(cloudfront: &CloudFront, id: &str, etag: &str) -> Result<(), AwsError> {
    let step = decided(SOME_PRODUCTION, (id, etag, true));
    let Step::DisableStaging(disableable) = step else {
        panic!("{step:?}");
    };
    let update = cloudfront.prepare_disable(&disableable, false).await?;
    cloudfront
        .update(update, cloudfront.change_turn().await?)
        .await
}

async fn overwrite(ssm: &ParameterStore, name: &str, value: &str) -> Result<i64, AwsError> {
    let form = Form::default();
    ssm.overwrite(name, value, &form, ssm.change_turn().await?)
        .await
}

/// At an endpoint of one's own; at CloudFront's, the SDK signs for us-east-1.
const CLOUDFRONT: &str = "ap-northeast-1/cloudfront";
const SSM: &str = "ap-northeast-1/ssm";
const SQS: &str = "ap-northeast-1/sqs";

// ---- requests ----

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

#[tokio::test(start_paused = true)]
async fn the_queue_is_used_as_documented() {
    let (rig, aws, _) = deployed();
    aws.send(QUEUE_URL, "body").unwrap();
    let visibility = Duration::from_secs(120);
    let messages = rig.queue.receive(99, visibility, POLL).await.unwrap();
    let sent = rig.one(SQS);
    assert_eq!(sent.header("x-amz-target"), "AmazonSQS.ReceiveMessage");
    assert_eq!(
        sent.json(),
        json!({
            "QueueUrl": QUEUE_URL,
            "MaxNumberOfMessages": 10,
            "WaitTimeSeconds": 20,
            "VisibilityTimeout": 120,
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
        })
    );
    assert_eq!(messages.len(), 1);
    assert_eq!((&*messages[0].body, messages[0].receive_count), ("body", 1));
    assert_eq!(messages[0].sent_at, Some(aws.now()));

    let attributes = rig.queue.attributes().await.unwrap();
    assert_eq!(
        (attributes.max_receive_count, attributes.in_flight),
        (Some(5), 1)
    );
    let sent = rig.one(SQS);
    assert_eq!(sent.header("x-amz-target"), "AmazonSQS.GetQueueAttributes");
    assert_eq!(
        sent.json(),
        json!({ "QueueUrl": QUEUE_URL, "AttributeNames": ["All"] })
    );

    let handle = &messages[0].receipt_handle;
    let entries = [
        (handle.clone(), Duration::from_millis(90_900)),
        ("old".to_owned(), Duration::ZERO),
    ];
    let results = rig.queue.change_visibility(&entries).await.unwrap();
    assert!(results[0].is_ok() && results[1].is_err());
    let sent = rig.one(SQS);
    let target = "AmazonSQS.ChangeMessageVisibilityBatch";
    assert_eq!(sent.header("x-amz-target"), target);
    assert_eq!(
        sent.json(),
        json!({
            "QueueUrl": QUEUE_URL,
            "Entries": [
                { "Id": "m0", "ReceiptHandle": handle, "VisibilityTimeout": 90 },
                { "Id": "m1", "ReceiptHandle": "old", "VisibilityTimeout": 0 },
            ],
        })
    );

    let results = rig
        .queue
        .delete(std::slice::from_ref(handle))
        .await
        .unwrap();
    assert!(results[0].is_ok());
    let sent = rig.one(SQS);
    assert_eq!(sent.header("x-amz-target"), "AmazonSQS.DeleteMessageBatch");
    assert_eq!(
        sent.json(),
        json!({ "QueueUrl": QUEUE_URL, "Entries": [{ "Id": "m0", "ReceiptHandle": handle }] })
    );
    assert!(aws.messages(QUEUE_URL).is_empty());
}

// ---- answers ----

/// The class of each error code, wherever it comes from.
fn classes() -> Vec<(ErrorClass, Vec<&'static str>)> {
    use Conflict::{ConcurrentWrite, NotDisabled, PolicyInUse, ResourceInUse, StagingInUse};
    use ErrorClass::{AccessDenied, Changed, NotFound, Rejected, Throttled, Unavailable};
    let conflict = ErrorClass::Conflict;
    vec![
        (
            Throttled,
            vec![
                "Throttling",
                "ThrottlingException",
                "ThrottledException",
                "RequestThrottled",
                "RequestThrottledException",
                "TooManyRequestsException",
                "RequestLimitExceeded",
                "SlowDown",
                "BandwidthLimitExceeded",
                "OverLimit",
                "KmsThrottled",
                "KMS.ThrottlingException",
            ],
        ),
        (
            AccessDenied,
            vec![
                "AccessDenied",
                "AccessDeniedException",
                "UnauthorizedOperation",
                "InvalidClientTokenId",
                "UnrecognizedClientException",
                "ExpiredToken",
                "ExpiredTokenException",
                "SignatureDoesNotMatch",
                "InvalidSignatureException",
                "IncompleteSignature",
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
                "OptInRequired",
                "InvalidSecurity",
                "KmsAccessDenied",
                "KMS.AccessDeniedException",
            ],
        ),
        (
            NotFound,
            vec![
                "NoSuchDistribution",
                "NoSuchContinuousDeploymentPolicy",
                "ParameterNotFound",
                "PipelineNotFoundException",
                "PipelineExecutionNotFoundException",
                "QueueDoesNotExist",
                "AWS.SimpleQueueService.NonExistentQueue",
            ],
        ),
        (Changed, vec!["PreconditionFailed", "InvalidIfMatchVersion"]),
        (
            conflict(PolicyInUse),
            vec!["ContinuousDeploymentPolicyInUse"],
        ),
        (conflict(StagingInUse), vec!["StagingDistributionInUse"]),
        (conflict(NotDisabled), vec!["DistributionNotDisabled"]),
        (conflict(ResourceInUse), vec!["ResourceInUse"]),
        (conflict(ConcurrentWrite), vec!["TooManyUpdates"]),
        (
            Unavailable,
            vec![
                "InternalError",
                "InternalFailure",
                "InternalServerError",
                "InternalServiceError",
                "ServiceUnavailable",
                "ServiceUnavailableException",
                "RequestTimeout",
                "RequestTimeoutException",
            ],
        ),
        (
            Rejected,
            vec![
                "IllegalUpdate",
                "InvalidArgument",
                "MalformedXML",
                "MissingBody",
                "InconsistentQuantities",
                "CNAMEAlreadyExists",
                "HierarchyTypeMismatchException",
                "ParameterAlreadyExists",
                "ParameterMaxVersionLimitExceeded",
                "ValidationException",
                "InvalidAddress",
                "UnsupportedOperation",
                "AWS.SimpleQueueService.UnsupportedOperation",
                "KmsDisabled",
                "SomethingNew",
            ],
        ),
    ]
}

fn cloudfront_error(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<ErrorResponse \
         xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>why</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )
}

#[tokio::test(start_paused = true)]
async fn each_error_code_has_its_class_in_every_protocol() {
    for (class, codes) in classes() {
        for code in codes {
            // 400 says nothing, so that the code alone decides.
            let rig = Rig::answering(400, &[], &cloudfront_error(code));
            let error = rig.account.cloudfront.delete_policy("p", "e").await;
            let error = error.unwrap_err();
            assert_eq!((error.class, error.code.as_deref()), (class, Some(code)));

            for prefix in ["", "com.amazonaws.ssm#"] {
                let body = json!({ "__type": format!("{prefix}{code}"), "message": "why" });
                let rig = Rig::answering(400, &[], &body.to_string());
                let error = overwrite(&rig.account.ssm, "/p", "v").await.unwrap_err();
                assert_eq!((error.class, error.code.as_deref()), (class, Some(code)));
            }

            let body = json!({ "__type": format!("com.amazonaws.sqs#{code}") }).to_string();
            let rig = Rig::answering(400, &[], &body);
            assert_eq!(rig.queue.attributes().await.unwrap_err().class, class);
            let query = format!("{code};Sender");
            let rig = Rig::answering(400, &[("x-amzn-query-error", &query)], &body);
            assert_eq!(rig.queue.attributes().await.unwrap_err().class, class);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_counts_only_where_no_known_code_does() {
    use ErrorClass::{AccessDenied, Changed, Rejected, Throttled, Unavailable};
    for (status, class) in [
        (302, Unavailable),
        (400, Rejected),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, Unavailable),
        (408, Unavailable),
        (409, Rejected),
        (412, Changed),
        (429, Throttled),
        (500, Unavailable),
        (503, Unavailable),
    ] {
        let rig = Rig::answering(status, &[], &cloudfront_error("SomethingNew"));
        let error = rig.account.cloudfront.delete_policy("p", "e").await;
        assert_eq!(error.unwrap_err().class, class, "{status}");
    }
    let rig = Rig::answering(403, &[], &cloudfront_error("Throttling"));
    let error = rig.account.cloudfront.delete_policy("p", "e").await;
    assert_eq!(error.unwrap_err().class, Throttled);
}

/// The results of every call that could be misread as "it is not there" or "it is done".
async fn of_every_call(rig: &Rig) -> Vec<(&'static str, Result<(), AwsError>)> {
    let Account {
        cloudfront,
        ssm,
        codepipeline,
    } = &rig.account;
    let staging = deletable("ESTAGING222222", "e");
    vec![
        (
            "distribution",
            cloudfront.distribution("E1").await.map(drop),
        ),
        ("policy", cloudfront.policy("p").await.map(drop)),
        ("policies", cloudfront.policies_listing("d").await.map(drop)),
        ("update", disable(cloudfront, "E1", "e").await),
        ("delete_policy", cloudfront.delete_policy("p", "e").await),
        ("delete", cloudfront.delete_distribution(&staging).await),
        ("parameter", ssm.parameter("/p").await.map(drop)),
        ("history", ssm.history("/p").await.map(drop)),
        ("overwrite", overwrite(ssm, "/p", "v").await.map(drop)),
        ("look", codepipeline.look("p", "x").await.map(drop)),
        ("changes", ssm.changes("/p").await.map(drop)),
        ("executions", codepipeline.executions("p").await.map(drop)),
        ("around", {
            let began = clock().now();
            let around = codepipeline.executions_around("p", "x", began).await;
            around.map(drop)
        }),
        ("mode", codepipeline.mode("p").await.map(drop)),
        ("newest", codepipeline.newest_attempts("p").await.map(drop)),
        ("activity", codepipeline.activity("p", None).await.map(drop)),
        ("receive", rig.queue.receive(1, POLL, POLL).await.map(drop)),
        ("attributes", rig.queue.attributes().await.map(drop)),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_proxys_page_is_never_not_found() {
    let page = "<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>";
    for (status, kind, body) in [
        (404, "text/html", page),
        (404, "text/html", ""),
        (404, "text/plain", "NoSuchDistribution"),
        (404, "application/json", "{\"error\":\"not found\"}"),
        (404, "text/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        (502, "text/html", page),
        (504, "text/html", ""),
    ] {
        let rig = Rig::answering(status, &[("content-type", kind)], body);
        for (call, result) in of_every_call(&rig).await {
            let error = result.expect_err(call);
            assert_eq!(
                error.class,
                ErrorClass::Unavailable,
                "{call} {status} {body}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_in_the_place_of_an_answer_is_no_answer() {
    let page = "<html><body>Sign in to the network</body></html>";
    for body in [page, "", "{}", "<Distribution/>"] {
        let rig = Rig::answering(200, &[("etag", "e")], body);
        for (call, result) in of_every_call(&rig).await {
            // These answer nothing but a status. What they changed is looked at afterwards.
            let says_nothing = ["delete_policy", "delete"].contains(&call)
                // An empty object is how these say that there is nothing.
                || ["", "{}"].contains(&body)
                    && [
                        "receive",
                        "attributes",
                        "history",
                        "changes",
                        "overwrite",
                        "look",
                        "executions",
                        "around",
                        "mode",
                        "newest",
                        "activity",
                    ]
                    .contains(&call);
            if !says_nothing {
                let error = result.err();
                let class = error.map(|error| error.class);
                assert_eq!(class, Some(ErrorClass::Unavailable), "{call} {body:?}");
            }
        }
    }
}

/// An answer to GetDistribution.
fn distribution_xml(id: &str, config: &str) -> String {
    format!(
        "<Distribution xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Id>{id}</Id>\
         <ARN>arn</ARN><Status>InProgress</Status>\
         <LastModifiedTime>2026-09-03T14:00:00Z</LastModifiedTime>\
         <InProgressInvalidationBatches>0</InProgressInvalidationBatches>\
         <DomainName>d1.cloudfront.net</DomainName><DistributionConfig>\
         <CallerReference>r</CallerReference><Comment></Comment><Enabled>true</Enabled>\
         {config}</DistributionConfig></Distribution>"
    )
}

#[tokio::test(start_paused = true)]
async fn what_decisions_hang_on_is_read_on_the_safe_side() {
    let read = async |etag: &[(&str, &str)], body: String| {
        let rig = Rig::answering(200, etag, &body);
        rig.account.cloudfront.distribution("E1").await
    };
    let etag = [("etag", "e1")];
    let plain = read(&etag, distribution_xml("E1", ""))
        .await
        .unwrap()
        .unwrap();
    assert!(!plain.staging && !plain.deployed && plain.enabled);
    assert_eq!((plain.aliases, plain.policy_id), (0, None));
    for (config, aliases) in [
        ("<Aliases><Quantity>2</Quantity></Aliases>", 2),
        (
            "<Aliases><Quantity>0</Quantity><Items><CNAME>a.example.com</CNAME></Items></Aliases>",
            1,
        ),
        ("<Aliases><Quantity>0</Quantity></Aliases>", 0),
    ] {
        let config = format!(
            "{config}<Staging>true</Staging>\
             <ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId>"
        );
        let found = read(&etag, distribution_xml("E1", &config)).await;
        let found = found.unwrap().unwrap();
        assert_eq!((found.aliases, found.staging), (aliases, true));
        assert_eq!(found.policy_id, None);
    }
    for (etag, body) in [
        (&[][..], distribution_xml("E1", "")),
        (&etag[..], distribution_xml("E2", "")),
    ] {
        let error = read(etag, body).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_followed_but_not_for_ever() {
    let xml = "<ContinuousDeploymentPolicyList><NextMarker>again</NextMarker>\
               <MaxItems>100</MaxItems><Quantity>0</Quantity></ContinuousDeploymentPolicyList>";
    let rig = Rig::answering(200, &[], xml);
    let error = rig.account.cloudfront.policies_listing("d").await;
    assert_eq!(error.unwrap_err().class, ErrorClass::Unavailable);
    let sent = rig.sent(CLOUDFRONT);
    assert_eq!(
        sent[1].target,
        "/2020-05-31/continuous-deployment-policy?Marker=again&MaxItems=100"
    );

    let page = json!({ "NextToken": "again", "Parameters": [] }).to_string();
    let rig = Rig::answering(200, &[], &page);
    let error = rig.account.ssm.history("/p").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert_eq!(rig.sent(SSM)[1].json()["NextToken"], "again");
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_batch_succeeds_only_if_the_answer_says_so() {
    let failed = |id: &str, code: &str| json!({ "Id": id, "Code": code, "SenderFault": true });
    let answer = json!({
        "Successful": [{ "Id": "m0" }, { "Id": "m9" }],
        "Failed": [
            failed("m2", "ReceiptHandleIsInvalid"),
            failed("m3", "AWS.SimpleQueueService.MessageNotInflight"),
            failed("m4", "InternalError"),
            failed("m5", "RequestThrottled"),
            failed("m6", "InvalidParameterValue"),
        ],
    });
    let rig = Rig::answering(200, &[], &answer.to_string());
    let handles: Vec<String> = (0..7).map(|n| format!("handle {n}")).collect();
    let entries: Vec<_> = handles.iter().map(|it| (it.clone(), POLL)).collect();
    let deleted = rig.queue.delete(&handles).await.unwrap();
    let changed = rig.queue.change_visibility(&entries).await.unwrap();
    for results in [deleted, changed] {
        let results: Vec<_> = results
            .into_iter()
            .map(|result| result.map_err(|error| (error.handle_lost, error.class())))
            .collect();
        let unavailable = ErrorClass::Unavailable;
        assert_eq!(
            results,
            [
                Ok(()),
                Err((false, unavailable)),
                Err((true, unavailable)),
                Err((true, unavailable)),
                Err((false, unavailable)),
                Err((false, ErrorClass::Throttled)),
                Err((true, ErrorClass::Rejected)),
            ]
        );
    }
    // Silence is no success.
    let rig = Rig::answering(200, &[], "{}");
    let deleted = rig.queue.delete(&handles).await;
    assert!(deleted.is_err() || deleted.is_ok_and(|all| all.iter().all(Result::is_err)));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_lacks_attributes_counts_as_received_once() {
    let body = json!({ "Messages": [
        { "MessageId": "a", "ReceiptHandle": "h", "Body": "text" },
        { "MessageId": "b", "Body": "cannot be settled" },
    ]});
    let rig = Rig::answering(200, &[], &body.to_string());
    let messages = rig.queue.receive(10, POLL, POLL).await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].receive_count, messages[0].sent_at), (1, None));
}

// ---- time ----

#[tokio::test(start_paused = true)]
async fn a_poll_on_a_dead_connection_ends_soon_after_its_wait_time_without_a_retry() {
    let (rig, aws, _) = deployed();
    aws.add_rule(Rule::on("ReceiveMessage").then(Action::Hang));
    let start = Instant::now();
    let error = rig.queue.receive(10, POLL, POLL).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert_eq!(start.elapsed().as_secs(), (POLL + RECEIVE_MARGIN).as_secs());
    assert_eq!(rig.sent(SQS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_silent_for_its_whole_wait_time_is_no_stalled_stream() {
    let (rig, _, _) = deployed();
    let start = Instant::now();
    assert!(rig.queue.receive(10, POLL, POLL).await.unwrap().is_empty());
    assert_eq!(start.elapsed().as_secs(), POLL.as_secs());
    assert_eq!(rig.sent(SQS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_other_call_on_a_dead_connection_is_over_within_twenty_seconds() {
    let (rig, aws, _) = deployed();
    for operation in ["GetDistribution", "GetParameter", "DeleteMessageBatch"] {
        aws.add_rule(Rule::on(operation).then(Action::Hang));
    }
    let handles = ["handle".to_owned()];
    let start = Instant::now();
    let error = rig.account.cloudfront.distribution("E1").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert!((15..=20).contains(&start.elapsed().as_secs()));
    assert_eq!(rig.sent(CLOUDFRONT).len(), 3);
    let start = Instant::now();
    let error = rig.account.ssm.parameter("/p").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert!((15..=20).contains(&start.elapsed().as_secs()));
    assert_eq!(rig.sent("ap-northeast-1/ssm").len(), 3);
    // Its caller tries again by itself, with the newest receipt handle.
    let start = Instant::now();
    let error = rig.queue.delete(&handles).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(rig.sent(SQS).len(), 1);
}
