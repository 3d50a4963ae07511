//! The known traces of a change of authority: which rule, taken out, gives which one.

use migrate::protocol::Rules;
use migrate::protocol::flip::Rules as FlipRules;

use super::{DIVERGED, Flaw, Flips, LOST, STALE};
use crate::known::{Known, Of};

/// Silence is taken for consent when leaving Blob: an earlier draft, in which other rules matter that leaving
/// DynamoDB needs in any case.
const SILENCE: FlipRules = FlipRules { silence_is_no_consent: false, ..FlipRules::SOUND };
const STALLS: Flips = Flips { flip: SILENCE, lapses: 1, ..Flips::BASE };
const STALLS_BACK: Flips = Flips { lapses: 1, ..Flips::BACK };

const fn without(rules: FlipRules) -> Flips {
    Flips { flip: rules, ..Flips::BASE }
}

/// All of them.
pub(crate) const KNOWN: [Known; 24] = [
    Known {
        trace: "B1",
        without: "a look at the session after the reply (and silence being no consent)",
        property: LOST,
        decisive: &[&[
            "G1: accepts w1 (authority 0)",
            "G1: own lease runs out (partition or stall)",
            "operator: lease of G1 counts as expired",
            "O1: drain: looks at Blob",
            "G1: ACKS w1",
            "O1: COMMITS authority 1",
        ]],
        because: "the write lands after the drain, and its client is told of success",
        of: Of::Flip(Flips { flaw: Flaw::AnswersUnchecked, repeats: false, ..STALLS }),
    },
    Known {
        trace: "B1 on the way back",
        without: "a look at the session after the reply",
        property: LOST,
        decisive: &[&[
            "G1: accepts w1 (authority 1)",
            "G1: own lease runs out (partition or stall)",
            "operator: lease of G1 counts as expired",
            "G1: DynamoDB write w1 lands",
            "G1: ACKS w1",
            "O1: COMMITS authority 0",
        ]],
        because: "the write lands in what will not be the authority any more",
        of: Of::Flip(Flips { flaw: Flaw::AnswersUnchecked, flip: LATE, ..STALLS_BACK }),
    },
    Known {
        trace: "B2",
        without: "a lapse being for good (and silence being no consent)",
        property: LOST,
        decisive: &[&[
            "G1: own lease runs out (partition or stall)",
            "operator: lease of G1 counts as expired",
            "G1: registers again, reads the mode",
            "G1: ACKS w1",
        ]],
        because: "the second look finds a lease that holds again",
        of: Of::Flip(Flips { flaw: Flaw::Revives, repeats: false, ..STALLS }),
    },
    Known {
        trace: "B2 on the way back",
        without: "a lapse being for good",
        property: LOST,
        decisive: &[&[
            "G1: own lease runs out (partition or stall)",
            "operator: lease of G1 counts as expired",
            "G1: registers again, reads the mode",
            "G1: ACKS w1",
        ]],
        because: "the same, with DynamoDB as the authority",
        of: Of::Flip(Flips { flaw: Flaw::Revives, flip: LATE, ..STALLS_BACK }),
    },
    Known {
        trace: "B3",
        without: "time that each side measures itself (and silence being no consent)",
        property: LOST,
        decisive: &[&["operator: lease of G1 counts as expired", "G1: ACKS w1", "O1: COMMITS authority 1"]],
        because: "the holder does not know that its lease is over",
        of: Of::Flip(Flips { flaw: Flaw::ComparesClocks, flip: SILENCE, repeats: false, ..Flips::BASE }),
    },
    Known {
        trace: "B3 on the way back",
        without: "time that each side measures itself",
        property: LOST,
        decisive: &[&["operator: lease of G1 counts as expired", "G1: ACKS w1", "O1: COMMITS authority 0"]],
        because: "the same, with DynamoDB as the authority",
        of: Of::Flip(Flips { flaw: Flaw::ComparesClocks, flip: LATE, ..Flips::BACK }),
    },
    Known {
        trace: "B4",
        without: "silence_is_no_consent",
        property: LOST,
        decisive: &[&[
            "G1: own lease runs out (partition or stall)",
            "G1: ACKS w1",
            "operator: lease of G1 counts as expired",
            "O1: COMMITS authority 1",
        ]],
        because: "a gateway that can't reach the control table goes on while Blob is the authority",
        of: Of::Flip(Flips { partition: true, repeats: false, ..STALLS }),
    },
    Known {
        trace: "B5",
        without: "going on only when the mode says so",
        property: LOST,
        decisive: &[&["G1: acknowledges the hold", "G1: resumes after its own timer", "G1: ACKS w1"]],
        because: "it acknowledged, and the operator counts on it",
        of: Of::Flip(Flips { flaw: Flaw::Resumes, repeats: false, ..Flips::BASE }),
    },
    Known {
        trace: "B5 on the way back",
        without: "going on only when the mode says so",
        property: LOST,
        decisive: &[&["G1: acknowledges the hold", "G1: resumes after its own timer", "G1: ACKS w1"]],
        because: "it acknowledged, and the operator counts on it",
        of: Of::Flip(Flips { flaw: Flaw::Resumes, ..Flips::BACK }),
    },
    Known {
        trace: "B6",
        without: "a look at the mode before each read under a hold",
        property: STALE,
        decisive: &[&["O1: COMMITS authority 1", "G1: ACKS w1", "G2: a read starts (phase 0)"]],
        because: "the other gateway read the new mode already, and took a write",
        of: Of::Flip(Flips { flaw: Flaw::ReadsByHeld, reads: true, repeats: false, ..Flips::BASE }),
    },
    Known {
        trace: "B6 on the way back",
        without: "a look at the mode before each read under a hold",
        property: STALE,
        decisive: &[&["O1: COMMITS authority 0", "G1: ACKS w1", "G2: a read starts (phase 1)"]],
        because: "the other gateway read the new mode already, and took a write",
        of: Of::Flip(Flips { flaw: Flaw::ReadsByHeld, reads: true, ..Flips::BACK }),
    },
    Known {
        trace: "B7 on the way back",
        without: "a live session for reads of DynamoDB",
        property: STALE,
        decisive: &[&[
            "G2: own lease runs out (partition or stall)",
            "operator: lease of G2 counts as expired",
            "O1: COMMITS authority 0",
            "G1: ACKS w1",
            "G2: a read starts (phase 1)",
        ]],
        because: "a gateway whose session was ended does not know that the authority is the other one",
        of: Of::Flip(Flips { flaw: Flaw::ReadsUnchecked, reads: true, ..STALLS_BACK }),
    },
    Known {
        trace: "B8",
        without: "an acknowledgement only with nothing in flight",
        property: LOST,
        decisive: &[&[
            "G1: accepts w1 (authority 0)",
            "G1: acknowledges the hold",
            "O1: drain: looks at Blob",
            "G1: ACKS w1",
            "O1: COMMITS authority 1",
        ]],
        because: "what is in flight lands after the drain",
        of: Of::Flip(Flips { flaw: Flaw::AcknowledgesBusy, repeats: false, ..Flips::BASE }),
    },
    Known {
        trace: "B9",
        without: "acknowledge_by_hold",
        property: LOST,
        decisive: &[&[
            "G1: acknowledges the hold",
            "O1: KILLED (is run again)",
            "O1: sets the hold 2",
            "O1: all acknowledged or expired",
            "G1: ACKS w1",
            "O1: COMMITS authority 1",
        ]],
        because: "what it acknowledged was another hold",
        of: Of::Flip(Flips {
            kills: 1,
            holds: 2,
            repeats: false,
            ..without(FlipRules { acknowledge_by_hold: false, ..FlipRules::SOUND })
        }),
    },
    Known {
        trace: "B10",
        without: "drain_keeps",
        property: DIVERGED,
        decisive: &[&["O1: drain: intent cleared", "late Blob write w1 LANDS"]],
        because: "an intent in doubt is cleared, and what it stands for lands",
        of: Of::Flip(Flips { timeouts: 1, ..without(FlipRules { drain_keeps: false, ..FlipRules::SOUND }) }),
    },
    Known {
        trace: "of a newcomer that reads the mode first",
        without: "the order of row and mode",
        property: LOST,
        decisive: &[&[
            "G1: reads the mode",
            "O1: all acknowledged or expired",
            "G1: opens a new session (phase 1)",
        ]],
        because: "neither sees the other",
        of: Of::Flip(Flips { flaw: Flaw::ReadsModeFirst, ..STALLS_BACK }),
    },
    Known {
        trace: "of two that replay one intent towards Blob",
        without: "taking the intent over",
        property: LOST,
        decisive: &[&[
            "G1: Blob write 1 lands",
            "G2: clears the intent of the other",
            "O1: COMMITS authority 0",
        ]],
        because: "the one clears the intent that the other's put relies on",
        of: Of::Flip(Flips { flaw: Flaw::ReplaysTogether, timeouts: 1, ..Flips::BACK }),
    },
    Known {
        trace: "of an operator whose hold was cancelled",
        without: "drain_under_hold",
        property: LOST,
        decisive: &[&["O2: cancels the hold", "O2: COMMITS authority 1", "O1: drain: looks at Blob"]],
        because: "it writes what Blob holds into the new authority",
        of: Of::Flip(Flips {
            second: Some(migrate::protocol::phase::Authority::Target),
            holds: 2,
            ..without(FlipRules { drain_under_hold: false, ..FlipRules::SOUND })
        }),
    },
    Known {
        trace: "of a commit by a cancelled operator",
        without: "commit_by_hold",
        property: LOST,
        decisive: &[&["G1: cancels the hold", "O1: COMMITS authority 1"]],
        because: "gateways go on as soon as the hold is cancelled",
        of: Of::Flip(Flips {
            cancels: 1,
            repeats: false,
            ..without(FlipRules { commit_by_hold: false, ..FlipRules::SOUND })
        }),
    },
    Known {
        trace: "B11",
        without: "renew_on_intent",
        property: LOST,
        decisive: &[&[
            "G2: looks at the mirror",
            "G1: mirror write lands, item 1",
            "G2: mirror equal",
            "G2: clears the intent",
            "O1: COMMITS authority 1",
        ]],
        because: "what restores the content leaves the rev that an older write expects, or that it did not look at",
        of: Of::Flip(Flips {
            rules: Rules { renew_on_intent: false, ..Rules::SOUND },
            crashes: 1,
            ..Flips::BASE
        }),
    },
    Known {
        trace: "B12",
        without: "every_process",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 1", "SW: mirror write lands, item 0"]],
        because: "a sweep that nobody waited for writes what Blob held into the new authority",
        of: Of::Flip(Flips {
            sweeper: true,
            ..without(FlipRules { every_process: false, ..FlipRules::SOUND })
        }),
    },
    Known {
        trace: "B13",
        without: "the second look at the anchor after a put to the mirror",
        property: DIVERGED,
        decisive: &[&["G1: Blob write 1 lands", "G1: clears the intent", "G2: clears the intent"]],
        because: "no rev guards Blob",
        of: Of::Flip(Flips { flaw: Flaw::NoSecondLook, ..Flips::BACK }),
    },
    Known {
        trace: "B14",
        without: "wait_for_late",
        property: LOST,
        decisive: &[&["G1: CRASHES", "O1: COMMITS authority 0", "late mirror put 1 LANDS"]],
        because: "content returned to what the late put expects, and nothing in Blob refuses it",
        of: Of::Flip(Flips { flip: LATE, crashes: 1, ..Flips::BACK }),
    },
    Known {
        trace: "of writes that no intent names",
        without: "no_gap",
        property: LOST,
        decisive: &[&["G1: acknowledges the hold", "O1: COMMITS authority 1"]],
        because: "a gateway that could not reach the control table for a moment acknowledges, and nobody drains",
        of: Of::Flip(Flips {
            partition: true,
            lapses: 1,
            brief: true,
            ..without(FlipRules { no_gap: false, ..FlipRules::SOUND })
        }),
    },
];

/// Late writes to Blob are not waited for.
const LATE: FlipRules = FlipRules { wait_for_late: false, ..FlipRules::SOUND };
