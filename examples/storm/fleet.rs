//! The gateways: started, killed, frozen, cut off, and what is known of each process afterwards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::history::{Fates, Moment};
use crate::log::Log;
use crate::process::Process;
use crate::proxy::{Link, Proxy};
use crate::stage::{Actor, Stage};
use crate::weather::{Cut, Latency, Weather};

/// Names of gateways.
const NAMES: [&str; 4] = ["blue", "green", "red", "grey"];
/// What a request takes on loopback between proxy and store, on a busy machine, at the very most.
const SLACK: Duration = Duration::from_secs(5);
/// How long a gateway that runs may be at a request whose client has gone: it waits for each store for a minute.
const AT_WORK_MAX: Duration = Duration::from_secs(75);
/// How often the gateways compare both stores by themselves.
const SWEEPS: &str = "30s";

/// All gateways.
pub(crate) struct Fleet {
    pub(crate) slots: Vec<Slot>,
    lives: Mutex<Vec<Life>>,
    log: Arc<Log>,
    pub(crate) held_max: Duration,
    faketime: Option<PathBuf>,
}

/// The place of a gateway: one process at a time.
pub(crate) struct Slot {
    actor: Actor,
    proxies: [Proxy; 2],
    /// The number and the URL of the process that serves there; none while there is none.
    pub(crate) serving: watch::Sender<Option<(usize, String)>>,
    running: tokio::sync::Mutex<Running>,
}

struct Running {
    process: Option<Process>,
    /// How often a process was started here.
    starts: u32,
    name: String,
}

/// What became of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) killed: Option<Moment>,
    /// Whether it ever took writes, so that it had a session, and nobody was told yet that it is gone.
    served: bool,
    /// From when until when it was frozen.
    pub(crate) frozen: Vec<(Moment, Option<Moment>)>,
    /// Its log.
    pub(crate) stderr: PathBuf,
}

impl Fleet {
    pub(crate) async fn new(stage: &Stage, count: usize, seed: u64, log: &Arc<Log>) -> anyhow::Result<Self> {
        let mut slots = Vec::new();
        for (number, name) in (1..).zip(NAMES.iter().take(count)) {
            let (actor, proxies) = stage.actor(name, seed.wrapping_add(number << 32), log).await?;
            let running = Running { process: None, starts: 0, name: (*name).to_owned() };
            let running = tokio::sync::Mutex::new(running);
            slots.push(Slot { actor, proxies, serving: watch::Sender::new(None), running });
        }
        let (lives, held_max) = (Mutex::default(), stage.windows.held_max);
        Ok(Self { slots, lives, log: Arc::clone(log), held_max, faketime: faketime() })
    }

    /// Whether wall clocks can be skewed here.
    pub(crate) const fn skews(&self) -> bool {
        self.faketime.is_some()
    }

    /// Starts the gateway of a slot, unless it runs; under another name than before, and with a wall clock that is off
    /// by so many seconds, where that is asked for. Returns once it takes writes.
    pub(crate) async fn start(&self, slot: usize, renamed: bool, skew: i64) -> anyhow::Result<()> {
        let place = &self.slots[slot];
        let mut running = place.running.lock().await;
        if running.process.is_some() {
            return Ok(());
        }
        running.starts += 1;
        if renamed {
            running.name = format!("{}-{}", place.actor.name, running.starts);
        }
        let name = running.name.clone();
        let serve = ["dual-write", "--listen", "127.0.0.1:0", "--name", &name, "--interval", SWEEPS];
        let mut command = place.actor.command(&serve);
        if let Some(library) = self.faketime.as_ref().filter(|_| skew != 0) {
            // The wall clock alone: leases are measured by the monotonic one, which nothing here can skew.
            command.env("LD_PRELOAD", library).env("FAKETIME", format!("{skew:+}s"));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        }
        let log_name = format!("gateway-{}", running.starts);
        let mut process = Process::start(&mut command, &place.actor.folder, &log_name)?;
        let stderr = place.actor.folder.join(format!("{log_name}.err"));
        let number = {
            let mut lives = self.lives();
            lives.push(Life { name: name.clone(), stderr, ..Life::default() });
            lives.len() - 1
        };
        match process.line("gateway on ").await {
            Ok(url) => {
                self.log.say(format!("{name} runs (process {number})"));
                if skew != 0 && self.skews() {
                    self.log.fault("skewed clock", format!("the wall clock of {name} is off by {skew} s"));
                }
                self.lives()[number].served = true;
                place.serving.send_replace(Some((number, url.trim_end_matches('/').to_owned())));
                running.process = Some(process);
                Ok(())
            }
            Err(error) => {
                process.kill().await?;
                self.lives()[number].killed = Some(self.log.now());
                Err(error)
            }
        }
    }

