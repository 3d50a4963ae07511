//! The way back under the hold: the operator makes Blob equal itself, where rows name a pathname, and says whether Blob
//! may become the authority.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::anchored::Anchored;
use crate::blob::Pathname;
use crate::converge::Converger;
use crate::dual_write::mirroring::Mirroring;
use crate::dual_write::replay::{Replay, settle};
use crate::dual_write::session::{Opening, Session};
use crate::error::Result;
use crate::protocol::flip::Rules;
use crate::protocol::note::{AtCommit, at_commit};
use crate::protocol::phase::Authority;
use crate::protocol::reverse::Known;
use crate::target::control::{Anchor, Control, IntentRow, NoteRow, SessionKind};

use super::Cutover;

/// What the operator writes Blob with.
pub(super) struct WayBack {
    pub(super) session: Session,
    mirroring: Mirroring,
    /// No gateway may be left that would replay what dead ones left.
    replay: Replay,
}

/// How the pathnames stand that rows name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Blob is not what the anchor says.
    pub(super) behind: Vec<Pathname>,
    /// Blob is what a request expects that may land yet.
    pub(super) doubtful: Vec<Pathname>,
}

impl WayBack {
    /// Opens the operator's session. Whoever else would flip the mode sees it.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(super) async fn open(cutover: &Cutover<'_>) -> Result<Self> {
        let opening = Opening {
            kind: SessionKind::Operator,
            name: &cutover.name,
            plan_hash: cutover.plan_hash,
            plan: cutover.plan,
            directory: cutover.directory,
            authority: Some(Authority::Target),
        };
        let session = Session::open(cutover.control().clone(), Arc::clone(cutover.clock()), opening).await?;
        let converger = Converger { permit: session.permit(), ..cutover.converger.clone() };
        let mirroring = Mirroring::ToSource(Anchored::new(converger, &cutover.plan.source.prefix));
        Ok(Self { session, mirroring, replay: Replay::new(&cutover.plan.timing) })
    }

    /// Settles what nobody is at any more, writes flowing; rows go once what they stand for can't land any more, by this
    /// process's own clock.
    ///
    /// # Errors
    /// What the control table reports.
    pub(super) async fn replay(&mut self) -> Result<()> {
        self.replay.pass(&self.mirroring, &self.session.id(), |_| false).await.map(drop)
    }

    /// Makes Blob equal for every pathname that a row names; says of which that can't be, or not yet. Every process that
    /// could store a row has acknowledged, or its session was ended: nothing is added to what is read here.
    ///
    /// # Errors
    /// What the control table reports.
    pub(super) async fn converge(&self, intents: &[IntentRow]) -> Result<Named> {
        let control = self.mirroring.control();
        let names = named(intents, &control.notes().await?);
        let settled = settle(&self.mirroring, names.iter()).await;
        let mut notes: BTreeMap<Pathname, Vec<_>> = BTreeMap::new();
        for row in control.notes().await? {
            notes.entry(row.pathname.clone()).or_default().push(row.note());
        }
        let anchors = control.anchors(&names).await?;
        let mut found = Named::default();
        for (pathname, anchor) in names.into_iter().zip(anchors) {
            let seen = Anchor::reverse(anchor.as_ref());
            // Settled, it was equal; and it changes only where a request lands that expects what is there.
            let equal = settled.contains(&pathname) && !seen.pending && matches!(seen.blob, Known::Equal(_));
            let notes = notes.get(&pathname).map_or(&[][..], Vec::as_slice);
            match at_commit(Rules::SOUND, equal, seen.blob.last(), notes) {
                AtCommit::Clear => {}
                AtCommit::Behind => found.behind.push(pathname),
                AtCommit::Doubtful => found.doubtful.push(pathname),
            }
        }
        Ok(found)
    }
}

/// Of these pathnames, those that a request may still change that expects what is there.
///
/// # Errors
/// What the control table reports.
pub(super) async fn still_doubtful(control: &Control, pathnames: &[Pathname]) -> Result<Vec<Pathname>> {
    let names: BTreeSet<Pathname> = pathnames.iter().cloned().collect();
    let notes = control.notes().await?;
    let anchors = control.anchors(&names).await?;
    let doubtful = names.into_iter().zip(anchors).filter(|(pathname, anchor)| {
        let mut of = notes.iter().filter(|row| row.pathname == *pathname).map(NoteRow::note);
        let seen = Anchor::reverse(anchor.as_ref());
        of.any(|note| note.is_doubtful_in(seen.blob.last()))
    });
    Ok(doubtful.map(|(pathname, _)| pathname).collect())
}

/// The pathnames that rows name.
pub(super) fn named(intents: &[IntentRow], notes: &[NoteRow]) -> BTreeSet<Pathname> {
    let of_intents = intents.iter().flat_map(|intent| intent.pathnames.iter().cloned());
    of_intents.chain(notes.iter().map(|note| note.pathname.clone())).collect()
}
