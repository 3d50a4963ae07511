//! Makes Blob equal to what DynamoDB holds: drives [`crate::protocol::reverse`] against the two stores.

use std::sync::Arc;

use super::Anchored;
use super::write::max_age;
use crate::blob::store::PutOptions;
use crate::blob::{BlobStore, ETag, Fetched, Head, ListedBlob, Pathname, Spooled};
use crate::converge::Converger;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Rules;
use crate::protocol::converge::Purpose;
use crate::protocol::reverse::{Content, Ending, Next, Reverse, Sent};
use crate::target::Outcome;
use crate::target::control::{Anchor, AnchorState, IntentRow, IntentState, names};

/// How often it looks at both sides before it gives up.
const ATTEMPTS: u8 = 8;
/// How often a blob is looked at that the anchor does not name, before its content is read: whoever just put
/// it will say so in a moment.
const PATIENCE: u8 = 2;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What came of it.
    pub ending: Ending<ETag>,
    /// Whether a request to Blob got no answer, and may land yet.
    pub unanswered: bool,
}

impl Anchored {
    /// Makes the items and Blob equal to the anchor of a pathname. Safe to repeat, safe to run several times at
    /// once, safe to be killed at any moment. `offered` is a body that may be the one to be put.
    ///
    /// # Errors
    /// `WrongPhase` once the session is over; what the stores report, after their own retries.
    pub async fn settle(
        &self,
        pathname: &Pathname,
        purpose: Purpose,
        offered: Option<&Spooled>,
    ) -> Result<Settled> {
        let mut run = Run::new(self, pathname, purpose, offered);
        let mut ending = run.drive().await?;
        // A request to DynamoDB that is on its way finds another rev.
        let foreign = matches!(ending, Ending::Foreign { .. });
        if foreign && purpose == Purpose::Intent && run.renew().await? != Sent::Applied {
            ending = Ending::GaveUp;
        }
        Ok(Settled { ending, unanswered: run.machine.unanswered() })
    }

    /// The same of an anchor that no intent names: under one of this session, so that whoever finds its content in
    /// Blob knows it. It stays, in doubt, where Blob may not be equal yet; says whether Blob is.
    ///
    /// # Errors
    /// As [`Anchored::settle`], but for what goes wrong with this pathname alone.
    pub async fn settle_noted(
        &self,
        session: &str,
        (pathname, anchor): (&Pathname, Option<&Anchor>),
        purpose: Purpose,
    ) -> Result<bool> {
        let (control, now) = (self.control(), self.converger.clock().now());
        let sha256 = anchor.and_then(|anchor| anchor.head.as_ref()).map(|head| head.sha256);
        let intent = IntentRow::new(session, now, IntentState::Open, vec![pathname.clone()], sha256);
        control.store_intent(&intent).await?;
        let settled = match self.settle(pathname, purpose, None).await {
            Ok(Settled { ending, unanswered }) => !unanswered && ending != Ending::GaveUp,
            Err(error) if error.kind().is_of_one_key() => false,
            Err(error) => return Err(error),
        };
        if settled {
            control.clear_intent(&intent).await?;
        } else {
            control.touch_intent(&intent.touched(IntentState::GaveUp), &intent.version).await?;
        }
        Ok(settled)
    }

    /// Brings the items of a pathname up to its anchor: a large write that was begun, and not finished.
    async fn finish(&self, pathname: &Pathname) -> Result<()> {
        self.of_items().converge(pathname, Purpose::Reconcile).await.map(drop)
    }

    /// Stores an anchor anew, if the one that was seen is still there.
    pub(super) async fn replace(&self, seen: Option<&Anchor>, anchor: &Anchor) -> Result<Sent> {
        self.converger.permit.check()?;
        let write = anchor.write(seen.map(|seen| &seen.rev));
        match self.control().store().transact(anchor.rev.as_str(), vec![write]).await {
            Ok(Outcome::Applied) => Ok(Sent::Applied),
            Ok(Outcome::Refused(refusals)) => {
                let found = refusals.first().and_then(|refusal| refusal.found.as_ref());
                let ours = found.and_then(Anchor::rev_of).as_ref() == Some(&anchor.rev);
                Ok(if ours { Sent::Applied } else { Sent::Refused })
            }
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => Ok(Sent::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Whether Blob is equal to the anchor of a pathname, and how not; changes nothing.
    ///
    /// # Errors
    /// What the stores report.
    pub async fn judge(&self, pathname: &Pathname) -> Result<(Judged, Option<ListedBlob>, Option<Anchor>)> {
        let mut run = Run { writes: false, ..Run::new(self, pathname, Purpose::Reconcile, None) };
        loop {
            let judged = match run.machine.next() {
                Next::Write { put: false, .. } => Judged::Extra,
                Next::Write { put: true, expected: None } => Judged::Missing,
                Next::Write { put: true, expected: Some(_) } => Judged::Stale,
                // The anchor does not say so yet.
                Next::Record { .. } | Next::Done(Ending::Equal | Ending::Written) => Judged::Equal,
                Next::Done(Ending::Foreign { .. }) => Judged::Foreign,
                Next::Done(Ending::GaveUp) => Judged::Moving,
                Next::ReadMirror | Next::ReadAuthority | Next::Compare { .. } => {
                    run.look_once().await?;
                    continue;
                }
            };
            return Ok((judged, run.mirror.map(|head| head.blob), run.anchor));
        }
    }
}

/// How Blob stands to an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It is equal.
    Equal,
    /// It lacks the blob.
    Missing,
    /// It has a blob that was deleted.
    Extra,
    /// It has an older version.
    Stale,
    /// It has what this migration did not write.
    Foreign,
    /// It did not hold still.
    Moving,
}

struct Run<'a> {
    anchored: &'a Anchored,
    pathname: &'a Pathname,
    machine: Reverse<ETag, crate::protocol::Rev>,
    /// What Blob holds.
    mirror: Option<Head>,
    anchor: Option<Anchor>,
    offered: Option<&'a Spooled>,
    /// What this run put.
    put: Vec<ETag>,
    /// How often something was found that the anchor does not name.
    looks: u8,
    /// Whether it may write.
    writes: bool,
}

impl<'a> Run<'a> {
    const fn new(
        anchored: &'a Anchored,
        pathname: &'a Pathname,
        purpose: Purpose,
        offered: Option<&'a Spooled>,
    ) -> Self {
        Self {
            anchored,
            pathname,
            machine: Reverse::new(Rules::SOUND, purpose, ATTEMPTS),
            mirror: None,
            anchor: None,
            offered,
            put: Vec::new(),
            looks: 0,
            writes: true,
        }
    }

