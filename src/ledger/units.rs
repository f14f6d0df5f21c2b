//! Units of sources that are known only as they are read.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use super::blocks::Run;
use crate::error::{Error, Result};
use crate::postgres::pg_error;
use crate::source::text::Position;

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

/// A unit that was read.
#[derive(Debug, Clone)]
pub struct ReadUnit {
    /// Its source in the ledger.
    pub source_id: i64,
    /// Its number.
    pub unit: u32,
    /// Where it begins.
    pub start: Position,
    /// Its records.
    pub rows: u64,
    /// Hash of its bytes; empty in a plain file.
    pub hash: String,
}

/// Records units of which none is named twice. What is committed of a stream's unit can be compared from then on.
pub async fn record_units(client: &Client, run: Run, units: &[ReadUnit]) -> Result<()> {
    // A unit of the same bytes may be there already: recorded by a try whose answer was lost.
    let insert = "with fence as (
            select load_id from vecload_ledger.loads where load_id = $8 and token = $9 for share),
        recorded as (
            insert into vecload_ledger.units (source_id, unit, first_record, first_byte, first_line, rows, hash)
            select u.* from fence, unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[],
                $6::bigint[], $7::text[]) u
            on conflict (source_id, unit) do update set hash = excluded.hash
            where (units.first_byte, units.rows, units.hash) = (excluded.first_byte, excluded.rows, excluded.hash)
            returning source_id, unit)
        select (select count(*) from fence), array(select source_id || ' ' || unit from recorded)";
    let numbers = |number: fn(&ReadUnit) -> u64| -> Vec<i64> {
        units.iter().map(|unit| number(unit).cast_signed()).collect()
    };
    let source_ids: Vec<i64> = units.iter().map(|unit| unit.source_id).collect();
    let unit_numbers: Vec<i32> = units.iter().map(|unit| unit.unit.cast_signed()).collect();
    let hashes: Vec<&str> = units.iter().map(|unit| &unit.hash[..]).collect();
    let row = client
        .query_one(
            insert,
            &[
                &source_ids,
                &unit_numbers,
                &numbers(|unit| unit.start.record),
                &numbers(|unit| unit.start.byte),
                &numbers(|unit| unit.start.line),
                &numbers(|unit| unit.rows),
                &hashes,
                &run.load_id,
                &run.token,
            ],
        )
        .await
        .map_err(|error| pg_error("record units in the ledger", error))?;
    if row.get::<_, i64>(0) != 1 {
        return Err(run.taken_over());
    }
    let recorded: HashSet<String> = row.get::<_, Vec<String>>(1).into_iter().collect();
    match units.iter().find(|unit| !recorded.contains(&format!("{} {}", unit.source_id, unit.unit))) {
        None => Ok(()),
        Some(ReadUnit { source_id, unit, .. }) => {
            Err(Error::bug(format!("unit {unit} of source {source_id} is in the ledger with other bytes")))
        }
    }
}
