//! The canary: a share of the keys is read from DynamoDB while Blob is the authority.
//!
//! Blob's `head` and the anchor are read side by side. DynamoDB answers where it holds the version that `head`
//! names, else Blob does. What it answered is compared with Blob's content off the client's path; too many
//! mismatches or failures, and the gateway ends the canary for all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use sha2::Digest as _;

use super::Gateway;
use super::sampler::Sampler;
use super::shadow::Answer;
use crate::anchored::Anchored;
use crate::anchored::read::Room;
use crate::blob::store::{Content, GetOptions};
use crate::blob::{ETag, Head, Pathname};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::hook;
use crate::plan::CanaryPlan;
use crate::protocol::canary::{Bounds, Counts, Held, ServeFrom, serve_from, turn_back};
use crate::protocol::phase::Phase;
use crate::target::control::{Anchor, AnchorState, Audit, BlobHead, BodyForm, Mode};

/// How long a client waits for DynamoDB before Blob answers.
const CANDIDATE_TIME_MAX: Duration = Duration::from_secs(1);

/// The canary of one gateway.
pub(super) struct Canary {
    bounds: Bounds,
    sampler: Sampler,
    counted: Mutex<(u64, Counts)>,
}

impl Canary {
    pub(super) fn new(plan: &CanaryPlan) -> Self {
        Self {
            bounds: Bounds {
                mismatches: plan.max_mismatches,
                errors_percent: u64::from(plan.max_errors_percent),
            },
            sampler: Sampler::new(plan.sample),
            counted: Mutex::default(),
        }
    }

    /// Counts for a step; what is late for an earlier one does not count.
    fn count(&self, step: u64, count: impl FnOnce(&mut Counts)) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 < step {
            *counted = (step, Counts::default());
        }
        if counted.0 == step {
            count(&mut counted.1);
        }
    }

    pub(super) fn counts(&self, step: u64) -> Counts {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 == step { counted.1 } else { Counts::default() }
    }

    pub(super) fn latest(&self) -> Counts {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Blob's head, and what of the anchor may be answered with.
struct Sides {
    head: Option<Head>,
    /// None where Blob is to answer.
    held: Option<Option<(Anchor, BlobHead)>>,
}

impl Gateway {
    /// The step under which a read of this pathname is one of the canary's; none where Blob answers.
    pub(super) fn canaried(&self, pathname: &Pathname) -> Option<u64> {
        let step = self.door.canaried(pathname)?;
        self.maps(pathname).then_some(step)
    }

    /// `head` of a key of the canary.
    pub(super) async fn canary_head(
        self: &Arc<Self>,
        step: u64,
        pathname: &Pathname,
    ) -> Result<Option<Head>> {
        let began = self.clock().monotonic();
        let Sides { head, held } = self.sides(step, pathname).await?;
        if held.is_none()
            && let Some(round) = self.sampled(pathname)
        {
            let took = self.clock().monotonic().saturating_sub(began);
            self.offer(round, pathname, Answer::Head(head.clone()), took);
        }
        match (head, held) {
            (Some(head), Some(Some((_, held)))) => {
                self.answered(step);
                Ok(Some(told(head, held)))
            }
            (head, Some(_)) => {
                self.answered(step);
                Ok(head)
            }
            (head, None) => Ok(head),
        }
    }

    /// The content of a key of the canary; none where Blob is to answer.
    pub(super) async fn canary_get(
        self: &Arc<Self>,
        step: u64,
        pathname: &Pathname,
        options: &GetOptions,
    ) -> Option<Option<Content>> {
        // Blob's own error is Blob's to tell.
        let Sides { head, held } = self.sides(step, pathname).await.ok()?;
        let (Some(head), Some((anchor, held))) = (head, held?) else {
            self.answered(step);
            return Some(None);
        };
        // While readers hold as much as they may, Blob answers, which needs to hold nothing.
        let room = Room::of(held.size).ok()?;
        let store = Anchored::new(self.converger.clone(), &self.prefix);
        let body = match self.in_time(store.body_of(&anchor)).await {
            Ok(body) => body,
            Err(error) => {
                self.failed(step, &error);
                return None;
            }
        };
        self.answered(step);
        if self.canary.sampler.takes_one() {
            self.check(step, pathname, held.etag.clone(), body.sha256());
        }
        Some(Some(Content {
            etag: head.blob.etag,
            size: body.length(),
            last_modified: Some(head.blob.uploaded_at),
            content_type: held.content_type,
            content_disposition: head.content_disposition,
            cache_control: held.cache_control,
            body: room.around(body.part(options.range)),
        }))
    }

    /// Both sides at one time.
    async fn sides(&self, step: u64, pathname: &Pathname) -> Result<Sides> {
        let anchor = self.in_time(self.control().bare_anchor(pathname));
        let (head, anchor) = futures::join!(self.upstream.head(pathname), anchor);
        let head = head?;
        let anchor = match anchor {
            Ok(anchor) => anchor,
            Err(error) => {
                self.failed(step, &error);
                return Ok(Sides { head, held: None });
            }
        };
        let blob = head.as_ref().map(|head| Anchor::as_known(anchor.as_ref(), head.blob.clone()).version());
        if serve_from(&held(anchor.as_ref()), blob.as_ref()) == ServeFrom::Source {
            self.metrics.canaried("behind");
            self.canary.count(step, |counts| counts.behind += 1);
            return Ok(Sides { head, held: None });
        }
        let held = anchor.and_then(|anchor| anchor.head.clone().map(|held| (anchor, held)));
        if let (Some(head), Some((_, held))) = (&head, &held)
            && (head.blob.size, &head.content_type) != (held.size, &held.content_type)
        {
            self.mismatched(step, pathname);
            return Ok(Sides { head: Some(head.clone()), held: None });
        }
        Ok(Sides { head, held: Some(held) })
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.clock().sleep(CANDIDATE_TIME_MAX) => {
                Err(Error::new(ErrorKind::OutcomeUnknown, "read from DynamoDB").message("no answer in time"))
            }
        }
    }

    fn answered(&self, step: u64) {
        self.metrics.canaried("dynamodb");
        self.canary.count(step, |counts| counts.answered += 1);
    }

    fn failed(&self, step: u64, error: &Error) {
        tracing::debug!(%error, "Blob answers a read of the canary");
        self.metrics.canaried("error");
        self.canary.count(step, |counts| counts.errors += 1);
    }

    /// DynamoDB answered what Blob does not hold, or would have.
    pub(super) fn mismatched(&self, step: u64, pathname: &Pathname) {
        tracing::warn!(%pathname, "the canary's answer is not what Blob holds");
        self.metrics.canaried("mismatch");
        self.canary.count(step, |counts| counts.mismatches += 1);
    }

    /// Compares bytes that were answered with those that Blob has under the same ETag, off the client's path.
    fn check(self: &Arc<Self>, step: u64, pathname: &Pathname, etag: ETag, sha256: Digest) {
        let (gateway, pathname) = (Arc::clone(self), pathname.clone());
        // Where there is no room for it, it is left out.
        self.in_the_shadow(async move {
            match gateway.digest_in_blob(&pathname, &etag).await {
                Ok(Some(in_blob)) if in_blob != sha256 => gateway.mismatched(step, &pathname),
                // Another version by now, or a cache's: nobody can tell.
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, %pathname, "an answer could not be compared"),
            }
        });
    }

    /// The digest of what Blob serves, if that has this ETag.
    async fn digest_in_blob(&self, pathname: &Pathname, etag: &ETag) -> Result<Option<Digest>> {
        let options = GetOptions { no_cache: true, ..GetOptions::default() };
        let Some(content) = self.upstream.get(pathname, &options).await? else { return Ok(None) };
        if content.etag != *etag {
            return Ok(None);
        }
        let (size, mut stream) = (content.size, content.body.into_stream());
        let (mut hasher, mut length) = (sha2::Sha256::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            length += chunk.len() as u64;
            hasher.update(&chunk);
        }
        Ok((length == size).then(|| Digest::from_bytes(hasher.finalize().into())))
    }

    /// Ends the canary, if it costs more than the plan allows: reads come from Blob again.
    pub(super) async fn turn_back(self: &Arc<Self>, mode: &Mode, name: &str) {
        if mode.phase != Phase::Canary || mode.hold.is_some() {
            return;
        }
        let Some(why) = turn_back(self.canary.counts(mode.step), self.canary.bounds) else { return };
        let to = mode.stepped(Phase::Shadow, None, self.clock().now(), &mode.plan_hash);
        let evidence = [("canary".to_owned(), why.to_string())].into();
        let who = format!("gateway {name}");
        let audit = Audit::of_step(mode.phase, &to, &who, evidence);
        match self.within(self.control().flip(mode, &to, Some(&audit))).await {
            Ok(true) => {
                self.door.saw(&to);
                self.events.report(Event::Warning(format!(
                    "{why}: the canary is ended, and reads come from Blob again (phase shadow)"
                )));
                self.tell_hook(mode.phase, to, who);
            }
            // Somebody was faster: the next look shows it.
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the canary could not be ended; it is tried again"),
        }
    }
}

