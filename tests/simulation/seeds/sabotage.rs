//! Mistakes a daemon could make, made on purpose at its borders: a checker that does not catch them
//! checks nothing.

use http::{HeaderValue, Method, Request, Response};
use serde_json::{Value, json};

use super::misreadings;
use super::wire::Wire;

type Answer = std::io::Result<Response<Vec<u8>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A message is deleted as soon as it is received.
    DeletesEarly,
    /// A write goes to whatever version is current.
    SkipsIfMatch,
    /// The staging distribution is disabled before its policy is deleted.
    DisablesEarly,
    /// Propagation is not waited for.
    BelievesItDeployed,
    /// Whatever policy production has is taken for the job's own.
    DropsPolicyFence,
    /// The parameter is overwritten although a newer deployment owns it.
    DropsOwnerFence,
    /// The job is about what the parameter names now, on every resume too.
    RereadsTheParameter,
    /// The staging distribution is taken for gone.
    BelievesItGone,
    /// A grant is neither renewed nor asked for at the end.
    IgnoresOwnership,
    /// A second job for a production distribution is let in.
    SharesProduction,
    /// An extension counts before it is confirmed.
    BelievesExtensions,
    /// A message is settled by the receipt handle of its first receive.
    KeepsTheFirstHandle,
    /// Events of a foreign account are obeyed.
    ObeysForeigners,
    /// CodePipeline is asked, and what came after the rejection is not heeded.
    MissesRetries,
    /// What is written to the table is written whoever holds it.
    SkipsConditions,
    /// A job is done before its notice is kept.
    KeepsNoNotices,
    /// The event bus has taken whatever it was told.
    BelievesTheBus,
    /// A job waits for those who are told.
    WaitsForOutlets,
    /// What the parameter named when the approval began is taken for the rejected execution's own.
    BindsByStart,
    /// What was written long before or after the execution's own actions is taken for its own.
    ClaimsWide,
    /// The newest version of the parameter is taken for the rejected execution's own.
    TakesNewest,
    /// Whoever else is at work is not heeded.
    IgnoresOthers,
    /// CodePipeline is asked once, and its answer believed from then on.
    AsksOnce,
    /// The parameter is written when everything else is done.
    RecordsLast,
}

impl Sabotage {
    /// Each, with the seed that caught it when this was written: that one is looked at first.
    pub(crate) const ALL: [(Self, u64); 24] = [
        (Self::DeletesEarly, 0),
        (Self::SkipsIfMatch, 60),
        (Self::DisablesEarly, 6),
        (Self::BelievesItDeployed, 2),
        (Self::DropsPolicyFence, 1),
        (Self::DropsOwnerFence, 1),
        (Self::RereadsTheParameter, 18),
        (Self::BelievesItGone, 0),
        (Self::IgnoresOwnership, 1),
        (Self::SharesProduction, 204),
        (Self::BelievesExtensions, 3),
        (Self::KeepsTheFirstHandle, 1),
        (Self::ObeysForeigners, 2),
        (Self::MissesRetries, 4),
        (Self::SkipsConditions, 3),
        (Self::KeepsNoNotices, 8),
        (Self::BelievesTheBus, 34),
        (Self::WaitsForOutlets, 8),
        (Self::BindsByStart, 4),
        (Self::ClaimsWide, 4),
        (Self::TakesNewest, 4),
        (Self::IgnoresOthers, 15),
        (Self::AsksOnce, 4),
        (Self::RecordsLast, 0),
    ];

    /// Whether it is one about what is told.
    pub(crate) fn is_about_notices(self) -> bool {
        matches!(
            self,
            Self::KeepsNoNotices | Self::BelievesTheBus | Self::WaitsForOutlets
        )
    }

    /// Whether it is one about whose everything is, and who else is at work.
    pub(crate) fn is_about_executions(self) -> bool {
        matches!(
            self,
            Self::BindsByStart
                | Self::ClaimsWide
                | Self::TakesNewest
                | Self::IgnoresOthers
                | Self::AsksOnce
                | Self::RecordsLast
        )
    }

