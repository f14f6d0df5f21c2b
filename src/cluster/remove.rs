//! One node less: its shards move to the others first.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use super::Address;
use super::moves::{Move, current_job, moving};
use super::needs;
use super::nodes::{Node, ask, ask_json, nodes};
use super::status::{DISK_SQL, Disk};
use crate::error::{Error, Result};
use crate::postgres::{pg_error, quote_literal};

/// Shards of distributed tables on the nodes of a group. Reference tables are on all nodes and need no move.
const HELD_SQL: &str = "
    select count(*) from pg_dist_placement p join pg_dist_shard s using (shardid)
    join pg_dist_partition t on t.logicalrelid = s.logicalrelid
    where p.groupid = $1 and t.repmodel <> 't'";

/// Their bytes, as the node itself sees them.
const BYTES_SQL: &str = "
    select coalesce(sum(pg_total_relation_size(to_regclass(shard_name(s.logicalrelid, s.shardid)))), 0)::text
    from pg_dist_placement p join pg_dist_shard s using (shardid)
    join pg_dist_partition t on t.logicalrelid = s.logicalrelid
    where p.groupid = (select groupid from pg_dist_local_group) and t.repmodel <> 't'";

/// The share of a disk that Citus leaves free when it moves shards (`citus.desired_percent_disk_available_after_move`).
const DISK_SHARE_LEFT: f64 = 0.1;

/// Queries that began before a shard moved may hold up its old table for so long.
const CLEAN_UP_MAX: Duration = Duration::from_secs(60);
const CLEAN_UP_AGAIN: Duration = Duration::from_millis(500);

/// A node that is to go, and can.
#[derive(Debug)]
pub struct Removal {
    node: Node,
    block_writes: bool,
    /// Shards that have to move.
    pub shards: u64,
    /// Their size.
    pub bytes: u64,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Removed {
    /// The node.
    pub node: Address,
    /// `removed`.
    pub state: &'static str,
    /// Shards that were moved by this run.
    pub moved_shards: u64,
}

impl Removal {
    /// Finds the node and refuses what can't work.
    pub async fn prepare(client: &Client, address: &Address, block_writes: bool) -> Result<Self> {
        needs::nodes_may_change(client).await?;
        let known = nodes(client).await?;
        let Some(node) = known.iter().find(|node| node.address == *address).cloned() else {
            let names: Vec<String> = known.iter().map(|node| node.address.to_string()).collect();
            return Err(Error::refused(format!("there is no node {address}"))
                .hint(format!("the nodes are {}", names.join(", "))));
        };
        if node.is_coordinator() && node.is_primary {
            return Err(Error::refused(format!("{address} is the coordinator"))
                .hint("a cluster can't do without it; name a worker"));
        }
        let shards = if node.is_primary { held(client, &node).await? } else { 0 };
        let mut removal = Self { node, block_writes, shards, bytes: 0 };
        if shards > 0 {
            removal.shards_find_room(client, &known).await?;
        }
        Ok(removal)
    }

    async fn shards_find_room(&mut self, client: &Client, known: &[Node]) -> Result<()> {
        let address = &self.node.address;
        if let Some(job) = current_job(client).await? {
            return Err(Error::refused(format!("rebalance {} is at work", job.job))
                .hint("wait for it with `vecload cluster rebalance`, or stop it with --stop"));
        }
        let bytes = ask(client, std::slice::from_ref(address), BYTES_SQL).await?.remove(0);
        let bytes = bytes.map_err(|problem| {
            Error::refused(format!(
                "{address} holds {} shards and can't be asked for them: {problem}",
                self.shards
            ))
            .hint("bring it back first: no other node has these shards")
        })?;
        self.bytes = bytes.parse().unwrap_or(0);
        needs::shards_can_move(client, known, self.block_writes).await?;
        let others: Vec<Address> = known
            .iter()
            .filter(|node| node.is_primary && node.is_active && node.takes_shards && node.address != *address)
            .map(|node| node.address.clone())
            .collect();
        if others.is_empty() {
            return Err(Error::refused(format!(
                "no other node takes the {} shards of {address}",
                self.shards
            ))
            .hint("add a node first: vecload cluster add HOST:PORT"));
        }
        let disks = ask_json::<Disk>(client, &others, DISK_SQL).await?;
        let room = room(&others, &disks.into_iter().map(|disk| disk.ok()).collect::<Vec<_>>());
        match room {
            Some(room) if room < self.bytes => Err(Error::refused(format!(
                "the shards of {address} take {}, and the other nodes have room for {}",
                indicatif::BinaryBytes(self.bytes),
                indicatif::BinaryBytes(room)
            ))
            .hint("free or add disk space there, or add a node first: vecload cluster add HOST:PORT")),
            _ => Ok(()),
        }
    }

