//! The way out: one HTTP client for everything that is sent to AWS, credentials' requests among it. The SDK would make
//! one for each of its clients, each with the machine's root certificates and a pool of connections.
//!
//! **Guarantees.** Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`. A loopback or
//! link-local address is never asked through one: credentials of a container or an instance come from
//! there, and a proxy would be told them, or answer with its own.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::authorities::Authorities;
use super::settings::Misconfigured;
use super::words::{AtHost, Host};

/// The HTTP client. It is made when the first request needs it: an authority whose file is not there yet
/// fails the request, not the process.
#[derive(Debug)]
pub(super) struct Web {
    authorities: Authorities,
    made: OnceLock<Ways>,
}

/// The two ways of one client, or the two connectors of one kind of request.
#[derive(Clone, Debug)]
struct Ways<T = SharedHttpClient> {
    direct: T,
    /// As the environment says.
    proxied: T,
}

impl Web {
    pub(super) fn client(authorities: Authorities) -> SharedHttpClient {
        SharedHttpClient::new(Self {
            authorities,
            made: OnceLock::new(),
        })
    }

    fn ways(&self) -> Result<&Ways, Misconfigured> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let tls = self.authorities.load()?;
        Ok(self.made.get_or_init(|| Ways {
            direct: through(ProxyConfig::disabled(), &tls),
            proxied: through(ProxyConfig::from_env(), &tls),
        }))
    }
}

/// A client that keeps one connector for each kind of timeouts.
fn through(proxies: ProxyConfig, tls: &TlsContext) -> SharedHttpClient {
    let tls = tls.clone();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder()
            .proxy_config(proxies.clone())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone());
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.build()
    })
}

impl HttpClient for Web {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        match self.ways() {
            Ok(ways) => SharedHttpConnector::new(Ways {
                direct: ways.direct.http_connector(settings, components),
                proxied: ways.proxied.http_connector(settings, components),
            }),
            Err(misconfigured) => SharedHttpConnector::new(NoWay(misconfigured)),
        }
    }
}

impl HttpConnector for Ways<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri: Option<http::Uri> = request.uri().parse().ok();
        let near = uri.as_ref().and_then(http::Uri::host).is_some_and(is_near);
        let way = if near { &self.direct } else { &self.proxied };
        let host = Host::of(request.uri());
        let answer = way.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            answer.map_err(|error| match host {
                Some(host) => at(host, error),
                None => error,
            })
        })
    }
}

/// The same error, of a request to that host.
fn at(host: Host, error: ConnectorError) -> ConnectorError {
    let (io, timeout, user) = (error.is_io(), error.is_timeout(), error.is_user());
    let kind = error.as_other();
    let source = Box::new(AtHost::new(host, error.into_source()));
    match (io, timeout, user) {
        (true, ..) => ConnectorError::io(source),
        (_, true, _) => ConnectorError::timeout(source),
        (.., true) => ConnectorError::user(source),
        _ => ConnectorError::other(source, kind),
    }
}

/// Fails every request.
#[derive(Debug)]
struct NoWay(Misconfigured);

impl HttpConnector for NoWay {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(Err(ConnectorError::user(Box::new(self.0.clone()))))
    }
}

/// The instance metadata service and EKS Pod Identity over IPv6: unique local addresses, which lead no further
/// than the instance (EC2 and EKS user guides).
const NEAR_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
];

/// Whether a host is this machine, or on the link that it is on.
fn is_near(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => {
            let mapped = v6.to_ipv4_mapped();
            v6.is_loopback()
                || v6.is_unicast_link_local()
                || NEAR_V6.contains(&v6)
                || mapped.is_some_and(|v4| v4.is_loopback() || v4.is_link_local())
        }
        Err(_) => {
            let bare = bare.trim_end_matches('.').to_ascii_lowercase();
            bare == "localhost" || bare.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_or_link_local_host_is_near() {
        for host in [
            "127.0.0.1",
            "127.8.9.10",
            "localhost",
            "LOCALHOST",
            "aws.localhost",
            "localhost.",
            "[::1]",
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[fd00:ec2::23]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_near(host), "{host}");
        }
        for host in [
            "sqs.eu-west-1.amazonaws.com",
            "10.0.0.1",
            "[fd00:ec2::1]",
            "localhost.example.com",
            "169.253.0.1",
        ] {
            assert!(!is_near(host), "{host}");
        }
    }
}
