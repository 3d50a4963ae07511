//! Whether a key's history can be explained: linearizability of a register with conditional operations.
//!
//! The search is that of Wing and Gong, with the memory of Lowe: one step after the other is taken that may be next in
//! real time and that finds what it demands, and no arrangement is tried twice. Keys are judged one by one, which is
//! sound and complete since each step is about one key ([`crate::history`] says what that means for copies).
//!
//! A step without an answer (an open one) may be taken until its time is over, or never. Where it is taken, what it wrote
//! must be seen by the very next step: else it may as well not have happened. That keeps the search small, however many
//! open steps there are. What a copy without an answer wrote is not known: it may be any content.
//!
//! A history that takes too long to judge is no pass: [`Verdict::TooHard`] is told.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::blobs::{Content, State};
use crate::history::Moment;

/// So many arrangements are tried of one key.
const ARRANGEMENTS_MAX: usize = 4_000_000;
/// Stands for every content that no step demands: they differ for nobody.
const UNWANTED: Content = Content(u32::MAX);

/// What a step demands of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Expect {
    Anything,
    Is(State),
    Not(State),
}

/// What a key holds after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    To(State),
    /// What another key held: known only where the copy was answered.
    Copied,
}

/// One call, as far as it is about one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Which record it is of.
    pub(crate) record: usize,
    pub(crate) expect: Expect,
    pub(crate) write: Option<Write>,
    pub(crate) invoked: Moment,
    /// None where there was no answer.
    pub(crate) returned: Option<Moment>,
    /// Without an answer: when it can't have an effect any more.
    pub(crate) until: Option<Moment>,
}

/// What comes of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sound,
    /// There is no explanation. Furthest gets the one that can't go on with this step, whatever of these the key held.
    Wrong {
        step: usize,
        held: BTreeSet<State>,
    },
    TooHard,
}

/// What a key holds in an arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Held {
    Just(State),
    /// Some content: a copy wrote it.
    Some,
}

impl Held {
    const fn meets(self, expect: Expect) -> bool {
        match (self, expect) {
            (_, Expect::Anything) | (Self::Some, Expect::Is(Some(_)) | Expect::Not(_)) => true,
            (Self::Some, Expect::Is(None)) => false,
            (Self::Just(held), Expect::Is(state)) => same(held, state),
            (Self::Just(held), Expect::Not(state)) => !same(held, state),
        }
    }

    /// What it holds after a step that found what it demands.
    const fn after(self, step: &Step) -> Self {
        match (step.write, step.expect, self) {
            (Some(Write::To(state)), ..) => Self::Just(state),
            (Some(Write::Copied), ..) => Self::Some,
            // Whoever read it knows it.
            (None, Expect::Is(state), Self::Some) => Self::Just(state),
            (None, ..) => self,
        }
    }
}

const fn same(a: State, b: State) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.0 == b.0,
        (None, None) => true,
        _ => false,
    }
}

/// Judges the steps of one key, which holds nothing at first.
pub(crate) fn check(steps: &[Step]) -> Verdict {
    Search::new(steps).run()
}

struct Search {
    /// Answered steps by when they began, each with its place in the input.
    certain: Vec<(usize, Step)>,
    open: Vec<Step>,
    /// The contents that some step demands, or demands not to be there.
    wanted: HashSet<Content>,
    /// Open steps by what they write; those whose time is over first, first.
    writing: HashMap<Write, Vec<usize>>,
    /// When the time of open steps is over.
    ends: Vec<Moment>,
    done: Vec<bool>,
    used: Vec<bool>,
    now: Arrangement,
    tried: HashSet<u128>,
    furthest: Furthest,
}

/// A beginning of an explanation.
#[derive(Clone, Copy)]
struct Arrangement {
    held: Held,
    /// The first answered step that is not in it.
    first: usize,
    count: usize,
    /// When the latest of its steps began.
    latest: Moment,
    /// Whether its last step is an open one.
    after_open: bool,
    /// Of the steps that are in it.
    hash: u128,
}

struct Furthest {
    count: usize,
    step: usize,
    held: BTreeSet<State>,
}

#[derive(Clone, Copy)]
enum Move {
    Certain(usize),
    Open(usize),
}

