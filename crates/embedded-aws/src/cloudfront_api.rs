//! CloudFront's REST-XML interface of 2020-05-31: requests to rules, results to XML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::{Method, Request, Uri};
use jiff::Timestamp;
use quick_xml::escape::escape;

use super::cloudfront::{CloudFront, Context, Distribution, Policy, Version};
use super::cloudfront_errors::invalid_argument;
use super::cloudfront_xml::{Document, NAMESPACE};
use super::exchange::{Call, Change, Failure, Reply};
use super::settings::Switches;

/// Where every path of this version starts.
pub(super) const PREFIX: &str = "/2020-05-31/";

/// What a page of a list holds unless the caller says otherwise, and the most it may ask for.
const PAGE: usize = 100;

/// The elements of a DistributionConfig that ListDistributions repeats, in its order, with what
/// stands there when the configuration has none.
const SUMMARY: [(&str, &str); 15] = [
    ("Aliases", "<Aliases><Quantity>0</Quantity></Aliases>"),
    ("Origins", ""),
    (
        "OriginGroups",
        "<OriginGroups><Quantity>0</Quantity></OriginGroups>",
    ),
    ("DefaultCacheBehavior", ""),
    (
        "CacheBehaviors",
        "<CacheBehaviors><Quantity>0</Quantity></CacheBehaviors>",
    ),
    (
        "CustomErrorResponses",
        "<CustomErrorResponses><Quantity>0</Quantity></CustomErrorResponses>",
    ),
    ("Comment", "<Comment></Comment>"),
    ("PriceClass", "<PriceClass>PriceClass_All</PriceClass>"),
    ("Enabled", ""),
    (
        "ViewerCertificate",
        "<ViewerCertificate></ViewerCertificate>",
    ),
    (
        "Restrictions",
        "<Restrictions><GeoRestriction><RestrictionType>none</RestrictionType>\
         <Quantity>0</Quantity></GeoRestriction></Restrictions>",
    ),
    ("WebACLId", "<WebACLId></WebACLId>"),
    ("HttpVersion", "<HttpVersion>http2</HttpVersion>"),
    ("IsIPV6Enabled", "<IsIPV6Enabled>false</IsIPV6Enabled>"),
    ("Staging", "<Staging>false</Staging>"),
];

/// The operation and the resource that a request names; nothing if there is no such operation.
pub(super) fn route(method: &Method, uri: &Uri) -> Option<(&'static str, Option<String>)> {
    let path = uri.path().strip_prefix(PREFIX)?.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let query = query(uri);
    let operation = match (method.as_str(), parts.as_slice()) {
        ("GET", ["distribution"]) => "ListDistributions",
        ("POST", ["distribution"]) if query.contains_key("WithTags") => {
            "CreateDistributionWithTags"
        }
        ("POST", ["distribution"]) => "CreateDistribution",
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
        ("GET", ["tagging"]) => "ListTagsForResource",
        ("POST", ["tagging"]) => match query.get("Operation").map(String::as_str) {
            Some("Tag") => "TagResource",
            Some("Untag") => "UntagResource",
            _ => return None,
        },
        _ => return None,
    };
    let resource = match parts.as_slice() {
        ["tagging"] => query.get("Resource").and_then(|arn| arn.rsplit('/').next()),
        [_, id, ..] => Some(*id),
        _ => None,
    };
    Some((operation, resource.map(percent_decoded)))
}

fn query(uri: &Uri) -> BTreeMap<String, String> {
    let pairs = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (percent_decoded(name), percent_decoded(value)))
        .collect()
}

