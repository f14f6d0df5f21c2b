//! What has to be so before shards are moved.

use tokio_postgres::Client;

use super::Address;
use super::nodes::{Node, ask};
use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// Tables whose shards logical replication can't move, and why.
const UNFIT_SQL: &str = "
    select c.oid::regclass::text as name, c.relpersistence = 'u' as is_unlogged
    from pg_dist_partition p join pg_class c on c.oid = p.logicalrelid
    where (p.partmethod <> 'n' or p.colocationid <> 0) and c.relkind = 'r'
        and (c.relpersistence = 'u'
            or not (c.relreplident in ('f', 'i') or c.relreplident = 'd' and exists (
                select from pg_index i where i.indrelid = c.oid and i.indisprimary)))
    order by 1";

/// Citus's name for the way shards are moved.
pub(super) fn transfer_mode(block_writes: bool) -> &'static str {
    if block_writes { "block_writes" } else { "auto" }
}

/// Only superusers may change the list of nodes, unless somebody has granted the functions.
pub(super) async fn nodes_may_change(client: &Client) -> Result<()> {
    let sql = "select has_function_privilege('citus_add_node(text,integer,integer,noderole,name)', 'execute')
        and has_function_privilege('citus_remove_node(text,integer)', 'execute')";
    let row =
        client.query_one(sql, &[]).await.map_err(|error| pg_error("look at the role's rights", error))?;
    match row.get(0) {
        true => Ok(()),
        false => {
            Err(Error::refused("this role may not change the cluster's nodes").hint("connect as a superuser"))
        }
    }
}

/// Moves of a shard fail for ever once Citus has to drop an old table of it on a node that is not there any more.
async fn nothing_is_left_on_removed_nodes(client: &Client) -> Result<()> {
    let failed = |error| pg_error("look for what removed nodes have left", error);
    // Where Citus is older than 11.2 there is no such list.
    let there = "select to_regclass('pg_catalog.pg_dist_cleanup') is not null";
    if !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(());
    }
    let sql = "select string_agg(object_name, ', ') from pg_dist_cleanup
        where node_group_id <> 0 and node_group_id not in (select groupid from pg_dist_node)";
    match client.query_one(sql, &[]).await.map_err(failed)?.get::<_, Option<String>>(0) {
        None => Ok(()),
        Some(left) => Err(Error::refused(format!(
            "Citus still wants to drop {left} on a node that was removed, and moves no shard of these until then"
        ))
        .hint(
            "as a superuser on the coordinator: delete from pg_dist_cleanup where node_group_id <> 0 and \
             node_group_id not in (select groupid from pg_dist_node)",
        )),
    }
}

/// Refuses a move that would fail, with the reason and the cure.
pub(super) async fn shards_can_move(client: &Client, nodes: &[Node], block_writes: bool) -> Result<()> {
    nothing_is_left_on_removed_nodes(client).await?;
    let servers: Vec<Address> = nodes
        .iter()
        .filter(|node| node.is_primary && node.is_active)
        .map(|node| node.address.clone())
        .collect();
    let answers = ask(client, &servers, "select current_setting('wal_level')").await?;
    let mut replicas = Vec::new();
    for (server, answer) in servers.iter().zip(answers) {
        match answer {
            Err(problem) => {
                return Err(Error::refused(format!("node {server} can't be asked: {problem}"))
                    .hint("shards move only while all nodes answer: bring it back, then try again"));
            }
            Ok(level) if level != "logical" => replicas.push(format!("{server} ({level})")),
            Ok(_) => {}
        }
    }
    if block_writes {
        return Ok(());
    }
    if !replicas.is_empty() {
        return Err(Error::refused(format!(
            "shards move by logical replication, and wal_level is not logical on {}",
            replicas.join(", ")
        ))
        .hint(
            "on each: ALTER SYSTEM SET wal_level = logical, and restart it; or give --block-writes, with which \
             writes to a shard wait while it moves",
        ));
    }
    let unfit =
        client.query(UNFIT_SQL, &[]).await.map_err(|error| pg_error("look at the tables' keys", error))?;
    let names = |unlogged: bool| {
        let rows = unfit.iter().filter(|row| row.get::<_, bool>("is_unlogged") == unlogged);
        rows.map(|row| row.get::<_, String>("name")).collect::<Vec<_>>().join(", ")
    };
    if !unfit.is_empty() {
        let (without_key, unlogged) = (names(false), names(true));
        let why = match (without_key.is_empty(), unlogged.is_empty()) {
            (false, _) => format!("a primary key or replica identity is missing: {without_key}"),
            _ => format!("{unlogged} is unlogged"),
        };
        return Err(Error::refused(format!("shards move by logical replication, and {why}")).hint(
            "add a primary key (or make the table logged), or give --block-writes, with which writes to a shard \
             wait while it moves",
        ));
    }
    Ok(())
}
