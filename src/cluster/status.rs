//! What each node is and holds.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Address;
use super::moves::{Job, current_job};
use super::nodes::{Answer, Node, another_server, ask_here, ask_json, nodes};
use crate::error::Result;
use crate::postgres::{QualifiedName, quote_literal};

/// A look at the whole cluster.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// The table whose shards are counted.
    pub table: String,
    /// Whether the coordinator is in its own list of nodes, as workers need it.
    pub coordinator_registered: bool,
    /// The coordinator first.
    pub nodes: Vec<NodeStatus>,
    /// The rebalance that is at work or waits.
    pub rebalance: Option<Job>,
}

/// One node.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// Where the other nodes reach it; `None` is a coordinator that is not registered.
    pub address: Option<Address>,
    /// `coordinator`, `worker`, `secondary` of either, or `clone` of a worker.
    pub role: &'static str,
    /// The worker that a clone is one of.
    pub clone_of: Option<Address>,
    /// Whether Citus uses it.
    pub active: bool,
    /// Whether shards may be moved to it.
    pub takes_shards: bool,
    /// Whether the coordinator reaches it.
    pub reachable: bool,
    /// Why nothing is known of it, or what it says that can't be.
    pub problem: Option<String>,
    /// What it says of itself.
    #[serde(flatten)]
    pub facts: Option<NodeFacts>,
    /// Its disk.
    pub disk: Option<Disk>,
    /// Why nothing is known of its disk.
    pub disk_unknown: Option<String>,
}

/// What a node says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The number of its group, as it knows it.
    pub group: i32,
    /// Version of PostgreSQL.
    pub postgres: String,
    /// Version of the extension citus in the database.
    pub citus: Option<String>,
    /// Version of the extension vector in the database.
    pub pgvector: Option<String>,
    /// Shards of all distributed tables.
    pub shards: u64,
    /// Shards of the table.
    pub table_shards: u64,
    /// Bytes of these, with indexes and TOAST.
    pub table_bytes: u64,
    /// Bytes of the database.
    pub database_bytes: u64,
}

/// The file system of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes that are free.
    #[serde(rename(deserialize = "available_disk_size"))]
    pub free_bytes: u64,
    /// All bytes.
    #[serde(rename(deserialize = "total_disk_size"))]
    pub total_bytes: u64,
}

/// Asks each node for the size of its disk.
pub(super) const DISK_SQL: &str = "select row_to_json(d)::text from citus_local_disk_space_stats() d";

/// Looks at every node.
pub async fn status(client: &Client, table: &QualifiedName) -> Result<ClusterStatus> {
    let nodes = nodes(client).await?;
    let addresses: Vec<Address> = nodes.iter().map(|node| node.address.clone()).collect();
    let sql = facts_sql(table);
    let facts = ask_json(client, &addresses, &sql).await?;
    // Who can't be reached keeps nobody waiting twice; who refuses the question may answer another.
    let unreached =
        |facts: &Answer<NodeFacts>| facts.as_ref().err().filter(|why| is_unreachable(why)).cloned();
    let reached = addresses.iter().zip(&facts).filter(|(_, facts)| unreached(facts).is_none());
    let reached: Vec<Address> = reached.map(|(address, _)| address.clone()).collect();
    let mut disks = ask_json(client, &reached, DISK_SQL).await?.into_iter();
    let coordinator_registered = nodes.iter().any(Node::is_coordinator);
    let mut found = Vec::new();
    if !coordinator_registered {
        let facts = ask_here(client, &sql).await?;
        found.push(node_status(None, facts, ask_here(client, DISK_SQL).await?));
    }
    for (node, facts) in nodes.iter().zip(facts) {
        // There is an answer for each that was asked.
        let answer = || disks.next().unwrap_or_else(|| Err("it gave no answer".into()));
        let disk = unreached(&facts).map_or_else(answer, Err);
        found.push(node_status(Some(node), facts, disk));
    }
    Ok(ClusterStatus {
        table: table.to_string(),
        coordinator_registered,
        nodes: found,
        rebalance: current_job(client).await?,
    })
}

fn node_status(node: Option<&Node>, facts: Answer<NodeFacts>, disk: Answer<Disk>) -> NodeStatus {
    let problem = match (&facts, node) {
        (Err(problem), _) => Some(problem.clone()),
        // A clone takes a number of its own when it is promoted.
        (Ok(facts), Some(node)) if node.clone_of.is_none() => {
            another_server(node.group, &facts.group.to_string())
                .map(|why| format!("{why}; vecload verify tells what to do"))
        }
        _ => None,
    };
    NodeStatus {
        address: node.map(|node| node.address.clone()),
        clone_of: node.and_then(|node| node.clone_of.clone()),
        role: match node {
            Some(node) if node.clone_of.is_some() => "clone",
            Some(node) if !node.is_primary => "secondary",
            Some(node) if !node.is_coordinator() => "worker",
            _ => "coordinator",
        },
        active: node.is_none_or(|node| node.is_active),
        takes_shards: node.is_none_or(|node| node.takes_shards),
        // What refuses the question has been reached.
        reachable: facts.as_ref().err().is_none_or(|problem| !is_unreachable(problem)),
        problem,
        facts: facts.ok(),
        disk_unknown: disk.as_ref().err().cloned(),
        disk: disk.ok(),
    }
}

/// Citus's words for a server that it can't connect to.
pub(super) fn is_unreachable(problem: &str) -> bool {
    problem.starts_with("failed to connect to")
}

fn facts_sql(table: &QualifiedName) -> String {
    let table = quote_literal(&table.sql());
    format!(
        "with placed as (
            select s.logicalrelid, s.shardid from pg_dist_shard s join pg_dist_placement p using (shardid)
            where p.groupid = (select groupid from pg_dist_local_group))
        select json_build_object(
            'group', (select groupid from pg_dist_local_group),
            'postgres', split_part(current_setting('server_version'), ' ', 1),
            'citus', (select extversion from pg_extension where extname = 'citus'),
            'pgvector', (select extversion from pg_extension where extname = 'vector'),
            'shards', (select count(*) from placed),
            'table_shards', (select count(*) from placed where logicalrelid = to_regclass({table})),
            'table_bytes', (select coalesce(sum(pg_total_relation_size(
                    to_regclass(shard_name(logicalrelid, shardid)))), 0)
                from placed where logicalrelid = to_regclass({table})),
            'database_bytes', pg_database_size(current_database()))::text"
    )
}
