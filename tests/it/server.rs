//! The PostgreSQL server of the tests, one database for each test, and the sessions that tests ask questions with.
//!
//! The first test process starts a server through `vecload::embedded`, or takes the one that `VECLOAD_TEST_URL`
//! names. Every test process holds a shared lock on a file while it lives; the kernel gives it back however the
//! process ends. A detached watchdog, this same binary, waits until it has the lock alone and stops the server.

use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vecload::embedded::{EmbeddedOptions, EmbeddedServer};

use super::session::Session;

/// Names an existing server, `postgresql://user@host/database`, whose user may create databases and roles.
const URL_VARIABLE: &str = "VECLOAD_TEST_URL";
/// Makes this binary the watchdog.
const WATCHDOG_VARIABLE: &str = "VECLOAD_IT_WATCHDOG";
/// Between two processes of nextest nobody may hold the lock for a moment.
const WATCHDOG_GRACE: Duration = Duration::from_secs(4);

/// The schema of the ledger.
pub(crate) const LEDGER: &str = "vecload_ledger";

/// The server of this test run.
pub(crate) struct Server {
    /// Everything of its URL before the database's name, and after it.
    before: String,
    after: String,
    template: String,
    /// Held until the process ends.
    _in_use: Option<File>,
}

/// The server; started if this is the first test.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let in_use = lock_file("in-use.lock");
        in_use.lock_shared().expect("lock the server");
        let watchdog = lock_file("watchdog.lock");
        if watchdog.try_lock().is_ok() {
            watchdog.unlock().expect("unlock");
            start_watchdog();
        }
        Server::at(&url_of_server(), Some(in_use))
    })
}

fn url_of_server() -> String {
    std::env::var(URL_VARIABLE).unwrap_or_else(|_| {
        let server = EmbeddedServer::start(&options(), &|line| eprintln!("{line}"));
        server.expect("start the test server").url()
    })
}

#[expect(clippy::zombie_processes, reason = "it outlives this process, that is what it is for")]
fn start_watchdog() {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "server::the_server_stops_after_the_last_test"]);
    command.env(WATCHDOG_VARIABLE, "1").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C and test runners end process groups; this one stays to clear up.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().expect("start the watchdog");
}

/// Where the server and its locks are kept between runs.
fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("it-server")
}

/// Where tests of the embedded server keep theirs; what still runs there in the end is stopped.
fn projects() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("it-projects")
}

/// A path with a space and more.
const PROJECT: &str = "my project, \u{fc}";

/// A fresh directory for an embedded server of a test's own.
pub(crate) fn new_project() -> PathBuf {
    server();
    let directory =
        projects().join(format!("project_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let project = directory.join(PROJECT);
    std::fs::create_dir_all(&project).expect("make a directory");
    project
}

/// Stops and removes a server that was started in a directory; says whether there was anything to remove.
pub(crate) fn remove_server(directory: &Path) -> bool {
    let dir = directory.join(".vecload");
    if !dir.is_dir() {
        return false;
    }
    let stopped = EmbeddedServer::stop(&EmbeddedOptions { dir: dir.clone(), ..EmbeddedOptions::default() });
    // As root the cluster lies elsewhere.
    if let Ok(elsewhere) = std::fs::read_link(dir.join("server")) {
        std::fs::remove_dir_all(elsewhere).expect("remove the cluster");
    }
    std::fs::remove_dir_all(dir).expect("remove the server's directory");
    stopped.expect("stop the server");
    true
}

/// Numbers databases and directories of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

fn options() -> EmbeddedOptions {
    let setting = |name: &str, value: &str| (name.to_string(), value.to_string());
    EmbeddedOptions {
        dir: home(),
        extra_settings: vec![
            setting("max_connections", "200"),
            setting("shared_buffers", "256MB"),
            setting("maintenance_work_mem", "256MB"),
            setting("max_wal_size", "2GB"),
            // No test kills this server, so nothing has to survive that.
            setting("fsync", "off"),
            setting("full_page_writes", "off"),
        ],
        ..EmbeddedOptions::default()
    }
}

fn lock_file(name: &str) -> File {
    std::fs::create_dir_all(home()).expect("make the server's directory");
    let mut open = OpenOptions::new();
    let file = open.create(true).truncate(false).write(true).open(home().join(name));
    file.expect("open a lock file")
}

impl Server {
    fn at(url: &str, in_use: Option<File>) -> Self {
        let host = url.find("://").expect("a URL with ://") + 3;
        let slash = host + url[host..].find('/').expect("a URL with a database");
        let end = url[slash..].find('?').map_or(url.len(), |at| slash + at);
        let mut server = Self {
            before: url[..=slash].to_string(),
            after: url[end..].to_string(),
            template: String::new(),
            _in_use: in_use,
        };
        server.template = server.make_template();
        server
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("{}{database}{}", self.before, self.after)
    }

    /// A session of the server's owner.
    pub(crate) fn admin(&self) -> Session {
        Session::open(&self.url("postgres"))
    }

    /// A database with pgvector, to copy for each test.
    fn make_template(&self) -> String {
        let admin = self.admin();
        let version = "select default_version from pg_available_extensions where name = 'vector'";
        let version: String = admin.one(version);
        let name = format!("it_template_{}", version.replace(['.', '-'], "_"));
        admin.run("select pg_advisory_lock(5430)");
        let there =
            format!("select exists (select from pg_database where datname = '{name}' and datistemplate)");
        if !admin.one::<bool>(&there) {
            admin.run(&format!("drop database if exists {name}"));
            admin.run(&format!("create database {name}"));
            Session::open(&self.url(&name)).run("create extension vector");
            admin.run(&format!("alter database {name} is_template true"));
        }
        admin.run("select pg_advisory_unlock(5430)");
        name
    }
}

/// A test's own database; a session with it, as the server's owner.
pub(crate) struct Db {
    name: String,
    session: Session,
}

impl Db {
    /// A database with pgvector and nothing else.
    pub(crate) fn new() -> Self {
        Self::from_template(&server().template)
    }

    /// A database without pgvector.
    pub(crate) fn bare() -> Self {
        Self::from_template("template1")
    }

    fn from_template(template: &str) -> Self {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("main").rsplit("::").next().unwrap_or("main");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let test: String = test.chars().take(40).collect();
        let name = format!("it_{test}_{}_{number}", std::process::id());
        server().admin().run(&format!("create database {name} template {template}"));
        Self { session: Session::open(&server().url(&name)), name }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        server().url(&self.name)
    }

    /// One more session.
    pub(crate) fn session(&self) -> Session {
        Session::open(&self.url())
    }

    /// Makes a table as `vecload migrate` does, without indexes.
    pub(crate) fn table(&self, name: &str, dim: usize) -> &Self {
        make_table(&self.session, name, dim);
        self
    }
}

/// Makes a table as `vecload migrate` does, without indexes.
pub(crate) fn make_table(session: &Session, name: &str, dim: usize) {
    session.run(&format!(
        "create sequence {name}_id_seq;
         create table {name} (id bigint not null default nextval('{name}_id_seq'), channel_id bigint not null,
             user_id bigint not null, content text not null, embedding vector({dim}) not null,
             metadata jsonb not null default '{{}}', created_at timestamptz not null default now(),
             primary key (id, channel_id))"
    ));
}

impl Deref for Db {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the test's database is kept until the next run: {}", self.url());
        } else {
            server().admin().run(&format!("drop database {} with (force)", self.name));
        }
    }
}