struct Frame {
    before: Arrangement,
    taken: Option<Move>,
    moves: std::vec::IntoIter<Move>,
}

impl Search {
    fn new(steps: &[Step]) -> Self {
        let demanded = steps.iter().filter_map(|step| match step.expect {
            Expect::Is(state) | Expect::Not(state) => state,
            Expect::Anything => None,
        });
        let wanted: HashSet<Content> = demanded.collect();
        let (mut certain, mut open) = (Vec::new(), Vec::new());
        for (index, step) in steps.iter().enumerate() {
            if step.returned.is_some() {
                certain.push((index, *step));
            } else {
                open.push(*step);
            }
        }
        certain.sort_by_key(|(_, step)| step.invoked);
        // None is later than any time.
        open.sort_by_key(|step| (step.until.is_none(), step.until));
        let mut writing: HashMap<Write, Vec<usize>> = HashMap::new();
        for (index, step) in open.iter().enumerate() {
            let write = match step.write {
                Some(Write::To(Some(content))) if !wanted.contains(&content) => Write::To(Some(UNWANTED)),
                write => write.unwrap_or(Write::Copied),
            };
            writing.entry(write).or_default().push(index);
        }
        let (done, used) = (vec![false; certain.len()], vec![false; open.len()]);
        let now = Arrangement {
            held: Held::Just(None),
            first: 0,
            count: 0,
            latest: Moment::ZERO,
            after_open: false,
            hash: 0,
        };
        let ends = open.iter().filter_map(|step| step.until).collect();
        let furthest = Furthest { count: 0, step: 0, held: BTreeSet::new() };
        Self { certain, open, wanted, writing, ends, done, used, now, tried: HashSet::new(), furthest }
    }

    fn run(mut self) -> Verdict {
        let mut path = vec![Frame { before: self.now, taken: None, moves: self.moves().into_iter() }];
        while let Some(frame) = path.last_mut() {
            if self.now.count == self.certain.len() {
                return Verdict::Sound;
            }
            let Some(next) = frame.moves.next() else {
                let frame = path.pop();
                if let Some(Frame { before, taken: Some(taken), .. }) = frame {
                    self.take_back(taken, before);
                }
                continue;
            };
            let before = self.now;
            self.take(next);
            if !self.tried.insert(self.fingerprint()) {
                self.take_back(next, before);
                continue;
            }
            if self.tried.len() > ARRANGEMENTS_MAX {
                return Verdict::TooHard;
            }
            let moves = self.moves().into_iter();
            path.push(Frame { before, taken: Some(next), moves });
        }
        let Furthest { step, held, .. } = self.furthest;
        Verdict::Wrong { step, held }
    }

    fn take(&mut self, next: Move) {
        let now = &mut self.now;
        let step = match next {
            Move::Certain(index) => {
                self.done[index] = true;
                now.count += 1;
                while self.done.get(now.first) == Some(&true) {
                    now.first += 1;
                }
                now.hash ^= mixed(index as u64);
                &self.certain[index].1
            }
            Move::Open(index) => {
                self.used[index] = true;
                now.hash ^= mixed(!(index as u64));
                &self.open[index]
            }
        };
        now.held = now.held.after(step);
        now.latest = now.latest.max(step.invoked);
        now.after_open = matches!(next, Move::Open(_));
    }

    fn take_back(&mut self, taken: Move, before: Arrangement) {
        match taken {
            Move::Certain(index) => self.done[index] = false,
            Move::Open(index) => self.used[index] = false,
        }
        self.now = before;
    }

    /// Two arrangements of the same steps that hold the same go on alike.
    fn fingerprint(&self) -> u128 {
        let held = match self.now.held {
            Held::Just(None) => 0,
            Held::Some => 1,
            Held::Just(Some(content)) if !self.wanted.contains(&content) => 2,
            Held::Just(Some(content)) => 3 + u64::from(content.0),
        };
        self.now.hash ^ mixed((held << 1 | u64::from(self.now.after_open)) ^ (1 << 62))
    }

