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
use crate::domain::error_class::{Conflict, ErrorClass};

/// A call that failed, after the SDK's own attempts.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed ({})", code.as_deref().unwrap_or(class.code()))]
pub struct AwsError {
    /// The API operation.
    pub operation: &'static str,
    /// What it means.
    pub class: ErrorClass,
    /// AWS's error code, where there was an answer.
    pub code: Option<String>,
    #[source]
    source: Box<dyn StdError + Send + Sync>,
}

impl AwsError {
    /// An answer that is no error by AWS's account but cannot be used: a field is missing, or the
    /// body is not what it should be.
    pub(super) fn unusable(
        operation: &'static str,
        why: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            class: ErrorClass::Unavailable,
            code: None,
            source: why.into(),
        }
    }

    /// The pages of a list do not end.
    pub(crate) fn endless(operation: &'static str) -> Self {
        Self::unusable(operation, "the pages do not end")
    }

    /// The configuration that was read is no longer the one that was decided upon.
    pub(crate) fn changed(operation: &'static str, why: &'static str) -> Self {
        Self {
            operation,
            class: ErrorClass::Changed,
            code: None,
            source: why.into(),
        }
    }

    /// The call was not made, because the job that it was for has been told to stop.
    pub(super) fn not_begun(operation: &'static str) -> Self {
        Self {
            operation,
            class: ErrorClass::Unavailable,
            code: None,
            source: "not begun: the job was told to stop".into(),
        }
    }

    /// An entry of a batch that failed.
    pub(super) fn entry(operation: &'static str, code: &str, message: Option<&str>) -> Self {
        Self {
            operation,
            class: classify_code(code).unwrap_or(ErrorClass::Unavailable),
            code: Some(code.to_owned()),
            source: message
                .unwrap_or("the entry failed without a message")
                .into(),
        }
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
        AwsError {
            operation,
            class,
            code,
            source: source_of(error),
        }
    }
}

/// A call that failed before anybody at AWS could answer, for a reason that no waiting changes or that came with
/// a class of its own.
fn not_made(operation: &'static str, error: &(dyn StdError + 'static)) -> Option<AwsError> {
    let made = |class, code, source| AwsError {
        operation,
        class,
        code,
        source,
    };
    if let Some(it) = not_assumed(error).cloned() {
        return Some(made(it.class, it.code.clone(), Box::new(it)));
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
fn impossible(error: &(dyn StdError + 'static)) -> Option<String> {
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
        return message.into();
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
