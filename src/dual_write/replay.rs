//! Replay: what becomes of intents whose operations are not at work any more, and of notes whose requests are not.
//!
//! Any process may replay, and several at once do no harm. What is in doubt is converged at once, and again from time to
//! time; its row is removed only after a converge that began a while after this process first saw that version of it with
//! its owner gone: once all that it stands for has landed, or can't land any more. That is [`crate::protocol::intent`]'s
//! word.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use serde::Serialize;

use super::mirroring::Mirroring;
use crate::blob::Pathname;
use crate::converge::LateWrites;
use crate::error::Result;
use crate::plan::TimingPlan;
use crate::protocol::converge::Done;
use crate::protocol::intent::{Owner, Replay as Step, Sighting, Verdict, after_replay, replay};
use crate::protocol::session::lapsed;
use crate::target::control::{IntentRow, IntentState, NoteRow, SessionRow, SessionState};

/// Pathnames that are converged at a time.
const CONCURRENCY: usize = 32;
/// The pauses between two converges for one row: doubled from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One process's memory of the intents and notes of others.
#[derive(Debug)]
pub struct Replay {
    late: LateWrites,
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
    /// Requests to Blob that got no answer, and may land yet.
    pub doubtful: u64,
}

impl Replay {
    /// A memory of nothing.
    #[must_use]
    pub fn new(timing: &TimingPlan) -> Self {
        Self {
            late: LateWrites::of(timing),
            lease: timing.lease.0,
            sightings: HashMap::new(),
            sessions: HashMap::new(),
        }
    }

    /// Looks at all intents and notes once, converges what is in doubt, and removes those whose time has come.
    ///
    /// `own` is this process's session; `at_work` says which of its operations are under way.
    ///
    /// # Errors
    /// What the control table reports. A pathname that can't be converged keeps its rows.
    pub async fn pass(
        &mut self,
        mirroring: &Mirroring,
        own: &str,
        at_work: impl Fn(&str) -> bool,
    ) -> Result<ReplayReport> {
        let control = mirroring.control();
        let (intents, notes) = futures::future::try_join(control.intents(), control.notes()).await?;
        let idle = intents.is_empty() && notes.is_empty();
        let sessions = if idle { Vec::new() } else { control.sessions().await? };
        let now = mirroring.clock().monotonic();
        let running = self.running(&sessions, now);
        let there: HashSet<&String> =
            intents.iter().map(|intent| &intent.id).chain(notes.iter().map(|note| &note.id)).collect();
        self.sightings.retain(|id, _| there.contains(id));

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
            match self.sees((&intent.id, &intent.version), owner, (now, self.late.max)) {
                None if owner == Owner::Working => report.at_work += 1,
                None => report.in_doubt += 1,
                Some(step) => due.push((intent, step)),
            }
        }
        let mut due_notes: Vec<(NoteRow, Step)> = Vec::new();
        for note in notes {
            // While Blob is the authority, nobody is at work for the mirror.
            let mirrored = matches!(mirroring, Mirroring::ToSource(_));
            let owner = if control.is_at_work(&note) {
                Owner::Working
            } else if !mirrored || note.answered || note.session == own {
                Owner::GaveUp
            } else if running.contains(&note.session) {
                Owner::Working
            } else {
                Owner::Ended
            };
            // What was answered is over.
            let window = if note.answered { Duration::ZERO } else { self.late.window(note.ends) };
            report.doubtful += u64::from(!note.answered && owner != Owner::Working);
            due_notes.extend(self.sees((&note.id, &note.id), owner, (now, window)).map(|step| (note, step)));
        }
        let named = due.iter().flat_map(|(intent, _)| &intent.pathnames);
        let settled = match mirroring {
            Mirroring::ToSource(_) => {
                settle(mirroring, named.chain(due_notes.iter().map(|(note, _)| &note.pathname))).await
            }
            Mirroring::ToTarget(_) => settle(mirroring, named).await,
        };
        for (intent, step) in due {
            let all = intent.pathnames.iter().all(|pathname| settled.contains(pathname));
            let done = if all { Done::Written } else { Done::GaveUp };
            if after_replay(step, done) == Verdict::Clear && control.clear_intent(&intent).await? {
                report.cleared += 1;
            } else {
                report.in_doubt += 1;
            }
        }
        for (note, step) in due_notes {
            // Towards DynamoDB there is nothing to converge: what a note stands for can't land any more.
            let over = matches!(mirroring, Mirroring::ToTarget(_)) || settled.contains(&note.pathname);
            let done = if over { Done::Written } else { Done::GaveUp };
            if after_replay(step, done) == Verdict::Clear {
                control.remove_note(&note).await?;
                report.doubtful -= u64::from(!note.answered);
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

    /// What is to be done about a row now, which stands for what may land for so long; none where it is to be left
    /// alone.
    fn sees(
        &mut self,
        (id, version): (&str, &str),
        owner: Owner,
        (now, window): (Duration, Duration),
    ) -> Option<Step> {
        let known = self.sightings.entry(id.to_owned()).or_insert_with(|| Known {
            sighting: Sighting::first(version.to_owned(), owner, now),
            tried: None,
            next: now,
            pause: PAUSE_FIRST,
        });
        known.sighting.again(version.to_owned(), owner, now);
        let silence = known.sighting.silence(|since| now.saturating_sub(since) >= window);
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
