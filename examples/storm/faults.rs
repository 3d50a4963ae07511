//! What is done to the gateways and the operator, round by round: drawn from the seed before the round begins.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use migrate::clock::Clock as _;
use rand::{Rng, RngExt as _};
use tokio::task::JoinSet;

use crate::fleet::Fleet;
use crate::log::Log;
use crate::stage::Windows;
use crate::weather::{Cut, Latency, Rates, drawing};

/// How often a flip is tried in a round.
pub(crate) const ATTEMPTS: usize = 3;

/// A fault of one gateway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// It is started again after a while, under the same or another name.
    Kill {
        down: Duration,
        renamed: bool,
        /// By how many seconds its wall clock is off afterwards.
        skew: i64,
    },
    Freeze(Duration),
    Cut {
        blob: bool,
        dynamodb: bool,
        how: Cut,
        time: Duration,
    },
}

/// A fault, when it comes and whom it meets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Planned {
    pub(crate) after: Duration,
    pub(crate) slot: usize,
    pub(crate) fault: Fault,
}

/// What happens during an attempt to flip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fire {
    Nothing,
    /// A fault of a gateway: so long after the command was started, or after writes are held.
    Gateway {
        held: bool,
        planned: Planned,
    },
    /// The command is killed, and run again.
    OperatorKilled {
        held: bool,
        after: Duration,
    },
    /// The command is frozen while it holds writes.
    OperatorFrozen {
        after: Duration,
        time: Duration,
    },
    /// Another operator wants the same.
    TwoOperators {
        after: Duration,
        cancels: bool,
    },
}

/// One round: a gust of faults, then a flip.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round {
    /// No faults at all: what is refused then is refused without a reason.
    pub(crate) fair: bool,
    pub(crate) to_blob: Latency,
    pub(crate) to_dynamodb: Latency,
    pub(crate) gust: Vec<Planned>,
    pub(crate) gust_time: Duration,
    /// How many hundredths of the usual faults of requests there are in the gust.
    pub(crate) squall: u32,
    /// A gateway that sleeps over the flip, and how long after it the gateway wakes.
    pub(crate) sleeper: Option<(usize, Duration)>,
    pub(crate) fires: [Fire; ATTEMPTS],
    /// The same while a flip is tried.
    pub(crate) flip_squall: u32,
}

impl Round {
    /// The round of this number; every fifth one is fair, there and back in turn.
    pub(crate) fn draw(seed: u64, number: u64, windows: &Windows, gateways: usize) -> Self {
        let mut random = drawing(seed ^ 0xfa17, number);
        let random = &mut random;
        let fair = number % 5 == 4;
        let ms = |range: std::ops::Range<u64>, random: &mut dyn Rng| {
            Duration::from_millis(random.random_range(range))
        };
        let to_blob = if fair { [20, 60] } else { [3, 12] }[random.random_range(0..2)];
        let gust_time = ms(5_000..11_000, random);
        let count = random.random_range(2..7);
        let planned = |random: &mut dyn Rng| Planned {
            after: gust_time.mul_f64(random.random()),
            slot: random.random_range(0..gateways),
            fault: Fault::draw(windows, random),
        };
        let mut gust: Vec<Planned> = (0..count).map(|_| planned(random)).collect();
        gust.sort_by_key(|planned| planned.after);
        let sleeper = (random.random_bool(0.8), random.random_range(0..gateways), ms(0..2_500, random));
        let mut fire = || Fire::draw(windows, gateways, random);
        let fires = [fire(), fire(), fire()];
        let squall = [40, 100, 200][random.random_range(0..3)];
        Self {
            fair,
            to_blob: Latency::ms(to_blob, to_blob * 2),
            to_dynamodb: Latency::ms(1, 4),
            gust: if fair { Vec::new() } else { gust },
            gust_time: if fair { gust_time / 2 } else { gust_time },
            squall: if fair { 0 } else { squall },
            sleeper: (!fair && sleeper.0).then_some((sleeper.1, sleeper.2)),
            fires: if fair { [Fire::Nothing; ATTEMPTS] } else { fires },
            flip_squall: if fair || random.random_bool(0.4) { 0 } else { 25 },
        }
    }
}

impl Fault {
    fn draw(windows: &Windows, random: &mut dyn Rng) -> Self {
        let between = |least: Duration, most: Duration, random: &mut dyn Rng| {
            least + most.saturating_sub(least).mul_f64(random.random())
        };
        let (lease, late) = (windows.lease, windows.late_write_max);
        let moment = Duration::from_millis(200);
        match random.random_range(0..100) {
            0..40 => {
                let skews = [0, 0, 0, 2, -1, -20, -90];
                let skew = skews[random.random_range(0..skews.len())];
                Self::Kill { down: between(moment, lease, random), renamed: random.random_bool(0.25), skew }
            }
            40..70 => Self::Freeze(match random.random_range(0..3) {
                0 => between(moment, lease * 8 / 10, random),
                1 => between(lease * 12 / 10, late.max(lease * 13 / 10), random),
                _ => between(late + lease, late + lease * 2, random),
            }),
            _ => {
                let (blob, dynamodb) =
                    [(true, false), (false, true), (false, true), (true, true)][random.random_range(0..4)];
                let how = if random.random_bool(0.5) { Cut::Reset } else { Cut::Silent };
                Self::Cut { blob, dynamodb, how, time: between(moment, lease * 2, random) }
            }
        }
    }

