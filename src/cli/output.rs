//! The one owner of stdout, stderr and the progress bars.
//!
//! stdout carries only results: tables and sentences, or with `--output json` exactly one object per
//! command. Everything else goes to stderr: progress, notes, warnings, logs, questions.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;

use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use super::flags::{Format, GlobalFlags};
use crate::error::{Error, ErrorKind, Exit};
use crate::legible::{legible, legible_json, legible_lines};

/// The style of `error:`.
const ERROR: Style = AnsiColor::Red.on_default().bold();
/// The style of `warning:`.
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// The style of `hint:`.
const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// The style of `caused by:`.
const CAUSE: Style = Style::new().bold();

/// What a command found or did: printed for people, or as one JSON object.
pub(crate) trait Report: Serialize {
    /// Writes it for people, lines that end in a line break.
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result;
}

/// The printer. Cheap to clone; all clones share the terminal.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    terminal: bool,
    bars: Arc<MultiProgress>,
}

impl Output {
    /// The printer that the flags ask for. Also sets the process's choice of colours.
    pub(crate) fn new(flags: &GlobalFlags) -> Self {
        if let Some(choice) = match flags.color {
            clap::ColorChoice::Auto => None,
            clap::ColorChoice::Always => Some(anstream::ColorChoice::Always),
            clap::ColorChoice::Never => Some(anstream::ColorChoice::Never),
        } {
            choice.write_global();
        }
        let terminal = io::stderr().is_terminal();
        let target = if terminal && !flags.quiet {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bars = Arc::new(MultiProgress::with_draw_target(target));
        Self { format: flags.output, quiet: flags.quiet, terminal, bars }
    }

    /// A printer of JSON, for failures before the flags are known.
    pub(crate) fn json() -> Self {
        let bars = Arc::new(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        Self { format: Format::Json, quiet: false, terminal: false, bars }
    }

    /// Where progress bars are drawn; none where progress is printed line by line.
    pub(crate) fn bars(&self) -> Option<&MultiProgress> {
        (self.terminal && !self.quiet).then_some(&self.bars)
    }

    /// Whether stdout is to carry JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints what a command found or did. Once per command.
    ///
    /// # Errors
    /// What stdout reports; a reader that went away is no error.
    pub(crate) fn report(&self, report: &impl Report) -> io::Result<()> {
        let text = match self.format {
            Format::Json => json(report)?,
            Format::Human => {
                let mut text = String::new();
                report.human(&mut text).map_err(io::Error::other)?;
                legible_lines(&text).into_owned()
            }
        };
        self.stdout(&text)
    }

    fn stdout(&self, text: &str) -> io::Result<()> {
        let written = self.bars.suspend(|| {
            let mut stdout = anstream::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Tells what happens, on stderr.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.stderr(format_args!("{}\n", legible_lines(&text.to_string())));
        }
    }

    /// Tells what a user should act on, on stderr.
    pub(crate) fn warning(&self, text: impl Display) {
        self.stderr(format_args!("{WARNING}warning:{WARNING:#} {}\n", legible_lines(&text.to_string())));
    }

    fn stderr(&self, text: fmt::Arguments<'_>) {
        // Nobody is left to tell if stderr is gone.
        let written = self.bars.suspend(|| anstream::stderr().lock().write_fmt(text));
        drop(written);
    }

    /// Prints why a command failed, and returns the exit code that its kind of error has.
    pub(crate) fn failure(&self, failure: &anyhow::Error) -> Exit {
        let shown = Failure::new(failure);
        if self.is_json() {
            let written = json(&FailureObject { error: &shown });
            if let Err(error) = written.and_then(|object| self.stdout(&object)) {
                self.warning(format_args!("can't write to stdout: {error}"));
            }
        } else {
            let mut text = format!("{ERROR}error:{ERROR:#} {}\n", legible_lines(&shown.message));
            for cause in &shown.causes {
                text += &format!("{CAUSE}caused by:{CAUSE:#} {}\n", legible_lines(cause));
            }
            if let Some(hint) = shown.hint {
                text += &format!("{HINT}hint:{HINT:#} {}\n", legible_lines(hint));
            }
            self.stderr(format_args!("{text}"));
        }
        shown.exit
    }

    /// Whether somebody is there to answer questions.
    pub(crate) fn can_ask(&self) -> bool {
        self.terminal && io::stdin().is_terminal()
    }

    /// Asks a question that is answered with yes or no; none where nobody is there to answer.
    pub(crate) async fn ask(&self, question: &str) -> Option<bool> {
        let answer = self.ask_for(&format!("{question} [y/N]")).await?;
        Some(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks for a line; none where nobody is there to answer.
    pub(crate) async fn ask_for(&self, question: &str) -> Option<String> {
        if !self.can_ask() {
            return None;
        }
        self.stderr(format_args!("{} ", legible_lines(question)));
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).map(|_| answer)
        });
        Some(answer.await.ok()?.ok()?.trim().to_owned())
    }

    /// A writer for logs that leaves the progress bars whole.
    pub(crate) fn log_writer(&self) -> LogWriter {
        LogWriter { bars: Arc::clone(&self.bars), json: self.is_json() }
    }
}

/// An object in one line.
fn json(value: &impl Serialize) -> io::Result<String> {
    let text = serde_json::to_string(value).map_err(io::Error::other)?;
    Ok(legible_json(&text).into_owned() + "\n")
}

/// Writes log lines to stderr, above the progress bars.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter {
    bars: Arc<MultiProgress>,
    json: bool,
}

impl LogWriter {
    /// A line of the log, which comes as a whole. Colours are the subscriber's own: it lets no value bring any.
    fn legible<'a>(&self, line: &'a str) -> Cow<'a, str> {
        if self.json {
            return legible_json(line);
        }
        let words = line.strip_suffix('\n').unwrap_or(line);
        let colours = |words: &str| words.split('\u{1b}').map(legible).collect::<Vec<_>>().join("\u{1b}");
        (colours(words) + &line[words.len()..]).into()
    }
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = self.legible(&String::from_utf8_lossy(line)).into_owned();
        self.bars.suspend(|| anstream::stderr().lock().write_all(shown.as_bytes()))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// What `--output json` prints instead of a result.
