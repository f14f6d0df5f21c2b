//! A cluster of PostgreSQL servers with Citus, for tests that need several nodes.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use vecload::embedded::programs;

use super::program::{Load, Outcome, Vecload, vecload};
use super::session::Session;

/// Servers that live as long as this process: each has a shell that stops it when its standard input ends.
pub(crate) struct Cluster {
    nodes: Vec<Child>,
    /// The coordinator's, then those of the workers.
    pub(crate) ports: Vec<u16>,
    bindir: PathBuf,
    directory: PathBuf,
}

/// Starts a server, says so, and stops it when nobody holds the other end of standard input any more.
const KEEPER: &str = "\"$0/pg_ctl\" -D \"$1\" -w -l \"$1/log\" start >/dev/null && echo started
    cat >/dev/null
    \"$0/pg_ctl\" -D \"$1\" -m immediate stop >/dev/null; rm -rf \"$1\"; rmdir \"${1%/*}\" 2>/dev/null";

impl Cluster {
    /// A cluster with pgvector that tests share which leave its nodes alone; none, said loudly, without Citus. Each
    /// test has tables of its own.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        let start = || {
            let cluster = Self::start(3)?;
            cluster.session(0).run("create extension vector");
            Some(cluster)
        };
        SHARED.get_or_init(start).as_ref()
    }

    /// A cluster of its own: a coordinator that is registered, and workers.
    pub(crate) fn start(nodes: usize) -> Option<Self> {
        let mut cluster = Self::empty()?;
        for number in 0..nodes {
            cluster.start_node();
            cluster.session(number).run("set client_min_messages to error; create extension citus");
        }
        let coordinator = cluster.session(0);
        coordinator.run(&format!("select citus_set_coordinator_host('127.0.0.1', {})", cluster.ports[0]));
        for port in &cluster.ports[1..] {
            coordinator.run(&format!("select citus_add_node('127.0.0.1', {port})"));
        }
        Some(cluster)
    }

    /// No server yet, for tests that make a cluster by themselves.
    pub(crate) fn empty() -> Option<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let Some(programs) = programs::find(true, None).expect("a search for programs") else {
            eprintln!("SKIPPED: no Citus-capable PostgreSQL found");
            return None;
        };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("vecload-it-citus-{}-{number}", std::process::id());
        let cluster = Self {
            nodes: Vec::new(),
            ports: Vec::new(),
            bindir: programs.bindir,
            directory: std::env::temp_dir().join(name),
        };
        std::fs::create_dir(&cluster.directory).expect("make a directory");
        give_to_account(&cluster.directory);
        Some(cluster)
    }

    /// Starts another server that could be a node; it is in no cluster and has no extension yet.
    pub(crate) fn start_node(&mut self) -> usize {
        let port = free_port();
        self.make_data(self.nodes.len(), port);
        self.serve(port)
    }

    /// Puts another, empty server in a node's place, as when its disk was lost. It has the extension citus alone.
    pub(crate) fn lose_data(&self, node: usize) {
        self.crash(node);
        std::fs::remove_dir_all(self.data(node)).expect("lose a node's data");
        self.make_data(node, self.ports[node]);
        self.revive(node);
        self.session(node).run("set client_min_messages to error; create extension citus");
    }

    fn make_data(&self, node: usize, port: u16) {
        let data = self.data(node);
        let mut initdb = as_account(&self.bindir.join("initdb"));
        initdb
            .args(["--no-sync", "-A", "trust", "-U", "vecload", "-E", "UTF8", "--locale", "C", "-D"])
            .arg(&data);
        let done = initdb.output().expect("run initdb");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
             shared_preload_libraries = 'citus'\nwal_level = logical\nfsync = off\nfull_page_writes = off\n\
             max_connections = 200\nshared_buffers = 64MB\ncitus.node_conninfo = 'sslmode=prefer'\n"
        );
        let conf = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"));
        conf.and_then(|mut conf| conf.write_all(settings.as_bytes())).expect("write the settings");
    }

    /// Starts a standby of a node, which does not wait for it.
    pub(crate) fn start_clone(&mut self, of: usize) -> usize {
        let data = self.data(self.nodes.len());
        let mut copy = as_account(&self.bindir.join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-U", "vecload", "-R", "-X", "stream", "-c", "fast", "-p"]);
        let done = copy.arg(self.ports[of].to_string()).arg("-D").arg(&data).output();
        let done = done.expect("run pg_basebackup");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let port = free_port();
        let conf = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"));
        conf.and_then(|mut conf| writeln!(conf, "port = {port}")).expect("write the settings");
        self.serve(port)
    }

    /// Starts a standby of a node, which waits for it before it tells of a commit.
    pub(crate) fn start_standby(&mut self, of: usize) -> usize {
        let standby = self.start_clone(of);
        let session = self.session(of);
        session.run("alter system set synchronous_standby_names = '*'");
        session.run("select pg_reload_conf()");
        session.wait_until("(select count(*) from pg_stat_replication where sync_state = 'sync') > 0");
        standby
    }

    /// Makes a standby a server of its own.
    pub(crate) fn promote(&self, node: usize) {
        self.control(node, &["-w", "promote"]);
    }

    /// Runs the server of the next node.
    fn serve(&mut self, port: u16) -> usize {
        let number = self.nodes.len();
        let data = self.data(number);
        let mut keeper = as_account(Path::new("sh"));
        keeper
            .arg("-c")
            .arg(KEEPER)
            .arg(&self.bindir)
            .arg(&data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env("PGPASSFILE", self.directory.join("pgpass"))
            // libpq looks for certificates there, and a home of root can't be read.
            .env("HOME", &self.directory);
        keeper.process_group(0);
        let mut keeper = keeper.spawn().expect("start a node");
        let mut line = String::new();
        let read = BufReader::new(keeper.stdout.take().expect("its output")).read_line(&mut line);
        let log = || std::fs::read_to_string(data.join("log")).unwrap_or_default();
        assert!(read.is_ok() && line == "started\n", "node {number} did not start: {}", log());
        self.nodes.push(keeper);
        self.ports.push(port);
        number
    }

    /// Stops a node as a crash would.
    pub(crate) fn crash(&self, node: usize) {
        self.control(node, &["-m", "immediate", "stop"]);
    }

    /// Starts a node that was stopped.
    pub(crate) fn revive(&self, node: usize) {
        let log = self.data(node).join("log");
        self.control(node, &["-w", "-l", log.to_str().expect("UTF-8"), "start"]);
    }

    /// Stops a node in order, whose sessions are told so, and starts it.
    pub(crate) fn restart(&self, node: usize) {
        self.control(node, &["-m", "fast", "stop"]);
        self.revive(node);
    }

    /// Stops all processes of a node where they are, until what is given back is dropped.
    pub(crate) fn freeze(&self, node: usize) -> Frozen {
        let session = self.session(node);
        let file =
            std::fs::read_to_string(self.data(node).join("postmaster.pid")).expect("its first process");
        let first = file.lines().next().and_then(|line| line.parse().ok()).expect("a number");
        let mut frozen = Frozen(vec![Pid::from_raw(first)]);
        kill(frozen.0[0], Signal::SIGSTOP).expect("stop the first process");
        // From here on no others come.
        let others = "select pid from pg_stat_activity where pid <> pg_backend_pid()";
        frozen.0.extend(session.column::<i32>(others).into_iter().map(Pid::from_raw));
        for process in &frozen.0[1..] {
            // A session may have ended.
            let _gone = kill(*process, Signal::SIGSTOP);
        }
        frozen
    }

    fn control(&self, node: usize, words: &[&str]) {
        let mut control = as_account(&self.bindir.join("pg_ctl"));
        control.arg("-D").arg(self.data(node)).args(words).stdout(Stdio::null());
        assert!(control.status().expect("run pg_ctl").success(), "pg_ctl {words:?} of node {node}");
    }

    /// From now on all logins at all nodes need a password, those of the nodes at each other too.
    pub(crate) fn ask_for_password(&self, password: &str) {
        let line = format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"));
        let pgpass = self.directory.join("pgpass");
        std::fs::write(&pgpass, line).expect("write the password file");
        std::fs::set_permissions(&pgpass, Permissions::from_mode(0o600)).expect("hide the password file");
        give_to_account(&pgpass);
        for node in 0..self.nodes.len() {
            let session = self.session(node);
            // Each for itself: Citus 12 lets no worker change a role.
            session.run("set citus.enable_ddl_propagation to off");
            session.run(&format!("alter role vecload password '{}'", password.replace('\'', "''")));
            let rules = self.data(node).join("pg_hba.conf");
            std::fs::write(rules, "host all all 127.0.0.1/32 scram-sha-256\n").expect("write pg_hba.conf");
            session.run("select pg_reload_conf()");
            session.wait_until("(select auth_method = 'scram-sha-256' from pg_hba_file_rules)");
        }
    }

    /// From now on a node does not find the files of pgvector, as if they were not installed there (PostgreSQL 18).
    pub(crate) fn hide_vector(&self, node: usize) {
        let told = Command::new(self.program("pg_config")).arg("--sharedir").output().expect("run pg_config");
        let installed = Path::new(String::from_utf8_lossy(&told.stdout).trim()).join("extension");
        let shown = self.directory.join(format!("{node}-shown"));
        std::fs::create_dir_all(shown.join("extension")).expect("make a directory");
        for file in installed.read_dir().expect("list the extensions").flatten() {
            let name = file.file_name();
            if !name.to_string_lossy().starts_with("vector") {
                let link = shown.join("extension").join(&name);
                std::os::unix::fs::symlink(file.path(), link).expect("show an extension");
            }
        }
        let session = self.session(node);
        session.run(&format!("alter system set extension_control_path = '{}'", shown.display()));
        session.run("select pg_reload_conf()");
        session.wait_until("not exists (select from pg_available_extensions where name = 'vector')");
    }

    /// The program that came with the servers.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    fn data(&self, node: usize) -> PathBuf {
        self.directory.join(node.to_string())
    }

    pub(crate) fn url(&self, node: usize) -> String {
        format!("postgresql://vecload@127.0.0.1:{}/postgres", self.ports[node])
    }

    pub(crate) fn session(&self, node: usize) -> Session {
        Session::open(&self.url(node))
    }

    pub(crate) fn vecload(&self, words: &[&str]) -> Outcome {
        vecload(words).with("--db", self.url(0)).run()
    }

    pub(crate) fn load(&self, path: &Path, table: &str) -> Vecload {
        Load::of(path).with("--db", self.url(0)).table(table)
    }
}

/// Processes that are stopped; they go on when it is dropped.
pub(crate) struct Frozen(Vec<Pid>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            let _gone = kill(*process, Signal::SIGCONT);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for keeper in &mut self.nodes {
            drop(keeper.stdin.take());
            drop(keeper.wait());
        }
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// PostgreSQL does not run as root.
fn account() -> Option<User> {
    let find = |name| User::from_name(name).ok().flatten();
    geteuid().is_root().then(|| find("postgres").or_else(|| find("nobody")).expect("an unprivileged user"))
}

/// Lets the account have a file or directory of the test's.
pub(crate) fn give_to_account(path: &Path) {
    if let Some(user) = account() {
        let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        std::os::unix::fs::chown(path, uid, gid).expect("hand over a file");
    }
}

/// A program to be run without the rights of root.
pub(crate) fn as_account(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if let Some(user) = account() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}
