//! What lies between one daemon and AWS: a network that can be cut, and a process that can be
//! killed before or after the effect of any call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt as _;
use stagesweep::rehearsal::{EmbeddedAws, Exchange};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::checker::Checker;
use super::sabotage::Sabotage;

/// The services as the network sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Sqs,
    Ssm,
    CloudFront,
    DynamoDb,
    EventBridge,
}

/// How a cut network shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Connections are refused.
    Refused,
    /// Nothing ever answers.
    Silent,
    /// Requests arrive, answers do not.
    OneWay,
}

/// Where a daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    BeforeCall,
    AfterCall,
    BeforeLedger,
    AfterLedger,
}

/// A kill that waits for its moment: so many calls from now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    pub(crate) point: Point,
    pub(crate) nth: u32,
}

/// What happens to a daemon from outside, through all its lives.
#[derive(Default)]
pub(crate) struct Fate {
    pub(crate) cuts: Mutex<BTreeMap<Peer, Cut>>,
    pub(crate) kill: Mutex<Option<Kill>>,
    pub(crate) ledger_fails: AtomicBool,
    /// Of its wall clock, in milliseconds.
    pub(crate) skew: Arc<AtomicI64>,
}

/// One life of a daemon.
pub(crate) struct Life {
    pub(crate) daemon: usize,
    pub(crate) owner: String,
    pub(crate) fate: Arc<Fate>,
    pub(crate) dead: CancellationToken,
    /// Hears of a death, by the daemon's number.
    pub(crate) deaths: UnboundedSender<usize>,
}

impl Life {
    /// Ends it. Whatever it was doing, it makes no further call.
    pub(crate) fn kill(&self) {
        if !self.dead.is_cancelled() {
            self.dead.cancel();
            let _ = self.deaths.send(self.daemon);
        }
    }

    /// A moment at which it may be killed; one that is dead stays in it for ever.
    pub(crate) async fn survive(&self, point: Point) {
        let killed = {
            let mut waiting = self.fate.kill.lock().unwrap();
            match waiting.as_mut() {
                Some(kill) if kill.point == point && kill.nth <= 1 => {
                    *waiting = None;
                    true
                }
                Some(kill) if kill.point == point => {
                    kill.nth -= 1;
                    false
                }
                _ => false,
            }
        };
        if killed {
            self.kill();
        }
        if self.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    fn cut(&self, peer: Peer) -> Option<Cut> {
        self.fate.cuts.lock().unwrap().get(&peer).copied()
    }
}

/// The HTTP client of one life.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) aws: EmbeddedAws,
    pub(crate) life: Arc<Life>,
    pub(crate) checker: Arc<Checker>,
    pub(crate) sabotage: Option<Sabotage>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub(crate) fn http_client(self) -> SharedHttpClient {
        SharedHttpClient::new(self)
    }

    async fn exchange(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> Result<http::Response<Vec<u8>>, ConnectorError> {
        let peer = peer(&request);
        let (before, after) = match peer {
            Peer::DynamoDb => (Point::BeforeLedger, Point::AfterLedger),
            _ => (Point::BeforeCall, Point::AfterCall),
        };
        self.life.survive(before).await;
        if peer == Peer::DynamoDb && self.life.fate.ledger_fails.load(Ordering::Relaxed) {
            let failed = http::Response::builder().status(500);
            let body = r#"{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError"}"#;
            return Ok(failed.body(body.into()).unwrap());
        }
        match self.life.cut(peer) {
            Some(Cut::Refused) => return Err(broken(std::io::ErrorKind::ConnectionRefused)),
            Some(Cut::Silent) => std::future::pending().await,
            Some(Cut::OneWay) | None => {}
        }
        let request = match self.sabotage {
            Some(sabotage) => sabotage.request(self, request).await,
            None => request,
        };
        self.checker.asked(&self.aws, &self.life, &request);
        let asked = self.sabotage.map(|_| request.clone());
        let response = self.forward(request).await;
        self.life.survive(after).await;
        if self.life.cut(peer).is_some() {
            // Cut while the call was under way, or in this direction only.
            std::future::pending::<()>().await;
        }
        let response = match (self.sabotage, asked) {
            (Some(sabotage), Some(asked)) => sabotage.response(self, &asked, response).await,
            _ => response,
        }?;
        self.checker.delivered(&self.aws, &self.life, &response);
        Ok(response)
    }

    /// Hands a request to AWS, and what it did to the checker.
    pub(crate) async fn forward(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> Result<http::Response<Vec<u8>>, ConnectorError> {
        let body = request.body().clone();
        let exchange = self.aws.handle(request).await;
        // Nothing else ran since the call took effect: the newest entry is its own.
        let entry = self.aws.journal().latest();
        let answer = match &exchange {
            Exchange::Reply(response) => Some(response),
            Exchange::Dropped => None,
        };
        if let Some(entry) = &entry {
            self.checker
                .answered(&self.aws, &self.life, entry, &body, answer);
        }
        match exchange {
            Exchange::Reply(response) => Ok(response),
            Exchange::Dropped => Err(broken(std::io::ErrorKind::ConnectionReset)),
        }
    }
}

fn broken(kind: std::io::ErrorKind) -> ConnectorError {
    ConnectorError::io(Box::new(std::io::Error::from(kind)))
}

fn peer(request: &http::Request<Vec<u8>>) -> Peer {
    let target = request.headers().get("x-amz-target");
    match target.and_then(|target| target.to_str().ok()) {
        Some(target) if target.starts_with("AmazonSQS.") => Peer::Sqs,
        Some(target) if target.starts_with("DynamoDB_") => Peer::DynamoDb,
        Some(target) if target.starts_with("AWSEvents.") => Peer::EventBridge,
        Some(_) => Peer::Ssm,
        None => Peer::CloudFront,
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(ConnectorError::user)?;
            let request = http::Request::from_parts(parts, body.to_bytes().to_vec());
            let response = wire.exchange(request).await?;
            HttpResponse::try_from(response.map(SdkBody::from))
                .map_err(|error| ConnectorError::other(Box::new(error), None))
        })
    }
}
