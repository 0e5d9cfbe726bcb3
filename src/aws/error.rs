//! From the SDK's errors to the classes of [`crate::domain::error_class`].
//!
//! A code decides; the HTTP status only where the code says nothing. In particular a bare 404 is
//! never read as "it does not exist": a proxy can answer that, and deletion hangs on the answer.

use std::error::Error as StdError;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::settings::Misconfigured;
use super::sign_in::NotSignedIn;
use super::sts::NotAssumed;
use super::words::{AtHost, Denial, Host, impossible, obstacle, service, untrusted};
use crate::domain::error_class::{Conflict, ErrorClass};

/// A call that failed, after the SDK's own attempts. With its source it says which service failed at which
/// host, what happened, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.happened())]
pub struct AwsError {
    pub operation: &'static str,
    /// What it means.
    pub class: ErrorClass,
    /// AWS's error code, where there was an answer.
    pub code: Option<String>,
    /// Which host was asked, where that is known.
    host: Option<Host>,
    /// Nobody answered.
    unreached: bool,
    #[source]
    source: Box<dyn StdError + Send + Sync>,
}

impl AwsError {
    fn of(
        operation: &'static str,
        class: ErrorClass,
        code: Option<&str>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            class,
            code: code.map(str::to_owned),
            host: None,
            unreached: false,
            source: source.into(),
        }
    }

    /// What happened to which service, and where.
    fn happened(&self) -> String {
        let service = service(self.operation);
        let at = self.host.as_ref();
        let at = at.map_or(String::new(), |Host(host)| format!(" at {host}"));
        let operation = self.operation;
        match self.unreached {
            true => format!("{service} cannot be reached{at} ({operation})"),
            false => {
                let code = self.code.as_deref().unwrap_or(self.class.code());
                format!("{operation} of {service} failed{at} ({code})")
            }
        }
    }

    /// The IAM action that was denied, and the resource, where the service names them.
    #[must_use]
    pub fn denied(&self) -> Option<(&str, Option<&str>)> {
        let denial: &Denial = causes(self).find_map(|it| it.downcast_ref())?;
        Some((&denial.action, denial.resource.as_deref()))
    }

    /// Nobody answered the call.
    #[must_use]
    pub fn is_unreached(&self) -> bool {
        self.unreached
    }

    /// An answer that is no error by AWS's account but cannot be used: a field is missing, or the
    /// body is not what it should be.
    pub(super) fn unusable(
        operation: &'static str,
        why: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::of(operation, ErrorClass::Unavailable, None, why)
    }

    /// The pages of a list do not end.
    pub(crate) fn endless(operation: &'static str) -> Self {
        Self::unusable(operation, "the pages do not end")
    }

    /// The configuration that was read is no longer the one that was decided upon.
    pub(crate) fn changed(operation: &'static str, why: &'static str) -> Self {
        Self::of(operation, ErrorClass::Changed, None, why)
    }

    /// The call was not made, because the job that it was for has been told to stop.
    pub(super) fn not_begun(operation: &'static str) -> Self {
        let why = "not begun: the job was told to stop";
        Self::of(operation, ErrorClass::Unavailable, None, why)
    }

    /// An entry of a batch that failed.
    pub(super) fn entry(operation: &'static str, code: &str, message: Option<&str>) -> Self {
        let class = classify_code(code).unwrap_or(ErrorClass::Unavailable);
        let message = message.unwrap_or("the entry failed without a message");
        Self::of(operation, class, Some(code), message)
    }

    /// The role that it was to be made as could not be assumed.
    #[must_use]
    pub fn is_not_assumed(&self) -> bool {
        not_assumed(self).is_some()
    }

    /// There were no credentials to make it with.
    #[must_use]
    pub fn lacks_credentials(&self) -> bool {
        causes(self).any(|cause| cause.is::<NotSignedIn>()) && !self.is_not_assumed()
    }

    /// `Ok(None)` if the error says that the resource does not exist.
    pub(super) fn missing_as_none<T>(self) -> Result<Option<T>, Self> {
        if self.class == ErrorClass::NotFound {
            Ok(None)
        } else {
            Err(self)
        }
    }
}