    /// What is sent in place of a request.
    pub(crate) async fn request(
        self,
        wire: &Wire,
        mut request: Request<Vec<u8>>,
    ) -> Request<Vec<u8>> {
        match self {
            Self::SkipsIfMatch => {
                let id = resource(&request);
                let current = wire
                    .aws
                    .distribution(&id)
                    .map(|it| it.etag)
                    .or_else(|| wire.aws.policy(&id).map(|it| it.etag));
                if let (Some(etag), true) = (current, request.headers().contains_key("if-match")) {
                    let etag = HeaderValue::from_str(&etag).unwrap();
                    request.headers_mut().insert("if-match", etag);
                }
            }
            Self::DisablesEarly if request.method() == Method::DELETE => {
                let policy = resource(&request);
                let deployments = wire.checker.deployments();
                let of = deployments.iter().find(|it| it.service.policy_id == policy);
                if let Some(staging) =
                    of.and_then(|it| wire.aws.distribution(&it.service.staging_id))
                {
                    let disabled = staging.config.replace(
                        "<PriceClass>PriceClass_200</PriceClass><Enabled>true</Enabled>",
                        "<PriceClass>PriceClass_200</PriceClass><Enabled>false</Enabled>",
                    );
                    let path = format!("/2020-05-31/distribution/{}/config", staging.id);
                    let disable = Request::put(format!("http://aws.test{path}"))
                        .header("if-match", &staging.etag)
                        .body(disabled.into_bytes())
                        .unwrap();
                    let _ = wire.forward(disable).await;
                }
            }
            Self::SkipsConditions => {
                let mut body = json_of(request.body());
                if let Some(condition) = body["ConditionExpression"].as_str() {
                    body["ConditionExpression"] =
                        json!(format!("({condition}) OR attribute_exists(pk)"));
                    *request.body_mut() = body.to_string().into_bytes();
                }
            }
            Self::KeepsTheFirstHandle => {
                let mut body = json_of(request.body());
                for entry in body["Entries"].as_array_mut().into_iter().flatten() {
                    let handle = entry["ReceiptHandle"].as_str().unwrap_or_default();
                    if let Some(first) = wire.checker.first_handle(&wire.life, handle) {
                        entry["ReceiptHandle"] = json!(first);
                    }
                }
                if body["Entries"].is_array() {
                    *request.body_mut() = body.to_string().into_bytes();
                }
            }
            Self::RecordsLast => return misreadings::held_back(wire, request),
            _ => {}
        }
        request
    }

