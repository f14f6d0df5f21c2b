//! `vecload cluster`: a node is added, gets shards, gives them back and goes; what can't work is refused.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::cluster::Cluster;
use super::program::{Outcome, Vecload, vecload};
use super::rows::Rows;
use super::server::Db;
use super::session::Session;

const ROWS: i64 = 2_000;

/// Rows of dozens of blocks.
const LOADED: u64 = 200_000;

fn on(cluster: &Cluster, words: &[&str]) -> Vecload {
    vecload(["cluster", "--json"].iter().chain(words)).with("--db", cluster.url(0))
}

fn shards(session: &Session, port: u16) -> i64 {
    session.one(&format!(
        "select count(*) from citus_shards where nodeport = {port} and table_name = 'chunks'::regclass"
    ))
}

#[test]
fn a_node_is_added_gets_shards_gives_them_back_and_goes() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let session = cluster.session(0);
    cluster.vecload(&["migrate", "--dim", "8", "--shards", "8", "--no-index"]).exits(0);
    session.run(&format!(
        "insert into chunks (channel_id, user_id, content, embedding)
         select n % 100, 1, 'text', '[1,2,3,4,5,6,7,8]' from generate_series(1, {ROWS}) n"
    ));
    let new = cluster.start_node();
    let (port, node) = (cluster.ports[new], format!("127.0.0.1:{}", cluster.ports[new]));
    servers_that_do_not_fit_are_refused(&cluster, new, &node);
    let added = on(&cluster, &["add", &node]).run().exits(0).state("added");
    assert_eq!(added.report["created_extensions"], serde_json::json!(["vector"]), "{added}");
    on(&cluster, &["add", &node]).run().exits(0).state("present");
    on(&cluster, &["add", &node.replace("127.0.0.1", "localhost")]).run().exits(2).says("is a node already");
    assert_eq!(shards(&session, port), 0);
    an_interrupted_rebalance_goes_on_until_it_is_stopped(&cluster, &session);
    let moved = rebalanced_during_a_load(&cluster, &session).exits(0).state("finished");
    assert!(moved.report["moves_done"].as_i64() >= Some(1), "{moved}");
    assert!(shards(&session, port) >= 2, "the new node has its share");
    on(&cluster, &["rebalance"]).run().exits(0).state("balanced");
    on(&cluster, &["rebalance", "--stop"]).run().exits(0).state("none");
    the_status_tells_of_all_nodes(&cluster, new, &node);
    nodes_that_can_not_go_stay(&cluster, &session, &node);
    an_interrupted_removal_is_run_again(&cluster, &session, &node);
    let there = format!("pg_dist_node where nodeport = {port}");
    assert_eq!((session.count(&there), session.count("chunks")), (0, ROWS));
    on(&cluster, &["remove", &node]).run().exits(2).says("there is no node").says("the nodes are");
    // Nothing is left on it that would keep shards from coming back.
    on(&cluster, &["add", &node]).run().exits(0).state("added");
    on(&cluster, &["rebalance", "--block-writes"]).run().exits(0).state("finished");
    assert!(shards(&session, port) >= 2 && session.count("chunks") == ROWS);
    a_node_that_is_down_is_told_and_keeps_its_shards(&cluster, &session, new, &node);
}

fn servers_that_do_not_fit_are_refused(cluster: &Cluster, new: usize, node: &str) {
    let add = |address: &str| on(cluster, &["add", address]).run().exits(2);
    for address in ["worker", "worker:0", "::1:5432", "postgresql://worker:5432"] {
        add(address).says(format!("node address `{address}`")).says("write HOST:PORT");
    }
    add("127.0.0.1:1").says("can't use 127.0.0.1:1 as a node").says("pg_hba.conf");
    add(&format!("localhost:{}", cluster.ports[0])).says("is the coordinator itself");
    let server = cluster.session(new);
    let (old, current): (String, String) = {
        let versions = "select name.version, installed.extversion from pg_extension installed
            join pg_available_extension_versions name on name.name = installed.extname
            where extname = 'citus' and name.version <> installed.extversion
            order by string_to_array(replace(name.version, '-', '.'), '.')::integer[] desc limit 1";
        let row = &cluster.session(0).rows(versions, &[])[0];
        (row.get(0), row.get(1))
    };
    server.run(&format!("set citus.enable_version_checks to off; create extension citus version '{old}'"));
    add(node)
        .says(format!("its Citus is {old}, the coordinator's {current}"))
        .says("alter extension citus update");
    server.run("set citus.enable_version_checks to off; drop extension citus");
    // A server of another cluster.
    cluster.session(new).run("create extension citus");
    cluster.session(new).run("select citus_set_coordinator_host('127.0.0.1', current_setting('port')::int)");
    add(node).says("it belongs to the cluster of 127.0.0.1");
    cluster.session(new).run("drop extension citus");
    cluster.session(new).run("create extension citus");
    // Shards of an earlier time.
    let shard: String =
        cluster.session(0).one("select shard_name(logicalrelid, shardid) from pg_dist_shard limit 1");
    cluster.session(new).run(&format!("create table {shard} (id bigint)"));
    add(node).says("tables with the names of shards").says(&shard).says("drop table");
    cluster.session(new).run(&format!("set citus.enable_manual_changes_to_shards to on; drop table {shard}"));
    if server.one::<i32>("select current_setting('server_version_num')::int") >= 180_000 {
        without_pgvector(&cluster.session(new), || drop(add(node).says("pgvector is not installed on it")));
    }
    let nobody = cluster.url(0).replace("vecload@", "nobody@");
    cluster.session(0).run("create role nobody login");
    let told = vecload(["cluster", "add", node]).with("--db", nobody).run().exits(2);
    told.says("may not change the cluster's nodes").says("superuser");
    let nobody = cluster.url(0).replace("vecload@", "nobody@");
    let worker = format!("127.0.0.1:{}", cluster.ports[1]);
    vecload(["cluster", "remove", &worker]).with("--db", nobody).run().exits(2).says("superuser");
    assert_eq!(cluster.session(0).count("pg_dist_node"), 3, "nobody was added or removed");
}

