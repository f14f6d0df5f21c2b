//! Looking at loads, taking one back, forgetting one.

use serde::Serialize;
use tokio_postgres::{Client, Row};

use super::ALIVE_LOCK;
use crate::error::{Error, Result};
use crate::postgres::{QualifiedName, pg_error, quote_ident};

/// Blocks whose rows are deleted in one transaction of an undo: enough to amortise a commit, few enough
/// that locks and WAL stay small.
const UNDO_BLOCKS: i64 = 8;

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
    /// Its path.
    pub source: String,
    /// `open` or `complete`.
    pub state: String,
    /// Rows it has.
    pub rows: i64,
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
    /// Its unit; in Parquet the row group.
    pub unit: i32,
    /// Row within the unit, counted from 0.
    pub row: i64,
    /// Line, where the source has lines.
    pub line: Option<i64>,
    /// The column.
    pub column: String,
    /// The reason's class.
    pub class: String,
    /// The reason.
    pub reason: String,
    /// The value's beginning.
    pub excerpt: String,
}

/// What an undo took back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Undone {
    /// Rows deleted.
    pub deleted: i64,
    /// Rows of the load that were gone already.
    pub gone: i64,
}

const SUMMARY_SQL: &str = "
    select l.load_id, l.name, l.target, l.target_name, l.state, l.runs,
        to_char(l.started_at, 'YYYY-MM-DD HH24:MI:SS') as started,
        extract(epoch from l.finished_at - l.run_started_at)::float8 as seconds,
        (l.report ->> 'rows_per_second')::float8 as rows_per_second,
        (select coalesce(sum(b.rows), 0)::bigint from vecload_ledger.blocks b where b.load_id = l.load_id) as rows,
        (select count(*) from vecload_ledger.rejects r where r.load_id = l.load_id) as rejected,
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
            "select s.name, s.state, s.rows, s.recipe,
                 (select coalesce(sum(p.rows), 0)::bigint from vecload_ledger.blocks b,
                      unnest(b.source_ids, b.slice_rows) as p(source_id, rows)
                  where b.source_ids @> array[s.source_id] and p.source_id = s.source_id) as loaded,
                 (select count(*) from vecload_ledger.rejects r where r.source_id = s.source_id) as rejected
             from vecload_ledger.sources s where s.load_id = $1 order by s.source_id",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error(format!("look up the sources of load {load_id}"), error))?;
    let source = |row: &Row| SourceSummary {
        source: row.get("name"),
        state: row.get("state"),
        rows: row.get("rows"),
        loaded: row.get("loaded"),
        rejected: row.get("rejected"),
        recipe: row.get("recipe"),
    };
    Ok(rows.iter().map(source).collect())
}

