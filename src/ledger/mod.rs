//! The ledger: which rows of which source are in the target, committed together with the rows themselves.
//!
//! The schema is `migrations/ledger`; `docs/ledger.md` explains the tables. A source is known by its
//! fingerprint in a target (a table's OID); a slice says which of its rows are in; a run goes on from the
//! union of all slices, whatever batch sizes, partitions and writers it has.

pub mod audit;
pub mod blocks;
pub mod claim;
pub mod committed;
pub mod compaction;
pub mod coverage;
pub mod generations;
pub mod history;
mod known;
pub mod outbox;
pub mod prepared;
pub mod rejects;
pub mod settle;
mod slices;
pub mod takeover;
pub mod undo;
pub mod units;

use tokio_postgres::Client;

use crate::error::{Context, Error, Result};
use crate::postgres::pg_error;

/// First key of the advisory locks by which a run shows that it is alive; the second is the load's id.
const ALIVE_LOCK: i32 = i32::from_be_bytes(*b"vecl");

/// First key of the advisory lock that serialises starts in one target; the second is the table's OID.
const START_LOCK: i32 = i32::from_be_bytes(*b"vecs");

/// Condition on blocks that may hold slices of the sources whose ids are `$1`.
const MAY_HOLD_SOURCES: &str =
    "source_range && (select range_agg(int8range(id, id, '[]')) from unnest($1::bigint[]) as s(id))";

const HISTORY_TABLE: &str = "vecload_ledger.schema_history";

fn migrations() -> Result<Vec<refinery::Migration>> {
    [
        ("V1__ledger", include_str!("../../migrations/ledger/V1__ledger.sql")),
        ("V2__units", include_str!("../../migrations/ledger/V2__units.sql")),
        ("V3__compaction", include_str!("../../migrations/ledger/V3__compaction.sql")),
        ("V4__outboxes", include_str!("../../migrations/ledger/V4__outboxes.sql")),
        ("V5__uncompressed", include_str!("../../migrations/ledger/V5__uncompressed.sql")),
    ]
    .into_iter()
    .map(|(name, sql)| refinery::Migration::unapplied(name, sql))
    .collect::<std::result::Result<_, _>>()
    .or_failed(|| "read the ledger's migrations".into())
}

/// Creates or updates the ledger's schema. Safe to run again, and by two processes at once.
pub async fn prepare(client: &mut Client) -> Result<()> {
    let failed = |error| pg_error("prepare the ledger", error);
    // Without this look, a role that may only use an existing ledger would need the right to create it.
    if applied(client).await? == Some(i64::from(newest()?)) {
        return Ok(());
    }
    client.execute("select pg_advisory_lock($1, 0)", &[&START_LOCK]).await.map_err(failed)?;
    let migrated = migrate(client).await;
    client.execute("select pg_advisory_unlock($1, 0)", &[&START_LOCK]).await.map_err(failed)?;
    migrated
}

async fn migrate(client: &mut Client) -> Result<()> {
    let schema = "select to_regnamespace('vecload_ledger') is not null";
    let there: bool =
        client.query_one(schema, &[]).await.map_err(|error| pg_error("look for the ledger", error))?.get(0);
    if !there {
        client
            .batch_execute("create schema vecload_ledger")
            .await
            .map_err(|error| pg_error("create the ledger's schema, vecload_ledger", error))?;
    }
    // Citus warns of what it leaves on this node, which is what is meant.
    let quiet = "set client_min_messages to error";
    client.batch_execute(quiet).await.map_err(|error| pg_error("prepare the ledger", error))?;
    let mut runner = refinery::Runner::new(&migrations()?);
    runner.set_migration_table_name(HISTORY_TABLE);
    let migrated = runner.run_async(client).await;
    let loud = "reset client_min_messages";
    client.batch_execute(loud).await.map_err(|error| pg_error("prepare the ledger", error))?;
    migrated.map(|_| ()).map_err(|error| {
        Error::failed("bring the ledger's schema up to date")
            .because(error)
            .hint("a ledger of a newer vecload can't be used by an older one: update vecload")
    })
}

fn newest() -> Result<i32> {
    Ok(migrations()?.iter().map(|migration| migration.version()).max().unwrap_or(0))
}

/// Version of the ledger's schema, if there is one.
pub async fn applied(client: &Client) -> Result<Option<i64>> {
    let failed = |error| pg_error("look for the ledger", error);
    let there = format!("select to_regclass('{HISTORY_TABLE}') is not null");
    if !client.query_one(&there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let version = format!("select max(version)::bigint from {HISTORY_TABLE}");
    Ok(client.query_one(&version, &[]).await.map_err(failed)?.get(0))
}
