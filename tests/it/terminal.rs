//! What a user sees in a terminal: commands on a pseudo-terminal, and the screen that they leave.

use std::io::Read as _;
use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::support::Sandbox;

/// A program that waits for input nobody gives is found out after so long.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The rows and columns of a terminal that nobody made larger.
const SMALL: (NonZeroU16, NonZeroU16) = (NonZeroU16::new(24).unwrap(), NonZeroU16::new(80).unwrap());

/// A program on a pseudo-terminal of its own; killed when dropped.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    /// Dropped, it would end the terminal.
    _master: Box<dyn MasterPty + Send>,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl Terminal {
    /// Starts the built program with these arguments on a terminal of so many rows and columns.
    fn start(sandbox: &Sandbox, (rows, cols): (NonZeroU16, NonZeroU16), arguments: &[&str]) -> Self {
        let size = PtySize { rows: rows.get(), cols: cols.get(), pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_migrate"));
        command.args(arguments);
        command.cwd(sandbox.path());
        command.env_clear();
        command.env("HOME", sandbox.path());
        command.env("TERM", "xterm-256color");
        let child = pair.slave.spawn_command(command).unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Linux answers with an error once the other side is closed.
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(rows, cols, 2_000);
        Self { child, _master: pair.master, output, screen }
    }

    /// Waits for its end. Nobody types anything: a program that is silent for too long waits for an answer.
    #[track_caller]
    fn end(&mut self) -> u32 {
        let mut heard = Instant::now();
        loop {
            match self.output.recv_timeout(Duration::from_millis(200)) {
                Ok(bytes) => {
                    heard = Instant::now();
                    self.screen.process(&bytes);
                }
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().exit_code(),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(status) = self.child.try_wait().unwrap() {
                        while let Ok(bytes) = self.output.try_recv() {
                            self.screen.process(&bytes);
                        }
                        return status.exit_code();
                    }
                    assert!(heard.elapsed() < SILENCE_MAX, "it waits:\n{}", self.screen.screen().contents());
                }
            }
        }
    }

    /// What the screen shows now.
    fn shown(&self) -> String {
        self.screen.screen().contents()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
    }
}

/// The first command of the README: whoever types it watches, and is asked nothing.
#[test]
fn the_demo_asks_nothing_and_comes_to_its_end() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::start(&sandbox, SMALL, &["demo", "--signups", "20"]);
    let code = terminal.end();
    assert_eq!(code, 0, "{}", terminal.shown());
    assert!(terminal.shown().contains("That was a whole migration of"), "{}", terminal.shown());
}
