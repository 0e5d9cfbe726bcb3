//! IAM over the AWS query protocol of 2010-05-08: SimulatePrincipalPolicy.
//!
//! After the IAM API reference. Policies are not modelled: what is denied is what a rule of the world
//! denies (`Action::Deny`), of whoever calls. A role that the world knows is one that can be
//! assumed.

use std::collections::BTreeMap;

use quick_xml::escape::escape;

use crate::services::identities::Identities;
use crate::wire::exchange::{AwsService, Call, Failure, Reply};
use crate::wire::query::form;

pub(crate) const NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";

/// Carries out one request.
pub(crate) fn call(
    identities: &Identities,
    denies: impl Fn(&Call) -> bool,
    call: &Call,
    body: &[u8],
) -> Result<Reply, Failure> {
    if call.operation != "SimulatePrincipalPolicy" {
        return Err(Failure::new(
            400,
            "InvalidAction",
            format!(
                "Could not find operation {} for version 2010-05-08",
                call.operation
            ),
        ));
    }
    let form = form(body);
    let principal = form
        .get("PolicySourceArn")
        .map(String::as_str)
        .unwrap_or_default();
    let user = format!("arn:aws:iam::{}:user/rehearsal", call.account);
    let ours = principal.split(':').nth(4) == Some(call.account.as_str());
    if !ours || (principal != user && !identities.roles.contains_key(principal)) {
        let message = format!("The entity {principal} cannot be found.");
        return Err(Failure::new(404, "NoSuchEntity", message));
    }
    let mut members = String::new();
    for action in list(&form, "ActionNames") {
        let (service, operation) = action.split_once(':').unwrap_or_default();
        for resource in list(&form, "ResourceArns") {
            let would = Call {
                service: AwsService::Unknown,
                operation: operation.to_owned(),
                resource: Some(name_of(service, resource)),
                ..call.clone()
            };
            let decision = match denies(&would) {
                true => "implicitDeny",
                false => "allowed",
            };
            members.push_str(&format!(
                "<member><EvalActionName>{}</EvalActionName>\
                 <EvalResourceName>{}</EvalResourceName><EvalDecision>{decision}</EvalDecision>\
                 <MatchedStatements/><MissingContextValues/></member>",
                escape(action),
                escape(resource),
            ));
        }
    }
    let body = format!(
        "<SimulatePrincipalPolicyResponse xmlns=\"{NAMESPACE}\"><SimulatePrincipalPolicyResult>\
         <IsTruncated>false</IsTruncated><EvaluationResults>{members}</EvaluationResults>\
         </SimulatePrincipalPolicyResult><ResponseMetadata><RequestId>rehearsal</RequestId>\
         </ResponseMetadata></SimulatePrincipalPolicyResponse>"
    );
    Ok(Reply::new(200, body.into_bytes()))
}

/// A list of the query protocol: `NAME.member.1` and so on.
fn list<'a>(form: &'a BTreeMap<String, String>, name: &str) -> impl Iterator<Item = &'a str> {
    let members = (1..).map(move |n| form.get(&format!("{name}.member.{n}")));
    members
        .map_while(|it| it.map(String::as_str))
        .collect::<Vec<_>>()
        .into_iter()
}

/// What a call would name that is about this ARN.
fn name_of(service: &str, arn: &str) -> String {
    let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
    match (service, resource.split_once('/')) {
        // A parameter's name begins with the slash.
        ("ssm", Some((_, name))) => format!("/{name}"),
        (_, Some((_, name))) => name.to_owned(),
        (_, None) => resource.to_owned(),
    }
}
