//! The body of a request, which outlives the store's interest in it.
//!
//! A client that is refused while it still sends would see a broken connection instead of the refusal, and
//! the SDKs would try again. So what is left of a refused body is read, within limits, before the reply.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body as HttpBody, BodyDataStream};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use http::{HeaderMap, header};

use super::reply::Refusal;
use crate::blob::store::Body;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// The body of a request. Clones read the same body.
#[derive(Clone)]
pub(super) struct Incoming {
    length: Option<u64>,
    stream: Arc<Mutex<BodyDataStream>>,
}

impl Incoming {
    pub(super) fn new(headers: &HeaderMap, body: HttpBody) -> Self {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        Self { length, stream: Arc::new(Mutex::new(body.into_data_stream())) }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *stream).poll_next(context).map_err(|error| {
            Error::new(ErrorKind::NotApplied, "receive a body").message("the sender broke off").source(error)
        })
    }

    /// Its bytes, for the store.
    pub(super) fn body(&self) -> Body {
        let incoming = self.clone();
        Body::stream(self.length, stream::poll_fn(move |context| incoming.poll(context)).boxed())
    }

    /// All of it as JSON.
    pub(super) async fn json<T: serde::de::DeserializeOwned>(&self, bytes_max: usize) -> Result<T, Refusal> {
        let bytes = self.body().collect(bytes_max as u64).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Refusal::bad_request(format!("the body is not the JSON that is expected: {error}"))
        })
    }

    /// Reads what the sender still sends, within limits.
    pub(super) async fn drain(&self, clock: &dyn Clock) {
        let mut rest = self.body().into_stream();
        let drained = async {
            let mut length = 0;
            while let Some(Ok(chunk)) = rest.next().await {
                length += chunk.len();
                if length > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        tokio::select! {
            () = drained => {}
            () = clock.sleep(DRAIN_TIME_MAX) => {}
        }
    }
}
