//! The program, run so that tests read like sentences:
//! `Load::of(path).into(&db).with("--writers", 3).run().exits(0).state("complete")`.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::PipeReader;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;

use super::server::{Db, remove_server};
use super::session::runtime;

/// No run of a test takes longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// The keys of a load's JSON that are part of the command line's contract (DESIGN section 4).
pub(crate) const REPORT_KEYS: [&str; 15] = [
    "load",
    "name",
    "state",
    "rows",
    "bytes",
    "seconds",
    "rows_per_second",
    "peak_rss_bytes",
    "lanes",
    "writers",
    "route",
    "bottleneck",
    "stages",
    "index",
    "server",
];

/// Builds `vecload load`.
pub(crate) struct Load;

impl Load {
    /// Loads a source and tells about it in JSON.
    pub(crate) fn of(source: impl AsRef<OsStr>) -> Vecload {
        vecload(["load", "--json"]).arg(source)
    }
}

/// Any command of vecload, in an empty directory and with an empty environment.
pub(crate) fn vecload<T: AsRef<OsStr>>(arguments: impl IntoIterator<Item = T>) -> Vecload {
    Vecload {
        arguments: arguments.into_iter().map(|argument| argument.as_ref().into()).collect(),
        environment: Vec::new(),
        directory: None,
        data_bytes_max: None,
        input: None,
        patience: PATIENCE,
    }
}

/// A command line that is being put together.
#[derive(Clone)]
pub(crate) struct Vecload {
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    directory: Option<PathBuf>,
    data_bytes_max: Option<u64>,
    input: Option<Arc<PipeReader>>,
    patience: Duration,
}

impl Vecload {
    /// Adds an argument, for a load one more source.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    /// Adds an option and its value.
    pub(crate) fn with(self, option: &str, value: impl Display) -> Self {
        self.arg(option).arg(value.to_string())
    }

    /// Names the database.
    pub(crate) fn into(self, db: &Db) -> Self {
        self.with("--db", db.url())
    }