    /// Does the next step, if it is a look.
    async fn look_once(&mut self) -> Result<()> {
        match self.machine.next() {
            Next::ReadMirror => {
                self.mirror = self.blob().head(self.pathname).await?;
                self.machine.mirror(self.mirror.as_ref().map(|head| head.blob.etag.clone()));
            }
            Next::ReadAuthority => {
                self.anchor = self.look().await?;
                self.machine.authority(Anchor::reverse(self.anchor.as_ref()));
            }
            Next::Compare { etag } => {
                let content = self.compare(&etag).await?;
                if content == Content::Gone {
                    self.pause().await;
                }
                self.machine.compared(content);
            }
            Next::Write { .. } | Next::Record { .. } | Next::Done(_) => {}
        }
        Ok(())
    }

    async fn drive(&mut self) -> Result<Ending<ETag>> {
        loop {
            match self.machine.next() {
                Next::ReadMirror | Next::ReadAuthority | Next::Compare { .. } => self.look_once().await?,
                Next::Write { put, expected } => {
                    let (sent, stored) = self.write(put, expected).await?;
                    if sent != Sent::Applied {
                        self.pause().await;
                    }
                    let etag = stored.as_ref().map(|head| head.blob.etag.clone());
                    self.mirror = stored;
                    self.machine.written(sent, etag);
                }
                Next::Record { .. } => {
                    let sent = self.record().await?;
                    self.machine.recorded(sent);
                }
                Next::Done(ending) => return Ok(ending),
            }
        }
    }

    fn blob(&self) -> &Arc<dyn BlobStore> {
        self.anchored.blob()
    }

    async fn pause(&self) {
        self.anchored.converger.clock().sleep(PAUSE).await;
    }

    async fn look(&self) -> Result<Option<Anchor>> {
        let anchor = self.anchored.control().anchor(self.pathname).await?;
        if !self.writes || anchor.as_ref().is_none_or(|anchor| anchor.state != AnchorState::Pending) {
            return Ok(anchor);
        }
        self.anchored.finish(self.pathname).await?;
        let anchor = self.anchored.control().anchor(self.pathname).await?;
        if anchor.as_ref().is_some_and(|anchor| anchor.state == AnchorState::Pending) {
            return Err(Error::new(ErrorKind::Busy, "mirror a blob")
                .key(self.pathname)
                .message("its items are not all stored yet"));
        }
        Ok(anchor)
    }

    /// Whose content Blob holds under this ETag.
    async fn compare(&mut self, etag: &ETag) -> Result<Content> {
        let held = self.anchor.as_ref().filter(|anchor| anchor.head.is_some());
        if held.and_then(Anchor::etag).as_ref() == Some(etag) {
            return Ok(Content::Same);
        }
        if self.put.contains(etag) {
            return Ok(Content::Ours);
        }
        if self.looks < PATIENCE {
            self.looks += 1;
            return Ok(Content::Gone);
        }
        let Some(ListedBlob { size, .. }) = self.mirror.as_ref().map(|head| &head.blob) else {
            return Ok(Content::Gone);
        };
        let intents = self.anchored.control().intents().await?;
        if intents.iter().any(|intent| intent.any_content && intent.pathnames.contains(self.pathname)) {
            return Ok(Content::Ours);
        }
        let fetched = match self.anchored.converger.fetcher.fetch(self.pathname, etag, *size).await {
            // Longer than anything of ours.
            Err(error) if error.kind() == ErrorKind::Unrepresentable => return Ok(Content::Other),
            fetched => fetched?,
        };
        let Fetched::Body { body, .. } = fetched else { return Ok(Content::Gone) };
        let sha256 = body.sha256();
        if held.and_then(|anchor| anchor.head.as_ref()).is_some_and(|head| head.sha256 == sha256) {
            return Ok(Content::Same);
        }
        // Read after the blob: what was put before that was named by an intent that is open, or by the anchor.
        let named = intents.iter().any(|intent| intent.names(self.pathname, sha256));
        Ok(if named { Content::Ours } else { Content::Other })
    }

