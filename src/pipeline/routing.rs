//! The choice of the way that blocks take.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_postgres::Client;

use super::plan::LoadPlan;
use crate::error::{Error, Kind, Result};
use crate::ledger::outbox::Outbox;
use crate::partition::Partitions;
use crate::postgres::catalog::{Distribution, Target, TargetColumn};
use crate::postgres::types::TargetType;
use crate::postgres::{ConnectSettings, QualifiedName, SessionOptions, pg_error};
use crate::route::Routing;
use crate::route::shards::{Node, ShardMap};
use crate::source::Place;

/// For writers through the coordinator: a connection to each worker and no more, kept for the next block; a COPY is for
/// one shard, or for few of one node.
const ONE_CONNECTION: &str =
    "set citus.max_adaptive_executor_pool_size = 1; set citus.max_cached_conns_per_worker = 1;";

/// Bytes after which Citus sends a worker what it has for it; its 8 MB leave the core's cache before they are sent.
const FLUSH: &str = "citus.remote_copy_flush_threshold";

/// Writers to each worker straight into its shards, unless another number is asked for: while one waits for its commit,
/// the other sends.
const WRITERS_EACH: usize = 2;

/// Writers through the coordinator at least, unless another number is asked for: a commit there is three flushes, one
/// after the other (`docs/scaling.md`).
const COORDINATOR_WRITERS: usize = 4;

/// Connections of a worker that are left to others.
const LEFT_TO_OTHERS: i64 = 5;

/// A worker that does not answer within this time is not reached from here.
const REACH_MAX: Duration = Duration::from_secs(4);

/// `--route`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum RouteChoice {
    /// Into the shards where that can be done safely, else through the coordinator.
    #[default]
    Auto,
    /// Through the coordinator.
    Coordinator,
    /// Into the shards, or not at all.
    Shards,
}

/// Chooses the way for an attempt, with a line about it for the user.
pub(super) async fn choose(
    control: &Client,
    connect: &ConnectSettings,
    plan: &LoadPlan,
) -> Result<Arc<Routing>> {
    let (target, columns, writers) = (&plan.target, &plan.copy_columns[..], plan.settings.writers);
    let even = Partitions::even(plan.partitions());
    let wanted = plan.settings.route;
    let Some(distribution) = &target.citus else {
        return match wanted {
            RouteChoice::Auto => Ok(Arc::new(Routing::by_name(target, columns, None, even, writers))),
            _ => Err(Error::refused(format!("--route: {} is not distributed", target.name)).hint(
                "leave --route out; or distribute the table first: vecload migrate on a Citus coordinator",
            )),
        };
    };
    let map = match target.channel_column() {
        Some(_) => {
            let [map] = ShardMap::read(control, [target.oid]).await?;
            Some(map)
        }
        None => None,
    };
    let why_not = match (&map, wanted) {
        (_, RouteChoice::Coordinator) => Refusal::of("as asked"),
        (None, _) => Refusal::of(format!("column {} is no integer", distribution.column)),
        (Some(map), _) => match shards(control, connect, plan, distribution, map).await? {
            Ok(mut routing) => {
                routing.told = Some(format!(
                    "route shards: straight into {} on {}, {} each",
                    counted(map.shards.len(), "shard"),
                    counted(map.nodes.len(), "node"),
                    counted(routing.writers_each, "writer")
                ));
                return Ok(Arc::new(routing));
            }
            Err(why_not) => why_not,
        },
    };
    if wanted == RouteChoice::Shards {
        let error = Error::refused(format!("--route shards: {}", why_not.what))
            .hint(format!("{}; or load through the coordinator: --route coordinator", why_not.cure));
        return Err(if why_not.may_pass { error.transient() } else { error });
    }
    let nodes = map.as_ref().map_or(0, |map| map.nodes.len());
    let writers = coordinator_writers(control, plan, nodes).await?;
    let mut routing = Routing::by_name(target, columns, map.as_ref(), even, writers);
    for endpoint in &mut routing.endpoints {
        endpoint.settings = format!(
            "{ONE_CONNECTION}
             select set_config('{FLUSH}', '256kB', false) where current_setting('{FLUSH}', true) is not null"
        );
    }
    routing.told = Some(format!(
        "route coordinator ({}): {}, each with a connection to {}",
        why_not.what,
        counted(writers, "writer"),
        match (nodes, nodes / routing.endpoints.len()) {
            (_, 1) if nodes > 1 => "one worker".to_owned(),
            (_, some) if some < nodes => format!("{some} workers"),
            _ => "every worker".to_owned(),
        },
    ));
    Ok(Arc::new(routing))
}

