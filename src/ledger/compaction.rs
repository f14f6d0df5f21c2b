//! Compaction: many blocks of a run become few rows that say the same.
//!
//! It takes two transactions. The first writes a merged row that names the blocks it stands for, the second deletes
//! these. Readers read `current_blocks`, which leaves a block out while a merged row stands for it; so a
//! compaction that is cut off between the two changes no answer, and whoever comes next finishes it.
//!
//! A merged row is a block like any other: its rows, ids and slices belong together, and the slices say of all that
//! they cover that it is in. So it can be taken back, compared with the table and merged again by itself.

use std::collections::HashMap;

use tokio_postgres::{Client, GenericClient, Row};

use super::blocks::Run;
use super::coverage::CoveredSlice;
use super::slices::{StoredSlice, join_ids, merge};
use crate::copy::IdRange;
use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// Rows of a merged row, about: it is taken back in one transaction, and no more slices than rows have to be in memory.
const ROWS_MAX: i64 = 1 << 20;

/// Slices from which a merged row is made, about; each takes 50 bytes while they are merged.
const SLICES_MAX: i64 = 256 << 10;

/// So many blocks are read in the time that two transactions take: fewer are left as they are.
const BLOCKS_MIN: usize = 16;

/// Unless they have so many slices, as blocks of many small files have.
const SLICES_MIN: i64 = 4096;

/// Rows of a unit, rejected ones included, by the source's id in the ledger; where they are known before all of the
/// source is read.
pub type UnitRows<'a> = &'a (dyn Fn(i64, u32) -> Option<u64> + Sync);

/// Blocks that become one row.
struct Group {
    run: i32,
    blocks: Vec<i32>,
    rows: i64,
    slices: i64,
}

/// Compacts the blocks of all runs of a load. Only the run that holds the load may do it, and only when its writers
/// have ended.
pub async fn compact(client: &Client, run: Run, unit_rows: UnitRows<'_>) -> Result<()> {
    if !may_delete(client).await? {
        return Ok(());
    }
    delete_replaced(client, run.load_id, run.token).await?;
    let groups = groups(client, run.load_id).await?;
    if groups.is_empty() {
        return Ok(());
    }
    let rejects = own_rejects(client, run.load_id).await?;
    for group in groups {
        let merged = Merged::of(client, run.load_id, &group, unit_rows, &rejects).await?;
        merged.write(client, run, &group).await?;
        fail::fail_point!("compaction-between", crate::fault::die);
        delete_replaced(client, run.load_id, run.token).await?;
    }
    Ok(())
}

/// The second transaction: deletes the blocks that merged rows stand for.
pub(super) async fn delete_replaced(client: &impl GenericClient, load_id: i64, token: i64) -> Result<()> {
    let failed = |error| pg_error(format!("delete merged blocks of load {load_id}"), error);
    let pending =
        "select exists (select from vecload_ledger.blocks where load_id = $1 and replaces is not null)";
    let pending: bool = client.query_one(pending, &[&load_id]).await.map_err(failed)?.get(0);
    if !pending || !may_delete(client).await? {
        return Ok(());
    }
    let delete = "with fence as materialized (
            select from vecload_ledger.loads where load_id = $1 and token = $2 for share),
        merged as materialized (
            select run, block, replaces from vecload_ledger.blocks, fence where load_id = $1 and replaces is not null),
        deleted as (
            delete from vecload_ledger.blocks b using merged
            where b.load_id = $1 and b.run = merged.run and b.block = any (merged.replaces)),
        stand_alone as (
            update vecload_ledger.blocks b set replaces = null from merged
            where b.load_id = $1 and b.run = merged.run and b.block = merged.block)
        select count(*) from fence";
    match client.query_one(delete, &[&load_id, &token]).await.map_err(failed)?.get::<_, i64>(0) {
        1 => Ok(()),
        _ => Err(taken_over(load_id)),
    }
}

fn taken_over(load_id: i64) -> Error {
    Error::failed(format!("another vecload has taken over load {load_id}"))
        .hint("all rows are in; the other run finishes what is left to do")
}

/// A role that only loads may lack the right to delete; its blocks stay as they are.
async fn may_delete(client: &impl GenericClient) -> Result<bool> {
    let may = "select has_table_privilege('vecload_ledger.blocks', 'delete')";
    let row = client.query_one(may, &[]).await;
    Ok(row.map_err(|error| pg_error("look up the right to delete in the ledger", error))?.get(0))
}