    /// Names the table.
    pub(crate) fn table(self, table: &str) -> Self {
        self.with("--table", table)
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs in a directory that stays.
    pub(crate) fn within(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Ends the program if it takes more memory than this (Linux counts all private memory that can be written).
    pub(crate) fn at_most_memory(mut self, bytes: u64) -> Self {
        self.data_bytes_max = Some(bytes);
        self
    }

    /// Reads standard input from a pipe.
    pub(crate) fn reading(mut self, pipe: PipeReader) -> Self {
        self.input = Some(Arc::new(pipe));
        self
    }

    /// Ends the program after this time, and fails.
    pub(crate) fn within_seconds(mut self, seconds: u64) -> Self {
        self.patience = Duration::from_secs(seconds);
        self
    }

    /// Runs to the end.
    #[track_caller]
    pub(crate) fn run(self) -> Outcome {
        self.start().outcome()
    }

    /// Starts, and goes on beside the test.
    pub(crate) fn start(self) -> Running {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str| File::create(scratch.path().join(name)).expect("create a file");
        let program = env!("CARGO_BIN_EXE_vecload");
        let mut command = match self.data_bytes_max {
            None => Command::new(program),
            Some(bytes) => {
                let mut shell = Command::new("sh");
                let limit = format!("ulimit -d {} && exec \"$0\" \"$@\"", bytes / 1024);
                shell.arg("-c").arg(limit).arg(program);
                shell
            }
        };
        command.args(&self.arguments).env_clear();
        for name in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", scratch.path()).envs(self.environment);
        let own = scratch.path().join("cwd");
        std::fs::create_dir(&own).expect("make a directory");
        command.current_dir(self.directory.unwrap_or(own));
        let input = self.input.as_ref().map(|pipe| pipe.try_clone().expect("the end of a pipe"));
        command.stdin(input.map_or_else(Stdio::null, Stdio::from));
        command.stdout(file("stdout")).stderr(file("stderr"));
        let runtime = runtime();
        let child = runtime.block_on(async { command.kill_on_drop(true).spawn() });
        Running {
            child: child.expect("start vecload"),
            runtime,
            scratch,
            patience: self.patience,
            arguments: self.arguments,
        }
    }
}

/// A vecload at work; killed if the test ends first.
pub(crate) struct Running {
    child: Child,
    runtime: Runtime,
    scratch: TempDir,
    patience: Duration,
    arguments: Vec<OsString>,
}

impl Running {
    /// Its process.
    pub(crate) fn process(&self) -> i32 {
        self.child.id().map_or(0, u32::cast_signed)
    }

    /// How it was called.
    pub(crate) fn command_line(&self) -> String {
        command_line(&self.arguments)
    }

    /// SIGKILL: nothing can be put in order.
    #[track_caller]
    pub(crate) fn kill(self) {
        self.signal(Signal::SIGKILL);
        let outcome = self.outcome_of_any_end();
        assert_eq!(outcome.status.signal(), Some(9), "it ended before it was killed{outcome}");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process();
        assert!(process > 0, "it has ended already");
        kill(Pid::from_raw(process), signal).expect("send a signal");
    }

    /// What it has said so far on stderr.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("stderr")).unwrap_or_default()
    }

    /// Waits for its end, but no longer than this; says whether it has ended.
    pub(crate) fn has_ended_within(&mut self, patience: Duration) -> bool {
        let ended = self.runtime.block_on(async { tokio::time::timeout(patience, self.child.wait()).await });
        ended.is_ok()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn outcome(self) -> Outcome {
        let outcome = self.outcome_of_any_end();
        let quiet = !outcome.stderr.contains("panicked") && !outcome.stderr.contains("stack overflow");
        assert!(quiet && outcome.status.code() != Some(101), "it panicked{outcome}");
        assert!(outcome.status.code().is_some(), "it was ended by a signal{outcome}");
        outcome
    }

    /// Waits for its end, whatever that may be.
    #[track_caller]
    pub(crate) fn outcome_of_any_end(mut self) -> Outcome {
        let ended =
            self.runtime.block_on(async { tokio::time::timeout(self.patience, self.child.wait()).await });
        let read = |name: &str| {
            let bytes = std::fs::read(self.scratch.path().join(name)).expect("read what it printed");
            String::from_utf8(bytes).expect("it prints UTF-8")
        };
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        // Only a test that asks for one, in a directory of `new_project`, may leave a server.
        let started = remove_server(&self.scratch.path().join("cwd"));
        assert!(!started, "{:?} started a server of its own: {stderr}", self.arguments);
        let status = match ended {
            Ok(status) => status.expect("wait for vecload"),
            Err(_) => panic!("{:?} took more than {:?}: {stderr}", self.arguments, self.patience),
        };
        let report = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        Outcome { status, stdout, stderr, report, arguments: self.arguments }
    }
}

/// How a run ended and what it told.
pub(crate) struct Outcome {
    status: ExitStatus,
    /// The answer.
    pub(crate) stdout: String,
    /// Everything else.
    pub(crate) stderr: String,
    /// The answer, if it was JSON.
    pub(crate) report: Value,
    arguments: Vec<OsString>,
}

impl Outcome {
    /// The exit code. A report, if there is one, has to balance.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "the exit code{self}");
        let rows = &self.report["rows"];
        if rows.is_object() {
            let [read, loaded, rejected, already] = ["read", "loaded", "rejected", "already_loaded"]
                .map(|key| rows[key].as_u64().expect("a count"));
            assert_eq!(read, loaded + rejected + already, "the balance{self}");
        }
        if code == 1 || code == 2 || code == 4 {
            assert!(self.stderr.contains("error: "), "a failure is explained{self}");
        }
        self
    }

    /// The exit code.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The signal that ended it.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The state in the report.
    #[track_caller]
    pub(crate) fn state(self, state: &str) -> Self {
        assert_eq!(self.report["state"], state, "the state{self}");
        self
    }

    /// Rows in the report: loaded, rejected, already loaded.
    #[track_caller]
    pub(crate) fn rows(self, loaded: u64, rejected: u64, already: u64) -> Self {
        let rows = &self.report["rows"];
        let found = ["loaded", "rejected", "already_loaded"].map(|key| rows[key].as_u64());
        assert_eq!(
            found,
            [Some(loaded), Some(rejected), Some(already)],
            "loaded, rejected, already loaded{self}"
        );
        self
    }

    /// Something that stderr must hold.
    #[track_caller]
    pub(crate) fn says(self, text: impl AsRef<str>) -> Self {
        assert!(self.stderr.contains(text.as_ref()), "it should say {:?}{self}", text.as_ref());
        self
    }

    /// Something that the answer must hold.
    #[track_caller]
    pub(crate) fn answers(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "it should answer {text:?}{self}");
        self
    }

    /// Something that must be nowhere.
    #[track_caller]
    pub(crate) fn never_says(self, text: &str) -> Self {
        assert!(
            !self.stderr.contains(text) && !self.stdout.contains(text),
            "it should not say {text:?}{self}"
        );
        self
    }

    /// The load's number in the report.
    #[track_caller]
    pub(crate) fn load(&self) -> i64 {
        self.report["load"].as_i64().unwrap_or_else(|| panic!("a load in the report{self}"))
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "\n  $ {}\n  {}\n--- stdout\n{}--- stderr\n{}",
            command_line(&self.arguments),
            self.status,
            self.stdout,
            self.stderr
        )
    }
}

fn command_line(arguments: &[OsString]) -> String {
    let words = arguments.iter().map(|argument| argument.to_string_lossy());
    std::iter::once("vecload".into()).chain(words).collect::<Vec<_>>().join(" ")
}