    /// Kills the gateway of a slot, if it runs.
    pub(crate) async fn kill(&self, slot: usize) -> anyhow::Result<()> {
        let place = &self.slots[slot];
        let mut running = place.running.lock().await;
        let Some(mut process) = running.process.take() else { return Ok(()) };
        process.kill().await?;
        let serving = place.serving.send_replace(None);
        if let Some((number, _)) = serving {
            self.lives()[number].killed = Some(self.log.now());
        }
        self.log.fault("kill", format!("{} is killed", running.name));
        Ok(())
    }

    /// Freezes the gateway of a slot, if it runs; says whether it did.
    pub(crate) async fn freeze(&self, slot: usize) -> anyhow::Result<bool> {
        let place = &self.slots[slot];
        let running = place.running.lock().await;
        let (Some(process), Some(number)) = (&running.process, self.number(slot)) else { return Ok(false) };
        process.signal("STOP").await?;
        self.lives()[number].frozen.push((self.log.now(), None));
        self.log.fault("freeze", format!("{} is frozen", running.name));
        Ok(true)
    }

    /// Wakes the gateway of a slot, if it is frozen.
    pub(crate) async fn wake(&self, slot: usize) -> anyhow::Result<()> {
        let place = &self.slots[slot];
        let running = place.running.lock().await;
        let (Some(process), Some(number)) = (&running.process, self.number(slot)) else { return Ok(()) };
        let now = self.log.now();
        let frozen = self.lives()[number].frozen.last().copied();
        let Some((since, None)) = frozen else { return Ok(()) };
        // Noted before it happens: what it does from here on is no surprise.
        if let Some(last) = self.lives()[number].frozen.last_mut() {
            last.1 = Some(now);
        }
        self.log.say(format!("{} wakes, after {:.1} s", running.name, (now - since).as_secs_f64()));
        process.signal("CONT").await
    }

    /// Whether the gateway of a slot is frozen.
    pub(crate) fn is_frozen(&self, slot: usize) -> bool {
        let lives = self.lives();
        let frozen = self.number(slot).and_then(|number| lives.get(number)?.frozen.last().copied());
        matches!(frozen, Some((_, None)))
    }

    /// Cuts a gateway off from stores.
    pub(crate) fn cut(&self, slot: usize, (blob, dynamodb): (bool, bool), cut: Option<Cut>) {
        let [to_blob, to_dynamodb] = &self.slots[slot].proxies;
        for (link, chosen) in [(&to_blob.link, blob), (&to_dynamodb.link, dynamodb)] {
            if chosen {
                link.set(|weather| weather.cut = cut);
            }
        }
        let which = match (blob, dynamodb) {
            (true, true) => "both stores",
            (true, false) => "Blob",
            _ => "DynamoDB",
        };
        let name = &self.slots[slot].actor.name;
        match cut {
            Some(cut) => self.log.fault("cut", format!("{name} is cut off from {which} ({cut:?})")),
            None => self.log.say(format!("{name} reaches {which} again")),
        }
    }

    /// Changes the weather on all ways, to Blob and to DynamoDB.
    pub(crate) fn weather(&self, change: impl Fn(&mut Weather, bool)) {
        for slot in &self.slots {
            for (proxy, to_blob) in slot.proxies.iter().zip([true, false]) {
                proxy.link.set(|weather| change(weather, to_blob));
            }
        }
    }

    /// How long requests of one gateway are on their way, to Blob and to DynamoDB.
    pub(crate) fn slow(&self, slot: usize, (to_blob, to_dynamodb): (Latency, Latency)) {
        for (link, latency) in self.links(slot).zip([to_blob, to_dynamodb]) {
            link.set(|weather| weather.latency = latency);
        }
    }

    /// The ways of one gateway, to Blob and to DynamoDB.
    pub(crate) fn links(&self, slot: usize) -> impl Iterator<Item = &Arc<Link>> {
        self.slots[slot].proxies.iter().map(|proxy| &proxy.link)
    }