/// Why shards can't be written directly.
struct Refusal {
    what: String,
    cure: String,
    /// Whether it may be over soon.
    may_pass: bool,
}

impl Refusal {
    fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), cure: "mend that".into(), may_pass: false }
    }

    fn for_now(what: impl Into<String>) -> Self {
        Self { may_pass: true, ..Self::of(what) }
    }
}

/// What Citus says while it makes no table that goes with others: a shard of theirs moves, or a worker has not heard of
/// a change of the nodes yet.
const FOR_NOW: [&str; 2] = ["could not acquire the lock required", "is a metadata node, but is out of sync"];

async fn shards(
    control: &Client,
    connect: &ConnectSettings,
    plan: &LoadPlan,
    distribution: &Distribution,
    map: &ShardMap,
) -> Result<Result<Routing, Refusal>> {
    let target = &plan.target;
    if let Some(shard) = map.shards.iter().find(|shard| shard.placements > 1) {
        return Ok(Err(Refusal::of(format!(
            "shard {} is on {} nodes, which only the coordinator writes together",
            shard.id, shard.placements
        ))));
    }
    if distribution.has_policies {
        return Ok(Err(Refusal::of(
            "the table has row security policies for this role, which shards may not have",
        )));
    }
    let needs_coordinator = |column: &&TargetColumn| {
        (column.draws || column.sequence.is_some()) && !plan.copy_columns.contains(&column.name)
    };
    if let Some(column) = target.columns.iter().find(needs_coordinator) {
        return Ok(Err(Refusal::of(format!(
            "column {} takes its values from a sequence, which shards have no default for",
            column.name
        ))));
    }
    if plan.settings.route == RouteChoice::Auto
        && plan.sources.iter().any(|source| source.place == Place::Stdin)
    {
        return Ok(Err(Refusal::of("standard input can't be read again should a shard move")));
    }
    let channel = target.column(&distribution.column).and_then(|column| column.target_type.as_ref());
    let highest = match channel {
        Some(TargetType::Int2) => i64::from(i16::MAX),
        Some(TargetType::Int4) => i64::from(i32::MAX),
        _ => i64::MAX,
    };
    let mut channels = Vec::with_capacity(map.shards.len());
    for (shard, channel) in map.shards.iter().zip(map.channels(highest)?) {
        match channel {
            Some(channel) => channels.push(channel),
            None => {
                return Ok(Err(Refusal::of(format!(
                    "shard {} holds so few hashes that no channel of it is known",
                    shard.id
                ))));
            }
        }
    }
    let least = if plan.settings.are_writers_given { 1 } else { WRITERS_EACH };
    let writers_each = plan.settings.writers.div_ceil(map.nodes.len().max(1)).max(least);
    let looks = look_at_nodes(connect, target, map, writers_each as i64);
    let (looks, outbox) = tokio::join!(looks, outbox(control, target, distribution));
    let identities = match looks.into_iter().collect::<Result<Vec<String>, String>>() {
        Ok(identities) => identities,
        Err(what) => return Ok(Err(Refusal::for_now(what))),
    };
    let outbox = match outbox? {
        Ok(outbox) => outbox,
        Err(why_not) => return Ok(Err(why_not)),
    };
    if let Some(what) = leads_elsewhere(control, &outbox.fences, map, &channels, &identities).await {
        return Ok(Err(Refusal::for_now(what)));
    }
    let [blocks, fences] = ShardMap::read(control, outbox.oids(control).await?).await?;
    let is_beside = |books: &ShardMap| {
        books.shards.len() == map.shards.len()
            && books.shards.iter().zip(&map.shards).all(|(book, shard)| {
                (book.low, book.high, books.nodes[book.node].group)
                    == (shard.low, shard.high, map.nodes[shard.node].group)
            })
    };
    if !is_beside(&blocks) || !is_beside(&fences) {
        return Ok(Err(Refusal::for_now("the ledger's shards are not beside the table's")));
    }
    let name = |books: &ShardMap, index: usize, table: &QualifiedName| {
        QualifiedName::new(table.schema.as_deref(), &books.shards[index].table).sql()
    };
    let routing = Routing::by_shard(target, &plan.copy_columns, map, channels, writers_each, |index| {
        (name(&blocks, index, &outbox.blocks), name(&fences, index, &outbox.fences))
    });
    routing.map(Ok).ok_or_else(|| Error::bug("a map of shards that covers too little"))
}

