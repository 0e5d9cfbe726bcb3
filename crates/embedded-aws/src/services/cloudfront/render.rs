//! What CloudFront answers, as XML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use quick_xml::escape::escape;

use super::errors::invalid_argument;
use super::xml::{NAMESPACE, PREFIX};
use super::{CloudFront, Context, Distribution, Policy, Version};
use crate::wire::exchange::{Change, Failure, Reply};
use crate::wire::settings::Switches;

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

fn xml(element: &str) -> Vec<u8> {
    format!("<?xml version=\"1.0\"?>\n{element}").into_bytes()
}

/// How CloudFront writes times: ISO 8601 in UTC with milliseconds.
fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

pub(super) fn created(distribution: &Distribution, context: &Context<'_>, said: String) -> Reply {
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

pub(super) fn distribution_reply(
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

pub(super) fn policy_reply(status: u16, policy: &Policy) -> Reply {
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

/// The marker of the next page, if another follows that ends with `last`.
fn next(last: Option<&str>) -> String {
    let marker = |last| format!("<NextMarker>{last}</NextMarker>");
    last.map(marker).unwrap_or_default()
}

/// A list has no `Items` where there are none.
fn in_items(items: &str) -> String {
    match items {
        "" => String::new(),
        items => format!("<Items>{items}</Items>"),
    }
}

pub(super) fn list_distributions(
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
    let last = all.last().filter(|_| truncated).map(|(last, _)| &*last.id);
    let (next, items) = (next(last), in_items(&items));
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
pub(super) fn list_policies(
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
    let last = all.last().filter(|_| truncated).map(|last| &*last.id);
    let items: String = all
        .iter()
        .map(|policy| policy_element(policy, ""))
        .map(|it| {
            format!("<ContinuousDeploymentPolicySummary>{it}</ContinuousDeploymentPolicySummary>")
        })
        .collect();
    let (next, items) = (next(last), in_items(&items));
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
