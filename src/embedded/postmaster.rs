//! The server process: what `postmaster.pid` says, whether that is true, launching and stopping it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::files;
use super::place::Place;
use crate::error::{Context, Error, Result};

/// Replaying 16 GB of log after a crash takes minutes on a slow disk.
const START_WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// The last checkpoint writes all dirty buffers.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// Below the ranges that systems hand out themselves, and nobody's known port.
const PORT_FIRST: u16 = 54329;
const PORTS_TRIED: u16 = 64;
/// Log files are begun anew at a start when larger.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// A running server, as its `postmaster.pid` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postmaster {
    /// The process.
    pub(super) pid: i32,
    /// The port, also part of the socket's name.
    pub(super) port: u16,
    /// The socket's directory.
    pub(super) socket_dir: PathBuf,
    /// The address it listens on, empty if on none.
    pub(super) listen: String,
    /// When it was started.
    pub(super) since: SystemTime,
    /// `starting`, `ready`, `stopping`.
    pub(super) state: String,
}

/// What a data directory says about its server.
#[derive(Debug)]
pub(super) enum Found {
    /// No server, no trace of one.
    Nothing,
    /// A pid file whose server is gone; the pid may be somebody else's by now.
    Stale,
    /// A server.
    Running(Postmaster),
}

/// Looks whether a server runs on this cluster.
pub(super) fn look(place: &Place) -> Result<Found> {
    let file = place.data().join("postmaster.pid");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(Error::failed(format!("read {}", file.display())).because(error)),
    };
    let Some(postmaster) = parse(&text) else {
        return Ok(Found::Stale);
    };
    if works_in(postmaster.pid, &place.data()) {
        return Ok(Found::Running(postmaster));
    }
    // In a container the pid means nothing, but the socket still leads to a server that lives in another one.
    let socket = place.run().join(format!(".s.PGSQL.{}", postmaster.port));
    if UnixStream::connect(&socket).is_ok() {
        let message =
            format!("a server that isn't visible from here already runs on {}", place.data().display());
        return Err(Error::failed(message).hint("it runs in another container: use it or stop it from there"));
    }
    Ok(Found::Stale)
}

fn parse(text: &str) -> Option<Postmaster> {
    let mut lines = text.lines().map(str::trim);
    let pid = lines.next()?.parse().ok().filter(|pid| *pid > 1)?;
    let _data_dir = lines.next();
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(lines.next()?.parse().ok()?);
    // A server that has just begun hasn't written the rest yet.
    let port = lines.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let socket_dir = PathBuf::from(lines.next().unwrap_or_default());
    let listen = lines.next().unwrap_or_default().to_owned();
    let state = lines.nth(1).filter(|state| !state.is_empty()).unwrap_or("starting").to_owned();
    Some(Postmaster { pid, port, socket_dir, listen, since, state })
}

/// Does this process work in that directory? Every postmaster does, and hardly anything else. Processes that are
/// dead but not yet waited for work nowhere.
#[cfg(target_os = "linux")]
fn works_in(pid: i32, data: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (id(Path::new(&format!("/proc/{pid}/cwd"))), id(data)) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

/// As on Linux; there is no /proc, but lsof is part of the system.
#[cfg(not(target_os = "linux"))]
fn works_in(pid: i32, data: &Path) -> bool {
    let mut command = std::process::Command::new("lsof");
    command.args(["-a", "-p", &pid.to_string(), "-d", "cwd", "-Fn"]);
    let Ok(output) = command.output() else {
        return false;
    };
    let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_path_buf());
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix('n'))
        .any(|directory| fs::canonicalize(directory).is_ok_and(|directory| directory == data))
}

/// Why a server didn't start, as far as another try can help.
#[derive(Debug)]
pub(super) enum StartFailure {
    /// Somebody took the port between our look and the server's.
    PortTaken(Error),
    /// Children of a killed server still finish their work.
    OldProcesses(Error),
    /// Anything else.
    Other(Error),
}

