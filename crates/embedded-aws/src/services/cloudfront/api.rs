//! CloudFront's REST-XML interface of 2020-05-31: requests to rules, results to XML.

use std::collections::BTreeMap;

use http::{Method, Request, Uri};

use super::errors::invalid_argument;
use super::render::{created, distribution_reply, list_distributions, list_policies, policy_reply};
use super::xml::{Document, PREFIX};
use super::{CloudFront, Context};
use crate::wire::exchange::{Call, Change, Failure, Reply};
use crate::wire::query::{parameters, percent_decoded};

/// The operation and the resource that a request names; nothing if there is no such operation.
pub(crate) fn route(method: &Method, uri: &Uri) -> Option<(&'static str, Option<String>)> {
    let path = uri.path().strip_prefix(PREFIX)?.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let operation = match (method.as_str(), parts.as_slice()) {
        ("GET", ["distribution"]) => "ListDistributions",
        ("GET", ["distribution", _]) => "GetDistribution",
        ("DELETE", ["distribution", _]) => "DeleteDistribution",
        ("GET", ["distribution", _, "config"]) => "GetDistributionConfig",
        ("PUT", ["distribution", _, "config"]) => "UpdateDistribution",
        ("POST", ["distribution", _, "copy"]) => "CopyDistribution",
        ("PUT", ["distribution", _, "promote-staging-config"]) => {
            "UpdateDistributionWithStagingConfig"
        }
        ("GET", ["continuous-deployment-policy"]) => "ListContinuousDeploymentPolicies",
        ("POST", ["continuous-deployment-policy"]) => "CreateContinuousDeploymentPolicy",
        ("GET", ["continuous-deployment-policy", _]) => "GetContinuousDeploymentPolicy",
        ("GET", ["continuous-deployment-policy", _, "config"]) => {
            "GetContinuousDeploymentPolicyConfig"
        }
        ("PUT", ["continuous-deployment-policy", _]) => "UpdateContinuousDeploymentPolicy",
        ("DELETE", ["continuous-deployment-policy", _]) => "DeleteContinuousDeploymentPolicy",
        _ => return None,
    };
    let resource = match parts.as_slice() {
        [_, id, ..] => Some(*id),
        _ => None,
    };
    Some((operation, resource.map(percent_decoded)))
}

/// A request, and what its headers and its URL say.
struct Given<'a> {
    request: &'a Request<Vec<u8>>,
    id: &'a str,
    if_match: Option<&'a str>,
    query: BTreeMap<String, String>,
    /// Reads are to show the version before the last write.
    stale: bool,
}

/// Carries out one request. `stale` asks reads for the version before the last write.
pub(crate) fn call(
    cloudfront: &mut CloudFront,
    context: &mut Context<'_>,
    call: &Call,
    request: &Request<Vec<u8>>,
    stale: bool,
) -> Result<Reply, Failure> {
    let given = Given {
        request,
        id: call.resource.as_deref().unwrap_or_default(),
        if_match: header(request, "if-match"),
        query: parameters(request.uri()),
        stale,
    };
    let operation = call.operation.as_str();
    if operation.contains("Polic") {
        return on_policies(cloudfront, context, operation, &given);
    }
    on_distributions(cloudfront, context, operation, &given)
}

fn header<'a>(request: &'a Request<Vec<u8>>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn on_distributions(
    cloudfront: &mut CloudFront,
    context: &mut Context<'_>,
    operation: &str,
    given: &Given<'_>,
) -> Result<Reply, Failure> {
    let (id, now) = (given.id, context.now);
    let switches = &context.settings.switches;
    match operation {
        "GetDistribution" => {
            let (distribution, version) = cloudfront.read(id, now, switches, given.stale)?;
            Ok(distribution_reply(
                200,
                distribution,
                version,
                now,
                switches,
            ))
        }
        "GetDistributionConfig" => {
            let (_, version) = cloudfront.read(id, now, switches, given.stale)?;
            let body = version.shown(switches).text().as_bytes().to_vec();
            Ok(Reply::new(200, body).header("etag", version.etag.clone()))
        }
        "ListDistributions" => list_distributions(cloudfront, context, &given.query),
        "UpdateDistribution" => {
            let document = body(given.request, "DistributionConfig")?;
            let (changed, change) = cloudfront.update(context, id, given.if_match, document)?;
            let reply = distribution_reply(200, changed, &changed.current, now, switches);
            Ok(Reply { change, ..reply })
        }
        "UpdateDistributionWithStagingConfig" => {
            let staging = given.query.get("StagingDistributionId");
            let staging = staging.map_or("", String::as_str);
            let (primary, change) = cloudfront.promote(context, id, staging, given.if_match)?;
            let reply = distribution_reply(200, primary, &primary.current, now, switches);
            Ok(reply.changed(change))
        }
        "CopyDistribution" => copy(cloudfront, context, given),
        "DeleteDistribution" => {
            let change = cloudfront.delete(context, id, given.if_match)?;
            Ok(Reply::new(204, Vec::new()).changed(change))
        }
        other => Err(unknown(other, given)),
    }
}

