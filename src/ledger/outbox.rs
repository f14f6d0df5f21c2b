//! Ledger rows of blocks that are written on the workers of a Citus cluster.
//!
//! A block that goes into a shard's table and its ledger row are one commit of one node. The row therefore lies in a
//! table that is distributed like the target, one pair of tables for each colocation group, under a channel of the
//! block's shard. Before the ledger is read, such rows are taken in: moved to `blocks`, by one transaction of the
//! coordinator.
//!
//! A run may commit on a worker only while the shard has a fence of the run's: taking in begins with the removal of the
//! fences, which waits for commits that are under way and turns later ones away.

use tokio_postgres::{Client, GenericClient, Row, Transaction};

use super::blocks::Run;
use super::{START_LOCK, prepared};
use crate::error::{Error, Result};
use crate::postgres::catalog::{Distribution, Target};
use crate::postgres::migrate::TOAST_TUPLE_TARGET_MAX;
use crate::postgres::{QualifiedName, pg_error};

const SCHEMA: &str = "vecload_ledger";

/// The columns that both kinds of rows have.
const COLUMNS: &str =
    "load_id, run, block, target, relfilenode, rows, source_ids, units, first_rows, last_rows,
    hash_lows, hash_highs, slice_rows, id_firsts, id_lasts, checksum, source_range, committed_at";

/// A few rows in each shard: another connection costs more than it saves.
const ONE_CONNECTION: &str = "set local citus.max_adaptive_executor_pool_size = 1";

/// The tables of one colocation group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    group: i32,
    /// Rows of committed blocks.
    pub blocks: QualifiedName,
    /// Fences of runs.
    pub fences: QualifiedName,
}

impl Outbox {
    /// Their names.
    pub fn of(distribution: &Distribution) -> Self {
        Self::of_group(distribution.colocation)
    }

    fn of_group(group: i32) -> Self {
        let table = |what| QualifiedName::new(Some(SCHEMA), &format!("{what}_{group}"));
        Self { group, blocks: table("shard_blocks"), fences: table("shard_fences") }
    }

    /// Makes the tables of the target's colocation group, if they are not there.
    pub async fn prepare(client: &Client, target: &Target, distribution: &Distribution) -> Result<Self> {
        let outbox = Self::of(distribution);
        let failed = |error| pg_error("make the ledger's tables on the workers", error);
        let sql = "select count(*) from pg_dist_partition
            where logicalrelid in (to_regclass($1), to_regclass($2))";
        let there = client.query_one(sql, &[&outbox.blocks.sql(), &outbox.fences.sql()]).await;
        if there.map_err(failed)?.get::<_, i64>(0) == 2 {
            return Ok(outbox);
        }
        let lock = "select pg_advisory_lock($1, 0)";
        client.execute(lock, &[&START_LOCK]).await.map_err(failed)?;
        let made = outbox.make(client, target, distribution).await;
        client.execute("select pg_advisory_unlock($1, 0)", &[&START_LOCK]).await.map_err(failed)?;
        made.map(|()| outbox)
    }

