//! Recording rejected rows.

use tokio_postgres::{Client, GenericClient};

use super::blocks::Run;
use crate::batch::reject::Reject;
use crate::error::Result;
use crate::postgres::pg_error;
use crate::source::text::Position;

/// Rejects of one row range of a unit; with them all rejects of that range are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectSlice {
    /// Index of the source in the plan.
    pub source: usize,
    /// The unit.
    pub unit: u32,
    /// First row of the range.
    pub first_row: u64,
    /// Last row of the range, inclusive.
    pub last_row: u64,
    /// The rejected rows.
    pub rejects: Vec<Reject>,
}

/// Records slices of rejects in one transaction; those that are recorded already stay as they are.
pub async fn record(
    client: &mut Client,
    run: &Run,
    source_ids: &[i64],
    slices: &[RejectSlice],
) -> Result<()> {
    let failed = |error| pg_error("record rejected rows in the ledger", error);
    let transaction = client.transaction().await.map_err(failed)?;
    run.hold_fence(&transaction).await?;
    let rejects =
        slices.iter().flat_map(|slice| slice.rejects.iter().map(|reject| (slice.source, slice.unit, reject)));
    insert(&transaction, run, source_ids, &rejects.collect::<Vec<_>>()).await?;
    let numbers = |number: fn(&RejectSlice) -> u64| -> Vec<i64> {
        slices.iter().map(|slice| number(slice).cast_signed()).collect()
    };
    transaction
        .execute(
            "insert into vecload_ledger.reject_slices (source_id, unit, first_row, last_row, rejects, load_id)
             select s.source_id, s.unit, s.first_row, s.last_row, s.rejects, $1
             from unnest($2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[])
                 as s(source_id, unit, first_row, last_row, rejects)
             on conflict do nothing",
            &[
                &run.load_id,
                &slices.iter().map(|slice| source_ids[slice.source]).collect::<Vec<i64>>(),
                &slices.iter().map(|slice| slice.unit.cast_signed()).collect::<Vec<i32>>(),
                &numbers(|slice| slice.first_row),
                &numbers(|slice| slice.last_row),
                &numbers(|slice| slice.rejects.len() as u64),
            ],
        )
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// A row that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Index of the source in the plan.
    pub source: usize,
    /// The unit.
    pub unit: u32,
    /// The row and why.
    pub reject: Reject,
}

/// Records rows that the server refused, in a transaction that holds the fence. They have no slices: which rows a
/// server refuses is known only of those that were sent.
pub async fn record_refused(
    client: &impl GenericClient,
    run: &Run,
    source_ids: &[i64],
    rows: &[RefusedRow],
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let rejects = rows.iter().map(|row| (row.source, row.unit, &row.reject));
    insert(client, run, source_ids, &rejects.collect::<Vec<_>>()).await
}

/// Records refused rows in a transaction of their own: the load stops because of them.
pub async fn record_last(
    client: &mut Client,
    run: &Run,
    source_ids: &[i64],
    rows: &[RefusedRow],
) -> Result<()> {
    let failed = |error| pg_error("record rejected rows in the ledger", error);
    let transaction = client.transaction().await.map_err(failed)?;
    run.hold_fence(&transaction).await?;
    record_refused(&transaction, run, source_ids, rows).await?;
    transaction.commit().await.map_err(failed)
}

/// Inserts rejects: of each the index of its source in the plan, and the unit.
async fn insert(
    client: &impl GenericClient,
    run: &Run,
    source_ids: &[i64],
    rejects: &[(usize, u32, &Reject)],
) -> Result<()> {
    let of =
        |text: fn(&Reject) -> String| rejects.iter().map(|(.., reject)| text(reject)).collect::<Vec<_>>();
    let at = |number: fn(Position) -> u64| -> Vec<Option<i64>> {
        rejects.iter().map(|(.., reject)| reject.position.map(|at| number(at).cast_signed())).collect()
    };
    client
        .execute(
            "insert into vecload_ledger.rejects (source_id, unit, row, load_id, column_name, class, reason, excerpt,
                  line, record, byte)
             select r.source_id, r.unit, r.row, $1, r.column_name, r.class, r.reason, r.excerpt, r.line,
                 r.record, r.byte
             from unnest($2::bigint[], $3::integer[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::bigint[], $10::bigint[], $11::bigint[])
                 as r(source_id, unit, row, column_name, class, reason, excerpt, line, record, byte)
             on conflict (source_id, unit, row) do nothing",
            &[
                &run.load_id,
                &rejects.iter().map(|(source, ..)| source_ids[*source]).collect::<Vec<i64>>(),
                &rejects.iter().map(|(_, unit, _)| unit.cast_signed()).collect::<Vec<i32>>(),
                &rejects.iter().map(|(.., reject)| reject.row.cast_signed()).collect::<Vec<i64>>(),
                &of(|reject| reject.column.clone()),
                &of(|reject| reject.reason.class().to_string()),
                &of(|reject| reject.reason.to_string()),
                &of(|reject| reject.excerpt.clone()),
                &at(|position| position.line),
                &at(|position| position.record),
                &at(|position| position.byte),
            ],
        )
        .await
        .map(|_| ())
        .map_err(|error| pg_error("record rejected rows in the ledger", error))
}
