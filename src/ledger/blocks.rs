//! The ledger row of a block, written in the block's own transaction.

use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, Statement};

use super::rejects::{RefusedRow, record_refused};
use crate::copy::CopyBlock;
use crate::error::{Error, Result};
use crate::postgres::catalog::storage_sql;
use crate::postgres::pg_error;
use crate::route::{CopyTable, ShardTable};

/// A run of a load: what its blocks are recorded under, and the token that lets them commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The load.
    pub load_id: i64,
    /// Which run of it, from 1.
    pub run: i32,
    /// The fence.
    pub token: i64,
    /// OID of the target.
    pub target: u32,
}

impl Run {
    /// The error of a run that meets another's token.
    pub fn taken_over(&self) -> Error {
        Error::failed(format!("another vecload has taken over load {}", self.load_id))
            .hint("it goes on with the same sources; this run has stopped and doubled nothing")
    }

    /// Checks the fence; until the transaction ends nobody can take the load over.
    pub async fn hold_fence(&self, client: &impl GenericClient) -> Result<()> {
        let row = client.query_opt(FENCE, &[&self.load_id, &self.token]).await;
        let row = row.map_err(|error| pg_error("check that the load is still ours", error))?;
        if row.is_some_and(|row| row.get(0)) { Ok(()) } else { Err(self.taken_over()) }
    }
}

/// The lock is shared, so writers don't wait for each other, and a takeover waits for them all.
const FENCE: &str = "select token = $2 from vecload_ledger.loads where load_id = $1 for share";

/// Whether a block that went into a table is committed; only to be believed once the backend that wrote it is gone.
pub async fn is_recorded(client: &Client, run: &Run, number: i32, table: &CopyTable) -> Result<bool> {
    let blocks = table.shard.as_ref().map_or("vecload_ledger.blocks", |shard| &shard.blocks);
    let sql = format!("select exists (select from {blocks} where load_id = $1 and run = $2 and block = $3)");
    let row = client.query_one(&sql, &[&run.load_id, &run.run, &number]).await;
    Ok(row.map_err(|error| of_shard(table, format!("look for block {number} in the ledger"), error))?.get(0))
}

/// An error on a worker: a shard's table that is not there has moved.
pub fn of_shard(table: &CopyTable, doing: String, error: tokio_postgres::Error) -> Error {
    let is_gone = table.shard.is_some() && error.code() == Some(&SqlState::UNDEFINED_TABLE);
    let error = pg_error(doing, error);
    if is_gone { error.misrouted() } else { error }
}

/// Writes ledger rows over one connection, of blocks that go into one table.
pub struct BlockLedger {
    run: Run,
    source_ids: Arc<[i64]>,
    table: CopyTable,
    fence: Statement,
    insert: Statement,
}

impl BlockLedger {
    /// Prepares the statements; `source_ids` translates the plan's source indexes.
    pub async fn prepare(
        client: &Client,
        run: Run,
        source_ids: Arc<[i64]>,
        table: &CopyTable,
    ) -> Result<Self> {
        let failed = |error| of_shard(table, "prepare the ledger's statements".into(), error);
        let (blocks, channel) = match &table.shard {
            Some(shard) => (shard.blocks.as_str(), Some(shard.channel)),
            None => ("vecload_ledger.blocks", None),
        };
        let insert = format!(
            "insert into {blocks} ({}load_id, run, block, target, relfilenode, rows, source_ids, units,
                first_rows, last_rows, hash_lows, hash_highs, slice_rows, id_firsts, id_lasts, checksum,
                source_range)
            values ({}$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                int8range($17, $18, '[]'))",
            channel.map_or("", |_| "channel, "),
            channel.map_or_else(String::new, |channel| format!("{channel}, "))
        );
        // With the fence, what COPY has just written to: whether it is the target, and in which storage. A shard's
        // place is known already, and kept by its guard.
        let fence = match &table.shard {
            None => format!(
                "select token = $2, coalesce(to_regclass($4) = $3::oid, false), {}
                 from vecload_ledger.loads where load_id = $1 for share",
                storage_sql("$3")
            ),
            Some(ShardTable { channel, fences, relfilenode, .. }) => format!(
                "select token = $2, $3::oid is not null and $4::text is not null, {relfilenode}::oid
                 from {fences} where channel = {channel} and load_id = $1 for share"
            ),
        };
        Ok(Self {
            run,
            source_ids,
            table: table.clone(),
            fence: client.prepare(&fence).await.map_err(failed)?,
            insert: client.prepare(&insert).await.map_err(failed)?,
        })
    }

    /// Checks the fence, and records the block and the rows that were taken out of it; within the transaction that
    /// copied its rows. `checksum` is the XXH3-64 of its tuples as they were sent.
    pub async fn record(
        &self,
        client: &Client,
        block: &CopyBlock,
        checksum: u64,
        rejects: &[RefusedRow],
        number: i32,
    ) -> Result<()> {
        let failed = |error| of_shard(&self.table, format!("record block {number} in the ledger"), error);
        let (run, target) = (&self.run, &self.table.target);
        let fence = client.query_opt(&self.fence, &[&run.load_id, &run.token, &run.target, target]).await;
        let fence = fence.map_err(failed)?.filter(|row| row.get(0)).ok_or_else(|| run.taken_over())?;
        // COPY went to the table that had the name; its lock keeps the name with it until the end of the transaction.
        if !fence.get::<_, bool>(1) {
            return Err(Error::failed(format!(
                "table {} was dropped or replaced during the load",
                self.table.table
            ))
            .hint(
                "what was committed stays in the table that had the name; load again to fill the new one",
            ));
        }
        let relfilenode: u32 = fence.get(2);
        record_refused(client, run, &self.source_ids, rejects).await?;
        let slices = &block.slices;
        let signed = |value: u64| value.cast_signed();
        let source_ids: Vec<i64> = slices.iter().map(|slice| self.source_ids[slice.source]).collect();
        let units: Vec<i32> = slices.iter().map(|slice| slice.unit.cast_signed()).collect();
        let first_rows: Vec<i64> = slices.iter().map(|slice| signed(slice.first_row)).collect();
        let last_rows: Vec<i64> = slices.iter().map(|slice| signed(slice.last_row)).collect();
        let hash_lows: Vec<i32> = slices.iter().map(|slice| slice.hash_low).collect();
        let hash_highs: Vec<i32> = slices.iter().map(|slice| slice.hash_high).collect();
        let slice_rows: Vec<i64> = slices.iter().map(|slice| signed(slice.rows)).collect();
        let id_firsts: Vec<i64> = block.ids.iter().map(|range| range.first).collect();
        let id_lasts: Vec<i64> = block.ids.iter().map(|range| range.last).collect();
        client
            .execute(
                &self.insert,
                &[
                    &run.load_id,
                    &run.run,
                    &number,
                    &run.target,
                    &relfilenode,
                    &signed(block.rows),
                    &source_ids,
                    &units,
                    &first_rows,
                    &last_rows,
                    &hash_lows,
                    &hash_highs,
                    &slice_rows,
                    &id_firsts,
                    &id_lasts,
                    &signed(checksum),
                    &source_ids.iter().min(),
                    &source_ids.iter().max(),
                ],
            )
            .await
            .map_err(failed)?;
        Ok(())
    }
}
