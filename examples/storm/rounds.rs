//! A round: a gust of faults, then the way there or back, under fire.
//!
//! An operator gathers evidence with the ways clear and every gateway there, since no gate opens otherwise; then the flip
//! itself is tried while something goes wrong. The application writes all the time. Only where the operator gets nowhere
//! three times in a row do the writers pause, so that the storm goes on; in a fair round that is a finding.

use std::sync::Arc;
use std::time::Duration;

use migrate::clock::Clock as _;
use tokio::time::timeout;

use crate::blobs::{Key, SWINGS};
use crate::faults::{Fire, Planned, Round, blow};
use crate::fleet::Fleet;
use crate::history::{Answer, Moment};
use crate::log::Log;
use crate::operator::{Operator, Ran};
use crate::process::{interrupted, output};
use crate::report::{Finding, Findings};
use crate::stage::Windows;
use crate::weather::{Latency, Rates};
use crate::workload::{Load, Shared};

/// How often evidence is asked for before the writers pause, and after it.
const TRIES: u32 = 4;
/// How long a hold is waited for that a fire begins with.
const HOLD_MAX: Duration = Duration::from_secs(8);
/// How long a command may take that flips.
const FLIP_MAX: Duration = Duration::from_secs(60);
/// What is found of the same key within this time is the same.
const AGAIN: Duration = Duration::from_secs(30);
/// For how long the stores are slow for a gateway before it sleeps, and how slow.
const DROWSY: Duration = Duration::from_millis(2_500);
const DROWSY_BLOB: Latency = Latency::ms(20, 60);
const DROWSY_DYNAMODB: Latency = Latency::ms(150, 400);
/// Reasons that are none where nothing goes wrong.
const STARVED: [&str; 5] = ["may land late", "in doubt", "slow requests", "too many intents", "not drained"];

/// What the rounds of a storm share.
pub(crate) struct Storm {
    pub(crate) seed: u64,
    pub(crate) windows: Windows,
    pub(crate) shared: Arc<Shared>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) operator: Operator,
    pub(crate) log: Arc<Log>,
    pub(crate) findings: Arc<Findings>,
}

impl Storm {
    /// Plays the round of this number; one line of what came of it.
    pub(crate) async fn round(&self, number: u64) -> anyhow::Result<String> {
        let round = Round::draw(self.seed, number, &self.windows, self.fleet.slots.len());
        let began = self.log.now();
        self.log.say(format!("round {number}: {round}"));
        blow(&round, &self.fleet, &self.log).await?;
        let back = self.operator.phase().is_over();
        self.fleet.mend(None).await?;
        let sleeper = round.sleeper.filter(|_| back);
        if let Some((slot, _)) = sleeper {
            self.fall_asleep(slot, &round).await?;
        }
        self.crashes().await;
        self.operator.weather(|weather| weather.latency = round.to_dynamodb);
        let done = self.leg(back, &round, sleeper.map(|(slot, _)| slot)).await?;
        if let Some((slot, pause)) = sleeper {
            self.log.clock.sleep(pause).await;
            self.fleet.wake(slot).await?;
            self.log.clock.sleep(Duration::from_secs(2)).await;
        }
        self.fleet.mend(None).await?;
        self.crashes().await;
        if round.fair {
            self.failed_in_fair_weather(began);
        }
        let (direction, mode) = (if back { "back" } else { "there" }, self.operator.phase());
        let took = (self.log.now() - began).as_secs();
        let done = if done { "done" } else { "not done" };
        let sleeps = sleeper.map_or_else(String::new, |(slot, _)| format!(", gateway {slot} sleeps"));
        Ok(format!(
            "{round}; {direction}{sleeps}: {done}; phase {}, epoch {}; {took} s",
            mode.phase, mode.epoch
        ))
    }

