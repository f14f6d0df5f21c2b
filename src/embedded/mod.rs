//! The embedded server: a PostgreSQL with pgvector that vecload finds or fetches, sets up and runs by itself.
//!
//! [`EmbeddedServer::start`] is idempotent and safe to call from several processes at once. The server outlives
//! vecload, keeps its data in `.vecload/` and lets in the user who started it:
//!
//! - over a Unix-domain socket with peer authentication. The kernel says who connects, so there is no password that
//!   could reach a URL, a log or `ps`; the socket's directory is closed to other users. Sockets also move bulk data
//!   with less work than loopback TCP. This is what [`EmbeddedServer::url`] names;
//! - over 127.0.0.1 with a random password in a file that only its owner can read ([`EmbeddedServer::passfile`]),
//!   for clients that know no sockets.
//!
//! Where things are: `place.rs`. Which programs: `programs.rs`, else `wheel.rs`.

#![expect(
    clippy::disallowed_methods,
    reason = "other processes and their files are waited for; no event tells, and no runtime's worker waits"
)]

mod account;
mod cluster;
mod files;
mod installation;
mod machine;
mod place;
mod postmaster;
pub mod programs;
mod reach;
mod session;
mod settings;
mod startup;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

pub use installation::Programs;
pub use machine::Machine;
pub use settings::{Setting, settings_for};

use crate::error::{Context, Error, Kind, Result};
use cluster::ROLE;
use place::Place;
use postmaster::{Found, Postmaster};

/// How to find or make an embedded server.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Where the cluster is kept; `./.vecload` by default.
    pub dir: PathBuf,
    /// The directory of the server programs to use, instead of a search.
    pub pg_bindir: Option<PathBuf>,
    /// The loopback port to use, instead of a free one.
    pub port: Option<u16>,
    /// Settings for this start, which win over vecload's own (those in `postgresql.conf` win over them).
    pub extra_settings: Vec<(String, String)>,
    /// Whether the server has to have Citus.
    pub need_citus: bool,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            dir: PathBuf::from(".vecload"),
            pg_bindir: None,
            port: None,
            extra_settings: Vec::new(),
            need_citus: false,
        }
    }
}

/// A running embedded server. Dropping it leaves the server running.
#[derive(Debug, Clone)]
pub struct EmbeddedServer {
    place: Place,
    postmaster: Postmaster,
}

/// What `vecload db status` tells.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// `ready`, `starting` (perhaps recovering from a crash) or `stopping`.
    pub state: String,
    /// The server's process.
    pub pid: i32,
    /// The user it runs as.
    pub user: String,
    /// Its version, as `18.6`.
    pub version: String,
    /// The port; loopback only.
    pub port: u16,
    /// The socket's directory.
    pub socket_dir: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The directory of its programs.
    pub bindir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// How long it has been running.
    pub uptime_seconds: u64,
    /// Bytes in the data directory.
    pub size_bytes: u64,
    /// Where to connect.
    pub url: String,
}

/// A killed process with much memory takes a while to vanish.
const DYING_WAIT_MAX: Duration = Duration::from_secs(3);

