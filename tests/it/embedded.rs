//! vecload's own server: started, stopped and filled by commands that name no database.

use std::path::{Path, PathBuf};

use super::program::{Load, Outcome, vecload};
use super::rows::Rows;
use super::server::{LEDGER, new_project, remove_server};
use super::session::Session;
use super::texts::{Style, piped, wrote_all};

/// A directory with a server of its own; stopped and removed in the end.
struct Project(PathBuf);

impl Project {
    fn new() -> Self {
        Self(new_project())
    }

    fn run(&self, words: &[&str]) -> Outcome {
        vecload(words).within(&self.0).run()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // A failed test's is kept, and stopped when all tests are gone.
        if !std::thread::panicking() {
            remove_server(&self.0);
            std::fs::remove_dir_all(self.0.parent().expect("a parent")).expect("remove the project");
        }
    }
}

fn process(status: &Outcome) -> i64 {
    status.report["pid"].as_i64().unwrap_or_else(|| panic!("a process{status}"))
}

#[test]
fn the_server_starts_by_itself_keeps_its_rows_and_stops() {
    let project = Project::new();
    project.run(&["db", "status"]).exits(0).answers("not running");
    project.run(&["db", "stop"]).exits(0).says("not running");
    assert!(!project.0.join(".vecload").is_dir(), "asking makes nothing");

    // Nothing named, nothing there: a server, a table of the source's dimension, the rows, the indexes.
    let rows = Rows::new(400, 12);
    let path = rows.write(&project.0, "rows.parquet");
    let load = || Load::of(&path).within(&project.0);
    load().run().exits(0).state("complete").rows(400, 0, 0).says("12 dimensions");
    let status = project.run(&["db", "status", "--json"]).exits(0);
    assert_eq!(status.report["state"], "ready", "{status}");
    let url = project.run(&["db", "url"]).exits(0).stdout.trim().to_string();
    assert_eq!(status.report["url"], url.as_str());
    {
        let session = Session::open(&url);
        Rows::are_all_in(&[&rows], &session, "chunks");
        assert_eq!(session.one::<String>("show listen_addresses"), "127.0.0.1");
        assert_eq!(session.one::<String>("show fsync"), "on");
        assert_eq!(session.count("pg_indexes where tablename = 'chunks'"), 6);
        let id: i64 = session.one("select min(id) from chunks");
        project
            .run(&["search", "--like", &id.to_string(), "-k", "3"])
            .exits(0)
            .answers("chunk")
            .says("3 rows");
    }
    let socket = PathBuf::from(status.report["socket_dir"].as_str().expect("a directory"));
    let socket = socket.join(format!(".s.PGSQL.{}", status.report["port"]));
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    // Starting what runs changes nothing.
    let again = project.run(&["db", "start", "--json"]).exits(0);
    assert_eq!(process(&again), process(&status));
    project.run(&["db", "psql", "--", "-Atc", "select count(*) from chunks"]).exits(0).answers("400");

    project.run(&["db", "stop"]).exits(0).says("stopped");
    project.run(&["db", "status"]).exits(0).answers("not running");
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_err(), "nobody listens");
    let again = load().run().exits(0).state("already_loaded");
    again.rows(0, 0, 400);
    let ignored = std::fs::read_to_string(project.0.join(".vecload/.gitignore")).expect("a .gitignore");
    assert_eq!(ignored.trim(), "*");
}

#[test]
fn the_password_of_the_loopback_port_stays_in_its_file() {
    let project = Project::new();
    let started = project.run(&["db", "start", "--json", "-vv"]).exits(0);
    let passfile = project.0.join(".vecload/passfile");
    let text = std::fs::read_to_string(&passfile).expect("a passfile");
    let password = text.lines().next().and_then(|line| line.rsplit(':').next()).expect("a password");
    assert!(password.len() >= 32);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode(&passfile)) & 0o777, 0o600);
    let started = started.never_says(password);
    project.run(&["db", "url"]).exits(0).never_says(password);
    let port = started.report["port"].as_u64().expect("a port");
    let url = format!("postgresql://vecload@127.0.0.1:{port}/vecload");
    let status = || vecload(["migrate", "--status", "--db", &url]).within(&project.0);
    status().run().exits(2).says("password");
    status().env("PGPASSFILE", &passfile).run().exits(0).never_says(password);
    // A password in the environment of another server leads nobody astray.
    let seed = vecload(["seed"]).within(&project.0).env("PGOPTIONS", "-c no_such_setting=1").run();
    seed.exits(0);
}

