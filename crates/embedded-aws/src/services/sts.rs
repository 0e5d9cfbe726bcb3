//! Security Token Service over the AWS query protocol of 2011-06-15: AssumeRole, GetCallerIdentity.
//!
//! After the STS API reference. Trust is a list of roles with their external ids; whoever calls may
//! assume them. Session policies, tags and source identities are not modelled.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use quick_xml::escape::escape;

use crate::services::identities::{Identities, Session};
use crate::wire::exchange::{Call, Failure, Reply};
use crate::wire::ids::Ids;
use crate::wire::query::form;
use crate::wire::time::later;

pub(crate) const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// How long a session lasts unless the caller says otherwise, in seconds, and the least and the most.
const DURATION: u64 = 3600;
const MIN_DURATION: u64 = 900;
const MAX_DURATION: u64 = 43_200;

/// Carries out one request.
pub(crate) fn call(
    identities: &mut Identities,
    ids: &mut Ids,
    now: Timestamp,
    call: &Call,
    body: &[u8],
) -> Result<Reply, Failure> {
    let form = form(body);
    match call.operation.as_str() {
        "AssumeRole" => assume_role(identities, ids, now, call, &form),
        "GetCallerIdentity" => {
            let account = &call.account;
            let arn = identities.caller_of(call).arn;
            Ok(result(
                "GetCallerIdentity",
                &format!(
                    "<Arn>{}</Arn><UserId>AIDAREHEARSAL</UserId><Account>{account}</Account>",
                    escape(arn.as_str())
                ),
            ))
        }
        other => Err(Failure::new(
            400,
            "InvalidAction",
            format!("Could not find operation {other} for version 2011-06-15"),
        )),
    }
}

fn assume_role(
    identities: &mut Identities,
    ids: &mut Ids,
    now: Timestamp,
    call: &Call,
    form: &BTreeMap<String, String>,
) -> Result<Reply, Failure> {
    let text = |name: &str| form.get(name).map_or("", String::as_str);
    let (arn, session_name) = (text("RoleArn"), text("RoleSessionName"));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+=,.@-_".contains(c);
    if !(2..=64).contains(&session_name.len()) || !session_name.chars().all(allowed) {
        let message = format!(
            "1 validation error detected: Value '{session_name}' at 'roleSessionName' failed to \
             satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*"
        );
        return Err(Failure::new(400, "ValidationError", message));
    }
    let seconds = match form.get("DurationSeconds").map(|text| text.parse()) {
        None => DURATION,
        Some(Ok(seconds @ MIN_DURATION..=MAX_DURATION)) => seconds,
        Some(_) => {
            let message = "1 validation error detected: Value at 'durationSeconds' is out of range";
            return Err(Failure::new(400, "ValidationError", message));
        }
    };
    let trusts = identities.roles.get(arn).is_some_and(|role| {
        let asked = role.external_id.as_ref();
        asked.is_none() || asked == form.get("ExternalId")
    });
    if !trusts {
        // A role that does not exist is denied in the same words.
        let message = format!(
            "User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}",
            identities.caller_of(call).arn
        );
        return Err(Failure::new(403, "AccessDenied", message));
    }
    let account = arn.split(':').nth(4).unwrap_or_default();
    let name = arn.rsplit('/').next().unwrap_or_default();
    let until = later(now, Duration::from_secs(seconds));
    let key = format!("ASIA{}", &ids.e_id()[1..]);
    let (secret, token) = (ids.uuid(), ids.uuid());
    let assumed = format!("arn:aws:sts::{account}:assumed-role/{name}/{session_name}");
    let reply = result(
        "AssumeRole",
        &format!(
            "<AssumedRoleUser><AssumedRoleId>AROAREHEARSAL:{session_name}</AssumedRoleId>\
             <Arn>{}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{key}</AccessKeyId>\
             <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>\
             <Expiration>{until:.0}</Expiration></Credentials>",
            escape(assumed.as_str()),
        ),
    );
    let session = Session {
        account: account.to_owned(),
        arn: assumed,
        token,
        until,
    };
    identities.sessions.retain(|_, session| now < session.until);
    identities.sessions.insert(key, session);
    Ok(reply)
}

fn result(operation: &str, content: &str) -> Reply {
    let body = format!(
        "<{operation}Response xmlns=\"{NAMESPACE}\"><{operation}Result>{content}\
         </{operation}Result><ResponseMetadata><RequestId>rehearsal</RequestId></ResponseMetadata>\
         </{operation}Response>"
    );
    Reply::new(200, body.into_bytes())
}