/// RFC 3986 percent-decoding; what is no valid escape stays as it is.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Carries out one request. `stale` asks reads for the version before the last write.
pub(super) fn call(
    cloudfront: &mut CloudFront,
    context: &mut Context<'_>,
    call: &Call,
    request: &Request<Vec<u8>>,
    stale: bool,
) -> Result<Reply, Failure> {
    let id = call.resource.as_deref().unwrap_or_default();
    let now = context.now;
    let switches = &context.settings.switches;
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let if_match = header("if-match");
    let query = query(request.uri());
    match call.operation.as_str() {
        "GetDistribution" => {
            let (distribution, version) = cloudfront.read(id, now, switches, stale)?;
            Ok(distribution_reply(
                200,
                distribution,
                version,
                now,
                switches,
            ))
        }
        "GetDistributionConfig" => {
            let (_, version) = cloudfront.read(id, now, switches, stale)?;
            let body = version.shown(switches).text().as_bytes().to_vec();
            Ok(Reply::new(200, body).header("etag", version.etag.clone()))
        }
        "ListDistributions" => list_distributions(cloudfront, context, &query),
        "UpdateDistribution" => {
            let document = body(request, "DistributionConfig")?;
            let (distribution, change) = cloudfront.update(context, id, if_match, document)?;
            let reply = distribution_reply(
                200,
                distribution,
                &distribution.current,
                now,
                &context.settings.switches,
            );
            Ok(Reply { change, ..reply })
        }
        "DeleteDistribution" => {
            let change = cloudfront.delete(context, id, if_match)?;
            Ok(Reply::new(204, Vec::new()).changed(change))
        }
        "CopyDistribution" => {
            let document = body(request, "CopyDistributionRequest")?;
            if !header("staging").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
                return Err(invalid_argument("The parameter Staging must be true."));
            }
            let reference = document
                .text_of("CallerReference")
                .unwrap_or_default()
                .to_owned();
            let enabled = document.text_of("Enabled").is_none() || document.is_true("Enabled");
            let copy = cloudfront.copy(context, id, if_match, &reference, enabled)?;
            Ok(created(
                copy,
                context,
                format!("staging distribution {} copied from {id}", copy.id),
            ))
        }
        "CreateDistribution" => {
            let document = body(request, "DistributionConfig")?;
            let made = cloudfront.create(context, document, BTreeMap::new())?;
            Ok(created(
                made,
                context,
                format!("distribution {} created", made.id),
            ))
        }
        "CreateDistributionWithTags" => {
            let outer = body(request, "DistributionConfigWithTags")?;
            let inner = outer.raw_of("DistributionConfig").unwrap_or_default();
            let inner = inner.replacen(
                "<DistributionConfig>",
                &format!("<DistributionConfig xmlns=\"{NAMESPACE}\">"),
                1,
            );
            let document = parsed(inner.as_bytes(), "DistributionConfig")?;
            let tags = outer.root().child("Tags").map(tags_in).unwrap_or_default();
            let made = cloudfront.create(context, document, tags)?;
            Ok(created(
                made,
                context,
                format!("distribution {} created", made.id),
            ))
        }
        "UpdateDistributionWithStagingConfig" => {
            let staging = query
                .get("StagingDistributionId")
                .map_or("", String::as_str);
            let (primary, change) = cloudfront.promote(context, id, staging, if_match)?;
            Ok(distribution_reply(
                200,
                primary,
                &primary.current,
                now,
                &context.settings.switches,
            )
            .changed(change))
        }
        "GetContinuousDeploymentPolicy" => Ok(policy_reply(200, cloudfront.policy(id)?)),
        "GetContinuousDeploymentPolicyConfig" => {
            let policy = cloudfront.policy(id)?;
            let body = policy.document.text().as_bytes().to_vec();
            Ok(Reply::new(200, body).header("etag", policy.etag.clone()))
        }
        "ListContinuousDeploymentPolicies" => list_policies(cloudfront, &query),
        "CreateContinuousDeploymentPolicy" => {
            let document = body(request, "ContinuousDeploymentPolicyConfig")?;
            let policy = cloudfront.create_policy(context, document)?;
            let location = format!(
                "https://cloudfront.amazonaws.com{PREFIX}continuous-deployment-policy/{}",
                policy.id
            );
            let change = Change::from_to(
                format!("policy {} created", policy.id),
                "",
                policy.document.text(),
            );
            Ok(policy_reply(201, policy)
                .header("location", location)
                .changed(change))
        }
        "UpdateContinuousDeploymentPolicy" => {
            let document = body(request, "ContinuousDeploymentPolicyConfig")?;
            let (policy, change) = cloudfront.update_policy(context, id, if_match, document)?;
            Ok(Reply {
                change,
                ..policy_reply(200, policy)
            })
        }
        "DeleteContinuousDeploymentPolicy" => {
            let change = cloudfront.delete_policy(context, id, if_match)?;
            Ok(Reply::new(204, Vec::new()).changed(change))
        }
        "ListTagsForResource" => {
            let tags = &cloudfront
                .distribution(id)
                .map_err(|_| no_such_resource())?
                .tags;
            let mut out = String::new();
            for (key, value) in tags {
                let _ = write!(
                    out,
                    "<Tag><Key>{}</Key><Value>{}</Value></Tag>",
                    escape(key.as_str()),
                    escape(value.as_str())
                );
            }
            let body = format!("<Tags xmlns=\"{NAMESPACE}\"><Items>{out}</Items></Tags>");
            Ok(Reply::new(200, xml(&body)))
        }
        "TagResource" => {
            let tags = tags_in(body(request, "Tags")?.root());
            let distribution = cloudfront
                .distribution_mut(id)
                .map_err(|_| no_such_resource())?;
            distribution.tags.extend(tags);
            Ok(Reply::new(204, Vec::new()).changed(Change::new("tags set")))
        }
        "UntagResource" => {
            let document = body(request, "TagKeys")?;
            let distribution = cloudfront
                .distribution_mut(id)
                .map_err(|_| no_such_resource())?;
            for key in document
                .root()
                .child("Items")
                .map_or(&[][..], |items| &items.children)
            {
                distribution.tags.remove(key.text.trim());
            }
            Ok(Reply::new(204, Vec::new()).changed(Change::new("tags removed")))
        }
        other => Err(Failure::new(
            404,
            "UnknownOperationException",
            format!(
                "{other}: {} {} is not an operation of the embedded CloudFront.",
                request.method(),
                request.uri().path()
            ),
        )),
    }
}

