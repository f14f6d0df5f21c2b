//! What has to be so before shards are moved.

use tokio_postgres::{Client, Row};

use super::Address;
use super::nodes::{Node, OWN_GROUP_SQL, another_server, ask, ask_json};
use crate::error::{Error, Result};
use crate::postgres::{pg_error, quote_literal};

/// Tables whose shards logical replication can't move, and why.
const UNFIT_SQL: &str = "
    select c.oid::regclass::text as name, c.relpersistence = 'u' as is_unlogged
    from pg_dist_partition p join pg_class c on c.oid = p.logicalrelid
    where (p.partmethod <> 'n' or p.colocationid <> 0) and c.relkind = 'r'
        and (c.relpersistence = 'u'
            or not (c.relreplident in ('f', 'i') or c.relreplident = 'd' and exists (
                select from pg_index i where i.indrelid = c.oid and i.indisprimary)))
    order by 1";

/// Tables of shards by node group, as the coordinator has them.
const PLACED_SQL: &str = "
    select p.groupid, t.logicalrelid::regclass::text as of_table,
        format('%I.%I', n.nspname, (select parts[cardinality(parts)]
            from parse_ident(shard_name(s.logicalrelid, s.shardid)) parts)) as shard
    from pg_dist_placement p join pg_dist_shard s using (shardid)
    join pg_dist_partition t on t.logicalrelid = s.logicalrelid
    join pg_class c on c.oid = t.logicalrelid join pg_namespace n on n.oid = c.relnamespace
    where t.repmodel <> 't' order by 1, t.logicalrelid, s.shardid";

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

/// A shard of a table and the group of nodes that the coordinator has it on.
struct Placed {
    group: i32,
    table: String,
    shard: String,
}

async fn placed(client: &Client) -> Result<Vec<Placed>> {
    let rows = client.query(PLACED_SQL, &[]).await.map_err(|error| pg_error("list the shards", error))?;
    let placed = |row: &Row| Placed { group: row.get(0), table: row.get(1), shard: row.get(2) };
    Ok(rows.iter().map(placed).collect())
}

/// A server that has lost its data, or stands in a node's place, has none of the shards that Citus would move.
async fn shards_are_there(client: &Client, nodes: &[Node]) -> Result<()> {
    let all = placed(client).await?;
    for node in nodes.iter().filter(|node| node.is_primary && node.is_active) {
        let of_node: Vec<&Placed> = all.iter().filter(|placed| placed.group == node.group).collect();
        if of_node.is_empty() {
            continue;
        }
        let names: Vec<String> = of_node.iter().map(|placed| quote_literal(&placed.shard)).collect();
        let sql = format!(
            "select coalesce(json_agg(name), '[]')::text from unnest(array[{}]::text[]) as name
            where to_regclass(name) is null",
            names.join(", ")
        );
        let address = &node.address;
        let missing = ask_json::<Vec<String>>(client, std::slice::from_ref(address), &sql).await?.remove(0);
        let mut missing = missing.map_err(|problem| unanswered(address, &problem))?;
        if !missing.is_empty() {
            // What has moved, was split or dropped in between is not missed.
            let now = placed(client).await?;
            missing.retain(|name| now.iter().any(|at| at.group == node.group && at.shard == *name));
        }
        if !missing.is_empty() {
            return Err(lost(client, node, &of_node, &missing).await?);
        }
    }
    Ok(())
}

/// What to say of shards that a node does not have.
async fn lost(client: &Client, node: &Node, of_node: &[&Placed], missing: &[String]) -> Result<Error> {
    let address @ Address { host, port } = &node.address;
    let own = ask(client, std::slice::from_ref(address), OWN_GROUP_SQL).await?.remove(0);
    let own = own.map_err(|problem| unanswered(address, &problem))?;
    let (why, forget) = match another_server(node.group, &own) {
        // Such a server knows nothing of the tables that it would be told to forget.
        Some(why) => {
            (why, format!("select stop_metadata_sync_to_node({}, {port}, false); ", quote_literal(host)))
        }
        None => ("they were dropped there, or its data were lost".into(), String::new()),
    };
    let of_missing = of_node.iter().filter(|placed| missing.contains(&placed.shard));
    let mut tables: Vec<&str> = of_missing.map(|placed| placed.table.as_str()).collect();
    tables.dedup();
    Ok(Error::refused(format!(
        "{} of the {} shards of {address} are not there, such as {}: {why}",
        missing.len(),
        of_node.len(),
        missing.first().map_or("", String::as_str),
    ))
    .hint(format!(
        "restore its data; or, if they can't be had again, give the tables up, with their rows on the other nodes \
         too: {forget}drop table {}; then run the same command again",
        tables.join(", ")
    )))
}

fn unanswered(server: &Address, problem: &str) -> Error {
    Error::refused(format!("node {server} can't be asked: {problem}"))
        .hint("shards move only while all nodes answer: bring it back, then try again")
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
            Err(problem) => return Err(unanswered(server, &problem)),
            Ok(level) if level != "logical" => replicas.push(format!("{server} ({level})")),
            Ok(_) => {}
        }
    }
    shards_are_there(client, nodes).await?;
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