/// Launches the server in a session of its own and waits until it takes connections.
pub(super) fn launch(place: &Place, bindir: &Path, say: &dyn Fn(&str)) -> Result<Postmaster, StartFailure> {
    let account = place.account();
    let (child, log_start) = start_pg_ctl(place, bindir).map_err(StartFailure::Other)?;
    let finished = wait_for(child, place, log_start, say).map_err(StartFailure::Other)?;
    if finished
        && let Ok(Found::Running(postmaster)) = look(place)
        && postmaster.state == "ready"
    {
        return Ok(postmaster);
    }
    let said = files::tail(&place.log(), log_start, 12);
    let message = format!(
        "the server in {} did not start (as user {}); the end of its log says:\n{said}\n",
        place.data().display(),
        account.name()
    );
    let error = Error::failed(message.trim_end()).hint(format!("the whole log is {}", place.log().display()));
    Err(match said.as_str() {
        said if said.contains("could not create any TCP/IP sockets") => StartFailure::PortTaken(error),
        said if said.contains("is still in use") => StartFailure::OldProcesses(error),
        said if said.contains("No space left on device") => {
            StartFailure::Other(error.hint("make room on the disk (or in /dev/shm), then start again"))
        }
        _ => StartFailure::Other(error),
    })
}

/// `pg_ctl` gives the server its own session, out of reach of the terminal's Ctrl-C; its output is the log.
fn start_pg_ctl(place: &Place, bindir: &Path) -> Result<(Child, u64)> {
    let (account, path) = (place.account(), place.log());
    let opening = || format!("open {}", path.display());
    if fs::symlink_metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(&path, path.with_extension("log.old"))
            .or_failed(|| format!("rename {}", path.display()))?;
    }
    let log = files::open_append(&path, account).or_failed(opening)?;
    let log_start = log.metadata().or_failed(opening)?.len();
    let log_too = log.try_clone().or_failed(opening)?;
    let mut command = account.command(&bindir.join("pg_ctl"));
    let limit = START_WAIT_MAX.as_secs().to_string();
    // pg_ctl builds a shell command with the directory in it: a relative one needs no quoting.
    command.current_dir(place.data()).args(["start", "--silent", "--wait", "--timeout", &limit, "-D", "."]);
    command.process_group(0).stdout(log).stderr(log_too);
    let child = command.spawn().map_err(|cause| account.cannot_run(&command, cause))?;
    Ok((child, log_start))
}

