//! Endpoints: where a block goes. Plain PostgreSQL is one endpoint, a Citus coordinator is one, and so is each worker
//! whose shard tables are written directly.

pub mod shards;

use crate::partition::Partitions;
use crate::postgres::catalog::Target;
use crate::postgres::{QualifiedName, quote_ident};

use self::shards::{Node, Shard, ShardMap};

/// For writers into shards: their statements have one plan each, and a shard sees few blocks; by default the first five
/// are planned anew.
const PLAN_ONCE: &str = "set plan_cache_mode = force_generic_plan";

/// Which way blocks take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Into a plain table.
    Direct,
    /// Into a distributed table, through the node vecload is connected to.
    Coordinator,
    /// Into the tables of a distributed table's shards, on the workers that hold them.
    Shards,
}

/// A table that blocks are copied into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTable {
    /// The COPY statement.
    pub copy_sql: String,
    /// Whether deferred constraints have to be checked before the ledger row is written.
    pub has_deferrable: bool,
    /// The target's name, for messages; of a shard with its number and node.
    pub table: String,
    /// The target's name in SQL.
    pub target: String,
    /// An INSERT of one row, where rows go on to other nodes: what those say against a COPY loses its code on the way.
    pub insert_sql: Option<String>,
    /// Name without its schema, as the server's contexts have it.
    pub relation: String,
    /// What is to be kept in a transaction that writes a shard.
    pub shard: Option<ShardTable>,
}

/// What a transaction that writes into a shard's table takes care of: Citus does not know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardTable {
    /// The shard.
    pub shard: Shard,
    /// A channel of it, under which the ledger's rows are kept.
    pub channel: i64,
    /// What keeps the shard where it is until the end of the transaction.
    pub guard: Guard,
    /// The table of the ledger's rows on the same node.
    pub blocks: String,
    /// The table of the fences on the same node.
    pub fences: String,
    /// The storage of the target on the node vecload is connected to: its TRUNCATE shows there.
    pub relfilenode: u32,
}

impl ShardTable {
    /// The lock that movers take: 5 is ShareLock, which writers that Citus knows of take. `$1` is the shard.
    pub const LOCK_SQL: &str = "select lock_shard_metadata(5, array[$1::bigint])";

    /// Whether the shard `$1` is on this node, belongs to the table of the name `$2`, and has the hashes from `$3` to
    /// `$4`.
    pub const PLACE_SQL: &str = "select exists (
        select from pg_dist_shard s join pg_dist_placement p using (shardid)
        where s.shardid = $1 and s.logicalrelid = to_regclass($2)::oid
            and s.shardminvalue::integer = $3 and s.shardmaxvalue::integer = $4
            and p.groupid = (select groupid from pg_dist_local_group))";
}

/// What excludes moves and splits of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The lock that movers take, which only the table's owner may ask for.
    Lock,
    /// A COPY of no row into the distributed table, which takes it on the way.
    EmptyCopy(String),
}

/// Tables on one node, written over connections to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The node; none where vecload is connected to it anyway.
    pub node: Option<Node>,
    /// One for all blocks, or one for each place.
    pub tables: Vec<CopyTable>,
    /// Settings of its sessions.
    pub settings: String,
}

impl Endpoint {
    /// Index of the table that a block of this place goes into.
    pub fn table_of(&self, place: usize) -> usize {
        if self.tables.len() == 1 { 0 } else { place }
    }
}

/// The ways that blocks take in one attempt.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Their name.
    pub route: Route,
    /// Hash ranges: rows of one lie in one segment.
    pub partitions: Partitions,
    /// The place of each partition: segments of one place lie in one block.
    pub place_of: Vec<usize>,
    /// The endpoint of each place.
    pub endpoint_of: Vec<usize>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Writers of each endpoint.
    pub writers_each: usize,
    /// The shards that are written directly, with a channel of each.
    pub channels: Vec<i64>,
    /// Why these, for the user.
    pub told: Option<String>,
}