fn copy(
    cloudfront: &mut CloudFront,
    context: &mut Context<'_>,
    given: &Given<'_>,
) -> Result<Reply, Failure> {
    let document = body(given.request, "CopyDistributionRequest")?;
    if !header(given.request, "staging").is_some_and(|it| it.eq_ignore_ascii_case("true")) {
        return Err(invalid_argument("The parameter Staging must be true."));
    }
    let reference = document.text_of("CallerReference").unwrap_or_default();
    let enabled = document.text_of("Enabled").is_none() || document.is_true("Enabled");
    let copy = cloudfront.copy(context, given.id, given.if_match, reference, enabled)?;
    let said = format!("staging distribution {} copied from {}", copy.id, given.id);
    Ok(created(copy, context, said))
}

fn on_policies(
    cloudfront: &mut CloudFront,
    context: &mut Context<'_>,
    operation: &str,
    given: &Given<'_>,
) -> Result<Reply, Failure> {
    let id = given.id;
    match operation {
        "GetContinuousDeploymentPolicy" => Ok(policy_reply(200, cloudfront.policy(id)?)),
        "GetContinuousDeploymentPolicyConfig" => {
            let policy = cloudfront.policy(id)?;
            let body = policy.document.text().as_bytes().to_vec();
            Ok(Reply::new(200, body).header("etag", policy.etag.clone()))
        }
        "ListContinuousDeploymentPolicies" => list_policies(cloudfront, &given.query),
        "CreateContinuousDeploymentPolicy" => {
            let document = body(given.request, "ContinuousDeploymentPolicyConfig")?;
            let policy = cloudfront.create_policy(context, document)?;
            let location = format!(
                "https://cloudfront.amazonaws.com{PREFIX}continuous-deployment-policy/{}",
                policy.id
            );
            let said = format!("policy {} created", policy.id);
            let change = Change::from_to(said, "", policy.document.text());
            let reply = policy_reply(201, policy).header("location", location);
            Ok(reply.changed(change))
        }
        "UpdateContinuousDeploymentPolicy" => {
            let document = body(given.request, "ContinuousDeploymentPolicyConfig")?;
            let (policy, change) =
                cloudfront.update_policy(context, id, given.if_match, document)?;
            Ok(Reply {
                change,
                ..policy_reply(200, policy)
            })
        }
        "DeleteContinuousDeploymentPolicy" => {
            let change = cloudfront.delete_policy(context, id, given.if_match)?;
            Ok(Reply::new(204, Vec::new()).changed(change))
        }
        other => Err(unknown(other, given)),
    }
}

fn unknown(operation: &str, given: &Given<'_>) -> Failure {
    let (method, path) = (given.request.method(), given.request.uri().path());
    let message =
        format!("{operation}: {method} {path} is not an operation of the embedded CloudFront.");
    Failure::new(404, "UnknownOperationException", message)
}

fn malformed(detail: &str) -> Failure {
    let message = format!("The XML document is malformed or does not match the schema: {detail}");
    Failure::new(400, "MalformedXML", message)
}

fn parsed(bytes: &[u8], root: &str) -> Result<Document, Failure> {
    let document = Document::parse(bytes).map_err(|error| malformed(&error))?;
    if document.root().name != root {
        return Err(malformed(&format!(
            "expected {root}, found {}",
            document.root().name
        )));
    }
    if !document.in_namespace() {
        return Err(malformed("wrong namespace"));
    }
    Ok(document)
}

fn body(request: &Request<Vec<u8>>, root: &str) -> Result<Document, Failure> {
    if request.body().is_empty() {
        let message = "This operation requires a body. Ensure that the body is present and the \
                       Content-Type header is set.";
        return Err(Failure::new(400, "MissingBody", message));
    }
    parsed(request.body(), root)
}
