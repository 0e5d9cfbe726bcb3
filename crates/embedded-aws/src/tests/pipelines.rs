//! What is asked of pipelines through CodePipeline's API.

use std::time::Duration;

use serde_json::{Value, json};

use super::world;
use crate::testing::json_call;
use crate::{EmbeddedAws, Service};

async fn ask(aws: &EmbeddedAws, operation: &str, body: Value) -> (u16, Value) {
    json_call(aws, &format!("CodePipeline_20150709.{operation}"), body).await
}

async fn put_result(aws: &EmbeddedAws, of: &Service, token: &Value, status: &str) -> (u16, Value) {
    let body = json!({
        "pipelineName": of.pipeline,
        "stageName": "Approve",
        "actionName": "Approve",
        "result": { "status": status, "summary": "no" },
        "token": token,
    });
    ask(aws, "PutApprovalResult", body).await
}

async fn token(aws: &EmbeddedAws, of: &Service) -> Value {
    let (_, state) = ask(aws, "GetPipelineState", json!({ "name": of.pipeline })).await;
    let stages = state["stageStates"].as_array().unwrap().iter();
    let approve = stages.into_iter().find(|it| it["stageName"] == "Approve");
    approve.unwrap()["actionStates"][0]["latestExecution"]["token"].clone()
}

#[tokio::test(start_paused = true)]
async fn each_execution_that_is_started_and_rejected_by_the_api_sends_its_own_event() {
    let (aws, first) = world(|_| ());
    let queues = aws.create_queue_with_dlq("rejections", 3, Duration::from_secs(30));
    aws.route_rejections("rejections", &queues.url).unwrap();
    let mut seen = vec![first.execution_id.clone()];
    for sent in 1..=3 {
        let token = token(&aws, &first).await;
        let (status, answer) = put_result(&aws, &first, &token, "Rejected").await;
        assert_eq!(status, 200, "{answer}");
        let messages = aws.messages(&queues.url);
        assert_eq!(messages.len(), sent);
        let event: Value = serde_json::from_str(&messages[sent - 1].body).unwrap();
        assert_eq!(event["detail"]["state"], "FAILED");
        assert_eq!(event["detail"]["action-execution-id"], token);
        assert_eq!(event["detail"]["execution-id"], *seen.last().unwrap());
        let result = &event["detail"]["execution-result"];
        assert_eq!(result["external-execution-summary"], "no");

        let body = json!({ "name": first.pipeline });
        let (_, started) = ask(&aws, "StartPipelineExecution", body).await;
        let id = started["pipelineExecutionId"].as_str().unwrap().to_owned();
        assert!(!seen.contains(&id));
        seen.push(id);
    }
    let value = aws.parameter(&first.staging_parameter).unwrap();
    assert_ne!(value, first.staging_id, "the last one has deployed");
}

#[tokio::test(start_paused = true)]
async fn an_approval_is_decided_once_by_its_own_token_and_again_after_a_retry() {
    let (aws, service) = world(|_| ());
    let (status, answer) = put_result(&aws, &service, &json!("another"), "Rejected").await;
    assert_eq!(status, 400);
    let is = |answer: &Value, code: &str| answer["__type"].as_str().unwrap().ends_with(code);
    assert!(is(&answer, "InvalidApprovalTokenException"), "{answer}");
    let first = token(&aws, &service).await;
    let (_, answer) = put_result(&aws, &service, &first, "Maybe").await;
    assert!(is(&answer, "ValidationException"), "{answer}");
    assert_eq!(put_result(&aws, &service, &first, "Rejected").await.0, 200);
    let (_, answer) = put_result(&aws, &service, &first, "Approved").await;
    assert!(is(&answer, "ApprovalAlreadyCompletedException"), "{answer}");
    let body = json!({
        "pipelineName": service.pipeline,
        "stageName": "Approve",
        "pipelineExecutionId": service.execution_id,
        "retryMode": "FAILED_ACTIONS",
    });
    let (status, answer) = ask(&aws, "RetryStageExecution", body).await;
    assert_eq!(status, 200, "{answer}");
    let second = token(&aws, &service).await;
    assert_ne!(second, first);
    let (status, answer) = put_result(&aws, &service, &second, "Approved").await;
    assert_eq!(status, 200, "{answer}");
    let execution = aws.execution(&service).unwrap();
    assert_eq!(execution.latest("Approve").unwrap().status, "Succeeded");
}
