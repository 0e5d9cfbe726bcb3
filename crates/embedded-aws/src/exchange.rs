//! The two ends of an exchange: what was called, and what is answered.

use std::io;
use std::sync::Arc;

use http::Request;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::cloudfront_api;

/// How one exchange ended for the caller.
#[derive(Debug)]
pub enum Exchange {
    /// A response was sent.
    Reply(http::Response<Vec<u8>>),
    /// The connection was cut without a response. Whether the request took effect is for the
    /// journal to say; the caller cannot know.
    Dropped,
}

impl Exchange {
    /// The response, or the error of a connection that was cut.
    ///
    /// # Errors
    /// `ConnectionReset` where it was.
    pub fn into_response(self) -> io::Result<http::Response<Vec<u8>>> {
        match self {
            Self::Reply(response) => Ok(response),
            Self::Dropped => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// A service of the embedded AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AwsService {
    /// Simple Queue AwsService, AWS JSON 1.0.
    Sqs,
    /// Systems Manager Parameter Store, AWS JSON 1.1.
    Ssm,
    /// CloudFront, REST-XML of 2020-05-31.
    CloudFront,
    /// CodePipeline, AWS JSON 1.1.
    CodePipeline,
    /// DynamoDB, AWS JSON 1.0.
    DynamoDb,
    /// EventBridge, AWS JSON 1.1.
    EventBridge,
    /// Identity and Access Management, AWS query protocol of 2010-05-08.
    Iam,
    /// Security Token Service, AWS query protocol of 2011-06-15.
    Sts,
    /// Anything else; answered with an error.
    Unknown,
}

impl std::fmt::Display for AwsService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sqs => "sqs",
            Self::Ssm => "ssm",
            Self::CloudFront => "cloudfront",
            Self::CodePipeline => "codepipeline",
            Self::DynamoDb => "dynamodb",
            Self::EventBridge => "events",
            Self::Iam => "iam",
            Self::Sts => "sts",
            Self::Unknown => "unknown",
        })
    }
}

/// One request, identified.
#[derive(Clone, Debug)]
pub struct Call {
    /// The service it is for.
    pub service: AwsService,
    /// The operation's name in the API, `UpdateDistribution` for instance.
    pub operation: String,
    /// What it is about: a distribution's or policy's id, a parameter's, queue's or pipeline's name.
    pub resource: Option<String>,
    /// The access key id that signed the request. Lets a test tell callers apart.
    pub caller: Option<String>,
    /// The account that those credentials belong to.
    pub account: String,
    /// The region that the request was signed for.
    pub region: Option<String>,
}

impl Call {
    /// Whether the operation changes something when it succeeds. Taking messages counts as a read, and
    /// so do assuming a role and a simulation.
    #[must_use]
    pub fn may_mutate(&self) -> bool {
        const READS: [&str; 6] = ["Get", "List", "Describe", "Receive", "Assume", "Simulate"];
        !READS
            .iter()
            .any(|prefix| self.operation.starts_with(prefix))
    }