/// The ledger's tables on the workers, made and writable.
async fn outbox(
    control: &Client,
    target: &Target,
    distribution: &Distribution,
) -> Result<Result<Outbox, Refusal>> {
    let outbox = match Outbox::prepare(control, target, distribution).await {
        Ok(outbox) => outbox,
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            let refusal = Refusal::of(error.to_string());
            let may_pass = FOR_NOW.iter().any(|said| refusal.what.contains(said));
            let cure = error.advice().map_or(refusal.cure, |advice| advice.trim_end_matches('.').to_owned());
            return Ok(Err(Refusal { cure, may_pass, ..refusal }));
        }
    };
    if !outbox.is_writable(control).await? {
        return Ok(Err(Refusal::of(format!(
            "this role may not write the ledger's tables on the workers, for which it needs: \
             grant select, insert, update, delete on {}, {} to the role",
            outbox.blocks, outbox.fences
        ))));
    }
    Ok(Ok(outbox))
}

/// Whether each node can be written from here: its system identifier, or why it can't.
async fn look_at_nodes(
    connect: &ConnectSettings,
    target: &Target,
    map: &ShardMap,
    writers: i64,
) -> Vec<Result<String, String>> {
    join_all(map.nodes.iter().map(async |node| {
        // Within the time after which a session that waits is taken for lost.
        let look = can_write(connect, node, target, map, writers);
        tokio::time::timeout(REACH_MAX, look).await.unwrap_or_else(|_elapsed| {
            Err(format!("node {node} can't be reached from here: no answer within {} s", REACH_MAX.as_secs()))
        })
    }))
    .await
}

/// Whether a name like localhost leads elsewhere from here, where `identities` were found, than from the coordinator:
/// that one's server answers a query for a shard that is on it, over a connection that Citus has open already.
async fn leads_elsewhere(
    control: &Client,
    fences: &QualifiedName,
    map: &ShardMap,
    channels: &[i64],
    identities: &[String],
) -> Option<String> {
    let asked = map.nodes.iter().zip(identities).enumerate().map(async |(number, (node, identity))| {
        let index = map.shards.iter().position(|shard| shard.node == number)?;
        let sql = format!(
            "select (pg_control_system()).system_identifier::text, count(*) from {} where channel = {}",
            fences.sql(),
            channels[index]
        );
        // A node that the coordinator does not reach is an error soon enough.
        let known: String = control.query_one(&sql, &[]).await.ok()?.get(0);
        (known != *identity).then(|| {
            format!("under the name {node} this machine reaches another server than the coordinator does")
        })
    });
    join_all(asked).await.into_iter().flatten().next()
}

