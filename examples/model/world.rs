//! What a state of the model holds: both stores, every process, every request under way.
//!
//! It is kept small, since millions of them are explored. Of a rev only one thing matters, because
//! revs never repeat: whether it is still the anchor's. And a converge in progress is kept as what it
//! was told; the real machine is made of that whenever it must be asked.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Converge, Mirror, Next, Purpose};
use migrate::protocol::intent::{Replay, Reply};

/// The bytes of a blob; also its version, the worst case of one: it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Content {
    A,
    B,
}

/// A rev, as seen from the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rev {
    /// Some rev that the anchor had, and never will have again.
    Past,
    /// The one that the anchor has.
    Present,
    /// The one that a request brings along.
    Ours,
}

pub(crate) type Seen = Mirror<Content, Rev>;
pub(crate) type Machine = Converge<Content, Rev>;

/// The table item of the pathname.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    Absent,
    Ours(Content),
    /// The application put it there itself.
    Foreign,
}

/// Who takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Actor {
    Gateway(usize),
    Sweeper,
    Backfill,
    Replayer,
}

/// A converge in progress: what it was told since it last began.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) purpose: Purpose,
    pub(crate) mirror: Option<Seen>,
    pub(crate) authority: Option<Option<Content>>,
    /// Its transaction is under way.
    pub(crate) sent: bool,
}

impl Run {
    pub(crate) const fn new(purpose: Purpose) -> Self {
        Self { purpose, mirror: None, authority: None, sent: false }
    }

    /// The production machine in this state.
    pub(crate) fn machine(&self, rules: Rules, attempts: u8) -> Machine {
        let mut machine = Machine::new(rules, self.purpose, attempts);
        // In the order in which they were asked for.
        while !matches!(machine.next(), Next::Write { .. } | Next::Done(_)) {
            match (machine.next(), self.mirror.clone(), self.authority) {
                (Next::ReadMirror, Some(seen), _) => machine.mirror(seen),
                (Next::ReadAuthority, _, Some(seen)) => machine.authority(seen),
                _ => break,
            }
        }
        machine
    }
}

/// The write that an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    NotSent,
    UnderWay,
    /// It landed, was refused, or died.
    Over,
}

/// The row of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Intent {
    NotStored,
    Working,
    GaveUp,
    OwnerEnded,
    Cleared,
}

/// One operation of the application: what its write leaves in the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Operation {
    pub(crate) gateway: usize,
    pub(crate) leaves: Option<Content>,
    pub(crate) request: Request,
    pub(crate) intent: Intent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Gateway {
    /// Between operations.
    Idle,
    /// Waits for the source's reply.
    Waiting {
        operation: usize,
    },
    Converging {
        operation: usize,
        reply: Reply,
        run: Run,
    },
    Crashed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Replaying {
    pub(crate) operation: usize,
    pub(crate) decided: Replay,
    pub(crate) run: Run,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) source: Option<Content>,
    pub(crate) anchor: Seen,
    pub(crate) item: Item,
    pub(crate) operations: Vec<Operation>,
    pub(crate) gateways: [Gateway; 2],
    pub(crate) sweeper: Option<Run>,
    pub(crate) backfill: Option<Run>,
    pub(crate) replayer: Option<Replaying>,
    /// Transactions whose senders no longer wait. Each may land at any time, or never.
    pub(crate) late: Vec<Run>,
    pub(crate) foreign_writes: u8,
    pub(crate) foreign_lost: bool,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
}

impl World {
    pub(crate) fn run(&self, actor: Actor) -> Option<&Run> {
        match actor {
            Actor::Gateway(number) => match &self.gateways[number] {
                Gateway::Converging { run, .. } => Some(run),
                Gateway::Idle | Gateway::Waiting { .. } | Gateway::Crashed => None,
            },
            Actor::Sweeper => self.sweeper.as_ref(),
            Actor::Backfill => self.backfill.as_ref(),
            Actor::Replayer => self.replayer.as_ref().map(|replaying| &replaying.run),
        }
    }

    pub(crate) fn run_mut(&mut self, actor: Actor) -> Option<&mut Run> {
        match actor {
            Actor::Gateway(number) => match &mut self.gateways[number] {
                Gateway::Converging { run, .. } => Some(run),
                Gateway::Idle | Gateway::Waiting { .. } | Gateway::Crashed => None,
            },
            Actor::Sweeper => self.sweeper.as_mut(),
            Actor::Backfill => self.backfill.as_mut(),
            Actor::Replayer => self.replayer.as_mut().map(|replaying| &mut replaying.run),
        }
    }

    /// What the target holds of the source.
    pub(crate) const fn target(&self) -> Option<Content> {
        match self.item {
            Item::Ours(content) => Some(content),
            Item::Absent | Item::Foreign => None,
        }
    }

    /// The gateway's next operation, if it can begin one.
    pub(crate) fn next_operation(&self, gateway: usize) -> Option<usize> {
        if self.gateways[gateway] != Gateway::Idle {
            return None;
        }
        self.operations.iter().position(|o| o.gateway == gateway && o.intent == Intent::NotStored)
    }

    /// Every operation is over, and no intent says otherwise.
    pub(crate) fn settled(&self) -> bool {
        self.gateways.iter().all(|gateway| matches!(gateway, Gateway::Idle | Gateway::Crashed))
            && self.operations.iter().all(|operation| operation.intent == Intent::Cleared)
    }

    /// The anchor got a new rev: every rev seen so far is of the past, and what expects one of them
    /// can never be applied.
    pub(crate) fn age(&mut self) {
        let runs = [Actor::Gateway(0), Actor::Gateway(1), Actor::Sweeper, Actor::Backfill, Actor::Replayer];
        for actor in runs {
            self.run_mut(actor).and_then(|run| run.mirror.as_mut()).into_iter().for_each(make_past);
        }
        for late in &mut self.late {
            late.mirror.iter_mut().for_each(make_past);
        }
    }
}

fn make_past(seen: &mut Seen) {
    match seen {
        Mirror::Unknown => {}
        Mirror::Settled { rev, .. } | Mirror::Pending { rev } | Mirror::Tombstone { rev } => *rev = Rev::Past,
    }
}
