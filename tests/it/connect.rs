//! Servers that can't be used: each is refused before anything is written, in words that say why, without secrets.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use tempfile::TempDir;

use super::cluster::{as_account, give_to_account};
use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::Rows;
use super::server::{Db, server};
use super::session::Session;

const PASSWORD: &str = "s3cret-\u{fc}-Pass";
pub(crate) const ENCODED: &str = "s3cret-%C3%BC-Pass";

/// A role of the test's own that logs in with a password over loopback; dropped with the test.
pub(crate) struct Role {
    pub(crate) name: String,
    port: u16,
}

impl Role {
    pub(crate) fn new(db: &Db) -> Self {
        let name = format!("role_{}", db.name());
        let name = name.chars().take(60).collect::<String>();
        let admin = server().admin();
        admin.run(&format!("create role {name} login password '{PASSWORD}'"));
        let port: i32 = admin.one("select current_setting('port')::int");
        Self { name, port: port as u16 }
    }

    pub(crate) fn url(&self, password: &str, db: &Db) -> String {
        format!("postgresql://{}:{password}@127.0.0.1:{}/{}", self.name, self.port, db.name())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // A failed test's role goes with its database.
        if !std::thread::panicking() {
            server().admin().run(&format!("drop role {}", self.name));
        }
    }
}

fn refused(command: Vecload) -> Outcome {
    command.run().exits(2).never_says("s3cret").never_says("s%33cret")
}

fn status(url: &str) -> Vecload {
    vecload(["migrate", "--status", "-vv", "--db", url])
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let db = Db::new();
    let role = Role::new(&db);
    status(&role.url(ENCODED, &db)).run().exits(0).never_says("s3cret");
    refused(status(&role.url("s3cret-wrong", &db))).says("password").says(&role.name);
    let without = role.url("", &db).replace(":@", "@");
    refused(status(&without)).says("password");
    // The passfile and the variable, as psql takes them.
    status(&without).env("PGPASSWORD", PASSWORD).run().exits(0).never_says("s3cret");
    let dir = tempfile::tempdir().expect("a directory");
    let passfile = dir.path().join("pass");
    std::fs::write(&passfile, format!("127.0.0.1:*:*:{}:{PASSWORD}\n", role.name)).expect("write");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&passfile, permissions).expect("set the mode");
    status(&without).env("PGPASSFILE", &passfile).run().exits(0).never_says("s3cret");
}

#[test]
fn servers_that_are_not_there_are_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = nobody.expect("a port").port();
    refused(status(&format!("postgresql://u:s3cret@127.0.0.1:{port}/d")))
        .says(format!("127.0.0.1:{port}"))
        .says("refused");
    refused(status("postgresql://u:s3cret@no-such-host.invalid/d")).says("no-such-host.invalid");
    refused(status("postgresql://u:s3cret@/d?host=/nowhere/sockets")).says("/nowhere/sockets");
    refused(status(&server().url("no_such_database"))).says("no_such_database").says("does not exist");
    for nonsense in
        ["mysql://u:s3cret@h/d", "postgresql://u:s3cret@h:port/d", "postgresql://u:s3cret@h/d?nonsense=1"]
    {
        refused(status(nonsense));
    }
}

#[test]
fn the_environment_names_the_server_as_it_does_for_psql() {
    let db = Db::new();
    db.table("chunks", 8);
    let config: tokio_postgres::Config = db.url().parse().expect("a URL");
    let host = match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    };
    let status = || vecload(["migrate", "--status", "--json"]);
    assert_eq!(status().env("DATABASE_URL", db.url()).run().exits(0).report["exists"], true);
    let user = config.get_user().expect("a user");
    let port = config.get_ports().first().map_or("5432".into(), u16::to_string);
    let named =
        status().env("PGHOST", &host).env("PGPORT", &port).env("PGUSER", user).env("PGDATABASE", db.name());
    assert_eq!(named.clone().run().exits(0).report["exists"], true);
    // A flag beats the environment, and DATABASE_URL beats PG*.
    let other = Db::new();
    assert_eq!(named.clone().env("DATABASE_URL", other.url()).run().exits(0).report["exists"], false);
    assert_eq!(named.env("DATABASE_URL", other.url()).into(&db).run().exits(0).report["exists"], true);
}

#[test]
fn missing_pgvector_is_told_with_what_to_do() {
    let db = Db::bare();
    let role = Role::new(&db);
    db.run(&format!("grant all on schema public to {}", role.name));
    let url = role.url(ENCODED, &db);
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(5, 8).write(dir.path(), "rows.parquet");
    refused(vecload(["migrate", "--dim", "8", "--db", &url])).says("vector").says("create extension");
    refused(Load::of(&path).arg("--create").with("--db", &url)).says("vector").says("create extension");
    db.run("create table chunks (id bigint, embedding real[])");
    db.run(&format!("grant all on chunks to {}", role.name));
    refused(Load::of(&path).with("--db", &url)).says("no column of pgvector's types");
    db.run(&format!("drop owned by {}", role.name));
}

