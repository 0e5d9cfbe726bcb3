//! Mistakes about whose everything is, and about who else is at work: what a daemon would see that makes
//! them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use http::{HeaderValue, Request, Response};
use serde_json::{Value, json};

use super::checker::Checker;
use super::sabotage::{Sabotage, json_of};
use super::wire::Wire;

/// Marks what is sent in place of a write that is held back.
const HELD: &str = "x-held-back";

/// What a daemon that makes a mistake remembers.
#[derive(Default)]
pub(super) struct Memory {
    /// By owner and question: the first answer.
    answers: Mutex<BTreeMap<String, Vec<u8>>>,
    /// By parameter: the write that is held back.
    held: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Checker {
    /// The executions that were rejected, with the ARN of their builds that wrote parameters.
    fn rejected_executions(&self) -> Vec<String> {
        let deployments = self.deployments();
        let rejected = deployments.into_iter().filter(|it| it.rejected);
        rejected.map(|it| it.service.execution_id).collect()
    }
}

/// The answer as a daemon sees it that makes this mistake.
pub(super) async fn misread(
    sabotage: Sabotage,
    wire: &Wire,
    asked: &Request<Vec<u8>>,
    operation: &str,
    mut answer: Response<Vec<u8>>,
) -> Response<Vec<u8>> {
    if sabotage == Sabotage::RecordsLast {
        return late(wire, asked, operation, answer).await;
    }
    let mut body = json_of(answer.body());
    let question = json_of(asked.body());
    match (sabotage, operation) {
        (Sabotage::IgnoresOthers, "GetPipelineState") => nobody_works(&mut body),
        (Sabotage::IgnoresOthers, "ListActionExecutions") if question["filter"].is_null() => {
            for it in list(&mut body, "actionExecutionDetails") {
                it["status"] = json!("Succeeded");
            }
        }
        (Sabotage::AsksOnce, "GetPipelineState" | "ListActionExecutions") => {
            let key = format!("{} {operation} {question}", wire.life.owner);
            let mut answers = wire.checker.memory.answers.lock().unwrap();
            let first = answers.entry(key).or_insert_with(|| answer.body().clone());
            *answer.body_mut() = first.clone();
            return answer;
        }
        (
            Sabotage::BindsByStart | Sabotage::ClaimsWide | Sabotage::TakesNewest,
            "ListPipelineExecutions",
        ) => {
            let rejected = wire.checker.rejected_executions();
            if let Some(all) = body["pipelineExecutionSummaries"].as_array_mut() {
                all.retain(|it| {
                    rejected
                        .iter()
                        .any(|id| it["pipelineExecutionId"] == json!(id))
                });
            }
        }
        (Sabotage::BindsByStart | Sabotage::ClaimsWide, "ListActionExecutions") => {
            claimed(&mut body, sabotage == Sabotage::ClaimsWide);
        }
        (Sabotage::BindsByStart | Sabotage::ClaimsWide, "GetParameterHistory") => {
            for it in list(&mut body, "Parameters") {
                let by = "arn:aws:sts::123456789012:assumed-role/ci/run";
                it["LastModifiedUser"] = json!(by);
            }
        }
        (Sabotage::TakesNewest, "GetParameterHistory") => {
            let name = question["Name"].as_str().unwrap_or_default();
            let history = wire.aws.parameter_history(name);
            let rejected = wire.checker.rejected_executions();
            let ours = |by: &Option<String>| by.as_ref().is_some_and(|it| rejected.contains(it));
            let own = history.iter().rfind(|it| ours(&it.by.execution));
            if let (Some(own), Some(newest)) = (own, list(&mut body, "Parameters").last_mut()) {
                newest["LastModifiedUser"] = json!(own.by.arn);
            }
        }
        _ => return answer,
    }
    *answer.body_mut() = body.to_string().into_bytes();
    answer
}

/// The pipeline's state with every action but approvals at its end.
fn nobody_works(body: &mut Value) {
    for stage in list(body, "stageStates") {
        let mut waits = false;
        for action in list(stage, "actionStates") {
            let latest = &mut action["latestExecution"];
            waits |= latest["token"].is_string();
            if latest["status"] == "InProgress" && latest["token"].is_null() {
                latest["status"] = json!("Succeeded");
            }
        }
        if stage["latestExecution"]["status"] == "InProgress" && !waits {
            stage["latestExecution"]["status"] = json!("Succeeded");
        }
    }
}

/// The actions of an execution as if all that is written until its approval opened, or long before and
/// after, were its own.
fn claimed(body: &mut Value, widely: bool) {
    let details = list(body, "actionExecutionDetails");
    let approval = |it: &&Value| it["input"]["actionTypeId"]["category"] == "Approval";
    let opened = details.iter().filter(approval);
    let opened = opened.filter_map(|it| it["startTime"].as_f64());
    let opened = opened.fold(0.0, f64::max);
    for it in details.iter_mut().filter(|it| !approval(&&**it)) {
        it["output"]["executionResult"] = json!({});
        if widely {
            let moved = |time: &Value, by: f64| json!(time.as_f64().unwrap_or(0.0) + by);
            it["startTime"] = moved(&it["startTime"], -600.0);
            it["lastUpdateTime"] = moved(&it["lastUpdateTime"], 1800.0);
        } else if opened > 0.0 {
            it["lastUpdateTime"] = json!(opened);
        }
    }
}

/// A write of `deleted` is kept for later, and a read sent in its place.
pub(super) fn held_back(wire: &Wire, mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let body = json_of(request.body());
    let target = request.headers().get("x-amz-target");
    let puts = target.is_some_and(|it| it == "AmazonSSM.PutParameter");
    if !puts || body["Value"] != "deleted" {
        return request;
    }
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let read = json!({ "Name": name }).to_string().into_bytes();
    let write = std::mem::replace(request.body_mut(), read);
    wire.checker.memory.held.lock().unwrap().insert(name, write);
    let headers = request.headers_mut();
    headers.insert(
        "x-amz-target",
        HeaderValue::from_static("AmazonSSM.GetParameter"),
    );
    headers.insert(HELD, HeaderValue::from_static("1"));
    request
}

/// What a daemon sees that holds its write back until the staging distribution is gone.
async fn late(
    wire: &Wire,
    asked: &Request<Vec<u8>>,
    operation: &str,
    mut answer: Response<Vec<u8>>,
) -> Response<Vec<u8>> {
    let held = |name: &str| wire.checker.memory.held.lock().unwrap().contains_key(name);
    let mut body = json_of(answer.body());
    let question = json_of(asked.body());
    let name = question["Name"].as_str().unwrap_or_default().to_owned();
    if operation == "GetParameter" && held(&name) {
        let version = body["Parameter"]["Version"].as_u64().unwrap_or(0) + 1;
        if asked.headers().contains_key(HELD) {
            body = json!({ "Version": version, "Tier": "Standard" });
        } else {
            body["Parameter"]["Value"] = json!("deleted");
            body["Parameter"]["Version"] = json!(version);
        }
        *answer.body_mut() = body.to_string().into_bytes();
    }
    if asked.method() == http::Method::DELETE && asked.uri().path().contains("/distribution/") {
        let writes = std::mem::take(&mut *wire.checker.memory.held.lock().unwrap());
        for write in writes.into_values() {
            let write = Request::post("http://aws.test/")
                .header("x-amz-target", "AmazonSSM.PutParameter")
                .body(write)
                .unwrap();
            let _ = wire.forward(write).await;
        }
    }
    answer
}

/// Takes a distribution out of a list of them.
pub(super) fn unlist(answer: &mut Response<Vec<u8>>, id: &str) {
    const END: &str = "</DistributionSummary>";
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let start = text.find(&format!("<DistributionSummary><Id>{id}</Id>"));
    if let Some((start, end)) = start.and_then(|at| Some((at, at + text[at..].find(END)?))) {
        let text = format!("{}{}", &text[..start], &text[end + END.len()..]);
        *answer.body_mut() = text.into_bytes();
    }
}

fn list<'a>(body: &'a mut Value, name: &str) -> &'a mut [Value] {
    body[name].as_array_mut().map_or(&mut [], Vec::as_mut_slice)
}
