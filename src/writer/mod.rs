//! A writer: one connection that takes whole blocks and commits each with its ledger row.
//!
//! The transaction opens with the block in hand, so no open transaction ever waits for the pipeline.

use std::pin::pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Statement;

use crate::copy::{CopyBlock, HEADER, TRAILER};
use crate::error::{Error, Result};
use crate::ledger::blocks::BlockLedger;
use crate::postgres::{Canceller, Session};
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
}

/// What a committed block took.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    /// From BEGIN until COMMIT was answered.
    pub busy: Duration,
}

impl Writer {
    /// Prepares a session for an endpoint.
    pub async fn prepare(session: Session, endpoint: Endpoint, ledger: BlockLedger) -> Result<Self> {
        // A role or database may have switched it off; what is reported as loaded must survive a crash.
        let durable = "select set_config('synchronous_commit', 'on', false)
            where current_setting('synchronous_commit') = 'off'";
        session
            .query(durable, &[])
            .await
            .map_err(|error| session.error("set up a writer's session", error))?;
        let copy = session.prepare(&endpoint.copy_sql).await;
        let copy =
            copy.map_err(|error| session.error(format!("prepare COPY into {}", endpoint.table), error))?;
        Ok(Self { session, copy, endpoint, ledger })
    }

    /// Copies and records one block in one transaction. After an error the transaction is rolled back, or
    /// its connection is gone and the server rolls back.
    pub async fn write(&mut self, block: &CopyBlock, numbers: &AtomicI32) -> Result<Committed> {
        let started = Instant::now();
        let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
        match self.transact(block, number).await {
            Ok(()) => Ok(Committed { busy: started.elapsed() }),
            Err(error) => {
                // The error that is reported is the first; a session that can't roll back is dropped by the caller.
                if let Err(rollback) = self.session.batch_execute("rollback").await {
                    tracing::debug!("rollback after a failed block: {rollback}");
                }
                Err(error)
            }
        }
    }

    async fn transact(&self, block: &CopyBlock, number: i32) -> Result<()> {
        let session = &self.session;
        let copying = || format!("COPY a block of {} rows into {}", block.rows, self.endpoint.table);
        let failed = |error| session.error(copying(), error);
        session.batch_execute("begin").await.map_err(failed)?;
        let sink = session.copy_in::<_, Bytes>(&self.copy).await.map_err(failed)?;
        let mut sink = pin!(sink);
        let header = std::iter::once(Bytes::from_static(HEADER));
        let trailer = std::iter::once(Bytes::from_static(TRAILER));
        for part in header.chain(block.segments.iter().cloned()).chain(trailer) {
            for start in (0..part.len()).step_by(MESSAGE_BYTES) {
                let message = part.slice(start..part.len().min(start + MESSAGE_BYTES));
                // `feed` hands the message over without waiting until it is on the wire.
                if sink.feed(message).await.is_err() {
                    // The connection task has the server's reason; finishing asks for it.
                    return Err(match sink.finish().await {
                        Err(error) => failed(error),
                        Ok(_) => Error::failed(format!("{}: the server ended the COPY early", copying())),
                    });
                }
            }
        }
        let copied = sink.finish().await.map_err(failed)?;
        if copied != block.rows {
            return Err(Error::failed(format!("{}: the server took {copied} rows", copying()))
                .hint(
                    "a trigger or rule on the table drops rows; disable it for the load, or leave those rows out of \
                     the source",
                ));
        }
        if self.endpoint.has_deferrable {
            session.batch_execute("set constraints all immediate").await.map_err(failed)?;
        }
        fail::fail_point!("block-copied", crate::fault::die);
        self.ledger.record(session, block, number).await?;
        fail::fail_point!("block-recorded", crate::fault::die);
        session
            .batch_execute("commit")
            .await
            .map_err(|error| session.error(format!("commit {}", copying()), error))?;
        fail::fail_point!("block-committed", crate::fault::die);
        Ok(())
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
