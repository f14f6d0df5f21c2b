//! A worker whose data were lost: another, empty server answers at its address. It is told for what it is, nothing is
//! moved from it, and the cure that is told leads to a sound cluster.

use super::cluster::Cluster;
use super::program::Outcome;
use super::rows::Rows;
use super::verify::{Checks, verify};

const ROWS: u64 = 2_000;

#[test]
fn a_server_in_the_place_of_a_worker_is_found_and_the_cure_works() {
    let Some(cluster) = Cluster::start(3) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(ROWS, 8);
    let path = rows.write(dir.path(), "rows.parquet");
    cluster.vecload(&["migrate", "--dim", "8", "--shards", "4"]).exits(0);
    let load = || cluster.load(&path, "chunks").with("--index", "keep");
    load().run().exits(0).rows(ROWS, 0, 0);
    verify(&cluster.url(0), &[]).exits(0);
    let session = cluster.session(0);
    let number: i32 =
        session.one(&format!("select groupid from pg_dist_node where nodeport = {}", cluster.ports[2]));
    let node = format!("127.0.0.1:{}", cluster.ports[2]);

    cluster.lose_data(2);
    let is_told = format!("added as node {number}, it says that it is node 0: its data were lost");
    let status = cluster.vecload(&["cluster", "status", "--json"]).exits(0);
    let problem = status.report["nodes"][2]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains(&is_told), "{status}");
    assert_eq!(status.report["nodes"][2]["reachable"], true, "{status}");
    assert_eq!(status.report["nodes"][2]["group"], 0, "{status}");
    assert!(status.report["nodes"][1]["problem"].is_null(), "{status}");
    cluster.vecload(&["cluster", "status"]).exits(0).says(&is_told);
    let told = verify(&cluster.url(0), &[]).exits(1);
    told.has("metadata", "fail", &[&is_told, &node, "vecload cluster remove"])
        .has("placements", "fail", &["the worker's data were lost"])
        .has("counts", "fail", &["the shard's table was dropped on that node", "vecload verify"]);
    cluster.vecload(&["cluster", "add", &node]).exits(2).says(&is_told).says("vecload verify");
    cluster.vecload(&["cluster", "rebalance"]).exits(2).says("are not there");
    let refused = cluster.vecload(&["cluster", "remove", &node]).exits(2);
    let lost = "6 of the 6 shards of";
    let takes_shards = format!("pg_dist_node where shouldhaveshards and nodeport = {}", cluster.ports[2]);
    assert_eq!(session.count(&takes_shards), 1, "a removal that is refused changes nothing{refused}");
    session.run(&cure(&refused.says(lost).says(&node).says(&is_told)));

    cluster.vecload(&["cluster", "remove", &node]).exits(0);
    cluster.vecload(&["cluster", "add", &node]).exits(0).says("created the extension vector");
    cluster.vecload(&["migrate", "--dim", "8", "--shards", "4"]).exits(0);
    load().run().exits(0).rows(ROWS, 0, 0);
    Rows::are_all_in(&[&rows], &session, "chunks");
    verify(&cluster.url(0), &[]).exits(0);
}

/// The statements that a hint tells.
#[track_caller]
fn cure(refused: &Outcome) -> String {
    let told = refused.to_string();
    let from = told.find("select stop_metadata_sync").unwrap_or_else(|| panic!("a statement{told}"));
    let end = told[from..].find("; then").unwrap_or_else(|| panic!("its end{told}"));
    told[from..from + end].to_owned()
}
