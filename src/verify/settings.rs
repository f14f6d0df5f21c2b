//! The settings that searching depends on, as queries see them on each node.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::Cluster;
use super::relations::Relations;
use super::{Answer, Check, listed, versions};
use crate::postgres::Session;
use crate::postgres::catalog::Target;

/// What searching and building indexes depend on, and what counts in a session that has not needed pgvector yet.
const SETTINGS: [(&str, &str); 4] = [
    ("hnsw.ef_search", "40"),
    ("hnsw.iterative_scan", "off"),
    ("max_parallel_workers_per_gather", ""),
    ("maintenance_work_mem", ""),
];

/// The place of `hnsw.iterative_scan` among them.
const ITERATIVE: usize = 1;

/// Settings of each node, in the order of [`SETTINGS`].
type Values = [String; SETTINGS.len()];

/// Whether all nodes have the same, and what it means for searches.
pub(super) async fn check(
    session: &Session,
    cluster: &Cluster,
    target: &Target,
    relations: &Relations,
) -> Answer<Check> {
    if let Some(node) = cluster.silent().filter(|_| !relations.shards.is_empty()) {
        return Ok(Check::skip(
            "settings",
            format!("{} does not answer, so no query of all shards would", node.name),
        ));
    }
    let on_nodes = match relations.shards.is_empty() {
        true => BTreeMap::from([(
            values(session.query_one(&format!("select {}", columns()), &[]).await?, 0),
            Vec::new(),
        )]),
        false => of_shards(session, cluster, target, relations).await?,
    };
    let Some(first) = on_nodes.keys().next() else {
        return Ok(Check::skip("settings", "the table is empty, so no query of a shard tells them"));
    };
    let mut shown = Vec::new();
    let mut different = Vec::new();
    for (index, (name, _)) in SETTINGS.iter().enumerate() {
        let mut by_value: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (values, nodes) in &on_nodes {
            by_value.entry(values[index].clone()).or_default().extend(nodes.iter().map(String::as_str));
        }
        if by_value.len() > 1 {
            different.push(*name);
        }
        let many = by_value.len() > 1;
        let values = by_value.iter().map(|(value, nodes)| match many {
            true => format!("{value} on {}", listed(nodes)),
            false => value.clone(),
        });
        shown.push(format!("{name} {}", values.collect::<Vec<_>>().join(" and ")));
    }
    let mut check = Check::pass("settings", shown.join(", "));
    if !different.is_empty() {
        check.fail(
            format!("queries on the nodes run with different settings: {}", different.join(", ")),
            "vecload tune sets them on all nodes; what alter system has set on one of them is to be taken back there",
        );
    }
    let has_hnsw = relations.table.indexes.iter().any(|index| index.what.starts_with("hnsw"));
    let filtered = has_hnsw && target.channel_column().is_some();
    if filtered && first[ITERATIVE] == "off" && versions::can_iterate(cluster) {
        check.warn(
            "hnsw.iterative_scan is off: an index search in one channel may find fewer rows than asked for (vecload \
             search sets it by itself, other clients may not)",
            "vecload tune, then connect anew",
        );
    }
    Ok(check)
}

fn columns() -> String {
    SETTINGS.map(|(name, _)| format!("current_setting('{SETTING}', true)", SETTING = name)).join(", ")
}

fn values(row: tokio_postgres::Row, from: usize) -> Values {
    std::array::from_fn(|index| {
        let value: Option<String> = row.get(from + index);
        // Empty: it was set once, and that was taken back.
        value.filter(|value| !value.is_empty()).unwrap_or_else(|| SETTINGS[index].1.into())
    })
}

/// What queries of the shards see, with the nodes that see it. Each shard reads its first page.
async fn of_shards(
    session: &Session,
    cluster: &Cluster,
    target: &Target,
    relations: &Relations,
) -> Answer<BTreeMap<Values, Vec<String>>> {
    let groups = (1..=SETTINGS.len() + 1).map(|column| column.to_string()).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "select tableoid::regclass::text, {} from {} where ctid < '(1,0)' group by {groups}",
        columns(),
        target.name.sql()
    );
    let mut on_nodes: BTreeMap<Values, BTreeSet<String>> = BTreeMap::new();
    for row in session.query(&sql, &[]).await? {
        let table: String = row.get(0);
        let id = table.trim_end_matches('"').rsplit('_').next().and_then(|id| id.parse::<i64>().ok());
        let shard = relations.shards.iter().find(|shard| Some(shard.id) == id);
        let node = match shard.map(|shard| &shard.placements[..]) {
            Some([only]) => cluster.of_group(only.group),
            // Of several copies nothing tells which was asked.
            _ => None,
        };
        let name = node.map_or("one of the nodes", |node| &node.name);
        on_nodes.entry(values(row, 1)).or_default().insert(name.into());
    }
    Ok(on_nodes.into_iter().map(|(values, nodes)| (values, nodes.into_iter().collect())).collect())
}
