//! Looking at loads: their sources and their rejects.

use std::collections::HashMap;

use serde::Serialize;
use tokio_postgres::{Client, Row};

use super::outbox::Waiting;
use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// A load as a line of `vecload loads`.
#[derive(Debug, Clone, Serialize)]
pub struct LoadSummary {
    /// Its id.
    pub load: i64,
    /// `--name`, if given.
    pub name: Option<String>,
    /// The target.
    pub table: String,
    /// How it ended, or `running`.
    pub state: String,
    /// Rows in the table by this load.
    pub rows: i64,
    /// Rows rejected.
    pub rejected: i64,
    /// Number of sources.
    pub sources: i64,
    /// Runs it took.
    pub runs: i32,
    /// When it began.
    pub started: String,
    /// Seconds of its last run, if that has ended.
    pub seconds: Option<f64>,
    /// Rows per second of its last run.
    pub rows_per_second: Option<f64>,
}

/// A source of a load.
#[derive(Debug, Clone, Serialize)]
pub struct SourceSummary {
    /// Its id in the ledger.
    #[serde(skip)]
    pub source_id: i64,
    /// Its path.
    pub source: String,
    /// `parquet`, `csv`, `jsonl` or `synthetic`.
    pub kind: String,
    /// `open` or `complete`.
    pub state: String,
    /// Rows it has, where all of it was read.
    pub rows: Option<i64>,
    /// Rows loaded.
    pub loaded: i64,
    /// Rows rejected.
    pub rejected: i64,
    /// Its recipe.
    pub recipe: serde_json::Value,
}

/// A rejected row.
#[derive(Debug, Clone, Serialize)]
pub struct RejectRecord {
    /// The source's path.
    pub source: String,
    /// The source's format.
    pub kind: String,
    /// How text is read, of the source's recipe.
    #[serde(skip)]
    pub format: Option<serde_json::Value>,
    /// Its unit; in Parquet the row group.
    pub unit: i32,
    /// Row within the unit, counted from 0.
    pub row: i64,
    /// Line, from 1, where the source has lines.
    pub line: Option<i64>,
    /// Record, from 1, where the source is text.
    pub record: Option<i64>,
    /// Byte at which the record begins, decompressed, likewise.
    pub byte: Option<i64>,
    /// The column; none if the record as a whole is malformed.
    pub column: String,
    /// The reason's class.
    pub class: String,
    /// The reason.
    pub reason: String,
    /// The value's beginning.
    pub excerpt: String,
}

/// The advisory lock of a running load, as the summary's SQL has it.
const _: () = assert!(super::ALIVE_LOCK == 1_986_356_076);

const SUMMARY_SQL: &str = "
    select l.load_id, l.name, l.target, l.target_name, l.runs,
        case when l.state = 'running' and not exists (
            select 1 from pg_locks k where k.locktype = 'advisory' and k.classid::bigint = 1986356076
                and k.objid::bigint = l.load_id
                and k.database = (select oid from pg_database where datname = current_database()))
        then 'killed' else l.state end as state,
        to_char(l.started_at, 'YYYY-MM-DD HH24:MI:SS') as started,
        extract(epoch from l.finished_at - l.run_started_at)::float8 as seconds,
        (l.report ->> 'rows_per_second')::float8 as rows_per_second,
        (select coalesce(sum(b.rows), 0)::bigint from vecload_ledger.current_blocks b
            where b.load_id = l.load_id) as rows,
        (select count(*) from vecload_ledger.rejects r join vecload_ledger.sources s using (source_id)
            where r.load_id = l.load_id or s.load_id = l.load_id) as rejected,
        (select count(*) from vecload_ledger.sources s where s.load_id = l.load_id) as sources
    from vecload_ledger.loads l";

/// All loads, newest first.
pub async fn list(client: &Client) -> Result<Vec<LoadSummary>> {
    let rows = client.query(&format!("{SUMMARY_SQL} order by l.load_id desc"), &[]).await;
    Ok(rows.map_err(|error| pg_error("list the loads", error))?.iter().map(summary).collect())
}

