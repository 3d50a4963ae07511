//! The header, the mode item and the audit log.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, row};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Writers;
use crate::protocol::canary::Share;
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::target::store::{Condition, Outcome, Query, Table, Write};
use crate::value::{Item, Key, Value};

/// Which stores a control table belongs to. Written once, compared ever after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The data table.
    pub table: String,
    /// The AWS account, where the endpoint tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The AWS region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The id of the Blob store.
    pub store: String,
    /// How many shards anchors are spread over.
    pub shards: u8,
}

/// The mode item: which store answers, which one is right, since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// The phase.
    pub phase: Phase,
    /// One more with every change of authority.
    pub epoch: Epoch,
    /// One more with every step, also those that leave the authority as it is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: u64,
    /// The step that led to phase `shadow` last: what was compared before it does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u64,
    /// In phase `canary`: what is read from DynamoDB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Share>,
    /// Who is about to flip it, if anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// When it was flipped to this phase.
    pub since: Timestamp,
    /// The plan under which it was flipped.
    pub plan_hash: String,
    /// While DynamoDB is the authority: the digest of what the plan of the cutover says to its writers
    /// ([`crate::plan::Writers`]). Nobody writes under another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writers: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Mode {
    /// The first one: phase `capture`, epoch 1.
    #[must_use]
    pub fn begun(since: Timestamp, plan_hash: &str) -> Self {
        let (phase, epoch, plan_hash) = (Phase::Capture, Epoch(1), plan_hash.to_owned());
        Self { phase, epoch, step: 0, round: 0, canary: None, hold: None, since, plan_hash, writers: None }
    }

    /// The mode after a step. What `share` says is of phase `canary` alone.
    #[must_use]
    pub fn stepped(&self, phase: Phase, share: Option<&Share>, since: Timestamp, plan_hash: &str) -> Self {
        let step = self.step + 1;
        Self {
            phase,
            epoch: if self.phase.changes_authority(phase) { self.epoch.next() } else { self.epoch },
            step,
            round: if phase == Phase::Shadow { step } else { self.round },
            canary: share.filter(|_| phase == Phase::Canary).cloned(),
            hold: None,
            since,
            plan_hash: plan_hash.to_owned(),
            writers: self.writers.filter(|_| phase.authority() == Authority::Target),
        }
    }
}

/// A hold: nothing is written until the flip is committed or cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Unique for each hold.
    pub id: String,
    /// The phase to be.
    pub target: Phase,
    /// Who set it.
    pub by: String,
    /// How long it may last, in milliseconds.
    pub limit_ms: u64,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// When.
    pub at: Timestamp,
    /// Who, as the command was told or the machine says.
    pub who: String,
    /// The phase before.
    pub from: Phase,
    /// The phase after.
    pub to: Phase,
    /// The epoch after.
    pub epoch: Epoch,
    /// The id of the hold under which it was done, which tells this flip from every other.
    pub hold: String,
    /// The plan under which it was done.
    pub plan_hash: String,
    /// Gate → its evidence in one line.
    pub evidence: BTreeMap<String, String>,
    /// How long writes were held, in milliseconds.
    pub pause_ms: u64,
    /// What an operator gave their word for, where the line is about that and not about a flip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Audit {
    /// The line of a step to `to`, made without a hold; or of none, where that is the phase of before.
    #[must_use]
    pub fn of_step(from: Phase, to: &Mode, who: &str, evidence: BTreeMap<String, String>) -> Self {
        Self {
            at: to.since,
            who: who.to_owned(),
            from,
            to: to.phase,
            epoch: to.epoch,
            hold: String::new(),
            plan_hash: to.plan_hash.clone(),
            evidence,
            pause_ms: 0,
            note: None,
        }
    }
}

impl Control {
    /// Writes the header where there is none, else compares it.
    ///
    /// # Errors
    /// `Usage` where the table belongs to other stores.
    pub async fn ensure_header(&self, header: &Header) -> Result<()> {
        let key = Key::new("HEADER", "HEADER");
        if self.put_row(row::encode(&key, header), Condition::Absent).await? {
            return Ok(());
        }
        self.check_header(header).await.map(drop)
    }

    /// Compares the header; says whether there is one.
    ///
    /// # Errors
    /// `Usage` where the table belongs to other stores.
    pub async fn check_header(&self, header: &Header) -> Result<bool> {
        let Some(item) = self.get_row(Key::new("HEADER", "HEADER")).await? else { return Ok(false) };
        let stored: Header = row::decode(item)?;
        if stored == *header {
            return Ok(true);
        }
        Err(Error::new(ErrorKind::Usage, "open the control table")
            .key(format!("{}-migration", header.table))
            .message(format!(
                "it belongs to another migration: it was made for {}, not for {}",
                describe(&stored),
                describe(header)
            ))
            .hint("check the token, the region and the table name; a table serves one store only"))
    }

    /// The mode item; none before the first command that writes.
    ///
    /// # Errors
    /// `WrongPhase` where there was one, by what it left; `Corrupt`; what the store reports.
    pub async fn mode(&self) -> Result<Option<Mode>> {
        if let Some(mode) = self.stored_mode().await? {
            return Ok(Some(mode));
        }
        let Some(trace) = self.trace_of_mode().await? else { return Ok(None) };
        // Whoever began at this moment stored it before anything else.
        if let Some(mode) = self.stored_mode().await? {
            return Ok(Some(mode));
        }
        Err(Error::new(ErrorKind::WrongPhase, "read the mode item")
            .key("MODE")
            .message(format!("it is gone, though {trace}: which store is right can't be told"))
            .hint("stop everything that writes; `migrate status --audit=lines` ends with the phase and epoch that were committed last: put the item back with these (docs/mode.md has its attributes), or restore the table"))
    }