#[derive(Serialize)]
struct FailureObject<'a> {
    error: &'a Failure<'a>,
}

/// A failure as it is shown: the fields of the object that `--output json` prints under `error`.
#[derive(Debug, Serialize)]
struct Failure<'a> {
    kind: &'static str,
    message: String,
    causes: Vec<String>,
    hint: Option<&'a str>,
    #[serde(serialize_with = "exit_code")]
    exit: Exit,
}

fn exit_code<S: serde::Serializer>(exit: &Exit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(exit.code())
}

impl<'a> Failure<'a> {
    fn new(failure: &'a anyhow::Error) -> Self {
        let ours = failure.chain().find_map(|cause| cause.downcast_ref::<Error>());
        let kind = ours.map_or(ErrorKind::Internal, Error::kind);
        let message = failure.to_string();
        let mut causes: Vec<String> = Vec::new();
        for cause in failure.chain().skip(1) {
            let cause = cause.to_string();
            // Many libraries repeat their cause in their own message.
            if !causes.last().unwrap_or(&message).contains(&cause) {
                causes.push(cause);
            }
        }
        Self {
            kind: kind.name(),
            message,
            causes,
            hint: ours.and_then(Error::advice),
            exit: kind.policy().exit,
        }
    }
}

/// A table without lines, columns two spaces apart, each line indented by two spaces.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let mut text = String::new();
    for line in table.lines() {
        text += "  ";
        text += line.strip_prefix(' ').unwrap_or(&line).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_its_causes_once_and_its_hint() {
        let io = io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Corrupt, "read the snapshot").key("a.snapshot").source(io);
        let failure = anyhow::Error::from(error).context("export");
        let shown = Failure::new(&failure);
        assert_eq!(shown.message, "export");
        assert_eq!(shown.causes, ["read the snapshot a.snapshot", "disk on fire"]);
        assert_eq!((shown.kind, shown.exit, shown.hint), ("corrupt", Exit::Unexpected, None));
    }

    #[test]
    fn a_cause_that_its_error_repeats_is_left_out() {
        let failure = anyhow::anyhow!("no such file").context("open: no such file");
        assert!(Failure::new(&failure).causes.is_empty());
    }

    #[test]
    fn a_foreign_error_is_unexpected() {
        let shown = anyhow::anyhow!("odd");
        assert_eq!(Failure::new(&shown).exit, Exit::Unexpected);
    }

    #[test]
    fn a_line_of_the_log_is_one_line_and_keeps_its_colours() {
        let bars = Arc::new(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        let [people, programs] = [false, true].map(|json| LogWriter { bars: Arc::clone(&bars), json });
        let line = "\u{1b}[33m WARN\u{1b}[0m a\u{202e}\nb\u{9b}\n";
        assert_eq!(people.legible(line), "\u{1b}[33m WARN\u{1b}[0m a\\u{202e}\\u{a}b\\u{9b}\n");
        assert_eq!(programs.legible("{\"a\":\"\u{202e}\"}\n"), "{\"a\":\"\\u202e\"}\n");
    }

    #[test]
    fn tables_are_aligned() {
        let text = table(
            ["what", "n"],
            [["list".to_owned(), "12".to_owned()], ["fetch".to_owned(), "3".to_owned()]],
        );
        assert_eq!(text, "  what   n\n  list   12\n  fetch  3\n");
    }
}
