//! A server that a test may kill and start again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vecload::embedded::{EmbeddedOptions, EmbeddedServer};

use crate::server::{new_project, remove_server};
use crate::session::Session;

/// Longest wait for the server's end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server; it is stopped and removed when it is dropped.
pub(crate) struct OwnServer {
    project: PathBuf,
    options: EmbeddedOptions,
    server: EmbeddedServer,
}

impl OwnServer {
    /// Starts it; its databases have pgvector.
    pub(crate) fn start() -> Self {
        let project = new_project();
        let setting = |name: &str, value: &str| (name.to_string(), value.to_string());
        let options = EmbeddedOptions {
            dir: project.join(".vecload"),
            extra_settings: vec![
                setting("shared_buffers", "128MB"),
                setting("maintenance_work_mem", "64MB"),
                // The server is killed, the machine is not: what it has written is there.
                setting("fsync", "off"),
                setting("full_page_writes", "off"),
            ],
            ..EmbeddedOptions::default()
        };
        let server = launch(&options);
        let own = Self { project, options, server };
        own.session("template1").run("create extension vector");
        own
    }

    /// The URL of a database, past any proxy.
    pub(crate) fn url(&self, database: &str) -> String {
        self.server.url().replace("@/vecload?", &format!("@/{database}?"))
    }

    /// A session past any proxy.
    pub(crate) fn session(&self, database: &str) -> Session {
        Session::open(&self.url(database))
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.server.socket_dir().join(format!(".s.PGSQL.{}", self.server.port()))
    }

    /// As `pg_ctl stop -m immediate` does: nothing is put in order, and the next start recovers.
    pub(crate) fn crash(&self) {
        let process = self.server.status().expect("the server's state").pid;
        kill(Pid::from_raw(process), Signal::SIGQUIT).expect("end the server");
        let (since, (_never, quiet)) = (Instant::now(), crossbeam_channel::bounded::<()>(0));
        while EmbeddedServer::running(&self.options).expect("the server's state").is_some() {
            assert!(since.elapsed() < PATIENCE, "the server doesn't end");
            assert!(quiet.recv_timeout(Duration::from_millis(5)).is_err(), "nobody sends");
        }
    }

    /// Starts it after a crash.
    pub(crate) fn start_again(&mut self) {
        self.server = launch(&self.options);
    }

    /// Its log, for the story of a failure.
    pub(crate) fn log(&self) -> PathBuf {
        self.server.log()
    }
}

fn launch(options: &EmbeddedOptions) -> EmbeddedServer {
    EmbeddedServer::start(options, &|_line| {}).expect("start a server of the test's own")
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        remove_server(&self.project);
        // A failed test's files are kept until the next run.
        if !std::thread::panicking() {
            let parent = self.project.parent().unwrap_or(Path::new("."));
            drop(std::fs::remove_dir_all(parent));
        }
    }
}
