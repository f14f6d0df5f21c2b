//! Units of sources that are known only as they are read.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::blocks::Run;
use crate::error::{Error, Result};
use crate::postgres::pg_error;
use crate::source::text::TextUnit;

/// What an earlier run read of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownUnit {
    /// Its records.
    pub rows: u64,
    /// Hash of its bytes.
    pub hash: String,
}

/// Units of one source, by number.
pub type KnownUnits = HashMap<u32, KnownUnit>;

/// Reads the units of sources, in their order.
pub async fn known_units(client: &Client, source_ids: &[i64]) -> Result<Vec<KnownUnits>> {
    let sql = "select source_id, unit, rows, hash from vecload_ledger.units where source_id = any($1)";
    let rows = client.query(sql, &[&source_ids]).await;
    let rows = rows.map_err(|error| pg_error("read the units of the sources", error))?;
    let mut by_source: HashMap<i64, KnownUnits> = HashMap::new();
    for row in rows {
        let unit = KnownUnit { rows: row.get::<_, i64>("rows").cast_unsigned(), hash: row.get("hash") };
        let number = row.get::<_, i32>("unit").cast_unsigned();
        by_source.entry(row.get("source_id")).or_default().insert(number, unit);
    }
    Ok(source_ids.iter().map(|id| by_source.remove(id).unwrap_or_default()).collect())
}

/// Records a unit, before any of its rows is handed on: what is committed of it can be compared from then on.
pub async fn record_unit(client: &Client, run: Run, source_id: i64, unit: &TextUnit) -> Result<()> {
    let failed = |error| pg_error(format!("record unit {} in the ledger", unit.unit), error);
    // A unit of the same bytes may be there already: recorded by a try whose answer was lost.
    let insert = "with fence as (
            select load_id from vecload_ledger.loads where load_id = $8 and token = $9 for share),
        recorded as (
            insert into vecload_ledger.units (source_id, unit, first_record, first_byte, first_line, rows, hash)
            select $1, $2, $3, $4, $5, $6, $7 from fence
            on conflict (source_id, unit) do update set hash = excluded.hash
            where (units.first_byte, units.rows, units.hash) = (excluded.first_byte, excluded.rows, excluded.hash)
            returning unit)
        select (select count(*) from fence), (select count(*) from recorded)";
    let row = client
        .query_one(
            insert,
            &[
                &source_id,
                &unit.unit.cast_signed(),
                &unit.start.record.cast_signed(),
                &unit.start.byte.cast_signed(),
                &unit.start.line.cast_signed(),
                &unit.rows().cast_signed(),
                &unit.hash,
                &run.load_id,
                &run.token,
            ],
        )
        .await
        .map_err(failed)?;
    match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
        (1, 1) => Ok(()),
        (1, _) => Err(Error::bug(format!("unit {} is in the ledger with other bytes", unit.unit))),
        _ => Err(run.taken_over()),
    }
}
