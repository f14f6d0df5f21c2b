//! A load from its request to its report: preflight, claim, attempt, balance, indexes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, channel};

use super::control::Control;
use super::counters::Counters;
use super::feed::{Extents, FeedSource, Feeder, UnderWay};
use super::hashing::Hashing;
use super::interrupts::Interrupts;
use super::observer::{LoadView, Observer};
use super::plan::{IndexPolicy, LoadPlan, Reading};
use super::prepare::prepare_in_tries;
use super::request::{LoadRequest, OpenedSources};
use super::retry::{Retry, Revive};
use super::routing::{choose, still_the_target};
use super::steady::Connector;
use super::stop::Stop;
use super::verdict::RejectLimit;
use super::{Attempt, finish};
use crate::error::{Error, Kind, Result};
use crate::ledger::claim::{Claim, ClaimedSource};
use crate::ledger::committed::read_committed;
use crate::ledger::coverage::Coverage;
use crate::ledger::generations;
use crate::ledger::outbox::{LeftPrepared, take_in_own};
use crate::ledger::takeover::begin_again;
use crate::memory::Budget;
use crate::postgres::catalog::ServerVersions;
use crate::postgres::{ConnectSettings, Session};
use crate::report::{LoadReport, RowCounts};
use crate::route::{Route, Routing};
use crate::source::Place;

/// The index plan of a load that found rows: it gives back the indexes that it dropped, and adds none.
pub(super) const REBUILD: &str = "rebuild";

/// Balances that are short though no session was lost, in a load straight into shards: a clone that is promoted ends
/// none, and a standby may take a worker's place while its writers have nothing to write. More are a fault of ours.
const UNEXPLAINED_MAX: usize = 2;

/// Lines about retries on their way to the user.
const NOTICES: usize = 64;

/// The way to the server.
#[derive(Clone)]
pub struct Way {
    /// How to connect.
    pub connect: ConnectSettings,
    /// Brings it back, where it is ours.
    pub revive: Option<Revive>,
}

/// A finished load: its report, and the error that ended it, if one did.
#[derive(Debug)]
pub struct LoadOutcome {
    /// The report; none if the load was refused before it began.
    pub report: Option<LoadReport>,
    /// How it ended.
    pub result: Result<()>,
}

/// Runs a load of opened sources.
pub async fn load(
    request: LoadRequest,
    sources: OpenedSources,
    way: &Way,
    observer: &dyn Observer,
) -> LoadOutcome {
    let OpenedSources { sources, stop, interrupts } = sources;
    let (told, mut notices) = channel(NOTICES);
    let connector = Connector {
        connect: way.connect.clone(),
        retry: Retry::new(request.settings.retry_for, told, way.revive.clone()),
        stop: Arc::new(Stop::new(&stop)),
        label: String::new(),
    };
    let preparing = Box::pin(prepare_in_tries(&request, &sources, &connector, observer));
    let preparing = tell(&mut notices, observer, preparing);
    let prepared = tokio::select! {
        prepared = preparing => prepared,
        interrupted = interrupts.first() => {
            Err(interrupted.hint("no row was loaded; run the same command again"))
        }
    };
    match prepared {
        Ok(prepared) => Box::pin(prepared.run(observer, notices, interrupts)).await,
        Err(error) => LoadOutcome { report: None, result: Err(error) },
    }
}

/// Works, and tells the user meanwhile what there is to tell.
async fn tell<T>(
    notices: &mut Receiver<String>,
    observer: &dyn Observer,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            Some(line) = notices.recv() => observer.warn(&line),
            done = &mut work => return done,
        }
    }
}

/// What a run took.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) load_time: Duration,
    pub(super) built: Vec<String>,
    pub(super) index_time: Duration,
}

