//! A lane: one thread that takes units and turns each batch into segments of the open blocks.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::counters::{Counters, Stage};
use super::feed::Work;
use super::ids::IdPool;
use super::plan::LoadPlan;
use super::queues::BlockQueues;
use super::stop::Stop;
use super::verdict::RejectLimit;
use super::writing::Rejected;
use crate::batch::ChunkBatch;
use crate::copy::IdRange;
use crate::error::{Error, Result};
use crate::ledger::coverage::Coverage;
use crate::ledger::rejects::RejectSlice;
use crate::memory::{Budget, Denied, Reservation};
use crate::partition::{HeldBlock, OpenBlocks, Origins, Partitioner};
use crate::route::Routing;
use crate::source::SourceBatch;
use crate::source::parquet::ParquetFile;

/// Another lane may have filled an open block after this one had looked for blocks to seal; so a wait for
/// memory looks again now and then.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What all lanes of an attempt share.
pub struct LaneContext {
    /// The plan.
    pub plan: Arc<LoadPlan>,
    /// What earlier runs committed, per source of the plan.
    pub coverage: Arc<[Coverage]>,
    /// What is to be read.
    pub work: Receiver<Work>,
    /// Encodes batches.
    pub partitioner: Partitioner,
    /// Blocks being filled.
    pub open: Arc<OpenBlocks>,
    /// Sealed blocks, to the writers.
    pub blocks: BlockQueues,
    /// Encoded rows for which memory is asked for at once.
    pub piece_bytes: usize,
    /// Where blocks go.
    pub routing: Arc<Routing>,
    /// Rejects, to their writer.
    pub rejects: Sender<Rejected>,
    /// Ids, if they are reserved.
    pub ids: Option<Arc<IdPool>>,
    /// Memory of pages and batches.
    pub lane_memory: Budget,
    /// Memory of batches of text.
    pub text_memory: Budget,
    /// Memory of segments.
    pub block_memory: Budget,
    /// `--max-rejects`.
    pub limit: Arc<RejectLimit>,
    /// The books.
    pub counters: Arc<Counters>,
    /// The end, if it comes early.
    pub stop: Arc<Stop>,
    /// The runtime that the writers live in.
    pub runtime: Handle,
    /// Sources that lanes have open.
    pub open_files: Mutex<OpenFiles>,
}

/// Files of which lanes read parts.
#[derive(Debug, Default)]
pub struct OpenFiles {
    pub(super) by_source: HashMap<usize, Weak<ParquetFile>>,
    /// Kept between two parts of it: parts come in the order of the sources.
    pub(super) newest: Option<Arc<ParquetFile>>,
}

impl LaneContext {
    /// Reads parts until there are none or the load stops.
    pub fn run(&self) -> Result<()> {
        while !self.stop.is_stopping() {
            let Ok(work) = self.work.recv() else { break };
            let Some(mut part) = self.open(work)? else { break };
            loop {
                let started = Instant::now();
                let Some(batch) = part.next_batch()? else { break };
                let bytes = part.stored_bytes(&batch);
                self.counters.read.worked(batch.rows as u64, bytes, started.elapsed());
                let values = self.take_batch(batch)?;
                part.recycle(values);
                if self.stop.is_stopping() {
                    break;
                }
            }
            part.close(self)?;
        }
        Ok(())
    }

    /// Checks, encodes and hands on one batch; gives its buffer back.
    fn take_batch(&self, batch: SourceBatch) -> Result<Vec<f32>> {
        let started = Instant::now();
        let source = &self.plan.sources[batch.origin.source];
        let mut chunk = source.batcher.accept(batch)?;
        let skipped = self.coverage[chunk.origin.source].retain_new(&mut chunk);
        self.counters.batch.worked(chunk.source_rows as u64, 0, started.elapsed());
        self.counters.skipped.fetch_add(skipped, Ordering::Relaxed);
        self.counters.zero_vectors.fetch_add(chunk.zero_vectors, Ordering::Relaxed);
        self.hand_over_rejects(&mut chunk, skipped)?;

        for piece in self.partitioner.pieces(&chunk, self.piece_bytes) {
            self.encode(&chunk, &piece)?;
        }
        Ok(chunk.embeddings.values)
    }