    /// What may be next.
    fn moves(&mut self) -> Vec<Move> {
        // Until the first answer of a step that is not in yet, nothing may be next that began later.
        let (mut limit, mut candidates) = (Moment::MAX, Vec::new());
        for index in self.now.first..self.certain.len() {
            let (_, step) = &self.certain[index];
            if step.invoked > limit {
                break;
            }
            if !self.done[index] {
                limit = limit.min(step.returned.unwrap_or(Moment::MAX));
                candidates.push(index);
            }
        }
        candidates.retain(|index| self.certain[*index].1.invoked <= limit);
        candidates.sort_by_key(|index| self.certain[*index].1.returned);
        self.went(&candidates);

        let held = self.now.held;
        let step = |index: usize| &self.certain[index].1;
        // A read that finds what it was told, and that ends nobody's time, may as well be next.
        let free = |index: &usize| {
            let step = step(*index);
            let pins = held == Held::Some && matches!(step.expect, Expect::Is(_));
            step.write.is_none() && held.meets(step.expect) && !pins && !self.ends_before(step.invoked)
        };
        if let Some(read) = candidates.iter().copied().find(|index| free(index)) {
            return vec![Move::Certain(read)];
        }
        let sees = |step: &Step| !self.now.after_open || step.expect != Expect::Anything;
        let fits = |index: &usize| held.meets(step(*index).expect) && sees(step(*index));
        let mut moves: Vec<Move> = candidates.iter().copied().filter(fits).map(Move::Certain).collect();
        let demands = candidates.iter().map(|index| step(*index));
        let demands = demands.filter(|step| !held.meets(step.expect) || self.ends_before(step.invoked));
        let demands = demands.map(|step| step.expect).filter(|expect| *expect != Expect::Anything);
        moves.extend(self.open_moves(demands.collect(), limit));
        moves
    }

    /// The open steps after which one of these demands is met.
    fn open_moves(&self, mut demands: Vec<Expect>, limit: Moment) -> Vec<Move> {
        let mut found = BTreeSet::new();
        let mut at = 0;
        while let Some(demand) = demands.get(at).copied() {
            at += 1;
            let writes: Vec<Write> = match demand {
                Expect::Is(state) => vec![Write::To(state), Write::Copied],
                Expect::Not(_) | Expect::Anything => self.writing.keys().copied().collect(),
            };
            for write in writes.into_iter().filter(|write| meets(*write, demand)) {
                let mut seen = HashSet::new();
                for index in self.writing.get(&write).into_iter().flatten().copied() {
                    let step = &self.open[index];
                    let over = step.until.is_some_and(|until| until < self.now.latest);
                    // Of those that do the same, the one whose time is over first.
                    if self.used[index] || step.invoked > limit || over || !seen.insert(step.expect) {
                        continue;
                    }
                    if self.now.held.meets(step.expect) {
                        if !self.now.after_open || step.expect != Expect::Anything {
                            found.insert(index);
                        }
                    } else if !demands.contains(&step.expect) {
                        demands.push(step.expect);
                    }
                }
            }
        }
        found.into_iter().map(Move::Open).collect()
    }

    /// Whether the time of an open step ends before this, and has not ended yet.
    fn ends_before(&self, at: Moment) -> bool {
        let from = self.ends.partition_point(|end| *end < self.now.latest);
        self.ends.get(from).is_some_and(|end| *end < at)
    }

    /// Remembers the arrangements that got furthest.
    fn went(&mut self, candidates: &[usize]) {
        let Some(next) = candidates.first() else { return };
        let furthest = &mut self.furthest;
        if self.now.count < furthest.count {
            return;
        }
        if self.now.count > furthest.count || furthest.held.is_empty() {
            let step = self.certain[*next].0;
            *furthest = Furthest { count: self.now.count, step, held: BTreeSet::new() };
        }
        if let Held::Just(state) = self.now.held {
            furthest.held.insert(state);
        }
    }
}

fn meets(write: Write, demand: Expect) -> bool {
    match write {
        Write::To(state) => Held::Just(state).meets(demand),
        Write::Copied => Held::Some.meets(demand),
    }
}

/// Two rounds of SplitMix64.
fn mixed(number: u64) -> u128 {
    let split = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let high = split(number);
    u128::from(high) << 64 | u128::from(split(high ^ number))
}

#[cfg(test)]
mod tests;