    /// Reads the operation and the resource off a request. `account_of` tells whose credentials those
    /// of the caller are.
    pub(super) fn identify(
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
        let query = || super::sts::form(request.body());
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
            None => match cloudfront_api::route(request.method(), request.uri()) {
                Some((operation, resource)) => {
                    (AwsService::CloudFront, operation.to_owned(), resource)
                }
                None if request.uri().path().starts_with(cloudfront_api::PREFIX) => {
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

/// A refusal: HTTP status, AWS error code and text. Written to the wire as the service does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// The error's code without a namespace, `PreconditionFailed` for instance.
    pub code: String,
    /// The text beside it.
    pub message: String,
}

impl Failure {
    /// A refusal of the given status, code and text.
    pub fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
        }
    }

    /// What each service answers when it throttles.
    #[must_use]
    pub fn throttled(service: AwsService) -> Self {
        match service {
            // CloudFront throttles with 400 and a code of its own.
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts => {
                Self::new(400, "Throttling", "Rate exceeded")
            }
            AwsService::Sqs => Self::new(400, "RequestThrottled", "Request is throttled."),
            _ => Self::new(400, "ThrottlingException", "Rate exceeded"),
        }
    }

    /// What each service answers to a caller without the permission.
    #[must_use]
    pub fn access_denied(call: &Call) -> Self {
        let message = format!(
            "User is not authorized to perform: {}:{} because no identity-based policy allows it",
            call.service, call.operation
        );
        match call.service {
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts => {
                Self::new(403, "AccessDenied", message)
            }
            // SQS speaks JSON but keeps the short code for query-compatible clients.
            AwsService::Sqs => Self::new(403, "AccessDenied", message),
            _ => Self::new(400, "AccessDeniedException", message),
        }
    }

    /// A server-side failure, 500 or 503.
    #[must_use]
    pub fn server_error(service: AwsService, unavailable: bool) -> Self {
        match (service, unavailable) {
            (_, true) => Self::new(
                503,
                "ServiceUnavailable",
                "AwsService is unable to handle the request.",
            ),
            (AwsService::Ssm | AwsService::DynamoDb, false) => Self::new(
                500,
                "InternalServerError",
                "An error occurred on the server side.",
            ),
            (_, false) => Self::new(500, "InternalFailure", "An internal error occurred."),
        }
    }

    /// Puts the refusal on the wire in the service's protocol.
    pub(super) fn into_reply(self, service: AwsService, request_id: &str) -> Reply {
        let Self {
            status,
            code,
            message,
        } = self;
        let mut reply = match service {
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts => {
                let namespace = match service {
                    AwsService::Iam => super::iam::NAMESPACE,
                    AwsService::Sts => super::sts::NAMESPACE,
                    _ => super::cloudfront_xml::NAMESPACE,
                };
                let kind = if status >= 500 { "Receiver" } else { "Sender" };
                let body = format!(
                    "<?xml version=\"1.0\"?>\n<ErrorResponse xmlns=\"{namespace}\"><Error>\
                     <Type>{kind}</Type><Code>{}</Code><Message>{}</Message></Error>\
                     <RequestId>{request_id}</RequestId></ErrorResponse>",
                    quick_xml::escape::escape(&code),
                    quick_xml::escape::escape(&message),
                );
                Reply::new(status, body.into_bytes())
            }
            AwsService::Sqs => {
                let kind = if status >= 500 { "Receiver" } else { "Sender" };
                let body = serde_json::json!({
                    "__type": format!("com.amazonaws.sqs#{code}"),
                    "message": message,
                });
                Reply::new(status, body.to_string().into_bytes()).header(
                    "x-amzn-query-error",
                    format!("{};{kind}", super::sqs::query_code(&code)),
                )
            }
            AwsService::Ssm
            | AwsService::CodePipeline
            | AwsService::DynamoDb
            | AwsService::EventBridge
            | AwsService::Unknown => {
                // Several Parameter Store errors come without any text.
                let body = if message.is_empty() {
                    serde_json::json!({ "__type": code })
                } else {
                    serde_json::json!({ "__type": code, "message": message })
                };
                Reply::new(status, body.to_string().into_bytes())
            }
        };
        reply.code = Some(code);
        reply
    }
}

/// What a service answers, before it becomes an HTTP response.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) change: Option<Change>,
    pub(super) code: Option<String>,
}

impl Reply {
    pub(super) fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            change: None,
            code: None,
        }
    }

    pub(super) fn json(body: &serde_json::Value) -> Self {
        Self::new(200, body.to_string().into_bytes())
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn changed(mut self, change: Change) -> Self {
        self.change = Some(change);
        self
    }

    /// The HTTP response.
    pub(super) fn into_response(
        self,
        service: AwsService,
        request_id: &str,
        now: Timestamp,
    ) -> http::Response<Vec<u8>> {
        let content_type = match service {
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts => "text/xml",
            AwsService::Sqs | AwsService::DynamoDb => "application/x-amz-json-1.0",
            AwsService::Ssm
            | AwsService::CodePipeline
            | AwsService::EventBridge
            | AwsService::Unknown => "application/x-amz-json-1.1",
        };
        let mut builder = http::Response::builder()
            .status(self.status)
            .header("x-amzn-requestid", request_id)
            .header(http::header::CONTENT_TYPE, content_type);
        if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
            builder = builder.header(http::header::DATE, date);
        }
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        builder.body(self.body).unwrap_or_else(|_| {
            // Only a resource name with control characters in a header can come here.
            let mut response = http::Response::new(Vec::new());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// What a request changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// One line for people.
    pub description: String,
    /// The configuration or value before, where there was one.
    pub before: Option<Arc<str>>,
    /// The configuration or value after, where there is one.
    pub after: Option<Arc<str>>,
}

impl Change {
    pub(super) fn new(description: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            before: None,
            after: None,
        }
    }

    pub(super) fn from_to(
        description: impl Into<String>,
        before: impl Into<Arc<str>>,
        after: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            description: description.into(),
            before: Some(before.into()),
            after: Some(after.into()),
        }
    }
}
