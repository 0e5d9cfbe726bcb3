//! A desk in front of the embedded AWS. It hands out credentials in every way there is, and turns away whoever
//! comes with none of them, or with ones that have ended. It is a proxy, too.
//!
//! The key itself tells until when it holds (`…U` and the seconds), so that programs and files can make some.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use embedded_aws::{EmbeddedAws, Exchange};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use stagesweep::runtime::clock::Clock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::{World, lock};

/// How long what the desk hands out holds, in seconds. The SDK asks again five to ten seconds before the end: so
/// within four.
pub(crate) const LIFETIME: i64 = 9;

/// What must come with a request for a container's credentials.
pub(crate) const CONTAINER_TOKEN: &str = "container-token";

/// What must come with a request of a role for a web identity.
pub(crate) const WEB_TOKEN: &str = "web-identity-token";

/// The access token of a sign-in at IAM Identity Center, and the one that it is renewed to.
pub(crate) const SSO_TOKENS: [&str; 2] = ["sso-first", "sso-renewed"];

/// A running desk.
pub(crate) struct Desk {
    url: String,
    inner: Arc<Inner>,
    _serving: JoinSet<()>,
}

struct Inner {
    aws: EmbeddedAws,
    tls: TlsAcceptor,
    issued: AtomicU32,
    /// Of the requests that were for the desk itself: the method and the path.
    asked: Mutex<Vec<String>>,
    /// The keys with which AWS was called.
    used: Mutex<BTreeSet<String>>,
    /// The hosts that AWS's services were called at.
    hosts: Mutex<BTreeSet<String>>,
}

impl Desk {
    pub(crate) async fn open(world: &World) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let inner = Arc::new(Inner {
            aws: world.aws.clone(),
            tls: acceptor(),
            issued: AtomicU32::new(0),
            asked: Mutex::default(),
            used: Mutex::default(),
            hosts: Mutex::default(),
        });
        let url = format!("http://{}", socket.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let desk = Arc::clone(&inner);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                connections.spawn(serve(Arc::clone(&desk), stream));
            }
        });
        Self {
            url,
            inner,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How often the desk was asked for this: a method and the path.
    pub(crate) fn asked(&self, what: &str) -> usize {
        let asked = lock(&self.inner.asked);
        asked.iter().filter(|it| it.as_str() == what).count()
    }

    /// The keys with which AWS was called and that held.
    pub(crate) fn used(&self) -> BTreeSet<String> {
        lock(&self.inner.used).clone()
    }

    /// The hosts that AWS's services were called at.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        lock(&self.inner.hosts).clone()
    }
}

fn acceptor() -> TlsAcceptor {
    let chain = include_bytes!("certificates/server.pem");
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("certificates/server.key")).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain.unwrap(), key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn serve(
    desk: Arc<Inner>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> futures_util::future::BoxFuture<'static, ()> {
    Box::pin(async move {
        let answer = service_fn(move |request: Request<Incoming>| {
            let desk = Arc::clone(&desk);
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        let server = hyper::server::conn::http1::Builder::new();
        // Ends in an error when the caller goes away.
        let connection = server.serve_connection(TokioIo::new(stream), answer);
        drop(connection.with_upgrades().await);
    })
}

fn reply(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.into())));
    *response.status_mut() = status;
    response
}

fn now() -> i64 {
    Clock::system().now().as_second()
}

