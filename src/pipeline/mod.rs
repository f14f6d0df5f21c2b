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

mod control;
pub mod counters;
pub mod feed;
mod finish;
mod hashing;
pub mod ids;
mod indexes;
pub mod interrupts;
pub mod lane;
pub mod load;
pub mod observer;
pub mod opened;
pub mod plan;
pub mod preflight;
mod prepare;
mod queues;
mod reading;
pub mod request;
pub mod retry;
pub mod routing;
pub mod steady;
pub mod stop;
pub mod verdict;
pub mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize};
use std::thread;

use futures::future::{OptionFuture, try_join, try_join_all};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;

use self::control::Control;
use self::counters::Counters;
use self::feed::{Extents, FeedSource, Feeder, UnderWay};
use self::ids::IdPool;
use self::lane::LaneContext;
use self::plan::LoadPlan;
use self::queues::{BlockQueues, Waiting};
use self::routing::way_to;
use self::steady::{Connector, Steady};
use self::stop::Stop;
use self::verdict::RejectLimit;
use self::writing::{BlockWriter, Rejected, write_rejects};
use crate::error::{Context, Error, Result};
use crate::ledger::blocks::Run;
use crate::ledger::coverage::Coverage;
use crate::ledger::outbox::Outbox;
use crate::memory::Budget;
use crate::partition::{OpenBlocks, Partitioner};
use crate::postgres::watch::Watched;
use crate::route::{Endpoint, Route, Routing};

