//! Writers at work: blocks from the queue into the table, each until it is in for certain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio_postgres::Client;

use super::counters::Counters;
use super::plan::LoadPlan;
use super::queues::Waiting;
use super::steady::{Connector, Steady, given_up, silent};
use super::stop::Stop;
use super::verdict::RejectLimit;
use crate::batch::reject::{Reason, Reject, excerpt};
use crate::error::{Error, Result};
use crate::ledger::blocks::{Run, is_recorded};
use crate::ledger::prepared;
use crate::ledger::rejects::{self, RefusedRow, RejectSlice, record_last};
use crate::partition::HeldBlock;
use crate::postgres::Canceller;
use crate::postgres::watch::{Backend, Watched};
use crate::route::Endpoint;
use crate::writer::{RefusedTuple, WriteFailure, Writer};

/// A block in hand is given so long to commit when the load stops; with an HNSW index present it could take
/// minutes, and is then rolled back.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Searches for refused rows that find none, before a block is given up: a key may have been another transaction's
/// that was rolled back meanwhile.
const FRUITLESS_MAX: i32 = 3;

/// Refused rows looked for at a time.
const REFUSED_MAX: usize = 1000;

/// A worker that can't be reached, or takes no block, for so long may have been replaced: the cluster's map is read
/// again.
const UNREACHED_MAX: Duration = Duration::from_secs(15);

/// Rejects recorded in one transaction.
const REJECTS_PER_TRANSACTION: usize = 1000;

/// A writer that outlives its connections.
pub struct BlockWriter {
    /// How sessions are opened.
    pub connector: Connector,
    /// Where blocks go.
    pub endpoint: Arc<Endpoint>,
    /// What they are recorded under.
    pub run: Run,
    /// Ledger ids of the plan's sources.
    pub source_ids: Arc<[i64]>,
    /// Whether commits may become durable later.
    pub asynchronous: bool,
    /// Its entry among those that are watched.
    pub watched: Arc<Watched>,
    /// Numbers for blocks.
    pub numbers: Arc<AtomicI32>,
    /// The plan.
    pub plan: Arc<LoadPlan>,
    /// `--max-rejects`.
    pub limit: Arc<RejectLimit>,
    /// The books.
    pub counters: Arc<Counters>,
    /// The session, while there is one.
    pub writer: Option<Writer>,
    /// The backend of the session before, and the block whose COMMIT it was sent, with its place: to be settled before
    /// anything else.
    pub unsettled: Option<(Backend, Option<(i32, usize)>)>,
    /// To who records rejects, where a block's own transaction can't hold them.
    pub rejects: Option<Sender<Rejected>>,
    /// To be set when its session was lost, if that is one with a worker: the control session does not see it.
    pub worker_lost: Option<Arc<AtomicBool>>,
    /// To be set when it may have left a prepared transaction behind.
    pub left_prepared: Arc<AtomicBool>,
}

impl BlockWriter {
    /// Opens its session, so that a load which can't write reads nothing.
    pub async fn open(&mut self) -> Result<()> {
        let retry = self.connector.retry.clone();
        let mut tries = retry.tries();
        let since = Instant::now();
        while let Err(error) = self.reopen().await {
            if error.is_misrouted() || self.is_gone(&error, since) {
                return Err(error.misrouted());
            }
            tries.pause(error, &self.connector.stop).await?;
        }
        Ok(())
    }

    /// Takes blocks until there are none or the load stops.
    pub async fn run(mut self, blocks: Arc<Waiting>) {
        let stop = Arc::clone(&self.connector.stop);
        loop {
            let waiting = Instant::now();
            let knows = |place| self.writer.as_ref().is_some_and(|writer| writer.knows(place));
            let next = blocks.next(knows);
            // A block in hand is finished; one still in the queue when the load stops is left to the next run.
            let block = tokio::select! {
                biased;
                () = stop.stopping() => None,
                block = next => block,
            };
            self.counters.write.waited(waiting.elapsed());
            let Some(mut held) = block else { break };
            let started = Instant::now();
            match self.persist(&mut held).await {
                Ok(()) => {
                    let block = &held.block;
                    self.counters.write.worked(block.rows, block.bytes as u64, started.elapsed());
                    self.connector.retry.progress();
                }
                Err(error) => {
                    stop.because(error);
                    break;
                }
            }
        }
        self.watched.set_backend(None);
        if let Some(mut writer) = self.writer {
            self.left_prepared.fetch_or(writer.session_mut().has_warned(), Ordering::Relaxed);
            writer.close().await;
        }
    }

