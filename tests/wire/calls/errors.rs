//! What an answer means that is an error, or none of the service at all.

use super::*;

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
