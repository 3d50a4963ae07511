//! Sweeps beside gateways: what is under way is no drift, and what went past them is told.
//!
//! A write through a gateway has an intent from before it is sent until its mirror is equal. So a difference
//! that no intent names, and that is the same before and after the intents were read, was made by somebody
//! else.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::drift::{Drift, DriftKind};
use super::long::Judged;
use super::run::Sweep;
use crate::blob::Pathname;
use crate::error::Result;
use crate::target::control::{SessionKind, SessionRow, SessionState};

/// How often a pathname is looked at while an intent names it.
const LOOKS: u32 = 5;
/// How far the clocks of the stores and of this machine may be apart.
const SKEW: Duration = Duration::from_secs(2);

/// A change that no gateway saw, though one captured all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bypass {
    /// Of which blob.
    pub pathname: Pathname,
    /// When it was made, by Blob's clock; none for a deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The gateways that there are and were.
pub(super) struct Gateways {
    sessions: Vec<SessionRow>,
    /// Since when every pathname that the mirror holds was in the store at least once: since the beginning of
    /// the last sweep that left none that was not.
    present: Option<Timestamp>,
}

impl Gateways {
    /// Whether every write between these times went through a gateway that could note it, as far as the
    /// sessions tell.
    fn captured(&self, from: Timestamp, to: Timestamp, now: Timestamp) -> bool {
        let (from, to) = (from - SKEW, to + SKEW);
        let covers = |row: &SessionRow| {
            let whole = row.state != SessionState::Unclean && row.gap.is_none();
            whole && row.began <= from && row.ended.is_none_or(|ended| to <= ended)
        };
        // Whatever an unclean one let through unnoted may be what was found.
        let clouds = |row: &SessionRow| {
            let unsure = row.state == SessionState::Unclean || row.gap.is_some();
            unsure && row.gap.unwrap_or(row.began) <= to && from <= row.ended.unwrap_or(now)
        };
        self.sessions.iter().any(covers) && !self.sessions.iter().any(clouds)
    }
}

impl Sweep<'_> {
    /// The sessions of gateways, if one is open now.
    pub(super) async fn gateways(&self) -> Result<Option<Gateways>> {
        let mut rows = self.converger.control.sessions().await?;
        rows.retain(|row| row.kind == SessionKind::Gateway);
        if !rows.iter().any(|row| row.state == SessionState::Open) {
            return Ok(None);
        }
        let mut sweeps = self.converger.control.sweeps().await?;
        let extra = DriftKind::Extra.as_str();
        sweeps.retain(|row| row.compared == row.listed && (row.repaired || !row.drift.contains_key(extra)));
        let present = sweeps.iter().map(|row| row.began).max();
        Ok(Some(Gateways { sessions: rows, present }))
    }

    /// Judges a pathname beside gateways: again for as long as an intent names it. What still differs and is
    /// nobody's who goes through a gateway is told as that.
    pub(super) async fn judge_beside(
        &self,
        pathname: &Pathname,
        gateways: Option<&Gateways>,
    ) -> Result<(Judged, Option<Bypass>)> {
        let mut judged = self.judge(pathname).await?;
        let Some(gateways) = gateways else { return Ok((judged, None)) };
        for look in 1..=LOOKS {
            if !judged.drift.iter().any(may_be_under_way) {
                break;
            }
            let intents = self.converger.control.intents().await?;
            let named = intents.iter().any(|intent| intent.pathnames.contains(pathname));
            if named {
                self.converger.clock().sleep(self.patience * look).await;
            }
            let before = std::mem::replace(&mut judged, self.judge(pathname).await?);
            // The same version and rev before and after: so its intent, if it had one, was there in between.
            let same = before.drift.iter().any(|drift| judged.drift.iter().any(|now| same_state(drift, now)));
            if !named && same {
                return Ok((judged, self.bypass(pathname, gateways).await?));
            }
        }
        // It never held still: that is no difference that anybody could settle.
        for drift in judged.drift.iter_mut().filter(|drift| may_be_under_way(drift)) {
            drift.kind = DriftKind::Unverified;
            "it was being written each time it was looked at".clone_into(&mut drift.detail);
        }
        Ok((judged, None))
    }

    async fn bypass(&self, pathname: &Pathname, gateways: &Gateways) -> Result<Option<Bypass>> {
        let now = self.converger.clock().now();
        let blob = self.converger.source().head(pathname).await?.map(|head| head.blob);
        let at = blob.map(|blob| blob.uploaded_at);
        let from = match at {
            Some(at) => at,
            // It was deleted at some time after what the mirror holds was stored, and after it was there last.
            None => {
                let anchor = self.converger.control.anchor(pathname).await?;
                let Some(head) = anchor.and_then(|anchor| anchor.head) else { return Ok(None) };
                gateways.present.map_or(head.uploaded_at, |present| present.max(head.uploaded_at))
            }
        };
        let to = at.unwrap_or(now);
        let captured = gateways.captured(from, to, now);
        Ok(captured.then(|| Bypass { pathname: pathname.clone(), at }))
    }
}

/// What a write leaves between the store's reply and its converge.
fn may_be_under_way(drift: &Drift) -> bool {
    match drift.kind {
        DriftKind::Missing | DriftKind::Extra | DriftKind::Stale | DriftKind::Unverified => true,
        DriftKind::Different
        | DriftKind::Orphan
        | DriftKind::Collision
        | DriftKind::Foreign
        | DriftKind::Unmappable => false,
    }
}

fn same_state(one: &Drift, other: &Drift) -> bool {
    one.kind != DriftKind::Unverified
        && (one.kind, &one.source, &one.target) == (other.kind, &other.source, &other.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn gateway(state: SessionState, began: i64, ended: Option<i64>, gap: Option<i64>) -> SessionRow {
        SessionRow {
            id: began.to_string(),
            name: "g".to_owned(),
            kind: SessionKind::Gateway,
            counter: 0,
            state,
            began: second(began),
            ended: ended.map(second),
            acknowledged: None,
            gap: gap.map(second),
            renewed: None,
            epoch: None,
            writers: None,
        }
    }

    #[test]
    fn only_what_was_captured_beyond_doubt_is_called_a_bypass() {
        use SessionState::{Clean, Open, Unclean};

        let open = || gateway(Open, 100, None, None);
        let captured = |rows: &[SessionRow], from, to| {
            let gateways = Gateways { sessions: rows.to_vec(), present: None };
            gateways.captured(second(from), second(to), second(1000))
        };
        assert!(captured(&[open()], 110, 110));
        assert!(!captured(&[open()], 101, 101), "within the clocks' difference of the beginning");
        assert!(!captured(&[open()], 50, 50), "before there was a gateway");
        assert!(captured(&[open()], 999, 1001), "Blob's clock may be before ours");
        assert!(captured(&[gateway(Clean, 100, Some(200), None)], 110, 190));
        assert!(!captured(&[gateway(Clean, 100, Some(200), None)], 110, 199));
        assert!(!captured(&[gateway(Open, 100, None, Some(150))], 110, 110), "it can't vouch for itself");
        let past = gateway(Unclean, 200, Some(300), Some(250));
        assert!(captured(&[open(), past.clone()], 210, 240), "before the gap of another one");
        assert!(!captured(&[open(), past.clone()], 270, 270), "in it");
        assert!(captured(&[open(), past], 310, 310), "after it");
        assert!(!captured(&[open(), gateway(Unclean, 200, Some(300), None)], 210, 210), "a death is a gap");
    }
}