impl Gateway {
    /// Runs the plan's hook, which nobody waits for.
    fn tell_hook(self: &Arc<Self>, from: Phase, to: Mode, who: String) {
        let Some(hook) = self.hook.clone() else { return };
        let gateway = Arc::clone(self);
        self.running.spawn(async move {
            let told = hook::tell(&hook, gateway.control(), gateway.clock(), (from, &to), &who).await;
            gateway.events.report(match told {
                Ok(run) if run.ok => Event::Note(run.to_string()),
                Ok(run) => Event::Warning(run.to_string()),
                Err(error) => {
                    Event::Warning(format!("the hook has run; the audit log does not say so: {error}"))
                }
            });
        });
    }
}

/// What an anchor can answer with.
fn held(anchor: Option<&Anchor>) -> Held<crate::blob::Version> {
    let Some(anchor) = anchor else { return Held::Nothing };
    // What is put together from items is the same JSON, but not the bytes that the ETag names.
    let rebuilt = anchor.body.as_ref().is_some_and(|body| body.form == BodyForm::Skeleton);
    match (&anchor.state, anchor.version()) {
        (AnchorState::Tombstone, _) => Held::Nothing,
        (AnchorState::Live, Some(mapped)) if !rebuilt && anchor.behind.is_none() => {
            Held::Version(mapped.version)
        }
        (AnchorState::Live | AnchorState::Pending | AnchorState::Quarantined { .. }, _) => Held::Unsettled,
    }
}

/// What a client is told: the anchor's word, under Blob's own ETag, time and place.
fn told(head: Head, held: BlobHead) -> Head {
    let blob = crate::blob::ListedBlob { size: held.size, ..head.blob };
    Head { blob, content_type: held.content_type, ..head }
}