#[test]
fn missing_rights_are_named_before_anything_is_written() {
    let db = Db::new();
    let role = Role::new(&db);
    db.table("chunks", 8);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(50, 8);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = || Load::of(&path).with("--db", role.url(ENCODED, &db)).with("--index", "none");
    let name = &role.name;
    refused(load()).says("INSERT").says("chunks");
    db.run(&format!("grant insert on chunks to {name}"));
    refused(load()).says("SELECT").says("chunks");
    db.run(&format!("grant select on chunks to {name}"));
    refused(load()).says("chunks_id_seq");
    db.run(&format!("grant usage on sequence chunks_id_seq to {name}"));
    // The ledger is somebody's to make once.
    refused(load()).says("ledger");
    vecload(["loads"]).into(&db).run().exits(0);
    refused(load()).says("ledger");
    db.run(&format!(
        "grant usage on schema {ledger} to {name}; grant all on all tables in schema {ledger} to {name};
         grant all on all sequences in schema {ledger} to {name}",
        ledger = super::server::LEDGER
    ));
    load().run().exits(0).rows(50, 0, 0);
    Rows::are_all_in(&[&rows], &db, "chunks");
    let url = role.url(ENCODED, &db);
    assert_eq!(Session::open(&url).count("chunks"), 50);
    refused(vecload(["migrate", "--dim", "8", "--table", "mine", "--db", &url])).says("public");
    db.run(&format!("drop owned by {name}"));
}

#[test]
fn a_database_that_can_only_be_read_is_refused() {
    let db = Db::new();
    db.table("chunks", 8);
    vecload(["loads"]).into(&db).run().exits(0);
    db.run(&format!("alter database {} set default_transaction_read_only to on", db.name()));
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(5, 8).write(dir.path(), "rows.parquet");
    Load::of(&path).into(&db).run().exits(2).says("read-only");
}

/// PgBouncer before the server of the tests, reached by a socket; ended and removed with the test.
struct PgBouncer {
    process: Child,
    directory: TempDir,
    _log: BufReader<ChildStderr>,
}

impl PgBouncer {
    /// None, said loudly, where it is not installed.
    fn start(role: &Role, db: &Db, pool_mode: &str) -> Option<Self> {
        let find = |dir: &str| Some(Path::new(dir).join("pgbouncer")).filter(|program| program.is_file());
        let path = std::env::var("PATH").unwrap_or_default();
        let Some(program) = path.split(':').chain(["/usr/sbin"]).find_map(find) else {
            eprintln!("SKIPPED: no PgBouncer found");
            return None;
        };
        let directory = TempDir::with_prefix("pb").expect("a directory");
        let (name, sockets) = (db.name(), directory.path());
        let settings = format!(
            "[databases]\n\
             {name} = host=127.0.0.1 port={} user={} password='{PASSWORD}'\n\
             [pgbouncer]\n\
             listen_addr =\nunix_socket_dir = {}\nauth_type = any\npool_mode = {pool_mode}\n\
             ignore_startup_parameters = extra_float_digits\n",
            role.port,
            role.name,
            sockets.display(),
        );
        std::fs::write(sockets.join("settings"), settings).expect("write its settings");
        give_to_account(sockets);
        let mut process = as_account(&program);
        process.arg(sockets.join("settings")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = process.spawn().expect("start PgBouncer");
        let mut log = BufReader::new(process.stderr.take().expect("its log"));
        let mut told = String::new();
        while !told.contains("process up") {
            assert!(log.read_line(&mut told).expect("read its log") > 0, "PgBouncer does not start: {told}");
        }
        Some(Self { process, directory, _log: log })
    }

    fn url(&self, db: &Db) -> String {
        let name = db.name();
        format!("postgresql:///{name}?user=anybody&port=6432&host={}", self.directory.path().display())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn a_pooler_that_keeps_sessions_is_as_good_as_the_server_and_one_that_does_not_is_refused() {
    let db = Db::bare();
    let role = Role::new(&db);
    server().admin().run(&format!("alter role {} superuser", role.name));
    let rows = Rows::new(3_000, 8);
    let dir = tempfile::tempdir().expect("a directory");
    let path = rows.write(dir.path(), "rows.parquet");

    let Some(lending) = PgBouncer::start(&role, &db, "transaction") else { return };
    let load = |pooler: &PgBouncer| Load::of(&path).with("--db", pooler.url(&db)).arg("--create");
    for command in [load(&lending), vecload(["migrate", "--dim", "8", "--db", &lending.url(&db)])] {
        refused(command).says("a pooler lends each transaction").says("pool_mode = session");
    }
    let session = db.session();
    assert!(session.one::<bool>("select to_regnamespace('vecload_ledger') is null"), "nothing is made");
    drop(lending);

    let Some(keeping) = PgBouncer::start(&role, &db, "session") else { return };
    load(&keeping).run().exits(0).rows(3_000, 0, 0);
    load(&keeping).run().exits(0).state("already_loaded");
    Rows::are_all_in(&[&rows], &session, "chunks");
    drop(keeping);
    session.run(&format!("reassign owned by {} to current_user", role.name));
    session.run(&format!("drop owned by {}", role.name));
}
