//! A writer: one connection that takes whole blocks and commits each with its ledger row.
//!
//! The transaction opens with the block in hand, so no open transaction ever waits for the pipeline.

mod isolate;
mod message;

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use twox_hash::XxHash3_64;

pub use self::isolate::RefusedTuple;
use self::message::{Message, Messages};
use crate::copy::{CopyBlock, HEADER, TRAILER};
use crate::error::{Error, Result};
use crate::ledger::blocks::{BlockLedger, Run, of_shard};
use crate::ledger::rejects::RefusedRow;
use crate::partition::HeldBlock;
use crate::postgres::sqlstate::{Reaction, is_of_the_cluster, reaction};
use crate::postgres::watch::Watched;
use crate::postgres::{Canceller, ServerError, Session};
use crate::route::{CopyTable, Endpoint, Guard, ShardTable};

/// Bytes per CopyData message. tokio-postgres copies each into a buffer that stays as large as the largest, and
/// sends each by itself; below 128 KiB that begins to cost.
const MESSAGE_BYTES: usize = 256 * 1024;

/// A transaction is one block. This only ends transactions of a client that has vanished; with an HNSW
/// index present a block can take minutes.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// SQLSTATE `internal_error`.
const INTERNAL: &str = "XX000";

/// Writes blocks to one endpoint.
pub struct Writer {
    session: Session,
    endpoint: Arc<Endpoint>,
    run: Run,
    source_ids: Arc<[i64]>,
    /// What is prepared for each table that blocks have gone into.
    prepared: HashMap<usize, PreparedTable>,
    /// Places that blocks were of.
    places: HashSet<usize>,
    /// Where blocks go into shards.
    guards: Option<PreparedGuards>,
    /// The table of the block in hand.
    current: usize,
    /// COMMIT was sent for the block in hand.
    commit_sent: AtomicBool,
    /// A COPY was refused before it began. tokio-postgres has sent one Sync too many then, and takes the answer to it
    /// for that to the next statement (rust-postgres pull request 1337).
    out_of_step: AtomicBool,
}

/// Statements for the blocks of one table.
struct PreparedTable {
    copy: Statement,
    ledger: BlockLedger,
}

/// Statements that are the same for all shards of an endpoint.
struct PreparedGuards {
    /// What keeps a shard where it is until the end of the transaction.
    guard: Statement,
    /// Whether a shard is where the map has it.
    place: Statement,
}

/// A block that was not acknowledged.
#[derive(Debug)]
pub struct WriteFailure {
    /// What happened.
    pub error: Error,
    /// What the server says against the rows, if it does.
    pub refusal: Option<ServerError>,
}

impl From<Error> for WriteFailure {
    fn from(error: Error) -> Self {
        Self { error, refusal: None }
    }
}

impl Writer {
    /// Prepares a session for an endpoint. With `asynchronous` commits, whoever uses the writer sees to it that they
    /// become durable.
    pub async fn prepare(
        session: Session,
        endpoint: Arc<Endpoint>,
        run: Run,
        source_ids: Arc<[i64]>,
        asynchronous: bool,
    ) -> Result<Self> {
        // A role or database may have switched durable commits off; what is reported as loaded must survive a crash.
        let commits = match asynchronous {
            true => "select set_config('synchronous_commit', 'off', false)",
            false => {
                "select set_config('synchronous_commit', 'on', false)
                where current_setting('synchronous_commit') = 'off'"
            }
        };
        let failed = |error| session.error("set up a writer's session", error);
        session.query(commits, &[]).await.map_err(failed)?;
        session.batch_execute(&endpoint.settings).await.map_err(failed)?;
        let guards = match endpoint.tables.first() {
            Some(CopyTable { shard: Some(ShardTable { guard, .. }), .. }) => {
                let guard = match guard {
                    Guard::Lock => ShardTable::LOCK_SQL,
                    Guard::EmptyCopy(sql) => sql,
                };
                let guard = session.prepare(guard).await.map_err(failed)?;
                Some(PreparedGuards {
                    guard,
                    place: session.prepare(ShardTable::PLACE_SQL).await.map_err(failed)?,
                })
            }
            _ => None,
        };
        let prepared = HashMap::new();
        let (commit_sent, out_of_step) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut writer = Self {
            session,
            endpoint,
            run,
            source_ids,
            prepared,
            places: HashSet::new(),
            guards,
            current: 0,
            commit_sent,
            out_of_step,
        };
        // A right that is missing shows before anything is read.
        if writer.endpoint.tables.len() == 1 {
            writer.turn_to(0).await?;
        }
        Ok(writer)
    }

