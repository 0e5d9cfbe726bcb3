//! Which operation a request is of, and what it is about.

use http::Request;

use crate::services::cloudfront::api;
use crate::services::cloudfront::xml::PREFIX;
use crate::wire::exchange::{AwsService, Call};
use crate::wire::query::form;

impl Call {
    /// Reads the operation and the resource off a request. `account_of` tells whose credentials those
    /// of the caller are.
    pub(crate) fn identify(
        request: &Request<Vec<u8>>,
        account_of: impl FnOnce(Option<&str>) -> String,
    ) -> Self {
        // KEY/DATE/REGION/SERVICE/aws4_request
        let mut credential = request
            .headers()
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once("Credential="))
            .map_or("", |(_, rest)| rest)
            .split('/');
        let caller = credential.next().filter(|key| !key.is_empty());
        let region = credential.nth(1).map(str::to_owned);
        let signed_for = credential.next();
        let account = account_of(caller);
        let caller = caller.map(str::to_owned);
        let query = || form(request.body());
        let target = request
            .headers()
            .get("x-amz-target")
            .and_then(|value| value.to_str().ok());
        let json = |field: &str| {
            serde_json::from_slice::<serde_json::Value>(request.body())
                .ok()
                .and_then(|body| body.get(field)?.as_str().map(str::to_owned))
        };
        let (service, operation, resource) = match target.and_then(|it| it.split_once('.')) {
            Some(("AmazonSQS", operation)) => {
                let queue = json("QueueUrl")
                    .and_then(|url| url.rsplit('/').next().map(str::to_owned))
                    .or_else(|| json("QueueName"));
                (AwsService::Sqs, operation.to_owned(), queue)
            }
            Some(("AmazonSSM", operation)) => (AwsService::Ssm, operation.to_owned(), json("Name")),
            Some(("CodePipeline_20150709", operation)) => (
                AwsService::CodePipeline,
                operation.to_owned(),
                json("pipelineName").or_else(|| json("name")),
            ),
            Some(("DynamoDB_20120810", operation)) => (
                AwsService::DynamoDb,
                operation.to_owned(),
                json("TableName"),
            ),
            Some(("AWSEvents", operation)) => {
                let rule = json("Name").or_else(|| json("Rule"));
                (AwsService::EventBridge, operation.to_owned(), rule)
            }
            Some((_, operation)) => (AwsService::Unknown, operation.to_owned(), None),
            None => match api::route(request.method(), request.uri()) {
                Some((operation, resource)) => {
                    (AwsService::CloudFront, operation.to_owned(), resource)
                }
                None if request.uri().path().starts_with(PREFIX) => {
                    (AwsService::CloudFront, "UnknownOperation".to_owned(), None)
                }
                None if request.uri().path() == "/" && query().contains_key("Action") => {
                    let mut form = query();
                    let operation = form.remove("Action").unwrap_or_default();
                    match signed_for {
                        Some("iam") => (AwsService::Iam, operation, form.remove("PolicySourceArn")),
                        _ => (AwsService::Sts, operation, form.remove("RoleArn")),
                    }
                }
                None => (AwsService::Unknown, "UnknownOperation".to_owned(), None),
            },
        };
        Self {
            service,
            operation,
            resource,
            caller,
            account,
            region,
        }
    }
}