/// Lets the server look for extensions where there is Citus only (PostgreSQL 18).
fn without_pgvector(server: &Session, work: impl Fn()) {
    let dir = tempfile::tempdir().expect("a directory");
    let share: String = server.one("select setting from pg_config where name = 'SHAREDIR'");
    let extensions = dir.path().join("extension");
    std::fs::create_dir(&extensions).expect("make a directory");
    let control = Path::new(&share).join("extension/citus.control");
    std::fs::copy(control, extensions.join("citus.control")).expect("copy a file");
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))
        .expect("open the directory to others");
    let path = dir.path().to_str().expect("UTF-8");
    server.run(&format!("alter system set extension_control_path = '{path}'"));
    server.run("select pg_reload_conf()");
    server.wait_until(&format!("current_setting('extension_control_path') = '{path}'"));
    work();
    server.run("alter system reset extension_control_path");
    server.run("select pg_reload_conf()");
    server.wait_until(&format!("current_setting('extension_control_path') <> '{path}'"));
}

/// A transaction that has written to all shards holds every move up.
fn hold_moves(cluster: &Cluster) -> Session {
    let holder = cluster.session(0);
    holder.run("begin; update chunks set user_id = 2");
    holder
}

fn interrupted(running: super::program::Running, session: &Session, ready: &str) -> Outcome {
    session.wait_until(ready);
    running.signal(Signal::SIGINT);
    running.outcome().exits(130)
}

fn an_interrupted_rebalance_goes_on_until_it_is_stopped(cluster: &Cluster, session: &Session) {
    let holder = hold_moves(cluster);
    let running = on(cluster, &["rebalance"]).start();
    let at_work = "exists (select from citus_rebalance_status() where state = 'running')";
    interrupted(running, session, at_work).says("goes on in the background").says("--stop");
    assert!(session.one::<bool>(&format!("select {at_work}")));
    let status = on(cluster, &["status"]).run().exits(0);
    assert_eq!(status.report["rebalance"]["state"], "running", "{status}");
    on(cluster, &["rebalance", "--stop"]).run().exits(0).state("stopped");
    holder.run("rollback");
    session.wait_until(
        "not exists (select from citus_rebalance_status() where state in ('running', 'cancelling'))",
    );
}

fn rebalanced_during_a_load(cluster: &Cluster, session: &Session) -> Outcome {
    cluster.vecload(&["migrate", "--dim", "8", "--shards", "8", "--no-index", "--table", "loaded"]).exits(0);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(LOADED, 8).group(10_000);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = cluster.load(&path, "loaded").with("--index", "none").with("--memory", "32MiB");
    // Each block takes its time, or the load would be over before Citus begins.
    let load = load.env("FAILPOINTS", "block-copied=sleep(200)");
    let mut load = load.with("--route", "shards").start();
    session.wait_until("(select count(*) from loaded) > 0");
    let rebalance = on(cluster, &["rebalance"]).start();
    session.wait_until("exists (select from get_rebalance_progress() where progress = 1)");
    assert!(!load.has_ended_within(Duration::ZERO), "the load was over before a shard moved");
    let moved = rebalance.outcome();
    load.outcome().exits(0).rows(LOADED, 0, 0);
    Rows::are_all_in(&[&rows], session, "loaded");
    moved
}

