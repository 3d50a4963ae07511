//! The body of a request, which outlives the store's interest in it.
//!
//! A client that is refused while it still sends would see a broken connection instead of the refusal, and
//! the SDKs would try again. So what is left of a refused body is read, within limits, before the reply.
//!
//! A body that is not there yet takes one of the places for uploads. There are fewer of them than connections: however
//! many uploads stall, requests without a body find room.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body as HttpBody, BodyDataStream};
use bytes::Bytes;
use futures::stream::{self, Stream as _, StreamExt as _};
use http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Site;
use super::pace::patience;
use super::reply::Refusal;
use crate::blob::pace::Patience;
use crate::blob::store::Body;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// The body of a request. Clones read the same body.
#[derive(Clone)]
pub(super) struct Incoming {
    length: Option<u64>,
    stream: Arc<Mutex<Patient>>,
}

/// A body that is waited for, but not for ever.
struct Patient {
    stream: BodyDataStream,
    patience: Patience,
    places: Arc<Semaphore>,
    /// The place that it has since it was waited for.
    place: Option<OwnedSemaphorePermit>,
    /// Why no more of it is waited for.
    failed: Option<&'static str>,
}

impl Patient {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if let Some(message) = self.failed {
            return Poll::Ready(Some(Err(failed(message))));
        }
        if let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(context) {
            self.patience.moved(next.as_ref().map_or(0, |chunk| chunk.as_ref().map_or(0, Bytes::len)));
            let broken = |error| failed("the sender broke off").source(error);
            return Poll::Ready(next.map(|chunk| chunk.map_err(broken)));
        }
        let message = if self.has_place() {
            std::task::ready!(self.patience.poll(context));
            "the sender stopped sending, or is too slow"
        } else {
            "the server waits for as many uploads as it may; try again"
        };
        self.place = None;
        self.failed = Some(message);
        Poll::Ready(Some(Err(failed(message))))
    }

    fn has_place(&mut self) -> bool {
        if self.place.is_none() {
            self.place = self.places.clone().try_acquire_owned().ok();
        }
        self.place.is_some()
    }
}

fn failed(message: &'static str) -> Error {
    Error::new(ErrorKind::NotApplied, "receive a body").message(message)
}

impl Incoming {
    pub(super) fn new(headers: &HeaderMap, body: HttpBody, site: &Site) -> Self {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let patient = Patient {
            stream: body.into_data_stream(),
            patience: patience(site, &site.uploads),
            places: site.uploads.clone(),
            place: None,
            failed: None,
        };
        Self { length, stream: Arc::new(Mutex::new(patient)) }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).poll(context)
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