    /// Readies the statements for a table.
    async fn turn_to(&mut self, index: usize) -> Result<()> {
        self.current = index;
        if self.prepared.contains_key(&index) {
            return Ok(());
        }
        let table = &self.endpoint.tables[index];
        let failed = |error| of_shard(table, format!("prepare COPY into {}", table.table), error);
        let copy = self.session.prepare(&table.copy_sql).await.map_err(failed)?;
        let ledger =
            BlockLedger::prepare(&self.session, self.run, Arc::clone(&self.source_ids), table).await?;
        self.prepared.insert(index, PreparedTable { copy, ledger });
        Ok(())
    }

    /// Whether it has had a block of this place.
    pub fn knows(&self, place: usize) -> bool {
        self.places.contains(&place)
    }

    fn table(&self) -> &CopyTable {
        &self.endpoint.tables[self.current]
    }

    fn prepared(&self) -> Result<&PreparedTable> {
        self.prepared.get(&self.current).ok_or_else(|| Error::bug("a table that nothing is prepared for"))
    }

    /// Copies and records one block under a number of its own in one transaction, with the rows that were taken out
    /// of it because the server refuses them.
    ///
    /// After an error the transaction is rolled back if the session still is; if not, the server rolls back unless
    /// [`commit_was_sent`](Self::commit_was_sent): then only the ledger knows.
    pub async fn write(
        &mut self,
        held: &HeldBlock,
        rejects: &[RefusedRow],
        number: i32,
        watched: &Watched,
    ) -> Result<(), WriteFailure> {
        self.commit_sent.store(false, Ordering::Relaxed);
        watched.beat();
        self.places.insert(held.place);
        self.turn_to(self.endpoint.table_of(held.place)).await?;
        let block = &held.block;
        let failure = match self.transact(block, rejects, number, watched).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        self.roll_back().await;
        Err(failure)
    }

    /// After a failure, which is what is reported; a session that can't roll back is no longer used.
    async fn roll_back(&self) {
        if self.is_lost() {
            return;
        }
        if let Err(rollback) = self.session.batch_execute("rollback").await {
            tracing::debug!("rollback after a failed block: {rollback}");
        }
    }

    /// Whether the last block's COMMIT was sent, so that an error leaves it open whether it took place.
    pub fn commit_was_sent(&self) -> bool {
        self.commit_sent.load(Ordering::Relaxed)
    }

    /// Whether the session is gone, or of no use any more.
    pub fn is_lost(&self) -> bool {
        self.session.is_closed() || self.out_of_step.load(Ordering::Relaxed)
    }