fn the_status_tells_of_all_nodes(cluster: &Cluster, new: usize, node: &str) {
    let status = on(cluster, &["status"]).run().exits(0);
    let nodes = status.report["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 4, "{status}");
    assert_eq!((&nodes[0]["role"], &nodes[new]["address"]), (&"coordinator".into(), &node.into()));
    let total: u64 = nodes.iter().filter_map(|node| node["table_shards"].as_u64()).sum();
    assert_eq!(total, 8, "{status}");
    for key in ["postgres", "citus", "pgvector"] {
        assert_eq!(nodes[new][key], nodes[0][key], "{key}{status}");
    }
    assert!(
        nodes[new]["table_bytes"].as_u64() > Some(0) && nodes[new]["disk"]["free_bytes"].is_u64(),
        "{status}"
    );
    assert!(nodes[new]["reachable"] == true && nodes[new]["takes_shards"] == true, "{status}");
}

fn nodes_that_can_not_go_stay(cluster: &Cluster, session: &Session, node: &str) {
    let remove = |node: &str| on(cluster, &["remove", node]).run().exits(2);
    remove(&format!("127.0.0.1:{}", cluster.ports[0])).says("is the coordinator");
    session.run("create table keyless (channel_id bigint, text text)");
    session.run("select create_distributed_table('keyless', 'channel_id')");
    remove(node).says("a primary key or replica identity is missing: keyless").says("--block-writes");
    on(cluster, &["rebalance"]).run().exits(2).says("keyless");
    session.run("drop table keyless");
    session.run("insert into pg_dist_cleanup values (99999, 1, 1, 'public.chunks_1', 77, 2)");
    on(cluster, &["rebalance"]).run().exits(2).says("drop public.chunks_1 on a node that was removed");
    session.run("delete from pg_dist_cleanup where record_id = 99999");
    let others = &cluster.ports[1..3];
    for takes in [false, true] {
        for port in others {
            session.run(&format!(
                "select citus_set_node_property('127.0.0.1', {port}, 'shouldhaveshards', {takes})"
            ));
        }
        if !takes {
            remove(node).says("no other node takes the").says("vecload cluster add");
        }
    }
    let worker = vecload(["cluster", "status"]).with("--db", cluster.url(1)).run().exits(2);
    worker.says("is a worker of a cluster").says(format!("127.0.0.1:{}", cluster.ports[0]));
}

fn an_interrupted_removal_is_run_again(cluster: &Cluster, session: &Session, node: &str) {
    let holder = hold_moves(cluster);
    let running = on(cluster, &["remove", node]).start();
    let moving = "exists (select from get_rebalance_progress() where progress = 1)";
    let told = interrupted(running, session, moving);
    told.says(format!("go on with: vecload cluster remove {node}"));
    holder.run("rollback");
    session.wait_until(&format!("not {moving}"));
    let gone = on(cluster, &["remove", node]).run().exits(0).state("removed");
    assert!(gone.report["moved_shards"].as_u64() >= Some(1), "{gone}");
}

fn a_node_that_is_down_is_told_and_keeps_its_shards(
    cluster: &Cluster,
    session: &Session,
    new: usize,
    node: &str,
) {
    cluster.crash(new);
    let status = on(cluster, &["status"]).run().exits(0);
    assert_eq!(status.report["nodes"][new]["reachable"], false, "{status}");
    on(cluster, &["remove", node]).run().exits(2).says("can't be asked").says("bring it back");
    on(cluster, &["rebalance"]).run().exits(2).says("can't be asked");
    vecload(["tune"])
        .with("--db", cluster.url(0))
        .run()
        .exits(2)
        .says("can't be asked")
        .says("bring it back");
    a_local_table_does_not_need_the_workers(cluster, session);
    cluster.revive(new);
    let frozen = cluster.freeze(new);
    let began = Instant::now();
    let status = on(cluster, &["status"]).run().exits(0);
    // Citus by itself tries for 30 s, with each question.
    assert!(began.elapsed().as_secs() < 30, "{status}");
    assert_eq!(status.report["nodes"][new]["reachable"], false, "{status}");
    assert_eq!(status.report["nodes"][1]["reachable"], true, "{status}");
    assert!(status.report["nodes"][1]["disk"].is_object(), "{status}");
    // Whoever asks the shards hears of it, by Citus's own time or the session's.
    let search = vecload(["search", "--random"]).with("--db", cluster.url(0));
    let search = search.env("PGOPTIONS", "-c citus.node_connection_timeout=500");
    search.run().exits(1).says("connections to the node").says("start it, or take it out of the cluster");
    drop(frozen);
    assert_eq!(session.count("chunks"), ROWS);
}

fn a_local_table_does_not_need_the_workers(cluster: &Cluster, session: &Session) {
    super::server::make_table(session, "beside", 8);
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(100, 8).write(dir.path(), "rows.parquet");
    let load = || cluster.load(&path, "beside").with("--index", "none");
    load().with("--limit", 40).run().exits(0).state("limited");
    let id = load().run().exits(0).rows(60, 0, 40).load().to_string();
    cluster.vecload(&["loads", "undo", &id]).exits(0);
    assert_eq!(session.count("beside"), 0);
}

#[test]
fn a_server_without_citus_has_no_cluster() {
    let db = Db::new();
    for words in [&["status"][..], &["add", "worker:5432"], &["remove", "worker:5432"], &["rebalance"]] {
        let told = vecload(["cluster"].iter().chain(words)).into(&db).run().exits(2);
        told.says("Citus is not installed").says("create extension citus");
    }
}
