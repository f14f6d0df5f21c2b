//! Every COMMIT of a load is lost once, and every answer to one: run again, the load is as if nothing had been.

use super::own_server::OwnServer;
use super::proxy::{Ambush, Ending, Loss, Proxy};
use crate::cluster::Cluster;
use crate::program::{Load, Outcome};
use crate::rows::Rows;
use crate::server::{LEDGER, make_table};

fn each_commit_is_lost_once(loss: Loss, ending: Ending) {
    let server = OwnServer::start();
    let proxy = Proxy::to(&server.socket());
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(4_000, 16).group(1_000).bad([7, 1_234, 3_999]);
    let path = rows.write(dir.path(), "rows.parquet");
    let mut after = 0;
    loop {
        let database = format!("lost_{after}");
        server.session("postgres").run(&format!("create database {database}"));
        let session = server.session(&database);
        make_table(&session, "chunks", 16);
        let load = || {
            let load = Load::of(&path).with("--db", proxy.url(&database)).with("--max-rejects", 3);
            load.with("--index", "none").with("--writers", 2).run()
        };
        proxy.lie_in_ambush(Ambush { after, loss, ending });
        let struck = load();
        let has_met_none = proxy.leave_ambush();
        let told = load().exits(3);
        assert_eq!(told.report["rows"]["read"], 4_000, "after {struck}{told}");
        Rows::are_all_in(&[&rows], &session, "chunks");
        let known: i64 = session.one(&format!("select sum(rows)::bigint from {LEDGER}.blocks"));
        assert_eq!((known, session.count(&format!("{LEDGER}.rejects"))), (3_997, 3), "after {struck}");
        if has_met_none {
            struck.exits(3);
            break;
        }
        assert!([0, 1, 2, 3].contains(&struck.code()), "COMMIT {after} is lost{struck}");
        after += 1;
    }
    assert!(after >= 8, "{after} transactions, and each partition has a block at least");
}

#[test]
fn a_load_that_loses_the_answer_to_any_commit_goes_on() {
    each_commit_is_lost_once(Loss::Answer, Ending::Close);
}

#[test]
fn a_load_that_loses_any_commit_goes_on() {
    each_commit_is_lost_once(Loss::Request, Ending::Reset);
}

/// The coordinator has committed a block, and a worker crashes before it hears of it: what it has prepared becomes
/// visible only when it is told again.
#[test]
fn a_worker_that_crashes_between_prepare_and_commit_prepared_loses_nothing() {
    let Some(cluster) = Cluster::start(3) else { return };
    let session = cluster.session(0);
    cluster.vecload(&["migrate", "--dim", "64", "--shards", "4", "--no-index"]).exits(0);
    let rows = Rows::new(60_000, 64);
    let dir = tempfile::tempdir().expect("a directory");
    let path = rows.write(dir.path(), "rows.parquet");
    let load = || {
        let load = cluster.load(&path, "chunks").with("--index", "none").with("--memory", "32MiB");
        load.with("--route", "coordinator").with("--writers", 2)
    };
    // Writers wait at the fence, with their rows copied, until all is set.
    let holder = cluster.session(0);
    holder.run("begin");
    let running = load().start();
    session.wait_until("(select count(*) from vecload_ledger.loads) > 0");
    holder.run("select from vecload_ledger.loads for update");
    session
        .wait_until("(select count(*) from pg_locks where not granted and locktype = 'transactionid') > 0");
    // Its own commit, which decides, is written, and waits for a standby that does not exist; so nobody is told yet.
    session.run("alter system set synchronous_standby_names = 'nobody'");
    session.run("select pg_reload_conf()");
    holder.run("rollback");
    // The blocks that wait may all be one worker's.
    let workers = [cluster.session(1), cluster.session(2)];
    let prepared = || workers.iter().position(|worker| worker.count("pg_prepared_xacts") > 0);
    let since = std::time::Instant::now();
    let worker = loop {
        if let Some(worker) = prepared() {
            break worker + 1;
        }
        assert!(since.elapsed().as_secs() < 60, "nothing was prepared: {}", running.said());
        session.run("select pg_sleep(0.01)");
    };
    drop(workers);
    cluster.crash(worker);
    cluster.revive(worker);
    assert!(cluster.session(worker).count("pg_prepared_xacts") > 0, "they survive the crash");
    session.run("set synchronous_commit = local");
    session.run("alter system reset synchronous_standby_names");
    session.run("select pg_reload_conf()");
    let outcome = running.outcome_of_any_end();
    assert!([0, 1].contains(&outcome.code()), "{outcome}");
    load().run().exits(0).rows(60_000 - already(&outcome), 0, already(&outcome));
    Rows::are_all_in(&[&rows], &session, "chunks");
    for node in 0..3 {
        assert_eq!(cluster.session(node).count("pg_prepared_xacts"), 0, "node {node}");
    }
}

/// What is in after a run.
fn already(outcome: &Outcome) -> u64 {
    ["loaded", "already_loaded"].iter().filter_map(|key| outcome.report["rows"][key].as_u64()).sum()
}