/// Divides the blocks of each run, in the order of their numbers, into groups that are worth it.
async fn groups(client: &Client, load_id: i64) -> Result<Vec<Group>> {
    let blocks = "select run, relfilenode, block, rows, cardinality(units)::bigint as slices
        from vecload_ledger.current_blocks where load_id = $1 order by run, relfilenode, block";
    let rows = client.query(blocks, &[&load_id]).await;
    let mut groups: Vec<Group> = Vec::new();
    let mut storage = None;
    for row in rows.map_err(|error| pg_error(format!("list the blocks of load {load_id}"), error))? {
        let [rows, slices] = ["rows", "slices"].map(|column| row.get::<_, i64>(column));
        let here = Some((row.get::<_, i32>("run"), row.get::<_, u32>("relfilenode")));
        let group = match groups.last_mut() {
            Some(group)
                if storage == here
                    && group.rows + rows <= ROWS_MAX
                    && group.slices + slices <= SLICES_MAX =>
            {
                group
            }
            _ => {
                groups.push(Group { run: row.get("run"), blocks: Vec::new(), rows: 0, slices: 0 });
                storage = here;
                // Pushed just now.
                let last = groups.len() - 1;
                &mut groups[last]
            }
        };
        group.blocks.push(row.get("block"));
        group.rows += rows;
        group.slices += slices;
    }
    groups.retain(|group| {
        group.blocks.len() > 1 && (group.blocks.len() >= BLOCKS_MIN || group.slices >= SLICES_MIN)
    });
    Ok(groups)
}

/// Rejects that this load recorded, by source and unit.
async fn own_rejects(client: &Client, load_id: i64) -> Result<HashMap<(i64, u32), u64>> {
    let count =
        "select source_id, unit, count(*) from vecload_ledger.rejects where load_id = $1 group by 1, 2";
    let rows = client.query(count, &[&load_id]).await;
    let rows = rows.map_err(|error| pg_error(format!("count the rejects of load {load_id}"), error))?;
    let key = |row: &Row| (row.get(0), row.get::<_, i32>(1).cast_unsigned());
    Ok(rows.iter().map(|row| (key(row), row.get::<_, i64>(2).cast_unsigned())).collect())
}

/// What a merged row says.
struct Merged {
    slices: Vec<StoredSlice>,
    ids: Vec<IdRange>,
    /// The sum of the blocks' checksums, whatever their order.
    checksum: i64,
}

impl Merged {
    async fn of(
        client: &Client,
        load_id: i64,
        group: &Group,
        unit_rows: UnitRows<'_>,
        rejects: &HashMap<(i64, u32), u64>,
    ) -> Result<Self> {
        let failed = |error| pg_error(format!("read the blocks of load {load_id}"), error);
        let blocks =
            "select * from vecload_ledger.blocks where load_id = $1 and run = $2 and block = any($3)";
        let mut merged = Self { slices: Vec::new(), ids: Vec::new(), checksum: 0 };
        for row in client.query(blocks, &[&load_id, &group.run, &group.blocks]).await.map_err(failed)? {
            merged.slices.extend(slices_of(&row));
            let firsts = row.get::<_, Vec<i64>>("id_firsts").into_iter();
            let ranges = firsts.zip(row.get::<_, Vec<i64>>("id_lasts"));
            merged.ids.extend(ranges.map(|(first, last)| IdRange { first, last }));
            merged.checksum = merged.checksum.wrapping_add(row.get("checksum"));
        }
        merged.ids = join_ids(merged.ids);
        let of_text = units_of_text(client, &merged.slices, unit_rows).await?;
        // Rows that another load brought or rejected are missing here, and so the unit is not whole.
        let whole = |source_id, unit, rows| {
            let all = unit_rows(source_id, unit).or(of_text.get(&(source_id, unit)).copied())?;
            (rows + rejects.get(&(source_id, unit)).copied().unwrap_or(0) == all).then_some(all)
        };
        merged.slices = merge(merged.slices, whole);
        Ok(merged)
    }

