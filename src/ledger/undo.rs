//! Taking a load back, or forgetting it.
//!
//! Both work in steps that each leave table and ledger in agreement: sources are opened before the first of
//! their blocks goes, so that an undo that is cut off never leaves a source that looks complete.

use serde::Serialize;
use tokio_postgres::{Client, Row};

use super::ALIVE_LOCK;
use super::compaction::delete_replaced;
use super::history::find;
use super::outbox::{LeftPrepared, given_again, take_in};
use crate::error::{Error, Result};
use crate::index::{IndexDefinition, secondary_indexes};
use crate::postgres::catalog::Target;
use crate::postgres::{QualifiedName, pg_error, quote_ident};

/// Rows after which a transaction deletes no more blocks: enough to amortise a commit, few enough that little is to be
/// done again after an interruption.
const ROWS_PER_STEP: i64 = 64 * 1024;

/// What an undo took back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Undone {
    /// Rows deleted.
    pub deleted: i64,
    /// Rows of the load that were gone already.
    pub gone: i64,
}

/// Sources that a load has brought rows or rejects of, or holds.
const ITS_SOURCES: &str = "select source_id from vecload_ledger.sources where load_id = $1
    union select unnest(source_ids) from vecload_ledger.current_blocks where load_id = $1
    union select source_id from vecload_ledger.reject_slices where load_id = $1";

/// Deletes the rows of a load and its records; one that was cut off is finished by running it again.
pub async fn undo(client: &mut Client, load_id: i64) -> Result<Undone> {
    let failed = |error| pg_error(format!("undo load {load_id}"), error);
    still_there(client, load_id).await?;
    hold(client, load_id).await?;
    is_newest(client, load_id).await?;
    let table = table_of(client, load_id).await?;
    if let Some(table) = &table {
        rows_can_be_told_apart(client, load_id, table).await?;
    }
    let token = open_sources(client, load_id, "undoing").await?;
    delete_replaced(client, load_id, token).await?;
    let mut undone = Undone::default();
    loop {
        let transaction = client.transaction().await.map_err(failed)?;
        let taken =
            "with last as (select run, block, sum(rows) over (order by run desc, block desc) - rows as before
                from vecload_ledger.blocks where load_id = $1)
            delete from vecload_ledger.blocks where load_id = $1 and (run, block) in (
                select run, block from last where before < $2::bigint)
            returning rows, id_firsts, id_lasts, source_ids";
        let blocks = transaction.query(taken, &[&load_id, &ROWS_PER_STEP]).await.map_err(failed)?;
        if blocks.is_empty() {
            break;
        }
        let rows: i64 = blocks.iter().map(|block| block.get::<_, i64>("rows")).sum();
        let mut deleted = 0;
        if let Some(table) = &table {
            let id = quote_ident(&id_column(&transaction, table, &flat(&blocks, "source_ids")).await?);
            let delete = format!(
                "delete from {} t using unnest($1::bigint[], $2::bigint[]) as r(first, last)
                 where t.{id} between r.first and r.last",
                table.sql()
            );
            let ranges = (flat(&blocks, "id_firsts"), flat(&blocks, "id_lasts"));
            deleted =
                transaction.execute(&delete, &[&ranges.0, &ranges.1]).await.map_err(failed)?.cast_signed();
        }
        transaction.commit().await.map_err(failed)?;
        fail::fail_point!("undo-between", crate::fault::die);
        undone.deleted += deleted;
        undone.gone += rows - deleted;
    }
    restore_indexes(client, load_id, table.as_ref()).await?;
    remove_records(client, load_id, "undone").await?;
    Ok(undone)
}

/// Removes a load from the ledger and leaves its rows in the table.
pub async fn forget(client: &mut Client, load_id: i64) -> Result<()> {
    still_there(client, load_id).await?;
    hold(client, load_id).await?;
    is_newest(client, load_id).await?;
    let table = table_of(client, load_id).await?;
    restore_indexes(client, load_id, table.as_ref()).await?;
    open_sources(client, load_id, "forgetting").await?;
    remove_records(client, load_id, "forgotten").await
}

/// A load that was taken back or forgotten has nothing left to take back.
async fn still_there(client: &Client, load_id: i64) -> Result<()> {
    let load = find(client, load_id).await?;
    match load.state.as_str() {
        "undone" => Err(Error::refused(format!("load {load_id} is taken back already"))),
        "forgotten" => {
            Err(Error::refused(format!("load {load_id} is forgotten: the ledger no longer knows its rows")))
        }
        _ => Ok(()),
    }
}

