//! What Citus knows of its nodes and of a table, and whether a table can be distributed among them.

use serde::Serialize;
use tokio_postgres::Client;

use super::catalog::Target;
use super::types::TargetType;
use super::{QualifiedName, pg_error, quote_ident};
use crate::error::{Error, Result};

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Where the other nodes reach it.
    pub address: String,
    /// Whether it is the coordinator.
    pub is_coordinator: bool,
    /// Whether Citus uses it.
    pub is_active: bool,
    /// Whether it may hold shards.
    pub takes_shards: bool,
    /// How many shards of the table are on it.
    pub shards: i64,
}

/// How Citus keeps a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Not at all: an ordinary table of this server.
    Local,
    /// In shards, by the hash of a column.
    Distributed,
    /// A copy on each node.
    Reference,
    /// A table of the coordinator that all nodes know of.
    CitusLocal,
    /// In another way: one shard, or rows appended to shards.
    Other,
}

impl Kind {
    /// What such a table is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "a local table",
            Self::Distributed => "a distributed table",
            Self::Reference => "a reference table",
            Self::CitusLocal => "a Citus local table",
            Self::Other => "a table that Citus keeps in another way than by the hash of a column",
        }
    }
}

/// The cluster as the node says that we are connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Whether this node is a worker.
    pub is_worker: bool,
    /// All nodes, the coordinator first; none where no node was ever registered.
    pub nodes: Vec<Node>,
    /// How the table is kept, if it is there.
    pub table: Option<Kind>,
}

impl Cluster {
    /// Asks for the cluster and how it keeps a table; `None` where the extension is not installed.
    pub async fn of(client: &Client, table: &QualifiedName) -> Result<Option<Self>> {
        let failed = |error| pg_error("ask Citus for its nodes", error);
        let citus = "select exists (select from pg_extension where extname = 'citus')";
        if !client.query_one(citus, &[]).await.map_err(failed)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let row = client
            .query_one(
                "select (select groupid <> 0 from pg_dist_local_group) as is_worker, t.oid is not null as is_there,
                        case when p.logicalrelid is null then 'local' when p.partmethod = 'h' then 'distributed'
                             when p.partmethod = 'n' and p.repmodel = 't' then 'reference'
                             when p.partmethod = 'n' and p.colocationid = 0 then 'citus_local'
                             else 'other' end as kind
                 from (select to_regclass($1)::oid as oid) t
                 left join pg_dist_partition p on p.logicalrelid = t.oid",
                &[&table.sql()],
            )
            .await
            .map_err(failed)?;
        let kind = match row.get("kind") {
            "local" => Kind::Local,
            "distributed" => Kind::Distributed,
            "reference" => Kind::Reference,
            "citus_local" => Kind::CitusLocal,
            _ => Kind::Other,
        };
        let nodes = client
            .query(
                "select nodename || ':' || nodeport, groupid = 0, isactive, shouldhaveshards,
                        (select count(*) from pg_dist_placement p join pg_dist_shard s using (shardid)
                         where p.groupid = n.groupid and s.logicalrelid = to_regclass($1))
                 from pg_dist_node n where noderole = 'primary' order by groupid",
                &[&table.sql()],
            )
            .await
            .map_err(failed)?;
        let node = |row: &tokio_postgres::Row| Node {
            address: row.get(0),
            is_coordinator: row.get(1),
            is_active: row.get(2),
            takes_shards: row.get(3),
            shards: row.get(4),
        };
        Ok(Some(Self {
            is_worker: row.get("is_worker"),
            nodes: nodes.iter().map(node).collect(),
            table: row.get::<_, bool>("is_there").then_some(kind),
        }))
    }

