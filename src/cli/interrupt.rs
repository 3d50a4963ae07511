//! Ctrl-C and SIGTERM: the first one lets the command end in good order, the second one ends it.

use tokio_util::sync::CancellationToken;

use super::output::Output;
use crate::error::Exit;

/// Listens for signals in the background, for as long as the runtime lives. From its return on, none ends the
/// process unheard.
pub(crate) fn listen(output: Output) -> CancellationToken {
    let cancel = CancellationToken::new();
    match Signals::new() {
        Ok(signals) => drop(tokio::spawn(wait(signals, output, cancel.clone()))),
        Err(error) => output.warning(format_args!("can't listen for signals: {error}")),
    }
    cancel
}

async fn wait(mut signals: Signals, output: Output, cancel: CancellationToken) {
    signals.next().await;
    output.note("stopping (once more to stop at once)");
    cancel.cancel();
    signals.next().await;
    #[expect(clippy::exit, reason = "the user asked twice; what is durable is durable")]
    std::process::exit(Exit::Interrupted.code().into())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a way to hear of it, wait for ever: the system's own handling ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Cancels when stdin ends: whoever started this process is gone, however that was.
pub(super) fn with_parent(cancel: CancellationToken) {
    // Nobody waits for this thread: it ends with the process.
    std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        cancel.cancel();
    });
}
