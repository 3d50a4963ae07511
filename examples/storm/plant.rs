//! Defects that the storm plants, to show that it finds them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum;

use crate::blobs::{Content, Kind};
use crate::history::Call;
use crate::rounds::Storm;

/// The contents that are planted belong to a client that there is none of.
const NOBODY: u32 = 0xffe;
/// How long a read stays stale.
const STALE: Duration = Duration::from_secs(4);

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// A proxy answers reads of a blob as they were a while ago
    StaleRead,
    /// Writes are acknowledged that nobody carries out
    LostWrite,
    /// Somebody writes to Blob past the gateways while Blob is the authority, and tells nobody
    Bypass,
    /// The same while DynamoDB is the authority
    Foreign,
}

impl Storm {
    /// Plants a defect, where the phase allows it.
    pub(crate) async fn plant(&self, plant: Plant, blob: &str) -> anyhow::Result<()> {
        let over = self.operator.phase().is_over();
        let keys = &self.shared.keys;
        let hot = keys.of(Kind::Hot);
        let until = self.log.now() + STALE;
        match plant {
            Plant::StaleRead if !over => {
                for link in self.fleet.links(0) {
                    link.plant_stale(keys.name(hot[0]), until);
                }
            }
            Plant::LostWrite => self.shared.lie.store(3, Ordering::Relaxed),
            Plant::Bypass if !over => self.past(blob, hot[1]).await,
            Plant::Foreign if over => self.past(blob, keys.of(Kind::Cold)[0]).await,
            _ => return Ok(()),
        }
        self.log.say(format!("planted: {plant:?}"));
        Ok(())
    }

    async fn past(&self, blob: &str, key: crate::blobs::Key) {
        let content = Content::of_client(NOBODY, 1);
        let shared = &self.shared;
        let call = (key, Call::Put(content));
        shared.client.call(blob, call, (&shared.keys, &shared.contents)).await;
    }
}