    /// Freezes a gateway in the middle of its work.
    async fn fall_asleep(&self, slot: usize, round: &Round) -> anyhow::Result<()> {
        // It takes writes again, and has some of them to mirror; slow stores keep it at that.
        self.log.clock.sleep(self.windows.lease).await;
        self.fleet.slow(slot, (DROWSY_BLOB, DROWSY_DYNAMODB));
        self.log.clock.sleep(DROWSY).await;
        // Over a note of a key that returns to what it was: its condition may hold again when it wakes.
        if let Some(to_dynamodb) = self.fleet.links(slot).last() {
            timeout(DROWSY, to_dynamodb.names(SWINGS)).await.ok();
        }
        self.fleet.freeze(slot).await?;
        self.fleet.slow(slot, (round.to_blob, round.to_dynamodb));
        Ok(())
    }

    /// The way there or back, tried a few times under fire, then with the writers paused.
    async fn leg(&self, back: bool, round: &Round, sleeper: Option<usize>) -> anyhow::Result<bool> {
        let mut reasons = Vec::new();
        for fire in round.fires {
            if !self.ready(back, round.fair).await? {
                reasons.push("no evidence".to_owned());
                continue;
            }
            self.squall(round.flip_squall);
            let (done, reason) = self.flip(back, fire).await?;
            self.squall(0);
            self.fleet.mend(sleeper).await?;
            if done {
                return Ok(true);
            }
            reasons.push(reason);
        }
        if round.fair && reasons.iter().all(|reason| STARVED.contains(&reason.as_str())) {
            let direction = if back { "back" } else { "there" };
            let text = format!(
                "without any fault, {direction} was refused {} times in a row: {}",
                reasons.len(),
                reasons.join(", ")
            );
            self.found("starved", None, text);
        }
        self.shared.load.send_replace(Load::Reads);
        let ready = self.ready(back, false).await?;
        let done = ready && self.flip(back, Fire::Nothing).await?.0;
        self.shared.load.send_replace(Load::Full);
        Ok(done)
    }

    fn squall(&self, percent: u32) {
        let rates = Rates::gust(percent, self.windows.held_max);
        self.fleet.weather(|weather, _| weather.rates = rates);
        self.operator.weather(|weather| weather.rates = rates);
    }

    /// Gathers what the next flip needs.
    pub(crate) async fn ready(&self, back: bool, fair: bool) -> anyhow::Result<bool> {
        let load = *self.shared.load.borrow();
        let mut ready = self.tried(back, TRIES).await?;
        if !ready && load == Load::Full {
            if fair {
                let text = format!("without any fault, no evidence after {TRIES} tries under load");
                self.found("starved", None, text);
            }
            self.shared.load.send_replace(Load::Reads);
            ready = self.tried(back, TRIES).await?;
            self.shared.load.send_replace(load);
        }
        Ok(ready)
    }

    async fn tried(&self, back: bool, tries: u32) -> anyhow::Result<bool> {
        let mut left = tries;
        while left > 0 {
            let mode = self.operator.phase();
            if mode.is_over() != back {
                return Ok(false);
            }
            self.bury().await?;
            if back || mode.phase == "canary" {
                let to = if back { &["--rollback"][..] } else { &["--to", "cutover"] };
                let dry = self.operator.run(&[&["cutover", "--dry-run"], to].concat()).await?;
                if dry.done() && dry.closed().is_empty() {
                    return Ok(true);
                }
                self.remedy(&dry, if back { 1 } else { 2 }).await?;
            } else {
                self.step(&mode.phase).await?;
            }
            // A step on the way is progress.
            if self.operator.phase() == mode {
                left -= 1;
            }
        }
        Ok(false)
    }

    /// Says which gateways are stopped for good: those that run under another name since.
    async fn bury(&self) -> anyhow::Result<()> {
        for name in self.fleet.gone().await {
            self.operator.run(&["cutover", "--without", &name]).await?;
        }
        Ok(())
    }

    /// The step before canary, and to it.
    async fn step(&self, phase: &str) -> anyhow::Result<()> {
        let to = if phase == "capture" { "shadow" } else { "canary" };
        let mut step = vec!["cutover", "--to", to, "--yes"];
        if to == "canary" {
            step.extend(["--percent", "50"]);
        }
        let mut mode = self.operator.mode.clone();
        let ran = self.operator.run(&step).await?;
        if ran.done() {
            // What is watched follows in a moment.
            timeout(Duration::from_secs(5), mode.wait_for(|mode| mode.phase == to)).await.ok();
        } else {
            self.remedy(&ran, 2).await?;
        }
        Ok(())
    }

