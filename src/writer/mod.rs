//! A writer: one connection that takes whole blocks and commits each with its ledger row.
//!
//! The transaction opens with the block in hand, so no open transaction ever waits for the pipeline.

mod isolate;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Statement;

pub use self::isolate::RefusedTuple;
use crate::copy::{CopyBlock, HEADER, TRAILER};
use crate::error::{Error, Result};
use crate::ledger::blocks::BlockLedger;
use crate::ledger::rejects::RefusedRow;
use crate::postgres::sqlstate::{Reaction, reaction};
use crate::postgres::watch::Watched;
use crate::postgres::{Canceller, ServerError, Session};
use crate::route::Endpoint;

/// Bytes per CopyData message. tokio-postgres copies each into a buffer that stays as large as the largest;
/// below 64 KiB system calls begin to cost.
const MESSAGE_BYTES: usize = 256 * 1024;

/// A transaction is one block. This only ends transactions of a client that has vanished; with an HNSW
/// index present a block can take minutes.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Writes blocks to one endpoint.
pub struct Writer {
    session: Session,
    copy: Statement,
    endpoint: Endpoint,
    ledger: BlockLedger,
    /// COMMIT was sent for the block in hand.
    commit_sent: AtomicBool,
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
        endpoint: Endpoint,
        ledger: BlockLedger,
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
        session
            .query(commits, &[])
            .await
            .map_err(|error| session.error("set up a writer's session", error))?;
        let copy = session.prepare(&endpoint.copy_sql).await;
        let copy =
            copy.map_err(|error| session.error(format!("prepare COPY into {}", endpoint.table), error))?;
        Ok(Self { session, copy, endpoint, ledger, commit_sent: AtomicBool::new(false) })
    }

    /// Copies and records one block under a number of its own in one transaction, with the rows that were taken out
    /// of it because the server refuses them.
    ///
    /// After an error the transaction is rolled back if the session still is; if not, the server rolls back unless
    /// [`commit_was_sent`](Self::commit_was_sent): then only the ledger knows.
    pub async fn write(
        &mut self,
        block: &CopyBlock,
        rejects: &[RefusedRow],
        number: i32,
        watched: &Watched,
    ) -> Result<(), WriteFailure> {
        self.commit_sent.store(false, Ordering::Relaxed);
        let failure = match self.transact(block, rejects, number, watched).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        // The error that is reported is the first; a session that can't roll back is no longer used.
        if let Err(rollback) = self.session.batch_execute("rollback").await {
            tracing::debug!("rollback after a failed block: {rollback}");
        }
        Err(failure)
    }

    /// Whether the last block's COMMIT was sent, so that an error leaves it open whether it took place.
    pub fn commit_was_sent(&self) -> bool {
        self.commit_sent.load(Ordering::Relaxed)
    }

    /// Whether the session is gone.
    pub fn is_lost(&self) -> bool {
        self.session.is_closed()
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
        watched.beat();
        self.execute("begin").await?;
        let header = std::iter::once(Bytes::from_static(HEADER));
        let trailer = std::iter::once(Bytes::from_static(TRAILER));
        let copied = self.copy(header.chain(block.segments.iter().cloned()).chain(trailer), watched).await?;
        if copied != block.rows {
            let error = Error::failed(format!(
                "COPY a block of {} rows into {}: the server took {copied} rows",
                block.rows, self.endpoint.table
            ))
            .hint(
                "a trigger or rule on the table drops rows; disable it for the load, or leave those rows out of \
                 the source",
            );
            return Err(error.into());
        }
        if self.endpoint.has_deferrable {
            self.execute("set constraints all immediate").await?;
        }
        fail::fail_point!("block-copied", crate::fault::die);
        self.ledger.record(&self.session, block, rejects, number).await?;
        fail::fail_point!("block-recorded", crate::fault::die);
        watched.beat();
        self.commit_sent.store(true, Ordering::Relaxed);
        self.execute("commit").await?;
        fail::fail_point!("block-committed", crate::fault::die);
        Ok(())
    }

    /// Sends the data of one COPY; tells how many rows the server took.
    async fn copy(
        &self,
        data: impl IntoIterator<Item = Bytes>,
        watched: &Watched,
    ) -> Result<u64, WriteFailure> {
        let sink = self.session.copy_in::<_, Bytes>(&self.copy).await.map_err(|error| self.failure(error))?;
        let mut sink = pin!(sink);
        for part in data {
            for start in (0..part.len()).step_by(MESSAGE_BYTES) {
                let message = part.slice(start..part.len().min(start + MESSAGE_BYTES));
                watched.beat();
                // `feed` hands the message over without waiting until it is on the wire.
                if sink.feed(message).await.is_err() {
                    // The connection task has the server's reason; finishing asks for it.
                    return match sink.finish().await {
                        Err(error) => Err(self.failure(error)),
                        Ok(_) => Err(Error::failed(format!(
                            "COPY into {}: the server ended it early",
                            self.endpoint.table
                        ))
                        .into()),
                    };
                }
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
        WriteFailure {
            refusal: ServerError::of(&error).filter(|server| {
                // Citus passes on what a worker says against a row as an internal error.
                let is_passed_on = self.endpoint.is_distributed && server.code == "XX000";
                reaction(&server.code) == Reaction::Isolate || is_passed_on
            }),
            error: self.session.error(format!("COPY into {}", self.endpoint.table), error),
        }
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
