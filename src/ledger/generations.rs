//! Whether the rows that the ledger knows are still in the table.
//!
//! A TRUNCATE, a rewrite or a restore gives the table other storage. Blocks recorded under another
//! `relfilenode` are looked for by their ids, before "already loaded" is believed and at the end.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::MAY_HOLD_SOURCES;
use crate::error::{Error, Result};
use crate::postgres::catalog::Target;
use crate::postgres::{pg_error, quote_ident};

/// Checks blocks of these sources that were written to another storage of the table.
pub async fn check(
    client: &Client,
    target: &Target,
    id_column: Option<&str>,
    source_ids: &[i64],
) -> Result<()> {
    let failed = |error| pg_error("compare the ledger with the table", error);
    let others = format!(
        "select load_id, run, block, rows, id_firsts, id_lasts from vecload_ledger.current_blocks
         where {MAY_HOLD_SOURCES} and relfilenode <> $2
             and exists (select from unnest(source_ids) as s(id) where s.id = any($1))
         order by load_id, run, block"
    );
    let blocks = client.query(&others, &[&source_ids, &target.relfilenode]).await.map_err(failed)?;
    let mut missing = Vec::new();
    let (mut missing_rows, mut found_rows) = (0, 0);
    for block in &blocks {
        let rows: i64 = block.get("rows");
        let firsts: Vec<i64> = block.get("id_firsts");
        let lasts: Vec<i64> = block.get("id_lasts");
        let found: i64 = match id_column.filter(|_| !firsts.is_empty()) {
            Some(id) => {
                let id = quote_ident(id);
                // Ids that a later block of the present storage has are that block's: a TRUNCATE can restart
                // the sequence.
                let count = format!(
                    "with r as materialized (select * from unnest($1::bigint[], $2::bigint[]) as r(first, last)),
                     given_again as materialized (
                         select o.* from vecload_ledger.current_blocks b,
                             unnest(b.id_firsts, b.id_lasts) as o(first, last)
                         where b.target = $3 and b.relfilenode = $4
                             and o.first <= (select max(last) from r) and o.last >= (select min(first) from r))
                     select count(*) from {} t, r where t.{id} between r.first and r.last
                         and not exists (select from given_again o where t.{id} between o.first and o.last)",
                    target.name.sql()
                );
                let parameters: [&(dyn ToSql + Sync); 4] =
                    [&firsts, &lasts, &target.oid, &target.relfilenode];
                client.query_one(&count, &parameters).await.map_err(failed)?.get(0)
            }
            // Without ids rows can only be counted, all of them together.
            None if table_rows(client, target).await? < ledger_rows(client, target).await? => 0,
            None => rows,
        };
        if found < rows {
            missing_rows += rows - found;
            found_rows += found;
            missing.push((
                block.get::<_, i64>("load_id"),
                block.get::<_, i32>("run"),
                block.get::<_, i32>("block"),
            ));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<String> =
        missing.iter().take(5).map(|(load, run, block)| format!("{load}/{run}/{block}")).collect();
    let more = if missing.len() > 5 { format!(" and {} more", missing.len() - 5) } else { String::new() };
    let mut loads: Vec<i64> = missing.iter().map(|(load, ..)| *load).collect();
    loads.dedup();
    // Where some are left, forgetting would load them twice.
    let how = if found_rows > 0 { "undo" } else { "forget" };
    let forget: Vec<String> = loads.iter().map(|load| format!("vecload loads {how} {load}")).collect();
    Err(Error::failed(format!(
        "{missing_rows} rows that the ledger knows are no longer in {}: it was truncated, rewritten or restored since \
         (blocks {}{more})",
        target.name,
        named.join(", ")
    ))
    .hint(format!("if that was meant: {}, then load again", forget.join("; "))))
}

async fn table_rows(client: &Client, target: &Target) -> Result<i64> {
    let count = format!("select count(*) from {}", target.name.sql());
    let row = client.query_one(&count, &[]).await;
    Ok(row.map_err(|error| pg_error(format!("count the rows of {}", target.name), error))?.get(0))
}

async fn ledger_rows(client: &Client, target: &Target) -> Result<i64> {
    let sum = "select coalesce(sum(rows), 0)::bigint from vecload_ledger.current_blocks where target = $1";
    let row = client.query_one(sum, &[&target.oid]).await;
    Ok(row.map_err(|error| pg_error("count the rows that the ledger has", error))?.get(0))
}
