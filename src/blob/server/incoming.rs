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
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, Stream as _, StreamExt as _};
use http::{HeaderMap, header};

use super::Site;
use super::reply::Refusal;
use crate::blob::store::Body;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The least that must come while the server waits for as long as a client may be silent.
const PROGRESS_BYTES_MIN: u64 = 1 << 10;
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
    clock: Arc<dyn Clock>,
    patience: Duration,
    /// Ends the present wait.
    timer: Option<BoxFuture<'static, ()>>,
    waiting_since: Option<Duration>,
    /// How long was waited in all, and what came, since both were last judged.
    waited: Duration,
    came: u64,
}

impl Patient {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let failed = |message: &str| Error::new(ErrorKind::NotApplied, "receive a body").message(message);
        if let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(context) {
            self.timer = None;
            self.came +=
                next.as_ref().map_or(0, |chunk| chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
            if let Some(since) = self.waiting_since.take() {
                self.waited += self.clock.monotonic().saturating_sub(since);
            }
            if self.waited >= self.patience && next.is_some() {
                if std::mem::take(&mut self.came) < PROGRESS_BYTES_MIN {
                    return Poll::Ready(Some(Err(failed("the sender is too slow"))));
                }
                self.waited = Duration::ZERO;
            }
            return Poll::Ready(
                next.map(|chunk| chunk.map_err(|error| failed("the sender broke off").source(error))),
            );
        }
        self.waiting_since.get_or_insert_with(|| self.clock.monotonic());
        let timer = self.timer.get_or_insert_with(|| {
            let (clock, patience) = (self.clock.clone(), self.patience);
            async move { clock.sleep(patience).await }.boxed()
        });
        std::task::ready!(timer.as_mut().poll(context));
        // It must not be polled again.
        self.timer = None;
        Poll::Ready(Some(Err(failed("the sender stopped sending"))))
    }
}

impl Incoming {
    pub(super) fn new(headers: &HeaderMap, body: HttpBody, site: &Site) -> Self {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let patient = Patient {
            stream: body.into_data_stream(),
            clock: site.clock.clone(),
            patience: site.config.stall_timeout,
            timer: None,
            waiting_since: None,
            waited: Duration::ZERO,
            came: 0,
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::mpsc;

    use super::*;
    use crate::testing::ManualClock;

    #[tokio::test]
    async fn who_sends_a_byte_at_a_time_is_not_waited_for_for_ever() {
        for (bytes, ends) in [(1, true), (2000, false)] {
            let clock = ManualClock::at("2026-11-01T00:00:00Z");
            let (sender, mut receiver) = mpsc::unbounded_channel::<Bytes>();
            let chunks = stream::poll_fn(move |context| {
                receiver.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>))
            });
            let mut patient = Patient {
                stream: HttpBody::from_stream(chunks).into_data_stream(),
                clock: Arc::new(clock.clone()),
                patience: Duration::from_secs(60),
                timer: None,
                waiting_since: None,
                waited: Duration::ZERO,
                came: 0,
            };
            let mut context = Context::from_waker(std::task::Waker::noop());
            let mut ended = false;
            for _ in 0..5 {
                assert!(patient.poll(&mut context).is_pending());
                clock.advance(Duration::from_secs(30));
                sender.send(vec![0; bytes].into()).unwrap();
                let Poll::Ready(Some(next)) = patient.poll(&mut context) else { panic!("a chunk came") };
                ended |= next.is_err();
            }
            assert_eq!(ended, ends, "{bytes} bytes every 30 seconds");
        }
    }
}
