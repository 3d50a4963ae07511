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
struct Inner {
    file: File,
    lines: Vec<(Moment, String)>,
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

    /// Something that happened.
    pub(crate) fn say(&self, line: impl Into<String>) {
        let (now, line) = (self.now(), line.into());
        let mut inner = self.lock();
        // Without it the storm goes on; its findings are printed all the same.
        writeln!(inner.file, "{} {line}", seconds(now)).ok();
        inner.lines.push((now, line));
    }

    /// A fault of this kind.
    pub(crate) fn fault(&self, kind: &'static str, line: impl Into<String>) {
        *self.lock().counts.entry(kind).or_default() += 1;
        self.say(line);
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
        self.fault(fate.name(), format!("{link}: {}{time}: {asked}", fate.name()));
    }

    /// What happened between two moments.
    pub(crate) fn between(&self, from: Moment, to: Moment) -> Vec<String> {
        let inner = self.lock();
        let within = inner.lines.iter().filter(|(at, _)| (from..=to).contains(at));
        within.map(|(at, line)| format!("{} {line}", seconds(*at))).collect()
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
