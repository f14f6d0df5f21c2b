//! A Citus cluster of three nodes: the table is distributed, loads go through the coordinator, resume and search.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::{User, geteuid};
use vecload::embedded::programs;

use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::Rows;
use super::server::LEDGER;
use super::session::Session;

/// Servers that live as long as this process: each has a shell that stops it when its standard input ends.
struct Cluster {
    nodes: Vec<Child>,
    ports: Vec<u16>,
    directory: PathBuf,
}

/// Starts a server, says so, and stops it when nobody holds the other end of standard input any more.
const KEEPER: &str = "\"$0/pg_ctl\" -D \"$1\" -w -l \"$1/log\" start >/dev/null && echo started
    cat >/dev/null
    \"$0/pg_ctl\" -D \"$1\" -m immediate stop >/dev/null; rm -rf \"$1\"; rmdir \"${1%/*}\" 2>/dev/null";

impl Cluster {
    fn start(bindir: &Path, nodes: usize) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            ports: Vec::new(),
            directory: std::env::temp_dir().join(format!("vecload-it-citus-{}", std::process::id())),
        };
        std::fs::create_dir(&cluster.directory).expect("make a directory");
        let user = account();
        if let Some(user) = &user {
            let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
            std::os::unix::fs::chown(&cluster.directory, uid, gid).expect("hand over the directory");
        }
        for number in 0..nodes {
            let data = cluster.directory.join(number.to_string());
            let mut initdb = as_user(&bindir.join("initdb"), user.as_ref());
            initdb
                .args(["--no-sync", "-A", "trust", "-U", "vecload", "-E", "UTF8", "--locale", "C", "-D"])
                .arg(&data);
            let done = initdb.output().expect("run initdb");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let port = free_port();
            let settings = format!(
                "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
                 shared_preload_libraries = 'citus'\nwal_level = logical\nfsync = off\nfull_page_writes = off\n\
                 max_connections = 200\nshared_buffers = 64MB\ncitus.node_conninfo = 'sslmode=prefer'\n"
            );
            let conf = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"));
            conf.and_then(|mut conf| conf.write_all(settings.as_bytes())).expect("write the settings");
            let mut keeper = as_user(Path::new("sh"), user.as_ref());
            keeper.arg("-c").arg(KEEPER).arg(bindir).arg(&data).stdin(Stdio::piped()).stdout(Stdio::piped());
            keeper.process_group(0);
            let mut keeper = keeper.spawn().expect("start a node");
            let mut line = String::new();
            let read = BufReader::new(keeper.stdout.take().expect("its output")).read_line(&mut line);
            let log = || std::fs::read_to_string(data.join("log")).unwrap_or_default();
            assert!(read.is_ok() && line == "started\n", "node {number} did not start: {}", log());
            cluster.nodes.push(keeper);
            cluster.ports.push(port);
            cluster.session(number).run("set client_min_messages to error; create extension citus");
        }
        let coordinator = cluster.session(0);
        coordinator.run(&format!("select citus_set_coordinator_host('127.0.0.1', {})", cluster.ports[0]));
        for port in &cluster.ports[1..] {
            coordinator.run(&format!("select citus_add_node('127.0.0.1', {port})"));
        }
        cluster
    }

    fn url(&self, node: usize) -> String {
        format!("postgresql://vecload@127.0.0.1:{}/postgres", self.ports[node])
    }

    fn session(&self, node: usize) -> Session {
        Session::open(&self.url(node))
    }

    fn vecload(&self, words: &[&str]) -> Outcome {
        vecload(words).with("--db", self.url(0)).run()
    }

    fn load(&self, path: &Path, table: &str) -> Vecload {
        Load::of(path).with("--db", self.url(0)).table(table)
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

fn as_user(program: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}

#[test]
fn a_cluster_of_three_nodes_is_filled_searched_and_resumed() {
    let Some(programs) = programs::find(true, None).expect("a search for programs") else {
        eprintln!("SKIPPED: no Citus-capable PostgreSQL found");
        return;
    };
    let cluster = Cluster::start(&programs.bindir, 3);
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    rows_arrive_on_all_nodes(&cluster, &session, dir.path());
    searches_find_them(&cluster, &session);
    a_killed_load_goes_on(&cluster, &session, dir.path());
    refused_rows_are_found_without_a_line(&cluster, &session, dir.path());
    loads_are_taken_back(&cluster, &session);
}

fn rows_arrive_on_all_nodes(cluster: &Cluster, session: &Session, dir: &Path) {
    let migrate = &["migrate", "--dim", "32", "--shards", "8", "--json"];
    let status = cluster.vecload(migrate).exits(0).report;
    assert_eq!((&status["distributed_by"], &status["shards"]), (&"channel_id".into(), &8.into()));
    cluster.vecload(migrate).exits(0);
    let rows = Rows::new(8_000, 32).group(3_000).bad([5_000]);
    let path = rows.write(dir, "rows.parquet");
    let told = cluster.load(&path, "chunks").with("--max-rejects", 1).run().exits(3).rows(7_999, 1, 0);
    assert_eq!(told.report["route"], "coordinator");
    assert!(told.report["server"]["citus"].is_string());
    Rows::are_all_in(&[&rows], session, "chunks");
    let nodes: i64 = session.one(
        "select count(distinct nodeport) from citus_shards
         where table_name = 'chunks'::regclass and shard_size > 0",
    );
    assert!(nodes >= 2, "{nodes} nodes hold shards");
    cluster.load(&path, "chunks").with("--max-rejects", 1).run().exits(3).state("already_loaded");
    // Where a row lies is what the channel's hash says.
    let channels: Vec<i64> = session.column("select distinct channel_id from chunks");
    for channel in channels {
        let hash = vecload::partition::hash::hash_int8(channel);
        let agrees = format!(
            "select {hash} between shardminvalue::int and shardmaxvalue::int from pg_dist_shard
             where shardid = get_shard_id_for_distribution_column('chunks', {channel}::bigint)"
        );
        assert!(session.one::<bool>(&agrees), "channel {channel}");
    }
}

fn searches_find_them(cluster: &Cluster, session: &Session) {
    let id: i64 = session.one("select id from chunks where content like '000000777%'");
    let channel: i64 = session.one(&format!("select channel_id from chunks where id = {id}"));
    let (id, channel) = (id.to_string(), channel.to_string());
    let hits = |outcome: &Outcome| outcome.report["hits"].as_array().map_or(0, Vec::len);
    let one =
        cluster.vecload(&["search", "--json", "--like", &id, "--channel", &channel, "-k", "5"]).exits(0);
    assert_eq!(hits(&one), 5, "{one}");
    let one = one.never_says("warning");
    drop(one);
    let all = cluster.vecload(&["search", "--json", "--like", &id, "-k", "50"]).exits(0).says("all 8 shards");
    assert_eq!(hits(&all), 50, "{all}");
}

/// A worker's error does not say which row of the COPY it was.
fn refused_rows_are_found_without_a_line(cluster: &Cluster, session: &Session, dir: &Path) {
    cluster.vecload(&["migrate", "--dim", "16", "--shards", "8", "--no-index", "--table", "picky"]).exits(0);
    session.run("alter table picky add constraint odd check ((metadata->>'n')::int % 701 <> 3)");
    let rows = Rows::new(6_000, 16);
    let path = rows.write(dir, "picky.parquet");
    let refused: Vec<u64> = (0..6_000).filter(|row| row % 701 == 3).collect();
    let count = refused.len() as u64;
    let load = || cluster.load(&path, "picky").with("--index", "none").with("--max-rejects", "all");
    load().run().exits(3).rows(6_000 - count, count, 0);
    Rows::are_all_in(&[&rows.bad(refused)], session, "picky");
    load().run().exits(3).state("already_loaded").rows(0, count, 6_000 - count);
}

fn a_killed_load_goes_on(cluster: &Cluster, session: &Session, dir: &Path) {
    cluster.vecload(&["migrate", "--dim", "64", "--shards", "8", "--no-index", "--table", "second"]).exits(0);
    let rows = Rows::new(50_000, 64).from(1_000_000);
    let path = rows.write(dir, "second.parquet");
    let blocks = format!("{LEDGER}.blocks where target = 'second'::regclass");
    let load = || cluster.load(&path, "second").with("--index", "none").with("--memory", "32MiB");
    for (writers, lanes) in [(6, 2), (5, 1)] {
        let before = session.count(&blocks);
        let running = load().with("--writers", writers).with("--lanes", lanes).start();
        session.wait_until(&format!("(select count(*) from {blocks}) >= {}", before + 2));
        running.kill();
    }
    load().with("--writers", 2).run().exits(0).state("complete");
    Rows::are_all_in(&[&rows], session, "second");
    load().run().exits(0).state("already_loaded").rows(0, 0, 50_000);
    for node in 0..3 {
        assert_eq!(cluster.session(node).count("pg_prepared_xacts"), 0, "node {node}");
    }
}

fn loads_are_taken_back(cluster: &Cluster, session: &Session) {
    let load: i64 =
        session.one(&format!("select load_id from {LEDGER}.loads where target = 'second'::regclass"));
    cluster.vecload(&["loads", "undo", &load.to_string()]).exits(0).answers("50,000 rows deleted");
    assert_eq!(session.count("second"), 0);
    assert_eq!(session.count("chunks"), 7_999);
}
