//! Credentials of roles, and what they open.

use std::time::Duration;

use http::Request;
use serde_json::{Value, json};

use super::world;
use crate::{EmbeddedAws, Exchange};

/// A call signed with credentials that STS gave out; status and body.
async fn signed(
    world: &EmbeddedAws,
    [key, token]: [&str; 2],
    target: &str,
    body: Value,
) -> (u16, String) {
    let credential = format!("AWS4-HMAC-SHA256 Credential={key}/20260824/eu-west-1/x/aws4_request");
    let request = Request::post("/")
        .header("authorization", credential)
        .header("x-amz-security-token", token)
        .header("x-amz-target", target)
        .body(body.to_string().into_bytes())
        .unwrap();
    let Exchange::Reply(response) = world.handle(request).await else {
        panic!("dropped")
    };
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_roles_credentials_open_its_account_and_nothing_else_until_they_end() {
    let (world, home) = world(|_| ());
    let there = world.in_account("210987654321", "eu-west-1");
    let service = there.create_service("other").unwrap();
    world.create_role("arn:aws:iam::210987654321:role/x", Some("a b"));
    let assume = async |external_id: &str| {
        let body = format!(
            "Action=AssumeRole&Version=2011-06-15&RoleSessionName=me&DurationSeconds=900\
             &RoleArn=arn%3Aaws%3Aiam%3A%3A210987654321%3Arole%2Fx&ExternalId={external_id}"
        );
        let request = Request::post("/").body(body.into_bytes()).unwrap();
        match world.handle(request).await {
            Exchange::Reply(response) => String::from_utf8(response.into_body()).unwrap(),
            Exchange::Dropped => panic!("dropped"),
        }
    };
    assert!(assume("a").await.contains("<Code>AccessDenied</Code>"));
    let session = assume("a+b").await;
    let field = |name: &str| {
        let (_, rest) = session.split_once(&format!("<{name}>")).unwrap();
        rest.split('<').next().unwrap()
    };
    let (key, token) = (field("AccessKeyId"), field("SessionToken"));

    let get = |parameter: &str| json!({ "Name": parameter });
    let read = "AmazonSSM.GetParameter";
    let own = get(&service.production_parameter);
    let (status, body) = signed(&world, [key, token], read, own.clone()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(&service.production_id), "{body}");
    // What is at home is not there, and the queue is nobody else's.
    let (_, body) = signed(&world, [key, token], read, get(&home.production_parameter)).await;
    assert!(body.contains("ParameterNotFound"), "{body}");
    let (_, body) = signed(&world, [key, token], "AmazonSQS.ReceiveMessage", json!({})).await;
    assert!(body.contains("AccessDenied"), "{body}");

    let (status, body) = signed(&world, [key, "another"], read, own.clone()).await;
    assert_eq!(status, 403, "{body}");
    tokio::time::advance(Duration::from_secs(900)).await;
    let (_, body) = signed(&world, [key, token], read, own).await;
    assert!(body.contains("ExpiredToken"), "{body}");
}
