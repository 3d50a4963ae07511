//! What is explored of a change of authority.

use migrate::protocol::Rules;
use migrate::protocol::flip::Rules as FlipRules;
use migrate::protocol::phase::Authority;

use super::Flips;
use super::world::Op;

pub(crate) const THERE: &[Authority] = &[Authority::Target];
pub(crate) const BACK: &[Authority] = &[Authority::Source];
pub(crate) const THERE_AND_BACK: &[Authority] = &[Authority::Target, Authority::Source];
pub(crate) const BACK_AND_THERE: &[Authority] = &[Authority::Source, Authority::Target];
pub(crate) const BACK_THERE_BACK: &[Authority] = &[Authority::Source, Authority::Target, Authority::Source];

impl Flips {
    /// The step to DynamoDB: the first gateway puts 1, the second what was there at first.
    pub(crate) const BASE: Self = Self {
        name: "",
        rules: Rules::SOUND,
        flip: FlipRules::SOUND,
        flaws: &[],
        leaving: Authority::Source,
        initial: Some(0),
        other_plan: false,
        scripts: [&[Op::Put(1)], &[Op::Put(0)]],
        goals: [THERE, &[]],
        holds: 1,
        reads: false,
        sweeper: false,
        settles: false,
        converges: true,
        eager: false,
        any_lost: false,
        one_replays: false,
        ends: false,
        partition: false,
        brief: false,
        crashes: 0,
        timeouts: 0,
        failures: 0,
        lapses: 0,
        kills: 0,
        cancels: 0,
        only: None,
    };
    /// The way back.
    pub(crate) const BACK: Self = Self { leaving: Authority::Target, goals: [BACK, &[]], ..Self::BASE };
    /// One write, of the first gateway.
    pub(crate) const ONE: [&'static [Op]; 2] = [&[Op::Put(1)], &[]];
    /// Two writes that leave different things.
    pub(crate) const OTHER: [&'static [Op]; 2] = [&[Op::Put(1)], &[Op::Put(2)]];
}

/// A gateway under another plan: as long as it runs, nothing is flipped.
pub(crate) const OTHER_PLAN: Flips = Flips { other_plan: true, holds: 2, cancels: 1, ..Flips::BASE };

/// What CI explores.
pub(crate) const DEFAULT: [Flips; 23] = [
    Flips { name: "flip: crash, late landing", crashes: 1, timeouts: 1, ..Flips::BASE },
    Flips { name: "flip: reads, a stall", reads: true, lapses: 1, scripts: Flips::ONE, ..Flips::BASE },
    Flips {
        name: "flip: partition from the control table",
        lapses: 1,
        partition: true,
        cancels: 1,
        holds: 2,
        scripts: Flips::ONE,
        ..Flips::BASE
    },
    Flips { name: "flip: brief partition", lapses: 1, partition: true, brief: true, ..Flips::BASE },
    Flips { name: "flip: sweeper", sweeper: true, ..Flips::BASE },
    Flips { name: "flip: operator killed and run again", kills: 1, holds: 2, ..Flips::BASE },
    Flips {
        name: "flip: two operators",
        goals: [THERE, THERE],
        holds: 2,
        scripts: Flips::ONE,
        ..Flips::BASE
    },
    Flips { name: "flip: a gateway under another plan", ..OTHER_PLAN },
    Flips { name: "flip: deletion", scripts: [&[Op::Put(1)], &[Op::Delete]], timeouts: 1, ..Flips::BASE },
    Flips { name: "back: put of former content", ..Flips::BACK },
    Flips { name: "back: deletion", scripts: [&[Op::Put(1)], &[Op::Delete]], ..Flips::BACK },
    Flips {
        name: "back: nothing there at first",
        initial: None,
        scripts: [&[Op::Create(1)], &[Op::Delete]],
        ..Flips::BACK
    },
    Flips {
        name: "back: a change in parts",
        scripts: [&[Op::Large(Some(1))], &[Op::Large(None)]],
        ..Flips::BACK
    },
    Flips { name: "back: crash", crashes: 1, ..Flips::BACK },
    Flips { name: "back: failed head", failures: 1, ..Flips::BACK },
    Flips { name: "back: reply lost", timeouts: 1, ends: true, scripts: Flips::ONE, holds: 2, ..Flips::BACK },
    Flips { name: "back: stall", lapses: 1, ends: true, scripts: Flips::ONE, holds: 2, ..Flips::BACK },
    Flips { name: "back: reads, a stall", reads: true, lapses: 1, scripts: Flips::ONE, ..Flips::BACK },
    Flips { name: "back: sweeper", sweeper: true, scripts: Flips::ONE, ..Flips::BACK },
    Flips {
        name: "back: operator killed and run again",
        kills: 1,
        holds: 2,
        scripts: Flips::ONE,
        ..Flips::BACK
    },
    Flips { name: "there and back", goals: [THERE_AND_BACK, &[]], holds: 2, ..Flips::BASE },
    Flips {
        name: "back and there",
        goals: [BACK_AND_THERE, &[]],
        holds: 2,
        scripts: Flips::ONE,
        ..Flips::BACK
    },
    Flips {
        name: "back, there, back",
        goals: [BACK_THERE_BACK, &[]],
        holds: 3,
        scripts: Flips::ONE,
        ..Flips::BACK
    },
];

/// Reply lost, and windows that end.
const LOST: Flips = Flips { timeouts: 1, ends: true, holds: 2, ..Flips::BACK };
/// A process sleeps, and windows end.
const ASLEEP: Flips = Flips { lapses: 1, ends: true, holds: 2, ..Flips::BACK };
/// Two writes of each gateway, the second of which restores.
const TWO: [&[Op]; 2] = [&[Op::Put(1), Op::Put(0)], &[Op::Put(2), Op::Put(0)]];

/// What is explored by hand.
pub(crate) const FULL: [Flips; 29] = [
    Flips {
        name: "flip: every fault, reads",
        crashes: 1,
        timeouts: 1,
        lapses: 1,
        reads: true,
        ..Flips::BASE
    },
    Flips {
        name: "flip: partition, crash, late landing",
        crashes: 1,
        timeouts: 1,
        lapses: 1,
        partition: true,
        holds: 2,
        ..Flips::BASE
    },
    Flips { name: "flip: two operators, a kill", goals: [THERE, THERE], kills: 1, holds: 3, ..Flips::BASE },
    Flips {
        name: "flip: two operators that converge before the hold",
        goals: [THERE, THERE],
        settles: true,
        holds: 2,
        ..Flips::BASE
    },
    Flips { name: "full back: two writes each, lazy", scripts: TWO, ..Flips::BACK },
    Flips { name: "full back: two writes each, eager", scripts: TWO, eager: true, ..Flips::BACK },
    Flips { name: "full back: a reply lost", one_replays: true, ..LOST },
    Flips { name: "full back: reply lost, eager", eager: true, ..LOST },
    Flips { name: "full back: two replies lost", timeouts: 2, scripts: Flips::ONE, ..LOST },
    Flips {
        name: "full back: reply lost, then former content",
        scripts: [&[Op::Put(1), Op::Put(0)], &[Op::Put(0)]],
        ..LOST
    },
    Flips { name: "full back: reply lost, crash", crashes: 1, ..LOST },
    Flips { name: "full back: reply lost, failed head", failures: 1, ..LOST },
    Flips { name: "full back: reply lost, copy", scripts: [&[Op::Put(1)], &[Op::Copy(0)]], ..LOST },
    Flips {
        name: "full back: reply lost, creation and deletion",
        initial: None,
        scripts: [&[Op::Create(1), Op::Delete], &[Op::Delete]],
        ..LOST
    },
    Flips { name: "full back: reply lost, deletion", scripts: [&[Op::Delete], &[Op::Put(0)]], ..LOST },
    Flips {
        name: "full back: reply lost, a change in parts",
        scripts: [&[Op::Large(Some(1))], &[Op::Large(None)]],
        ..LOST
    },
    Flips {
        name: "full back: crash, a change in parts",
        scripts: [&[Op::Large(None)], &[Op::Large(Some(1))]],
        crashes: 1,
        eager: true,
        ..Flips::BACK
    },
    Flips { name: "full back: reply lost, sweeper", sweeper: true, scripts: Flips::ONE, ..LOST },
    Flips { name: "full back: reply lost, operator killed", kills: 1, holds: 3, scripts: Flips::ONE, ..LOST },
    Flips { name: "full back: asleep, nothing else", ..ASLEEP },
    Flips { name: "full back: asleep, reply lost", timeouts: 1, ..ASLEEP },
    Flips { name: "full back: asleep, crash", crashes: 1, ..ASLEEP },
    Flips { name: "full back: asleep, deletion", scripts: [&[Op::Put(1)], &[Op::Delete]], ..ASLEEP },
    Flips { name: "full back: two operators, nothing else", goals: [BACK, BACK], ..Flips::BACK },
    Flips { name: "full back: two operators, asleep", goals: [BACK, BACK], scripts: Flips::ONE, ..ASLEEP },
    Flips {
        name: "full back: two operators, a kill",
        goals: [BACK, BACK],
        kills: 1,
        holds: 3,
        ..Flips::BACK
    },
    Flips {
        name: "full there and back: crash, late landing",
        goals: [THERE_AND_BACK, &[]],
        holds: 3,
        crashes: 1,
        timeouts: 1,
        ends: true,
        ..Flips::BASE
    },
    Flips { name: "full back, there, back: reply lost", goals: [BACK_THERE_BACK, &[]], holds: 3, ..LOST },
    Flips { name: "full back and there: asleep", goals: [BACK_AND_THERE, &[]], holds: 3, ..ASLEEP },
];
