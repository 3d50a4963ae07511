//! What was found, and the scoreboard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blobs::{Key, Keys, said};
use crate::checker::{Expect, Step, Verdict, Write as Writes, check};
use crate::client::HELD_BACK;
use crate::fleet::Fleet;
use crate::history::{Answer, Call, Moment, Record, steps};
use crate::log::{Log, seconds};
use crate::operator::Tally;

/// How many calls and faults around a finding are told.
const CALLS: usize = 12;
const FAULTS: usize = 60;
/// How far before and after it.
const BEFORE: Duration = Duration::from_secs(60);
const AFTER: Duration = Duration::from_secs(2);
/// A history that is wrong at one place is mended there and judged again, so often.
const WRONG_MAX: usize = 4;

/// Something that must not happen.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) kind: &'static str,
    pub(crate) key: Option<Key>,
    pub(crate) at: Moment,
    pub(crate) text: String,
}

/// All findings; those of kinds that are allowed do not count.
#[derive(Debug)]
pub(crate) struct Findings {
    found: Mutex<Vec<Finding>>,
    allowed: BTreeSet<String>,
}

impl Findings {
    pub(crate) fn new(allowed: &[String]) -> Self {
        Self { found: Mutex::default(), allowed: allowed.iter().cloned().collect() }
    }

    pub(crate) fn add(&self, finding: Finding) {
        self.lock().push(finding);
    }

    pub(crate) fn all(&self) -> Vec<Finding> {
        self.lock().clone()
    }

    /// How many count.
    pub(crate) fn count(&self) -> usize {
        self.lock().iter().filter(|finding| !self.allowed.contains(finding.kind)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Finding>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges the history of each key; how many keys were judged.
pub(crate) fn judge(records: &[Record], fleet: &Fleet, keys: &Keys, findings: &Findings) -> usize {
    let all = steps(records, fleet);
    let judged = all.len();
    for (key, mut steps) in all {
        for _ in 0..WRONG_MAX {
            match check(&steps) {
                Verdict::Sound => break,
                Verdict::TooHard => {
                    let text = "its history is too long to be judged: no pass".to_owned();
                    findings.add(Finding { kind: "undecided", key: Some(key), at: Moment::ZERO, text });
                    break;
                }
                Verdict::Wrong { step, held } => {
                    let wrong = &mut steps[step];
                    let record = &records[wrong.record];
                    let held: Vec<String> = held.into_iter().map(said).collect();
                    let text = format!(
                        "client {} asked process {} at {} for {}, and was answered at {}: {}; no order of all calls \
                         explains that: furthest gets one in which the key holds {}",
                        record.client,
                        record.process,
                        seconds(record.invoked).trim(),
                        record.call.said(keys),
                        seconds(record.returned).trim(),
                        record.answer.said(),
                        held.join(" or "),
                    );
                    let at = record.returned;
                    findings.add(Finding { kind: "history", key: Some(key), at, text });
                    mend(wrong);
                }
            }
        }
    }
    judged
}

/// Takes a step for what it says, so that what comes after it can be judged.
fn mend(step: &mut Step) {
    if let (None, Expect::Is(state)) = (step.write, step.expect) {
        step.write = Some(Writes::To(state));
    }
    step.expect = Expect::Anything;
}

/// A finding with what was going on.
pub(crate) fn told(finding: &Finding, seed: u64, records: &[Record], keys: &Keys, log: &Log) -> String {
    let mut text = String::new();
    let name = finding.key.map_or("-", |key| keys.name(key));
    // No request names a line's end.
    let about = finding.key.map_or("\n", |key| keys.name(key));
    let at = seconds(finding.at);
    // Text does not refuse what is written to it.
    let mut line = |line: String| writeln!(text, "{line}").expect("invariant: text takes text");
    line(format!("FOUND {} (seed {seed}, {name}, at {} s)", finding.kind, at.trim()));
    line(format!("  {}", finding.text));
    if let Some(key) = finding.key {
        let mut about: Vec<&Record> = records.iter().filter(|record| record.key == key).collect();
        about.extend(records.iter().filter(|record| record.call.from() == Some(key)));
        about.sort_by_key(|record| record.invoked);
        let writes = |record: &&&Record| !record.call.is_read() || record.returned == finding.at;
        let told: Vec<&&Record> = about.iter().filter(writes).collect();
        let here = told.partition_point(|record| record.invoked <= finding.at);
        line(format!("  writes of {name} and what they were told:"));
        for record in &told[here.saturating_sub(CALLS)..(here + CALLS / 3).min(told.len())] {
            line(format!(
                "    {} to {}  client {:2}, process {:2}  {}{}  {}",
                seconds(record.invoked),
                seconds(record.returned),
                record.client,
                record.process,
                if record.key == key { String::new() } else { format!("{}: ", keys.name(record.key)) },
                record.call.said(keys),
                record.answer.said(),
            ));
        }
    }
    let faults = log.between(finding.at.saturating_sub(BEFORE), finding.at + AFTER, about);
    line("  what happened around it:".to_owned());
    for fault in &faults[faults.len().saturating_sub(FAULTS)..] {
        line(format!("    {fault}"));
    }
    text
}

/// The numbers of a storm.
pub(crate) fn scoreboard(records: &[Record], tally: &Tally, log: &Log, findings: &Findings) -> String {
    let mut text = String::new();
    let mut line =
        |name: &str, what: String| writeln!(text, "{name:<11}{what}").expect("invariant: text takes text");
    let (reads, writes): (Vec<&Record>, Vec<&Record>) =
        records.iter().partition(|record| record.call.is_read());
    let listed = |counts: BTreeMap<&str, usize>| {
        counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    line("writes", format!("{}: {}", writes.len(), listed(answers(&writes))));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &writes {
        *kinds.entry(verb(record.call)).or_default() += 1;
    }
    line("", listed(kinds));
    line("reads", format!("{}: {}", reads.len(), listed(answers(&reads))));
    let Tally { there, back, refused } = tally;
    line(
        "flips",
        format!("there {} tried, {} done; back {} tried, {} done", there[0], there[1], back[0], back[1]),
    );
    for (reason, count) in refused {
        line("", format!("{count} × {reason}"));
    }
    let (faults, held) = log.counts();
    let faults = faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>();
    line("faults", faults.join(", "));
    line("held", format!("the slowest write landed {:.1} s late", held.as_secs_f64()));
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings.all() {
        *found.entry(finding.kind).or_default() += 1;
    }
    line("findings", if found.is_empty() { "none".to_owned() } else { listed(found) });
    text
}

fn answers<'a>(records: &[&'a Record]) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        let name = match &record.answer {
            Answer::Told(_) => "told",
            Answer::Done(_) => "done",
            Answer::Refused(_) => "refused by a condition",
            Answer::Nothing(why) if why.contains(HELD_BACK) => "held back",
            Answer::Nothing(_) => "not carried out",
            Answer::Unknown(_) => "answered as unknown",
            Answer::Silence(_) => "without an answer",
            Answer::Failed(_) => "failed",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

const fn verb(call: Call) -> &'static str {
    match call {
        Call::Head => "head",
        Call::Get => "get",
        Call::Listed => "list",
        Call::Put(_) => "put",
        Call::Create(_) => "create",
        Call::PutIf { .. } => "put if",
        Call::Upload(_) => "multipart",
        Call::Delete | Call::DeleteIf(_) => "delete",
        Call::Copy { .. } => "copy",
        Call::Rename { .. } => "rename",
    }
}
