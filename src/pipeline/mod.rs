//! The wiring: every queue, thread and task of a load is made here.
//!
//! ```text
//!  feeder: parts (lanes)   lanes: OS threads                          writers: one connection each
//!  ─────▶ crossbeam ─────▶ reader → batcher → partitioner ─┬─▶ blocks (2 × writers) ─▶ BEGIN; COPY; ledger; COMMIT
//!                          ids (2 requests ahead) ──▲       └─▶ rejects (16 slices) ─▶ one connection
//! ```
//!
//! Bytes in flight are bounded by two budgets: one for what lanes read, one for encoded rows from the
//! partitioner until their commit. A queue's length bounds how far stages run apart, never memory.

pub mod counters;
pub mod feed;
mod finish;
pub mod ids;
mod indexes;
pub mod interrupts;
pub mod lane;
pub mod load;
pub mod observer;
pub mod opened;
pub mod plan;
pub mod preflight;
mod reading;
pub mod stop;
pub mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, channel};

use self::counters::Counters;
use self::feed::{Extents, FeedSource, Feeder};
use self::ids::IdPool;
use self::lane::LaneContext;
use self::plan::LoadPlan;
use self::stop::Stop;
use self::verdict::RejectLimit;
use crate::error::{Context, Error, Result};
use crate::ledger::blocks::{BlockLedger, Run};
use crate::ledger::coverage::Coverage;
use crate::ledger::rejects::{self, RejectSlice};
use crate::memory::Budget;
use crate::partition::{HeldBlock, OpenBlocks, Partitioner, Partitions};
use crate::postgres::{ConnectSettings, Session, SessionOptions};
use crate::route::Endpoint;
use crate::writer::{TRANSACTION_TIMEOUT, Writer};

/// A block in hand is given so long to commit when the load stops; with an HNSW index present it could take
/// minutes, and is then rolled back.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Slices of rejects on their way to the ledger; a slice is at most a batch.
const REJECT_QUEUE: usize = 16;

/// Rejects recorded in one transaction.
const REJECTS_PER_TRANSACTION: usize = 1000;

/// How `--memory` is divided.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// What lanes read: pages, units of text.
    pub lanes: Budget,
    /// Batches of text.
    pub text: Budget,
    /// Encoded rows.
    pub blocks: Budget,
}

/// One attempt at a load: from the plan and what the ledger has, until all rows are in or something stops it.
pub struct Attempt {
    /// The plan.
    pub plan: Arc<LoadPlan>,
    /// The run that blocks are recorded under.
    pub run: Run,
    /// What earlier runs left of each source.
    pub sources: Vec<FeedSource>,
    /// What earlier runs committed, per source.
    pub coverage: Arc<[Coverage]>,
    /// All of each source, told as it becomes known.
    pub extents: Extents,
    /// `--max-rejects`, with what earlier runs rejected.
    pub limit: Arc<RejectLimit>,
    /// The books.
    pub counters: Arc<Counters>,
    /// The way to the server.
    pub connect: ConnectSettings,
}

impl Attempt {
    /// The budgets of an attempt.
    pub fn budgets(plan: &LoadPlan) -> Budgets {
        Budgets {
            lanes: Budget::new(plan.lane_memory()),
            text: Budget::new(plan.text_memory()),
            blocks: Budget::new(plan.block_memory()),
        }
    }