    /// Moves the shards away, on a session of its own. Cancelled, it leaves the moves that are complete, and may be
    /// run again.
    pub async fn drain(&self, client: &Client) -> Result<()> {
        if self.shards == 0 {
            return Ok(());
        }
        let Address { host, port } = &self.node.address;
        let mode = quote_literal(needs::transfer_mode(self.block_writes));
        let sql = format!("select citus_drain_node($1, $2, shard_transfer_mode => {mode})");
        let done = client.query(&sql, &[host, &i32::from(*port)]).await;
        done.map(|_| ()).map_err(|error| {
            pg_error(format!("move the shards of {}", self.node.address), error)
                .hint("shards that have moved stay where they are; the same command moves the others")
        })
    }

    /// How many shards are still there, and those on their way.
    pub async fn look(&self, client: &Client) -> Result<(u64, Vec<Move>)> {
        Ok((held(client, &self.node).await?, moving(client).await?))
    }

    /// Takes the empty node off the list.
    pub async fn finish(&self, client: &Client) -> Result<Removed> {
        self.clean_up(client).await?;
        let Address { host, port } = &self.node.address;
        let done = client.query("select citus_remove_node($1, $2)", &[host, &i32::from(*port)]).await;
        done.map_err(|error| pg_error(format!("remove node {}", self.node.address), error))?;
        Ok(Removed { node: self.node.address.clone(), state: "removed", moved_shards: self.shards })
    }
}

impl Removal {
    /// Drops what Citus has moved away and would drop later. Once the node is off the list it would forget to, and the
    /// shards could never come back to that server.
    async fn clean_up(&self, client: &Client) -> Result<()> {
        let failed = |error| pg_error("drop what has moved away", error);
        // Where Citus is older than 11.2 there is no such list.
        let there = "select to_regclass('pg_catalog.pg_dist_cleanup') is not null";
        if !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
            return Ok(());
        }
        let started = Instant::now();
        loop {
            client.batch_execute("call citus_cleanup_orphaned_resources()").await.map_err(failed)?;
            let sql = "select count(*), min(object_name) from pg_dist_cleanup where node_group_id = $1";
            let row = client.query_one(sql, &[&self.node.group]).await.map_err(failed)?;
            let (left, first): (i64, Option<String>) = (row.get(0), row.get(1));
            if left == 0 {
                return Ok(());
            }
            if started.elapsed() > CLEAN_UP_MAX {
                let first = first.unwrap_or_default();
                return Err(Error::failed(format!(
                    "{} has no shards any more, but {left} objects that can't be dropped, such as {first}",
                    self.node.address
                ))
                .hint(
                    "bring it back if it is down, or end the queries on it that still use them, then run the same \
                     command again",
                ));
            }
            tokio::time::sleep(CLEAN_UP_AGAIN).await;
        }
    }
}

async fn held(client: &Client, node: &Node) -> Result<u64> {
    let row = client.query_one(HELD_SQL, &[&node.group]).await;
    let count: i64 = row.map_err(|error| pg_error("count the node's shards", error))?.get(0);
    Ok(count.cast_unsigned())
}

/// Bytes that the nodes can take together, if all disks are known; nodes on one host share its disk.
fn room(nodes: &[Address], disks: &[Option<Disk>]) -> Option<u64> {
    let mut seen: Vec<(&str, u64)> = Vec::new();
    let mut room = 0;
    for (node, disk) in nodes.iter().zip(disks) {
        let disk = (*disk)?;
        if !seen.contains(&(&node.host, disk.total_bytes)) {
            seen.push((&node.host, disk.total_bytes));
            room += disk.free_bytes.saturating_sub((disk.total_bytes as f64 * DISK_SHARE_LEFT) as u64);
        }
    }
    Some(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_what_all_disks_can_take_and_unknown_if_one_is() {
        let nodes = ["a:1", "a:2", "b:1"].map(|text| text.parse::<Address>().unwrap());
        let disk = |free_bytes, total_bytes| Some(Disk { free_bytes, total_bytes });
        assert_eq!(room(&nodes, &[disk(500, 1000), disk(480, 1000), disk(50, 1000)]), Some(400));
        assert_eq!(room(&nodes, &[disk(500, 1000), None, disk(50, 1000)]), None);
    }
}
