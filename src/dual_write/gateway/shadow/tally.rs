//! What was counted in a round, and what of it is not in the control table yet.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Round, is_of};
use crate::blob::Pathname;
use crate::target::control::{Offender, Reads, ReadsRow, names};

/// So many pathnames whose reads differ are told apart.
const OFFENDERS_MAX: usize = 1_000;
/// So many of them are kept.
const WORST_MAX: usize = 10;

/// The counts of the present round.
#[derive(Default)]
pub(super) struct Tally {
    present: Option<Present>,
    /// Of earlier rounds, or as they could not be kept.
    unkept: Vec<ReadsRow>,
}

struct Present {
    id: String,
    round: Round,
    began: Timestamp,
    reads: Reads,
    offenders: HashMap<Pathname, (u64, String)>,
    kept: Reads,
}

impl Present {
    fn row(&self, name: &str, plan_hash: &str, at: Timestamp) -> ReadsRow {
        let mut worst: Vec<Offender> = self
            .offenders
            .iter()
            .map(|(pathname, (mismatches, what))| Offender {
                pathname: pathname.clone(),
                mismatches: *mismatches,
                what: what.clone(),
            })
            .collect();
        worst.sort_by(|one, other| (other.mismatches, &one.pathname).cmp(&(one.mismatches, &other.pathname)));
        worst.truncate(WORST_MAX);
        ReadsRow {
            id: self.id.clone(),
            name: name.to_owned(),
            plan_hash: plan_hash.to_owned(),
            epoch: self.round.epoch,
            round: self.round.round,
            began: self.began,
            at,
            reads: self.reads,
            worst,
        }
    }
}

impl Tally {
    /// The counts of a round, which begins with this if it is another one. What is counted of an earlier one late
    /// is lost with it.
    pub(super) fn of(&mut self, round: Round, now: Timestamp) -> &mut Reads {
        &mut self.present(round, now).reads
    }

    fn present(&mut self, round: Round, now: Timestamp) -> &mut Present {
        if self.present.as_ref().is_some_and(|present| present.round != round) {
            self.present = None;
        }
        self.present.get_or_insert_with(|| Present {
            id: names::token(),
            round,
            began: now,
            reads: Reads::default(),
            offenders: HashMap::new(),
            kept: Reads::default(),
        })
    }

    /// A read of this pathname differed.
    pub(super) fn offended(&mut self, round: Round, now: Timestamp, pathname: Pathname, what: String) {
        let offenders = &mut self.present(round, now).offenders;
        if offenders.len() < OFFENDERS_MAX || offenders.contains_key(&pathname) {
            let (mismatches, last) = offenders.entry(pathname).or_default();
            *mismatches += 1;
            *last = what;
        }
    }

    pub(super) fn reads(&self) -> Reads {
        self.present.as_ref().map(|present| present.reads).unwrap_or_default()
    }

    /// What is to be kept now.
    pub(super) fn unkept(&mut self, name: &str, plan_hash: &str, now: Timestamp) -> Vec<ReadsRow> {
        let mut rows = std::mem::take(&mut self.unkept);
        if let Some(present) = self.present.as_mut().filter(|present| present.reads != present.kept) {
            present.kept = present.reads;
            rows.retain(|row| !is_of(row, present.round));
            rows.push(present.row(name, plan_hash, now));
        }
        rows
    }

    /// This could not be kept.
    pub(super) fn not_kept(&mut self, row: ReadsRow) {
        self.unkept.push(row);
    }
}
