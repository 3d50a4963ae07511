//! The known traces: with which rule taken out, or which mistake made, the checker must find which one.

use migrate::protocol::Rules;
use migrate::protocol::converge::Purpose;

use crate::cases::Case;
use crate::flips::Flips;
use crate::groups::{self, Groups, HIGHEST};
use crate::model::{EQUAL, FOREIGN, Flaw};

/// A violation that must be found.
pub(crate) struct Known {
    /// Its name among the known traces.
    pub(crate) trace: &'static str,
    /// What is taken out.
    pub(crate) without: &'static str,
    /// What it breaks.
    pub(crate) property: &'static str,
    /// The steps that make it this trace and no other: each chain must occur in its order. Other steps may
    /// stand between them.
    pub(crate) decisive: &'static [&'static [&'static str]],
    /// Why these.
    pub(crate) because: &'static str,
    pub(crate) of: Of,
}

/// Where it is looked for.
pub(crate) enum Of {
    Pathname(Case),
    Group(Groups),
    Flip(Flips),
}

impl Known {
    /// The first decisive step that a trace lacks, if it is not this one.
    pub(crate) fn lacks(&self, lines: &[String]) -> Option<&'static str> {
        self.decisive.iter().find_map(|chain| {
            let mut rest = lines.iter();
            chain.iter().copied().find(|step| !rest.any(|line| line == step))
        })
    }
}

const SWEPT: Case = Case { sweeper: Some(Purpose::Reconcile), timeouts: 0, ..Case::BASE };
/// Compare-and-set on the rev, and nothing else.
const BARE: Rules = Rules { mirror_first: false, renew_on_intent: false, tombstones: false, ..Rules::SOUND };

const GROUPED: Groups = Groups { timeouts: 0, crashes: 0, ..groups::DEFAULT[0] };