fn flat(blocks: &[Row], column: &str) -> Vec<i64> {
    blocks.iter().flat_map(|block| block.get::<_, Vec<i64>>(column)).collect()
}

/// Refuses where ids do not tell this load's rows from others.
async fn rows_can_be_told_apart(client: &Client, load_id: i64, table: &QualifiedName) -> Result<()> {
    let failed = |error| pg_error(format!("look at the rows of load {load_id}"), error);
    let without = "select count(*) from vecload_ledger.current_blocks
        where load_id = $1 and rows > 0 and id_firsts = '{}'";
    if client.query_one(without, &[&load_id]).await.map_err(failed)?.get::<_, i64>(0) > 0 {
        return Err(Error::refused(format!(
            "load {load_id} can't be taken back: its rows in {table} have no ids from a sequence, so nothing tells \
             them apart"
        ))
        .hint(format!("delete the rows by a condition of your own, then: vecload loads forget {load_id}")));
    }
    // After a TRUNCATE that restarted the sequence, others got the same ids.
    let again = "select o.load_id from vecload_ledger.current_blocks b join vecload_ledger.current_blocks o
            on o.target = b.target and (o.load_id, o.run, o.block) <> (b.load_id, b.run, b.block)
               and o.committed_at > b.committed_at and o.relfilenode <> b.relfilenode
        where b.load_id = $1 and exists (
            select 1 from unnest(b.id_firsts, b.id_lasts) as mine(first, last)
            join unnest(o.id_firsts, o.id_lasts) as other(first, last)
                on mine.first <= other.last and other.first <= mine.last)
        limit 1";
    let again = client.query_opt(again, &[&load_id]).await.map_err(failed)?.map(|row| row.get::<_, i64>(0));
    let again = match again {
        Some(other) => Some(other),
        None => {
            let mine = "select target, relfilenode, id_firsts, id_lasts from vecload_ledger.current_blocks
                where load_id = $1";
            let mine = client.query(mine, &[&load_id]).await.map_err(failed)?;
            let storages: Vec<u32> = mine.iter().map(|row| row.get(1)).collect();
            let ids = (flat(&mine, "id_firsts"), flat(&mine, "id_lasts"));
            match mine.first() {
                Some(row) => given_again(client, row.get(0), load_id, (&ids.0, &ids.1, &storages)).await?,
                None => None,
            }
        }
    };
    match again {
        Some(other) => Err(Error::refused(format!(
            "load {load_id} can't be taken back: its ids in {table} were given out again, to load {other}"
        ))
        .hint(format!("its rows went with a TRUNCATE; remove the record: vecload loads forget {load_id}"))),
        None => Ok(()),
    }
}

