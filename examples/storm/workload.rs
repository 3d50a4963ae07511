//! The application: clients that write and read through every gateway, and note what they asked and what they were told.
//!
//! What a client does next follows from the seed and its number alone, but for conditions: these name the content that
//! the client saw last.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migrate::clock::Clock as _;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::blobs::{Content, Contents, Key, Keys, Kind};
use crate::client::{Client, takes_conditions};
use crate::fleet::Fleet;
use crate::history::{Answer, Call, History, Record};
use crate::log::Log;
use crate::report::{Finding, Findings};
use crate::weather::drawing;

/// How many clients write, and how many read.
const WRITERS: u32 = 24;
const READERS: u32 = 8;
/// How long a client waits where no gateway is there.
const ABSENT: Duration = Duration::from_millis(100);
/// So many of a hundred writes go to keys of each kind.
const SHARES: [(Kind, u32); 7] = [
    (Kind::Hot, 15),
    (Kind::Swing, 45),
    (Kind::Cold, 8),
    (Kind::Pair, 12),
    (Kind::Many, 8),
    (Kind::Member, 7),
    (Kind::Parts, 5),
];

/// How much the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Full,
    /// Only reads.
    Reads,
    /// They end.
    Over,
}

/// What all clients share.
pub(crate) struct Shared {
    pub(crate) seed: u64,
    pub(crate) keys: Keys,
    pub(crate) contents: Contents,
    pub(crate) history: History,
    pub(crate) client: Client,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) log: Arc<Log>,
    pub(crate) findings: Arc<Findings>,
    /// Calls a second: writes and reads.
    pub(crate) rates: (f64, f64),
    pub(crate) load: watch::Sender<Load>,
    /// A planted defect: the next put of a hot key is not sent, and counts as done.
    pub(crate) lie: AtomicU64,
}

struct OneClient {
    shared: Arc<Shared>,
    number: u32,
    random: ChaCha8Rng,
    /// How many contents it made.
    made: u32,
    /// What it put to each key before, and what it saw there last.
    put: HashMap<Key, Vec<Content>>,
    seen: HashMap<Key, Content>,
}

/// Starts all clients; they end with [`Load::Over`].
pub(crate) fn start(shared: &Arc<Shared>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..WRITERS + READERS {
        let random = drawing(shared.seed ^ 0x0c11_e417, u64::from(number));
        let shared = Arc::clone(shared);
        let (put, seen) = (HashMap::new(), HashMap::new());
        let mut client = OneClient { shared, number, random, made: 0, put, seen };
        clients
            .spawn(async move { if number < WRITERS { client.write().await } else { client.read().await } });
    }
    clients
}

impl OneClient {
    async fn write(&mut self) {
        let pause = Duration::from_secs(1).mul_f64(f64::from(WRITERS) / self.shared.rates.0);
        while self.pause(pause, Load::Full).await {
            let (key, call) = self.draw();
            let slot = self.slot();
            self.ask(slot, key, call).await;
        }
    }

    async fn read(&mut self) {
        let pause = Duration::from_secs(1).mul_f64(f64::from(READERS) / self.shared.rates.1);
        while self.pause(pause, Load::Reads).await {
            let slot = self.slot();
            if self.random.random_bool(0.02) {
                let prefix = ["r/hot-", "r/swing-", "r/pair-", "group/", "many/"].choose(&mut self.random);
                self.list(slot, prefix.copied().unwrap_or("r/hot-")).await;
                continue;
            }
            let key = self.key();
            let call = if self.random.random_bool(0.5) { Call::Head } else { Call::Get };
            self.ask(slot, key, call).await;
        }
    }

    /// Waits for the next turn; false where the load is over.
    async fn pause(&mut self, pause: Duration, least: Load) -> bool {
        let time = pause.mul_f64(self.random.random::<f64>() * 2.0);
        self.shared.log.clock.sleep(time).await;
        let mut load = self.shared.load.subscribe();
        let enough = |load: &Load| match load {
            Load::Full | Load::Over => true,
            Load::Reads => least == Load::Reads,
        };
        load.wait_for(enough).await.is_ok_and(|load| *load != Load::Over)
    }

    /// Any gateway, but seldom one that is frozen: else all clients would soon wait there, and nobody would write.
    fn slot(&mut self) -> usize {
        let fleet = &self.shared.fleet;
        let slot = self.random.random_range(0..fleet.slots.len());
        let another = self.random.random_range(1..fleet.slots.len());
        let stays = self.random.random_bool(0.05);
        if fleet.is_frozen(slot) && !stays { (slot + another) % fleet.slots.len() } else { slot }
    }

    fn key(&mut self) -> Key {
        let mut drawn = self.random.random_range(0..100);
        let share = |(kind, share): &(Kind, u32)| {
            if drawn < *share {
                return Some(*kind);
            }
            drawn -= share;
            None
        };
        let kind = SHARES.iter().find_map(share).unwrap_or(Kind::Hot);
        let keys = self.shared.keys.of(kind);
        keys[self.random.random_range(0..keys.len())]
    }

    fn new_content(&mut self) -> Content {
        self.made += 1;
        Content::of_client(self.number, self.made)
    }