impl Routing {
    /// Into the table by its own name. Where Citus distributes it, a block holds rows of one shard, or of few of one
    /// node. Writers are divided among the nodes then: a session of the coordinator's has connections to the nodes that
    /// its COPYs have gone to, and each is a process there.
    pub fn by_name(
        target: &Target,
        columns: &[String],
        map: Option<&ShardMap>,
        even: Partitions,
        writers: usize,
    ) -> Self {
        let table = CopyTable {
            copy_sql: copy_sql(&target.name, columns),
            has_deferrable: target.has_deferrable,
            table: target.name.to_string(),
            target: target.name.sql(),
            insert_sql: target.citus.is_some().then(|| insert_sql(&target.name, columns)),
            relation: target.name.name.clone(),
            shard: None,
        };
        let endpoint = Endpoint { node: None, tables: vec![table], settings: String::new() };
        let of_map = map.and_then(|map| Some((map, map.partitions().ok()?)));
        let (partitions, place_of) = match &of_map {
            Some((map, partitions)) => (partitions.clone(), map.places()),
            None => {
                let places: Vec<usize> = (0..even.count()).collect();
                (even, places)
            }
        };
        let places = place_of.iter().max().map_or(1, |last: &usize| last + 1);
        let mut endpoint_of = vec![0; places];
        let groups = of_map.map_or(1, |(map, _)| writer_groups(map.nodes.len(), writers));
        for (shard, place) in map.iter().flat_map(|map| &map.shards).zip(&place_of) {
            endpoint_of[*place] = shard.node % groups;
        }
        Self {
            route: if target.citus.is_some() { Route::Coordinator } else { Route::Direct },
            partitions,
            place_of,
            endpoint_of,
            endpoints: vec![endpoint; groups],
            writers_each: writers / groups,
            channels: Vec::new(),
            told: None,
        }
    }

    /// Into the tables of the shards. `books` gives the names of the ledger's tables on a shard's node, by the shard's
    /// index.
    pub fn by_shard(
        target: &Target,
        columns: &[String],
        map: &ShardMap,
        channels: Vec<i64>,
        writers_each: usize,
        books: impl Fn(usize) -> (String, String),
    ) -> Option<Self> {
        let guard = || match target.indexes_can_change {
            true => Guard::Lock,
            false => Guard::EmptyCopy(copy_sql(&target.name, columns)),
        };
        let tables = map.shards.iter().zip(&channels).enumerate().map(|(index, (shard, channel))| {
            let name = QualifiedName::new(target.name.schema.as_deref(), &shard.table);
            let (blocks, fences) = books(index);
            CopyTable {
                copy_sql: copy_sql(&name, columns),
                has_deferrable: target.has_deferrable,
                table: format!("shard {} of {} on {}", shard.id, target.name, map.nodes[shard.node]),
                target: target.name.sql(),
                insert_sql: None,
                relation: name.name,
                shard: Some(ShardTable {
                    shard: shard.clone(),
                    channel: *channel,
                    guard: guard(),
                    blocks,
                    fences,
                    relfilenode: target.relfilenode,
                }),
            }
        });
        let tables: Vec<CopyTable> = tables.collect();
        let endpoint = |node: &Node| Endpoint {
            node: Some(node.clone()),
            tables: tables.clone(),
            settings: PLAN_ONCE.into(),
        };
        Some(Self {
            route: Route::Shards,
            partitions: map.partitions().ok()?,
            place_of: (0..map.shards.len()).collect(),
            endpoint_of: map.shards.iter().map(|shard| shard.node).collect(),
            endpoints: map.nodes.iter().map(endpoint).collect(),
            writers_each,
            channels,
            told: None,
        })
    }

    /// Whether any writer can write any block: the endpoints are ways to the same server.
    pub fn is_one_server(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.node.is_none())
    }

    /// Writers of all endpoints.
    pub fn writers(&self) -> usize {
        self.writers_each * self.endpoints.len()
    }

    /// How many blocks are open at a time.
    pub fn places(&self) -> usize {
        self.endpoint_of.len()
    }
}

/// Into how many groups writers through the coordinator are divided: as many as give each group as many writers, and as
/// many nodes, as the others.
fn writer_groups(nodes: usize, writers: usize) -> usize {
    (1..=nodes.min(writers))
        .rev()
        .find(|groups| nodes.is_multiple_of(*groups) && writers.is_multiple_of(*groups))
        .unwrap_or(1)
}

fn copy_sql(table: &QualifiedName, columns: &[String]) -> String {
    format!("copy {} ({}) from stdin with (format binary)", table.sql(), column_list(columns))
}

/// As COPY, it gives identity columns the values that are sent.
fn insert_sql(table: &QualifiedName, columns: &[String]) -> String {
    let values: Vec<String> = (1..=columns.len()).map(|number| format!("${number}")).collect();
    let (columns, values) = (column_list(columns), values.join(", "));
    format!("insert into {} ({columns}) overriding system value values ({values})", table.sql())
}

fn column_list(columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
    columns.join(", ")
}

#[cfg(test)]
mod tests {
    use super::writer_groups;

    #[test]
    fn groups_of_writers_have_as_many_nodes_and_writers_each() {
        for (nodes, writers, groups) in [
            (2, 4, 2),
            (3, 6, 3),
            (3, 4, 1),
            (8, 4, 4),
            (6, 4, 2),
            (5, 4, 1),
            (2, 1, 1),
            (1, 4, 1),
            (0, 4, 1),
            (32, 8, 8),
        ] {
            assert_eq!(writer_groups(nodes, writers), groups, "{nodes} nodes, {writers} writers");
        }
    }
}
