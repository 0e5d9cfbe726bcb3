use std::io::ErrorKind;

use super::*;

/// What the API model of each call that is made lists as its errors, by the codes on the wire; of SQS, which
/// has two protocols, in both. `tests/deploy/test_service_models.py` holds it against the models.
const MODELS: &[(&str, &[&str])] = &[
    ("GetDistribution", &["AccessDenied", "NoSuchDistribution"]),
    (
        "GetDistributionConfig",
        &["AccessDenied", "NoSuchDistribution"],
    ),
    ("ListDistributions", &["InvalidArgument"]),
    (
        "GetContinuousDeploymentPolicy",
        &["AccessDenied", "NoSuchContinuousDeploymentPolicy"],
    ),
    (
        "ListContinuousDeploymentPolicies",
        &[
            "AccessDenied",
            "InvalidArgument",
            "NoSuchContinuousDeploymentPolicy",
        ],
    ),
    (
        "UpdateDistribution",
        &[
            "AccessDenied",
            "CNAMEAlreadyExists",
            "ContinuousDeploymentPolicyInUse",
            "EntityNotFound",
            "IllegalFieldLevelEncryptionConfigAssociationWithCacheBehavior",
            "IllegalOriginAccessConfiguration",
            "IllegalUpdate",
            "InconsistentQuantities",
            "InvalidArgument",
            "InvalidDefaultRootObject",
            "InvalidDomainNameForOriginAccessControl",
            "InvalidErrorCode",
            "InvalidForwardCookies",
            "InvalidFunctionAssociation",
            "InvalidGeoRestrictionParameter",
            "InvalidHeadersForS3Origin",
            "InvalidIfMatchVersion",
            "InvalidLambdaFunctionAssociation",
            "InvalidLocationCode",
            "InvalidMinimumProtocolVersion",
            "InvalidOriginAccessControl",
            "InvalidOriginAccessIdentity",
            "InvalidOriginKeepaliveTimeout",
            "InvalidOriginReadTimeout",
            "InvalidQueryStringParameters",
            "InvalidRelativePath",
            "InvalidRequiredProtocol",
            "InvalidResponseCode",
            "InvalidTTLOrder",
            "InvalidViewerCertificate",
            "InvalidWebACLId",
            "MissingBody",
            "NoSuchCachePolicy",
            "NoSuchContinuousDeploymentPolicy",
            "NoSuchDistribution",
            "NoSuchFieldLevelEncryptionConfig",
            "NoSuchOrigin",
            "NoSuchOriginRequestPolicy",
            "NoSuchRealtimeLogConfig",
            "NoSuchResponseHeadersPolicy",
            "PreconditionFailed",
            "RealtimeLogConfigOwnerMismatch",
            "StagingDistributionInUse",
            "TooManyCacheBehaviors",
            "TooManyCertificates",
            "TooManyCookieNamesInWhiteList",
            "TooManyDistributionCNAMEs",
            "TooManyDistributionsAssociatedToCachePolicy",
            "TooManyDistributionsAssociatedToFieldLevelEncryptionConfig",
            "TooManyDistributionsAssociatedToKeyGroup",
            "TooManyDistributionsAssociatedToOriginAccessControl",
            "TooManyDistributionsAssociatedToOriginRequestPolicy",
            "TooManyDistributionsAssociatedToResponseHeadersPolicy",
            "TooManyDistributionsWithFunctionAssociations",
            "TooManyDistributionsWithLambdaAssociations",
            "TooManyDistributionsWithSingleFunctionARN",
            "TooManyFunctionAssociations",
            "TooManyHeadersInForwardedValues",
            "TooManyKeyGroupsAssociatedToDistribution",
            "TooManyLambdaFunctionAssociations",
            "TooManyOriginCustomHeaders",
            "TooManyOriginGroupsPerDistribution",
            "TooManyOrigins",
            "TooManyQueryStringParameters",
            "TooManyTrustedSigners",
            "TrustedKeyGroupDoesNotExist",
            "TrustedSignerDoesNotExist",
        ],
    ),
    (
        "DeleteContinuousDeploymentPolicy",
        &[
            "AccessDenied",
            "ContinuousDeploymentPolicyInUse",
            "InvalidArgument",
            "InvalidIfMatchVersion",
            "NoSuchContinuousDeploymentPolicy",
            "PreconditionFailed",
        ],
    ),
    (
        "DeleteDistribution",
        &[
            "AccessDenied",
            "DistributionNotDisabled",
            "InvalidIfMatchVersion",
            "NoSuchDistribution",
            "PreconditionFailed",
            "ResourceInUse",
        ],
    ),
    (
        "GetParameter",
        &[
            "InternalServerError",
            "InvalidKeyId",
            "ParameterNotFound",
            "ParameterVersionNotFound",
        ],
    ),
    (
        "GetParameterHistory",
        &[
            "InternalServerError",
            "InvalidKeyId",
            "InvalidNextToken",
            "ParameterNotFound",
        ],
    ),
    (
        "DescribeParameters",
        &[
            "InternalServerError",
            "InvalidFilterKey",
            "InvalidFilterOption",
            "InvalidFilterValue",
            "InvalidNextToken",
        ],
    ),
    (
        "PutParameter",
        &[
            "HierarchyLevelLimitExceededException",
            "HierarchyTypeMismatchException",
            "IncompatiblePolicyException",
            "InternalServerError",
            "InvalidAllowedPatternException",
            "InvalidKeyId",
            "InvalidPolicyAttributeException",
            "InvalidPolicyTypeException",
            "ParameterAlreadyExists",
            "ParameterLimitExceeded",
            "ParameterMaxVersionLimitExceeded",
            "ParameterPatternMismatchException",
            "PoliciesLimitExceededException",
            "TooManyUpdates",
            "UnsupportedParameterType",
        ],
    ),
    (
        "ListActionExecutions",
        &[
            "InvalidNextTokenException",
            "PipelineExecutionNotFoundException",
            "PipelineNotFoundException",
            "ValidationException",
        ],
    ),
    (
        "ListPipelineExecutions",
        &[
            "InvalidNextTokenException",
            "PipelineNotFoundException",
            "ValidationException",
        ],
    ),
    (
        "ListPipelines",
        &["InvalidNextTokenException", "ValidationException"],
    ),
    (
        "GetPipelineState",
        &["PipelineNotFoundException", "ValidationException"],
    ),
    (
        "ReceiveMessage",
        &[
            "AWS.SimpleQueueService.NonExistentQueue",
            "AWS.SimpleQueueService.UnsupportedOperation",
            "InvalidAddress",
            "InvalidSecurity",
            "KMS.AccessDeniedException",
            "KMS.DisabledException",
            "KMS.InvalidKeyUsageException",
            "KMS.InvalidStateException",
            "KMS.NotFoundException",
            "KMS.OptInRequired",
            "KMS.ThrottlingException",
            "KmsAccessDenied",
            "KmsDisabled",
            "KmsInvalidKeyUsage",
            "KmsInvalidState",
            "KmsNotFound",
            "KmsOptInRequired",
            "KmsThrottled",
            "OverLimit",
            "QueueDoesNotExist",
            "RequestThrottled",
            "UnsupportedOperation",
        ],
    ),
    (
        "GetQueueAttributes",
        &[
            "AWS.SimpleQueueService.NonExistentQueue",
            "AWS.SimpleQueueService.UnsupportedOperation",
            "InvalidAddress",
            "InvalidAttributeName",
            "InvalidSecurity",
            "QueueDoesNotExist",
            "RequestThrottled",
            "UnsupportedOperation",
        ],
    ),
    (
        "ChangeMessageVisibilityBatch",
        &[
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "AWS.SimpleQueueService.InvalidBatchEntryId",
            "AWS.SimpleQueueService.NonExistentQueue",
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            "AWS.SimpleQueueService.UnsupportedOperation",
            "BatchEntryIdsNotDistinct",
            "EmptyBatchRequest",
            "InvalidAddress",
            "InvalidBatchEntryId",
            "InvalidSecurity",
            "QueueDoesNotExist",
            "RequestThrottled",
            "TooManyEntriesInBatchRequest",
            "UnsupportedOperation",
        ],
    ),
    (
        "SendMessage",
        &[
            "AWS.SimpleQueueService.NonExistentQueue",
            "AWS.SimpleQueueService.UnsupportedOperation",
            "InvalidAddress",
            "InvalidMessageContents",
            "InvalidSecurity",
            "KMS.AccessDeniedException",
            "KMS.DisabledException",
            "KMS.InvalidKeyUsageException",
            "KMS.InvalidStateException",
            "KMS.NotFoundException",
            "KMS.OptInRequired",
            "KMS.ThrottlingException",
            "KmsAccessDenied",
            "KmsDisabled",
            "KmsInvalidKeyUsage",
            "KmsInvalidState",
            "KmsNotFound",
            "KmsOptInRequired",
            "KmsThrottled",
            "QueueDoesNotExist",
            "RequestThrottled",
            "UnsupportedOperation",
        ],
    ),
    (
        "DeleteMessageBatch",
        &[
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "AWS.SimpleQueueService.InvalidBatchEntryId",
            "AWS.SimpleQueueService.NonExistentQueue",
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            "AWS.SimpleQueueService.UnsupportedOperation",
            "BatchEntryIdsNotDistinct",
            "EmptyBatchRequest",
            "InvalidAddress",
            "InvalidBatchEntryId",
            "InvalidSecurity",
            "QueueDoesNotExist",
            "RequestThrottled",
            "TooManyEntriesInBatchRequest",
            "UnsupportedOperation",
        ],
    ),
    (
        "GetItem",
        &[
            "InternalServerError",
            "InvalidEndpointException",
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "ResourceNotFoundException",
            "ThrottlingException",
        ],
    ),
    (
        "UpdateItem",
        &[
            "ConditionalCheckFailedException",
            "InternalServerError",
            "InvalidEndpointException",
            "ItemCollectionSizeLimitExceededException",
            "ProvisionedThroughputExceededException",
            "ReplicatedWriteConflictException",
            "RequestLimitExceeded",
            "ResourceNotFoundException",
            "ThrottlingException",
            "TransactionConflictException",
        ],
    ),
    (
        "Scan",
        &[
            "InternalServerError",
            "InvalidEndpointException",
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "ResourceNotFoundException",
            "ThrottlingException",
        ],
    ),
    (
        "AssumeRole",
        &[
            "ExpiredTokenException",
            "MalformedPolicyDocument",
            "PackedPolicyTooLarge",
            "RegionDisabledException",
        ],
    ),
    ("GetCallerIdentity", &[]),
    (
        "ListRuleNamesByTarget",
        &["InternalException", "ResourceNotFoundException"],
    ),
    (
        "DescribeEventBus",
        &["InternalException", "ResourceNotFoundException"],
    ),
    (
        "DescribeRule",
        &["InternalException", "ResourceNotFoundException"],
    ),
    (
        "ListTargetsByRule",
        &["InternalException", "ResourceNotFoundException"],
    ),
    ("PutEvents", &["InternalException"]),
    (
        "SimulatePrincipalPolicy",
        &["InvalidInput", "NoSuchEntity", "PolicyEvaluation"],
    ),
];