/// A load whose sources are claimed.
pub(super) struct Prepared {
    pub(super) control: Control,
    pub(super) connector: Connector,
    /// The first run of this process; a new attempt is a new run.
    pub(super) first_run: i32,
    pub(super) plan: Arc<LoadPlan>,
    pub(super) claim: Claim,
    pub(super) index: IndexPolicy,
    pub(super) versions: ServerVersions,
    pub(super) name: Option<String>,
    pub(super) started: Instant,
    pub(super) extents: Extents,
    pub(super) routing: Arc<Routing>,
    /// What the ledger had at the end of the last attempt.
    pub(super) counted: Option<RowCounts>,
}

impl Prepared {
    async fn run(
        mut self,
        observer: &dyn Observer,
        mut notices: Receiver<String>,
        interrupts: Interrupts,
    ) -> LoadOutcome {
        let counters = Arc::new(Counters::default());
        let stopping = Arc::clone(&self.connector.stop);
        let signals = tokio::spawn(async move {
            let hint = "blocks in flight were committed or rolled back; to go on, run the same command again";
            stopping.because(interrupts.first().await.hint(hint));
            // The second signal is listened for as long as this task lives.
            std::future::pending::<()>().await;
        });
        let mut figures = Figures::default();
        let work = Box::pin(self.load(observer, &counters, &mut figures));
        let outcome = tell(&mut notices, observer, work).await;
        // Work that was given up because of a signal ends with what it was waiting for.
        let outcome = outcome.map_err(|error| match self.connector.stop.take() {
            Some(first) if first.kind() == Kind::Interrupted => first,
            _ => error,
        });
        // Until the last word is written a signal is heard.
        let settled = Box::pin(finish::settle(self, outcome, &counters, figures)).await;
        signals.abort();
        settled
    }

    /// Brings all rows in, in as many attempts as it takes, and what comes after them.
    async fn load(
        &mut self,
        observer: &dyn Observer,
        counters: &Arc<Counters>,
        figures: &mut Figures,
    ) -> Result<()> {
        let mut hashing = Hashing::begin(&self.plan, &self.claim, counters)?;
        let mut unexplained = 0;
        loop {
            match Box::pin(self.load_rows(observer, counters, figures)).await {
                Err(error) if error.is_misrouted() && self.plan.is_readable_again() => {
                    Box::pin(self.route_again(error)).await?;
                    continue;
                }
                loaded => loaded?,
            }
            let Some(short) = Box::pin(finish::complete_sources(self, &mut hashing)).await? else { break };
            unexplained += usize::from(!self.control.was_lost());
            let (unexplained_max, loss) = match self.routing.route {
                Route::Shards => (UNEXPLAINED_MAX, "a worker crashed or was replaced, and commits are lost"),
                Route::Direct | Route::Coordinator => (0, "a crash of the server has taken commits"),
            };
            if unexplained > unexplained_max {
                return Err(short.with_kind(Kind::Bug));
            }
            if !self.plan.is_readable_again() {
                return Err(short.hint(format!("{loss}; run the same command again to go on")));
            }
            observer.warn(&format!("{loss}: {short}; loading them again"));
            self.begin_again().await?;
        }
        Box::pin(self.after_rows(observer, figures)).await
    }

    /// Goes on by the cluster's map as it is now.
    async fn route_again(&mut self, mut error: Error) -> Result<()> {
        let stop = Arc::clone(&self.connector.stop);
        let retry = self.connector.retry.clone();
        let mut tries = retry.tries();
        loop {
            stop.begin(Vec::new());
            tries.pause(error, &stop).await?;
            let (plan, connect) = (&self.plan, &self.connector.connect);
            let chosen = self.control.run(async |session| {
                still_the_target(session, plan).await?;
                choose(session, connect, plan).await.map_err(|error| error.with_kind(Kind::Failed))
            });
            match Box::pin(chosen).await {
                Ok(routing) => self.routing = routing,
                Err(again) if again.is_transient() => {
                    error = again;
                    continue;
                }
                Err(other) => return Err(other),
            }
            return self.begin_again().await;
        }
    }

