//! What is explored: groups of configurations, and how many operations, processes and faults each has.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Mirror, Purpose};

use crate::model::{Flaw, Protocol};
use crate::world::{Content, Gateway, Intent, Item, Operation, Request, Rev, World};

/// Rounds of a converge, where giving up is not what is explored.
const ROUNDS: u8 = 8;

/// How many operations the two gateways have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scripts {
    /// One each, or the first gateway alone. The gateways are alike, so (x, y) stands for (y, x).
    OneEach,
    /// Two for the first gateway, one or none for the second.
    TwoAndOne,
}

/// The processes and faults of one exploration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) scripts: Scripts,
    pub(crate) rules: Rules,
    pub(crate) flaw: Flaw,
    pub(crate) attempts: u8,
    pub(crate) sweeper: Option<Purpose>,
    pub(crate) backfill: bool,
    pub(crate) replayer: bool,
    pub(crate) reduced: bool,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    pub(crate) foreign_writes: u8,
}

impl Case {
    pub(crate) const BASE: Self = Self {
        name: "",
        scripts: Scripts::OneEach,
        rules: Rules::SOUND,
        flaw: Flaw::None,
        attempts: ROUNDS,
        sweeper: None,
        backfill: false,
        replayer: true,
        reduced: true,
        crashes: 1,
        timeouts: 1,
        foreign_writes: 0,
    };

    /// The model of this case, over all its configurations.
    pub(crate) fn protocol(self) -> Protocol {
        let mut beginnings = Vec::new();
        for (first, second) in scripts(self.scripts) {
            for (source, anchor) in stores() {
                beginnings.push(self.beginning(&first, &second, source, anchor));
            }
        }
        Protocol {
            rules: self.rules,
            flaw: self.flaw,
            attempts: self.attempts,
            sweeper: self.sweeper,
            backfill: self.backfill,
            replayer: self.replayer,
            reduced: self.reduced,
            beginnings,
            only: None,
        }
    }

    /// One configuration.
    pub(crate) fn beginning(
        self,
        first: &[Option<Content>],
        second: &[Option<Content>],
        source: Option<Content>,
        anchor: Mirror<Content, Rev>,
    ) -> World {
        let of = |gateway, leaves: &[Option<Content>]| {
            let operation = move |leaves: &Option<Content>| Operation {
                gateway,
                leaves: *leaves,
                request: Request::NotSent,
                intent: Intent::NotStored,
            };
            leaves.iter().map(operation).collect::<Vec<_>>()
        };
        World {
            source,
            item: if let Mirror::Settled { version, .. } = &anchor {
                Item::Ours(*version)
            } else {
                Item::Absent
            },
            anchor,
            operations: [of(0, first), of(1, second)].concat(),
            gateways: [Gateway::Idle, Gateway::Idle],
            sweeper: None,
            backfill: None,
            replayer: None,
            late: Vec::new(),
            foreign_writes: self.foreign_writes,
            foreign_lost: false,
            crashes: self.crashes,
            timeouts: self.timeouts,
        }
    }
}

const SWEEPER: Option<Purpose> = Some(Purpose::Reconcile);

/// What CI explores.
pub(crate) const DEFAULT: [Case; 4] = [
    Case { name: "sweeper, backfill from a stale snapshot", sweeper: SWEEPER, backfill: true, ..Case::BASE },
    Case { name: "repairing sweeper", sweeper: Some(Purpose::Repair), ..Case::BASE },
    Case { name: "giving up at the first refusal", attempts: 1, sweeper: SWEEPER, ..Case::BASE },
    Case { name: "foreign item", sweeper: SWEEPER, foreign_writes: 1, timeouts: 0, ..Case::BASE },
];

/// The most states that the default run may have: some 40 s on two cores.
pub(crate) const DEFAULT_STATES_MAX: usize = 15_000_000;

/// What is explored by hand: a second operation, a second crash, and a check of the reduction itself.
pub(crate) const FULL: [Case; 6] = [
    Case { name: "foreign item, late landing", sweeper: SWEEPER, foreign_writes: 1, ..Case::BASE },
    Case { name: "without the reduction", sweeper: SWEEPER, reduced: false, ..Case::BASE },
    Case { name: "two crashes", sweeper: SWEEPER, crashes: 2, ..Case::BASE },
    Case { name: "two operations, sweeper", scripts: Scripts::TwoAndOne, sweeper: SWEEPER, ..Case::BASE },
    Case { name: "two operations, backfill", scripts: Scripts::TwoAndOne, backfill: true, ..Case::BASE },
    Case {
        name: "two operations, both, no timeout",
        scripts: Scripts::TwoAndOne,
        sweeper: SWEEPER,
        backfill: true,
        timeouts: 0,
        ..Case::BASE
    },
];

type Script = Vec<Option<Content>>;

fn scripts(scripts: Scripts) -> Vec<(Script, Script)> {
    // Deletions first: the known traces are about them.
    let writes = [None, Some(Content::A), Some(Content::B)];
    let mut all = Vec::new();
    for (number, first) in writes.into_iter().enumerate() {
        match scripts {
            Scripts::OneEach => {
                all.push((vec![first], vec![]));
                all.extend(writes[number..].iter().map(|second| (vec![first], vec![*second])));
            }
            Scripts::TwoAndOne => {
                for then in writes {
                    all.push((vec![first, then], vec![]));
                    all.extend(writes.map(|second| (vec![first, then], vec![second])));
                }
            }
        }
    }
    all
}

/// Source and target at the beginning: each empty or holding A; equal, or the target behind.
fn stores() -> [(Option<Content>, Mirror<Content, Rev>); 4] {
    let rev = Rev::Present;
    [
        (Some(Content::A), Mirror::Unknown),
        (Some(Content::A), Mirror::Settled { rev, version: Content::A }),
        (None, Mirror::Unknown),
        (None, Mirror::Tombstone { rev }),
    ]
}
