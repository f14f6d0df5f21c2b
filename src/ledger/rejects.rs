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
    let load_id = run.load_id;
    let transaction = client.transaction().await.map_err(failed)?;
    run.hold_fence(&transaction).await?;
    for slice in slices {
        let source_id = source_ids[slice.source];
        insert(&transaction, load_id, source_id, slice.unit, &slice.rejects).await?;
        transaction
            .execute(
                "insert into vecload_ledger.reject_slices (source_id, unit, first_row, last_row, rejects, load_id)
                 values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
                &[
                    &source_id,
                    &slice.unit.cast_signed(),
                    &slice.first_row.cast_signed(),
                    &slice.last_row.cast_signed(),
                    &(slice.rejects.len() as i64),
                    &load_id,
                ],
            )
            .await
            .map_err(failed)?;
    }
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
    for row in rows {
        let rejects = std::slice::from_ref(&row.reject);
        insert(client, run.load_id, source_ids[row.source], row.unit, rejects).await?;
    }
    Ok(())
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

async fn insert(
    client: &impl GenericClient,
    load_id: i64,
    source_id: i64,
    unit: u32,
    rejects: &[Reject],
) -> Result<()> {
    let of = |text: fn(&Reject) -> String| rejects.iter().map(text).collect::<Vec<_>>();
    let at = |number: fn(Position) -> u64| -> Vec<Option<i64>> {
        rejects.iter().map(|reject| reject.position.map(|at| number(at).cast_signed())).collect()
    };
    let rows: Vec<i64> = rejects.iter().map(|reject| reject.row.cast_signed()).collect();
    client
        .execute(
            "insert into vecload_ledger.rejects (source_id, unit, row, load_id, column_name, class, reason, excerpt,
                  line, record, byte)
             select $1, $2, r.row, $3, r.column_name, r.class, r.reason, r.excerpt, r.line, r.record, r.byte
             from unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
                     $10::bigint[], $11::bigint[])
                 as r(row, column_name, class, reason, excerpt, line, record, byte)
             on conflict (source_id, unit, row) do nothing",
            &[
                &source_id,
                &unit.cast_signed(),
                &load_id,
                &rows,
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
