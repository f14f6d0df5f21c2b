//! Building indexes, with as much memory and as many workers as help.

use std::time::Duration;

use super::IndexDefinition;
use crate::error::Result;
use crate::postgres::catalog::Target;
use crate::postgres::types::TargetType;
use crate::postgres::{Session, pg_error};

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildProgress {
    /// The server's name of the phase.
    pub phase: String,
    /// Done and total, in tuples or blocks, whichever the phase counts.
    pub done: u64,
    /// Total.
    pub total: u64,
}

/// Builds indexes one after another, each with the parallel workers that the server allows; `progress` is
/// told the index's name and how far it is.
pub async fn build(
    session: &Session,
    watcher: &Session,
    target: &Target,
    indexes: &[IndexDefinition],
    progress: &(dyn Fn(&str, Option<BuildProgress>) + Send + Sync),
) -> Result<()> {
    if indexes.is_empty() {
        return Ok(());
    }
    let failed = |error| pg_error(format!("prepare {} for index builds", target.name), error);
    let table = target.name.sql();
    // Fresh statistics also tell how many rows there are.
    session.batch_execute(&format!("analyze {table}")).await.map_err(failed)?;
    fit_memory(session, target).await.map_err(failed)?;
    // The server sizes parallel builds by heap pages, and TOASTed vectors leave few of them; a number on
    // the table is taken as it is. One that the user has set stays.
    let workers = "select current_setting('max_parallel_maintenance_workers')::int,
        exists (select from pg_class, pg_options_to_table(reloptions)
                where oid = $1 and option_name = 'parallel_workers')";
    let row = session.query_one(workers, &[&target.oid]).await.map_err(failed)?;
    let workers: i32 = row.get(0);
    let parallel = workers > 0 && !row.get::<_, bool>(1) && target.citus.is_none();
    if parallel {
        let set = format!("alter table {table} set (parallel_workers = {workers})");
        session.batch_execute(&set).await.map_err(failed)?;
    }
    let mut outcome = Ok(());
    for index in indexes {
        progress(&index.name, None);
        outcome = build_one(session, watcher, target, index, progress).await;
        if outcome.is_err() {
            break;
        }
    }
    if parallel {
        let reset = format!("alter table {table} reset (parallel_workers)");
        // After a failed build its error matters more than this one.
        outcome = outcome.and(session.batch_execute(&reset).await.map_err(failed));
    }
    outcome
}

/// Lowers `maintenance_work_mem` for this session to what the HNSW graph needs: a parallel build allocates all
/// of it at its start, and for a small table that takes longer than the build. Says so if it is too small.
async fn fit_memory(session: &Session, target: &Target) -> Result<(), tokio_postgres::Error> {
    // A node of the graph beside its vector: header, and neighbour lists of 2 × m = 32 places on the lowest
    // level and half as many on each level above.
    const NODE_BYTES: f64 = 2048.0;
    const SPARE_BYTES: f64 = 64.0 * 1024.0 * 1024.0;
    let dims = target
        .columns
        .iter()
        .filter_map(|column| column.target_type.as_ref().and_then(TargetType::vector_dim));
    let Some(dim) = dims.flatten().max() else {
        return Ok(());
    };
    let sql = "select reltuples::float8, pg_size_bytes(current_setting('maintenance_work_mem'))::float8
        from pg_class where oid = $1";
    let row = session.query_one(sql, &[&target.oid]).await?;
    let (rows, memory): (f64, f64) = (row.get(0), row.get(1));
    // The coordinator of a distributed table has no rows to count.
    if target.citus.is_some() {
        return Ok(());
    }
    let graph = rows.max(0.0) * (dim as f64 * 4.0 + NODE_BYTES) * 1.25;
    let needed = graph + SPARE_BYTES;
    if needed < memory {
        let set = "select set_config('maintenance_work_mem', $1, false)";
        session.query(set, &[&format!("{}kB", (needed / 1024.0) as u64)]).await?;
    } else if graph > memory {
        tracing::warn!(
            "the HNSW graph of {} needs about {} of memory, and maintenance_work_mem is {}: once it is full the build \
             goes on much slower",
            target.name,
            indicatif::BinaryBytes(graph as u64),
            indicatif::BinaryBytes(memory as u64)
        );
    }
    Ok(())
}

async fn build_one(
    session: &Session,
    watcher: &Session,
    target: &Target,
    index: &IndexDefinition,
    progress: &(dyn Fn(&str, Option<BuildProgress>) + Send + Sync),
) -> Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    let mut build = std::pin::pin!(session.batch_execute(&index.sql));
    let built = loop {
        match tokio::time::timeout(LOOK_EVERY, &mut build).await {
            Ok(built) => break built,
            Err(_elapsed) => progress(&index.name, look(watcher, target).await),
        }
    };
    built.map_err(|error| {
        session
            .error(format!("build index {}", index.name), error)
            .hint(format!("the rows are loaded; build it later: {};", index.sql))
    })
}

/// A glance at the build; a look that fails only costs a line of progress.
async fn look(watcher: &Session, target: &Target) -> Option<BuildProgress> {
    let sql = "select phase, case when tuples_total > 0 then tuples_done else blocks_done end as done,
            case when tuples_total > 0 then tuples_total else blocks_total end as total
        from pg_stat_progress_create_index where relid = $1 limit 1";
    let row = watcher.query_opt(sql, &[&target.oid]).await.ok()??;
    let count = |column: &str| row.get::<_, i64>(column).cast_unsigned();
    Some(BuildProgress { phase: row.get("phase"), done: count("done"), total: count("total") })
}