/// Classes an error of the SDK.
pub(super) fn from_sdk<E>(
    operation: &'static str,
) -> impl FnOnce(SdkError<E, HttpResponse>) -> AwsError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    move |error| {
        // Nobody at AWS answered, or nobody who can be trusted.
        if !matches!(error, SdkError::ServiceError(_))
            && let Some(error) = not_made(operation, &error)
        {
            return error;
        }
        let (class, code) = match &error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().map(str::to_owned);
                let status = service.raw().status().as_u16();
                let class = code
                    .as_deref()
                    .and_then(classify_code)
                    .unwrap_or_else(|| classify_status(status));
                (class, code)
            }
            SdkError::ConstructionFailure(_) => (ErrorClass::Rejected, None),
            // Time was up, no connection, or no usable answer.
            _ => (ErrorClass::Unavailable, None),
        };
        let answered = error.raw_response().and_then(|it| it.extension::<Host>());
        let asked = causes(&error).find_map(|it| it.downcast_ref::<AtHost>());
        let host = answered.or_else(|| asked.map(|it| &it.host)).cloned();
        let unreached = matches!(
            error,
            SdkError::DispatchFailure(_) | SdkError::TimeoutError(_)
        );
        let source = match unreached {
            true => format!(
                "{}; check the network, AWS_ENDPOINT_URL and the region",
                obstacle(&error)
            )
            .into(),
            false => source_of(error),
        };
        AwsError {
            operation,
            class,
            code,
            host,
            unreached,
            source,
        }
    }
}

/// A call that failed before anybody at AWS could answer, for a reason that no waiting changes or that came with
/// a class of its own.
fn not_made(operation: &'static str, error: &(dyn StdError + 'static)) -> Option<AwsError> {
    let made = |class, code, source: Box<dyn StdError + Send + Sync>| AwsError {
        host: causes(error)
            .find_map(|it| it.downcast_ref::<AtHost>())
            .map(|it| it.host.clone()),
        ..AwsError::of(operation, class, code, source)
    };
    if let Some(it) = not_assumed(error) {
        return Some(made(it.class, it.code.as_deref(), Box::new(it.clone())));
    }
    if let Some(it) = causes(error).find_map(|it| it.downcast_ref::<NotSignedIn>()) {
        return Some(made(it.class, None, Box::new(it.clone())));
    }
    if let Some(it) = causes(error).find_map(|it| it.downcast_ref::<Misconfigured>()) {
        let source = Box::new(it.clone());
        return Some(made(ErrorClass::Misconfigured, None, source));
    }
    let said = untrusted(error).or_else(|| impossible(error))?;
    Some(made(ErrorClass::Misconfigured, None, said.into()))
}

/// Whether nobody answered at all.
pub(super) fn unreached(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|it| it.is::<ConnectorError>() || it.to_string().contains("timed out"))
}

/// Why the role could not be assumed, if that is why a call failed.
fn not_assumed<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a NotAssumed> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// An error, and what caused it, and what caused that.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The part of the SDK's error that says something: its own Display is only "service error", and that of
/// an error which is not in the service's model is for debugging.
fn source_of<E>(error: SdkError<E, HttpResponse>) -> Box<dyn StdError + Send + Sync>
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let message = error.as_service_error().and_then(|error| error.message());
    if let Some(message) = message.filter(|message| !message.is_empty()) {
        return match Denial::read(message) {
            Some(denial) => denial.into(),
            None => message.into(),
        };
    }
    match error {
        SdkError::ServiceError(context) if context.err().code().is_none() => format!(
            "HTTP {} without an error that can be read",
            context.raw().status().as_u16()
        )
        .into(),
        SdkError::ServiceError(_) => error.into_source().unwrap_or_else(|error| Box::new(error)),
        other => Box::new(other),
    }
}

