//! Reading what earlier runs committed of claimed sources.

use std::collections::HashMap;
use std::pin::pin;

use futures::TryStreamExt;
use tokio_postgres::{Client, Row};

use super::MAY_HOLD_SOURCES;
use super::claim::ClaimedSource;
use super::coverage::CoveredSlice;
use super::units::known_units;
use crate::error::Result;
use crate::postgres::pg_error;

/// Fills in rows, units and coverage.
pub async fn read_committed(client: &Client, sources: &mut [ClaimedSource]) -> Result<()> {
    let failed = |error| pg_error("read what the ledger has of the sources", error);
    let ids: Vec<i64> = sources.iter().map(|source| source.source_id).collect();
    for (source, units) in sources.iter_mut().zip(known_units(client, &ids).await?) {
        source.units = units;
    }
    let known =
        "select source_id, rows from vecload_ledger.sources where source_id = any($1) and rows is not null";
    let mut known_rows: HashMap<i64, i64> = HashMap::new();
    for row in client.query(known, &[&ids]).await.map_err(failed)? {
        known_rows.insert(row.get(0), row.get(1));
    }
    for source in sources.iter_mut() {
        source.rows = known_rows.get(&source.source_id).map(|rows| rows.cast_unsigned());
    }
    let index: HashMap<i64, usize> = ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
    let unsigned = |row: &Row, column: &str| row.get::<_, i64>(column).cast_unsigned();
    let slices = format!(
        "select s.* from vecload_ledger.current_blocks b,
             unnest(b.source_ids, b.units, b.first_rows, b.last_rows, b.hash_lows, b.hash_highs, b.slice_rows)
                 as s(source_id, unit, first_row, last_row, hash_low, hash_high, rows)
         where b.{MAY_HOLD_SOURCES} and s.source_id = any($1)"
    );
    // One by one: a load that was cut off may have many.
    let mut slices = pin!(client.query_raw(&slices, [&ids]).await.map_err(failed)?);
    while let Some(row) = slices.try_next().await.map_err(failed)? {
        let slice = CoveredSlice {
            first_row: unsigned(&row, "first_row"),
            last_row: unsigned(&row, "last_row"),
            hash_low: row.get("hash_low"),
            hash_high: row.get("hash_high"),
        };
        let coverage = &mut sources[index[&row.get("source_id")]].coverage;
        coverage.add_slice(row.get::<_, i32>("unit").cast_unsigned(), slice, unsigned(&row, "rows"));
    }
    let ranges = "select source_id, unit, first_row, last_row from vecload_ledger.reject_slices
        where source_id = any($1)";
    for row in client.query(ranges, &[&ids]).await.map_err(failed)? {
        let coverage = &mut sources[index[&row.get("source_id")]].coverage;
        let unit = row.get::<_, i32>("unit").cast_unsigned();
        coverage.add_reject_range(unit, unsigned(&row, "first_row"), unsigned(&row, "last_row"));
    }
    let rejects = "select source_id, unit, row from vecload_ledger.rejects where source_id = any($1)";
    for row in client.query(rejects, &[&ids]).await.map_err(failed)? {
        let coverage = &mut sources[index[&row.get("source_id")]].coverage;
        coverage.add_reject(row.get::<_, i32>("unit").cast_unsigned(), unsigned(&row, "row"));
    }
    Ok(())
}
