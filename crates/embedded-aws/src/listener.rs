//! The door on a loopback address: HTTP/1.1 without TLS, for any AWS client.
//!
//! Point a client at it with `AWS_ENDPOINT_URL`, and give it any credentials. Version 1 of the AWS
//! command line ignores that variable for SQS and would go out to AWS: give it `--endpoint-url`.

use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{EmbeddedAws, Exchange};

/// No request of these services comes near this many bytes.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// An open door. Dropping it closes the door and cuts its connections.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Listener {
    /// The address it listens on, with the port that the system chose if none was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// `http://address`, as an endpoint URL.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the door, cuts its connections, and waits until they are gone.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Ends a connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("connection cut by an injected fault")]
struct Cut;

impl EmbeddedAws {
    /// Opens a door. An exchange that is to be dropped closes its TCP connection without a reply.
    ///
    /// # Errors
    /// What binding the address fails with; an address other than loopback is refused.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        if !address.ip().is_loopback() {
            let message = "the embedded AWS checks no signatures and listens on loopback only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(accept(self.clone(), socket, stop.clone(), tasks.clone()));
        tasks.close();
        Ok(Listener {
            address,
            stop,
            tasks,
        })
    }
}

async fn accept(
    world: EmbeddedAws,
    socket: TcpListener,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        // A connection that failed before it was accepted is its caller's to retry.
        if let Ok((stream, _)) = accepted {
            tasks.spawn(serve(world.clone(), stream, stop.clone()));
        }
    }
}

async fn serve(world: EmbeddedAws, stream: TcpStream, stop: CancellationToken) {
    let answer = service_fn(move |request: http::Request<Incoming>| {
        let world = world.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = match Limited::new(body, MAX_REQUEST).collect().await {
                Ok(body) => body.to_bytes().to_vec(),
                Err(_) => return Err(Cut),
            };
            match world.handle(http::Request::from_parts(parts, body)).await {
                Exchange::Reply(response) => Ok(response.map(|it| Full::new(Bytes::from(it)))),
                Exchange::Dropped => Err(Cut),
            }
        }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        () = stop.cancelled() => {}
        // Ends in an error when the caller goes away or the exchange is cut: both are intended.
        _ = connection => {}
    }
}