#[test]
fn the_server_stops_after_the_last_test() {
    if std::env::var_os(WATCHDOG_VARIABLE).is_none() {
        return;
    }
    let watchdog = lock_file("watchdog.lock");
    if watchdog.try_lock().is_err() {
        return;
    }
    // A failure here must not keep the watchdog from its duty.
    drop(std::panic::catch_unwind(remove_what_failed_tests_left));
    let in_use = lock_file("in-use.lock");
    let (_never, quiet) = crossbeam_channel::bounded::<()>(0);
    loop {
        in_use.lock().expect("wait until no test runs");
        in_use.unlock().expect("unlock");
        assert!(quiet.recv_timeout(WATCHDOG_GRACE).is_err(), "nobody sends");
        if in_use.try_lock().is_ok() {
            break;
        }
    }
    // A test process that comes now waits for the lock, finds no watchdog and no server, and starts both.
    let stopped = EmbeddedServer::stop(&options());
    for directory in std::fs::read_dir(projects()).into_iter().flatten().flatten() {
        let dir = directory.path().join(PROJECT).join(".vecload");
        drop(EmbeddedServer::stop(&EmbeddedOptions { dir, ..EmbeddedOptions::default() }));
    }
    drop(watchdog);
    drop(in_use);
    stopped.expect("stop the server");
}

/// Whether the process is gone that a name ends with, followed by a number: `…_PROCESS_NUMBER`.
fn is_left(name: &str) -> bool {
    let process = name.rsplit('_').nth(1).and_then(|process| process.parse().ok());
    process.is_some_and(|process| nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), None).is_err())
}

/// What failed tests of earlier runs have kept.
fn remove_what_failed_tests_left() {
    for directory in std::fs::read_dir(projects()).into_iter().flatten().flatten() {
        if is_left(&directory.file_name().to_string_lossy()) {
            remove_server(&directory.path().join(PROJECT));
            std::fs::remove_dir_all(directory.path()).expect("remove a project");
        }
    }
    let admin = Server::at(&url_of_server(), None).admin();
    let databases = "select datname::text from pg_database where datname ^@ 'it_' and not datistemplate";
    for name in admin.column::<String>(databases).iter().filter(|name| is_left(name)) {
        admin.run(&format!("drop database if exists {name} with (force)"));
    }
    let roles = "select rolname::text from pg_roles where rolname ^@ 'role_it_'";
    for name in admin.column::<String>(roles).iter().filter(|name| is_left(name)) {
        admin.run(&format!("drop role {name}"));
    }
}
