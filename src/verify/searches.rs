//! A search in one channel and one of all rows: what the plans are, and how long they take.

use super::cluster::Cluster;
use super::relations::{Relation, Relations};
use super::{Answer, Check};
use crate::postgres::catalog::{ServerVersions, Target};
use crate::postgres::types::TargetType;
use crate::postgres::{Session, quote_ident};
use crate::search::{Query, SearchRequest, SearchResult, search};

/// Neighbours asked for.
const K: u32 = 10;

/// With fewer rows the planner may well compare them all.
const PLAN_ROWS_MIN: f64 = 10_000.0;

/// From so many rows on, a search without index is no search.
const SLOW_ROWS_MIN: f64 = 100_000.0;

/// Without an HNSW index, larger tables are not searched as a whole, in bytes.
const SCAN_BYTES_MAX: i64 = 256 << 20;

/// Which search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In one channel; Citus asks one shard.
    Channel,
    /// Over all rows; Citus asks every shard.
    All,
}

impl Kind {
    /// Whether the table can be searched so.
    pub(super) fn applies(self, target: &Target) -> bool {
        self == Self::All || target.channel_column().is_some()
    }

    /// The check's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel_search",
            Self::All => "full_search",
        }
    }
}

/// What a plan says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Number of shards asked, on Citus.
    tasks: Option<usize>,
    /// Indexes that are used.
    indexes: Vec<String>,
    /// Whether all rows of something are read.
    reads_all: bool,
    /// Tables that are read, as the plan names them.
    tables: Vec<String>,
}

/// Searches for a random direction and judges the plan.
pub(super) async fn check(
    session: &mut Session,
    cluster: &Cluster,
    server: &ServerVersions,
    target: &Target,
    relations: &Relations,
    kind: Kind,
) -> Answer<Check> {
    let name = kind.name();
    let hnsw = relations.table.indexes.iter().any(|index| index.valid && index.what.starts_with("hnsw"));
    let bytes: i64 = relations.holders().map(|relation| relation.bytes).sum();
    if kind == Kind::All && !hnsw && bytes > SCAN_BYTES_MAX {
        let why = "there is no HNSW index: it would compare the query with every row of a large table";
        return Ok(Check::skip(name, why));
    }
    if let Some(node) = cluster.silent().filter(|_| kind == Kind::All) {
        return Ok(Check::skip(
            name,
            format!("{} does not answer, so no search of all rows would", node.name),
        ));
    }
    let has_dimension = |kind: &Option<TargetType>| {
        kind.as_ref().and_then(TargetType::vector_dim).is_some_and(|dim| dim.is_some())
    };
    if !target.columns.iter().any(|column| has_dimension(&column.target_type)) {
        return Ok(Check::skip(name, "no column has vectors of one dimension to search by"));
    }
    let channel = match kind {
        Kind::All => None,
        Kind::Channel => match some_channel(session, target, relations).await? {
            Some(channel) => Some(channel),
            None => return Ok(Check::skip(name, "the table is empty: there is no channel to search in")),
        },
    };
    let request = SearchRequest {
        query: Query::Random,
        channel,
        conditions: Vec::new(),
        k: K,
        ef_search: None,
        explain: true,
    };
    // The first opens connections and fills caches; the second is what others see.
    search(session, target, server, &request).await?;
    let result = search(session, target, server, &request).await?;
    Ok(judge(target, relations, channel, hnsw, &result))
}

/// A channel that has rows: if it still has some the commonest, so that its search has something to do.
async fn some_channel(session: &Session, target: &Target, relations: &Relations) -> Answer<Option<i64>> {
    let Some(column) = target.channel_column() else { return Ok(None) };
    let column = quote_ident(column);
    let some = format!("select {column}::bigint from {} where {column}", target.name.sql());
    if let Some(channel) = relations.channels().first().and_then(|(channel, _)| channel.parse::<i64>().ok())
        && session.query_opt(&format!("{some} = $1::bigint limit 1"), &[&channel]).await?.is_some()
    {
        return Ok(Some(channel));
    }
    Ok(session.query_opt(&format!("{some} is not null limit 1"), &[]).await?.map(|row| row.get(0)))
}

