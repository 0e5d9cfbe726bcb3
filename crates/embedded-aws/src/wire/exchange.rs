//! The two ends of an exchange: what was called, and what is answered.

use std::io;
use std::sync::Arc;

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
}

/// A refusal: HTTP status, AWS error code and text. Written to the wire as the service does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
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
}

/// What a service answers, before it becomes an HTTP response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) change: Option<Change>,
    pub(crate) code: Option<String>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            change: None,
            code: None,
        }
    }

    pub(crate) fn json(body: &serde_json::Value) -> Self {
        Self::new(200, body.to_string().into_bytes())
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn changed(mut self, change: Change) -> Self {
        self.change = Some(change);
        self
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
    pub(crate) fn new(description: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            before: None,
            after: None,
        }
    }

    pub(crate) fn from_to(
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
