//! Settles drift: converges pathnames once more, and removes items that nothing names.

use super::drift::{Drift, DriftKind};
use super::judge::has;
use super::run::Sweep;
use crate::blob::Pathname;
use crate::error::{ErrorKind, Result};
use crate::protocol::converge::Purpose;
use crate::target::control::{Anchor, names};
use crate::target::{Condition, Table, Write};
use crate::value::{Key, Value};

impl Sweep<'_> {
    /// Converges a drifted pathname and judges it again; returns what still differs.
    pub(super) async fn repair(&self, pathname: &Pathname) -> Result<Vec<Drift>> {
        let failure = match self.converger.converge(pathname, Purpose::Repair).await {
            // The judgement says what is there now, and in a collision names the item and its owner.
            Ok(_) => None,
            Err(error) if error.kind().is_of_one_key() => Some(error),
            Err(error) => return Err(error),
        };
        let mut left = self.judge(pathname).await?.drift;
        if let Some(failure) = failure {
            left.iter_mut()
                .for_each(|drift| drift.detail = format!("{}; not repaired: {failure}", drift.detail));
        }
        Ok(left)
    }

    /// Settles an item that its anchor does not name, and judges it again; returns what still differs.
    pub(super) async fn repair_stray(&self, drift: &Drift) -> Result<Option<Drift>> {
        let Some(key) = &drift.key else { return Ok(None) };
        if drift.kind == DriftKind::Orphan {
            let anchor = self.converger.control.anchor(&drift.pathname).await?;
            let group = self.converger.control.groups([key]).await?.remove(key);
            let named = anchor.as_ref().is_some_and(|anchor| {
                anchor.items.contains(key) || group.is_some_and(|group| has(&group, anchor))
            });
            // An item that the application made of another one bears the other's name, and is the application's.
            let direct = self.converger.directly_written(&drift.pathname).is_some();
            if named {
                self.converger.converge(&drift.pathname, Purpose::Repair).await?;
            } else if !direct {
                self.remove(key, &drift.pathname, anchor.as_ref()).await?;
            }
        }
        self.judge_stray(key).await
    }

    /// Removes an item of ours, if the anchor that does not name it is still the one that was seen.
    async fn remove(&self, key: &Key, pathname: &Pathname, anchor: Option<&Anchor>) -> Result<()> {
        self.converger.permit.check()?;
        let unchanged = anchor
            .map_or(Condition::Absent, |anchor| Condition::equals(["rev"], Value::s(anchor.rev.as_str())));
        let ours = Condition::equals(["_source", "pathname"], Value::s(pathname.as_str()));
        let writes = vec![
            Write::Check { table: Table::Control, key: names::anchor(pathname), condition: unchanged },
            Write::Delete { table: Table::Data, key: key.clone(), condition: ours },
        ];
        // Where a condition fails, somebody moved, and where no reply comes it may be done: the judgement
        // that follows looks again. Landing late, it still needs the anchor's rev.
        match self.converger.control.store().transact(&names::token(), writes).await {
            Err(error) if error.kind() != ErrorKind::OutcomeUnknown => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