impl Inner {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() == Method::CONNECT {
            lock(&self.asked).push(format!("CONNECT {}", request.uri()));
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.unwrap();
                if let Ok(stream) = self.tls.accept(TokioIo::new(upgraded)).await {
                    serve(Arc::clone(&self), stream).await;
                }
            });
            return reply(StatusCode::OK, "");
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return reply(StatusCode::BAD_REQUEST, "");
        };
        let request = Request::from_parts(parts, body.to_bytes().to_vec());
        match self.hand_out(&request) {
            Some(answer) => {
                let what = format!("{} {}", request.method(), request.uri().path());
                lock(&self.asked).push(what);
                answer
            }
            None => self.pass_on(request).await,
        }
    }

    /// A key that is new and holds for a while, and until when.
    fn key(&self) -> (String, String) {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let until = now() + LIFETIME;
        let expiration = jiff::Timestamp::from_second(until).unwrap().to_string();
        (format!("ASIADESK{number}U{until}"), expiration)
    }

    fn credentials(&self) -> Response<Full<Bytes>> {
        let (key, expiration) = self.key();
        let credentials = json!({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": expiration, "AccessKeyId": key,
            "SecretAccessKey": "secret", "Token": "token", "Expiration": expiration,
        });
        reply(StatusCode::OK, credentials.to_string())
    }

    /// The answer to a request for credentials.
    fn hand_out(&self, request: &Request<Vec<u8>>) -> Option<Response<Full<Bytes>>> {
        let header = |name: &str| request.headers().get(name).map(|it| it.to_str().unwrap());
        let denied = || reply(StatusCode::UNAUTHORIZED, "{}");
        let body = String::from_utf8_lossy(request.body());
        Some(match (request.method().as_str(), request.uri().path()) {
            ("PUT", "/latest/api/token") => {
                let mut token = reply(StatusCode::OK, "imds-token");
                let ttl = "x-aws-ec2-metadata-token-ttl-seconds";
                token.headers_mut().insert(ttl, 21_600.into());
                token
            }
            ("GET", path) if path.starts_with("/latest/meta-data/") => {
                match path.strip_prefix("/latest/meta-data/iam/security-credentials/") {
                    _ if header("x-aws-ec2-metadata-token") != Some("imds-token") => denied(),
                    Some("") => reply(StatusCode::OK, "stagesweep"),
                    Some("stagesweep") => self.credentials(),
                    _ => reply(StatusCode::NOT_FOUND, ""),
                }
            }
            ("GET", "/container") if header("authorization") == Some(CONTAINER_TOKEN) => {
                self.credentials()
            }
            ("GET", "/container") => denied(),
            ("POST", "/token") => {
                let renewed = json!({
                    "accessToken": SSO_TOKENS[1], "expiresIn": 3600, "refreshToken": "again",
                    "tokenType": "Bearer",
                });
                reply(StatusCode::OK, renewed.to_string())
            }
            ("GET", "/federation/credentials") => match header("x-amz-sso_bearer_token") {
                Some(token) if SSO_TOKENS.contains(&token) => {
                    let (key, _) = self.key();
                    let credentials = json!({ "roleCredentials": {
                        "accessKeyId": key, "secretAccessKey": "secret", "sessionToken": "token",
                        "expiration": (now() + LIFETIME) * 1000,
                    }});
                    reply(StatusCode::OK, credentials.to_string())
                }
                _ => {
                    let mut refused = reply(
                        StatusCode::UNAUTHORIZED,
                        r#"{"message": "Session token not found or invalid"}"#,
                    );
                    let kind = "UnauthorizedException".parse().unwrap();
                    refused.headers_mut().insert("x-amzn-errortype", kind);
                    refused
                }
            },
            ("POST", "/v1/token") if header("dpop").is_some() => {
                let (key, _) = self.key();
                let credentials = json!({
                    "accessToken": {
                        "accessKeyId": key, "secretAccessKey": "secret", "sessionToken": "token",
                    },
                    "tokenType": "aws_sigv4", "expiresIn": LIFETIME, "refreshToken": "again",
                });
                reply(StatusCode::OK, credentials.to_string())
            }
            ("POST", "/") if body.contains("Action=AssumeRoleWithWebIdentity") => {
                match body.contains(WEB_TOKEN) {
                    true => self.role("AssumeRoleWithWebIdentity"),
                    false => denied(),
                }
            }
            ("POST", "/") if body.contains("Action=AssumeRole&") => match self.holds(request) {
                true => self.role("AssumeRole"),
                false => denied(),
            },
            _ => return None,
        })
    }

    fn role(&self, operation: &str) -> Response<Full<Bytes>> {
        let (key, expiration) = self.key();
        let answer = format!(
            "<{operation}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <{operation}Result><AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId>\
             <Arn>arn:aws:sts::123456789012:assumed-role/stagesweep/x</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
             <SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
             </{operation}Result></{operation}Response>"
        );
        reply(StatusCode::OK, answer)
    }

    /// Whether a request is signed with a key that holds.
    fn holds(&self, request: &Request<Vec<u8>>) -> bool {
        let key = key_of(request).unwrap_or_default();
        let until = key
            .rsplit_once('U')
            .and_then(|(_, until)| until.parse().ok());
        let holds = until.is_some_and(|until: i64| now() < until);
        if holds {
            lock(&self.used).insert(key);
        }
        holds
    }

    async fn pass_on(&self, request: Request<Vec<u8>>) -> Response<Full<Bytes>> {
        if !self.holds(&request) {
            let error =
                r#"{"__type": "ExpiredTokenException", "message": "The key does not hold"}"#;
            return reply(StatusCode::BAD_REQUEST, error);
        }
        let host = request.headers().get("host");
        lock(&self.hosts).extend(host.map(|host| host.to_str().unwrap().to_owned()));
        match self.aws.handle(request).await {
            Exchange::Reply(response) => response.map(|body| Full::new(Bytes::from(body))),
            Exchange::Dropped => reply(StatusCode::BAD_GATEWAY, ""),
        }
    }
}

fn key_of(request: &Request<Vec<u8>>) -> Option<String> {
    let signed = request.headers().get("authorization")?.to_str().ok()?;
    let (_, credential) = signed.split_once("Credential=")?;
    Some(credential.split('/').next()?.to_owned())
}