    /// Lifts everything, wakes whoever is frozen and starts whoever is not there.
    pub(crate) async fn mend(&self, but: Option<usize>) -> anyhow::Result<()> {
        self.weather(|weather, _| {
            weather.cut = None;
            weather.rates = crate::weather::Rates::default();
        });
        for slot in (0..self.slots.len()).filter(|slot| but != Some(*slot)) {
            self.wake(slot).await?;
            // Under a name of its own, as an operator would.
            if let Err(error) = self.start(slot, false, 0).await {
                self.log.say(format!("{} does not start: {error:#}", self.slots[slot].actor.name));
                self.start(slot, false, 0).await?;
            }
        }
        Ok(())
    }

    /// Names under which a gateway ran that is gone, and that no other one took over; each is told once.
    pub(crate) async fn gone(&self) -> BTreeSet<String> {
        let mut present = BTreeSet::new();
        for slot in &self.slots {
            present.insert(slot.running.lock().await.name.clone());
        }
        let mut gone = BTreeSet::new();
        for life in self.lives().iter_mut().filter(|life| life.served && !present.contains(&life.name)) {
            life.served = false;
            gone.insert(life.name.clone());
        }
        gone
    }

    /// The gateways that ended by themselves, and defects that any of them met.
    pub(crate) async fn crashes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (number, slot) in self.slots.iter().enumerate() {
            let mut running = slot.running.lock().await;
            if let Some(how) = running.process.as_mut().and_then(Process::ended) {
                running.process = None;
                if let (Some(number), now) = (self.number(number), self.log.now()) {
                    self.lives()[number].killed = Some(now);
                }
                slot.serving.send_replace(None);
                found.push(format!("{} ended by itself, {how}", running.name));
            }
        }
        found
    }

    /// Lines of the gateways' logs that tell of a defect.
    pub(crate) fn panics(&self) -> Vec<String> {
        let lives = self.lives().clone();
        let read = |life: &Life| std::fs::read_to_string(&life.stderr).unwrap_or_default();
        let told = |life: &Life| {
            let text = read(life);
            let lines = text.lines().filter(|line| line.contains("panicked at") || line.contains("a defect"));
            lines.map(|line| format!("{}: {line}", life.name)).collect::<Vec<_>>()
        };
        lives.iter().flat_map(told).collect()
    }

    /// Ends all gateways as an operator does.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        for slot in &self.slots {
            let process = slot.running.lock().await.process.take();
            if let Some(process) = process {
                process.signal("CONT").await?;
                process.end(Duration::from_secs(15)).await?;
            }
        }
        Ok(())
    }

    fn number(&self, slot: usize) -> Option<usize> {
        self.slots[slot].serving.borrow().as_ref().map(|(number, _)| *number)
    }

    fn lives(&self) -> MutexGuard<'_, Vec<Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    /// Until when a call to this process can have an effect that ended like this; `lands` is the longest that a request of
    /// it can be under way.
    fn until(&self, answered: bool, returned: Moment, lands: Duration) -> Moment {
        if answered {
            // It is done with the call: no more than what it has sent is under way.
            return returned + lands;
        }
        // It may be at it for a while, as long as it runs, and sends nothing any more once it was killed.
        let mut over = returned + AT_WORK_MAX;
        for (from, to) in &self.frozen {
            if *from < over {
                over += to.map_or(Duration::ZERO, |to| to.saturating_sub(*from));
            }
        }
        self.killed.map_or(over, |killed| over.min(killed.max(returned))) + lands
    }
}

impl Fates for Fleet {
    fn until(&self, process: usize, answered: bool, returned: Moment) -> Option<Moment> {
        self.lives().get(process).map(|life| life.until(answered, returned, self.held_max + SLACK))
    }
}

/// A library that skews the wall clock of a process, where one is installed.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let folders = folders.chain([Path::new("/usr/lib").to_owned(), Path::new("/usr/local/lib").to_owned()]);
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_an_answer_has_its_time() {
        let at = Duration::from_secs;
        let until = |life: &Life, answered| life.until(answered, at(10), at(8));
        let lives = Life::default();
        assert_eq!(until(&lives, true), at(18), "what it sent is under way");
        assert_eq!(until(&lives, false), at(10) + AT_WORK_MAX + at(8));
        let killed = Life { killed: Some(at(12)), ..Life::default() };
        assert_eq!(until(&killed, false), at(20));
        let before = Life { killed: Some(at(9)), ..Life::default() };
        assert_eq!(until(&before, false), at(18), "the connection broke since it was killed");
        let slept = Life { frozen: vec![(at(11), Some(at(31)))], ..Life::default() };
        assert_eq!(until(&slept, false), at(10) + AT_WORK_MAX + at(20) + at(8));
    }
}
