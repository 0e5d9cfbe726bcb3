//! The rules of the model, driven as a client would: request in, response out.

mod accounts;
mod cloudfront;
mod faults;
mod pipelines;
mod queues;

use std::time::Duration;

use http::Request;

use crate::{EmbeddedAws, Exchange, Service, Switches, testing};

/// One world with one service, on virtual time.
fn world(change: impl FnOnce(&mut Switches)) -> (EmbeddedAws, Service) {
    let world = testing::world(|settings| change(&mut settings.switches));
    let service = world.create_service("shop").unwrap();
    (world, service)
}

/// What came back: status, error code if any, ETag if any, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    code: String,
    etag: String,
    body: String,
}

impl Answer {
    fn outcome(&self) -> (u16, &str) {
        (self.status, &self.code)
    }
}

async fn cloudfront(
    world: &EmbeddedAws,
    method: &str,
    path: &str,
    if_match: &str,
    body: &str,
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/2020-05-31/{path}"));
    if !if_match.is_empty() {
        request = request.header("if-match", if_match);
    }
    let request = request.body(body.as_bytes().to_vec()).unwrap();
    let Exchange::Reply(response) = world.handle(request).await else {
        panic!("dropped")
    };
    let etag = response
        .headers()
        .get("etag")
        .map_or("", |it| it.to_str().unwrap())
        .to_owned();
    let status = response.status().as_u16();
    let body = String::from_utf8(response.into_body()).unwrap();
    let code = body
        .split_once("<Code>")
        .and_then(|(_, it)| it.split_once("</Code>"));
    Answer {
        status,
        code: code.map_or("", |it| it.0).to_owned(),
        etag,
        body,
    }
}

/// PUTs a distribution's own configuration back with one edit.
async fn put(world: &EmbeddedAws, id: &str, edit: impl FnOnce(String) -> String) -> Answer {
    let got = cloudfront(world, "GET", &format!("distribution/{id}/config"), "", "").await;
    let path = format!("distribution/{id}/config");
    cloudfront(world, "PUT", &path, &got.etag, &edit(got.body)).await
}

async fn delete(world: &EmbeddedAws, kind: &str, id: &str) -> Answer {
    let path = format!("{kind}/{id}");
    let etag = cloudfront(world, "GET", &path, "", "").await.etag;
    cloudfront(world, "DELETE", &path, &etag, "").await
}

const POLICY: &str = "continuous-deployment-policy";

fn detached(config: String) -> String {
    let (head, tail) = config.split_once("<ContinuousDeploymentPolicyId>").unwrap();
    let (_, tail) = tail.split_once("</ContinuousDeploymentPolicyId>").unwrap();
    format!("{head}<ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId>{tail}")
}

fn disabled(config: String) -> String {
    // The first direct `Enabled` after the price class is the distribution's own.
    config.replace(
        "</PriceClass><Enabled>true</Enabled>",
        "</PriceClass><Enabled>false</Enabled>",
    )
}

/// A full propagation.
async fn propagate() {
    tokio::time::advance(Duration::from_secs(171)).await;
}
