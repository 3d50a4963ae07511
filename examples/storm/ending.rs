//! The end of a storm: the ways are clear, clients stop, and both stores must come to rest, equal to each other and to
//! what clients were told.

use std::collections::BTreeMap;
use std::time::Duration;

use migrate::clock::Clock as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::blobs::{Key, State, said};
use crate::faults::Fire;
use crate::history::{Answer, Call};
use crate::operator::Ran;
use crate::rounds::Storm;
use crate::weather::Weather;
use crate::workload::Load;

/// How long what is under way may take to be over.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// How often intents are counted.
const POLL: Duration = Duration::from_millis(500);
/// How often a read is repeated that fails.
const READS: u32 = 5;

impl Storm {
    /// Ends the storm; what is not as it must be is among the findings.
    pub(crate) async fn end(&self, blob: &str, mut clients: JoinSet<()>) -> anyhow::Result<()> {
        self.log.say("the storm is over");
        self.fleet.weather(|weather, _| *weather = Weather::default());
        self.operator.weather(|weather| *weather = Weather::default());
        self.fleet.mend(None).await?;
        self.shared.load.send_replace(Load::Over);
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        for slot in 0..self.fleet.slots.len() {
            for link in self.fleet.links(slot) {
                timeout(QUIET_MAX, link.quiet()).await.ok();
            }
        }
        for link in self.operator.links() {
            timeout(QUIET_MAX, link.quiet()).await.ok();
        }
        self.settled().await?;
        self.equal().await?;
        self.compare(blob).await?;
        // DynamoDB's own word comes from a gateway once it is the authority, and Blob's from the store itself.
        for _ in 0..2 {
            let back = self.operator.phase().is_over();
            let flipped = self.ready(back, false).await? && self.flip(back, Fire::Nothing).await?.0;
            if !flipped {
                let direction = if back { "back" } else { "there" };
                self.found(
                    "stuck",
                    None,
                    format!("nothing goes on any more, and the way {direction} is closed"),
                );
                break;
            }
            self.settled().await?;
            self.compare(blob).await?;
        }
        self.crashes().await;
        self.fleet.end().await?;
        for line in self.fleet.panics() {
            self.found("crashed", None, line);
        }
        Ok(())
    }

    /// Waits until no intent is left.
    async fn settled(&self) -> anyhow::Result<()> {
        let patience = self.windows.late_write_max * 3 + self.windows.lease * 2 + QUIET_MAX;
        let until = self.log.now() + patience;
        let mut left;
        loop {
            let status = self.operator.run(&["status"]).await?;
            left = status.found["standing"]["intents"].as_u64();
            if left == Some(0) {
                return Ok(());
            }
            if self.log.now() > until {
                break;
            }
            self.log.clock.sleep(POLL).await;
        }
        let left = left.map_or_else(|| "an unknown number of".to_owned(), |left| left.to_string());
        self.found("intents", None, format!("{left} intents are left {patience:?} after the storm"));
        Ok(())
    }

    /// Both stores must be equal, after one repair at most.
    async fn equal(&self) -> anyhow::Result<()> {
        if self.operator.run(&["validate"]).await?.done() {
            return Ok(());
        }
        let repair = self.operator.run(&["validate", "--repair"]).await?;
        let proof = self.operator.run(&["validate"]).await?;
        if proof.done() {
            return Ok(());
        }
        let told = |ran: &Ran| {
            let drift = ran.drift().into_iter().take(10);
            drift.map(|one| format!("{} {} ({})", one.kind, one.pathname, one.detail)).collect::<Vec<_>>()
        };
        let (key, drift) = (proof.drift().first().cloned(), told(&proof).join("; "));
        let text = format!("after a repair: {drift} {} {}", proof.error, repair.error);
        let key = key.and_then(|one| self.shared.keys.named(&one.pathname));
        self.found("drift", key, text);
        for one in proof.drift().into_iter().filter(|one| one.kind == "foreign") {
            self.clean(1).await?;
            self.log.say(format!("{} was settled by hand", one.pathname));
        }
        Ok(())
    }

    /// Reads all keys through every gateway and from Blob itself: all must tell the same.
    async fn compare(&self, blob: &str) -> anyhow::Result<()> {
        let mode = self.operator.phase();
        let mut told: BTreeMap<Key, State> = BTreeMap::new();
        let mut failed = Vec::new();
        for attempt in 0..READS {
            failed.clear();
            for (key, slot, answer) in self.shared.read_all().await {
                match answer {
                    Answer::Told(state) => {
                        let other = told.insert(key, state).filter(|other| *other != state);
                        if let Some(other) = other {
                            let text = format!(
                                "in phase {}, one gateway tells {}, gateway {slot} tells {}",
                                mode.phase,
                                said(other),
                                said(state)
                            );
                            self.found("unequal", Some(key), text);
                        }
                    }
                    answer => failed.push((key, answer)),
                }
            }
            if failed.is_empty() {
                break;
            }
            self.log.say(format!("{} reads fail, attempt {attempt}", failed.len()));
            self.log.clock.sleep(Duration::from_secs(1)).await;
        }
        for (key, answer) in failed {
            self.found("unreadable", Some(key), answer.said());
        }
        let known = (&self.shared.keys, &self.shared.contents);
        let listed = match self.shared.client.list(blob, "", known).await {
            Ok(listed) => listed,
            Err(why) => {
                self.found("unequal", None, format!("Blob itself: {why}"));
                return Ok(());
            }
        };
        for (key, state) in listed {
            let read = self.shared.client.call(blob, (key, Call::Get), known).await.answer;
            let listed = match state {
                Ok(state) => Answer::Told(state),
                Err(why) => Answer::Failed(why),
            };
            let gateways = told.get(&key).copied().map(Answer::Told);
            if gateways.as_ref() != Some(&listed) || listed != read {
                let text = format!(
                    "in phase {}, gateways: {}; Blob lists: {}; Blob holds: {}",
                    mode.phase,
                    gateways.map_or_else(|| "nothing told".to_owned(), |answer| answer.said()),
                    listed.said(),
                    read.said()
                );
                self.found("unequal", Some(key), text);
            }
        }
        self.log.say(format!("all keys were compared in phase {}, epoch {}", mode.phase, mode.epoch));
        Ok(())
    }
}
