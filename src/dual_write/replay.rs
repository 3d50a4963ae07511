//! Replay: what becomes of intents whose operations are not at work any more.
//!
//! Any process may replay, and several at once do no harm. An intent in doubt is converged at once, and again
//! from time to time; it is removed only after a converge that began `late_write_max` after this process
//! first saw that version of it with its owner gone. That is [`crate::protocol::intent`]'s word.
//!
//! Towards Blob, where no rev stops a request that is on its way, one process at a time has an intent: it stores the
//! row anew as its own before it begins, so that nobody else removes it meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use serde::Serialize;

use super::mirroring::Mirroring;
use crate::blob::Pathname;
use crate::error::Result;
use crate::plan::TimingPlan;
use crate::protocol::converge::Done;
use crate::protocol::intent::{Owner, Replay as Step, Sighting, Verdict, after_replay, replay};
use crate::protocol::session::lapsed;
use crate::target::control::{Control, IntentRow, IntentState, SessionRow, SessionState};

/// Pathnames that are converged at a time.
const CONCURRENCY: usize = 32;
/// The pauses between two converges for one intent: doubled from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One process's memory of the intents of others.
#[derive(Debug)]
pub struct Replay {
    late_write_max: Duration,
    lease: Duration,
    sightings: HashMap<String, Known>,
    /// Of each open session: its counter, and when that was first seen.
    sessions: HashMap<String, (u64, Duration)>,
}

#[derive(Debug)]
struct Known {
    sighting: Sighting<String, Duration>,
    /// What was allowed when it was last tried.
    tried: Option<Step>,
    next: Duration,
    pause: Duration,
}

/// What one pass found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Intents whose operations are at work.
    pub at_work: u64,
    /// Intents in doubt that are left.
    pub in_doubt: u64,
    /// Intents that were removed.
    pub cleared: u64,
}

impl Replay {
    /// A memory of nothing.
    #[must_use]
    pub fn new(timing: &TimingPlan) -> Self {
        Self {
            late_write_max: timing.late_write_max.0,
            lease: timing.lease.0,
            sightings: HashMap::new(),
            sessions: HashMap::new(),
        }
    }

    /// Looks at all intents once, converges those in doubt, and removes those whose time has come.
    ///
    /// `own` is this process's session; `at_work` says which of its operations are under way.
    ///
    /// # Errors
    /// What the control table reports. A pathname that can't be converged keeps its intent.
    pub async fn pass(
        &mut self,
        mirroring: &Mirroring,
        own: &str,
        at_work: impl Fn(&str) -> bool,
    ) -> Result<ReplayReport> {
        let control = mirroring.control();
        let intents = control.intents().await?;
        let sessions = if intents.is_empty() { Vec::new() } else { control.sessions().await? };
        let now = mirroring.clock().monotonic();
        let running = self.running(&sessions, now);
        self.sightings.retain(|id, _| intents.iter().any(|intent| intent.id == *id));

        let mut report = ReplayReport::default();
        let mut due: Vec<(IntentRow, Step)> = Vec::new();
        for intent in intents {
            let owner = if at_work(&intent.id) {
                Owner::Working
            } else if intent.state == IntentState::GaveUp || intent.session == own {
                Owner::GaveUp
            } else if running.contains(&intent.session) {
                Owner::Working
            } else {
                Owner::Ended
            };
            match self.sees(&intent, owner, now) {
                None if owner == Owner::Working => report.at_work += 1,
                None => report.in_doubt += 1,
                Some(step) => due.push((intent, step)),
            }
        }
        let towards_blob = matches!(mirroring, Mirroring::ToSource(_));
        if towards_blob {
            let found = due.len();
            due = take_over(control, own, due).await?;
            report.in_doubt += (found - due.len()) as u64;
        }
        let settled = settle(mirroring, due.iter().flat_map(|(intent, _)| &intent.pathnames)).await;
        for (intent, step) in due {
            let all = intent.pathnames.iter().all(|pathname| settled.contains(pathname));
            let done = if all { Done::Written } else { Done::GaveUp };
            if after_replay(step, done) == Verdict::Clear && control.clear_intent(&intent).await? {
                report.cleared += 1;
                continue;
            }
            report.in_doubt += 1;
            if towards_blob {
                let left = intent.touched(IntentState::GaveUp);
                let touched = control.touch_intent(&left, &intent.version).await?;
                // What got no answer may land yet: then the wait begins anew with the next look.
                if let (true, true, Some(known)) = (touched, all, self.sightings.get_mut(&left.id)) {
                    known.sighting.taken_over(left.version);
                }
            }
        }
        Ok(report)
    }

    /// The sessions that may be at work: all but those that are closed, gone, or silent for longer than their lease
    /// by this clock.
    fn running(&mut self, sessions: &[SessionRow], now: Duration) -> HashSet<String> {
        let seen = sessions.iter().filter(|session| session.state == SessionState::Open).map(|session| {
            let known = self.sessions.get(&session.id).filter(|(counter, _)| *counter == session.counter);
            (session.id.clone(), (session.counter, known.map_or(now, |(_, seen)| *seen)))
        });
        self.sessions = seen.collect();
        let running = self.sessions.iter().filter(|(_, (_, seen))| !lapsed(self.lease, *seen, now));
        running.map(|(id, _)| id.clone()).collect()
    }

    /// What is to be done about an intent now; none where it is to be left alone.
    fn sees(&mut self, intent: &IntentRow, owner: Owner, now: Duration) -> Option<Step> {
        let version = intent.version.clone();
        let known = self.sightings.entry(intent.id.clone()).or_insert_with(|| Known {
            sighting: Sighting::first(version.clone(), owner, now),
            tried: None,
            next: now,
            pause: PAUSE_FIRST,
        });
        known.sighting.again(version, owner, now);
        let silence = known.sighting.silence(|since| now.saturating_sub(since) >= self.late_write_max);
        let step = replay(owner, silence);
        if step == Step::LeaveToOwner || (known.tried == Some(step) && now < known.next) {
            return None;
        }
        known.pause = if known.tried == Some(step) { (known.pause * 2).min(PAUSE_MAX) } else { PAUSE_FIRST };
        known.next = now + known.pause;
        known.tried = Some(step);
        Some(step)
    }
}

/// Stores intents anew as this process's own, at work on; leaves out those that somebody else was faster with.
async fn take_over(
    control: &Control,
    own: &str,
    due: Vec<(IntentRow, Step)>,
) -> Result<Vec<(IntentRow, Step)>> {
    let mut taken = Vec::new();
    for (intent, step) in due {
        let ours = IntentRow { session: own.to_owned(), ..intent.touched(IntentState::Open) };
        if control.touch_intent(&ours, &intent.version).await? {
            taken.push((ours, step));
        }
    }
    Ok(taken)
}

/// Converges each of these once, and says which are equal now.
pub(crate) async fn settle<'a>(
    mirroring: &Mirroring,
    pathnames: impl Iterator<Item = &'a Pathname>,
) -> HashSet<Pathname> {
    let unique: BTreeSet<Pathname> = pathnames.cloned().collect();
    let settling = stream::iter(unique).map(|pathname: Pathname| async move {
        let done = mirroring.settle(&pathname, None).await;
        (done != Done::GaveUp).then_some(pathname)
    });
    settling.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
}
