//! What is said of a call that failed: which service, at which host, what happened, and what to do.

use std::error::Error as StdError;
use std::io::ErrorKind;

use super::error::causes;
use crate::domain::arn::Arn;

/// A host, and its port where the endpoint names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host(pub(super) String);

impl Host {
    /// The one of a URI, without what a user wrote before it.
    pub(super) fn of(uri: &str) -> Option<Self> {
        let uri: http::Uri = uri.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let host = authority.rsplit('@').next()?;
        Some(Self(host.to_owned()))
    }
}

/// Why a request to a host failed before it was answered.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(super) struct AtHost {
    pub(super) host: Host,
    source: Box<dyn StdError + Send + Sync>,
}

impl AtHost {
    pub(super) fn new(host: Host, source: Box<dyn StdError + Send + Sync>) -> Self {
        Self { host, source }
    }
}

/// Why a host was not reached, in its innermost words.
pub(super) fn obstacle(error: &(dyn StdError + 'static)) -> String {
    let io = causes(error).filter_map(|it| it.downcast_ref::<std::io::Error>());
    match io.last().map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(ErrorKind::TimedOut) => "no answer in time".to_owned(),
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            "the connection was cut off".to_owned()
        }
        _ => {
            let last = causes(error).last().map(ToString::to_string);
            let last = last.unwrap_or_default();
            match causes(error).any(|it| it.to_string().contains("dns error")) {
                true => format!("its name cannot be resolved ({last})"),
                false => last,
            }
        }
    }
}

/// The service of an operation, as people call it.
pub(super) fn service(operation: &str) -> &'static str {
    match operation {
        "GetParameter" | "GetParameterHistory" | "PutParameter" | "DescribeParameters" => {
            "Systems Manager"
        }
        "GetPipelineState"
        | "ListActionExecutions"
        | "ListPipelineExecutions"
        | "ListPipelines" => "CodePipeline",
        "GetItem" | "UpdateItem" | "Scan" => "DynamoDB",
        "AssumeRole" | "GetCallerIdentity" => "STS",
        "SimulatePrincipalPolicy" => "IAM",
        "DescribeEventBus"
        | "DescribeRule"
        | "ListRuleNamesByTarget"
        | "ListTargetsByRule"
        | "PutEvents" => "EventBridge",
        "ChangeMessageVisibilityBatch"
        | "DeleteMessageBatch"
        | "GetQueueAttributes"
        | "ReceiveMessage"
        | "SendMessage" => "SQS",
        _ if operation.contains("Distribution")
            || operation.contains("ContinuousDeploymentPolic") =>
        {
            "CloudFront"
        }
        _ => "AWS",
    }
}

/// Who may not do what on what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} may not {}{}{}; allow it in {}", .who, .action,
    .resource.as_ref().map_or(String::new(), |it| format!(" on {it}")),
    .why.as_ref().map_or(String::new(), |it| format!(" ({it})")),
    self.whom()
)]
pub(super) struct Denial {
    who: String,
    pub(super) action: String,
    pub(super) resource: Option<String>,
    why: Option<String>,
}

impl Denial {
    /// From the words of an IAM denial.
    pub(super) fn read(message: &str) -> Option<Self> {
        let (who, rest) = message
            .strip_prefix("User")?
            .split_once(" is not authorized to perform: ")?;
        let who = who.trim_start_matches(':').trim();
        let (asked, why) = match rest.split_once(" because ") {
            Some((asked, why)) => (asked, Some(why)),
            None => (rest, None),
        };
        let (action, resource) = match asked.split_once(" on resource: ") {
            Some((action, resource)) => (action, Some(resource)),
            None => (asked, None),
        };
        Some(Self {
            who: if who.is_empty() { "the caller" } else { who }.to_owned(),
            action: action.to_owned(),
            resource: resource.map(str::to_owned),
            why: why.map(str::to_owned),
        })
    }

    /// Whose policy has to allow it.
    fn whom(&self) -> String {
        let caller = Arn::parse(&self.who).map_or("", |arn| arn.resource);
        match caller.strip_prefix("assumed-role/") {
            Some(session) => format!("role/{}", session.split('/').next().unwrap_or_default()),
            None if caller.is_empty() => "the caller's policy".to_owned(),
            None => caller.to_owned(),
        }
    }
}

/// What is wrong with a certificate, if that is why a connection failed, and what to set.
pub(super) fn untrusted(error: &(dyn StdError + 'static)) -> Option<String> {
    const SAID: &str = "invalid peer certificate: ";
    let text = causes(error)
        .map(ToString::to_string)
        .find(|it| it.contains(SAID))?;
    let (_, what) = text.split_once(SAID)?;
    Some(format!(
        "the certificate that was shown is not trusted ({what}): if a proxy or a private endpoint has an \
         authority of its own, name the file of its certificate in AWS_CA_BUNDLE, in ca_bundle of the AWS \
         profile or in SSL_CERT_FILE"
    ))
}

/// What the SDK's endpoint rules say of a combination that cannot be.
pub(super) fn impossible(error: &(dyn StdError + 'static)) -> Option<String> {
    const SAID: [&str; 3] = [
        "Invalid Configuration: ",
        "FIPS is enabled but ",
        "DualStack is enabled but ",
    ];
    let mut texts = causes(error).map(ToString::to_string);
    let text = texts.find(|text| SAID.iter().any(|said| text.contains(said)))?;
    Some(format!(
        "{text}; unset AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT, or name no endpoint: queue.url \
         names one where its host is an interface endpoint or none of AWS's"
    ))
}
