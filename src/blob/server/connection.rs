//! Connections: taking them, over TLS or not, serving HTTP/1 on them within limits, and ending them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::head::Refusing;
use super::pace::{Paced, patience};
use super::{Site, route};

/// The most bytes of a request's head. A pathname of 950 characters is up to 8,550 of them.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the rest of a handshake or of a first request's head may take once others need the room, or the server is to
/// stop.
const HEAD_GRACE: Duration = Duration::from_secs(1);
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
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let permit = tokio::select! {
                    () = stop.cancelled() => return,
                    permit = room(&site) => permit,
                };
                let (tls, site, stop) = (tls.clone(), site.clone(), stop.clone());
                site.tasks.clone().spawn(async move {
                    open(stream, tls, site, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "connections can't be taken");
                }
                site.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for room for one more connection. Where there is none, those on which nothing is asked are closed, and
/// the others after their present request.
async fn room(site: &Site) -> OwnedSemaphorePermit {
    let permits = site.permits.clone();
    match permits.clone().try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => {
            if site.is_to_tell_of_crowd() {
                let most = site.config.connections_max;
                tracing::warn!(
                    most,
                    "there are as many connections as may be: idle ones are closed for others"
                );
            }
            site.crowded.notify_waiters();
            permits.acquire_owned().await.expect("invariant: it is never closed")
        }
    }
}

tokio::task_local! {
    /// What is left to be done by those who answer on the connection that is polled now.
    static LEFT: RefCell<Vec<BoxFuture<'static, ()>>>;
}

/// Runs work in a task of its own. Where a connection of this server is answered, the task begins once the answer is
/// on its way: begun before, it would take the processor from whoever waits for that.
pub fn afterwards(work: BoxFuture<'static, ()>) {
    let mut work = Some(work);
    // Elsewhere there is nothing to wait for.
    LEFT.try_with(|left| left.borrow_mut().extend(work.take())).ok();
    if let Some(work) = work {
        tokio::spawn(work);
    }
}

/// Polls a connection, which writes its answers, and then begins what was left for afterwards.
fn poll<C: Future>(connection: Pin<&mut C>, context: &mut Context<'_>) -> Poll<C::Output> {
    let (polled, left) = LEFT.sync_scope(RefCell::default(), || {
        let polled = connection.poll(context);
        (polled, LEFT.with(RefCell::take))
    });
    for work in left {
        tokio::spawn(work);
    }
    polled
}

async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, site: Arc<Site>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small replies may be slow");
    }
    let Some(tls) = tls else { return serve(stream, site, stop).await };
    let crowded = site.crowded.notified();
    let shaken = tokio::select! {
        shaken = tls.accept(stream) => shaken,
        () = site.clock.sleep(site.config.header_timeout.min(HANDSHAKE_TIME_MAX)) => Err(std::io::ErrorKind::TimedOut.into()),
        () = async { crowded.await; site.clock.sleep(HEAD_GRACE).await } => return,
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
    let mut crowded = pin!(site.crowded.notified());
    crowded.as_mut().enable();
    let asked = AtomicBool::new(false);
    let stream = Paced::new(stream, patience(&site, &site.permits));
    let stream = Refusing::new(stream, &asked, &site.config.extra_headers);
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        answer(&site, request)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = poll_fn(|context| poll(connection.as_mut(), context)) => served,
        () = async { tokio::select! { () = stop.cancelled() => {}, () = crowded => {} } } => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = poll_fn(|context| poll(connection.as_mut(), context)) => served,
                // Half a head is no request: who sends no more of it makes room at once.
                () = site.clock.sleep(HEAD_GRACE), if !asked.load(Ordering::Relaxed) => return,
            }
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

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::task::Waker;

    use futures::FutureExt as _;
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn what_is_left_begins_once_the_connection_was_polled() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let connection = pin!(async {
            afterwards(pending().boxed());
            tasks()
        });
        let polled = poll(connection, &mut Context::from_waker(Waker::noop()));
        assert_eq!((polled, tasks()), (Poll::Ready(0), 1));
        afterwards(pending().boxed());
        assert_eq!(tasks(), 2, "where there is no connection, at once");
    }
}