/// One load.
pub async fn find(client: &Client, load_id: i64) -> Result<LoadSummary> {
    let row = client.query_opt(&format!("{SUMMARY_SQL} where l.load_id = $1"), &[&load_id]).await;
    match row.map_err(|error| pg_error(format!("look up load {load_id}"), error))? {
        Some(row) => Ok(summary(&row)),
        None => Err(Error::refused(format!("there is no load {load_id}")).hint("vecload loads lists them")),
    }
}

fn summary(row: &Row) -> LoadSummary {
    LoadSummary {
        load: row.get("load_id"),
        name: row.get("name"),
        table: row.get("target_name"),
        state: row.get("state"),
        rows: row.get("rows"),
        rejected: row.get("rejected"),
        sources: row.get("sources"),
        runs: row.get("runs"),
        started: row.get("started"),
        seconds: row.get("seconds"),
        rows_per_second: row.get("rows_per_second"),
    }
}

/// The sources of a load.
pub async fn sources(client: &Client, load_id: i64) -> Result<Vec<SourceSummary>> {
    let rows = client
        .query(
            "with its as materialized (select * from vecload_ledger.sources where load_id = $1),
             loaded as (
                 select s.source_id, sum(s.rows)::bigint as rows from vecload_ledger.current_blocks b,
                     unnest(b.source_ids, b.slice_rows) as s(source_id, rows)
                 where b.source_range && (select range_agg(int8range(source_id, source_id, '[]')) from its)
                 group by 1),
             rejected as (
                 select source_id, count(*) as rows from vecload_ledger.rejects
                 where source_id in (select source_id from its) group by 1)
             select its.source_id, its.name, its.kind, its.state, its.rows, its.recipe,
                 coalesce(loaded.rows, 0) as loaded, coalesce(rejected.rows, 0) as rejected
             from its left join loaded using (source_id) left join rejected using (source_id) order by source_id",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error(format!("look up the sources of load {load_id}"), error))?;
    let source = |row: &Row| SourceSummary {
        source_id: row.get("source_id"),
        source: row.get("name"),
        kind: row.get("kind"),
        state: row.get("state"),
        rows: row.get("rows"),
        loaded: row.get("loaded"),
        rejected: row.get("rejected"),
        recipe: row.get("recipe"),
    };
    Ok(rows.iter().map(source).collect())
}

/// Adds what is recorded on the workers, and not taken in yet, to what the ledger has told of loads and sources.
pub fn add_waiting(blocks: &[Waiting], loads: &mut [LoadSummary], sources: &mut [SourceSummary]) {
    let (mut by_load, mut by_source) = (HashMap::new(), HashMap::new());
    for block in blocks {
        *by_load.entry(block.load_id).or_insert(0) += block.rows;
        for (source_id, rows) in &block.slices {
            *by_source.entry(*source_id).or_insert(0) += rows;
        }
    }
    for load in loads {
        load.rows += by_load.get(&load.load).copied().unwrap_or(0);
    }
    for source in sources {
        source.loaded += by_source.get(&source.source_id).copied().unwrap_or(0);
    }
}

/// The rejects of a load, in source order.
pub async fn rejects(client: &Client, load_id: i64) -> Result<Vec<RejectRecord>> {
    let rows = client
        .query(
            "select s.name, s.kind, s.recipe -> 'format' as format, r.unit, r.row, r.line, r.record, r.byte,
                 r.column_name, r.class, r.reason, r.excerpt
             from vecload_ledger.rejects r join vecload_ledger.sources s using (source_id)
             where r.load_id = $1 or s.load_id = $1 order by s.source_id, r.unit, r.row",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error(format!("look up the rejects of load {load_id}"), error))?;
    let reject = |row: &Row| RejectRecord {
        source: row.get("name"),
        kind: row.get("kind"),
        format: row.get("format"),
        unit: row.get("unit"),
        row: row.get("row"),
        line: row.get("line"),
        record: row.get("record"),
        byte: row.get("byte"),
        column: row.get("column_name"),
        class: row.get("class"),
        reason: row.get("reason"),
        excerpt: row.get("excerpt"),
    };
    Ok(rows.iter().map(reject).collect())
}
