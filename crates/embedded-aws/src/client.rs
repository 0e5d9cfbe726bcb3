//! The door inside the process: an HTTP client for the SDK that never opens a socket.
//!
//! For virtual time the SDK's configuration also needs the world's clock as its time source and
//! tokio's sleep as its sleep.

use std::io;
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http::{Request, Response};
use http_body_util::BodyExt as _;

use super::EmbeddedAws;

impl EmbeddedAws {
    /// An HTTP client for an SDK configuration. Any endpoint URL will do.
    #[must_use]
    pub fn http_client(&self) -> SharedHttpClient {
        let world = self.clone();
        http_client(move |request| {
            let world = world.clone();
            async move { world.handle(request).await.into_response() }
        })
    }
}

/// An HTTP client for an SDK configuration whose requests are answered by a function: by one, for instance,
/// that stands between a caller and [`EmbeddedAws::handle`].
pub fn http_client<F, A>(answer: F) -> SharedHttpClient
where
    F: Fn(Request<Vec<u8>>) -> A + Send + Sync + 'static,
    A: Future<Output = io::Result<Response<Vec<u8>>>> + Send + 'static,
{
    let connector = SharedHttpConnector::new(Answering(Arc::new(answer)));
    http_client_fn(move |_, _| connector.clone())
}

struct Answering<F>(Arc<F>);

impl<F> std::fmt::Debug for Answering<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answering")
    }
}

impl<F, A> HttpConnector for Answering<F>
where
    F: Fn(Request<Vec<u8>>) -> A + Send + Sync + 'static,
    A: Future<Output = io::Result<Response<Vec<u8>>>> + Send + 'static,
{
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = Arc::clone(&self.0);
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let (parts, body) = request.into_parts();
            // Polled to its end as over a socket: the SDK's stalled-stream protection watches.
            let body = body.collect().await.map_err(ConnectorError::user)?;
            let request = Request::from_parts(parts, body.to_bytes().to_vec());
            let response = answer(request)
                .await
                .map_err(|error| ConnectorError::io(Box::new(error)))?;
            HttpResponse::try_from(response.map(SdkBody::from))
                .map_err(|error| ConnectorError::other(Box::new(error), None))
        })
    }
}