/// What any call of any service may answer.
const COMMON: &[&str] = &[
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InternalFailure",
    "InvalidAction",
    "InvalidClientTokenId",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "InvalidQueryParameter",
    "MalformedHttpRequestException",
    "MalformedQueryString",
    "MissingAction",
    "MissingAuthenticationToken",
    "MissingParameter",
    "NotAuthorized",
    "OptInRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "UnrecognizedClientException",
    "ValidationError",
    "ValidationException",
];

#[test]
fn every_code_of_the_models_is_in_a_class() {
    let common = ("any call", COMMON);
    for (operation, codes) in MODELS.iter().chain([&common]) {
        for code in *codes {
            assert!(classify_code(code).is_some(), "{operation}: {code}");
        }
    }
}

#[test]
fn a_refusal_is_not_taken_for_an_absence_a_wrong_etag_or_a_denial() {
    let refusals = MODELS
        .iter()
        .find(|(operation, _)| *operation == "PutParameter");
    for code in refusals.unwrap().1 {
        let class = match *code {
            "InternalServerError" => ErrorClass::Unavailable,
            "TooManyUpdates" => ErrorClass::Conflict(Conflict::ConcurrentWrite),
            _ => ErrorClass::Rejected,
        };
        assert_eq!(classify_code(code), Some(class), "{code}");
    }
    // CloudFront answers these with 404 and 401.
    for code in [
        "NoSuchCachePolicy",
        "NoSuchOrigin",
        "EntityNotFound",
        "RealtimeLogConfigOwnerMismatch",
    ] {
        assert_eq!(classify_code(code), Some(ErrorClass::Rejected), "{code}");
    }
}

