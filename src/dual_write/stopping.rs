//! A right to write that ends when its process is told to stop.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::converge::Permit;
use crate::error::{Error, ErrorKind, Result};

/// Refuses the next write once it is cancelled, also between the parts of a long change. What is begun by then
/// stays half done, as a kill would leave it: the session ends as unclean, and the next run goes on with it.
pub(super) struct Stopping {
    pub(super) permit: Arc<dyn Permit>,
    pub(super) stop: CancellationToken,
}

impl Permit for Stopping {
    fn check(&self) -> Result<()> {
        if self.stop.is_cancelled() {
            self.permit.in_doubt();
            return Err(Error::new(ErrorKind::Interrupted, "write"));
        }
        self.permit.check()
    }

    fn may_begin(&self) -> bool {
        !self.stop.is_cancelled() && self.permit.may_begin()
    }

    fn in_doubt(&self) {
        self.permit.in_doubt();
    }

    fn session(&self) -> String {
        self.permit.session()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Default)]
    struct Session(AtomicBool);

    impl Permit for Session {
        fn check(&self) -> Result<()> {
            Ok(())
        }

        fn in_doubt(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_cut_short_is_on_record() {
        let (session, stop) = (Arc::new(Session::default()), CancellationToken::new());
        let stopping = Stopping { permit: session.clone(), stop: stop.clone() };
        assert!(stopping.check().is_ok());
        stop.cancel();
        assert!(!session.0.load(Ordering::Relaxed), "nothing was to be written yet");
        assert_eq!(stopping.check().err().map(|error| error.kind()), Some(ErrorKind::Interrupted));
        assert!(session.0.load(Ordering::Relaxed));
    }
}