/// All of them: the three rules, then the protocol's earlier drafts, then the rules of groups.
pub(crate) const KNOWN: [Known; 13] = [
    Known {
        trace: "A8 (A5, with the other two rules)",
        without: "mirror_first",
        property: EQUAL,
        decisive: &[&[
            "SW: sees source A",
            "G1: blob write lands (-)",
            "G1: target write - lands",
            "G1: clears the intent",
            "SW: sees target -: sends target write A",
            "SW: target write A lands",
        ]],
        because: "the sweeper's look at the authority is older than the rev that it compares with",
        of: Of::Pathname(Case { rules: Rules { mirror_first: false, ..Rules::SOUND }, ..SWEPT }),
    },
    Known {
        trace: "A6",
        without: "renew_on_intent",
        property: EQUAL,
        decisive: &[&[
            "SW: sees target -",
            "SW: sees source A: sends target write A",
            "G1: blob write lands (-)",
            "G1: sees source -: equal",
            "G1: clears the intent",
            "SW: target write A lands",
        ]],
        because: "the gateway finds both sides equal and leaves the rev that the sweeper's write expects",
        of: Of::Pathname(Case { rules: Rules { renew_on_intent: false, ..Rules::SOUND }, ..SWEPT }),
    },
    Known {
        trace: "A7",
        without: "tombstones",
        property: EQUAL,
        decisive: &[&[
            "SW: sees target -",
            "SW: sees source A: sends target write A",
            "G1: blob write lands (-)",
            "G1: sees source -: equal",
            "G1: clears the intent",
            "SW: target write A lands",
        ]],
        because: "absence has no rev that could be renewed: the sweeper's write finds the absence it saw",
        of: Of::Pathname(Case { rules: Rules { tombstones: false, ..Rules::SOUND }, ..SWEPT }),
    },
    Known {
        trace: "A5",
        without: "all three rules",
        property: EQUAL,
        decisive: &[&[
            "SW: sees source A",
            "G1: blob write lands (-)",
            "G1: sees target -: equal",
            "G1: clears the intent",
            "SW: sees target -: sends target write A",
            "SW: target write A lands",
        ]],
        because: "the compare-and-set on the rev compares nothing, since the rev was read last",
        of: Of::Pathname(Case { rules: BARE, ..SWEPT }),
    },
    Known {
        trace: "A4",
        without: "all three rules and the rev",
        property: EQUAL,
        decisive: &[&[
            "SW: sees source A",
            "G1: blob write lands (-)",
            "G1: sees target -: equal",
            "G1: clears the intent",
            "SW: sees target -: sends target write A",
            "SW: target write A lands",
        ]],
        because: "the same with a compare-and-set on the ETag",
        of: Of::Pathname(Case { rules: BARE, flaw: Flaw::ComparesVersions, ..SWEPT }),
    },
    Known {
        trace: "A1",
        without: "the reply, before an intent is cleared",
        property: EQUAL,
        decisive: &[&["G1: blob request TIMES OUT", "G1: clears the intent", "late blob write - lands"]],
        because: "looking does not resolve an unanswered write",
        of: Of::Pathname(Case { flaw: Flaw::ClearsUnanswered, crashes: 0, ..Case::BASE }),
    },
    Known {
        trace: "A1, with another gateway's replay",
        without: "the wait, before an intent in doubt is cleared",
        property: EQUAL,
        decisive: &[&[
            "G1: CRASHES",
            "RP: starts on intent 0, waited",
            "RP: clears the intent",
            "late blob write - lands",
        ]],
        because: "looking does not resolve a dead gateway's write either",
        of: Of::Pathname(Case { flaw: Flaw::ClearsWithoutWait, timeouts: 0, ..Case::BASE }),
    },
    Known {
        trace: "A2",
        without: "one row per operation (a flag per pathname)",
        property: EQUAL,
        decisive: &[
            &["G2: intent stored, op write A", "G1: clears the intent", "G2: CRASHES"],
            &["G1: sees source -: equal, sends bump", "G2: blob write lands (A)", "G2: CRASHES"],
        ],
        because: "one gateway clears the flag that the other relies on",
        of: Of::Pathname(Case { flaw: Flaw::IntentIsFlag, timeouts: 0, replayer: false, ..Case::BASE }),
    },
    Known {
        trace: "A3, with the gateways' names exchanged",
        without: "one row per operation (a nonce per pathname)",
        property: EQUAL,
        decisive: &[
            &["G1: intent stored, op write -", "G2: intent stored, op write A", "G2: clears the intent"],
            &["G2: sees source A: sends target write A", "late blob write - lands"],
            &["G1: CRASHES", "late blob write - lands"],
        ],
        because: "one gateway overwrites the other's nonce, then clears its own",
        of: Of::Pathname(Case { flaw: Flaw::IntentIsNonce, timeouts: 0, replayer: false, ..Case::BASE }),
    },
    Known {
        trace: "that of a foreign item (explored as A11)",
        without: "the condition on the item's owner",
        property: FOREIGN,
        decisive: &[&["application: puts an item of its own", "SW: target write A lands"]],
        because: "the item is not ours, and the anchor's rev does not speak of it",
        of: Of::Pathname(Case { flaw: Flaw::OverwritesForeign, foreign_writes: 1, crashes: 0, ..SWEPT }),
    },
    Known {
        trace: "of two members at once",
        without: "group_rev",
        property: HIGHEST,
        decisive: &[
            &["G1: sees members Q@2,P@1: sends item P@3", "G2: target write lands, item Q@4"],
            &["G2: sees members Q@2,P@1: sends item Q@4", "G1: target write lands, item P@3"],
            &["G2: target write lands, item Q@4", "G1: target write lands, item P@3"],
        ],
        because: "each of two members that change at once counts on the other",
        of: Of::Group(Groups { rules: Rules { group_rev: false, ..Rules::SOUND }, ..GROUPED }),
    },
    Known {
        trace: "of a rev that is newer than the members",
        without: "members_under_rev",
        property: HIGHEST,
        decisive: &[&[
            "G1: sees members -",
            "G2: target write lands, item Q@1",
            "G1: sees group Q@1: sends item P@1",
            "G1: target write lands, item P@1",
        ]],
        because: "the members are older than the rev that the transaction compares with",
        of: Of::Group(Groups { rules: Rules { members_under_rev: false, ..Rules::SOUND }, ..GROUPED }),
    },
    Known {
        trace: "of a member whose change is under way",
        without: "fetch_pending",
        property: HIGHEST,
        decisive: &[&[
            "G1: target write lands, item Q@2",
            "G2: sees members Q@2,P@1",
            "G2: looks for P@1 in its anchor: sends item -",
            "G2: target write lands, item -",
        ]],
        because: "the large change joined the group already, and its last transaction does not look at it again",
        of: Of::Group(Groups { rules: Rules { fetch_pending: false, ..Rules::SOUND }, ..groups::DEFAULT[1] }),
    },
];