    /// A new attempt goes on from what is in the ledger now.
    async fn begin_again(&mut self) -> Result<()> {
        let Some(run) = self.claim.run else {
            return Err(Error::bug("blocks were lost by a load that had none to write"));
        };
        let run = self.control.run(async |session| begin_again(session, &run).await).await?;
        self.claim.run = Some(run);
        self.control.goes_on_as(run).await;
        if self.plan.target.citus.is_some() {
            self.control
                .run(async |session| take_in_own(session, &run, LeftPrepared::Anything).await)
                .await?;
        }
        for source in &mut self.claim.sources {
            source.coverage = Coverage::default();
        }
        let sources = &mut self.claim.sources;
        self.control.run(async |session| read_committed(session, sources).await).await
    }

    /// Brings all rows in that the command asks for and the ledger does not have.
    async fn load_rows(
        &mut self,
        observer: &dyn Observer,
        counters: &Arc<Counters>,
        figures: &mut Figures,
    ) -> Result<()> {
        let budgets = Attempt::budgets(&self.plan);
        let stop = Arc::clone(&self.connector.stop);
        stop.begin(vec![budgets.lanes.clone(), budgets.text.clone(), budgets.blocks.clone()]);
        let id_column = self.plan.ids.as_ref().map(|ids| ids.column.as_str());
        let source_ids = self.source_ids();
        let target = &self.plan.target;
        if self.claim.sources.iter().any(|source| source.coverage.rows() > 0) {
            let check = async |session: &mut Session| {
                generations::check(session, target, id_column, &source_ids).await
            };
            self.control.run(check).await?;
        }
        // Only the indexes of a load that was cut off may be left; its rejects were put up with when it read them.
        let all_known = self.claim.sources.iter().all(|source| source.is_complete);
        let Some(run) = self.claim.run.filter(|_| !all_known) else {
            return self.compare_streams(counters, &stop, &budgets.lanes).await;
        };

        let (mut rows_before, mut rejects_before) = (0, 0);
        for source in &self.claim.sources {
            rows_before += source.coverage.rows() + source.coverage.rejects();
            rejects_before += source.coverage.rejects();
        }
        let limit = Arc::new(RejectLimit::new(self.plan.settings.max_rejects, rows_before, rejects_before));
        limit.check_known(self.claim.load_id)?;
        if self.has_rows_left() {
            self.drop_indexes(observer).await?;
        }

        observer.loading(LoadView {
            counters: Arc::clone(counters),
            rows: self.plan.rows().or(self.plan.settings.limit),
            stored_bytes: self.plan.stored_bytes(),
            rows_before,
            lanes: self.plan.settings.lanes,
            writers: self.routing.writers(),
        });
        let flowing = Instant::now();
        self.control.stand_for(run).await;
        if let Some(told) = &self.routing.told {
            observer.say(told);
        }
        let attempt = Attempt {
            plan: Arc::clone(&self.plan),
            run,
            sources: self.feed_sources(),
            coverage: self.claim.sources.iter().map(|source| source.coverage.clone()).collect(),
            extents: Arc::clone(&self.extents),
            limit: Arc::clone(&limit),
            counters: Arc::clone(counters),
            // What is lost of a stream can't be read again. Through a Citus coordinator a crash could keep the rows and
            // lose the ledger's row; and a shard that moves takes along what is written of the log, not all that is
            // committed.
            asynchronous: self.plan.target.citus.is_none() && self.plan.is_readable_again(),
            connector: self.connector.clone(),
            routing: Arc::clone(&self.routing),
        };
        let outcome = Box::pin(attempt.execute(budgets, &self.control)).await;
        figures.load_time += flowing.elapsed();
        observer.loaded();
        outcome?;
        limit.check_at_end()
    }

    /// The load and the first of this process's runs of it.
    pub(super) fn since(&self) -> Option<(i64, i32)> {
        self.claim.run.map(|run| (run.load_id, self.first_run))
    }

    /// Ledger ids of the plan's sources.
    pub(super) fn source_ids(&self) -> Vec<i64> {
        self.claim.sources.iter().map(|source| source.source_id).collect()
    }