/// The rejects of a load, in source order.
pub async fn rejects(client: &Client, load_id: i64) -> Result<Vec<RejectRecord>> {
    let rows = client
        .query(
            "select s.name, r.unit, r.row, r.line, r.column_name, r.class, r.reason, r.excerpt
             from vecload_ledger.rejects r join vecload_ledger.sources s using (source_id)
             where r.load_id = $1 order by s.source_id, r.unit, r.row",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error(format!("look up the rejects of load {load_id}"), error))?;
    let reject = |row: &Row| RejectRecord {
        source: row.get("name"),
        unit: row.get("unit"),
        row: row.get("row"),
        line: row.get("line"),
        column: row.get("column_name"),
        class: row.get("class"),
        reason: row.get("reason"),
        excerpt: row.get("excerpt"),
    };
    Ok(rows.iter().map(reject).collect())
}

/// Deletes the rows of a load and its records. Done in steps that each leave table and ledger in agreement,
/// so an undo that was cut off is finished by running it again.
pub async fn undo(client: &mut Client, load_id: i64) -> Result<Undone> {
    let doing = || format!("undo load {load_id}");
    let failed = |error| pg_error(doing(), error);
    find(client, load_id).await?;
    hold(client, load_id).await?;
    let target = client
        .query_opt(
            "select n.nspname, c.relname from vecload_ledger.loads l join pg_class c on c.oid = l.target
             join pg_namespace n on n.oid = c.relnamespace where l.load_id = $1",
            &[&load_id],
        )
        .await
        .map_err(failed)?;
    let table = target.map(|row| QualifiedName::new(Some(row.get(0)), row.get(1)));
    let without_ids =
        "select count(*) from vecload_ledger.blocks where load_id = $1 and rows > 0 and id_firsts = '{}'";
    let without_ids: i64 = client.query_one(without_ids, &[&load_id]).await.map_err(failed)?.get(0);
    if let Some(table) = table.as_ref().filter(|_| without_ids > 0) {
        return Err(Error::refused(format!(
            "load {load_id} can't be taken back: its rows in {table} have no ids from a sequence, so nothing tells them apart"
        ))
        .hint("delete the rows by a condition of your own, then: vecload loads forget"));
    }
    let mark = "update vecload_ledger.loads set state = 'undoing', token = token + 1 where load_id = $1";
    client.execute(mark, &[&load_id]).await.map_err(failed)?;
    let mut undone = Undone::default();
    loop {
        let transaction = client.transaction().await.map_err(failed)?;
        let taken = "delete from vecload_ledger.blocks where (load_id, run, block) in (
                select load_id, run, block from vecload_ledger.blocks where load_id = $1 order by run desc, block desc limit $2)
            returning rows, id_firsts, id_lasts";
        let blocks = transaction.query(taken, &[&load_id, &UNDO_BLOCKS]).await.map_err(failed)?;
        if blocks.is_empty() {
            break;
        }
        let rows: i64 = blocks.iter().map(|block| block.get::<_, i64>("rows")).sum();
        let mut deleted = 0;
        if let Some(table) = &table {
            let all = |column: &str| {
                blocks.iter().flat_map(|block| block.get::<_, Vec<i64>>(column)).collect::<Vec<_>>()
            };
            let id = quote_ident(&id_column(&transaction, table, load_id).await?);
            let delete = format!(
                "delete from {} t using unnest($1::bigint[], $2::bigint[]) as r(first, last)
                 where t.{id} between r.first and r.last",
                table.sql()
            );
            let ranges = (all("id_firsts"), all("id_lasts"));
            deleted =
                transaction.execute(&delete, &[&ranges.0, &ranges.1]).await.map_err(failed)?.cast_signed();
        }
        transaction.commit().await.map_err(failed)?;
        undone.deleted += deleted;
        undone.gone += rows - deleted;
    }
    forget_records(client, load_id, "undone").await?;
    Ok(undone)
}

/// Removes a load from the ledger and leaves its rows in the table.
pub async fn forget(client: &mut Client, load_id: i64) -> Result<()> {
    find(client, load_id).await?;
    hold(client, load_id).await?;
    forget_records(client, load_id, "forgotten").await
}

/// The column that the load's ids went into: the one whose sequence made them.
async fn id_column(
    client: &tokio_postgres::Transaction<'_>,
    table: &QualifiedName,
    load_id: i64,
) -> Result<String> {
    let row = client
        .query_opt(
            "select recipe ->> 'id_column' from vecload_ledger.sources where load_id = $1 limit 1",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error(format!("look up the id column of {table}"), error))?;
    Ok(row.and_then(|row| row.get::<_, Option<String>>(0)).unwrap_or_else(|| "id".into()))
}

async fn hold(client: &Client, load_id: i64) -> Result<()> {
    let lock = "select pg_try_advisory_lock($1, $2)";
    let held = client.query_one(lock, &[&ALIVE_LOCK, &(load_id as i32)]).await;
    match held.map_err(|error| pg_error(format!("lock load {load_id}"), error))?.get(0) {
        true => Ok(()),
        false => Err(Error::refused(format!("load {load_id} is running"))
            .hint("stop it first (Ctrl-C or kill); its committed rows stay until you undo them")),
    }
}

async fn forget_records(client: &mut Client, load_id: i64, state: &str) -> Result<()> {
    let failed = |error| pg_error(format!("remove the records of load {load_id}"), error);
    let transaction = client.transaction().await.map_err(failed)?;
    // Blocks of other loads may hold slices of this load's sources, if it continued them.
    for statement in [
        "delete from vecload_ledger.blocks where load_id = $1",
        "delete from vecload_ledger.rejects where load_id = $1",
        "delete from vecload_ledger.reject_slices where load_id = $1",
        "update vecload_ledger.sources s set state = 'open' where load_id = $1",
        "delete from vecload_ledger.sources s where load_id = $1
            and not exists (select from vecload_ledger.blocks b where b.source_ids @> array[s.source_id])",
    ] {
        transaction.execute(statement, &[&load_id]).await.map_err(failed)?;
    }
    let done = "update vecload_ledger.loads set state = $2, token = token + 1, finished_at = clock_timestamp() where load_id = $1";
    transaction.execute(done, &[&load_id, &state]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
