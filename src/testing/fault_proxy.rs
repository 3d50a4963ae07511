//! A proxy in front of a DynamoDB engine that breaks chosen requests on their way, as networks and the
//! service do. Everything else passes through.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireFault {
    /// It is answered with this status and body, without reaching the engine.
    Answer(u16, String),
    /// The connection ends before the engine sees it.
    ResetBefore,
    /// The engine carries it out, and the connection ends without a reply.
    ReplyLost,
    /// The engine carries it out, and the connection ends in the middle of the reply.
    ReplyTruncated,
    /// The engine carries it out, and no reply comes; the connection ends with the outage.
    Silence,
    /// The last so many keys or statements are held back, and reported as not processed.
    Unprocessed(usize),
}

impl WireFault {
    /// An error as DynamoDB reports it.
    #[must_use]
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({
            "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"),
            "message": message,
        });
        Self::Answer(status, body.to_string())
    }

    /// The service asks for a slower pace.
    #[must_use]
    pub fn throttled() -> Self {
        Self::error(400, "ProvisionedThroughputExceededException", "slower, please")
    }
}

/// A running proxy. It stops when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    script: Arc<Script>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Script {
    faults: Mutex<Vec<(String, WireFault)>>,
    outage: watch::Sender<Option<WireFault>>,
    calls: Mutex<HashMap<String, u64>>,
}

type Reply = Response<BoxBody<Bytes, io::Error>>;

impl FaultProxy {
    /// Starts in front of `upstream`, a URL such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// Where no port can be had on loopback.
    pub async fn start(upstream: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Script::default());
        let upstream: Arc<str> = upstream.trim_start_matches("http://").into();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, upstream, script.clone()));
        Ok(Self { address, script, _serving: serving })
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets the next request of this operation, such as `PutItem`, that no fault waits for meet this one.
    pub fn fault(&self, operation: &str, fault: WireFault) {
        lock(&self.script.faults).push((operation.to_owned(), fault));
    }

    /// Lets every request meet this one, until it is set to none.
    pub fn outage(&self, fault: Option<WireFault>) {
        self.script.outage.send_replace(fault);
    }

    /// How many requests of this operation arrived.
    #[must_use]
    pub fn calls(&self, operation: &str) -> u64 {
        lock(&self.script.calls).get(operation).copied().unwrap_or(0)
    }

    /// Forgets the faults that no request has met yet.
    pub fn clear(&self) {
        lock(&self.script.faults).clear();
    }

    /// The faults that no request has met yet.
    #[must_use]
    pub fn waiting(&self) -> Vec<(String, WireFault)> {
        lock(&self.script.faults).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Script {
    fn next(&self, operation: &str) -> Option<WireFault> {
        *lock(&self.calls).entry(operation.to_owned()).or_default() += 1;
        if let Some(outage) = self.outage.borrow().clone() {
            return Some(outage);
        }
        let mut faults = lock(&self.faults);
        let at = faults.iter().position(|(waits_for, _)| waits_for == operation)?;
        Some(faults.remove(at).1)
    }
}

async fn serve(listener: TcpListener, upstream: Arc<str>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (upstream, script) = (upstream.clone(), script.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| handle(request, upstream.clone(), script.clone()));
            // A broken connection is what this is for.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

/// An error ends the connection without a reply.
async fn handle(request: Request<Incoming>, upstream: Arc<str>, script: Arc<Script>) -> io::Result<Reply> {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    match script.next(&operation) {
        None => Ok(whole(forward(&upstream, parts, body).await?)),
        Some(WireFault::Answer(status, body)) => {
            let mut reply = Response::new(Bytes::from(body));
            *reply.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
            Ok(whole(reply))
        }
        Some(WireFault::ResetBefore) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(WireFault::ReplyLost) => {
            forward(&upstream, parts, body).await?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(WireFault::Silence) => {
            forward(&upstream, parts, body).await?;
            // The sender is in `script`: it does not go away.
            script.outage.subscribe().wait_for(|outage| *outage != Some(WireFault::Silence)).await.ok();
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(WireFault::ReplyTruncated) => Ok(truncated(forward(&upstream, parts, body).await?)),
        Some(WireFault::Unprocessed(count)) => {
            let (mut rest, held_back) = hold_back(&body, count)?;
            let reply = if entries(&mut rest).is_some_and(|entries| entries.is_empty()) {
                // The engine refuses an empty batch.
                let nothing = if rest["Statements"].is_array() { json!([]) } else { json!({}) };
                Response::new(json!({ "Responses": nothing }).to_string().into())
            } else {
                forward(&upstream, parts, rest.to_string().into()).await?
            };
            Ok(whole(give_back(reply, held_back)?))
        }
    }
}

async fn forward(
    upstream: &str,
    mut parts: http::request::Parts,
    body: Bytes,
) -> io::Result<Response<Bytes>> {
    let stream = TcpStream::connect(upstream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    let request = Request::from_parts(parts, Full::new(body));
    let exchange = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        reply = &mut exchange => reply.map_err(|error: hyper::Error| io::Error::other(error)),
        // The end of the connection may be seen before the reply that came on it.
        _ = connection => exchange.await.map_err(io::Error::other),
    }
}

fn whole(reply: Response<Bytes>) -> Reply {
    let (mut parts, body) = reply.into_parts();
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    Response::from_parts(parts, Full::new(body).map_err(|never| match never {}).boxed())
}

fn truncated(reply: Response<Bytes>) -> Reply {
    let (mut parts, body) = reply.into_parts();
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    let half = body.slice(..body.len() / 2);
    let frames = [Ok(Frame::data(half)), Err(io::ErrorKind::ConnectionReset.into())];
    Response::from_parts(parts, StreamBody::new(stream::iter(frames)).boxed())
}

/// What a batch is about: the keys of its one table, or its statements.
fn entries(batch: &mut Value) -> Option<&mut Vec<Value>> {
    if batch.get("Statements").is_some() {
        return batch.get_mut("Statements")?.as_array_mut();
    }
    let (_, table) = batch.get_mut("RequestItems")?.as_object_mut()?.iter_mut().next()?;
    table.get_mut("Keys")?.as_array_mut()
}

/// The batch without its last entries, and a batch of only these.
fn hold_back(body: &Bytes, count: usize) -> io::Result<(Value, Value)> {
    let mut rest: Value = serde_json::from_slice(body)?;
    let mut held_back = rest.clone();
    let kept = entries(&mut rest).map(|entries| entries.split_off(entries.len() - count));
    let (Some(kept), Some(target)) = (kept, entries(&mut held_back)) else {
        return Err(io::Error::other("not a batch"));
    };
    *target = kept;
    Ok((rest, held_back))
}

/// The reply as the service gives it when it did not come to these entries.
fn give_back(reply: Response<Bytes>, mut held_back: Value) -> io::Result<Response<Bytes>> {
    let (mut parts, body) = reply.into_parts();
    let mut answer: Value = serde_json::from_slice(&body)?;
    if let Some(responses) = answer.get_mut("Responses").and_then(Value::as_array_mut) {
        let error = json!({ "Error": { "Code": "ThrottlingError", "Message": "slower, please" } });
        let count = entries(&mut held_back).map_or(0, |entries| entries.len());
        responses.extend(std::iter::repeat_n(error, count));
    } else {
        answer["UnprocessedKeys"] = held_back["RequestItems"].take();
    }
    // It is of the body as the engine sent it.
    parts.headers.remove("x-amz-crc32");
    Ok(Response::from_parts(parts, serde_json::to_vec(&answer)?.into()))
}