    /// The first transaction.
    async fn write(&self, client: &Client, run: Run, group: &Group) -> Result<()> {
        let of = |value: fn(&StoredSlice) -> u64| -> Vec<i64> {
            self.slices.iter().map(|slice| value(slice).cast_signed()).collect()
        };
        let hashes = |value: fn(&CoveredSlice) -> i32| -> Vec<i32> {
            self.slices.iter().map(|slice| value(&slice.covered)).collect()
        };
        let source_ids: Vec<i64> = self.slices.iter().map(|slice| slice.source_id).collect();
        let units: Vec<i32> = self.slices.iter().map(|slice| slice.unit.cast_signed()).collect();
        let id_firsts: Vec<i64> = self.ids.iter().map(|range| range.first).collect();
        let id_lasts: Vec<i64> = self.ids.iter().map(|range| range.last).collect();
        let insert = "insert into vecload_ledger.blocks (load_id, run, block, target, relfilenode, rows, source_ids,
                units, first_rows, last_rows, hash_lows, hash_highs, slice_rows, id_firsts, id_lasts, checksum,
                committed_at, replaces, source_range)
            select $1, $4,
                (select max(block) + 1 from vecload_ledger.blocks where load_id = $1 and run = $4),
                parts.target, parts.relfilenode, parts.rows, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                parts.committed_at, $5, parts.source_range
            from (select target, relfilenode, sum(rows)::bigint as rows, max(committed_at) as committed_at,
                    range_merge(range_agg(source_range)) as source_range
                from vecload_ledger.blocks where load_id = $1 and run = $4 and block = any($5) group by 1, 2) parts,
                (select from vecload_ledger.loads where load_id = $1 and token = $2 for share) fence
            where parts.rows = $3";
        let failed = |error| pg_error(format!("merge blocks of load {} in the ledger", run.load_id), error);
        let written = client
            .execute(
                insert,
                &[
                    &run.load_id,
                    &run.token,
                    &group.rows,
                    &group.run,
                    &group.blocks,
                    &source_ids,
                    &units,
                    &of(|slice| slice.covered.first_row),
                    &of(|slice| slice.covered.last_row),
                    &hashes(|covered| covered.hash_low),
                    &hashes(|covered| covered.hash_high),
                    &of(|slice| slice.rows),
                    &id_firsts,
                    &id_lasts,
                    &self.checksum,
                ],
            )
            .await
            .map_err(failed)?;
        match written {
            1 => Ok(()),
            _ => Err(taken_over(run.load_id)),
        }
    }
}

fn slices_of(row: &Row) -> Vec<StoredSlice> {
    let longs = |column: &str| row.get::<_, Vec<i64>>(column).into_iter();
    let ints = |column: &str| row.get::<_, Vec<i32>>(column).into_iter();
    let rows = longs("first_rows").zip(longs("last_rows"));
    let covered = rows.zip(ints("hash_lows").zip(ints("hash_highs")));
    longs("source_ids")
        .zip(ints("units"))
        .zip(covered)
        .zip(longs("slice_rows"))
        .map(|(((source_id, unit), ((first_row, last_row), (hash_low, hash_high))), rows)| StoredSlice {
            source_id,
            unit: unit.cast_unsigned(),
            covered: CoveredSlice {
                first_row: first_row.cast_unsigned(),
                last_row: last_row.cast_unsigned(),
                hash_low,
                hash_high,
            },
            rows: rows.cast_unsigned(),
        })
        .collect()
}

/// Rows of units that only a scan tells.
async fn units_of_text(
    client: &Client,
    slices: &[StoredSlice],
    unit_rows: UnitRows<'_>,
) -> Result<HashMap<(i64, u32), u64>> {
    let mut unknown: Vec<(i64, u32)> = slices
        .iter()
        .map(|slice| (slice.source_id, slice.unit))
        .filter(|(source_id, unit)| unit_rows(*source_id, *unit).is_none())
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    let sources: Vec<i64> = unknown.iter().map(|(source_id, _)| *source_id).collect();
    let units: Vec<i32> = unknown.iter().map(|(_, unit)| unit.cast_signed()).collect();
    let sql = "select source_id, unit, rows from vecload_ledger.units
        join unnest($1::bigint[], $2::integer[]) as wanted(source_id, unit) using (source_id, unit)";
    let rows = client.query(sql, &[&sources, &units]).await;
    let rows = rows.map_err(|error| pg_error("read the units of the sources", error))?;
    let key = |row: &Row| (row.get(0), row.get::<_, i32>(1).cast_unsigned());
    Ok(rows.iter().map(|row| (key(row), row.get::<_, i64>(2).cast_unsigned())).collect())
}