    /// The session, between blocks.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn transact(
        &self,
        block: &CopyBlock,
        rejects: &[RefusedRow],
        number: i32,
        watched: &Watched,
    ) -> Result<(), WriteFailure> {
        let PreparedTable { copy, ledger } = self.prepared()?;
        self.execute("begin").await?;
        self.guard(watched).await?;
        // Hashed right before it is copied into a message: each read of a block that left the caches costs.
        let mut checksum = XxHash3_64::new();
        let tuples = block.segments.iter().cloned().inspect(|segment| checksum.write(segment));
        let copied = self.copy(copy, message_parts(tuples), watched).await?;
        if copied != block.rows {
            let error = Error::failed(format!(
                "COPY a block of {} rows into {}: the server took {copied} rows",
                block.rows, self.table().table
            ))
            .hint(
                "a trigger or rule on the table drops rows; disable it for the load, or leave those rows out of \
                 the source",
            );
            return Err(error.into());
        }
        if self.table().has_deferrable {
            self.execute("set constraints all immediate").await?;
        }
        fail::fail_point!("block-copied", crate::fault::die);
        ledger.record(&self.session, block, checksum.finish(), rejects, number).await?;
        fail::fail_point!("block-recorded", crate::fault::die);
        watched.beat();
        self.commit_sent.store(true, Ordering::Relaxed);
        self.execute("commit").await?;
        fail::fail_point!("block-committed", crate::fault::die);
        Ok(())
    }

    /// Keeps the shard of the block in hand where it is until the end of the transaction.
    async fn guard(&self, watched: &Watched) -> Result<(), WriteFailure> {
        let Some(ShardTable { shard, guard, .. }) = &self.table().shard else { return Ok(()) };
        let Some(prepared) = &self.guards else { return Err(Error::bug("no guard is prepared").into()) };
        match guard {
            Guard::Lock => {
                self.session
                    .query(&prepared.guard, &[&shard.id])
                    .await
                    .map_err(|error| self.failure(error))?;
            }
            Guard::EmptyCopy(_) => {
                self.copy(&prepared.guard, message_parts(std::iter::empty()), watched).await?;
            }
        }
        // The table may be there still after a move, with old rows that refuse new ones.
        let here = self
            .session
            .query_one(&prepared.place, &[&shard.id, &self.table().target, &shard.low, &shard.high])
            .await
            .map_err(|error| self.failure(error))?;
        match here.get(0) {
            true => Ok(()),
            false => {
                let error = Error::failed(format!("{} is not where it was", self.table().table))
                    .hint(
                        "it was moved or split: run the same command again; standard input goes by --route coordinator",
                    );
                Err(error.misrouted().into())
            }
        }
    }

    /// Sends the data of one COPY; tells how many rows the server took.
    async fn copy(
        &self,
        copy: &Statement,
        data: impl IntoIterator<Item = Bytes>,
        watched: &Watched,
    ) -> Result<u64, WriteFailure> {
        let sink = self.session.copy_in::<_, Message>(copy).await.map_err(|error| {
            self.out_of_step.store(true, Ordering::Relaxed);
            // The server has seen no row that could be at fault.
            WriteFailure { refusal: None, ..self.failure(error) }
        })?;
        let mut sink = pin!(sink);
        for message in Messages::new(data.into_iter(), MESSAGE_BYTES) {
            watched.beat();
            // `feed` hands the message over without waiting until it is on the wire.
            if sink.feed(message).await.is_err() {
                // The connection task has the server's reason; finishing asks for it.
                return match sink.finish().await {
                    Err(error) => Err(self.failure(error)),
                    Ok(_) => Err(Error::failed(format!(
                        "COPY into {}: the server ended it early",
                        self.table().table
                    ))
                    .into()),
                };
            }
        }
        let copied = sink.finish().await.map_err(|error| self.failure(error))?;
        watched.beat();
        Ok(copied)
    }

    async fn execute(&self, sql: &str) -> Result<(), WriteFailure> {
        self.session.batch_execute(sql).await.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: tokio_postgres::Error) -> WriteFailure {
        let table = self.table();
        let refusal = ServerError::of(&error).filter(|server| {
            // Citus passes on what a worker says during a COPY as an internal error, be it about a row or not.
            let is_passed_on = table.insert_sql.is_some()
                && server.code == INTERNAL
                && !is_of_the_cluster(&server.code, &server.message);
            reaction(&server.code) == Reaction::Isolate || is_passed_on
        });
        // What guards a shard does not know it either once it has moved or was split.
        let is_moved = table.shard.is_some()
            && (error.code() == Some(&SqlState::UNDEFINED_TABLE)
                || error.as_db_error().is_some_and(|error| error.message().contains("for shard")));
        let error = self.session.error(format!("COPY into {}", table.table), error);
        WriteFailure { refusal, error: if is_moved { error.misrouted() } else { error } }
    }

    /// The means to cancel what the writer is doing.
    pub fn canceller(&self) -> Canceller {
        self.session.canceller()
    }

    /// Ends the session.
    pub async fn close(self) {
        self.session.close().await;
    }
}

/// The data of a COPY: its header, tuples and its end.
fn message_parts(tuples: impl Iterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let header = std::iter::once(Bytes::from_static(HEADER));
    header.chain(tuples).chain(std::iter::once(Bytes::from_static(TRAILER)))
}
