//! Workers that are lost, fall silent or are replaced while rows go to them: the load waits and goes on.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vecload::postgres::watch::Backend;

use crate::cluster::Cluster;
use crate::program::Running;
use crate::rows::Rows;

/// Longer than a load takes to judge a silent session.
const PATIENCE: Duration = Duration::from_secs(90);

/// A load that has rows on their way to node 1.
struct UnderWay {
    cluster: Cluster,
    rows: Rows,
    running: Running,
    _dir: tempfile::TempDir,
}

impl UnderWay {
    fn start() -> Option<Self> {
        Some(Self::on(Cluster::start(3)?, "coordinator"))
    }

    fn on(cluster: Cluster, route: &str) -> Self {
        cluster.vecload(&["migrate", "--dim", "256", "--shards", "4", "--no-index"]).exits(0);
        let rows = Rows::new(60_000, 256);
        let dir = tempfile::tempdir().expect("a directory");
        let path = rows.write(dir.path(), "rows.parquet");
        let load = cluster.load(&path, "chunks").with("--index", "none").with("--memory", "64MiB");
        let load = load.with("--route", route).with("--writers", 4).with("--retry-for", "2m");
        let running = load.start();
        let copies = "(select sum(tuples_processed) from pg_stat_progress_copy) > 0";
        cluster.session(1).wait_until(copies);
        Self { cluster, rows, running, _dir: dir }
    }

    fn ends_well(self) {
        self.running.outcome().exits(0).rows(60_000, 0, 0);
        Rows::are_all_in(&[&self.rows], &self.cluster.session(0), "chunks");
    }
}

/// Citus tells of a worker that is gone in several ways, by where in a COPY it was.
#[test]
fn a_worker_that_crashes_in_the_middle_of_a_copy_is_waited_for() {
    let Some(load) = UnderWay::start() else { return };
    load.cluster.crash(1);
    load.cluster.revive(1);
    load.ends_well();
}

/// The coordinator waits for a worker that says nothing, and the load for the coordinator: it says so where it can see
/// that; where the coordinator seems to wait for the load, its session is ended, or does not go because of what it
/// waits for.
#[test]
fn a_coordinator_that_waits_for_a_silent_worker_is_waited_for_or_its_session_ended() {
    let Some(mut load) = UnderWay::start() else { return };
    let coordinator = load.cluster.session(0);
    let writers = "pg_stat_activity where application_name like 'vecload load % writer %'";
    let since: String = coordinator.one("select clock_timestamp()::text");
    let before = format!("{writers} and backend_start < '{since}'");
    let count = coordinator.count(&before);
    let frozen = load.cluster.freeze(1);
    let began = Instant::now();
    let told = ["for another node, in: ", "does not end"];
    while coordinator.count(&before) == count && !told.iter().any(|told| load.running.said().contains(told)) {
        if load.running.has_ended_within(Duration::from_millis(50)) || began.elapsed() > PATIENCE {
            let seen: Vec<String> = coordinator.column(&format!(
                "select concat_ws(' ', state, wait_event_type, wait_event, left(query, 60)) from {writers}"
            ));
            drop(frozen);
            panic!("nobody is told of the silence: {}{seen:#?}", load.running.said());
        }
    }
    drop(frozen);
    load.ends_well();
}

/// Citus has a namesake of the function that ends a session.
#[test]
fn a_session_that_was_lost_is_ended_on_each_node() {
    let Some(cluster) = Cluster::start(2) else { return };
    for node in 0..2 {
        let (lost, other) = (cluster.session(node), cluster.session(node));
        let pid = lost.one("select pg_backend_pid()");
        let started =
            lost.one("select backend_start::text from pg_stat_activity where pid = pg_backend_pid()");
        other.end(&Backend { pid, started: Some(started) });
        assert_eq!(other.count(&format!("pg_stat_activity where pid = {pid}")), 0, "node {node}");
    }
}

/// A worker dies, and its standby takes its place in the cluster under another address.
fn a_standby_takes_over(route: &str) {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let standby = cluster.start_standby(1);
    let load = UnderWay::on(cluster, route);
    let (old, new) = (load.cluster.ports[1], load.cluster.ports[standby]);
    load.cluster.crash(1);
    load.cluster.promote(standby);
    load.cluster.session(0).run(&format!(
        "select citus_update_node(nodeid, '127.0.0.1', {new}, true) from pg_dist_node where nodeport = {old}"
    ));
    load.ends_well();
}

#[test]
fn rows_go_to_the_standby_that_has_taken_a_workers_place() {
    a_standby_takes_over("shards");
}

#[test]
fn rows_go_through_the_coordinator_to_the_standby_that_has_taken_a_workers_place() {
    a_standby_takes_over("coordinator");
}

/// Citus keeps writers through the coordinator out while it promotes a clone, and no others: what these commit after
/// the clone has caught up is not in the shards that it takes over.
#[test]
fn rows_that_a_promoted_clone_does_not_have_are_sent_again() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let coordinator = cluster.session(0);
    if coordinator.count("pg_proc where proname = 'citus_promote_clone_and_rebalance'") == 0 {
        eprintln!("SKIPPED: this Citus has no clones (they came with 13.2)");
        return;
    }
    let clone = cluster.start_clone(1);
    let (old, new) = (cluster.ports[1], cluster.ports[clone]);
    let load = UnderWay::on(cluster, "shards");
    // Nothing is written until the clone has caught up.
    load.running.signal(Signal::SIGSTOP);
    let added: i32 =
        coordinator.one(&format!("select citus_add_clone_node('127.0.0.1', {new}, '127.0.0.1', {old})"));
    load.cluster.vecload(&["cluster", "status"]).exits(0).answers(&format!("clone of 127.0.0.1:{old}"));
    let add = ["cluster", "add", &format!("127.0.0.1:{new}")];
    load.cluster.vecload(&add).exits(2).says("citus_promote_clone_and_rebalance");
    coordinator.run("begin");
    coordinator.run(&format!("select citus_promote_clone_and_rebalance({added}, null, 60)"));
    load.running.signal(Signal::SIGCONT);
    let waits = "wait_event_type = 'Lock' and query like 'delete from \"vecload_ledger\".\"shard_fences%'";
    load.cluster.session(0).wait_until(&format!("exists (select from pg_stat_activity where {waits})"));
    let began = Instant::now();
    while !load.running.said().contains("for a lock of process") {
        assert!(began.elapsed() < PATIENCE, "{}", load.running.said());
        load.cluster.session(0).run("select pg_sleep(0.05)");
    }
    coordinator.run("commit");
    let outcome = load.running.outcome().exits(0).rows(60_000, 0, 0);
    outcome.says("a worker crashed or was replaced, and commits are lost").says("on 3 nodes");
    Rows::are_all_in(&[&load.rows], &load.cluster.session(0), "chunks");
}