    /// Runs the attempt to its end. `stop` is the way to end it early, from outside as from inside.
    pub async fn execute(self, stop: Arc<Stop>, budgets: Budgets) -> Result<()> {
        let (endpoint, _) = Endpoint::of(&self.plan.target, &self.plan.copy_columns);
        let label = format!("vecload load {}", self.run.load_id);

        let source_ids: Arc<[i64]> = self.sources.iter().map(|source| source.source_id).collect();
        // Sessions first: nothing is read before there is somewhere for it to go. A server takes its time to start
        // one, so they are all started at once.
        let writer_count = self.plan.settings.writers;
        let writers = try_join_all((1..=writer_count).map(async |number| {
            let session = self.session(&format!("{label} writer {number}")).await?;
            let ledger = BlockLedger::prepare(&session, self.run, Arc::clone(&source_ids)).await?;
            Writer::prepare(session, endpoint.clone(), ledger).await
        }));
        let units_session = async {
            match self.plan.sources.iter().any(|source| source.extent().is_none()) {
                true => self.session(&format!("{label} units")).await.map(Some),
                false => Ok(None),
            }
        };
        let rejects_name = format!("{label} rejects");
        let (writers, ids, reject_session, units_session) =
            tokio::try_join!(writers, self.start_ids(&label), self.session(&rejects_name), units_session)?;

        let (block_sender, block_receiver) = channel::<HeldBlock>(2 * writer_count);
        let (reject_sender, reject_receiver) = channel::<RejectSlice>(REJECT_QUEUE);
        let block_receiver = Arc::new(Mutex::new(block_receiver));
        let block_numbers = Arc::new(AtomicI32::new(0));
        let mut tasks = Vec::with_capacity(writer_count + 1);
        for writer in writers {
            let (blocks, numbers) = (Arc::clone(&block_receiver), Arc::clone(&block_numbers));
            let (counters, stop) = (Arc::clone(&self.counters), Arc::clone(&stop));
            tasks.push(tokio::spawn(write_blocks(writer, blocks, numbers, counters, stop)));
        }
        let load_id = self.run.load_id;
        tasks.push(tokio::spawn(write_rejects(
            reject_session,
            load_id,
            source_ids,
            reject_receiver,
            Arc::clone(&stop),
        )));
        // Only writers hold the receiver now: when the last has gone, lanes notice.
        drop(block_receiver);

        let (work_sender, work) = crossbeam_channel::bounded(self.plan.settings.lanes);
        let feeder = Feeder {
            plan: Arc::clone(&self.plan),
            run: Some(self.run),
            sources: self.sources,
            coverage: Arc::clone(&self.coverage),
            extents: self.extents,
            work: work_sender,
            lane_memory: budgets.lanes.clone(),
            session: units_session,
            counters: Arc::clone(&self.counters),
            stop: Arc::clone(&stop),
            window_bytes: AtomicUsize::new(0),
            runtime: Handle::current(),
        };
        let open = Arc::new(OpenBlocks::new(self.plan.partitions(), self.plan.block_bytes()));
        let context = Arc::new(LaneContext {
            partitioner: Partitioner {
                partitions: Partitions::even(self.plan.partitions()),
                fields: self.plan.fields.clone(),
                half: self.plan.half,
            },
            plan: Arc::clone(&self.plan),
            coverage: self.coverage,
            work,
            open: Arc::clone(&open),
            blocks: block_sender.clone(),
            rejects: reject_sender,
            ids,
            lane_memory: budgets.lanes,
            text_memory: budgets.text,
            block_memory: budgets.blocks,
            limit: self.limit,
            counters: Arc::clone(&self.counters),
            stop: Arc::clone(&stop),
            runtime: Handle::current(),
            open_files: std::sync::Mutex::default(),
        });
        let mut lanes = spawn_lanes(&context, self.plan.settings.lanes)?;
        lanes.push(spawn_feeder(feeder)?);
        drop(context);
        join_lanes(lanes, &stop).await?;

        // What the lanes left in open blocks goes last.
        while !stop.is_stopping() {
            let Some(block) = open.take_fullest() else { break };
            if block_sender.send(block).await.is_err() {
                break;
            }
        }
        drop(block_sender);
        drop(open);
        for task in tasks {
            if let Err(panic) = task.await {
                stop.because(Error::bug("a writer panicked").because(panic));
            }
        }
        match stop.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn start_ids(&self, label: &str) -> Result<Option<Arc<IdPool>>> {
        let Some(ids) = &self.plan.ids else { return Ok(None) };
        let session = self.session(&format!("{label} ids")).await?;
        let rows = self.plan.rows().unwrap_or(u64::MAX);
        Ok(Some(IdPool::start(session, ids.sequence.clone(), ids.width, rows)))
    }

    async fn session(&self, name: &str) -> Result<Session> {
        let options = SessionOptions {
            application_name: Some(name.into()),
            transaction_timeout: Some(TRANSACTION_TIMEOUT),
        };
        self.connect.connect(&options).await.map_err(|error| error.with_kind(crate::error::Kind::Failed))
    }
}

fn spawn_lanes(context: &Arc<LaneContext>, count: usize) -> Result<Vec<thread::JoinHandle<()>>> {
    let spawn = |number: usize| {
        let context = Arc::clone(context);
        thread::Builder::new()
            .name(format!("lane-{number}"))
            .spawn(move || {
                if let Err(error) = context.run() {
                    context.stop.because(error);
                }
            })
            .or_failed(|| format!("start the thread of lane {number}"))
    };
    (1..=count).map(spawn).collect()
}

fn spawn_feeder(feeder: Feeder) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name("feeder".into())
        .spawn(move || {
            if let Err(error) = feeder.run() {
                feeder.stop.because(error);
            }
        })
        .or_failed(|| "start the thread of the feeder".into())
}