    /// Encodes a piece of a batch into the open blocks.
    fn encode(&self, chunk: &ChunkBatch, piece: &Range<u32>) -> Result<()> {
        let started = Instant::now();
        let shares = self.partitioner.split(chunk, piece);
        let rows: usize = shares.iter().map(|share| share.rows.len()).sum();
        let mut busy = started.elapsed();
        let waiting = Instant::now();
        let mut ids = match &self.ids {
            Some(pool) => pool.take(rows as u64)?,
            None => Vec::new(),
        };
        self.counters.partition.waited(waiting.elapsed());
        for share in shares {
            let origin_bytes = share.rows.len() * Origins::row_bytes(!chunk.positions.is_empty());
            let Some(held) = self.reserve_for(share.bytes + origin_bytes)? else { break };
            let started = Instant::now();
            let own = cut_ids(&mut ids, share.rows.len() as i64 * i64::from(self.ids.is_some()));
            let segment = self.partitioner.encode(chunk, &share, own)?;
            let bytes = segment.tuples.len() as u64;
            let origins = self.partitioner.origins(chunk, &share);
            let sealed = self.open.push(self.routing.place_of[share.partition], segment, origins, held);
            self.counters.partition.worked(share.rows.len() as u64, bytes, busy + started.elapsed());
            busy = Duration::ZERO;
            if let Some(block) = sealed {
                self.send(block);
            }
        }
        Ok(())
    }

    /// Rows that earlier runs committed or rejected are in the limit's count already.
    fn hand_over_rejects(&self, chunk: &mut ChunkBatch, skipped: u64) -> Result<()> {
        let checked = chunk.source_rows as u64 - skipped;
        if chunk.rejects.is_empty() {
            return self.limit.note(checked, 0, String::new);
        }
        let rejects = std::mem::take(&mut chunk.rejects);
        self.counters.rejected.fetch_add(rejects.len() as u64, Ordering::Relaxed);
        let source = &self.plan.sources[chunk.origin.source];
        let count = rejects.len() as u64;
        let first = rejects[0].clone();
        let slice = RejectSlice {
            source: chunk.origin.source,
            unit: chunk.origin.unit,
            first_row: chunk.origin.first_row,
            last_row: chunk.origin.first_row + chunk.source_rows as u64 - 1,
            rejects,
        };
        // Recorded first: the reject that stops a load is kept too.
        let sent = self.rejects.blocking_send(Rejected::Slice(slice));
        if sent.is_err() && !self.stop.is_stopping() {
            return Err(Error::bug("the writer of rejects ended before the lanes"));
        }
        self.limit.note(checked, count, || format!("{}, {}", source.place, first.told(chunk.origin.unit)))
    }

    /// Memory for a segment; when it is short, the fullest open block goes out first.
    fn reserve_for(&self, bytes: usize) -> Result<Option<Reservation>> {
        if let Some(held) = self.block_memory.try_reserve(bytes) {
            return Ok(Some(held));
        }
        self.reserve(&self.block_memory, bytes, &self.counters.partition, || {
            if let Some(block) = self.open.take_fullest() {
                self.send(block);
            }
        })
    }

    /// Waits for memory; `make_room` is called before each wait. `None` when the load is stopping.
    pub(super) fn reserve(
        &self,
        budget: &Budget,
        bytes: usize,
        stage: &Stage,
        make_room: impl Fn(),
    ) -> Result<Option<Reservation>> {
        let started = Instant::now();
        let outcome = loop {
            make_room();
            // The timer is made inside the runtime.
            let wait = async { tokio::time::timeout(LOOK_AGAIN, budget.reserve(bytes)).await };
            match self.runtime.block_on(wait) {
                Ok(Ok(held)) => break Ok(Some(held)),
                Ok(Err(Denied::Closed)) => break Ok(None),
                Ok(Err(Denied::TooLarge)) => {
                    break Err(Error::failed(format!(
                        "one batch of rows takes {bytes} bytes, and --memory leaves {} for blocks",
                        budget.total()
                    ))
                    .hint(format!("give --memory {}MiB or more", (bytes * 2).div_ceil(1 << 20) + 1)));
                }
                Err(_elapsed) => {}
            }
        };
        stage.waited(started.elapsed());
        outcome
    }

    fn send(&self, block: HeldBlock) {
        let started = Instant::now();
        // Fails only when the writers have gone, and then the load is stopping and says why.
        if self.blocks.of(block.place).blocking_send(block).is_err() {
            tracing::debug!("a block was dropped: the load is stopping");
        }
        self.counters.partition.waited(started.elapsed());
    }
}

/// Takes `count` ids from the front.
fn cut_ids(ids: &mut Vec<IdRange>, mut count: i64) -> Vec<IdRange> {
    let mut cut = Vec::new();
    while count > 0 && !ids.is_empty() {
        let length = ids[0].last - ids[0].first + 1;
        if length <= count {
            cut.push(ids.remove(0));
            count -= length;
        } else {
            cut.push(IdRange { first: ids[0].first, last: ids[0].first + count - 1 });
            ids[0].first += count;
            count = 0;
        }
    }
    cut
}
