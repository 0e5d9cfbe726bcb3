//! CloudFront's refusals, and the checks that any change of a kind has to pass.

use crate::services::cloudfront::xml::Document;
use crate::wire::exchange::Failure;

pub(crate) fn no_such_distribution() -> Failure {
    Failure::new(
        404,
        "NoSuchDistribution",
        "The specified distribution does not exist.",
    )
}

pub(crate) fn no_such_policy() -> Failure {
    Failure::new(
        404,
        "NoSuchContinuousDeploymentPolicy",
        "The specified continuous deployment policy does not exist.",
    )
}

pub(crate) fn invalid_argument(message: impl Into<String>) -> Failure {
    Failure::new(400, "InvalidArgument", message)
}

pub(crate) fn illegal_update(message: &str) -> Failure {
    Failure::new(400, "IllegalUpdate", message)
}

pub(crate) fn not_supported_here() -> Failure {
    illegal_update("One or more fields updated are not supported for continuous deployment")
}

pub(crate) fn staging_in_use() -> Failure {
    Failure::new(
        409,
        "StagingDistributionInUse",
        "The specified staging distribution is currently used by a continuous deployment policy. \
         Please update the policy before deleting.",
    )
}

pub(crate) fn policy_in_use() -> Failure {
    Failure::new(
        409,
        "ContinuousDeploymentPolicyInUse",
        "The specified continuous deployment policy is currently associated with a distribution.",
    )
}

pub(crate) fn not_disabled() -> Failure {
    Failure::new(
        409,
        "DistributionNotDisabled",
        "The distribution you are trying to delete has not been disabled.",
    )
}

pub(crate) fn precondition_failed() -> Failure {
    Failure::new(
        412,
        "PreconditionFailed",
        "The request failed because it didn't meet the preconditions in one or more \
         request-header fields.",
    )
}

/// An ETag that this object once had is a failed precondition; any other is no version of it.
pub(crate) fn check_if_match(
    given: Option<&str>,
    current: &str,
    past: &[String],
) -> Result<(), Failure> {
    match given {
        Some(given) if given == current => Ok(()),
        Some(given) if past.iter().any(|etag| etag == given) => Err(precondition_failed()),
        _ => Err(Failure::new(
            400,
            "InvalidIfMatchVersion",
            "The If-Match version is missing or not valid for the resource.",
        )),
    }
}

pub(crate) fn check_distribution_config(document: &Document) -> Result<(), Failure> {
    let root = document.root();
    for required in [
        "CallerReference",
        "Origins",
        "DefaultCacheBehavior",
        "Comment",
        "Enabled",
    ] {
        if root.child(required).is_none() {
            return Err(invalid_argument(format!(
                "The parameter {required} is required."
            )));
        }
    }
    check_quantities(document, &["Aliases", "Origins"])?;
    if document.is_true("Staging") && !root.items("Aliases").1.is_empty() {
        return Err(invalid_argument(
            "A staging distribution can't have any aliases.",
        ));
    }
    Ok(())
}

pub(crate) fn check_quantities(document: &Document, lists: &[&str]) -> Result<(), Failure> {
    for list in lists {
        let (quantity, items) = document.root().items(list);
        if document.root().child(list).is_some() && quantity != Some(items.len()) {
            return Err(Failure::new(
                400,
                "InconsistentQuantities",
                "The value of Quantity and the size of Items don't match.",
            ));
        }
    }
    Ok(())
}