async fn table_of(client: &Client, load_id: i64) -> Result<Option<QualifiedName>> {
    let row = client
        .query_opt(
            "select n.nspname, c.relname from vecload_ledger.loads l join pg_class c on c.oid = l.target
             join pg_namespace n on n.oid = c.relnamespace where l.load_id = $1",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error(format!("look up the table of load {load_id}"), error))?;
    Ok(row.map(|row| QualifiedName::new(Some(row.get(0)), row.get(1))))
}

/// The column that the rows' ids went into, as the recipes of their sources have it.
async fn id_column(
    client: &tokio_postgres::Transaction<'_>,
    table: &QualifiedName,
    source_ids: &[i64],
) -> Result<String> {
    let sql = "select distinct recipe ->> 'id_column' from vecload_ledger.sources
        where source_id = any($1) and recipe ->> 'id_column' is not null";
    let rows = client.query(sql, &[&source_ids]).await;
    let rows = rows.map_err(|error| pg_error(format!("look up the id column of {table}"), error))?;
    match &rows[..] {
        [only] => Ok(only.get(0)),
        _ => Err(Error::failed(format!("the ledger does not tell which column of {table} holds the ids"))
            .hint("delete the rows by a condition of your own, then: vecload loads forget")),
    }
}

/// Shows that the loads which hold these sources are not running, and keeps them from starting.
async fn hold(client: &mut Client, load_id: i64) -> Result<()> {
    let failed = |error| pg_error(format!("lock load {load_id}"), error);
    let holders = format!(
        "select distinct load_id from vecload_ledger.sources where source_id in ({ITS_SOURCES})
         union select $1::bigint order by 1"
    );
    let holders = client.query(&holders, &[&load_id]).await.map_err(failed)?;
    let holders: Vec<i64> = holders.iter().map(|row| row.get(0)).collect();
    for holder in &holders {
        let lock = "select pg_try_advisory_lock($1, $2)";
        let free = client.query_one(lock, &[&ALIVE_LOCK, &(*holder as i32)]).await.map_err(failed)?;
        if !free.get::<_, bool>(0) {
            return Err(Error::refused(format!("load {holder} is running"))
                .hint("stop it first (Ctrl-C or kill); its committed rows stay until you undo them"));
        }
    }
    let transaction = client.transaction().await.map_err(failed)?;
    take_in(&transaction, &holders, LeftPrepared::Anything).await?;
    transaction.commit().await.map_err(failed)
}

/// Refuses where a later load went on with a source of this one: its slices say of whole row ranges that their
/// rows are in, this load's rows among them.
async fn is_newest(client: &Client, load_id: i64) -> Result<()> {
    let later = format!(
        "with its(source_id) as ({ITS_SOURCES})
         select load_id from vecload_ledger.current_blocks
         where load_id > $1 and source_range && (select range_agg(int8range(source_id, source_id, '[]')) from its)
             and exists (select from unnest(source_ids) as s(id) where s.id in (select source_id from its))
         union
         select load_id from vecload_ledger.reject_slices
         where load_id > $1 and source_id in (select source_id from its)
         order by 1 desc limit 1"
    );
    let row = client.query_opt(&later, &[&load_id]).await;
    match row.map_err(|error| pg_error(format!("look for loads after load {load_id}"), error))? {
        None => Ok(()),
        Some(row) => {
            let later: i64 = row.get(0);
            Err(Error::refused(format!("load {later} went on with a source of load {load_id}")).hint(
                format!("the later one first: vecload loads undo {later} (or forget), then load {load_id}"),
            ))
        }
    }
}

/// From here on none of the load's sources looks complete, and no earlier run of it can commit.
async fn open_sources(client: &mut Client, load_id: i64, state: &str) -> Result<i64> {
    let failed = |error| pg_error(format!("open the sources of load {load_id}"), error);
    let transaction = client.transaction().await.map_err(failed)?;
    let mark =
        "update vecload_ledger.loads set state = $2, token = token + 1 where load_id = $1 returning token";
    let token = transaction.query_one(mark, &[&load_id, &state]).await.map_err(failed)?.get(0);
    let open = format!("update vecload_ledger.sources set state = 'open' where source_id in ({ITS_SOURCES})");
    transaction.execute(&open, &[&load_id]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(token)
}

/// Builds the indexes that the load dropped and never built again.
async fn restore_indexes(client: &Client, load_id: i64, table: Option<&QualifiedName>) -> Result<()> {
    let failed = |error| pg_error(format!("restore the indexes that load {load_id} dropped"), error);
    let Some(table) = table else { return Ok(()) };
    let noted = "select dropped_indexes from vecload_ledger.loads where load_id = $1";
    let definitions: Vec<String> = client.query_one(noted, &[&load_id]).await.map_err(failed)?.get(0);
    if definitions.is_empty() {
        return Ok(());
    }
    let Some(target) = Target::look_up(client, table).await? else { return Ok(()) };
    let present = secondary_indexes(client, &target).await?;
    for index in definitions.into_iter().filter_map(IndexDefinition::parse) {
        if !present.iter().any(|other| other.name == index.name) {
            client.batch_execute(&index.sql).await.map_err(failed)?;
        }
    }
    Ok(())
}

async fn remove_records(client: &mut Client, load_id: i64, state: &str) -> Result<()> {
    let failed = |error| pg_error(format!("remove the records of load {load_id}"), error);
    let transaction = client.transaction().await.map_err(failed)?;
    for statement in [
        "delete from vecload_ledger.blocks where load_id = $1",
        "delete from vecload_ledger.rejects where load_id = $1",
        "delete from vecload_ledger.reject_slices where load_id = $1",
        // A source whose other rows belong to another load is that load's to finish.
        "delete from vecload_ledger.sources s where load_id = $1
            and source_id not in (
                select unnest(b.source_ids) from vecload_ledger.blocks b where b.source_range && (
                    select range_agg(int8range(source_id, source_id, '[]')) from vecload_ledger.sources
                    where load_id = $1))",
    ] {
        transaction.execute(statement, &[&load_id]).await.map_err(failed)?;
    }
    let done = "update vecload_ledger.loads set state = $2, dropped_indexes = '{}', token = token + 1
        where load_id = $1";
    transaction.execute(done, &[&load_id, &state]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
