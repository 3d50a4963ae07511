//! What every command gets: the resolved settings, and the parts of the library they lead to.
//!
//! Parts are made when a command first asks for them, so that `migrate provision` needs no token and
//! `migrate export` no AWS credentials. Commands never read flags of other commands, the environment or
//! the terminal themselves.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::flags::GlobalFlags;
use super::output::Output;
use super::progress::Progress;
use super::settings::Environment;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;

/// What every command gets.
pub(crate) struct Context {
    /// The flags that every command takes.
    pub(crate) flags: GlobalFlags,
    /// The environment variables that this program reads.
    pub(crate) environment: Environment,
    /// The owner of stdout and stderr.
    pub(crate) output: Output,
    /// Where the library tells what it does.
    pub(crate) events: Events,
    /// The machine's clocks.
    pub(crate) clock: Arc<dyn Clock>,
    /// Cancelled by the first Ctrl-C or SIGTERM.
    pub(crate) cancel: CancellationToken,
}

impl Context {
    /// A context for one command line. A command that runs others (`demo`) makes one for each.
    pub(crate) fn new(
        flags: GlobalFlags,
        environment: Environment,
        output: Output,
        cancel: CancellationToken,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let events = Arc::new(Progress::new(output.clone(), Arc::clone(&clock)));
        Self { flags, environment, output, events, clock, cancel }
    }

    /// Runs work that may be dropped at any await; Ctrl-C ends it.
    ///
    /// # Errors
    /// `Interrupted`, and what the work itself reports.
    pub(crate) async fn interruptible<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.cancel
            .run_until_cancelled(work)
            .await
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Interrupted, operation).message("interrupted")))
    }
}