/// The class of an error code, over all services; `None` for one that says nothing by itself.
pub(super) fn classify_code(code: &str) -> Option<ErrorClass> {
    use Conflict::{ConcurrentWrite, NotDisabled, PolicyInUse, ResourceInUse, StagingInUse};
    Some(match code {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "ProvisionedThroughputExceededException"
        | "SlowDown"
        | "BandwidthLimitExceeded"
        | "OverLimit"
        | "KmsThrottled"
        | "KMS.ThrottlingException" => ErrorClass::Throttled,

        "NoSuchDistribution"
        | "NoSuchContinuousDeploymentPolicy"
        | "ParameterNotFound"
        | "ParameterVersionNotFound"
        | "PipelineNotFoundException"
        | "PipelineExecutionNotFoundException"
        | "QueueDoesNotExist"
        | "AWS.SimpleQueueService.NonExistentQueue"
        | "NoSuchEntity"
        | "ResourceNotFoundException" => ErrorClass::NotFound,

        "PreconditionFailed" | "InvalidIfMatchVersion" | "ConditionalCheckFailedException" => {
            ErrorClass::Changed
        }

        "ContinuousDeploymentPolicyInUse" => ErrorClass::Conflict(PolicyInUse),
        "StagingDistributionInUse" => ErrorClass::Conflict(StagingInUse),
        "DistributionNotDisabled" => ErrorClass::Conflict(NotDisabled),
        "ResourceInUse" => ErrorClass::Conflict(ResourceInUse),
        "TooManyUpdates" | "TransactionConflictException" | "ReplicatedWriteConflictException" => {
            ErrorClass::Conflict(ConcurrentWrite)
        }

        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalServiceError"
        | "InternalException"
        | "InvalidEndpointException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException" => ErrorClass::Unavailable,

        _ if DENIED.contains(&code) => ErrorClass::AccessDenied,
        _ if REJECTED.contains(&code) => ErrorClass::Rejected,
        _ if REFUSALS.iter().any(|refusal| code.starts_with(refusal)) => ErrorClass::Rejected,
        _ => return None,
    })
}

/// Codes that say who may not, or that nobody is signed in.
const DENIED: [&str; 24] = [
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "RegionDisabledException",
    "InvalidSecurity",
    "KmsAccessDenied",
    "NotAuthorizedForSourceException",
    "NotAuthorizedForDetailTypeException",
    "KMS.AccessDeniedException",
    "KmsOptInRequired",
    "KMS.OptInRequired",
];

/// Codes that refuse what was sent. The status would say "not there" or "not allowed" of some of them.
const REJECTED: [&str; 42] = [
    "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "AWS.SimpleQueueService.EmptyBatchRequest",
    "AWS.SimpleQueueService.InvalidBatchEntryId",
    "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
    "AWS.SimpleQueueService.UnsupportedOperation",
    "BatchEntryIdsNotDistinct",
    "CNAMEAlreadyExists",
    "EmptyBatchRequest",
    "EntityNotFound",
    "HierarchyLevelLimitExceededException",
    "HierarchyTypeMismatchException",
    "InconsistentQuantities",
    "IncompatiblePolicyException",
    "ItemCollectionSizeLimitExceededException",
    "KMS.DisabledException",
    "KMS.InvalidKeyUsageException",
    "KMS.InvalidStateException",
    "KMS.NotFoundException",
    "KmsDisabled",
    "KmsInvalidKeyUsage",
    "KmsInvalidState",
    "KmsNotFound",
    "NoSuchCachePolicy",
    "NoSuchFieldLevelEncryptionConfig",
    "NoSuchOrigin",
    "NoSuchOriginRequestPolicy",
    "NoSuchRealtimeLogConfig",
    "NoSuchResponseHeadersPolicy",
    "PackedPolicyTooLarge",
    "ParameterAlreadyExists",
    "ParameterLimitExceeded",
    "ParameterMaxVersionLimitExceeded",
    "ParameterPatternMismatchException",
    "PoliciesLimitExceededException",
    "PolicyEvaluation",
    "RealtimeLogConfigOwnerMismatch",
    "TrustedKeyGroupDoesNotExist",
    "TrustedSignerDoesNotExist",
    "UnsupportedOperation",
    "UnsupportedParameterType",
    "ValidationError",
    "ValidationException",
];

/// How codes begin that refuse what was sent, whatever it is. The ones of another class stand above.
const REFUSALS: [&str; 5] = ["Illegal", "Invalid", "Malformed", "Missing", "TooMany"];

fn classify_status(status: u16) -> ErrorClass {
    match status {
        401 | 403 => ErrorClass::AccessDenied,
        412 => ErrorClass::Changed,
        429 => ErrorClass::Throttled,
        // A 404 without a code that is known does not come from the service; a 408 is a proxy's.
        404 | 408 => ErrorClass::Unavailable,
        400..500 => ErrorClass::Rejected,
        // The service failed; or it, or something in its place, answered what cannot be read.
        _ => ErrorClass::Unavailable,
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