#[test]
fn an_unknown_code_is_told_whole() {
    let metadata = aws_smithy_types::error::ErrorMetadata::builder()
        .code("SomethingNew")
        .message("The tier Novel does not allow it.")
        .build();
    let answer = HttpResponse::new(
        400.try_into().unwrap(),
        aws_smithy_types::body::SdkBody::empty(),
    );
    let error = aws_sdk_ssm::operation::put_parameter::PutParameterError::generic(metadata);
    let error = from_sdk("PutParameter")(SdkError::service_error(error, answer));
    assert_eq!(error.class, ErrorClass::Rejected);
    assert_eq!(
        crate::telemetry::chain(&error),
        "PutParameter of Systems Manager failed (SomethingNew): The tier Novel does not allow it."
    );
}

#[test]
fn a_call_that_fails_names_its_service_its_host_and_what_to_do() {
    for (operation, _) in MODELS {
        assert_ne!(service(operation), "AWS", "{operation}");
    }
    let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
    let host = Host::of("https://sqs.eu-west-1.amazonaws.com/123456789012/queue").unwrap();
    let error = not_sent(AtHost::new(host, refused.into()));
    assert!(error.is_unreached());
    assert_eq!(
        crate::telemetry::chain(&error),
        "SQS cannot be reached at sqs.eu-west-1.amazonaws.com (ReceiveMessage): connection refused; check \
         the network, AWS_ENDPOINT_URL and the region"
    );
    assert_eq!(Host::of("http://me@[::1]:80/x").unwrap().0, "[::1]:80");
}

