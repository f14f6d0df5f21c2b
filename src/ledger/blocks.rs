//! The ledger row of a block, written in the block's own transaction.

use tokio_postgres::{Client, Statement};

use crate::copy::CopyBlock;
use crate::error::{Error, Result};
use crate::postgres::pg_error;

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
    /// Its storage at the run's start.
    pub relfilenode: u32,
}

/// Writes ledger rows over one connection.
pub struct BlockLedger {
    run: Run,
    source_ids: std::sync::Arc<[i64]>,
    fence: Statement,
    insert: Statement,
}

impl BlockLedger {
    /// Prepares the statements; `source_ids` translates the plan's source indexes.
    pub async fn prepare(client: &Client, run: Run, source_ids: std::sync::Arc<[i64]>) -> Result<Self> {
        let failed = |error| pg_error("prepare the ledger's statements", error);
        // The lock is shared, so writers don't wait for each other, and a takeover waits for them all.
        let fence = "select token = $2 from vecload_ledger.loads where load_id = $1 for share";
        let insert =
            "insert into vecload_ledger.blocks (load_id, run, block, target, relfilenode, rows, source_ids, units,
                first_rows, last_rows, hash_lows, hash_highs, slice_rows, id_firsts, id_lasts, checksum,
                source_range)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, int8range($17, $18, '[]'))";
        Ok(Self {
            run,
            source_ids,
            fence: client.prepare(fence).await.map_err(failed)?,
            insert: client.prepare(insert).await.map_err(failed)?,
        })
    }

    /// Checks the fence and records the block; within the transaction that copied its rows.
    pub async fn record(&self, client: &Client, block: &CopyBlock, number: i32) -> Result<()> {
        let failed = |error| pg_error(format!("record block {number} in the ledger"), error);
        let run = &self.run;
        let fence = client.query_opt(&self.fence, &[&run.load_id, &run.token]).await.map_err(failed)?;
        if !fence.is_some_and(|row| row.get(0)) {
            return Err(Error::failed(format!("another vecload has taken over load {}", run.load_id))
                .hint("it goes on with the same sources; this run has stopped and doubled nothing"));
        }
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
                    &run.relfilenode,
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
                    &block.checksum(),
                    &source_ids.iter().min(),
                    &source_ids.iter().max(),
                ],
            )
            .await
            .map_err(failed)?;
        Ok(())
    }
}