    async fn stored_mode(&self) -> Result<Option<Mode>> {
        self.get_row(mode_key()).await?.map(row::decode).transpose()
    }

    /// What is there only where there was a mode item.
    async fn trace_of_mode(&self) -> Result<Option<&'static str>> {
        let anchors = (0..super::names::SHARDS).map(super::names::anchor_partition);
        let traces = [("L#".to_owned(), "it was flipped"), ("S#".to_owned(), "a process has written")]
            .into_iter()
            .chain(anchors.map(|partition| (partition, "blobs were mirrored")));
        for (partition, what) in traces {
            let query = Query { limit: Some(1), ..Query::partition(partition) };
            if !self.store.query(Table::Control, &query).await?.items.is_empty() {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    /// The mode item, written first where there is none.
    ///
    /// # Errors
    /// As [`Control::mode`].
    pub async fn ensure_mode(&self, initial: &Mode) -> Result<Mode> {
        if let Some(mode) = self.mode().await? {
            return Ok(mode);
        }
        self.put_row(row::encode(&mode_key(), initial), Condition::Absent).await?;
        let mode = self.mode().await?;
        mode.ok_or_else(|| Error::new(ErrorKind::Internal, "write the mode item").message("it is not there"))
    }

    /// Replaces the mode item, if it is still `seen` (epoch, step and hold); says whether it was.
    /// With an audit line, both are stored in one transaction.
    ///
    /// # Errors
    /// What the store reports. After `OutcomeUnknown`, read the mode item again: a hold's id and an
    /// epoch tell whether it was applied.
    pub async fn flip(&self, seen: &Mode, to: &Mode, audit: Option<&Audit>) -> Result<bool> {
        self.flip_under(seen, to, audit, None).await
    }

    /// The same; what the plan says to writers is kept in the same transaction.
    ///
    /// # Errors
    /// As [`Control::flip`].
    pub async fn flip_under(
        &self,
        seen: &Mode,
        to: &Mode,
        audit: Option<&Audit>,
        writers: Option<&Writers>,
    ) -> Result<bool> {
        let mut conditions = vec![Condition::equals(["epoch"], Value::n(seen.epoch.0))];
        conditions.push(match seen.step {
            // Rows that were written before there were steps have none.
            0 => Condition::Missing { path: vec!["step".to_owned()] },
            step => Condition::equals(["step"], Value::n(step)),
        });
        match &seen.hold {
            Some(hold) => conditions.push(Condition::equals(["hold", "id"], Value::s(hold.id.as_str()))),
            None => conditions.push(Condition::Missing { path: vec!["hold".to_owned()] }),
        }
        let mut rows = vec![row::encode(&mode_key(), to)];
        let mut conditions = vec![Condition::All(conditions)];
        if let Some(audit) = audit {
            rows.push(row::encode(&audit_key(seen, to, audit), audit));
            conditions.push(Condition::Absent);
        }
        let put = |(item, condition): (&Item, Condition)| Write::Put {
            table: Table::Control,
            item: item.clone(),
            condition,
        };
        let mut writes: Vec<Write> = rows.iter().zip(conditions).map(put).collect();
        writes.extend(writers.map(super::writers::kept));
        match self.store.transact(&super::names::token(), writes).await? {
            Outcome::Applied => Ok(true),
            // A lost reply, and the retry found our own write: all of it, since another flip may leave the
            // same mode item.
            Outcome::Refused(refusals) => Ok(rows.iter().enumerate().all(|(action, row)| {
                refusals.iter().any(|refusal| refusal.action == action && refusal.found.as_ref() == Some(row))
            })),
        }
    }

    /// Adds a line that is not about a flip to the audit log, after that of the present epoch.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put_note(&self, audit: &Audit) -> Result<()> {
        let at = audit.at.as_millisecond();
        let key = Key::new("L#", format!("{:012}#{at:015}#{}", audit.epoch.0, super::names::token()));
        self.put_row(row::encode(&key, audit), Condition::Absent).await.map(drop)
    }

    /// The audit log, oldest first.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn audit(&self) -> Result<Vec<Audit>> {
        self.rows("L#", "").await?.into_iter().map(row::decode::<Audit>).collect()
    }
}

/// A line for each change of authority, then those for the steps and the notes of its epoch by time.
fn audit_key(seen: &Mode, to: &Mode, audit: &Audit) -> Key {
    let epoch = audit.epoch.0;
    if seen.epoch == to.epoch {
        let at = audit.at.as_millisecond();
        return Key::new("L#", format!("{epoch:012}#{at:015}#{:012}", to.step));
    }
    Key::new("L#", format!("{epoch:012}"))
}

fn mode_key() -> Key {
    Key::new("MODE", "MODE")
}

fn describe(header: &Header) -> String {
    let Header { table, account, region, store, shards } = header;
    let place = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "store {store} and table {table} (account {}, region {}, {shards} shards)",
        place(account),
        place(region)
    )
}