#[test]
fn a_denial_says_who_may_not_do_what_on_what_and_where_to_allow_it() {
    let denied = "User: arn:aws:sts::123456789012:assumed-role/stagesweep/i-0a is not authorized to perform: \
                  ssm:GetParameter on resource: arn:aws:ssm:eu-west-1:123456789012:parameter/a because no \
                  identity-based policy allows the ssm:GetParameter action";
    assert_eq!(
        Denial::read(denied).unwrap().to_string(),
        "arn:aws:sts::123456789012:assumed-role/stagesweep/i-0a may not ssm:GetParameter on \
         arn:aws:ssm:eu-west-1:123456789012:parameter/a (no identity-based policy allows the \
         ssm:GetParameter action); allow it in role/stagesweep"
    );
    assert_eq!(Denial::read("Access to the resource is denied."), None);
}

fn not_sent(source: impl Into<Box<dyn StdError + Send + Sync>>) -> AwsError {
    use aws_sdk_sqs::operation::receive_message::ReceiveMessageError;
    let error = ConnectorError::other(source.into(), None);
    from_sdk::<ReceiveMessageError>("ReceiveMessage")(SdkError::dispatch_failure(error))
}

#[test]
fn what_no_waiting_mends_is_told_from_a_network_that_is_down() {
    let down = not_sent("tcp connect error: Connection refused");
    assert_eq!(down.class, ErrorClass::Unavailable);

    let wrong = not_sent(Misconfigured("AWS_CA_BUNDLE names /nowhere".to_owned()));
    assert_eq!(wrong.class, ErrorClass::Misconfigured);
    assert!(crate::telemetry::chain(&wrong).contains("AWS_CA_BUNDLE names /nowhere"));

    for text in [
        "Invalid Configuration: FIPS and custom endpoint are not supported",
        "FIPS is enabled but this partition does not support FIPS",
    ] {
        let impossible = not_sent(text);
        assert_eq!(impossible.class, ErrorClass::Misconfigured, "{text}");
    }
    let untrusted = not_sent(std::io::Error::other(
        "invalid peer certificate: UnknownIssuer",
    ));
    assert_eq!(untrusted.class, ErrorClass::Misconfigured);
    let said = crate::telemetry::chain(&untrusted);
    for word in [
        "UnknownIssuer",
        "AWS_CA_BUNDLE",
        "ca_bundle",
        "SSL_CERT_FILE",
    ] {
        assert!(said.contains(word), "{said}");
    }
}
