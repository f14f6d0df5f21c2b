//! The nodes of a Citus cluster: what they are and hold, one more, one less, and shards spread evenly.
//!
//! Everything goes through the coordinator, which reaches servers that this machine may not reach. [`require`] says
//! whether there is a cluster; [`status`] looks at it, [`add`], [`Removal`] and [`start`] change it.

mod add;
mod address;
mod moves;
mod needs;
mod nodes;
mod remove;
mod status;

use std::time::Duration;

use tokio_postgres::Client;

pub use add::{AddRequest, Added, add};
pub use address::Address;
pub use moves::{Job, Move, Started, current_job, job, start, stop};
pub use nodes::{Answer, Node, OWN_GROUP_SQL, another_server, ask, ask_here, ask_json, nodes};
pub use remove::{Removal, Removed};
pub use status::{ClusterStatus, Disk, NodeStatus, status};

use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// How long Citus may try to reach a node; by itself it tries for 30 s, with each question.
const NODE_CONNECT_MAX: Duration = Duration::from_secs(5);

/// Bounds what a session's questions to nodes take where one does not answer.
pub async fn bound_connects(client: &Client) -> Result<()> {
    let set = format!("set citus.node_connection_timeout = {}", NODE_CONNECT_MAX.as_millis());
    client
        .batch_execute(&set)
        .await
        .map_err(|error| pg_error("bound the time of connections to nodes", error))
}

/// Refuses a database without Citus, and a session with another node than the coordinator.
pub async fn require(client: &Client) -> Result<()> {
    if !has_citus(client).await? {
        return Err(Error::refused("Citus is not installed in this database, so there is no cluster").hint(
            "where the server has Citus in shared_preload_libraries: create extension citus; else name the \
             coordinator's database with --db",
        ));
    }
    let sql = "select (select groupid from pg_dist_local_group),
        (select string_agg(nodename || ':' || nodeport, ', ') from pg_dist_node where groupid = 0)";
    let row = client.query_one(sql, &[]).await.map_err(|error| pg_error("find the coordinator", error))?;
    if row.get::<_, Option<i32>>(0).unwrap_or(0) == 0 {
        return Ok(());
    }
    let at = row
        .get::<_, Option<String>>(1)
        .map_or("the coordinator".into(), |at| format!("the coordinator, {at}"));
    Err(Error::refused("this server is a worker of a cluster, not its coordinator")
        .hint(format!("connect to {at}, with --db")))
}

/// Whether Citus is installed in the database.
pub async fn has_citus(client: &Client) -> Result<bool> {
    let sql = "select exists (select from pg_extension where extname = 'citus')";
    let row = client.query_one(sql, &[]).await.map_err(|error| pg_error("look for Citus", error))?;
    Ok(row.get(0))
}