    /// Puts or deletes, and looks what Blob holds since then.
    async fn write(&mut self, put: bool, expected: Option<ETag>) -> Result<(Sent, Option<Head>)> {
        self.anchored.converger.permit.check()?;
        let sent = if put {
            let anchor = self.anchor.as_ref();
            let held = anchor.and_then(|anchor| Some((anchor, anchor.head.as_ref()?)));
            let (anchor, head) = held.expect("invariant: what is put is there");
            let offered = self.offered.filter(|offered| offered.sha256() == head.sha256);
            let body = match offered {
                Some(body) => body.clone(),
                None => match self.anchored.body_of(anchor).await {
                    // Replaced meanwhile, or damaged: then this comes again, until it is told.
                    Err(error) if error.kind() == ErrorKind::Corrupt => return Ok((Sent::Refused, None)),
                    body => body?,
                },
            };
            let options = PutOptions {
                allow_overwrite: expected.is_some(),
                if_match: expected,
                content_type: Some(head.content_type.clone()),
                cache_control_max_age: max_age(&head.cache_control),
                ..PutOptions::default()
            };
            let noted = match offered {
                // Its operation's intent names it.
                Some(_) => None,
                None => Some(self.note(&body).await?),
            };
            let sent = self.blob().put(self.pathname, body.body(), &options).await;
            if let Some(noted) = noted {
                self.end(&noted, &sent).await?;
            }
            sent.map(|head| Some(head.blob.etag))
        } else {
            let deleted = self.blob().delete(std::slice::from_ref(self.pathname), expected.as_ref()).await;
            deleted.map(|()| None)
        };
        let etag = match sent {
            Ok(etag) => etag,
            Err(error) => return Ok((outcome(error)?, None)),
        };
        let Some(etag) = etag else { return Ok((Sent::Applied, None)) };
        self.put.push(etag.clone());
        // Its reply has no time.
        let head = self.blob().head(self.pathname).await?.filter(|head| head.blob.etag == etag);
        Ok((if head.is_some() { Sent::Applied } else { Sent::Refused }, head))
    }

    /// Notes what is about to be put, and is another version than this run's intent names: landing late, it must be
    /// known as ours.
    async fn note(&self, body: &Spooled) -> Result<IntentRow> {
        let Converger { control, permit, .. } = &self.anchored.converger;
        let (now, names) = (self.anchored.converger.clock().now(), vec![self.pathname.clone()]);
        let noted = IntentRow::new(&permit.session(), now, IntentState::Open, names, Some(body.sha256()));
        control.store_intent(&noted).await?;
        Ok(noted)
    }

    /// Removes such a note, if the put was answered; else it is in doubt.
    async fn end(&self, noted: &IntentRow, sent: &Result<Head>) -> Result<()> {
        let control = self.anchored.control();
        let unanswered = sent.as_ref().is_err_and(|error| may_land(error.kind()));
        if unanswered {
            return control.touch_intent(&noted.touched(IntentState::GaveUp), &noted.version).await.map(drop);
        }
        control.clear_intent(noted).await.map(drop)
    }

    /// Writes the anchor anew: Blob is equal to it.
    async fn record(&mut self) -> Result<Sent> {
        let rev = names::new_rev();
        let seen = self.anchor.as_ref();
        let mut anchor = match seen {
            Some(seen) => Anchor { rev, behind: None, ..seen.clone() },
            None => Anchor::tombstone(self.pathname.clone(), rev),
        };
        if let (Some(head), Some(mirror)) = (&mut anchor.head, &self.mirror) {
            head.etag = mirror.blob.etag.clone();
            head.blob_etag = mirror.blob.etag.clone();
            head.blob_uploaded_at = Some(mirror.blob.uploaded_at).filter(|at| *at != head.uploaded_at);
        }
        self.anchored.replace(self.anchor.as_ref(), &anchor).await
    }

    async fn renew(&self) -> Result<Sent> {
        let rev = names::new_rev();
        let anchor = match &self.anchor {
            Some(seen) => Anchor { rev, ..seen.clone() },
            None => Anchor::tombstone(self.pathname.clone(), rev),
        };
        self.anchored.replace(self.anchor.as_ref(), &anchor).await
    }
}

/// What a failed write means.
fn outcome(error: Error) -> Result<Sent> {
    match error.kind() {
        ErrorKind::LostRace | ErrorKind::AlreadyExists => Ok(Sent::Refused),
        kind if may_land(kind) => Ok(Sent::Unknown),
        _ => Err(error),
    }
}

/// Whether a write that failed so may have been applied, or may be yet.
const fn may_land(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::Corrupt | ErrorKind::Internal)
}
