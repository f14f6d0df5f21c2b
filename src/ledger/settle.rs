//! The end of a run: the balance is read from the ledger, and sources and load get their final states.

use std::collections::HashMap;

use tokio_postgres::{Client, IsolationLevel};

use super::MAY_HOLD_SOURCES;
use super::blocks::Run;
use super::known::SOURCES_PER_STATEMENT;
use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// What the ledger has of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceBalance {
    /// Rows in committed slices.
    pub loaded: u64,
    /// Rows recorded as rejected.
    pub rejected: u64,
}

/// Reads the balance of sources from the ledger, and the rows that a load has committed since one of its runs: as of
/// one moment, since a commit that was given up may still take place.
pub async fn balance(
    client: &mut Client,
    source_ids: &[i64],
    since: Option<(i64, i32)>,
) -> Result<(HashMap<i64, SourceBalance>, u64)> {
    let failed = |error| pg_error("read the balance from the ledger", error);
    let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let snapshot = snapshot.start().await.map_err(failed)?;
    let mut balances: HashMap<i64, SourceBalance> = HashMap::new();
    let loaded = format!(
        "select s.source_id, sum(s.rows)::bigint as rows
         from vecload_ledger.current_blocks b, unnest(b.source_ids, b.slice_rows) as s(source_id, rows)
         where b.{MAY_HOLD_SOURCES} and s.source_id = any($1) group by 1"
    );
    for row in snapshot.query(&loaded, &[&source_ids]).await.map_err(failed)? {
        balances.entry(row.get(0)).or_default().loaded = row.get::<_, i64>(1).cast_unsigned();
    }
    let rejected =
        "select source_id, count(*) from vecload_ledger.rejects where source_id = any($1) group by 1";
    for row in snapshot.query(rejected, &[&source_ids]).await.map_err(failed)? {
        balances.entry(row.get(0)).or_default().rejected = row.get::<_, i64>(1).cast_unsigned();
    }
    let committed = match since {
        Some((load_id, first_run)) => {
            let sum = "select coalesce(sum(rows), 0)::bigint from vecload_ledger.current_blocks
                where load_id = $1 and run >= $2";
            snapshot
                .query_one(sum, &[&load_id, &first_run])
                .await
                .map_err(failed)?
                .get::<_, i64>(0)
                .cast_unsigned()
        }
        None => 0,
    };
    snapshot.commit().await.map_err(failed)?;
    Ok((balances, committed))
}

/// From here on a session's commits are durable when they are answered, whatever role and database say.
pub async fn commit_durably(client: &Client) -> Result<()> {
    let durable = "select set_config('synchronous_commit', 'on', false)
        where current_setting('synchronous_commit') = 'off'";
    let done = client.query(durable, &[]).await;
    done.map(|_| ()).map_err(|error| pg_error("switch durable commits on", error))
}

/// Makes all commits before it durable by one over a session that commits durably, if the load is still the run's.
pub async fn flush(client: &Client, run: &Run) -> Result<()> {
    // A commit that has written nothing waits for nothing.
    let touch = "update vecload_ledger.loads set state = state where load_id = $1 and token = $2";
    let touched = client.execute(touch, &[&run.load_id, &run.token]).await;
    match touched.map_err(|error| pg_error("make the commits of this load durable", error))? {
        1 => Ok(()),
        _ => Err(run.taken_over()),
    }
}

/// All of a source, as it is known once it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Its units.
    pub units: u32,
    /// Its rows, rejected ones included.
    pub rows: u64,
    /// Hash of its bytes as they are stored, if all of them were read.
    pub hash: Option<String>,
}

/// Marks sources complete and stores their extents, if the load is still the run's.
pub async fn complete_sources(client: &Client, run: &Run, complete: &[(i64, Extent)]) -> Result<()> {
    let done = "update vecload_ledger.sources s
        set state = 'complete', full_hash = done.hash, units = done.units, rows = done.rows
        from unnest($1::bigint[], $2::text[], $3::integer[], $4::bigint[]) as done(source_id, hash, units, rows),
            (select from vecload_ledger.loads where load_id = $5 and token = $6 for share) fence
        where s.source_id = done.source_id";
    for chunk in complete.chunks(SOURCES_PER_STATEMENT) {
        let source_ids: Vec<i64> = chunk.iter().map(|(source_id, _)| *source_id).collect();
        let hashes: Vec<Option<&str>> = chunk.iter().map(|(_, extent)| extent.hash.as_deref()).collect();
        let units: Vec<i32> = chunk.iter().map(|(_, extent)| extent.units.cast_signed()).collect();
        let rows: Vec<i64> = chunk.iter().map(|(_, extent)| extent.rows.cast_signed()).collect();
        let updated =
            client.execute(done, &[&source_ids, &hashes, &units, &rows, &run.load_id, &run.token]).await;
        let updated = updated.map_err(|error| pg_error("mark sources as complete", error))?;
        if updated != chunk.len() as u64 {
            return Err(run.taken_over());
        }
    }
    Ok(())
}

/// Records how a run ended.
pub async fn finish_load(
    client: &Client,
    load_id: i64,
    token: i64,
    state: &str,
    report: &serde_json::Value,
) -> Result<()> {
    let done = "update vecload_ledger.loads set state = $3, report = $4, finished_at = clock_timestamp()
        where load_id = $1 and token = $2";
    match client.execute(done, &[&load_id, &token, &state, report]).await {
        Ok(1) => Ok(()),
        Ok(_) => Err(Error::failed(format!("another vecload has taken over load {load_id}"))),
        Err(error) => Err(pg_error(format!("record the end of load {load_id}"), error)),
    }
}

/// Notes index definitions before the indexes are dropped, and clears them when they are back.
pub async fn note_dropped_indexes(client: &Client, run: &Run, definitions: &[String]) -> Result<()> {
    let note = "update vecload_ledger.loads set dropped_indexes = $3 where load_id = $1 and token = $2";
    match client.execute(note, &[&run.load_id, &run.token, &definitions]).await {
        Ok(1) => Ok(()),
        Ok(_) => Err(run.taken_over()),
        Err(error) => Err(pg_error("note dropped indexes in the ledger", error)),
    }
}
