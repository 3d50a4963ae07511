//! Turns: what is done for one pathname at a time, in the order in which it was asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::blob::Pathname;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// One queue for each pathname that somebody is at.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<Pathname, Queue>>>);

/// The turn of several pathnames. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    queues: Arc<Mutex<HashMap<Pathname, Queue>>>,
    held: Vec<(Pathname, Option<OwnedMutexGuard<()>>)>,
}

impl Turns {
    /// Waits for the turn of all of these.
    pub(super) async fn take(&self, pathnames: &[Pathname]) -> Turn {
        let mut turn = Turn { queues: Arc::clone(&self.0), held: Vec::new() };
        // In one order, so that nobody waits for somebody who waits for them.
        let mut pathnames = pathnames.to_vec();
        pathnames.sort_unstable();
        pathnames.dedup();
        for pathname in pathnames {
            let queue = {
                let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(queues.entry(pathname.clone()).or_default())
            };
            // Dropped while it waits, the turn still lets go of the queue.
            turn.held.push((pathname, None));
            let guard = queue.lock_owned().await;
            if let Some((_, held)) = turn.held.last_mut() {
                *held = Some(guard);
            }
        }
        turn
    }

    /// How many pathnames somebody is at.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for (pathname, held) in self.held.drain(..) {
            drop(held);
            // Whoever waits holds a clone; new ones are made only under this lock.
            if queues.get(&pathname).is_some_and(|queue| Arc::strong_count(queue) == 1) {
                queues.remove(&pathname);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_order_and_nothing_is_left() {
        let turns = Turns::default();
        let names = [Pathname::from("a"), Pathname::from("b")];
        let both = turns.take(&names).await;
        let mut second = Box::pin(turns.take(&names[..1]));
        assert!((&mut second).now_or_never().is_none(), "the first one is still at it");
        let mut third = Box::pin(turns.take(&names[..1]));
        assert!((&mut third).now_or_never().is_none());
        drop(turns.take(&[Pathname::from("c")]).await);
        drop(both);
        assert!((&mut third).now_or_never().is_none(), "the second one is before it");
        drop(second.await);
        drop(third.await);
        assert_eq!(turns.len(), 0);
    }

    #[tokio::test]
    async fn whoever_goes_away_while_waiting_leaves_nothing() {
        let turns = Turns::default();
        let name = [Pathname::from("a")];
        let first = turns.take(&name).await;
        let mut second = Box::pin(turns.take(&name));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(second);
        drop(turns.take(&name).await);
        assert_eq!(turns.len(), 0);
    }
}