    /// Does what opens the gates that are closed, so many sweeps in a row among it.
    async fn remedy(&self, ran: &Ran, sweeps: u32) -> anyhow::Result<()> {
        let closed = ran.closed();
        for (gate, why) in &closed {
            self.log.say(format!("closed: {gate}: {why}"));
            if gate == "shadow-reads" && why.contains("differed") {
                self.found("mismatch", None, why.clone());
            }
        }
        let is = |name: &str| closed.iter().any(|(gate, _)| gate == name);
        if is("backfill-complete") || is("export-complete") || is("mapping-total") {
            self.operator.run(&["dual-write", "--once"]).await?;
        } else {
            if closed.iter().any(|(_, why)| why.contains("unclean") || why.contains("in doubt")) {
                self.log.clock.sleep(self.windows.late_write_max).await;
            }
            self.clean(sweeps).await?;
        }
        Ok(())
    }

    /// Compares both stores so often, settles what differs, and says whether nothing did.
    pub(crate) async fn clean(&self, sweeps: u32) -> anyhow::Result<bool> {
        let ran = self.operator.run(&["validate", "--sweeps", &sweeps.to_string()]).await?;
        for pathname in ran.bypassed() {
            let key = self.shared.keys.named(&pathname);
            let text = format!("`validate` says that {pathname} changed past every gateway: nobody did that");
            self.found("bypass", key, text);
        }
        let drift = ran.drift();
        for one in &drift {
            self.log.say(format!("differs: {} {}: {}", one.kind, one.pathname, one.detail));
        }
        for one in drift.iter().filter(|one| one.kind == "foreign") {
            self.foreign(&one.pathname, &one.detail).await?;
        }
        if drift.iter().any(|one| one.kind != "unverified" && one.kind != "foreign") {
            self.operator.run(&["validate", "--repair"]).await?;
        }
        Ok(ran.done())
    }

    /// A blob that is said to be nobody's: DynamoDB is the authority, so putting back what it holds loses nothing.
    async fn foreign(&self, pathname: &str, detail: &str) -> anyhow::Result<()> {
        let text =
            format!("{pathname} is said to be foreign, though nobody wrote past the gateways: {detail}");
        self.found("foreign", self.shared.keys.named(pathname), text);
        self.operator.run(&["validate", "--discard", pathname]).await.map(drop)
    }

    /// One attempt to flip; whether it was done, and why not.
    pub(crate) async fn flip(&self, back: bool, fire: Fire) -> anyhow::Result<(bool, String)> {
        let mut command = vec!["cutover", "--yes"];
        command.extend(if back { &["--rollback"][..] } else { &["--to", "cutover"] });
        self.log.say(format!("flip {}: {fire:?}", if back { "back" } else { "there" }));
        let (ran, ()) = match fire {
            Fire::Nothing => (self.operator.run(&command).await?, ()),
            Fire::Gateway { held, planned } => {
                tokio::try_join!(self.operator.run(&command), self.burn(held, planned))?
            }
            Fire::OperatorKilled { held, after } => (self.killed(&command, held, after).await?, ()),
            Fire::OperatorFrozen { after, time } => (self.frozen(&command, after, time).await?, ()),
            Fire::TwoOperators { after, cancels } => {
                let other = self.other(&command, after, cancels);
                let (ran, other) = tokio::try_join!(self.operator.run(&command), other)?;
                (if other.done() { other } else { ran }, ())
            }
        };
        let mut mode = self.operator.mode.clone();
        let flipped = mode.wait_for(|mode| mode.is_over() != back);
        // Where the command says that it flipped, the watch follows; where it does not know, it may have.
        let patience = Duration::from_millis(if ran.done() { 5_000 } else { 300 });
        let done = timeout(patience, flipped).await.is_ok();
        if ran.done() && !done {
            self.found("lied", None, "a command says that it flipped, and the mode item does not".to_owned());
        }
        let reason = ran.reason();
        self.operator.count(back, done, &reason);
        Ok((done, reason))
    }

