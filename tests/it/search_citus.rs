//! `vecload search` on a cluster: it says which shards and nodes were asked, and the plan of a shard agrees.

use super::cluster::Cluster;
use super::program::Outcome;
use super::rows::Rows;

fn search(cluster: &Cluster, words: &[&str]) -> Outcome {
    cluster.vecload(&[&["search", "--table", "routes", "-k", "5"], words].concat())
}

/// The tasks of the plan: those that were planned, by its own count.
fn tasks(outcome: &Outcome) -> u64 {
    let plan = outcome.report["plan"].as_array().unwrap_or_else(|| panic!("a plan{outcome}"));
    let lines = plan.iter().filter_map(|line| line.as_str()?.trim().strip_prefix("Task Count: "));
    lines.map(|count| count.parse::<u64>().expect("a count")).sum()
}

#[test]
fn a_search_tells_the_shards_and_nodes_that_it_asks() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    cluster.vecload(&["migrate", "--dim", "16", "--shards", "4", "--table", "routes"]).exits(0);
    let path = Rows::new(3_000, 16).channels(20).write(dir.path(), "routes.parquet");
    cluster.load(&path, "routes").run().exits(0);
    session.run("analyze routes");
    let row = |place: &str| -> (String, String) {
        let row =
            &session.rows(&format!("select id::text, channel_id::text from routes {place} limit 1"), &[])[0];
        (row.get(0), row.get(1))
    };
    let (id, channel) = row("where channel_id <> 7");
    let own: (String, String) = {
        let shard = format!("get_shard_id_for_distribution_column('routes', {channel}::bigint)");
        let row = &session.rows(
            &format!(
                "select shard_name, nodename || ':' || nodeport from citus_shards where shardid = {shard}"
            ),
            &[],
        )[0];
        (row.get(0), row.get(1))
    };

    let one = search(cluster, &["--json", "--explain", "--like", &id, "--channel", &channel]).exits(0);
    let route = &one.report["route"];
    assert_eq!(
        (&route["shards"], &route["of"], &route["lookup_shards"]),
        (&1.into(), &4.into(), &1.into()),
        "{one}"
    );
    assert_eq!(route["nodes"].as_array().map(Vec::len), Some(1), "{one}");
    assert_eq!(
        (route["shard"].as_str(), route["nodes"][0].as_str()),
        (Some(own.0.as_str()), Some(own.1.as_str()))
    );
    assert_eq!(tasks(&one), 1, "{one}");
    let plan = one.report["plan"].to_string();
    assert!(plan.contains(&format!("on {}", own.0)) && !plan.contains("Could not get remote plan"), "{one}");
    search(cluster, &["--like", &id, "--channel", &channel])
        .exits(0)
        .says(format!("asked 1 of 4 shards: {}, on {}", own.0, own.1))
        .never_says("for the row itself");

    let all = search(cluster, &["--json", "--explain", "--random"]).exits(0);
    let route = &all.report["route"];
    assert_eq!((&route["shards"], &route["of"]), (&4.into(), &4.into()), "{all}");
    assert_eq!((route["nodes"].as_array().map(Vec::len), &route["shard"]), (Some(2), &().into()), "{all}");
    assert_eq!(tasks(&all), 4, "{all}");
    assert!(all.report["plan"].to_string().contains("Index Scan using routes_embedding"), "{all}");
    search(cluster, &["--random"]).exits(0).says("asked all 4 shards, on 2 nodes: ");

    // Neighbours in one channel of a row that is in another: the row has to be found first.
    let (elsewhere, _) = row("where channel_id = 7");
    let both = search(cluster, &["--like", &elsewhere, "--channel", &channel]).exits(0);
    both.says("asked 1 of 4 shards").says("and all for the row itself");
}

#[test]
fn channels_of_four_bytes_are_routed_too() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    session.run("create table small_channels (id bigint, channel_id int not null, embedding vector(2))");
    session.run("select create_distributed_table('small_channels', 'channel_id', shard_count => 4)");
    session.run("insert into small_channels select n, n % 10 - 5, '[1,2]' from generate_series(1, 100) n");
    let search = |channel| {
        let words =
            ["search", "--json", "--table", "small_channels", "--like", "10", "--explain", "--channel"];
        cluster.vecload(&[&words[..], &[channel]].concat())
    };
    search("5000000000").exits(2).says("--channel 5000000000 is out of the range");
    for (channel, rows) in [("-5", 9), ("3", 10)] {
        let found = search(channel).exits(0);
        assert_eq!(found.report["hits"].as_array().map(Vec::len), Some(rows), "{found}");
        assert_eq!((&found.report["route"]["shards"], tasks(&found)), (&1.into(), 1), "{found}");
    }
}