    async fn make(&self, client: &Client, target: &Target, distribution: &Distribution) -> Result<()> {
        let failed = |error| pg_error("make the ledger's tables on the workers", error);
        let channel = target.column(&distribution.column);
        let channel = channel.ok_or_else(|| Error::bug("a distribution column that is not there"))?;
        // Rows that fit a page are not compressed, for they live as long as their load.
        let blocks = format!(
            "create table if not exists {} (channel {} not null, load_id bigint not null, run integer not null,
                block integer not null, target oid not null, relfilenode oid not null, rows bigint not null,
                source_ids bigint[] not null, units integer[] not null, first_rows bigint[] not null,
                last_rows bigint[] not null, hash_lows integer[] not null, hash_highs integer[] not null,
                slice_rows bigint[] not null, id_firsts bigint[] not null, id_lasts bigint[] not null,
                checksum bigint not null, source_range int8range not null,
                committed_at timestamptz not null default clock_timestamp(),
                primary key (channel, load_id, run, block)) with (toast_tuple_target = {TOAST_TUPLE_TARGET_MAX})",
            self.blocks.sql(),
            channel.type_name
        );
        let fences = format!(
            "create table if not exists {} (channel {} not null, load_id bigint not null, token bigint not null,
                primary key (channel, load_id))",
            self.fences.sql(),
            channel.type_name
        );
        for (table, create) in [(&self.blocks, blocks), (&self.fences, fences)] {
            let distributed = "select count(*) from pg_dist_partition where logicalrelid = to_regclass($1)";
            let distributed = client.query_one(distributed, &[&table.sql()]).await.map_err(failed)?;
            if distributed.get::<_, i64>(0) == 1 {
                continue;
            }
            // Each by itself: Citus takes one such statement at a time.
            client.batch_execute(&create).await.map_err(failed)?;
            let distribute =
                "select create_distributed_table($1::text::regclass, 'channel', colocate_with => $2::text)";
            client.query(distribute, &[&table.sql(), &target.name.sql()]).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Whether this role may write both tables, which another one may have made.
    pub async fn is_writable(&self, client: &Client) -> Result<bool> {
        let sql = "select bool_and(has_table_privilege(name, action)) from unnest($1::text[]) name,
            unnest(array['select', 'insert', 'update', 'delete']) action";
        let row = client.query_one(sql, &[&[self.blocks.sql(), self.fences.sql()].as_slice()]).await;
        let row =
            row.map_err(|error| pg_error("look up rights on the ledger's tables on the workers", error))?;
        Ok(row.get(0))
    }

    /// OIDs of both tables.
    pub async fn oids(&self, client: &Client) -> Result<[u32; 2]> {
        let sql = "select to_regclass($1)::oid, to_regclass($2)::oid";
        let row = client.query_one(sql, &[&self.blocks.sql(), &self.fences.sql()]).await;
        let row = row.map_err(|error| pg_error("look up the ledger's tables on the workers", error))?;
        Ok([row.get(0), row.get(1)])
    }

    /// Lets a run commit in the shards of these channels.
    pub async fn let_commit(&self, client: &mut Client, run: &Run, channels: &[i64]) -> Result<()> {
        let failed = |error| pg_error("let the run write on the workers", error);
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.batch_execute(ONE_CONNECTION).await.map_err(failed)?;
        // As values each shard gets its own; a query's result Citus would send to every node first.
        let rows: Vec<String> = channels.iter().map(|channel| format!("({channel}, $1, $2)")).collect();
        let fence = format!(
            "insert into {} (channel, load_id, token) values {}
             on conflict (channel, load_id) do update set token = excluded.token",
            self.fences.sql(),
            rows.join(", ")
        );
        transaction.execute(&fence, &[&run.load_id, &run.token]).await.map_err(failed)?;
        // Last, as it keeps takeovers waiting. From here on it is known where the load's rows may lie.
        let noted = "update vecload_ledger.loads set outboxes = array(select distinct unnest(outboxes || $3::integer))
            where load_id = $1 and token = $2";
        let noted = transaction.execute(noted, &[&run.load_id, &run.token, &self.group]).await;
        if noted.map_err(failed)? != 1 {
            return Err(run.taken_over());
        }
        transaction.commit().await.map_err(failed)
    }
}

/// What may still be prepared on the workers of rows that are to be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftPrepared {
    /// Nothing: no session was lost, and none was warned of a commit that has not reached a node.
    Nothing,
    /// Anything; it is waited for, which takes a connection to every node.
    Anything,
}

/// Takes in what a run of a load of a distributed table has committed on the workers, if the load is still the run's.
/// No prepared transaction with rows of the load is left afterwards.
pub async fn take_in_own(client: &mut Client, run: &Run, left: LeftPrepared) -> Result<()> {
    let failed = |error| pg_error("take in the ledger's rows from the workers", error);
    let transaction = client.transaction().await.map_err(failed)?;
    run.hold_fence(&transaction).await?;
    take_in_distributed(&transaction, &[run.load_id], left).await?;
    transaction.commit().await.map_err(failed)
}

/// Takes in what loads' runs have committed on the workers, and ends their right to commit more.
pub async fn take_in(transaction: &Transaction<'_>, load_ids: &[i64], left: LeftPrepared) -> Result<()> {
    // Loads of a local table have nothing to do with the cluster, be its workers up or down.
    match concern_workers(transaction, load_ids).await? {
        true => take_in_distributed(transaction, load_ids, left).await,
        false => Ok(()),
    }
}

