//! The known traces of a change of authority: which rule, taken out, gives which one.

use migrate::protocol::Rules;
use migrate::protocol::flip::Rules as FlipRules;

use super::cases::{BACK_THERE_BACK, OTHER_PLAN, THERE, THERE_AND_BACK};
use super::world::Op;
use super::{DIVERGED, FOREIGN, Flaw, Flips, LOST, STALE};
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
pub(crate) const KNOWN: [Known; 42] = [
    Known {
        trace: "B1",
        without: "a look at the session after the reply (and silence being no consent)",
        property: LOST,
        decisive: &[&[
            "G1: accepts w1 = 1 (authority 0)",
            "G1: own lease runs out (partition or stall)",
            "operator: lease of G1 counts as expired",
            "O1: drain: looks at Blob",
            "G1: ACKS w1",
            "O1: COMMITS authority 1",
        ]],
        because: "the write lands after the drain, and its client is told of success",
        of: Of::Flip(Flips { flaws: &[Flaw::AnswersUnchecked], scripts: Flips::OTHER, ..STALLS }),
    },
    Known {
        trace: "B1 on the way back",
        without: "a look at the session after the reply",
        property: LOST,
        decisive: &[&[
            "G1: accepts w1 = 1 (authority 1)",
            "G1: own lease runs out (partition or stall)",
            "operator: lease of G1 counts as expired",
            "G1: DynamoDB write w1 lands",
            "G1: ACKS w1",
            "O1: COMMITS authority 0",
        ]],
        because: "the write lands in what will not be the authority any more",
        of: Of::Flip(Flips { flaws: &[Flaw::AnswersUnchecked], ..STALLS_BACK }),
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
        of: Of::Flip(Flips { flaws: &[Flaw::Revives], scripts: Flips::OTHER, ..STALLS }),
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
        of: Of::Flip(Flips { flaws: &[Flaw::Revives], ..STALLS_BACK }),
    },
    Known {
        trace: "B3",
        without: "time that each side measures itself (and silence being no consent)",
        property: LOST,
        decisive: &[&["operator: lease of G1 counts as expired", "G1: ACKS w1", "O1: COMMITS authority 1"]],
        because: "the holder does not know that its lease is over",
        of: Of::Flip(Flips {
            flaws: &[Flaw::ComparesClocks],
            flip: SILENCE,
            scripts: Flips::OTHER,
            ..Flips::BASE
        }),
    },
    Known {
        trace: "B3 on the way back",
        without: "time that each side measures itself",
        property: LOST,
        decisive: &[&["operator: lease of G1 counts as expired", "G1: ACKS w1", "O1: COMMITS authority 0"]],
        because: "the same, with DynamoDB as the authority",
        of: Of::Flip(Flips { flaws: &[Flaw::ComparesClocks], ..Flips::BACK }),
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
        of: Of::Flip(Flips { partition: true, scripts: Flips::OTHER, ..STALLS }),
    },
    Known {
        trace: "B5",
        without: "going on only when the mode says so",
        property: LOST,
        decisive: &[&["G1: acknowledges the hold", "G1: resumes after its own timer", "G1: ACKS w1"]],
        because: "it acknowledged, and the operator counts on it",
        of: Of::Flip(Flips { flaws: &[Flaw::Resumes], scripts: Flips::OTHER, ..Flips::BASE }),
    },
    Known {
        trace: "B5 on the way back",
        without: "going on only when the mode says so",
        property: LOST,
        decisive: &[&["G1: acknowledges the hold", "G1: resumes after its own timer", "G1: ACKS w1"]],
        because: "it acknowledged, and the operator counts on it",
        of: Of::Flip(Flips { flaws: &[Flaw::Resumes], ..Flips::BACK }),
    },
    Known {
        trace: "B6",
        without: "a look at the mode before each read under a hold",
        property: STALE,
        decisive: &[&["O1: COMMITS authority 1", "G1: ACKS w1", "G2: a read starts (phase 0)"]],
        because: "the other gateway read the new mode already, and took a write",
        of: Of::Flip(Flips {
            flaws: &[Flaw::ReadsByHeld],
            reads: true,
            scripts: Flips::OTHER,
            ..Flips::BASE
        }),
    },
    Known {
        trace: "B6 on the way back",
        without: "a look at the mode before each read under a hold",
        property: STALE,
        decisive: &[&["O1: COMMITS authority 0", "G1: ACKS w1", "G2: a read starts (phase 1)"]],
        because: "the other gateway read the new mode already, and took a write",
        of: Of::Flip(Flips { flaws: &[Flaw::ReadsByHeld], reads: true, ..Flips::BACK }),
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
        of: Of::Flip(Flips { flaws: &[Flaw::ReadsUnchecked], reads: true, ..STALLS_BACK }),
    },
    Known {
        trace: "B8",
        without: "an acknowledgement only with nothing in flight",
        property: LOST,
        decisive: &[&[
            "G1: accepts w1 = 1 (authority 0)",
            "G1: acknowledges the hold",
            "O1: drain: looks at Blob",
            "G1: ACKS w1",
            "O1: COMMITS authority 1",
        ]],
        because: "what is in flight lands after the drain",
        of: Of::Flip(Flips { flaws: &[Flaw::AcknowledgesBusy], scripts: Flips::OTHER, ..Flips::BASE }),
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
            scripts: Flips::OTHER,
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
        of: Of::Flip(Flips { flaws: &[Flaw::ReadsModeFirst], ..STALLS_BACK }),
    },
    Known {
        trace: "of an operator whose hold was cancelled",
        without: "drain_under_hold",
        property: LOST,
        decisive: &[&["O2: cancels the hold", "O2: COMMITS authority 1", "O1: drain: looks at Blob"]],
        because: "it writes what Blob holds into the new authority",
        of: Of::Flip(Flips {
            goals: [THERE, THERE],
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
            scripts: Flips::OTHER,
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
        decisive: &[&["G1: mirror write 1 if 0 lands", "G1: anchor moved on", "G1: note taken back"]],
        because: "no rev guards Blob",
        of: Of::Flip(Flips { rules: Rules { second_look: false, ..Rules::SOUND }, ..Flips::BACK }),
    },
    Known {
        trace: "B14",
        without: "no_doubt_at_commit",
        property: LOST,
        decisive: &[&["G1: CRASHES", "O1: COMMITS authority 0", "late mirror write 1 if 0 LANDS"]],
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
    Known {
        trace: "C1",
        without: "note_until_recorded (with the permit before the note)",
        property: FOREIGN,
        decisive: &[&["G1: mirror write 1 if 0 lands", "G1: note taken back", "G2: head Blob = 1"]],
        because: "nothing names what Blob holds",
        of: Of::Flip(Flips {
            rules: Rules { note_until_recorded: false, permit_last: false, ..Rules::SOUND },
            scripts: [&[Op::Copy(1)], &[Op::Put(2)]],
            ..Flips::BACK
        }),
    },
    Known {
        trace: "V2",
        without: "pending_carries",
        property: FOREIGN,
        decisive: &[&["G2: ends the change that is pending"]],
        because: "the anchor that somebody else stores does not say what Blob holds",
        of: Of::Flip(Flips {
            rules: Rules { pending_carries: false, ..Rules::SOUND },
            scripts: [&[Op::Large(None)], &[Op::Put(1)]],
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C2",
        without: "permit_last (and a note that checks its session)",
        property: LOST,
        decisive: &[&[
            "G1: permit: Send",
            "operator: lease of G1 counts as expired",
            "O1: drained",
            "G1: note (if 0) stored",
        ]],
        because: "whoever sleeps after the permit notes and sends what the way back does not know of",
        of: Of::Flip(Flips {
            rules: Rules { permit_last: false, ..Rules::SOUND },
            flaws: &[Flaw::NotesUnchecked],
            holds: 2,
            ends: true,
            ..STALLS_BACK
        }),
    },
    Known {
        trace: "C3, C10",
        without: "a note that checks its session, where the clock of the lease stops in sleep",
        property: LOST,
        decisive: &[&["operator: lease of G1 counts as expired", "O1: drained", "G1: permit: Send"]],
        because: "neither the note nor the permit says that the session is over",
        of: Of::Flip(Flips {
            flaws: &[Flaw::NotesUnchecked, Flaw::ClockStops],
            holds: 2,
            ends: true,
            ..STALLS_BACK
        }),
    },
    Known {
        trace: "C4",
        without: "confirm_before_record",
        property: FOREIGN,
        decisive: &[&["G2: head Blob = 0", "G2: Blob's 0 is Same", "G2: anchor recorded"]],
        because: "Blob holds another version by the time its ETag is recorded",
        of: Of::Flip(Flips {
            rules: Rules { confirm_before_record: false, ..Rules::SOUND },
            scripts: [&[Op::Put(1), Op::Put(0)], &[Op::Put(1)]],
            goals: [&[], &[]],
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C5",
        without: "confirm_before_record, with absence",
        property: FOREIGN,
        decisive: &[&["G2: head Blob = -", "G2: anchor recorded"]],
        because: "the same",
        of: Of::Flip(Flips {
            rules: Rules { confirm_before_record: false, ..Rules::SOUND },
            initial: None,
            scripts: [&[Op::Put(1), Op::Delete], &[Op::Put(2)]],
            goals: [&[], &[]],
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C6",
        without: "equal_at_commit",
        property: LOST,
        decisive: &[&["G1: ACKS w1", "O1: COMMITS authority 0"]],
        because: "Blob is not what the anchor says",
        of: Of::Flip(Flips {
            flip: FlipRules { equal_at_commit: false, ..FlipRules::SOUND },
            scripts: Flips::ONE,
            converges: false,
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C7",
        without: "no_doubt_at_commit",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 0", "late mirror write 1 if 0 LANDS"]],
        because: "Blob holds what a request without an answer expects",
        of: Of::Flip(Flips { flip: LATE, timeouts: 1, ..Flips::BACK }),
    },
    Known {
        trace: "C8",
        without: "note_first",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 0", "late mirror write 1 if 0 LANDS"]],
        because: "nobody knows of the request",
        of: Of::Flip(Flips {
            rules: Rules { note_first: false, ..Rules::SOUND },
            timeouts: 1,
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C9",
        without: "permit_last, where the server does not end a request",
        property: LOST,
        decisive: &[&["G1: permit: Send", "G1: note (if 0) stored", "G1: mirror write 1 if 0 lands"]],
        because: "whoever sleeps after the note sends when its window is over",
        of: Of::Flip(Flips {
            rules: Rules { permit_last: false, ..Rules::SOUND },
            flaws: &[Flaw::EndsByClock],
            holds: 2,
            ends: true,
            ..STALLS_BACK
        }),
    },
    Known {
        trace: "C11",
        without: "an end that the server enforces",
        property: LOST,
        decisive: &[&[
            "G1: permit: Send",
            "the window of the write if 0 ends",
            "G1: mirror write 1 if 0 lands",
        ]],
        because: "whoever sleeps between permit and request wins on its own clock",
        of: Of::Flip(Flips { flaws: &[Flaw::EndsByClock], holds: 2, ends: true, ..STALLS_BACK }),
    },
    Known {
        trace: "C12",
        without: "an end that the server enforces, where the clock of the lease stops in sleep",
        property: LOST,
        decisive: &[&["the window of the write if 0 ends", "G1: mirror write 1 if 0 lands"]],
        because: "the permit does not say that the session is over",
        of: Of::Flip(Flips {
            flaws: &[Flaw::EndsByClock, Flaw::ClockStops],
            holds: 2,
            ends: true,
            ..STALLS_BACK
        }),
    },
    Known {
        trace: "C13",
        without: "nothing_brought_back",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 0", "G2: ACKS w3", "late mirror write 1 if 0 LANDS"]],
        because: "a put brings back what a request expects",
        of: Of::Flip(Flips { rules: BROUGHT, timeouts: 1, ..Flips::BACK }),
    },
    Known {
        trace: "C14",
        without: "nothing_brought_back, with absence",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 0", "G2: ACKS w3", "late mirror write 1 if - LANDS"]],
        because: "a deletion does",
        of: Of::Flip(Flips {
            rules: BROUGHT,
            initial: None,
            scripts: [&[Op::Put(1)], &[Op::Delete]],
            timeouts: 1,
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C15",
        without: "a refusal of what nobody knows the ETag of before",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 0", "G2: ACKS w3", "late mirror write 1 if 0 LANDS"]],
        because: "a copy does",
        of: Of::Flip(Flips {
            flaws: &[Flaw::CopiesUnjudged],
            scripts: [&[Op::Put(1)], &[Op::Copy(0)]],
            timeouts: 1,
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C16",
        without: "notes that outlive the step to DynamoDB",
        property: LOST,
        decisive: &[&[
            "O1: COMMITS authority 1",
            "O1: COMMITS authority 0",
            "late mirror write 1 if 0 LANDS",
        ]],
        because: "the second way back does not know of the request",
        of: Of::Flip(Flips {
            flaws: &[Flaw::DropsNotes],
            goals: [BACK_THERE_BACK, &[]],
            holds: 3,
            timeouts: 1,
            ..Flips::BACK
        }),
    },
    Known {
        trace: "C17",
        without: "wait_for_unconditional",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 1", "O1: COMMITS authority 0", "late Blob write w1 LANDS"]],
        because: "a write from before the cutover has no condition",
        of: Of::Flip(Flips {
            flip: FlipRules { wait_for_unconditional: false, ..FlipRules::SOUND },
            scripts: [&[Op::Put(1), Op::Again(1)], &[Op::Put(0)]],
            goals: [THERE_AND_BACK, &[]],
            holds: 2,
            ..Flips::BASE
        }),
    },
    Known {
        trace: "C18",
        without: "doubt_lasts",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 0", "late mirror write 1 if 0 LANDS"]],
        because: "what was seen in Blob was left by another request",
        of: Of::Flip(Flips {
            rules: Rules { doubt_lasts: false, ..Rules::SOUND },
            timeouts: 1,
            ..Flips::BACK
        }),
    },
    Known {
        trace: "two plans",
        without: "one_plan",
        property: LOST,
        decisive: &[&["O1: COMMITS authority 1", "G2: w3 = 0 is not mapped, goes to Blob", "G2: ACKS w3"]],
        because: "what one gateway mirrors, the other passes on: both acknowledge, into two stores",
        of: Of::Flip(Flips { flip: FlipRules { one_plan: false, ..FlipRules::SOUND }, ..OTHER_PLAN }),
    },
];

/// Late writes to Blob are not waited for.
const LATE: FlipRules = FlipRules { no_doubt_at_commit: false, ..FlipRules::SOUND };
/// A write is sent though it brings back what a request expects.
const BROUGHT: Rules = Rules { nothing_brought_back: false, ..Rules::SOUND };
