//! Runs the built program the way a user does: in a directory of its own, in a cleared environment.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tempfile::TempDir;

/// A directory, and the environment variables of the commands that run in it.
pub(crate) struct Sandbox {
    directory: TempDir,
    variables: BTreeMap<String, String>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A program that runs until it is told to stop; killed when dropped.
pub(crate) struct Running(Child);

impl Sandbox {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), variables: BTreeMap::new() }
    }

    /// A directory with the plan that the project ships.
    pub(crate) fn with_plan() -> Self {
        let sandbox = Self::new();
        sandbox.write("migration-plan.md", migrate::fixture::PLAN);
        sandbox
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sets a variable for every command from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// A variable that was set.
    pub(crate) fn variable(&self, name: &str) -> String {
        self.variables[name].clone()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// The program with arguments, not started yet. Its stdin is empty.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.other(env!("CARGO_BIN_EXE_migrate"), arguments)
    }

    /// Another program in the same place.
    pub(crate) fn other(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .envs(&self.variables)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs the program, and kills it once it has lived so long: then there is nothing to return.
    pub(crate) fn run_for(&self, arguments: &[&str], life: Duration) -> Option<Run> {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (ended, end) = channel();
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            // Whoever was killed has nobody waiting for this.
            ended.send(()).ok();
            text
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        if end.recv_timeout(life) == Err(RecvTimeoutError::Timeout) {
            child.kill().unwrap();
        }
        let code = child.wait().unwrap().code();
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        code.map(|code| Run { code: Some(code), stdout, stderr })
    }

    /// Starts both stores on free ports, and lets every command from now on use them.
    pub(crate) fn emulate(&mut self, arguments: &[&str]) -> Running {
        self.emulate_serving(arguments).0
    }

    /// As [`Self::emulate`], with what it said.
    pub(crate) fn emulate_serving(&mut self, arguments: &[&str]) -> (Running, serde_json::Value) {
        let mut all = vec!["emulate", "--output", "json"];
        all.extend(arguments);
        let mut child = self.command(&all).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let serving: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (name, value) in serving["variables"].as_object().unwrap() {
            self.set(name, value.as_str().unwrap());
        }
        (Running(child), serving)
    }

    /// Starts a command, and returns once it wrote a line to stderr that begins so.
    pub(crate) fn start_until(&self, arguments: &[&str], line: &str) -> Running {
        let mut child = self.command(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let found = lines.by_ref().find(|found| found.starts_with(line));
        assert!(found.is_some(), "no line begins with `{line}`");
        // Whoever reads no more would stop the program at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Running(child)
    }
}

impl Running {
    /// Waits for its end, and returns the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }

    /// Sends SIGINT or SIGTERM (by name, without `SIG`), and returns the exit code.
    pub(crate) fn signal(mut self, name: &str) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Run {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Demands an exit code, and shows what was printed where it is another one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Demands a failure as a user must see it: nothing on stdout, one error that names these, and what to do.
    #[track_caller]
    pub(crate) fn expect_error(self, code: i32, names: &[&str]) -> Self {
        let run = self.expect(code);
        let begins = |word: &str| run.stderr.lines().filter(|line| line.starts_with(word)).count();
        assert_eq!((begins("error: "), begins("hint: "), run.stdout.as_str()), (1, 1, ""), "{}", run.stderr);
        let (_, error) = run.stderr.split_once("error: ").unwrap();
        for name in names {
            assert!(error.contains(name), "`{name}` is not in: {error}");
        }
        run
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in:\n{}", self.stdout))
    }
}