    /// Does it, and undoes it after its time.
    async fn happen(self, fleet: &Fleet, slot: usize, log: &Log) -> anyhow::Result<()> {
        match self {
            Self::Kill { down, renamed, skew } => {
                fleet.kill(slot).await?;
                log.clock.sleep(down).await;
                // In such weather a start may fail; whoever mends starts it again.
                if let Err(error) = fleet.start(slot, renamed, skew).await {
                    log.say(format!("a gateway does not start: {error:#}"));
                }
            }
            Self::Freeze(time) => {
                if fleet.freeze(slot).await? {
                    log.clock.sleep(time).await;
                    fleet.wake(slot).await?;
                }
            }
            Self::Cut { blob, dynamodb, how, time } => {
                fleet.cut(slot, (blob, dynamodb), Some(how));
                log.clock.sleep(time).await;
                fleet.cut(slot, (blob, dynamodb), None);
            }
        }
        Ok(())
    }
}

impl Fire {
    fn draw(windows: &Windows, gateways: usize, random: &mut dyn Rng) -> Self {
        let after = Duration::from_millis(random.random_range(0..400));
        let held = random.random_bool(0.6);
        match random.random_range(0..100) {
            0..35 => Self::Nothing,
            35..70 => {
                let (slot, fault) = (random.random_range(0..gateways), Fault::draw(windows, random));
                Self::Gateway { held, planned: Planned { after, slot, fault } }
            }
            70..82 => Self::OperatorKilled { held, after: if held { after / 4 } else { after * 4 } },
            82..90 => {
                let time = windows.hold_limit.mul_f64(random.random_range(0.2..6.0));
                Self::OperatorFrozen { after: after / 8, time }
            }
            _ => Self::TwoOperators { after: after / 2, cancels: random.random_bool(0.5) },
        }
    }
}

impl Planned {
    /// Waits for its time, and lets it happen.
    pub(crate) async fn happen(self, fleet: &Fleet, log: &Log) -> anyhow::Result<()> {
        log.clock.sleep(self.after).await;
        self.fault.happen(fleet, self.slot, log).await
    }
}

/// Lets a gust blow, and waits until all of its faults are over.
pub(crate) async fn blow(round: &Round, fleet: &Arc<Fleet>, log: &Arc<Log>) -> anyhow::Result<()> {
    let rates = Rates::gust(round.squall, fleet.held_max);
    fleet.weather(|weather, to_blob| {
        weather.rates = rates;
        weather.latency = if to_blob { round.to_blob } else { round.to_dynamodb };
    });
    let mut faults = JoinSet::new();
    for planned in round.gust.clone() {
        let (fleet, log) = (Arc::clone(fleet), Arc::clone(log));
        faults.spawn(async move { planned.happen(&fleet, &log).await });
    }
    log.clock.sleep(round.gust_time).await;
    fleet.weather(|weather, _| weather.rates = Rates::default());
    while let Some(over) = faults.join_next().await {
        over??;
    }
    Ok(())
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |latency: Latency| format!("{}–{} ms", latency.least.as_millis(), latency.most.as_millis());
        write!(f, "{} before Blob", ms(self.to_blob))?;
        if self.fair {
            return write!(f, ", no faults");
        }
        write!(f, ", {} faults of gateways, requests {} %", self.gust.len(), self.squall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_drawn_from_the_seed_and_have_every_fault() {
        let windows = Windows::new(false, Vec::new());
        let draw = |seed| (0..200).map(|number| Round::draw(seed, number, &windows, 2)).collect::<Vec<_>>();
        let rounds = draw(1);
        assert_eq!(rounds, draw(1));
        assert_ne!(rounds, draw(2));
        let faults: Vec<Fault> = rounds.iter().flat_map(|round| &round.gust).map(|one| one.fault).collect();
        let long = windows.late_write_max + windows.lease;
        for (what, found) in [
            ("renamed", faults.iter().any(|fault| matches!(fault, Fault::Kill { renamed: true, .. }))),
            ("skewed", faults.iter().any(|fault| matches!(fault, Fault::Kill { skew: -90, .. }))),
            ("long", faults.iter().any(|fault| matches!(fault, Fault::Freeze(time) if *time > long))),
            (
                "short",
                faults.iter().any(|fault| matches!(fault, Fault::Freeze(time) if *time < windows.lease)),
            ),
            (
                "both",
                faults.iter().any(|fault| matches!(fault, Fault::Cut { blob: true, dynamodb: true, .. })),
            ),
        ] {
            assert!(found, "{what}");
        }
        let fires: Vec<Fire> = rounds.iter().flat_map(|round| round.fires).collect();
        assert!(fires.iter().any(|fire| matches!(fire, Fire::OperatorKilled { .. })));
        assert!(fires.iter().any(|fire| matches!(fire, Fire::OperatorFrozen { .. })));
        assert!(fires.iter().any(|fire| matches!(fire, Fire::TwoOperators { .. })));
        assert!(rounds.iter().any(|round| round.sleeper.is_some()));
        assert_eq!(rounds.iter().filter(|round| round.fair).count(), 40);
    }
}
