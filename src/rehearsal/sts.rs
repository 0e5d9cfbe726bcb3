//! STS over the query protocol: GetCallerIdentity.

use http::Request;

use super::exchange::{Call, Failure, Reply};
use super::settings::Settings;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The operation that a form names, if it is one of STS.
pub(super) fn operation(request: &Request<Vec<u8>>) -> Option<&'static str> {
    let body = std::str::from_utf8(request.body()).ok()?;
    body.split('&')
        .any(|pair| pair == "Action=GetCallerIdentity")
        .then_some("GetCallerIdentity")
}

pub(super) fn call(settings: &Settings, call: &Call) -> Result<Reply, Failure> {
    if call.operation != "GetCallerIdentity" {
        let message = format!(
            "{} is not an operation of the embedded STS.",
            call.operation
        );
        return Err(Failure::new(400, "InvalidAction", message));
    }
    let body = format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult>\
         <Arn>arn:aws:sts::{account}:assumed-role/stagesweep/rehearsal</Arn>\
         <UserId>AROAREHEARSAL:rehearsal</UserId><Account>{account}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>rehearsal</RequestId>\
         </ResponseMetadata></GetCallerIdentityResponse>",
        account = settings.account
    );
    Ok(Reply::new(200, body.into_bytes()))
}
