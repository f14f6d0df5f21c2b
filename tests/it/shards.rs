//! Loads of a distributed table: straight into its shards, through the coordinator, and while shards move.

use super::cluster::Cluster;
use super::rows::Rows;
use super::server::LEDGER;

fn migrate(cluster: &Cluster, table: &str, dim: usize, shards: u32) {
    let (dim, shards) = (dim.to_string(), shards.to_string());
    let words = ["migrate", "--dim", &dim, "--shards", &shards, "--no-index", "--table", table];
    cluster.vecload(&words).exits(0);
}

#[test]
fn each_route_brings_every_row_to_its_shard() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(20_000, 24).group(3_000).bad([5_000]);
    let path = rows.write(dir.path(), "rows.parquet");
    for (route, says) in [("auto", "shards"), ("shards", "shards"), ("coordinator", "coordinator")] {
        let table = &format!("routed_{route}");
        migrate(cluster, table, 24, 8);
        let load = || {
            let load = cluster.load(&path, table).with("--route", route).with("--index", "none");
            load.with("--max-rejects", 1).with("--memory", "32MiB")
        };
        let told = load().run().exits(3).rows(19_999, 1, 0).says(&format!("route {says}"));
        assert_eq!(told.report["route"], says);
        Rows::are_all_in(&[&rows], &session, table);
        // A row in a shard that is not its channel's is found by the fan-out, and not by its channel.
        for channel in session.column::<i64>(&format!("select distinct channel_id from {table}")) {
            let all = session.count(&format!("{table} where channel_id + 0 = {channel}"));
            assert_eq!(
                session.count(&format!("{table} where channel_id = {channel}")),
                all,
                "channel {channel}"
            );
        }
        let books = format!(
            "select coalesce(sum(rows), 0)::bigint from {LEDGER}.current_blocks
            where target = '{table}'::regclass"
        );
        assert_eq!(session.one::<i64>(&books), 19_999);
        load().run().exits(3).state("already_loaded");
    }
}