/// Whether this machine reaches a node, and this role may write there. Gives the server's system identifier.
async fn can_write(
    connect: &ConnectSettings,
    node: &Node,
    target: &Target,
    map: &ShardMap,
    writers: i64,
) -> Result<String, String> {
    let options = SessionOptions { application_name: Some("vecload look".into()), transaction_timeout: None };
    let way = way_to(connect, node);
    let session = way
        .connect(&options)
        .await
        .map_err(|error| format!("node {node} can't be reached from here: {error}"))?;
    let here = map.shards.iter().find(|shard| map.nodes[shard.node] == *node);
    let name = here.map(|shard| QualifiedName::new(target.name.schema.as_deref(), &shard.table).sql());
    let sql = format!(
        "select coalesce(has_table_privilege(to_regclass($1)::oid, 'insert'), false), {FREE},
             (select system_identifier::text from pg_control_system())"
    );
    let row = session.query_one(&sql, &[&name]).await;
    let row = row.map_err(|error| session.error(format!("look at node {node}"), error).to_string());
    session.close().await;
    let row = row?;
    let free: i64 = row.get(1);
    if !row.get::<_, bool>(0) {
        return Err(format!(
            "this role may not insert into the shards on node {node}, or they are not there"
        ));
    }
    if free - LEFT_TO_OTHERS < writers {
        return Err(format!(
            "node {node} has {} free, {LEFT_TO_OTHERS} of them for others, and gets {}",
            counted(free.max(0) as usize, "connection"),
            counted(writers as usize, "writer")
        ));
    }
    Ok(row.get(2))
}

/// Connections that a server has free, as SQL.
const FREE: &str =
    "current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
    - (select count(*) from pg_stat_activity
        where backend_type is null or backend_type in ('client backend', 'walsender'))";

/// Refuses to go on where the table is another one by now.
pub(super) async fn still_the_target(control: &Client, plan: &LoadPlan) -> Result<()> {
    let target = &plan.target;
    match target.storage_now(control).await? {
        Some(_) => Ok(()),
        None => Err(Error::failed(format!("table {} was dropped or replaced during the load", target.name))
            .hint("what was committed stays in the table that had the name; load again to fill the new one")),
    }
}

/// How a node is connected to.
pub(super) fn way_to(connect: &ConnectSettings, node: &Node) -> ConnectSettings {
    if node.is_here { connect.clone() } else { connect.for_node(&node.host, node.port) }
}

/// How many writers go through the coordinator: each worker has a connection free for every one. What nobody has asked
/// for is fewer where it must be.
async fn coordinator_writers(control: &Client, plan: &LoadPlan, nodes: usize) -> Result<usize> {
    let failed = |error| pg_error("ask the workers for free connections", error);
    let sql = "select nodename || ':' || nodeport, success, result from run_command_on_workers($1)";
    let ask = format!("select {FREE}");
    let wanted = plan.settings.writers;
    let (mut writers, least) = match plan.settings.are_writers_given {
        true => (wanted, wanted),
        // As many for each node, if there are so many.
        false => match wanted.max(COORDINATOR_WRITERS) {
            writers if (1..=writers).contains(&nodes) => (writers.next_multiple_of(nodes), 1),
            writers => (writers, 1),
        },
    };
    for row in control.query(sql, &[&ask]).await.map_err(failed)? {
        let (node, success, result): (String, bool, String) = (row.get(0), row.get(1), row.get(2));
        let Some(free) = result.parse::<i64>().ok().filter(|_| success) else {
            return Err(Error::refused(format!("worker {node} does not answer the coordinator: {result}"))
                .hint("start it, or take it out of the cluster, then run the same command again")
                .transient());
        };
        let left = usize::try_from(free - LEFT_TO_OTHERS).unwrap_or(0);
        if left < least {
            return Err(Error::refused(format!(
                "worker {node} has {} free, and {} need one each",
                counted(free.max(0) as usize, "connection"),
                counted(least, "writer")
            ))
            .hint(format!("load with fewer: --writers {}; or raise max_connections there", left.max(1)))
            .with_kind(Kind::Refused)
            .transient());
        }
        writers = writers.min(left);
    }
    Ok(writers)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