async fn join_lanes(lanes: Vec<thread::JoinHandle<()>>, stop: &Arc<Stop>) -> Result<()> {
    let stop = Arc::clone(stop);
    let joined = tokio::task::spawn_blocking(move || {
        for lane in lanes {
            if lane.join().is_err() {
                stop.because(Error::bug("a lane panicked; its batch was not sent"));
            }
        }
    });
    joined.await.map_err(|error| Error::bug("wait for the lanes").because(error))
}

async fn write_blocks(
    mut writer: Writer,
    blocks: Arc<Mutex<Receiver<HeldBlock>>>,
    numbers: Arc<AtomicI32>,
    counters: Arc<Counters>,
    stop: Arc<Stop>,
) {
    loop {
        let waiting = Instant::now();
        let next = async { blocks.lock().await.recv().await };
        // A block in hand is finished; one still in the queue when the load stops is left to the next run.
        let block = tokio::select! {
            biased;
            () = stop.stopping() => None,
            block = next => block,
        };
        counters.write.waited(waiting.elapsed());
        let Some(HeldBlock { block, held }) = block else {
            break;
        };
        let canceller = writer.canceller();
        let give_up = async {
            stop.stopping().await;
            tokio::time::sleep(STOP_GRACE).await;
            if let Err(error) = canceller.cancel().await {
                tracing::debug!("cancel a writer: {error}");
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        let written = tokio::select! {
            written = writer.write(&block, &numbers) => written,
            never = give_up => match never {},
        };
        match written {
            Ok(committed) => counters.write.worked(block.rows, block.bytes as u64, committed.busy),
            Err(error) => {
                stop.because(error);
                break;
            }
        }
        drop((block, held));
    }
    writer.close().await;
}

async fn write_rejects(
    mut session: Session,
    load_id: i64,
    source_ids: Arc<[i64]>,
    mut slices: Receiver<RejectSlice>,
    stop: Arc<Stop>,
) {
    // Until the lanes have gone, even when the load is stopping: a reject that was found is kept.
    while let Some(first) = slices.recv().await {
        let mut pending = vec![first];
        while pending.iter().map(|slice| slice.rejects.len()).sum::<usize>() < REJECTS_PER_TRANSACTION {
            let Ok(slice) = slices.try_recv() else { break };
            pending.push(slice);
        }
        if let Err(error) = rejects::record(&mut session, load_id, &source_ids, &pending).await {
            stop.because(error);
            break;
        }
    }
    session.close().await;
}