fn no_such_resource() -> Failure {
    Failure::new(
        404,
        "NoSuchResource",
        "The specified resource does not exist.",
    )
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

fn tags_in(tags: &super::cloudfront_xml::Element) -> BTreeMap<String, String> {
    let items = tags.child("Items").map_or(&[][..], |items| &items.children);
    items
        .iter()
        .filter_map(|tag| {
            Some((
                tag.text_of("Key")?,
                tag.text_of("Value").unwrap_or_default(),
            ))
        })
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn xml(element: &str) -> Vec<u8> {
    format!("<?xml version=\"1.0\"?>\n{element}").into_bytes()
}

/// How CloudFront writes times: ISO 8601 in UTC with milliseconds.
fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

fn created(distribution: &Distribution, context: &Context<'_>, said: String) -> Reply {
    let version = &distribution.current;
    let location = format!(
        "https://cloudfront.amazonaws.com{PREFIX}distribution/{}",
        distribution.id
    );
    distribution_reply(
        201,
        distribution,
        version,
        context.now,
        &context.settings.switches,
    )
    .header("location", location)
    .changed(Change::from_to(said, "", version.document.text()))
}

fn distribution_reply(
    status: u16,
    distribution: &Distribution,
    version: &Version,
    now: Timestamp,
    switches: &Switches,
) -> Reply {
    let body = format!(
        "<Distribution xmlns=\"{NAMESPACE}\"><Id>{}</Id><ARN>{}</ARN><Status>{}</Status>\
         <LastModifiedTime>{}</LastModifiedTime>\
         <InProgressInvalidationBatches>0</InProgressInvalidationBatches>\
         <DomainName>{}</DomainName>\
         <ActiveTrustedSigners><Enabled>false</Enabled><Quantity>0</Quantity></ActiveTrustedSigners>\
         <ActiveTrustedKeyGroups><Enabled>false</Enabled><Quantity>0</Quantity></ActiveTrustedKeyGroups>\
         {}</Distribution>",
        distribution.id,
        distribution.arn,
        version.status(now),
        time(version.shown_modified(now, switches)),
        distribution.domain_name,
        version.shown(switches).embedded(),
    );
    Reply::new(status, xml(&body)).header("etag", version.etag.clone())
}

fn policy_element(policy: &Policy, attributes: &str) -> String {
    format!(
        "<ContinuousDeploymentPolicy{attributes}><Id>{}</Id>\
         <LastModifiedTime>{}</LastModifiedTime>{}</ContinuousDeploymentPolicy>",
        policy.id,
        time(policy.modified),
        policy.document.embedded(),
    )
}

fn policy_reply(status: u16, policy: &Policy) -> Reply {
    let body = policy_element(policy, &format!(" xmlns=\"{NAMESPACE}\""));
    Reply::new(status, xml(&body)).header("etag", policy.etag.clone())
}

fn page_size(query: &BTreeMap<String, String>) -> Result<usize, Failure> {
    match query.get("MaxItems").map(|text| text.parse()) {
        None => Ok(PAGE),
        Some(Ok(size @ 1..)) => Ok(PAGE.min(size)),
        Some(_) => Err(invalid_argument("The parameter MaxItems is not valid.")),
    }
}

fn list_distributions(
    cloudfront: &CloudFront,
    context: &Context<'_>,
    query: &BTreeMap<String, String>,
) -> Result<Reply, Failure> {
    let switches = &context.settings.switches;
    let size = page_size(query)?;
    let marker = query.get("Marker").map_or("", String::as_str);
    let mut all = cloudfront.list(marker, context.now, switches);
    let truncated = all.len() > size;
    all.truncate(size);
    let mut items = String::new();
    for (distribution, version) in &all {
        let _ = write!(
            items,
            "<DistributionSummary><Id>{}</Id><ARN>{}</ARN><ETag>{}</ETag><Status>{}</Status>\
             <LastModifiedTime>{}</LastModifiedTime><DomainName>{}</DomainName>",
            distribution.id,
            distribution.arn,
            version.etag,
            version.status(context.now),
            time(version.shown_modified(context.now, switches)),
            distribution.domain_name,
        );
        for (name, otherwise) in SUMMARY {
            items.push_str(version.document.raw_of(name).unwrap_or(otherwise));
        }
        items.push_str("</DistributionSummary>");
    }
    let next = match all.last() {
        Some((last, _)) if truncated => format!("<NextMarker>{}</NextMarker>", last.id),
        _ => String::new(),
    };
    let items = if all.is_empty() {
        items
    } else {
        format!("<Items>{items}</Items>")
    };
    Ok(Reply::new(
        200,
        xml(&format!(
            "<DistributionList xmlns=\"{NAMESPACE}\"><Marker>{}</Marker>{next}\
             <MaxItems>{size}</MaxItems><IsTruncated>{truncated}</IsTruncated>\
             <Quantity>{}</Quantity>{items}</DistributionList>",
            escape(marker),
            all.len(),
        )),
    ))
}

/// Has no `IsTruncated`: a page is followed by another if there is a `NextMarker`.
fn list_policies(
    cloudfront: &CloudFront,
    query: &BTreeMap<String, String>,
) -> Result<Reply, Failure> {
    let size = page_size(query)?;
    let marker = query.get("Marker").map_or("", String::as_str);
    let mut all: Vec<_> = cloudfront
        .policies()
        .filter(|it| it.id.as_str() > marker)
        .collect();
    let truncated = all.len() > size;
    all.truncate(size);
    let next = match all.last() {
        Some(last) if truncated => format!("<NextMarker>{}</NextMarker>", last.id),
        _ => String::new(),
    };
    let items: String = all
        .iter()
        .map(|policy| policy_element(policy, ""))
        .map(|it| {
            format!("<ContinuousDeploymentPolicySummary>{it}</ContinuousDeploymentPolicySummary>")
        })
        .collect();
    let items = if all.is_empty() {
        items
    } else {
        format!("<Items>{items}</Items>")
    };
    Ok(Reply::new(
        200,
        xml(&format!(
            "<ContinuousDeploymentPolicyList xmlns=\"{NAMESPACE}\">{next}\
             <MaxItems>{size}</MaxItems><Quantity>{}</Quantity>{items}\
             </ContinuousDeploymentPolicyList>",
            all.len(),
        )),
    ))
}
