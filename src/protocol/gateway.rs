//! What a gateway may let through, and what it may answer.
//!
//! While Blob is the authority a gateway fails open: no flip commits without its acknowledgement, so what
//! it last read of the mode stands for as long as it can't read it anew. In use, a write asks [`admit`]
//! before anything of it is sent, and [`may_answer`] after the store's reply.

use super::phase::{Authority, Epoch};

/// What a gateway knows at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// The authority by the mode item last read; none before it was ever read.
    pub authority: Option<Authority>,
    /// The epoch by the same.
    pub epoch: Epoch,
    /// Whether that mode item has a hold, or a new session is on its way.
    pub held: bool,
    /// Whether the control table can be reached.
    pub reachable: bool,
    /// Whether the lease of the present session holds.
    pub lease_holds: bool,
}

/// Whether a write may be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// It may, after its intent is stored.
    Noted,
    /// It may, without an intent: the session has a gap from here on.
    Unnoted,
    /// Not now: whoever asks waits until something changes.
    Wait,
    /// Not by this gateway.
    Refuse,
}

/// Whether a write to a mapped pathname may be begun.
#[must_use]
pub const fn admit(view: View) -> Admission {
    match view {
        View { authority: None, .. } => Admission::Refuse,
        View { held: true, .. } => Admission::Wait,
        // Where DynamoDB is the authority there is nothing to go on with.
        View { reachable: false, authority: Some(Authority::Target), .. } => Admission::Wait,
        // A lapse is waived: while nobody can be reached, nobody can have taken the silence for consent.
        View { reachable: false, .. } => Admission::Unnoted,
        // A lapsed session is over for good; the next one is opened at once.
        View { lease_holds: false, .. } => Admission::Wait,
        View { .. } => Admission::Noted,
    }
}

/// Whether the store's reply to a write may be passed on: only under the session and the epoch in which it
/// was begun, and while that session's lease holds (traces B1, B2). Else the outcome is left open.
#[must_use]
pub const fn may_answer(same_session: bool, epoch: Epoch, now: View) -> bool {
    let same_epoch = epoch.0 == now.epoch.0;
    let waived = !now.reachable && matches!(now.authority, Some(Authority::Source));
    same_session && same_epoch && (now.lease_holds || waived)
}

/// Where a read of what is mapped is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// From the authority.
    Authority(Authority),
    /// The mode item is read first: a flip may be committed at any moment (trace B6).
    AskMode,
    /// From nowhere by this gateway, now.
    Refuse,
}

/// Where a read of what is mapped is answered from. `hold` is whether the mode item last read has one. Where
/// DynamoDB is the authority, a gateway that may have been fenced must not answer (trace B7).
#[must_use]
pub const fn read_from(view: View, hold: bool) -> ReadFrom {
    match view {
        View { authority: None, .. } => ReadFrom::Refuse,
        View { authority: Some(Authority::Target), lease_holds: false, .. }
        | View { authority: Some(Authority::Target), reachable: false, .. } => ReadFrom::Refuse,
        View { .. } if hold => ReadFrom::AskMode,
        View { authority: Some(authority), .. } => ReadFrom::Authority(authority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: View = View {
        authority: Some(Authority::Source),
        epoch: Epoch(1),
        held: false,
        reachable: true,
        lease_holds: true,
    };

    #[test]
    fn a_write_is_let_through_by_what_was_last_read() {
        for (view, admission) in [
            (OPEN, Admission::Noted),
            (View { authority: None, ..OPEN }, Admission::Refuse),
            (View { authority: None, reachable: false, ..OPEN }, Admission::Refuse),
            (View { authority: Some(Authority::Target), ..OPEN }, Admission::Noted),
            (View { authority: Some(Authority::Target), held: true, ..OPEN }, Admission::Wait),
            // Then it fails closed.
            (View { authority: Some(Authority::Target), reachable: false, ..OPEN }, Admission::Wait),
            (View { authority: Some(Authority::Target), lease_holds: false, ..OPEN }, Admission::Wait),
            (View { held: true, ..OPEN }, Admission::Wait),
            // Who saw a hold and can't read the mode any more does not know what came of it.
            (View { held: true, reachable: false, ..OPEN }, Admission::Wait),
            (View { reachable: false, ..OPEN }, Admission::Unnoted),
            (View { reachable: false, lease_holds: false, ..OPEN }, Admission::Unnoted),
            (View { lease_holds: false, ..OPEN }, Admission::Wait),
        ] {
            assert_eq!(admit(view), admission, "{view:?}");
        }
    }

    #[test]
    fn a_reply_is_passed_on_only_under_the_session_and_epoch_of_its_write() {
        for (same_session, view, may) in [
            (true, OPEN, true),
            // What is in flight when a hold is set is finished.
            (true, View { held: true, ..OPEN }, true),
            (true, View { lease_holds: false, ..OPEN }, false),
            (true, View { lease_holds: false, reachable: false, ..OPEN }, true),
            (false, OPEN, false),
            (true, View { epoch: Epoch(2), ..OPEN }, false),
            (true, View { authority: Some(Authority::Target), ..OPEN }, true),
            (
                true,
                View { authority: Some(Authority::Target), lease_holds: false, reachable: false, ..OPEN },
                false,
            ),
        ] {
            assert_eq!(may_answer(same_session, Epoch(1), view), may, "{same_session} {view:?}");
        }
    }

    #[test]
    fn a_read_is_answered_by_the_authority_or_not_at_all() {
        let target = View { authority: Some(Authority::Target), ..OPEN };
        for (view, hold, from) in [
            (OPEN, false, ReadFrom::Authority(Authority::Source)),
            (View { lease_holds: false, ..OPEN }, false, ReadFrom::Authority(Authority::Source)),
            (View { reachable: false, ..OPEN }, false, ReadFrom::Authority(Authority::Source)),
            (OPEN, true, ReadFrom::AskMode),
            (View { authority: None, ..OPEN }, false, ReadFrom::Refuse),
            (target, false, ReadFrom::Authority(Authority::Target)),
            (target, true, ReadFrom::AskMode),
            (View { lease_holds: false, ..target }, false, ReadFrom::Refuse),
            (View { reachable: false, ..target }, true, ReadFrom::Refuse),
        ] {
            assert_eq!(read_from(view, hold), from, "{view:?} {hold}");
        }
    }
}