    /// What the daemon gets to see in place of an answer.
    pub(crate) async fn response(
        self,
        wire: &Wire,
        asked: &Request<Vec<u8>>,
        answer: Answer,
    ) -> Answer {
        let operation = asked
            .headers()
            .get("x-amz-target")
            .and_then(|target| target.to_str().ok())
            .and_then(|target| target.split_once('.'))
            .map_or("", |(_, operation)| operation);
        if self == Self::BelievesExtensions && operation == "ChangeMessageVisibilityBatch" {
            let entries = json_of(asked.body())["Entries"].clone();
            let extends = |it: &Value| it["VisibilityTimeout"].as_u64() > Some(60);
            let failed = !answer.as_ref().is_ok_and(|it| it.status().is_success());
            let entries = entries.as_array().cloned().unwrap_or_default();
            if failed && entries.iter().all(extends) {
                let done: Vec<_> = entries.iter().map(|it| json!({ "Id": it["Id"] })).collect();
                let body = json!({ "Successful": done }).to_string();
                return Ok(Response::new(body.into_bytes()));
            }
        }
        if self == Self::BelievesTheBus && operation == "PutEvents" {
            let entries = json_of(asked.body())["Entries"].clone();
            let entries = entries.as_array().into_iter().flatten();
            let taken: Vec<_> = entries.map(|_| json!({ "EventId": "taken" })).collect();
            let body = json!({ "FailedEntryCount": 0, "Entries": taken }).to_string();
            return Ok(Response::new(body.into_bytes()));
        }
        let mut answer = answer?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        if self.is_about_executions() {
            return Ok(misreadings::misread(self, wire, asked, operation, answer).await);
        }
        let deployments = wire.checker.deployments();
        match self {
            Self::ObeysForeigners if operation == "ReceiveMessage" => {
                replace(&mut answer, "999999999999", "123456789012");
            }
            Self::DeletesEarly if operation == "ReceiveMessage" => {
                let received = json_of(answer.body());
                let entries: Vec<_> = received["Messages"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .enumerate()
                    .map(|(number, message)| {
                        json!({ "Id": number.to_string(), "ReceiptHandle": message["ReceiptHandle"] })
                    })
                    .collect();
                if !entries.is_empty() {
                    let queue = json_of(asked.body())["QueueUrl"].clone();
                    let body = json!({ "QueueUrl": queue, "Entries": entries });
                    let delete = Request::post("http://aws.test/")
                        .header("x-amz-target", "AmazonSQS.DeleteMessageBatch")
                        .body(body.to_string().into_bytes())
                        .unwrap();
                    let _ = wire.forward(delete).await;
                }
            }
            Self::BelievesItDeployed if asked.method() == Method::GET => {
                replace(&mut answer, "<Status>InProgress<", "<Status>Deployed<");
            }
            Self::DropsPolicyFence if asked.method() == Method::GET => {
                let policy = resource(asked);
                let of = deployments.iter().find(|it| it.service.policy_id == policy);
                if let Some(theirs) = of {
                    let ours = deployments.iter().find(|it| {
                        it.rejected && it.service.production_id == theirs.service.production_id
                    });
                    if let Some(ours) = ours {
                        let (from, to) =
                            (&theirs.service.staging_domain, &ours.service.staging_domain);
                        replace(&mut answer, from, to);
                    }
                }
            }
            Self::DropsOwnerFence if operation == "GetParameter" => {
                let name = json_of(asked.body())["Name"].clone();
                let named = |it: &&super::checker::Deployment| {
                    name.as_str() == Some(&it.service.staging_parameter)
                };
                let ours = deployments.iter().filter(named).find(|it| it.rejected);
                let newest = deployments.iter().rfind(named);
                if let (Some(ours), Some(newest)) = (ours, newest) {
                    replace(
                        &mut answer,
                        &newest.service.staging_id,
                        &ours.service.staging_id,
                    );
                }
            }
            Self::RereadsTheParameter if operation == "GetParameter" => {
                let mut body = json_of(answer.body());
                body["Parameter"]["LastModifiedDate"] = json!(1.0);
                *answer.body_mut() = body.to_string().into_bytes();
            }
            Self::BelievesItGone if asked.method() == Method::GET => {
                let id = resource(asked);
                for deployment in &deployments {
                    misreadings::unlist(&mut answer, &deployment.service.staging_id);
                }
                if deployments.iter().any(|it| it.service.staging_id == id) {
                    *answer.status_mut() = http::StatusCode::NOT_FOUND;
                    *answer.body_mut() = b"<ErrorResponse><Error><Type>Sender</Type>\
                        <Code>NoSuchDistribution</Code><Message>gone</Message></Error>\
                        </ErrorResponse>"
                        .to_vec();
                }
            }
            Self::MissesRetries if operation == "ListActionExecutions" => {
                let mut body = json_of(answer.body());
                if let Some(details) = body["actionExecutionDetails"].as_array_mut() {
                    details.retain(|it| it["stageName"] == "Deploy" || it["status"] == "Failed");
                }
                *answer.body_mut() = body.to_string().into_bytes();
            }
            Self::MissesRetries if operation == "GetPipelineState" => {
                let mut body = json_of(answer.body());
                for stage in body["stageStates"].as_array_mut().into_iter().flatten() {
                    stage["latestExecution"]["status"] = json!("Failed");
                    stage["actionStates"] = json!([]);
                    if stage["stageName"] == "Promote" {
                        stage["latestExecution"]["pipelineExecutionId"] = json!("another");
                    }
                }
                *answer.body_mut() = body.to_string().into_bytes();
            }
            _ => {}
        }
        Ok(answer)
    }
}

pub(super) fn replace(answer: &mut Response<Vec<u8>>, from: &str, to: &str) {
    let text = String::from_utf8_lossy(answer.body()).replace(from, to);
    *answer.body_mut() = text.into_bytes();
}

pub(super) fn json_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// The id in the path of a CloudFront call.
fn resource<T>(request: &Request<T>) -> String {
    let mut parts = request.uri().path().split('/').skip(3);
    parts.next().unwrap_or_default().to_owned()
}