    /// Writes a block, over as many connections as it takes, until it is committed for certain; rows that the server
    /// refuses become rejects.
    async fn persist(&mut self, held: &mut HeldBlock) -> Result<()> {
        let retry = self.connector.retry.clone();
        let mut tries = retry.tries();
        let mut refused = Vec::new();
        let mut fruitless = 0;
        let mut failing_since = None;
        loop {
            let stop = Arc::clone(&self.connector.stop);
            let opened = tokio::select! {
                opened = self.reopen() => opened,
                () = given_up(&stop) => Err(Error::failed("no session could be opened before the load ended")),
            };
            let tried = match opened {
                // The commit that was not answered has taken place.
                Ok(true) => return Ok(()),
                Ok(false) => self.write_once(held, &refused).await,
                Err(error) => Err(error.into()),
            };
            let failure = match tried {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let error = match failure.refusal {
                // Lost with the session that it was refused over: a new one is refused again, and can look for rows.
                Some(_) if self.writer.is_none() => failure.error.transient(),
                Some(_) => match self.take_out_refused(held, &mut refused).await {
                    Ok(0) if fruitless == FRUITLESS_MAX => return Err(failure.error),
                    Ok(found) => {
                        fruitless += i32::from(found == 0);
                        continue;
                    }
                    Err(failure) => failure.error,
                },
                None => failure.error,
            };
            // Only an attempt with a new map can help.
            if error.is_misrouted() || self.is_gone(&error, *failing_since.get_or_insert_with(Instant::now)) {
                return Err(error.misrouted());
            }
            tries.pause(error, &self.connector.stop).await?;
        }
    }

    /// Whether a worker has failed for so long that another one may have its place.
    fn is_gone(&self, error: &Error, since: Instant) -> bool {
        self.endpoint.node.is_some()
            && error.is_transient()
            && since.elapsed() > UNREACHED_MAX
            && self.plan.is_readable_again()
    }

    /// Finds the rows of a block that the server refuses, and takes them out of it, if `--max-rejects` allows; tells
    /// how many there are.
    async fn take_out_refused(
        &mut self,
        held: &mut HeldBlock,
        refused: &mut Vec<RefusedRow>,
    ) -> Result<usize, WriteFailure> {
        let found = self.find_refused(held).await?;
        let mut removed = BTreeMap::new();
        let mut rows = Vec::with_capacity(found.len());
        for (tuple, server) in found {
            let Some((row, position)) = held.origin(tuple) else {
                return Err(Error::bug(format!("tuple {tuple} of a block comes from nowhere")).into());
            };
            removed.insert(tuple, row);
            let detail = server.detail.as_deref().unwrap_or_default();
            let reject = Reject {
                row: row.row,
                position,
                column: server.column.clone().unwrap_or_default(),
                reason: Reason::Server(format!("{} (SQLSTATE {})", server.message, server.code)),
                excerpt: excerpt(detail.as_bytes()),
            };
            rows.push(RefusedRow { source: row.source, unit: row.unit, reject });
        }
        let count = rows.len() as u64;
        if let Some(first) = rows.first() {
            self.counters.rejected.fetch_add(count, Ordering::Relaxed);
            let place = &self.plan.sources[first.source].place;
            let told = || format!("{place}, {}", first.reject.told(first.unit));
            // The rows are counted already, as accepted ones.
            if let Err(error) = self.limit.note(0, count, told) {
                // Kept too: it is what the user will look for.
                let (run, source_ids) = (self.run, Arc::clone(&self.source_ids));
                match (&self.rejects, &mut self.writer) {
                    (Some(rejects), _) => record_elsewhere(rejects, rows).await?,
                    (None, Some(writer)) => {
                        record_last(writer.session_mut(), &run, &source_ids, &rows).await?;
                    }
                    (None, None) => {}
                }
                return Err(error.into());
            }
        }
        held.remove(&removed);
        match &self.rejects {
            // A worker's transaction can't hold them. Before the block: a reject without it is right, a block without
            // its rejects would have lost rows.
            Some(rejects) => record_elsewhere(rejects, rows).await?,
            None => refused.extend(rows),
        }
        Ok(removed.len())
    }

    /// Writes a block once; afterwards the session is fit for use, or put aside to be settled.
    async fn write_once(&mut self, held: &HeldBlock, refused: &[RefusedRow]) -> Result<(), WriteFailure> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let writer = self.writer.as_mut().ok_or_else(no_session)?;
        let (canceller, watched) = (writer.canceller(), Arc::clone(&self.watched));
        let work = writer.write(held, refused, number, &watched);
        let (is_silent, outcome) = guarded(&watched, &self.connector.stop, canceller, work).await;
        let Err(failure) = outcome else { return Ok(()) };
        // What the server says against a row, it says in rolling back.
        let is_unknown = writer.commit_was_sent() && failure.refusal.is_none();
        if is_silent || is_unknown || writer.is_lost() {
            self.put_aside(is_unknown.then_some((number, held.place)));
        }
        Err(failure)
    }

    /// Finds refused rows of a block; afterwards the session is fit for use, or put aside.
    async fn find_refused(&mut self, held: &HeldBlock) -> Result<Vec<RefusedTuple>, WriteFailure> {
        let writer = self.writer.as_mut().ok_or_else(no_session)?;
        let (canceller, watched) = (writer.canceller(), Arc::clone(&self.watched));
        let work = writer.find_refused(held, REFUSED_MAX, &watched);
        let (is_silent, outcome) = guarded(&watched, &self.connector.stop, canceller, work).await;
        if is_silent || writer.is_lost() {
            self.put_aside(None);
        }
        outcome
    }

