//! Makes Blob equal to what DynamoDB holds: drives [`crate::protocol::reverse`] against the two stores.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Anchored;
use super::verdict::{Explained, Judged, Verdict};
use super::write::max_age;
use crate::blob::store::{Deadline, PutOptions};
use crate::blob::{BlobStore, ETag, Fetched, Head, ListedBlob, Pathname, Spooled};
use crate::converge::{Converger, Permit};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::converge::Purpose;
use crate::protocol::note::{Note, State, whose};
use crate::protocol::reverse::{Content, Ending, Next, Permission, Reverse, Seen, Sent};
use crate::protocol::{Rev, Rules};
use crate::target::Outcome;
use crate::target::control::{Anchor, AtWork, Behind, Expected, IntentRow, IntentState, NoteRow, names};

/// How often it looks at both sides before it gives up.
const ATTEMPTS: u8 = 8;
/// How often a blob is looked at that the anchor does not name, before its content is read: whoever just put
/// it will say so in a moment.
const PATIENCE: u8 = 2;
const PAUSE: Duration = Duration::from_millis(20);

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
    ) -> Result<Ending<ETag>> {
        let mut run = Run::new(self, pathname, purpose, offered);
        let ending = run.drive().await?;
        // A request to DynamoDB that is on its way finds another rev.
        let foreign = matches!(ending, Ending::Foreign { .. });
        if foreign && purpose == Purpose::Intent && run.renew().await? != Sent::Applied {
            return Ok(Ending::GaveUp);
        }
        Ok(ending)
    }

    /// The same of an anchor that no intent names: under one of this session, so that whoever comes later knows that
    /// Blob may not be equal. It stays, in doubt, where that is so; says whether Blob is equal.
    ///
    /// # Errors
    /// As [`Anchored::settle`], but for what goes wrong with this pathname alone.
    pub async fn settle_noted(&self, session: &str, pathname: &Pathname, purpose: Purpose) -> Result<bool> {
        let (control, now) = (self.control(), self.converger.clock().now());
        let intent = IntentRow {
            to_target: true,
            ..IntentRow::new(session, now, IntentState::Open, vec![pathname.clone()], None)
        };
        control.store_intent(&intent).await?;
        let settled = match self.settle(pathname, purpose, None).await {
            Ok(ending) => ending != Ending::GaveUp,
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

    /// Stores an anchor anew, if the one that was seen is still there; removes a note in the same transaction.
    pub(super) async fn replace(
        &self,
        seen: Option<&Anchor>,
        anchor: &Anchor,
        note: Option<&NoteRow>,
    ) -> Result<Sent> {
        self.converger.permit.check()?;
        let mut writes = vec![anchor.write(seen.map(|seen| &seen.rev))];
        writes.extend(note.map(NoteRow::removal));
        match self.control().store().transact(anchor.rev.as_str(), writes).await {
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
    pub async fn judge(&self, pathname: &Pathname) -> Result<Verdict> {
        let mut run = Run { writes: false, ..Run::new(self, pathname, Purpose::Reconcile, None) };
        loop {
            let judged = match run.machine.next() {
                Next::Note { put: false, .. } => Judged::Extra,
                Next::Note { put: true, expects: None } => Judged::Missing,
                Next::Note { put: true, expects: Some(_) } => Judged::Stale,
                // The anchor does not say so yet.
                Next::Record { .. } | Next::Done(Ending::Equal | Ending::Written) => Judged::Equal,
                Next::Done(Ending::Foreign { .. }) => Judged::Foreign,
                Next::Done(Ending::GaveUp) => Judged::Moving,
                Next::ReadMirror | Next::ReadAuthority | Next::Compare { .. } => {
                    run.step().await?;
                    continue;
                }
                Next::Finish | Next::Permit | Next::Write { .. } | Next::Withdraw { .. } => {
                    unreachable!("invariant: what writes nothing has nothing to send")
                }
            };
            let older = matches!(judged, Judged::Stale | Judged::Extra);
            let explained = older.then(|| run.explained.unwrap_or(Explained::Anchor));
            return Ok(Verdict {
                judged,
                blob: run.mirror.map(|head| head.blob),
                anchor: run.anchor,
                explained,
            });
        }
    }
}

struct Run<'a> {
    anchored: &'a Anchored,
    pathname: &'a Pathname,
    machine: Reverse<ETag, Rev>,
    /// What Blob holds.
    mirror: Option<Head>,
    /// The content of that, where it is known.
    content: Option<Digest>,
    /// What said that it is ours, where it was read for that.
    explained: Option<Explained>,
    anchor: Option<Anchor>,
    offered: Option<&'a Spooled>,
    request: Option<Request>,
    /// The note that is this run's to take back, and that this process is at it.
    own: Option<(NoteRow, AtWork)>,
    /// How often something was found that the anchor does not name.
    looks: u8,
    /// Whether it may write.
    writes: bool,
}

/// A request to Blob that is about to be sent: all that it takes is here.
struct Request {
    body: Option<Spooled>,
    deadline: Option<Deadline>,
    /// When its deadline was told, by the monotonic clock; or else when it was noted.
    at: Duration,
    /// It may land for so long after that.
    window: Duration,
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
            machine: Reverse::new(Rules::SOUND, purpose, Some(ATTEMPTS)),
            mirror: None,
            content: None,
            explained: None,
            anchor: None,
            offered,
            request: None,
            own: None,
            looks: 0,
            writes: true,
        }
    }

    /// Does what the protocol asks for, to its end. After a failure, its note is taken back where its request is not
    /// under way.
    async fn drive(&mut self) -> Result<Ending<ETag>> {
        let mut failed = None;
        loop {
            let next = self.machine.next();
            if let Next::Done(ending) = next {
                return failed.map_or(Ok(ending), Err);
            }
            // Before it sends something anew it looks whether it is to leave. What is sent is brought to its end.
            let begins =
                matches!(next, Next::ReadMirror | Next::Compare { .. } | Next::Note { .. } | Next::Permit);
            if begins && failed.is_none() && !self.permit().may_begin() {
                self.machine.stop(false);
                continue;
            }
            if let Err(error) = self.step().await {
                if failed.is_some() || matches!(next, Next::Withdraw { .. }) {
                    tracing::debug!(pathname = %self.pathname, %error, "a note is left to the replay");
                    return failed.map_or(Ok(Ending::GaveUp), Err);
                }
                failed = Some(error);
                self.machine.stop(false);
            }
        }
    }

    /// Does the next step.
    async fn step(&mut self) -> Result<()> {
        match self.machine.next() {
            Next::ReadMirror => {
                self.mirror = self.blob().head(self.pathname).await?;
                self.content = None;
                self.machine.mirror(self.mirror.as_ref().map(|head| head.blob.etag.clone()));
            }
            Next::ReadAuthority => self.look().await?,
            Next::Finish => {
                self.anchored.of_items().converge(self.pathname, Purpose::Reconcile).await?;
                self.machine.finished();
            }
            Next::Compare { etag } => {
                let content = self.compare(&etag).await?;
                if content == Content::Gone {
                    self.pause().await;
                }
                self.machine.compared(content);
            }
            Next::Note { put, expects } => self.note(put, expects).await?,
            Next::Permit => self.ask_permit()?,
            Next::Write { put, expects } => self.write(put, expects).await?,
            Next::Record { etag, .. } => {
                let sent = self.record(etag.as_ref()).await?;
                self.machine.recorded(sent);
            }
            Next::Withdraw { names } => {
                self.request = None;
                if let Some((note, _)) = self.own.take() {
                    let control = self.anchored.control();
                    if names { control.answer_note(&note).await? } else { control.remove_note(&note).await? }
                }
                self.machine.withdrawn();
            }
            Next::Done(_) => {}
        }
        Ok(())
    }

    fn blob(&self) -> &Arc<dyn BlobStore> {
        self.anchored.blob()
    }

    fn permit(&self) -> &Arc<dyn Permit> {
        &self.anchored.converger.permit
    }

    fn now(&self) -> Duration {
        self.anchored.converger.clock().monotonic()
    }

    async fn pause(&self) {
        self.anchored.converger.clock().sleep(PAUSE).await;
    }

    async fn look(&mut self) -> Result<()> {
        self.anchor = self.anchored.control().anchor(self.pathname).await?;
        let seen = Anchor::reverse(self.anchor.as_ref());
        if let Some(anchor) = &self.anchor
            && self.mirror.as_ref().is_some_and(|head| anchor.blob_etag() == Some(&head.blob.etag))
        {
            self.content = anchor.blob_sha256();
        }
        // Whoever only judges Blob leaves the items to others.
        let pending = seen.pending && self.writes;
        self.machine.authority(Seen { pending, ..seen });
        Ok(())
    }

    /// Whose content Blob holds under this ETag.
    async fn compare(&mut self, etag: &ETag) -> Result<Content> {
        let held = self.anchor.as_ref().and_then(|anchor| anchor.head.as_ref());
        let held_sha256 = held.map(|head| head.sha256);
        if self.anchor.as_ref().and_then(Anchor::etag).as_ref() == Some(etag) {
            self.content = held_sha256;
            return Ok(Content::Same);
        }
        if self.looks < PATIENCE {
            self.looks += 1;
            return Ok(Content::Gone);
        }
        let Some(ListedBlob { size, .. }) = self.mirror.as_ref().map(|head| &head.blob) else {
            return Ok(Content::Gone);
        };
        // Read after the blob: what was put before that was noted before it was sent, and its note stays until an
        // anchor is stored that makes it needless. Mostly it is the other gateway's, and noted: all intents are many,
        // where many write, and are read only where no note explains it.
        let rows = self.anchored.control().notes_of(self.pathname).await?;
        let named = if rows.is_empty() { self.named_by_intent(None).await? } else { None };
        if let Some(at) = named {
            self.explained = Some(Explained::Intent(at));
            return Ok(Content::Ours);
        }
        let sha256 = match self.anchored.converger.fetcher.fetch(self.pathname, etag, *size).await {
            Ok(Fetched::Body { body, .. }) => body.sha256(),
            Ok(Fetched::Changed(_) | Fetched::Gone) => return Ok(Content::Gone),
            // Longer than anything of ours but an upload in parts.
            Err(error) if error.kind() == ErrorKind::Unrepresentable => {
                let named = self.named_by_intent(None).await?;
                self.explained = named.map(Explained::Intent);
                return Ok(if named.is_some() { Content::Ours } else { Content::Other });
            }
            Err(error) => return Err(error),
        };
        self.content = Some(sha256);
        // The anchor names what Blob held before, as a note does whose request was answered.
        let mut notes: Vec<_> = rows.iter().map(NoteRow::note).collect();
        notes.extend(self.anchor.as_ref().and_then(former));
        let whose = |by_intent| whose((etag, &sha256), held_sha256.as_ref(), &notes, by_intent);
        let noted = whose(false);
        if noted != Content::Other {
            let row = rows.iter().find(|row| row.note().names(etag, &sha256));
            self.explained = row.map(|row| Explained::Note(row.at));
            return Ok(noted);
        }
        let named = self.named_by_intent(Some(sha256)).await?;
        self.explained = named.map(Explained::Intent);
        Ok(whose(named.is_some()))
    }

    /// When an intent was stored by which this content may have come to Blob; without a content, any.
    async fn named_by_intent(&self, content: Option<Digest>) -> Result<Option<Timestamp>> {
        let intents = self.anchored.control().intents().await?;
        let named = intents.iter().find(|intent| {
            intent.any_content && intent.pathnames.contains(self.pathname)
                || content.is_some_and(|content| intent.names(self.pathname, content))
        });
        Ok(named.map(|intent| intent.at))
    }

    /// Makes everything ready that the request takes, then notes it.
    async fn note(&mut self, put: bool, expects: Option<ETag>) -> Result<()> {
        let body = if put {
            match self.body().await {
                // Replaced meanwhile, or damaged: then this comes again, until it is told.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.pause().await;
                    self.machine.noted(false);
                    return Ok(());
                }
                body => Some(body?),
            }
        } else {
            None
        };
        let Converger { control, permit, late, .. } = &self.anchored.converger;
        let at = self.now();
        let deadline = self.blob().deadline(late.mirror_max).await?;
        let window = late.window(deadline.is_some());
        let note = NoteRow {
            id: names::token(),
            pathname: self.pathname.clone(),
            session: permit.session(),
            at: self.anchored.converger.clock().now(),
            expects: expects.map(|etag| Expected { etag, sha256: self.content }),
            leaves: body.as_ref().map(Spooled::sha256),
            answered: false,
            ends: deadline.is_some(),
        };
        let at_work = control.at_work(&note);
        let in_place_of = self.own.as_ref().map(|(note, _)| note);
        let stored = match control.store_note(&note, in_place_of).await {
            Ok(true) => true,
            Ok(false) => {
                return Err(Error::new(ErrorKind::WrongPhase, "mirror a blob")
                    .key(self.pathname)
                    .message("the session of this process was ended"));
            }
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                self.pause().await;
                false
            }
            Err(error) => return Err(error),
        };
        if stored {
            self.own = Some((note, at_work));
            self.request = Some(Request { body, deadline, at, window });
        }
        self.machine.noted(stored);
        Ok(())
    }

    /// The bytes that the anchor names.
    async fn body(&self) -> Result<Spooled> {
        let anchor = self.anchor.as_ref();
        let held = anchor.and_then(|anchor| Some((anchor, anchor.head.as_ref()?)));
        let (anchor, head) = held.expect("invariant: what is put is there");
        match self.offered.filter(|offered| offered.sha256() == head.sha256) {
            Some(offered) => Ok(offered.clone()),
            None => self.anchored.body_of(anchor).await,
        }
    }

    /// Whether the request may be sent, right before it is.
    fn ask_permit(&mut self) -> Result<()> {
        if let Err(error) = self.permit().check() {
            self.machine.permitted(Permission::Over);
            return Err(error);
        }
        let over = self.request.as_ref().is_none_or(|request| {
            let since = self.now().saturating_sub(request.at);
            !request.window.is_zero() && since >= request.window
        });
        self.machine.permitted(if over { Permission::NoteAnew } else { Permission::Send });
        Ok(())
    }

    /// Puts or deletes, and looks when it was stored.
    async fn write(&mut self, put: bool, expects: Option<ETag>) -> Result<()> {
        let Some(request) = self.request.take() else {
            self.machine.stop(false);
            return Ok(());
        };
        let (deadline, window) = (request.deadline, request.window);
        let sent = async {
            if put {
                self.put(request, expects).await.map(Some)
            } else {
                self.delete(deadline, expects).await
            }
        };
        let unanswered = || {
            Error::new(ErrorKind::OutcomeUnknown, "mirror a blob").message("the store did not answer in time")
        };
        // What was not answered by then can't land any more: nothing is gained by waiting longer.
        let sent = tokio::select! {
            biased;
            sent = sent => sent,
            () = self.anchored.converger.clock().sleep(window), if !window.is_zero() => Err(unanswered()),
        };
        match sent {
            Ok(etag) => {
                self.mirror = match &etag {
                    // Its reply has no time.
                    Some(etag) => self.stored(etag).await,
                    None => None,
                };
                self.machine.written(Sent::Applied, etag);
            }
            Err(error) if matches!(error.kind(), ErrorKind::LostRace | ErrorKind::AlreadyExists) => {
                self.pause().await;
                self.machine.written(Sent::Refused, None);
            }
            Err(error) if may_land(error.kind()) => {
                tracing::debug!(pathname = %self.pathname, %error, "a request to Blob got no answer");
                // From here on its note is nobody's to take back.
                self.own = None;
                self.pause().await;
                self.machine.written(Sent::Unknown, None);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn put(&self, request: Request, expects: Option<ETag>) -> Result<ETag> {
        let head = self.anchor.as_ref().and_then(|anchor| anchor.head.as_ref());
        let head = head.expect("invariant: what is put is there");
        let options = PutOptions {
            allow_overwrite: expects.is_some(),
            if_match: expects,
            content_type: Some(head.content_type.clone()),
            cache_control_max_age: max_age(&head.cache_control),
            deadline: request.deadline,
            ..PutOptions::default()
        };
        let body = request.body.as_ref().expect("invariant: what is put has a body");
        Ok(self.blob().put(self.pathname, body.body(), &options).await?.blob.etag)
    }

    async fn delete(&self, deadline: Option<Deadline>, expects: Option<ETag>) -> Result<Option<ETag>> {
        let expects = expects.expect("invariant: what is deleted is there");
        match deadline {
            Some(deadline) => self.blob().delete_before(self.pathname, &expects, deadline).await?,
            None => self.blob().delete(std::slice::from_ref(self.pathname), Some(&expects)).await?,
        }
        Ok(None)
    }

    /// What Blob says of what was just put; none where that can't be learnt, or is another version already.
    async fn stored(&self, etag: &ETag) -> Option<Head> {
        let head = self.blob().head(self.pathname).await.ok().flatten();
        head.filter(|head| head.blob.etag == *etag)
    }

    /// Writes the anchor anew: Blob is equal to it.
    async fn record(&mut self, etag: Option<&ETag>) -> Result<Sent> {
        if self.mirror.as_ref().map(|head| &head.blob.etag) != etag {
            // When it was stored is not known: it is looked at once more.
            return Ok(Sent::Refused);
        }
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
        let sent = self
            .anchored
            .replace(self.anchor.as_ref(), &anchor, self.own.as_ref().map(|(note, _)| note))
            .await?;
        if sent == Sent::Applied {
            self.own = None;
        }
        Ok(sent)
    }

    async fn renew(&self) -> Result<Sent> {
        let rev = names::new_rev();
        let anchor = match &self.anchor {
            Some(seen) => Anchor { rev, ..seen.clone() },
            None => Anchor::tombstone(self.pathname.clone(), rev),
        };
        self.anchored.replace(self.anchor.as_ref(), &anchor, None).await
    }
}

/// What Blob held when it was equal last, where the anchor says so and is of another version.
fn former(anchor: &Anchor) -> Option<Note<ETag, Digest>> {
    let Behind { etag, sha256 } = anchor.behind.as_ref()?;
    let expects = State { etag: etag.clone()?, content: *sha256 };
    Some(Note { expects: Some(expects), leaves: None, answered: true })
}

/// Whether a write that failed so may have been applied, or may be yet.
const fn may_land(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::Corrupt | ErrorKind::Internal)
}