fn judge(
    target: &Target,
    relations: &Relations,
    channel: Option<i64>,
    hnsw: bool,
    result: &SearchResult,
) -> Check {
    let name = if channel.is_some() { Kind::Channel.name() } else { Kind::All.name() };
    let plan = read_plan(result.plan.as_deref().unwrap_or_default());
    let mut found = Vec::new();
    found.extend(channel.map(|channel| format!("channel {channel}")));
    found.extend(plan.tasks.map(|tasks| format!("Task Count {tasks}")));
    match &plan.indexes[..] {
        [] => found.push("no index".into()),
        indexes => found.push(format!("index {}", indexes.join(", "))),
    }
    found.push(format!("{} rows in {:.1} ms", result.hits.len(), result.seconds * 1000.0));
    let mut check = Check::pass(name, found.join(", "));
    if let Some(citus) = &target.citus {
        judge_tasks(&mut check, &plan, channel, citus.shards, &citus.column);
    }
    let read =
        relations.holders().find(|relation| plan.tables.iter().any(|table| is_named(&relation.name, table)));
    let rows = read.and_then(Relation::rows);
    let by_hnsw = read.is_some_and(|relation| {
        let mut used = relation.indexes.iter().filter(|index| index.what.starts_with("hnsw"));
        used.any(|index| plan.indexes.iter().any(|used| used.trim_matches('"') == index.name))
    });
    // Within a channel any index that finds its rows will do.
    let fits = by_hnsw || channel.is_some() && !plan.reads_all && !plan.indexes.is_empty();
    if fits {
        return check;
    }
    let why = match rows {
        _ if !hnsw && channel.is_none() => Some("there is no HNSW index to use".to_string()),
        None => Some("the table was not analyzed yet, so the plan tells nothing".into()),
        Some(rows) if rows < PLAN_ROWS_MIN => {
            Some(format!("about {rows:.0} rows are too few for a plan to tell"))
        }
        Some(_) => None,
    };
    match why {
        Some(why) if target.citus.is_none() => return Check::skip(name, format!("{why} ({})", check.found)),
        Some(why) => check.found = format!("{} ({why})", check.found),
        None => {
            let cause = "the planner does not use the index, and compares the query with every row it reads";
            let cure = format!(
                "analyze {}; then look for enable_indexscan = off, or a random_page_cost that is too high for the \
                 disks, in this database's settings",
                target.name
            );
            match rows.is_some_and(|rows| rows >= SLOW_ROWS_MIN) {
                true => check.fail(cause, cure),
                false => check.warn(cause, cure),
            }
        }
    }
    check
}

fn judge_tasks(check: &mut Check, plan: &Plan, channel: Option<i64>, shards: i64, column: &str) {
    let wanted = if channel.is_some() { 1 } else { shards };
    match plan.tasks.map(|tasks| i64::try_from(tasks).unwrap_or(i64::MAX)) {
        Some(tasks) if tasks == wanted => {}
        Some(tasks) => check.fail(
            format!("the query asks {tasks} shards, where {wanted} would be right"),
            format!(
                "a search in one channel has {column} = VALUE in its condition, with the column's own type"
            ),
        ),
        None => check
            .warn("the plan does not tell how many shards are asked", "look at it: vecload search --explain"),
    }
}

/// Whether a name with a schema is the one that a plan shows without.
fn is_named(qualified: &str, shown: &str) -> bool {
    qualified.strip_suffix(shown).is_some_and(|rest| rest.ends_with('.'))
}

fn read_plan(lines: &[String]) -> Plan {
    let mut plan = Plan::default();
    for line in lines {
        let line = line.trim().trim_start_matches("->").trim_start();
        if let Some(count) = line.strip_prefix("Task Count: ") {
            plan.tasks = count.trim().parse().ok();
        }
        let after = |what: &str| line.find(what).map(|at| &line[at + what.len()..]);
        let mut table = None;
        if let Some(rest) = after("Index Scan using ").or(after("Index Only Scan using ")) {
            let (index, on) = rest.split_once(" on ").unwrap_or((rest, ""));
            plan.indexes.push(index.into());
            table = Some(on);
        } else if let Some(index) = after("Bitmap Index Scan on ") {
            plan.indexes.push(index.trim().into());
        } else if let Some(rest) = after("Bitmap Heap Scan on ") {
            table = Some(rest);
        } else if let Some(rest) = after("Seq Scan on ") {
            plan.reads_all = true;
            table = Some(rest);
        }
        // An alias may follow; a quoted name may hold spaces.
        plan.tables.extend(table.map(|rest| match rest.strip_prefix('"') {
            Some(quoted) => format!("\"{}\"", quoted.split('"').next().unwrap_or_default()),
            None => rest.split(' ').next().unwrap_or_default().to_string(),
        }));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        read_plan(&text.lines().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn plans_of_one_server_and_of_shards_are_read() {
        let routed = plan(
            "Custom Scan (Citus Adaptive)
               Task Count: 1
               Tasks Shown: All
               ->  Task
                     Node: host=127.0.0.1 port=5433 dbname=db
                     ->  Limit
                           ->  Index Scan using chunks_embedding_idx_102251 on chunks_102251 chunks
                                 Order By: (embedding <=> '[…]'::vector)
                                 Filter: (channel_id = 5)",
        );
        assert_eq!(routed.tasks, Some(1));
        assert_eq!(routed.indexes, ["chunks_embedding_idx_102251"]);
        assert_eq!((routed.reads_all, &routed.tables[..]), (false, &["chunks_102251".to_string()][..]));
        let bitmap = plan(
            "Limit
               ->  Sort
                     ->  Bitmap Heap Scan on chunks
                           ->  Bitmap Index Scan on chunks_channel_id_idx",
        );
        assert_eq!((bitmap.tasks, &bitmap.indexes[..]), (None, &["chunks_channel_id_idx".to_string()][..]));
        let all = plan("Limit\n  ->  Sort\n        ->  Parallel Seq Scan on \"My Table\" t");
        assert!(all.reads_all && all.indexes.is_empty());
        assert_eq!(all.tables, ["\"My Table\""]);
    }

    #[test]
    fn names_agree_whole() {
        assert!(is_named("public.chunks_102008", "chunks_102008"));
        assert!(!is_named("public.my_chunks", "chunks"));
    }
}