    /// The coordinator, if it is registered.
    pub fn coordinator(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.is_coordinator)
    }

    /// The other nodes.
    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_coordinator)
    }

    /// Refuses a session with a worker: tables are made, and their nodes looked after, on the coordinator.
    pub fn check_is_coordinator(&self) -> Result<()> {
        if !self.is_worker {
            return Ok(());
        }
        let coordinator = self.coordinator().map(|node| format!(", {}", node.address));
        Err(Error::refused(
            "this server is a worker of a Citus cluster, and tables are made on the coordinator",
        )
        .hint(format!("connect to the coordinator{}", coordinator.unwrap_or_default())))
    }

    /// Refuses a cluster in which a new distributed table would not work, or only at first. Says what is not as usual.
    pub async fn check_nodes(&self, client: &Client) -> Result<Vec<String>> {
        let mut notes: Vec<String> = Vec::new();
        for node in self.workers().filter(|node| !node.is_active) {
            notes.push(format!(
                "worker {0} is not active and gets no shards: vecload cluster add {0} brings it back",
                node.address
            ));
        }
        if !self.nodes.is_empty() && !self.nodes.iter().any(|node| node.is_active && node.takes_shards) {
            return Err(Error::refused("no node of the cluster takes shards").hint(
                "add a worker: vecload cluster add HOST:PORT; or let a node hold shards that may not, such as a \
                 coordinator or a worker that was drained: \
                 select citus_set_node_property('HOST', PORT, 'shouldhaveshards', true);",
            ));
        }
        if self.workers().all(|node| !node.is_active) {
            notes.push(
                "the cluster has no worker: all shards are on this server, and searches and loads have this server \
                 alone. Before workers join, give it an address that they can reach, by citus_set_coordinator_host; \
                 shards move to them in a rebalance"
                    .into(),
            );
            return Ok(notes);
        }
        if self.coordinator().is_none() {
            return Err(Error::refused(
                "the coordinator is not registered in its own cluster: workers could not reach it, and TRUNCATE or \
                 locks of distributed tables would fail there",
            )
            .hint(
                "on the coordinator, with the address that workers reach it by: \
                 select citus_set_coordinator_host('HOST', 5432);",
            ));
        }
        check_extension(client).await?;
        Ok(notes)
    }
}

/// Refuses workers that can't be asked, and workers on which pgvector is not installed.
async fn check_extension(client: &Client) -> Result<()> {
    let ask = "select nodename || ':' || nodeport, success, result from run_command_on_workers(
        'select count(*) from pg_available_extensions where name = ''vector''')
        order by success, result, 1";
    let rows =
        client.query(ask, &[]).await.map_err(|error| pg_error("ask the workers for pgvector", error))?;
    for row in rows {
        let (node, success, result): (&str, bool, &str) = (row.get(0), row.get(1), row.get(2));
        if !success {
            return Err(Error::refused(format!("worker {node} could not be asked: {}", result.trim())).hint(
                "start it, or mend the network between coordinator and worker; a worker that is gone for good is \
                 taken out by vecload cluster remove",
            ));
        }
        if result == "0" {
            return Err(Error::refused(format!("worker {node} has no extension vector")).hint(
                "install pgvector on that machine (package postgresql-NN-pgvector, or build it), in the \
                 coordinator's version; no restart is needed",
            ));
        }
    }
    Ok(())
}

/// Refuses a table whose constraints, sequences or rows forbid its distribution by a column.
pub async fn check_shape(client: &Client, target: &Target, column: &str) -> Result<()> {
    let (name, table) = (&target.name, target.name.sql());
    let Some(by) = target.column(column) else {
        return Err(Error::refused(format!("table {name} has no column {column} to distribute it by")).hint(
            format!(
                "name another table with --table, or distribute it yourself, by a column of its own: \
             select create_distributed_table('{name}', 'COLUMN'); vecload follows that"
            ),
        ));
    };
    check_keys(client, target, column).await?;
    check_sequences(client, target).await?;
    for with_default in target.columns.iter().filter(|column| column.sequence.is_some()) {
        if matches!(with_default.target_type, Some(TargetType::Int2 | TargetType::Int4)) {
            return Err(Error::refused(format!(
                "column {}.{} takes its default from a sequence and is {}: workers can draw only bigint",
                name, with_default.name, with_default.type_name
            ))
            .hint(format!(
                "alter table {table} alter column {} type bigint;",
                quote_ident(&with_default.name)
            )));
        }
    }
    let quoted = quote_ident(&by.name);
    let null = format!("select exists (select from {table} where {quoted} is null)");
    let failed = |error| pg_error(format!("look for nulls in {name}"), error);
    if !by.not_null && client.query_one(&null, &[]).await.map_err(failed)?.get(0) {
        return Err(Error::refused(format!(
            "table {name} has rows without {column}, and Citus could place them nowhere"
        ))
        .hint(format!("give them one: update {table} set {quoted} = … where {quoted} is null;")));
    }
    Ok(())
}

