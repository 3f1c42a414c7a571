//! The HTTP server: connections that are accepted, bounded and ended in order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, Version, header};
use futures::TryFutureExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::shutdown::Shutdown;

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time. A further one is answered 503 and closed.
    pub(super) connections: usize,
    /// For the head of a request, and between two requests of a connection.
    pub(super) idle: Duration,
}

/// How often a client over HTTP/2 is asked whether it is still there, and how long it may take to answer.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// How a client begins to speak HTTP/2 without having asked.
const HTTP2_PREFACE: &[u8; 3] = b"PRI";
/// The pause after a connection could not be accepted: there are no more file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long the answer to a connection too many may take to be sent.
const REFUSE_LIMIT: Duration = Duration::from_secs(1);

/// The answer to a connection too many. Nothing of its request is read, so it is written as it is.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// Serves until the process closes and the last connection has ended. Whoever drops this breaks off the connections that
/// are left.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
    limits: Limits,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.closing() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => match permits.clone().try_acquire_owned() {
                Ok(permit) => {
                    let (router, shutdown) = (router.clone(), shutdown.clone());
                    connections.spawn(connection(stream, router, shutdown, limits, permit));
                }
                Err(_) => drop(connections.spawn(refuse(stream))),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one client.
async fn connection(
    stream: TcpStream,
    router: Router,
    shutdown: Shutdown,
    limits: Limits,
    _permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let begins = tokio::select! {
        begins = tokio::time::timeout(limits.idle, begins_as_http2(&stream)) => begins,
        () = shutdown.closing() => return,
    };
    let Ok(Ok(is_http2)) = begins else { return };
    let answering = shutdown.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, shutdown) = (router.clone(), answering.clone());
        let is_http1 = request.version() < Version::HTTP_2;
        let response = router.oneshot(with_host(request.map(Body::new)));
        response.map_ok(move |response| {
            last_of_connection(response, is_http1 && shutdown.is_draining())
        })
    });
    let io = TokioIo::new(stream);
    macro_rules! until_end {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = shutdown.closing() => None,
            };
            match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }};
    }
    let ended = if is_http2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING);
        until_end!(server.serve_connection(io, service))
    } else {
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(limits.idle);
        until_end!(server.serve_connection(io, service))
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Waits for the first bytes of a connection and looks at them.
async fn begins_as_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 || first[..seen] != HTTP2_PREFACE[..seen] {
            return Ok(false);
        }
        if seen == first.len() {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // the beginning of `POST`, or of the preface
    }
}

/// A request whose `Host` is there in HTTP/2 as well, which has `:authority` in its place.
fn with_host(mut request: Request<Body>) -> Request<Body> {
    let authority = request.uri().authority();
    let host = authority.and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    request
}

/// Tells a client that keeps its connection to open another one, which will lead to another process.
fn last_of_connection(mut response: Response<Body>, is_last: bool) -> Response<Body> {
    if is_last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn refuse(mut stream: TcpStream) {
    let _ = tokio::time::timeout(REFUSE_LIMIT, stream.write_all(TOO_MANY)).await;
}
