//! What was done to the system, with time: so that a finding can be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate::clock::{Clock as _, SystemClock};

use crate::history::Moment;
use crate::weather::Fate;

/// The log of faults, and of what the operator did.
#[derive(Debug)]
pub(crate) struct Log {
    /// Its time begins with the storm.
    pub(crate) clock: SystemClock,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
enum Line {
    Event(String),
    Request(String),
}

impl Line {
    fn text(&self) -> &str {
        match self {
            Self::Event(text) | Self::Request(text) => text,
        }
    }
}

#[derive(Debug)]
struct Inner {
    file: File,
    lines: Vec<(Moment, Line)>,
    counts: BTreeMap<&'static str, u64>,
    held_longest: Duration,
}

impl Log {
    pub(crate) fn new(file: &Path) -> std::io::Result<Self> {
        let inner = Inner {
            file: File::create(file)?,
            lines: Vec::new(),
            counts: BTreeMap::new(),
            held_longest: Duration::ZERO,
        };
        Ok(Self { clock: SystemClock::new(), inner: Mutex::new(inner) })
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.monotonic()
    }

    /// Something that happened to a process, or that an operator did.
    pub(crate) fn say(&self, line: impl Into<String>) {
        self.note(Line::Event(line.into()));
    }

    /// A write that Blob answered.
    pub(crate) fn landed(&self, line: String) {
        self.note(Line::Request(line));
    }

    fn note(&self, line: Line) {
        let now = self.now();
        let mut inner = self.lock();
        // Without it the storm goes on; its findings are printed all the same.
        writeln!(inner.file, "{} {}", seconds(now), line.text()).ok();
        inner.lines.push((now, line));
    }

    /// A fault of this kind.
    pub(crate) fn fault(&self, kind: &'static str, line: impl Into<String>) {
        self.count(kind);
        self.say(line);
    }

    pub(crate) fn count(&self, kind: &'static str) {
        *self.lock().counts.entry(kind).or_default() += 1;
    }

    /// A request that did not just pass.
    pub(crate) fn request(&self, link: &str, asked: &str, fate: Fate, writes: bool) {
        if let Some(kept) = fate.kept().filter(|_| writes) {
            let mut inner = self.lock();
            inner.held_longest = inner.held_longest.max(kept);
        }
        let time = match fate {
            Fate::Held(time) | Fate::Late(time) | Fate::Slow(time) => format!(" {} ms", time.as_millis()),
            _ => String::new(),
        };
        self.count(fate.name());
        self.note(Line::Request(format!("{link}: {}{time}: {asked}", fate.name())));
    }

    /// What happened between two moments: to processes, and to requests that name this.
    pub(crate) fn between(&self, from: Moment, to: Moment, name: &str) -> Vec<String> {
        let inner = self.lock();
        let told = |(at, line): &&(Moment, Line)| {
            (from..=to).contains(at) && (matches!(line, Line::Event(_)) || line.text().contains(name))
        };
        let told = inner.lines.iter().filter(told);
        told.map(|(at, line)| format!("{} {}", seconds(*at), line.text())).collect()
    }

    /// How many faults of each kind there were, and the longest time that a write was held.
    pub(crate) fn counts(&self) -> (BTreeMap<&'static str, u64>, Duration) {
        let inner = self.lock();
        (inner.counts.clone(), inner.held_longest)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment for people.
pub(crate) fn seconds(moment: Moment) -> String {
    format!("{:9.3}", moment.as_secs_f64())
}