impl EmbeddedServer {
    /// The running server; started, and before that fetched and set up, as far as needed.
    ///
    /// Blocks: for milliseconds if it is running, for seconds the first time, for minutes after a crash in the middle
    /// of a load. `say` is told about what takes long, a line at a time.
    pub fn start(options: &EmbeddedOptions, say: &dyn Fn(&str)) -> Result<Self> {
        let place = Place::create(&absolute(&options.dir)?, say)?;
        // Held until the server takes connections: who comes second finds it running.
        let _lock = place.lock(say)?;
        let since = Instant::now();
        loop {
            let (postmaster, was_running) = match postmaster::settle(&place, say)? {
                Found::Running(postmaster) => (postmaster, true),
                Found::Nothing | Found::Stale => (startup::start_up(&place, options, say)?, false),
            };
            match session::prepare(&place, &postmaster, options.need_citus) {
                Ok(()) => {
                    if was_running && options.port.is_some_and(|port| port != postmaster.port) {
                        say(&format!("the server is running already, on port {}", postmaster.port));
                    }
                    return Ok(Self { place, postmaster });
                }
                // It was killed a moment ago and is still being taken apart: look again.
                Err(error)
                    if was_running && error.kind() != Kind::Refused && since.elapsed() < DYING_WAIT_MAX =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The server if it runs (it may be starting or stopping: see [`Status::state`]).
    pub fn running(options: &EmbeddedOptions) -> Result<Option<Self>> {
        let Some(place) = Place::find(&absolute(&options.dir)?)? else {
            return Ok(None);
        };
        Ok(match postmaster::look(&place)? {
            Found::Running(postmaster) => Some(Self { place, postmaster }),
            Found::Nothing | Found::Stale => None,
        })
    }

    /// Stops the server and waits until it has; sessions are ended, what they hadn't committed is rolled back.
    /// Says whether there was one.
    pub fn stop(options: &EmbeddedOptions) -> Result<bool> {
        let Some(place) = Place::find(&absolute(&options.dir)?)? else {
            return Ok(false);
        };
        let _lock = place.lock(&|_| {})?;
        let Found::Running(postmaster) = postmaster::look(&place)? else {
            return Ok(false);
        };
        postmaster::stop(&place, &postmaster)?;
        Ok(true)
    }

    /// A URL of the database for libpq and everything that reads such URLs. It holds no secret.
    pub fn url(&self) -> String {
        socket_url(&self.postmaster.socket_dir, self.postmaster.port)
    }

    /// A URL for clients that know no sockets; names the file with the password. `None` without loopback network.
    pub fn tcp_url(&self) -> Option<String> {
        let passfile = self.place.passfile();
        let address = (!self.postmaster.listen.is_empty()).then_some(&self.postmaster.listen)?;
        let port = self.postmaster.port;
        Some(format!(
            "postgresql://{ROLE}@{address}:{port}/{ROLE}?passfile={}",
            in_url(&passfile.to_string_lossy())
        ))
    }

    /// The file with the loopback port's password, in libpq's format, readable by its owner only.
    pub fn passfile(&self) -> PathBuf {
        self.place.passfile()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.postmaster.port
    }

    /// The socket's directory: what libpq calls the host.
    pub fn socket_dir(&self) -> &Path {
        &self.postmaster.socket_dir
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.place.log()
    }

    /// The directory of the programs the server was started from.
    pub fn bindir(&self) -> Result<PathBuf> {
        // `/path/postgres "-D" "."`
        let file = self.place.data().join("postmaster.opts");
        let text = std::fs::read_to_string(&file).or_failed(|| format!("read {}", file.display()))?;
        let program = text.split(" \"").next().unwrap_or_default().trim();
        let bindir = Path::new(program).parent().map(Path::to_path_buf);
        bindir.ok_or_else(|| Error::failed(format!("{} names no program", file.display())))
    }

    /// A psql of this server's version, connected to its database; takes further arguments.
    pub fn psql_command(&self) -> Result<Command> {
        let own = self.bindir()?.join("psql");
        let mut command = Command::new(if own.is_file() { own } else { PathBuf::from("psql") });
        account::without_pg_variables(&mut command);
        command.arg("--dbname").arg(self.url());
        Ok(command)
    }

    /// Everything worth knowing about the server.
    pub fn status(&self) -> Result<Status> {
        let bindir = self.bindir()?;
        // Upgraded underneath: the file may be another version or gone, the server still runs.
        let version = installation::version_in(&bindir).unwrap_or_else(|| "unknown".to_owned());
        let uptime = SystemTime::now().duration_since(self.postmaster.since).unwrap_or_default();
        Ok(Status {
            state: self.postmaster.state.clone(),
            pid: self.postmaster.pid,
            user: self.place.account().name().to_owned(),
            version,
            port: self.postmaster.port,
            socket_dir: self.postmaster.socket_dir.clone(),
            data_dir: self.place.data(),
            bindir,
            log: self.place.log(),
            uptime_seconds: uptime.as_secs(),
            size_bytes: files::size_of_tree(&self.place.data()),
            url: self.url(),
        })
    }
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).or_failed(|| format!("find directory {}", dir.display()))
}

fn socket_url(socket_dir: &Path, port: u16) -> String {
    format!("postgresql://{ROLE}@/{ROLE}?host={}&port={port}", in_url(&socket_dir.to_string_lossy()))
}

/// Everything but plain characters is escaped; slashes are plain in a query.
fn in_url(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');
    utf8_percent_encode(text, KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_and_nothing_is_made_where_nobody_started_anything() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { dir: dir.path().join(".vecload"), ..EmbeddedOptions::default() };
        assert!(EmbeddedServer::running(&options).unwrap().is_none());
        assert!(!EmbeddedServer::stop(&options).unwrap());
        assert!(!options.dir.is_dir());
    }

    #[test]
    fn urls_escape_what_urls_must() {
        assert_eq!(in_url("/tmp/a b&c/ü"), "/tmp/a%20b%26c/%C3%BC");
    }

    #[test]
    fn the_url_says_the_same_to_tokio_postgres() {
        let config: tokio_postgres::Config = socket_url(Path::new("/tmp/a b"), 5555).parse().unwrap();
        assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Unix("/tmp/a b".into())]);
        assert_eq!((config.get_user(), config.get_dbname()), (Some("vecload"), Some("vecload")));
        assert_eq!(config.get_ports(), [5555]);
    }
}