/// Slices of rejects on their way to the ledger; a slice is at most a batch.
const REJECT_QUEUE: usize = 16;

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
    /// Whether commits may become durable later.
    pub asynchronous: bool,
    /// How its sessions are opened.
    pub connector: Connector,
    /// The ways of its blocks.
    pub routing: Arc<Routing>,
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

    /// Runs the attempt to its end, watched by the control session. The connector's `stop` is the way to end it early,
    /// from outside as from inside.
    async fn execute(self, budgets: Budgets, control: &Control) -> Result<()> {
        let stop = Arc::clone(&self.connector.stop);
        let source_ids: Arc<[i64]> = self.sources.iter().map(|source| source.source_id).collect();
        let (reject_sender, reject_receiver) = channel::<Rejected>(REJECT_QUEUE);
        let sessions = Box::pin(self.open_sessions(&source_ids, &reject_sender, control));
        let (sessions, ()) = try_join(sessions, Box::pin(self.let_commit(control))).await?;
        let Sessions { watched, writers, rejects, units } = sessions;
        let pool = self.plan.ids.as_ref().map(|ids| {
            let rows = self.plan.rows().unwrap_or(u64::MAX);
            IdPool::new(ids.sequence.clone(), ids.width, rows, Arc::clone(&stop))
        });
        let (ids, filling) = pool.unzip();

        let (blocks, tasks) = self.spawn_writers(writers);
        let rejects = write_rejects(rejects, self.run, source_ids, reject_receiver, Arc::clone(&stop));

        let (work_sender, work) = crossbeam_channel::bounded(self.plan.settings.lanes);
        let feeder = Feeder {
            plan: Arc::clone(&self.plan),
            run: Some(self.run),
            sources: self.sources,
            coverage: Arc::clone(&self.coverage),
            extents: self.extents,
            work: work_sender,
            lane_memory: budgets.lanes.clone(),
            session: units.map(Mutex::new),
            unrecorded: Default::default(),
            counters: Arc::clone(&self.counters),
            stop: Arc::clone(&stop),
            window_bytes: AtomicUsize::new(0),
            under_way: UnderWay::default(),
            runtime: Handle::current(),
        };
        let block_bytes = self.plan.block_bytes(&self.routing);
        let open = Arc::new(OpenBlocks::new(self.routing.places(), block_bytes, tasks.len()));
        let context = Arc::new(LaneContext {
            partitioner: Partitioner {
                partitions: self.routing.partitions.clone(),
                fields: self.plan.fields.clone(),
                half: self.plan.half,
            },
            plan: Arc::clone(&self.plan),
            coverage: self.coverage,
            work,
            open: Arc::clone(&open),
            blocks: blocks.clone(),
            piece_bytes: block_bytes / 2,
            routing: Arc::clone(&self.routing),
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
        let work = async {
            join_lanes(lanes, &stop).await?;
            // What the lanes left in open blocks goes last.
            while !stop.is_stopping() {
                let Some(block) = open.take_fullest() else { break };
                if blocks.of(block.place).send(block).await.is_err() {
                    break;
                }
            }
            drop(blocks);
            drop(open);
            for task in tasks {
                if let Err(panic) = task.await {
                    stop.because(Error::bug("a writer panicked").because(panic));
                }
            }
            Ok(())
        };
        let filling = OptionFuture::from(filling.map(|filling| filling.run(control)));
        let (worked, ..) =
            Box::pin(control.keep_while(&watched, async { tokio::join!(work, rejects, filling) })).await;
        worked?;
        match stop.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Lets the run commit on the workers, if that is where its blocks go.
    async fn let_commit(&self, control: &Control) -> Result<()> {
        let (Route::Shards, Some(distribution)) = (self.routing.route, &self.plan.target.citus) else {
            return Ok(());
        };
        let (outbox, channels) = (Outbox::of(distribution), &self.routing.channels);
        control.run(async |session| outbox.let_commit(session, &self.run, channels).await).await
    }

    /// Starts the writers, and makes their queues, one for each endpoint.
    fn spawn_writers(&self, writers: Vec<(usize, BlockWriter)>) -> (BlockQueues, Vec<JoinHandle<()>>) {
        let mut senders = Vec::with_capacity(self.routing.endpoints.len());
        let mut tasks = Vec::with_capacity(writers.len());
        let mut writers = writers;
        for endpoint in 0..self.routing.endpoints.len() {
            let (here, others): (Vec<_>, _) = writers.into_iter().partition(|(of, _)| *of == endpoint);
            writers = others;
            let (sender, waiting) = Waiting::new(here.len(), self.plan.target.citus.is_some());
            // Only writers hold the other end: when the last has gone, lanes notice.
            let waiting = Arc::new(waiting);
            tasks.extend(here.into_iter().map(|(_, writer)| tokio::spawn(writer.run(Arc::clone(&waiting)))));
            senders.push(sender);
        }
        (BlockQueues::new(senders, Arc::clone(&self.routing)), tasks)
    }

    /// An endpoint for each writer, and how it is connected to.
    fn writer_places(&self) -> impl Iterator<Item = (usize, Arc<Endpoint>, Connector)> {
        let each = self.routing.writers_each;
        self.routing.endpoints.iter().enumerate().flat_map(move |(index, endpoint)| {
            let endpoint = Arc::new(endpoint.clone());
            let connect = match &endpoint.node {
                Some(node) => way_to(&self.connector.connect, node),
                None => self.connector.connect.clone(),
            };
            (0..each).map(move |_| {
                let connector = Connector { connect: connect.clone(), ..self.connector.clone() };
                (index, Arc::clone(&endpoint), connector)
            })
        })
    }

    /// Opens all sessions but that for rejects, which few loads have: nothing is read before there is somewhere for it
    /// to go. A server takes its time to start one, so they are all started at once.
    async fn open_sessions(
        &self,
        source_ids: &Arc<[i64]>,
        rejects_queue: &Sender<Rejected>,
        control: &Control,
    ) -> Result<Sessions> {
        let mut watched = Vec::new();
        let mut watch = |entry: Arc<Watched>| {
            watched.push(Arc::clone(&entry));
            entry
        };
        let numbers = Arc::<AtomicI32>::default();
        let places: Vec<(usize, Arc<Endpoint>, Connector)> = self.writer_places().collect();
        let writers =
            try_join_all((1..).zip(places).map(|(number, (endpoint_index, endpoint, connector))| {
                let watched = match &endpoint.node {
                    None => watch(Watched::new(format!("writer {number}"))),
                    Some(node) => watch(Watched::elsewhere(
                        format!("writer {number} on {node}"),
                        connector.connect.clone(),
                    )),
                };
                let rejects = endpoint.node.is_some().then(|| rejects_queue.clone());
                let worker_lost = endpoint.node.is_some().then(|| control.loss());
                let mut writer = BlockWriter {
                    connector,
                    endpoint,
                    run: self.run,
                    source_ids: Arc::clone(source_ids),
                    asynchronous: self.asynchronous,
                    watched,
                    numbers: Arc::clone(&numbers),
                    plan: Arc::clone(&self.plan),
                    limit: Arc::clone(&self.limit),
                    counters: Arc::clone(&self.counters),
                    writer: None,
                    unsettled: None,
                    rejects,
                    worker_lost,
                    left_prepared: control.left_prepared(),
                };
                async move { writer.open().await.map(|()| (endpoint_index, writer)) }
            }));
        let rejects = Steady::when_needed(self.connector.clone(), watch(Watched::new("rejects")), "");
        let has_units = self.plan.sources.iter().any(|source| source.extent().is_none());
        // A unit comes before its rows in the server's log, so it is there if they are; small files have one each.
        let lazily = if self.asynchronous { "set synchronous_commit = off" } else { "" };
        let units = OptionFuture::from(
            has_units.then(|| Steady::open(self.connector.clone(), watch(Watched::new("units")), lazily)),
        );
        let (writers, units) = tokio::try_join!(writers, async { units.await.transpose() })?;
        Ok(Sessions { watched, writers, rejects, units })
    }
}

/// The sessions of an attempt.
struct Sessions {
    /// All of them.
    watched: Vec<Arc<Watched>>,
    /// Each with its endpoint.
    writers: Vec<(usize, BlockWriter)>,
    rejects: Steady,
    /// Where a source is text.
    units: Option<Steady>,
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