fn mode(path: &Path) -> std::fs::Permissions {
    std::fs::metadata(path).expect("a file").permissions()
}

#[test]
fn a_server_that_was_killed_comes_back_with_what_was_committed() {
    let project = Project::new();
    let rows = Rows::new(300, 8);
    let path = rows.write(&project.0, "rows.parquet");
    Load::of(&path).within(&project.0).run().exits(0);
    let status = project.run(&["db", "status", "--json"]).exits(0);
    let process = nix::unistd::Pid::from_raw(process(&status) as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).expect("kill the server");
    Load::of(&path).within(&project.0).run().exits(0).state("already_loaded");
    let url = project.run(&["db", "url"]).exits(0).stdout.trim().to_string();
    Rows::are_all_in(&[&rows], &Session::open(&url), "chunks");
}

/// Waits until a load in a project has committed some blocks, then kills its server as a whole.
fn kill_server_after_blocks(project: &Project, blocks: i64) {
    let url = project.run(&["db", "url"]).exits(0).stdout.trim().to_string();
    let session = Session::open(&url);
    session.wait_until("to_regclass('vecload_ledger.blocks') is not null");
    session.wait_until(&format!("(select count(*) from {LEDGER}.blocks) >= {blocks}"));
    let status = project.run(&["db", "status", "--json"]).exits(0);
    let postmaster = nix::unistd::Pid::from_raw(process(&status) as i32);
    nix::sys::signal::kill(postmaster, nix::sys::signal::Signal::SIGKILL).expect("kill the server");
}

#[test]
fn a_load_starts_its_server_again_and_goes_on() {
    let project = Project::new();
    let rows = Rows::new(120_000, 64);
    let path = rows.write(&project.0, "rows.parquet");
    project.run(&["db", "start"]).exits(0);
    let load = Load::of(&path).within(&project.0).with("--memory", "32MiB").with("--index", "none").start();
    kill_server_after_blocks(&project, 5);
    load.outcome().exits(0).state("complete").rows(120_000, 0, 0).says("trying again").says("going on after");
    let url = project.run(&["db", "url"]).exits(0).stdout.trim().to_string();
    Rows::are_all_in(&[&rows], &Session::open(&url), "chunks");
}

#[test]
fn standard_input_outlives_a_crash_of_the_server() {
    let project = Project::new();
    let rows = Rows::new(120_000, 64);
    project.run(&["db", "start"]).exits(0);
    let load = Load::of("-").within(&project.0).with("--memory", "64MiB").with("--index", "none");
    let (load, producer) = piped(load.with("--name", "stream"), Style::CSV.bytes(&rows));
    let load = load.start();
    kill_server_after_blocks(&project, 3);
    load.outcome().exits(0).state("complete").rows(120_000, 0, 0).says("trying again");
    assert!(wrote_all(producer), "the pipe was read to its end");
    let url = project.run(&["db", "url"]).exits(0).stdout.trim().to_string();
    Rows::are_all_in(&[&rows], &Session::open(&url), "chunks");
}

#[test]
fn programs_that_will_not_do_are_refused_by_name() {
    let project = Project::new();
    let nowhere = project.0.display().to_string();
    let start = project.run(&["db", "start", "--pg-bindir", &nowhere]);
    start.exits(2).says(&nowhere).says("has no postgres");
}

#[test]
fn a_load_that_is_refused_anyway_starts_no_server() {
    let project = Project::new();
    std::fs::write(project.0.join("text.parquet"), "no Parquet").expect("write");
    for words in [
        ["load", "missing.parquet", "--lanes=1"],
        ["load", "text.parquet", "--lanes=1"],
        ["load", "text.parquet", "--memory=1KiB"],
        ["search", "--random", "-k0"],
        ["search", "--vector=missing.json", "-k1"],
    ] {
        project.run(&words).exits(2);
        assert!(!project.0.join(".vecload").is_dir(), "{words:?} made a cluster");
    }
}
