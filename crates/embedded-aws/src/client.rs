//! The door inside the process: an HTTP client for the SDK that never opens a socket.
//!
//! For virtual time the SDK's configuration also needs the world's clock as its time source and
//! tokio's sleep as its sleep.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt as _;

use super::{EmbeddedAws, Exchange};

/// Hands the SDK's requests to an [`EmbeddedAws`] directly. Works under tokio's paused clock.
#[derive(Clone, Debug)]
pub struct EmbeddedHttpClient(EmbeddedAws);

impl EmbeddedAws {
    /// An HTTP client for an SDK configuration. Any endpoint URL will do.
    #[must_use]
    pub fn http_client(&self) -> SharedHttpClient {
        SharedHttpClient::new(EmbeddedHttpClient(self.clone()))
    }
}

impl HttpClient for EmbeddedHttpClient {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for EmbeddedHttpClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let world = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let (parts, body) = request.into_parts();
            // Polled to its end as over a socket: the SDK's stalled-stream protection watches.
            let body = body
                .collect()
                .await
                .map_err(ConnectorError::user)?
                .to_bytes()
                .to_vec();
            match world.handle(http::Request::from_parts(parts, body)).await {
                Exchange::Reply(response) => HttpResponse::try_from(response.map(SdkBody::from))
                    .map_err(|error| ConnectorError::other(Box::new(error), None)),
                Exchange::Dropped => {
                    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    Err(ConnectorError::io(Box::new(error)))
                }
            }
        })
    }
}