    /// Lets a gateway burn while a flip is under way.
    async fn burn(&self, held: bool, planned: Planned) -> anyhow::Result<()> {
        if held && !self.until_held().await {
            return Ok(());
        }
        planned.happen(&self.fleet, &self.log).await
    }

    async fn until_held(&self) -> bool {
        let mut mode = self.operator.mode.clone();
        timeout(HOLD_MAX, mode.wait_for(|mode| mode.held)).await.is_ok()
    }

    /// Kills the command, and runs it again.
    async fn killed(&self, command: &[&str], held: bool, after: Duration) -> anyhow::Result<Ran> {
        let mut first = self.operator.command(command);
        let life = async {
            if held {
                self.until_held().await;
            }
            self.log.clock.sleep(after).await;
        };
        let ended = tokio::select! {
            ended = output(&mut first, FLIP_MAX) => ended?,
            // What is not waited for any more is killed.
            () = life => None,
        };
        if let Some(ended) = ended {
            let ran = Ran::of(ended.status.code(), &ended.stdout, &ended.stderr);
            self.operator.tell(command, &ran);
            return Ok(ran);
        }
        self.log.fault("operator killed", "the operator's command is killed");
        let again = [command, &["--cancel-hold"]].concat();
        self.operator.run(&again).await
    }

    /// Freezes the command while it holds writes: others may cancel its hold, and it wakes all the same.
    async fn frozen(&self, command: &[&str], after: Duration, time: Duration) -> anyhow::Result<Ran> {
        let mut sleeper = self.operator.command(command);
        let begin = async {
            self.until_held().await;
            self.log.clock.sleep(after).await;
            self.log.fault("operator frozen", format!("the operator's command is frozen for {time:?}"));
        };
        let ended = timeout(FLIP_MAX, interrupted(&mut sleeper, begin, time)).await;
        let ran = match ended {
            Ok(ended) => ended.map(|ended| Ran::of(ended.status.code(), &ended.stdout, &ended.stderr))?,
            Err(_) => Ran::of(None, &[], b"it did not end"),
        };
        self.operator.tell(command, &ran);
        Ok(ran)
    }

    async fn other(&self, command: &[&str], after: Duration, cancels: bool) -> anyhow::Result<Ran> {
        self.log.clock.sleep(after).await;
        let mut other = [command, &["--who", "other"]].concat();
        if cancels {
            other.push("--cancel-hold");
        }
        self.log.fault("second operator", "another operator wants the same");
        self.operator.run(&other).await
    }

    pub(crate) async fn crashes(&self) {
        for text in self.fleet.crashes().await {
            self.found("crashed", None, text);
        }
    }

    /// Without a fault, no write fails: not even while it is held.
    fn failed_in_fair_weather(&self, began: Moment) {
        // What an earlier round left is over by then.
        let from = began + self.windows.lease + self.windows.held_max;
        let records = self.shared.history.lock();
        let mut failed = records.iter().filter(|record| {
            let unhappy = matches!(
                record.answer,
                Answer::Nothing(_) | Answer::Unknown(_) | Answer::Silence(_) | Answer::Failed(_)
            );
            unhappy && record.invoked >= from
        });
        if let Some(first) = failed.next() {
            let text = format!(
                "{} calls failed without any fault; the first at {:.3}: {}",
                failed.count() + 1,
                first.invoked.as_secs_f64(),
                first.answer.said()
            );
            let (key, at) = (Some(first.key), first.returned);
            self.findings.add(Finding { kind: "refused", key, at, text });
        }
    }

    /// What is found again a moment later is one finding.
    pub(crate) fn found(&self, kind: &'static str, key: Option<Key>, text: String) {
        let since = self.log.now().saturating_sub(AGAIN);
        let same = |other: &Finding| other.kind == kind && other.key == key && other.at >= since;
        if self.findings.all().iter().any(same) {
            return;
        }
        self.log.say(format!("FOUND {kind}: {text}"));
        self.findings.add(Finding { kind, key, at: self.log.now(), text });
    }
}