    /// The session is given up: its backend is to be ended, and the block whose COMMIT it was sent looked for.
    fn put_aside(&mut self, unknown: Option<(i32, usize)>) {
        if let Some(lost) = &self.worker_lost {
            lost.store(true, Ordering::Relaxed);
        }
        self.left_prepared.store(true, Ordering::Relaxed);
        self.unsettled = self.watched.backend().map(|backend| (backend, unknown));
        self.watched.set_backend(None);
        self.writer = None;
    }

    /// Opens a session if there is none, and settles what the one before has left open. Tells whether a block whose
    /// commit was not answered is in the table.
    async fn reopen(&mut self) -> Result<bool> {
        if self.writer.is_some() {
            return Ok(false);
        }
        let session = self.connector.open(&self.watched).await?;
        let mut is_committed = false;
        if let Some((backend, number)) = &self.unsettled {
            // First the old backend: what it was sent, it may do even now.
            backend.end(&session).await?;
            // Into a shard a block goes by a commit of one node.
            if self.plan.target.citus.is_some() && self.endpoint.node.is_none() {
                prepared::settle::<Client>(&session).await?;
            }
            if let Some((number, place)) = number {
                let table = &self.endpoint.tables[self.endpoint.table_of(*place)];
                is_committed = is_recorded(&session, &self.run, *number, table).await?;
                let fate = if is_committed { "took place" } else { "did not take place" };
                tracing::info!("block {number}: its commit, which was not answered, {fate}");
            }
        }
        let (endpoint, source_ids) = (Arc::clone(&self.endpoint), Arc::clone(&self.source_ids));
        let writer = Writer::prepare(session, endpoint, self.run, source_ids, self.asynchronous).await?;
        self.writer = Some(writer);
        // Last: until there is a session to go on with, what was found is found again.
        self.unsettled = None;
        Ok(is_committed)
    }
}

/// Work on a writer's session, given up when the session is found to be silent, or some time after the load stops.
async fn guarded<T>(
    watched: &Watched,
    stop: &Stop,
    canceller: Canceller,
    work: impl Future<Output = Result<T, WriteFailure>>,
) -> (bool, Result<T, WriteFailure>) {
    let give_up = async {
        stop.stopping().await;
        tokio::time::sleep(STOP_GRACE).await;
        if let Err(error) = canceller.cancel().await {
            tracing::debug!("cancel a writer: {error}");
        }
        // A server that doesn't answer the request either is left alone: it rolls back by itself.
        tokio::time::sleep(STOP_GRACE).await;
    };
    let (is_silent, outcome) = tokio::select! {
        outcome = work => (false, outcome),
        () = watched.lost() => (true, Err(silent(watched).into())),
        () = give_up => (true, Err(silent(watched).into())),
    };
    watched.rest();
    (is_silent, outcome)
}

fn no_session() -> WriteFailure {
    Error::bug("a block is to be written without a session").into()
}

/// What is recorded of rejects, apart from blocks.
#[derive(Debug)]
pub enum Rejected {
    /// All rejects of a row range.
    Slice(RejectSlice),
    /// Rows that a server refused; told when they are recorded.
    Refused(Vec<RefusedRow>, oneshot::Sender<()>),
}

async fn record_elsewhere(rejects: &Sender<Rejected>, rows: Vec<RefusedRow>) -> Result<()> {
    let (done, recorded) = oneshot::channel();
    let stopping = || Error::failed("refused rows were not recorded: the load is stopping");
    rejects.send(Rejected::Refused(rows, done)).await.map_err(|_closed| stopping())?;
    recorded.await.map_err(|_dropped| stopping())
}

/// Records rejects until the lanes have gone, even when the load is stopping: a reject that was found is kept.
pub async fn write_rejects(
    mut steady: Steady,
    run: Run,
    source_ids: Arc<[i64]>,
    mut rejects: Receiver<Rejected>,
    stop: Arc<Stop>,
) {
    while let Some(first) = rejects.recv().await {
        let (mut pending, mut refused, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(first);
        let mut count = 0;
        while let Some(rejected) = next {
            match rejected {
                Rejected::Slice(slice) => {
                    count += slice.rejects.len();
                    pending.push(slice);
                }
                Rejected::Refused(rows, done) => {
                    count += rows.len();
                    refused.extend(rows);
                    told.push(done);
                }
            }
            next = (count < REJECTS_PER_TRANSACTION).then(|| rejects.try_recv().ok()).flatten();
        }
        let recorded = steady.run(async |session| {
            if !pending.is_empty() {
                rejects::record(session, &run, &source_ids, &pending).await?;
            }
            match refused.is_empty() {
                true => Ok(()),
                false => record_last(session, &run, &source_ids, &refused).await,
            }
        });
        match recorded.await {
            // Who does not wait any more has no use for it.
            Ok(()) => {
                for done in told {
                    let (Ok(()) | Err(())) = done.send(());
                }
            }
            Err(error) => {
                stop.because(error);
                break;
            }
        }
    }
    steady.close().await;
}
