//! The nodes of a cluster, and questions put to them through the coordinator.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Client;

use super::Address;
use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// A row of `pg_dist_node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Where the other nodes reach it.
    pub address: Address,
    /// Its group: 0 is the coordinator's.
    pub group: i32,
    /// Whether it is the group's primary, which takes writes.
    pub is_primary: bool,
    /// Whether Citus uses it.
    pub is_active: bool,
    /// Whether shards may be moved to it.
    pub takes_shards: bool,
    /// The node whose standby it is, to take half of its shards when it is promoted (a clone, since Citus 13.2).
    pub clone_of: Option<Address>,
}

impl Node {
    /// Is it the coordinator?
    pub fn is_coordinator(&self) -> bool {
        self.group == 0
    }
}

/// What a node said to a question: a value, or why there is none.
pub type Answer<T> = std::result::Result<T, String>;

/// All nodes, the coordinator first; it is missing if nobody has registered it.
pub async fn nodes(client: &Client) -> Result<Vec<Node>> {
    // Older versions do not have the columns about clones.
    let sql = "select n.nodename, n.nodeport, n.groupid, n.noderole = 'primary' as is_primary, n.isactive,
            n.shouldhaveshards, cloned.nodename as cloned_name, cloned.nodeport as cloned_port
        from pg_dist_node n left join pg_dist_node cloned
            on to_jsonb(n) ->> 'nodeisclone' = 'true'
            and cloned.nodeid = (to_jsonb(n) ->> 'nodeprimarynodeid')::integer
        order by n.groupid, n.noderole = 'primary' desc, n.nodeid";
    let rows = client.query(sql, &[]).await.map_err(|error| pg_error("list the cluster's nodes", error))?;
    rows.iter()
        .map(|row| {
            let cloned: (Option<String>, Option<i32>) = (row.get("cloned_name"), row.get("cloned_port"));
            Ok(Node {
                address: address(row.get("nodename"), row.get("nodeport"))?,
                group: row.get("groupid"),
                is_primary: row.get("is_primary"),
                is_active: row.get("isactive"),
                takes_shards: row.get("shouldhaveshards"),
                clone_of: cloned.0.zip(cloned.1).map(|(host, port)| address(host, port)).transpose()?,
            })
        })
        .collect()
}

/// Host and port as Citus keeps them.
pub(super) fn address(host: String, port: i32) -> Result<Address> {
    let port = u16::try_from(port).map_err(|_| Error::bug(format!("port {port} of node {host}")))?;
    Ok(Address { host, port })
}

/// Runs a statement of one value on servers, which need not be nodes yet: the coordinator connects to them as it does
/// to its workers. The answers are in the order of the servers.
pub async fn ask(client: &Client, servers: &[Address], sql: &str) -> Result<Vec<Answer<String>>> {
    if servers.is_empty() {
        return Ok(Vec::new());
    }
    let hosts: Vec<&str> = servers.iter().map(|address| address.host.as_str()).collect();
    let ports: Vec<i32> = servers.iter().map(|address| address.port.into()).collect();
    let sqls = vec![sql; servers.len()];
    let rows = client
        .query(
            "select node_name, node_port, success, result from master_run_on_worker($1, $2, $3, true)",
            &[&hosts, &ports, &sqls],
        )
        .await
        .map_err(|error| pg_error("ask the cluster's nodes", error))?;
    let mut said = HashMap::new();
    for row in rows {
        let result: Option<String> = row.get("result");
        let result = result.unwrap_or_default();
        let answer = if row.get("success") { Ok(result) } else { Err(one_line(&result)) };
        said.insert(address(row.get("node_name"), row.get("node_port"))?, answer);
    }
    let silent = || Err("it gave no answer".to_owned());
    Ok(servers.iter().map(|server| said.remove(server).unwrap_or_else(silent)).collect())
}

/// As [`ask`], with answers in JSON.
pub async fn ask_json<T: DeserializeOwned>(
    client: &Client,
    servers: &[Address],
    sql: &str,
) -> Result<Vec<Answer<T>>> {
    let read = |text: String| serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"));
    Ok(ask(client, servers, sql).await?.into_iter().map(|answer| answer.and_then(read)).collect())
}

/// Puts a question of [`ask_json`] to the connected server itself.
pub async fn ask_here<T: DeserializeOwned>(client: &Client, sql: &str) -> Result<Answer<T>> {
    match client.query_one(sql, &[]).await {
        Ok(row) => {
            let text: Option<String> = row.get(0);
            let text = text.unwrap_or_default();
            Ok(serde_json::from_str(&text).map_err(|error| format!("{error}: {text}")))
        }
        Err(error) if error.as_db_error().is_some() => Ok(Err(pg_error("ask the server", error).to_string())),
        Err(error) => Err(pg_error("ask the server", error)),
    }
}

/// The number by which a node knows itself.
pub const OWN_GROUP_SQL: &str = "select groupid::text from pg_dist_local_group";

/// What is wrong with a node that knows itself by another number than the coordinator, if it does.
pub fn another_server(group: i32, own: &str) -> Option<String> {
    (own != group.to_string()).then(|| {
        format!(
            "added as node {group}, it says that it is node {own}: its data were lost, or another server answers at \
             that address"
        )
    })
}

/// A message of the server that may hold several lines.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