    /// What this client writes next.
    fn draw(&mut self) -> (Key, Call) {
        let key = self.key();
        let kind = self.shared.keys.kind(key);
        let expected = self.seen.get(&key).copied();
        let drawn = self.random.random_range(0..100);
        let other = |random: &mut ChaCha8Rng, keys: &Keys| {
            let others: Vec<Key> = keys.of(kind).into_iter().filter(|other| *other != key).collect();
            others[random.random_range(0..others.len())]
        };
        let call = match (kind, drawn) {
            (Kind::Pair, 0..25) => {
                let from = other(&mut self.random, &self.shared.keys);
                Call::Copy { from, overwrite: self.random.random_bool(0.8) }
            }
            (Kind::Pair, 25..50) => {
                let from = other(&mut self.random, &self.shared.keys);
                Call::Rename { from, overwrite: self.random.random_bool(0.8) }
            }
            (Kind::Parts, 0..50) => Call::Upload(self.new_content()),
            (Kind::Swing, 0..30) => Call::Delete,
            (Kind::Swing, _) => Call::Put(Content::former(key, self.random.random_range(0..Content::FORMER))),
            (Kind::Many, 0..40) | (_, 0..18) => {
                match expected.filter(|_| drawn < 4 && takes_conditions(kind)) {
                    Some(expected) => Call::DeleteIf(expected),
                    None => Call::Delete,
                }
            }
            (_, 18..50) if kind != Kind::Parts => match self.former(key, kind) {
                Some(content) => Call::Put(content),
                None => Call::Put(self.new_content()),
            },
            (_, 50..60) if takes_conditions(kind) => Call::Create(self.new_content()),
            (_, 60..72) if takes_conditions(kind) => match expected {
                Some(expected) => Call::PutIf { expected, content: self.new_content() },
                None => Call::Put(self.new_content()),
            },
            _ => Call::Put(self.new_content()),
        };
        (key, call)
    }

    /// A content that was there before: all clients return to the same few of a hot key.
    fn former(&mut self, key: Key, kind: Kind) -> Option<Content> {
        if kind == Kind::Hot {
            return Some(Content::former(key, self.random.random_range(0..Content::FORMER)));
        }
        let put = self.put.get(&key)?;
        put.choose(&mut self.random).copied()
    }

    async fn ask(&mut self, slot: usize, key: Key, call: Call) {
        let shared = Arc::clone(&self.shared);
        let serving = shared.fleet.slots[slot].serving.borrow().clone();
        let Some((process, base)) = serving else {
            return shared.log.clock.sleep(ABSENT).await;
        };
        let invoked = shared.log.now();
        let lies = matches!(call, Call::Put(_)) && shared.lie.load(Ordering::Relaxed) > 0;
        let outcome = if lies && shared.keys.kind(key) == Kind::Hot {
            shared.lie.fetch_sub(1, Ordering::Relaxed);
            Answer::Done(None).into()
        } else {
            shared.client.call(&base, (key, call), (&shared.keys, &shared.contents)).await
        };
        let returned = shared.log.now();
        if let Some(torn) = &outcome.torn {
            let text = format!("{} through process {process}: {torn}", call.said(&shared.keys));
            shared.findings.add(Finding { kind: "torn", key: Some(key), at: returned, text });
        }
        let answer = outcome.answer;
        self.remember(key, call, &answer);
        let client = self.number;
        shared.history.add(Record { key, call, answer, client, process, invoked, returned });
    }

    /// Listed blobs are read, each by itself: the promise of a listing is no more than that.
    async fn list(&mut self, slot: usize, prefix: &str) {
        let shared = Arc::clone(&self.shared);
        let serving = shared.fleet.slots[slot].serving.borrow().clone();
        let Some((process, base)) = serving else { return };
        let invoked = shared.log.now();
        let listed = shared.client.list(&base, prefix, (&shared.keys, &shared.contents)).await;
        let returned = shared.log.now();
        for (key, state) in listed.unwrap_or_default() {
            let answer = match state {
                Ok(state) => Answer::Told(state),
                Err(text) => {
                    let finding = Finding { kind: "torn", key: Some(key), at: returned, text: text.clone() };
                    shared.findings.add(finding);
                    Answer::Failed(text)
                }
            };
            let (call, client) = (Call::Listed, self.number);
            shared.history.add(Record { key, call, answer, client, process, invoked, returned });
        }
    }

    fn remember(&mut self, key: Key, call: Call, answer: &Answer) {
        let written = match call {
            Call::Put(content)
            | Call::Create(content)
            | Call::Upload(content)
            | Call::PutIf { content, .. } => Some(content),
            _ => None,
        };
        if let Some(content) = written {
            let put = self.put.entry(key).or_default();
            if put.len() < 4 && !put.contains(&content) {
                put.push(content);
            }
        }
        let there = match answer {
            Answer::Told(state) => *state,
            Answer::Done(told) => told.or(written),
            _ => return,
        };
        match there {
            Some(content) => self.seen.insert(key, content),
            None => self.seen.remove(&key),
        };
    }
}

impl Shared {
    /// Reads every key through every gateway, as one more client.
    pub(crate) async fn read_all(self: &Arc<Self>) -> Vec<(Key, usize, Answer)> {
        let mut told = Vec::new();
        for slot in 0..self.fleet.slots.len() {
            let mut reads = JoinSet::new();
            let serving = self.fleet.slots[slot].serving.borrow().clone();
            let Some((process, base)) = serving else { continue };
            for key in self.keys.all() {
                let (shared, base) = (Arc::clone(self), base.clone());
                reads.spawn(async move {
                    let invoked = shared.log.now();
                    let asked = (key, Call::Get);
                    let outcome = shared.client.call(&base, asked, (&shared.keys, &shared.contents)).await;
                    let (answer, client) = (outcome.answer, WRITERS + READERS);
                    let (call, returned) = (Call::Get, shared.log.now());
                    let record =
                        Record { key, call, answer: answer.clone(), client, process, invoked, returned };
                    shared.history.add(record);
                    (key, slot, answer)
                });
                if reads.len() >= 16 {
                    told.extend(reads.join_next().await.and_then(Result::ok));
                }
            }
            while let Some(read) = reads.join_next().await {
                told.extend(read.ok());
            }
        }
        told
    }
}
