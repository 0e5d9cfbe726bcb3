//! What exactly goes over HTTP for each call of the daemon, and what each answer means.

mod cloudfront;
mod errors;
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
