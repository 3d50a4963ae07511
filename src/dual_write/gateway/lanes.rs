//! Lanes: one mirror of a pathname at a time. Whoever comes while one runs shares the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::turns::Turns;
use crate::blob::Pathname;
use crate::protocol::converge::Done;

/// One lane for each pathname that somebody mirrors.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    turns: Turns,
    lanes: Arc<Mutex<HashMap<Pathname, Lane>>>,
}

#[derive(Debug, Default)]
struct Lane {
    /// How many are in it.
    inside: usize,
    /// How often somebody asked for a mirror.
    asked: u64,
    /// Up to which of them one has come to a good end that began after it was asked for.
    served: Option<(u64, Done)>,
}

/// A place in a lane. It is given up when it is dropped.
struct Place<'a> {
    lanes: &'a Mutex<HashMap<Pathname, Lane>>,
    pathname: &'a Pathname,
    number: u64,
}

impl Lanes {
    /// Mirrors a pathname, unless another one does that began after this was called.
    pub(super) async fn mirror(&self, pathname: &Pathname, run: impl Future<Output = Done>) -> Done {
        let place = Place::take(&self.lanes, pathname);
        let _turn = self.turns.take(std::slice::from_ref(pathname)).await;
        if let Some(done) = place.served() {
            return done;
        }
        let asked = place.with(|lane| lane.asked);
        let done = run.await;
        if done != Done::GaveUp {
            place.with(|lane| lane.served = Some((asked, done)));
        }
        done
    }
}

impl<'a> Place<'a> {
    fn take(lanes: &'a Mutex<HashMap<Pathname, Lane>>, pathname: &'a Pathname) -> Self {
        let mut place = Self { lanes, pathname, number: 0 };
        place.number = place.with(|lane| {
            lane.inside += 1;
            lane.asked += 1;
            lane.asked
        });
        place
    }

    fn with<T>(&self, at: impl FnOnce(&mut Lane) -> T) -> T {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        at(lanes.entry(self.pathname.clone()).or_default())
    }

    fn served(&self) -> Option<Done> {
        self.with(|lane| lane.served.filter(|(up_to, _)| *up_to >= self.number).map(|(_, done)| done))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get_mut(self.pathname) {
            lane.inside -= 1;
            if lane.inside == 0 {
                lanes.remove(self.pathname);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn whoever_comes_while_one_runs_shares_the_next() {
        let (lanes, name, runs) = (Lanes::default(), Pathname::from("a"), Cell::new(0));
        let run = |until: Option<oneshot::Receiver<()>>| {
            let runs = &runs;
            async move {
                runs.set(runs.get() + 1);
                if let Some(until) = until {
                    until.await.unwrap();
                }
                Done::Written
            }
        };
        let (end, until) = oneshot::channel();
        let mut first = Box::pin(lanes.mirror(&name, run(Some(until))));
        assert!((&mut first).now_or_never().is_none());
        let mut others: Vec<_> = (0..5).map(|_| Box::pin(lanes.mirror(&name, run(None)))).collect();
        for other in &mut others {
            assert!(other.now_or_never().is_none(), "what runs began before it was asked for");
        }
        assert_eq!(lanes.mirror(&Pathname::from("b"), run(None)).await, Done::Written);
        end.send(()).unwrap();
        assert_eq!(first.await, Done::Written);
        for other in others {
            assert_eq!(other.await, Done::Written);
        }
        assert_eq!(runs.get(), 3, "one of b, one that ran, and one for all that waited");
        assert!(lanes.lanes.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn nobody_shares_what_failed() {
        let (lanes, name) = (Lanes::default(), Pathname::from("a"));
        let (end, until) = oneshot::channel();
        let mut first = Box::pin(lanes.mirror(&name, async {
            until.await.unwrap();
            Done::Equal
        }));
        assert!((&mut first).now_or_never().is_none());
        let second = lanes.mirror(&name, async { Done::GaveUp });
        let third = lanes.mirror(&name, async { Done::Written });
        end.send(()).unwrap();
        assert_eq!(futures::join!(first, second, third), (Done::Equal, Done::GaveUp, Done::Written));
    }
}
