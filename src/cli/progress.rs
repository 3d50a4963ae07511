//! Renders the library's events: bars on a terminal, throttled plain lines elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use super::output::Output;
use crate::clock::Clock;
use crate::event::{Event, Reporter, Task};

/// Lines about one task are at least this far apart, unless it got on by a tenth.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The reporter of the command line.
pub(crate) struct Progress {
    output: Output,
    clock: Arc<dyn Clock>,
    running: Mutex<HashMap<Task, Running>>,
}

/// A task that began and did not end.
struct Running {
    total: Option<u64>,
    done: u64,
    began: Duration,
    bar: Option<ProgressBar>,
    printed_at: Duration,
    printed_done: u64,
}

impl Progress {
    /// A reporter that prints through `output`.
    pub(crate) fn new(output: Output, clock: Arc<dyn Clock>) -> Self {
        Self { output, clock, running: Mutex::new(HashMap::new()) }
    }

    fn start(&self, task: Task, total: Option<u64>) {
        let now = self.clock.monotonic();
        let bar = self.output.bars().map(|bars| bars.add(bar(task, total)));
        let running = Running { total, done: 0, began: now, bar, printed_at: now, printed_done: 0 };
        self.with(|tasks| tasks.insert(task, running));
    }

    fn advance(&self, task: Task, by: u64) {
        let now = self.clock.monotonic();
        let line = self.with(|tasks| {
            let running = tasks.get_mut(&task)?;
            running.done += by;
            if let Some(bar) = &running.bar {
                bar.inc(by);
                return None;
            }
            running.line_is_due(now).then(|| running.line(task, now))
        });
        if let Some(line) = line {
            self.output.note(line);
        }
    }

    fn finish(&self, task: Task) {
        let now = self.clock.monotonic();
        let Some(running) = self.with(|tasks| tasks.remove(&task)) else { return };
        if let Some(bar) = &running.bar {
            bar.finish_and_clear();
        }
        let took = now.saturating_sub(running.began);
        self.output.note(format_args!(
            "{}: {} in {:.1}s",
            task.label(),
            HumanCount(running.done),
            took.as_secs_f64()
        ));
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Task, Running>) -> T) -> T {
        // Progress is worth less than the work: a reporter that panicked once goes on.
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reporter for Progress {
    fn report(&self, event: Event) {
        match event {
            Event::Started { task, total } => self.start(task, total),
            Event::Advanced { task, by } => self.advance(task, by),
            Event::Finished { task } => self.finish(task),
            Event::Note(text) => self.output.note(text),
            Event::Warning(text) => self.output.warning(text),
        }
    }
}

impl Running {
    /// Whether enough time passed, or enough was done, since the last line.
    fn line_is_due(&mut self, now: Duration) -> bool {
        let tenth = self.total.is_some_and(|total| (self.done - self.printed_done) * 10 >= total);
        let ended = self.total == Some(self.done);
        let due = !ended
            && now > self.began + Duration::from_secs(1)
            && (tenth || now >= self.printed_at + LINE_INTERVAL);
        if due {
            self.printed_at = now;
            self.printed_done = self.done;
        }
        due
    }

    fn line(&self, task: Task, now: Duration) -> String {
        let (label, done) = (task.label(), HumanCount(self.done));
        let Some(total) = self.total.filter(|total| *total > 0) else { return format!("{label}: {done}") };
        let percent = self.done.saturating_mul(100) / total;
        let elapsed = now.saturating_sub(self.began);
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let left = elapsed.mul_f64(total.saturating_sub(self.done) as f64 / self.done.max(1) as f64);
        format!("{label}: {done} of {} ({percent} %), {} left", HumanCount(total), HumanDuration(left))
    }
}

fn bar(task: Task, total: Option<u64>) -> ProgressBar {
    let template = if total.is_some() {
        "{msg:>10} [{bar:30}] {human_pos} of {human_len}, {eta} left"
    } else {
        "{msg:>10} {spinner} {human_pos}"
    };
    let style = ProgressStyle::with_template(template).expect("invariant: the template is valid");
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style.progress_chars("=> ")).with_message(task.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(total: Option<u64>, done: u64) -> Running {
        let zero = Duration::ZERO;
        Running { total, done, began: zero, bar: None, printed_at: zero, printed_done: 0 }
    }

    #[test]
    fn a_line_says_how_much_of_how_much() {
        let line = running(Some(4000), 1000).line(Task::Fetch, Duration::from_secs(10));
        assert_eq!(line, "fetch: 1,000 of 4,000 (25 %), 30 seconds left");
        assert_eq!(running(None, 1234).line(Task::List, Duration::ZERO), "list: 1,234");
    }

    #[test]
    fn lines_come_every_tenth_or_every_few_seconds() {
        let second = Duration::from_secs;
        let mut task = running(Some(100), 9);
        assert!(!task.line_is_due(second(2)), "neither a tenth nor five seconds");
        task.done = 10;
        assert!(task.line_is_due(second(2)), "a tenth");
        assert!(!task.line_is_due(second(3)), "printed just now");
        assert!(task.line_is_due(second(7)), "five seconds");
        assert!(
            !running(Some(100), 50).line_is_due(Duration::from_millis(500)),
            "short work prints only its end"
        );
    }
}