    /// Whether anything is left to read, as far as that is known.
    fn has_rows_left(&self) -> bool {
        let mut left = self.plan.settings.limit.unwrap_or(u64::MAX);
        self.plan.sources.iter().zip(&self.claim.sources).any(|(source, claimed)| {
            let asked = left;
            left = left.saturating_sub(source.extent().map_or(0, |extent| extent.rows));
            let done = match &source.reading {
                Reading::Parquet { unit_rows, .. } | Reading::Synthetic { unit_rows, .. } => (0..)
                    .zip(unit_rows)
                    .scan(0, |before, (unit, rows)| {
                        let begins = *before;
                        *before += rows;
                        Some((begins, unit, *rows))
                    })
                    .take_while(|(begins, ..)| *begins < asked)
                    .all(|(_, unit, rows)| claimed.coverage.is_complete(unit, rows)),
                Reading::Text { .. } => asked == 0,
            };
            !claimed.is_complete && !done
        })
    }

    fn feed_sources(&self) -> Vec<FeedSource> {
        let known = |source: &ClaimedSource| FeedSource {
            source_id: source.source_id,
            is_complete: source.is_complete,
            units: source.units.clone(),
        };
        self.claim.sources.iter().map(known).collect()
    }

    /// A stream that was loaded already is read to its end all the same: it may not be what it was, and who
    /// writes it should not meet a closed pipe.
    async fn compare_streams(
        &self,
        counters: &Arc<Counters>,
        stop: &Arc<Stop>,
        memory: &Budget,
    ) -> Result<()> {
        if !self.plan.sources.iter().any(|source| source.place == Place::Stdin) {
            return Ok(());
        }
        let (work, _nobody) = crossbeam_channel::bounded(1);
        let feeder = Feeder {
            plan: Arc::clone(&self.plan),
            run: None,
            sources: self.feed_sources(),
            coverage: self.claim.sources.iter().map(|source| source.coverage.clone()).collect(),
            extents: Arc::clone(&self.extents),
            work,
            lane_memory: memory.clone(),
            session: None,
            unrecorded: Default::default(),
            counters: Arc::clone(counters),
            stop: Arc::clone(stop),
            window_bytes: AtomicUsize::new(0),
            under_way: UnderWay::default(),
            runtime: tokio::runtime::Handle::current(),
        };
        blocking(move || feeder.run()).await?;
        match stop.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Builds the indexes that were deferred.
    async fn after_rows(&self, observer: &dyn Observer, figures: &mut Figures) -> Result<()> {
        let owes_indexes = self.index == IndexPolicy::Defer || !self.claim.dropped_indexes.is_empty();
        if self.claim.run.is_none() || !owes_indexes {
            return Ok(());
        }
        // A limited load goes on later; its indexes come with the last row.
        if self.is_limited() {
            observer.say("indexes are built when the whole source is loaded");
            return Ok(());
        }
        let building = Instant::now();
        // The rows are in: trouble from here on has the whole time.
        self.connector.retry.progress();
        let mut tries = self.connector.retry.tries();
        let result = loop {
            // What is built already is left as it is.
            let Err(error) = self.build_indexes(observer, &mut figures.built).await else { break Ok(()) };
            if let Err(error) = tries.pause(error, &self.connector.stop).await {
                break Err(error);
            }
        };
        observer.indexed(result.is_ok());
        figures.index_time = building.elapsed();
        result
    }

    /// Whether `--limit` left rows of the sources unread.
    pub(super) fn is_limited(&self) -> bool {
        let mut all = 0;
        let known = self.extents.iter().all(|extent| {
            all += extent.get().map_or(0, |extent| extent.rows);
            extent.get().is_some()
        });
        !known || self.plan.settings.limit.is_some_and(|limit| limit < all)
    }
}

/// Runs file work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|panic| Error::bug("a preparing task panicked").because(panic))?
}

/// A duration that is never zero, for rates.
pub(super) fn at_least_a_millisecond(duration: Duration) -> Duration {
    duration.max(Duration::from_millis(1))
}
