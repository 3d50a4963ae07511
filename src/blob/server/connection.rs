//! Connections: taking them, over TLS or not, serving HTTP/1 on them within limits, and ending them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Site, route};

/// The most bytes of a request's head. A pathname of 950 characters is up to 8,550 of them.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// How long to wait when no connection can be taken, for want of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends a connection without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
struct Dropped;

/// Takes connections until it is told to stop; over TLS where there is an acceptor.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    site: Arc<Site>,
    stop: CancellationToken,
) {
    loop {
        let accepted = async {
            let permit = site.permits.clone().acquire_owned().await.expect("invariant: it is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (tls, site, stop) = (tls.clone(), site.clone(), stop.clone());
                site.tasks.clone().spawn(async move {
                    open(stream, tls, site, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                site.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, site: Arc<Site>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small replies may be slow");
    }
    let Some(tls) = tls else { return serve(stream, site, stop).await };
    let shaken = tokio::select! {
        shaken = tls.accept(stream) => shaken,
        () = site.clock.sleep(site.config.header_timeout) => Err(std::io::ErrorKind::TimedOut.into()),
        () = stop.cancelled() => return,
    };
    match shaken {
        Ok(stream) => serve(stream, site, stop).await,
        // A client that does not trust the certificate says so here.
        Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
    }
}

async fn serve<S>(stream: S, site: Arc<Site>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(site.config.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let service = service_fn(|request| answer(&site, request));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(site: &Arc<Site>, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let dropped = site.config.faults.as_ref().and_then(super::Faults::next_drop);
    if dropped.is_some_and(|drops| !drops.applied) {
        return Err(Dropped);
    }
    let response = route::answer(site, request.map(Body::new)).await;
    if dropped.is_some() { Err(Dropped) } else { Ok(response) }
}
