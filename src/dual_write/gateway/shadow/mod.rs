//! Shadow reads: what a client was served, compared with what the other store would have answered.
//!
//! It happens off the client's path: an answer is passed on first, and compared after it in a task of its own. Only
//! so many wait and only so many run at a time; the others are left out, and counted. Nothing that goes wrong
//! here reaches a client.

mod compare;
mod tally;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use sha2::Digest as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::tally::Tally;
use super::sampler::Sampler;
use super::{DualWrite, Gateway};
use crate::blob::store::Content;
use crate::blob::{Body, ETag, Head, Pathname};
use crate::digest::Digest;
use crate::error::Result;
use crate::plan::ShadowReadsPlan;
use crate::protocol::phase::Epoch;
use crate::target::control::{Reads, ReadsRow};

/// So many reads are compared at a time.
const CONCURRENCY: usize = 8;
/// So many wait for it or are compared; digests of bodies are kept meanwhile, not bodies.
const QUEUE_MAX: usize = 256;

/// What was compared belongs to this: one more with each time that phase `shadow` is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) epoch: Epoch,
    pub(super) round: u64,
}

/// What a client was told.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// By `head`.
    Head(Option<Head>),
    /// That there is no content.
    NoContent,
    /// A whole body.
    Content { etag: ETag, size: u64, content_type: String, sha256: Digest },
}

/// An answer to be compared.
struct Sample {
    round: Round,
    pathname: Pathname,
    answer: Answer,
    /// How long the store took that answered.
    took: Duration,
}

/// The shadow reads of one gateway.
pub(super) struct Shadow {
    sampler: Sampler,
    queue: Arc<Semaphore>,
    slots: Semaphore,
    tally: Mutex<Tally>,
    /// Ends what is being compared.
    end: CancellationToken,
}

impl Shadow {
    pub(super) fn new(plan: &ShadowReadsPlan) -> Self {
        Self {
            sampler: Sampler::new(plan.sample),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
            slots: Semaphore::new(CONCURRENCY),
            tally: Mutex::default(),
            end: CancellationToken::new(),
        }
    }

    /// Compares nothing any more.
    pub(super) fn close(&self) {
        self.end.cancel();
    }

    fn tally<T>(&self, count: impl FnOnce(&mut Tally) -> T) -> T {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gateway {
    /// The round to which a read of this pathname counts; none where it is not compared.
    pub(super) fn sampled(&self, pathname: &Pathname) -> Option<Round> {
        let round = self.door.compared()?;
        (self.maps(pathname) && self.shadow.sampler.takes_one()).then_some(round)
    }

    /// Puts an answer in the queue of those that are compared, or leaves it out.
    pub(super) fn offer(self: &Arc<Self>, round: Round, pathname: &Pathname, answer: Answer, took: Duration) {
        let sample = Sample { round, pathname: pathname.clone(), answer, took };
        let gateway = Arc::clone(self);
        if !self.in_the_shadow(async move { gateway.compare(sample).await }) {
            self.count(round, |reads| reads.dropped += 1);
        }
    }

    /// Has a comparison run when it is its turn; says whether there was room for it.
    pub(super) fn in_the_shadow(
        self: &Arc<Self>,
        comparison: impl Future<Output = ()> + std::marker::Send + 'static,
    ) -> bool {
        let Ok(place) = Arc::clone(&self.shadow.queue).try_acquire_owned() else {
            self.metrics.compared("dropped");
            return false;
        };
        let gateway = Arc::clone(self);
        let compared = async move {
            let _place = place;
            let Ok(_slot) = gateway.shadow.slots.acquire().await else { return };
            gateway.shadow.end.run_until_cancelled(comparison).await;
        };
        tokio::spawn(compared.in_current_span());
        true
    }

    /// The same content; once its last byte has passed, it is compared.
    pub(super) fn watched(
        self: &Arc<Self>,
        round: Round,
        pathname: &Pathname,
        content: Option<Content>,
        took: Duration,
    ) -> Option<Content> {
        let Some(mut content) = content else {
            self.offer(round, pathname, Answer::NoContent, took);
            return None;
        };
        let (etag, size, content_type) = (content.etag.clone(), content.size, content.content_type.clone());
        let answer = move |sha256| Answer::Content {
            etag: etag.clone(),
            size,
            content_type: content_type.clone(),
            sha256,
        };
        if size == 0 {
            self.offer(round, pathname, answer(Digest::of("")), took);
            return Some(content);
        }
        let (gateway, pathname) = (Arc::clone(self), pathname.clone());
        let (mut hasher, mut passed) = (sha2::Sha256::new(), 0);
        let body = std::mem::replace(&mut content.body, bytes::Bytes::new().into());
        let length = body.length();
        let stream = body.into_stream().inspect(move |chunk| {
            let Ok(chunk) = chunk else { return };
            hasher.update(chunk);
            passed += chunk.len() as u64;
            if passed == size {
                let sha256 = Digest::from_bytes(hasher.clone().finalize().into());
                gateway.offer(round, &pathname, answer(sha256), took);
            }
        });
        content.body = Body::stream(length, stream.boxed());
        Some(content)
    }

    fn count(&self, round: Round, count: impl FnOnce(&mut Reads)) {
        let now = self.clock().now();
        self.shadow.tally(|tally| count(tally.of(round, now)));
    }
}

impl DualWrite {
    /// What was compared since phase `shadow` was entered last.
    #[must_use]
    pub fn compared(&self) -> Reads {
        self.0.shadow.tally(|tally| tally.reads())
    }

    /// Keeps what was compared in the control table, where that is more than before.
    ///
    /// # Errors
    /// What the store reports; then it is kept the next time.
    pub async fn keep_reads(&self, name: &str, plan_hash: &str) -> Result<()> {
        let now = self.0.clock().now();
        let rows = self.0.shadow.tally(|tally| tally.unkept(name, plan_hash, now));
        for row in rows {
            let kept: Result<()> = self.0.within(self.0.control().put_reads(&row)).await;
            if let Err(error) = kept {
                self.0.shadow.tally(|tally| tally.not_kept(row));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Keeps what was compared every `pause`, until it is cancelled.
    pub async fn keep_reads_every(
        &self,
        pause: Duration,
        (name, plan_hash): (&str, &str),
        cancel: &CancellationToken,
    ) {
        while cancel.run_until_cancelled(self.0.clock().sleep(pause)).await.is_some() {
            if let Err(error) = self.keep_reads(name, plan_hash).await {
                tracing::debug!(%error, "what was compared is kept later");
            }
        }
    }
}

/// A row that was to be kept belongs to a round that is over, or to the present one.
fn is_of(row: &ReadsRow, round: Round) -> bool {
    (row.epoch, row.round) == (round.epoch, round.round)
}
