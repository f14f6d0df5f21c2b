//! A Citus cluster of three nodes: the table is distributed, loads go through the coordinator, resume and search.

use std::path::Path;
use std::time::Duration;

use super::cluster::Cluster;
use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::Rows;
use super::server::LEDGER;
use super::session::Session;

#[test]
fn a_cluster_of_three_nodes_is_filled_searched_and_resumed() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    rows_arrive_on_all_nodes(cluster, &session, dir.path());
    searches_find_them(cluster, &session);
    a_killed_load_goes_on(cluster, &session, dir.path());
    refused_rows_are_found_without_a_line(cluster, &session, dir.path());
    loads_are_taken_back(cluster, &session);
}

/// Where PostgreSQL has TLS and no certificate, Citus makes one, and no usual one.
#[test]
fn nodes_with_the_certificate_that_citus_makes_are_written_over_tls() {
    let Some(mut cluster) = Cluster::empty() else { return };
    for node in 0..3 {
        cluster.start_node();
        let session = cluster.session(node);
        if session.one::<String>("select current_setting('ssl_library')").is_empty() {
            eprintln!("SKIPPED: this PostgreSQL speaks no TLS");
            return;
        }
        session.run("alter system set citus.node_conninfo = 'sslmode=require'");
        session.run("select pg_reload_conf()");
        session.wait_until("current_setting('citus.node_conninfo') = 'sslmode=require'");
        session.run("set client_min_messages to error; create extension citus; create extension vector");
        session.wait_until("current_setting('ssl') = 'on'");
    }
    let session = cluster.session(0);
    session.run(&format!("select citus_set_coordinator_host('127.0.0.1', {})", cluster.ports[0]));
    let encrypted = format!("{}?sslmode=require", cluster.url(0));
    for port in &cluster.ports[1..] {
        vecload(["cluster", "add", &format!("127.0.0.1:{port}"), "--db", &encrypted]).run().exits(0);
    }
    vecload(["migrate", "--dim", "8", "--shards", "4", "--db", &encrypted]).run().exits(0);
    let dir = tempfile::tempdir().expect("a directory");
    for (number, route) in [(0, "shards"), (1, "coordinator")] {
        let rows = Rows::new(500, 8).from(number * 1_000);
        let load = Load::of(rows.write(dir.path(), &format!("{route}.parquet"))).with("--db", &encrypted);
        let told = load.with("--route", route).run().exits(0).rows(500, 0, 0);
        assert_eq!(told.report["route"], route, "{told}");
    }
    assert_eq!(session.count("chunks"), 1_000);
    vecload(["cluster", "status", "--db", &encrypted]).run().exits(0);
    let checked = ["cluster", "status", "--db", &encrypted.replace("require", "verify-ca")];
    vecload(checked).env("HOME", dir.path()).run().exits(2).says("sslrootcert");
}

/// Until then Citus makes no table for the ledger there.
#[test]
fn a_worker_that_has_not_heard_of_a_change_of_the_nodes_is_waited_for() {
    let Some(cluster) = Cluster::start(3) else { return };
    let session = cluster.session(0);
    session.run("create extension vector");
    session.wait_until("(select bool_and(metadatasynced) from pg_dist_node)");
    // The coordinator tells it after a minute otherwise.
    session.run("alter system set citus.metadata_sync_interval = '1h'");
    session.run("select pg_reload_conf()");
    session.wait_until("current_setting('citus.metadata_sync_interval') = '1h'");
    cluster.vecload(&["migrate", "--dim", "8", "--shards", "4"]).exits(0);
    let has_heard = |has: bool| {
        let port = cluster.ports[2];
        session.run(&format!("update pg_dist_node set metadatasynced = {has} where nodeport = {port}"));
    };
    has_heard(false);
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(500, 8).write(dir.path(), "rows.parquet");
    let load = || cluster.load(&path, "chunks").with("--route", "shards");
    let refused = load().run().exits(2).says("is a metadata node, but is out of sync");
    refused.says("wait until metadata gets synced to it").says("--route coordinator");
    let mut waiting = load().with("--retry-for", "2m").start();
    while !waiting.said().contains("trying again") {
        assert!(!waiting.has_ended_within(Duration::from_millis(20)), "{}", waiting.said());
    }
    has_heard(true);
    waiting.outcome().exits(0).rows(500, 0, 0);
}

/// Routes have tests of their own.
fn load(cluster: &Cluster, path: &Path, table: &str) -> Vecload {
    cluster.load(path, table).with("--route", "coordinator")
}

fn rows_arrive_on_all_nodes(cluster: &Cluster, session: &Session, dir: &Path) {
    let migrate = &["migrate", "--dim", "32", "--shards", "8", "--json"];
    let status = cluster.vecload(migrate).exits(0).report;
    assert_eq!((&status["distributed_by"], &status["shards"]), (&"channel_id".into(), &8.into()));
    cluster.vecload(migrate).exits(0);
    let rows = Rows::new(8_000, 32).group(3_000).bad([5_000]);
    let path = rows.write(dir, "rows.parquet");
    let told = load(cluster, &path, "chunks").with("--max-rejects", 1).run().exits(3).rows(7_999, 1, 0);
    assert_eq!(told.report["route"], "coordinator");
    assert!(told.report["server"]["citus"].is_string());
    Rows::are_all_in(&[&rows], session, "chunks");
    let nodes: i64 = session.one(
        "select count(distinct nodeport) from citus_shards
         where table_name = 'chunks'::regclass and shard_size > 0",
    );
    assert!(nodes >= 2, "{nodes} nodes hold shards");
    load(cluster, &path, "chunks").with("--max-rejects", 1).run().exits(3).state("already_loaded");
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
    let load = || load(cluster, &path, "picky").with("--index", "none").with("--max-rejects", "all");
    load().run().exits(3).rows(6_000 - count, count, 0);
    Rows::are_all_in(&[&rows.bad(refused)], session, "picky");
    load().run().exits(3).state("already_loaded").rows(0, count, 6_000 - count);
}

fn a_killed_load_goes_on(cluster: &Cluster, session: &Session, dir: &Path) {
    cluster.vecload(&["migrate", "--dim", "64", "--shards", "8", "--no-index", "--table", "second"]).exits(0);
    let rows = Rows::new(50_000, 64).from(1_000_000);
    let path = rows.write(dir, "second.parquet");
    let blocks = format!("{LEDGER}.blocks where target = 'second'::regclass");
    let load = || load(cluster, &path, "second").with("--index", "none").with("--memory", "32MiB");
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
