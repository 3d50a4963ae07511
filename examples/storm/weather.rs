//! What a way to a store is like: how long requests take, how many go wrong, and whether it is cut.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Of so many requests.
const OF: u32 = 10_000;

/// The state of a way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weather {
    pub(crate) latency: Latency,
    pub(crate) rates: Rates,
    pub(crate) cut: Option<Cut>,
}

/// How long a request and its reply are on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

/// How a way is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Connections end at once.
    Reset,
    /// Nothing comes back until the way is whole again; then the connection ends.
    Silent,
}

/// How many of 10,000 requests meet which fate. Of reads, a quarter as many.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) lost: u32,
    pub(crate) held: u32,
    pub(crate) late: u32,
    pub(crate) reply_lost: u32,
    pub(crate) slow: u32,
    /// Of heads alone.
    pub(crate) failed_heads: u32,
    /// The longest that a request is held.
    pub(crate) held_max: Duration,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    /// It never arrives.
    Lost,
    /// It arrives later, and is answered if somebody still waits.
    Held(Duration),
    /// Its sender is told that the connection is gone; it arrives later.
    Late(Duration),
    /// It is carried out, and the connection ends without an answer.
    ReplyLost,
    /// It is carried out at once, and answered later.
    Slow(Duration),
    /// The store answers that it failed.
    Failed,
}

impl Latency {
    pub(crate) const fn ms(least: u64, most: u64) -> Self {
        Self { least: Duration::from_millis(least), most: Duration::from_millis(most) }
    }

    pub(crate) fn draw(&self, seed: u64, number: u64) -> Duration {
        let mut random = drawing(seed ^ 0x1a7e, number);
        self.least + (self.most.saturating_sub(self.least)).mul_f64(random.random())
    }
}

impl Rates {
    /// So many hundredths of what is usual in a gust.
    pub(crate) fn gust(percent: u32, held_max: Duration) -> Self {
        let of = |rate: u32| rate * percent / 100;
        Self {
            lost: of(100),
            held: of(100),
            late: of(100),
            reply_lost: of(150),
            slow: of(200),
            failed_heads: of(150),
            held_max,
        }
    }

    /// The same for signed requests. The mirror's are few, and what becomes of them is what the way back is about; the
    /// store itself refuses those that come too late, so that they may be held for longer than any window.
    pub(crate) const fn of_signed(self) -> Self {
        Self {
            lost: self.lost * 4,
            held: self.held * 4,
            late: self.late * 4,
            reply_lost: self.reply_lost * 4,
            held_max: self.held_max.saturating_mul(2),
            ..self
        }
    }

    pub(crate) fn draw(&self, seed: u64, number: u64, writes: bool, heads: bool) -> Fate {
        let mut random = drawing(seed, number);
        let mut drawn = random.random_range(0..OF);
        if !writes {
            drawn *= 4;
        }
        let most = self.held_max.max(Duration::from_millis(1));
        // Short ones and long ones, all alike.
        let time = most.mul_f64(random.random::<f64>().powi(2));
        let fates = [
            (self.lost, Fate::Lost),
            (self.held, Fate::Held(time)),
            (self.late, Fate::Late(time)),
            (self.reply_lost, Fate::ReplyLost),
            (self.slow, Fate::Slow(time / 2)),
            (if heads { self.failed_heads * 4 } else { 0 }, Fate::Failed),
        ];
        for (rate, fate) in fates {
            if drawn < rate {
                return fate;
            }
            drawn -= rate;
        }
        Fate::Passes
    }
}

/// The draw of a number under a seed.
pub(crate) fn drawing(seed: u64, number: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number))
}

impl Fate {
    /// Its name in the scoreboard.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Passes => "passed",
            Self::Lost => "lost",
            Self::Held(_) => "held",
            Self::Late(_) => "late",
            Self::ReplyLost => "reply lost",
            Self::Slow(_) => "slow",
            Self::Failed => "failed head",
        }
    }

    /// How long it kept the request from landing.
    pub(crate) const fn kept(self) -> Option<Duration> {
        match self {
            Self::Held(time) | Self::Late(time) => Some(time),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_drawn_from_the_seed() {
        let rates = Rates::gust(100, Duration::from_secs(3));
        let draw = |seed| (0..20_000).map(|number| rates.draw(seed, number, true, false)).collect::<Vec<_>>();
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        let broken = drawn.iter().filter(|fate| **fate != Fate::Passes).count();
        assert!((1_100..1_500).contains(&broken), "{broken} of 20,000 at 6.5 %");
        let longest = drawn.iter().filter_map(|fate| fate.kept()).max().unwrap();
        assert!(longest <= rates.held_max);
        let reads = (0..20_000).filter(|number| rates.draw(1, *number, false, false) != Fate::Passes).count();
        assert!((200..450).contains(&reads), "{reads} reads");
        assert_eq!(Rates::default().draw(1, 1, true, true), Fate::Passes);
    }
}