async fn check_keys(client: &Client, target: &Target, column: &str) -> Result<()> {
    let name = &target.name;
    let keys = client
        .query(
            "select i.indexrelid::regclass::text as index, c.conname, i.indisprimary,
                    array(select coalesce(a.attname::text, 'an expression') from unnest(i.indkey::int2[])
                          with ordinality as k(attnum, n)
                          left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                          where k.n <= i.indnkeyatts order by k.n) as columns
             from pg_index i left join pg_constraint c on c.conindid = i.indexrelid and c.conrelid = i.indrelid
             where i.indrelid = $1::oid and (i.indisunique or i.indisexclusion) order by not i.indisprimary, 1",
            &[&target.oid],
        )
        .await
        .map_err(|error| pg_error(format!("look up the keys of {name}"), error))?;
    for key in keys {
        let columns: Vec<String> = key.get("columns");
        if columns.iter().any(|of_key| of_key == column) {
            continue;
        }
        let (table, constraint) = (name.sql(), key.get::<_, Option<&str>>("conname").map(quote_ident));
        let mut with: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
        with.push(quote_ident(column));
        let with = with.join(", ");
        let (what, cure) = match (key.get("indisprimary"), constraint) {
            (true, Some(constraint)) => (
                "the primary key",
                format!("alter table {table} drop constraint {constraint}, add primary key ({with});"),
            ),
            (_, Some(constraint)) => (
                "a unique constraint",
                format!("alter table {table} drop constraint {constraint}, add unique ({with});"),
            ),
            (_, None) => (
                "a unique index",
                format!(
                    "drop index {}; create unique index on {table} ({with});",
                    key.get::<_, &str>("index")
                ),
            ),
        };
        return Err(Error::refused(format!(
            "{what} of {name} is over {}, without {column}: a shard can't see whether a key is in another shard",
            columns.join(", ")
        ))
        .hint(cure));
    }
    Ok(())
}

/// A sequence that the table owns goes with it, and Citus does not let it be handed to another.
async fn check_sequences(client: &Client, target: &Target) -> Result<()> {
    let name = &target.name;
    let owned = client
        .query_opt(
            "select d.objid::regclass::text as sequence, a.attname, format_type(a.atttypid, a.atttypmod) as type,
                    a.attidentity <> '' as is_identity
             from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
             join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
               and d.refobjid = $1::oid and d.deptype in ('a', 'i') order by a.attnum limit 1",
            &[&target.oid],
        )
        .await
        .map_err(|error| pg_error(format!("look up the sequences of {name}"), error))?;
    let Some(owned) = owned else { return Ok(()) };
    let (sequence, column, type_name): (&str, &str, &str) =
        (owned.get("sequence"), owned.get("attname"), owned.get("type"));
    let (table, quoted) = (name.sql(), quote_ident(column));
    let (what, mut cure) = match owned.get("is_identity") {
        true => (
            "is an identity, whose sequence the table owns",
            format!(
                "create sequence NAME as bigint; alter table {table} alter {quoted} drop identity, \
                 alter {quoted} set default nextval('NAME'); select setval('NAME', max({quoted})) from {table};"
            ),
        ),
        false => (
            "owns its sequence (serial, bigserial)",
            format!("alter sequence {sequence} as bigint owned by none;"),
        ),
    };
    if type_name != "bigint" {
        cure = format!("alter table {table} alter column {quoted} type bigint; {cure}");
    }
    Err(Error::refused(format!(
        "column {name}.{column} ({type_name}) {what}: once distributed, it could not be handed to the table of a reload"
    ))
    .hint(cure))
}