/// Waits for `pg_ctl`; a recovery is told about, line by line.
fn wait_for(mut child: Child, place: &Place, log_start: u64, say: &dyn Fn(&str)) -> Result<bool> {
    let (since, mut told) = (Instant::now(), Instant::now());
    loop {
        if let Some(status) = child.try_wait().or_failed(|| "wait for pg_ctl".to_owned())? {
            return Ok(status.success());
        }
        if told.elapsed() > Duration::from_secs(5) {
            let line = files::tail(&place.log(), log_start, 1);
            say(&format!("the server is still starting after {} s: {line}", since.elapsed().as_secs()));
            told = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a server that is starting or stopping has done so.
pub(super) fn settle(place: &Place, say: &dyn Fn(&str)) -> Result<Found> {
    let since = Instant::now();
    let mut said = false;
    loop {
        match look(place)? {
            Found::Running(postmaster) if postmaster.state != "ready" => {
                if since.elapsed() > START_WAIT_MAX {
                    let message =
                        format!("the server (pid {}) is still {}", postmaster.pid, postmaster.state);
                    let hint = format!("its log is {}", place.log().display());
                    return Err(Error::failed(message).hint(hint));
                }
                if !said && since.elapsed() > Duration::from_secs(1) {
                    say(&format!("waiting for the server, which is {}", postmaster.state));
                    said = true;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            settled => return Ok(settled),
        }
    }
}

/// Stops a server: connections are ended, what they hadn't committed is rolled back.
pub(super) fn stop(place: &Place, postmaster: &Postmaster) -> Result<()> {
    let pid = Pid::from_raw(postmaster.pid);
    let stopping = || format!("stop the server in {} (pid {pid})", place.data().display());
    match kill(pid, Signal::SIGINT) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(Error::failed(stopping()).because(error)),
    }
    let since = Instant::now();
    while works_in(postmaster.pid, &place.data()) {
        if since.elapsed() > STOP_WAIT_MAX {
            let message = format!("{}: not done after {} s", stopping(), STOP_WAIT_MAX.as_secs());
            return Err(
                Error::failed(message).hint(format!("it goes on; its log is {}", place.log().display()))
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes what a server that is gone has left: its pid file and its socket with the lock beside it. PostgreSQL
/// would, but not while any process of the same user, or a dead one not waited for, has that pid. Its own check of
/// shared memory still guards the data against processes that live on.
pub(super) fn clear_traces(place: &Place) -> Result<()> {
    let run = place.run();
    let sockets = fs::read_dir(&run).or_failed(|| format!("open {}", run.display()))?;
    let sockets = sockets.flatten().map(|entry| entry.path());
    let sockets = sockets.filter(|path| path.to_string_lossy().contains("/.s.PGSQL."));
    for trace in sockets.chain([place.data().join("postmaster.pid")]) {
        match fs::remove_file(&trace) {
            Ok(()) => tracing::debug!(file = %trace.display(), "removed what a killed server left"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::failed(format!("remove {}", trace.display())).because(error)),
        }
    }
    Ok(())
}

/// A free loopback port: the one asked for or an error; else the one of last time, a usual one, any.
///
/// `None` on machines without loopback network: the socket is enough.
pub(super) fn free_port(asked: Option<u16>, last: Option<u16>) -> Result<Option<u16>> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = asked {
        bind(port)
            .or_refused(|| format!("port {port} of 127.0.0.1 is not free"))
            .map_err(|error| error.hint("leave the port out to get a free one"))?;
        return Ok(Some(port));
    }
    let usual = PORT_FIRST..PORT_FIRST + PORTS_TRIED;
    if let Some(port) = last.into_iter().chain(usual).find(|port| bind(*port).is_ok()) {
        return Ok(Some(port));
    }
    Ok(bind(0).and_then(|listener| listener.local_addr()).map(|address| address.port()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_are_read_as_far_as_they_are_written() {
        let whole = "812\n/p/data\n1790000000\n54329\n/p/run\n127.0.0.1\n  11  22\nready   \n";
        let postmaster = parse(whole).unwrap();
        assert_eq!((postmaster.pid, postmaster.port, postmaster.state.as_str()), (812, 54329, "ready"));
        assert_eq!(postmaster.socket_dir, Path::new("/p/run"));
        assert_eq!(parse("812\n/p/data\n1790000000\n").unwrap().state, "starting");
        for broken in ["", "x\n", "0\n/p\n1\n", "-812\n/p\n1\n", "812\n"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_process_is_known_by_the_directory_it_works_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let pid = child.id() as i32;
        assert!(works_in(pid, dir.path()));
        assert!(!works_in(std::process::id() as i32, dir.path()));
        child.kill().unwrap();
        // Not yet waited for: dead all the same.
        std::thread::sleep(Duration::from_millis(200));
        assert!(!works_in(pid, dir.path()));
        child.wait().unwrap();
    }

    #[test]
    fn a_taken_port_is_passed_over_unless_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port(None, Some(port)).unwrap(), Some(port));
        let error = free_port(Some(port), None).unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
        drop(taken);
        // Another process may take one that was free.
        let is_kept = |_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            free_port(None, Some(port)).unwrap() == Some(port)
        };
        assert!((0..20).any(is_kept));
    }
}
