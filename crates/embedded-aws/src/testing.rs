//! What the tests of the model share: a world on virtual time, and calls as a client would make them.

use std::time::SystemTime;

use aws_smithy_async::time::TimeSource;
use http::Request;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::{EmbeddedAws, Exchange, Settings};

/// A clock that moves with tokio's.
#[derive(Debug)]
struct Virtual {
    start: SystemTime,
    base: Instant,
}

impl TimeSource for Virtual {
    fn now(&self) -> SystemTime {
        self.start + self.base.elapsed()
    }
}

/// A world in which it is 2026-08-24T06:00:00Z.
pub(crate) fn world(change: impl FnOnce(&mut Settings)) -> EmbeddedAws {
    let start: Timestamp = "2026-08-24T06:00:00Z".parse().unwrap();
    let clock = Virtual {
        start: start.into(),
        base: Instant::now(),
    };
    let mut settings = Settings::default();
    change(&mut settings);
    EmbeddedAws::new(clock, settings)
}

/// Status and body of a call in one of the JSON protocols.
pub(crate) async fn json_call(aws: &EmbeddedAws, target: &str, body: Value) -> (u16, Value) {
    let request = Request::post("http://aws.test/")
        .header("x-amz-target", target)
        .body(body.to_string().into_bytes())
        .unwrap();
    let Exchange::Reply(response) = aws.handle(request).await else {
        panic!("{target}: the connection was cut")
    };
    let body = serde_json::from_slice(response.body()).unwrap();
    (response.status().as_u16(), body)
}