/// Likewise, of loads of which some went into a distributed table.
async fn take_in_distributed(
    transaction: &Transaction<'_>,
    load_ids: &[i64],
    left: LeftPrepared,
) -> Result<()> {
    let failed = |error| pg_error("take in the ledger's rows from the workers", error);
    // Rows that an earlier transaction of this kind has taken may still be there while a node's part is prepared.
    if left == LeftPrepared::Anything {
        prepared::settle(transaction).await?;
    }
    let outboxes = outboxes(transaction, load_ids).await?;
    if outboxes.is_empty() {
        return Ok(());
    }
    transaction.batch_execute(ONE_CONNECTION).await.map_err(failed)?;
    for outbox in &outboxes {
        let unfence = format!("delete from {} where load_id = any($1)", outbox.fences.sql());
        transaction.execute(&unfence, &[&load_ids]).await.map_err(failed)?;
        let blocks = outbox.blocks.sql();
        let take = format!(
            "insert into {SCHEMA}.blocks ({COLUMNS}) select {COLUMNS} from {blocks} where load_id = any($1)"
        );
        if transaction.execute(&take, &[&load_ids]).await.map_err(failed)? > 0 {
            let clear = format!("delete from {blocks} where load_id = any($1)");
            transaction.execute(&clear, &[&load_ids]).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether any of the loads went into a distributed table.
async fn concern_workers(client: &impl GenericClient, load_ids: &[i64]) -> Result<bool> {
    let failed = |error| pg_error("look for loads of distributed tables", error);
    let citus = "select to_regclass('pg_catalog.pg_dist_partition') is not null";
    if !client.query_one(citus, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(false);
    }
    let concern = "select exists (select from vecload_ledger.loads where load_id = any($1)
        and (outboxes <> '{}' or target in (select logicalrelid::oid from pg_dist_partition)))";
    Ok(client.query_one(concern, &[&load_ids]).await.map_err(failed)?.get(0))
}

/// The pairs of tables that loads have used.
async fn outboxes(client: &impl GenericClient, load_ids: &[i64]) -> Result<Vec<Outbox>> {
    let used =
        "select distinct unnest(outboxes) from vecload_ledger.loads where load_id = any($1) order by 1";
    let rows = client.query(used, &[&load_ids]).await;
    let rows = rows.map_err(|error| pg_error("look for the ledger's tables on the workers", error))?;
    Ok(rows.iter().map(|row| Outbox::of_group(row.get(0))).collect())
}

/// A committed block whose row is on a worker still.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its load.
    pub load_id: i64,
    /// OID of its table.
    pub target: u32,
    /// The table's storage that it went into.
    pub relfilenode: u32,
    /// Its rows.
    pub rows: i64,
    /// The source of each of its slices, and the slice's rows.
    pub slices: Vec<(i64, i64)>,
    /// The first and last of each range of its ids.
    pub ids: Vec<(i64, i64)>,
}

/// Blocks whose rows wait on the workers to be taken in: of loads that go on, and of those that were killed. Of one
/// load, or of all.
pub async fn waiting(client: &Client, load_id: Option<i64>) -> Result<Vec<Waiting>> {
    let failed = |error| pg_error("look for blocks that are recorded on the workers", error);
    let unfinished = "select load_id from vecload_ledger.loads
        where outboxes <> '{}' and state not in ('complete', 'rejects', 'limited', 'undone', 'forgotten')
            and ($1::bigint is null or load_id = $1)";
    let unfinished = client.query(unfinished, &[&load_id]).await.map_err(failed)?;
    let unfinished: Vec<i64> = unfinished.iter().map(|row| row.get(0)).collect();
    let mut waiting = Vec::new();
    for outbox in outboxes(client, &unfinished).await? {
        let blocks = format!(
            "select load_id, target, relfilenode, rows, source_ids, slice_rows, id_firsts, id_lasts from {}
             where load_id = any($1)",
            outbox.blocks.sql()
        );
        let pairs = |row: &Row, firsts: &str, seconds: &str| -> Vec<(i64, i64)> {
            row.get::<_, Vec<i64>>(firsts).into_iter().zip(row.get::<_, Vec<i64>>(seconds)).collect()
        };
        for row in client.query(&blocks, &[&unfinished]).await.map_err(failed)? {
            waiting.push(Waiting {
                load_id: row.get("load_id"),
                target: row.get("target"),
                relfilenode: row.get("relfilenode"),
                rows: row.get("rows"),
                slices: pairs(&row, "source_ids", "slice_rows"),
                ids: pairs(&row, "id_firsts", "id_lasts"),
            });
        }
    }
    Ok(waiting)
}

/// A load that has given out ids again which blocks of these storages have, and whose rows are not taken in yet.
pub async fn given_again(
    client: &impl GenericClient,
    target: u32,
    load_id: i64,
    (firsts, lasts, storages): (&[i64], &[i64], &[u32]),
) -> Result<Option<i64>> {
    let failed = |error| pg_error("look for ids on the workers", error);
    let others =
        "select load_id from vecload_ledger.loads where target = $1 and load_id <> $2 and outboxes <> '{}'";
    let others = client.query(others, &[&target, &load_id]).await.map_err(failed)?;
    let others: Vec<i64> = others.iter().map(|row| row.get(0)).collect();
    for outbox in outboxes(client, &others).await? {
        let again = format!(
            "select o.load_id, o.id_firsts, o.id_lasts from {} o
             where o.target = $1 and o.load_id = any($2) and o.relfilenode <> all($3)",
            outbox.blocks.sql()
        );
        for row in client.query(&again, &[&target, &others, &storages]).await.map_err(failed)? {
            let other: (Vec<i64>, Vec<i64>) = (row.get(1), row.get(2));
            let mine = || firsts.iter().zip(lasts);
            let overlaps =
                |(first, last): (&i64, &i64)| mine().any(|(low, high)| low <= last && first <= high);
            if other.0.iter().zip(&other.1).any(overlaps) {
                return Ok(Some(row.get(0)));
            }
        }
    }
    Ok(None)
}
