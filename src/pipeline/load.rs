//! A load from its request to its report: preflight, claim, attempt, balance, indexes.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::feed::{Extents, FeedSource, Feeder};
use super::interrupts::Interrupts;
use super::observer::{LoadView, Observer};
use super::opened::{self, OpenedKind, OpenedSource, SourceOptions};
use super::plan::{IndexPolicy, LoadPlan, LoadSettings, MEMORY_MIN, Reading};
use super::preflight::{self, Mapping};
use super::stop::{Stop, StopFlag};
use super::verdict::RejectLimit;
use super::{Attempt, Budgets, finish};
use crate::error::{Error, Kind, Result};
use crate::ledger::claim::{Claim, ClaimRequest, ClaimedSource, NamedSource, claim};
use crate::ledger::coverage::Coverage;
use crate::ledger::settle::Extent;
use crate::ledger::{self, generations};
use crate::memory::Budget;
use crate::postgres::catalog::{ServerVersions, Target};
use crate::postgres::migrate::{TableSpec, VectorType, migrate_target};
use crate::postgres::types::TargetType;
use crate::postgres::{ConnectSettings, QualifiedName, Session, SessionOptions};
use crate::report::LoadReport;
use crate::source::Place;
use crate::source::discover::discover;
use crate::source::synthetic::SyntheticOptions;

/// Shards of a table that a load creates where Citus is.
const SHARDS: u32 = 32;

/// Empty files that are named, of perhaps very many.
const EMPTY_SHOWN: usize = 5;

/// The index plan of a load that found rows: it gives back the indexes that it dropped, and adds none.
pub(super) const REBUILD: &str = "rebuild";

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// Files, directories, globs, or `-`.
    pub sources: Vec<String>,
    /// What the sources are.
    pub options: SourceOptions,
    /// Rows that are made, instead of sources.
    pub synthetic: Option<SyntheticOptions>,
    /// The target.
    pub table: QualifiedName,
    /// `--map` and `--set`.
    pub mapping: Mapping,
    /// `--name`.
    pub name: Option<String>,
    /// `--again`.
    pub again: bool,
    /// Create the table if it is missing.
    pub create: bool,
    /// `--index`.
    pub index: IndexPolicy,
    /// Limits.
    pub settings: LoadSettings,
}

/// A finished load: its report, and the error that ended it, if one did.
#[derive(Debug)]
pub struct LoadOutcome {
    /// The report; none if the load was refused before it began.
    pub report: Option<LoadReport>,
    /// How it ended.
    pub result: Result<()>,
}

/// Sources that can be read, as far as their footers tell.
#[derive(Debug)]
pub struct OpenedSources {
    sources: Arc<Vec<OpenedSource>>,
    stop: StopFlag,
    interrupts: Interrupts,
}

/// Finds and opens all sources: what can be refused without a server is refused before one is asked or started.
pub async fn open_sources(request: &LoadRequest, observer: &dyn Observer) -> Result<OpenedSources> {
    if request.settings.memory < MEMORY_MIN {
        return Err(Error::refused(format!("--memory {} bytes is too little", request.settings.memory))
            .hint(format!("give at least {}MiB", MEMORY_MIN >> 20)));
    }
    let stop = StopFlag::default();
    let interrupts = Interrupts::listen(&stop)?;
    if let Some(synthetic) = request.synthetic.clone() {
        let settings = request.settings.clone();
        let opened = blocking(move || opened::open_synthetic(synthetic, &settings)).await?;
        return Ok(OpenedSources { sources: Arc::new(vec![opened]), stop, interrupts });
    }
    let found = discover(&request.sources, request.options.format)?;
    for path in &found.repeated {
        observer.warn(&format!("{path} is named more than once; it is loaded once"));
    }
    let reads_stdin = found.places.contains(&Place::Stdin);
    if reads_stdin && request.options.name.is_none() {
        observer
            .warn("standard input without --name: if this load is cut off, it can't be resumed, only undone");
    }
    if reads_stdin {
        observer.say("reading standard input");
    }
    let (options, settings, flag) = (request.options.clone(), request.settings.clone(), stop.clone());
    let opening = blocking(move || opened::open_sources(found.places, &options, &settings, &flag));
    let opened = tokio::select! {
        opened = opening => opened?,
        interrupted = interrupts.first() => return Err(interrupted.hint("nothing was loaded")),
    };
    let mut empty = Vec::new();
    for source in &opened {
        if let OpenedKind::Text(text) = &source.kind {
            tracing::info!("{}: {}, columns {}", source.place, text.format, text.columns.join(", "));
            empty.extend(text.has_no_record.then_some(&source.place));
        }
    }
    for place in empty.iter().take(EMPTY_SHOWN) {
        observer.warn(&format!("{place} has a header and no rows"));
    }
    if empty.len() > EMPTY_SHOWN {
        observer.warn(&format!("so have {} more files", empty.len() - EMPTY_SHOWN));
    }
    Ok(OpenedSources { sources: Arc::new(opened), stop, interrupts })
}

/// Runs a load of opened sources.
pub async fn load(
    request: LoadRequest,
    sources: OpenedSources,
    connect: &ConnectSettings,
    observer: &dyn Observer,
) -> LoadOutcome {
    let OpenedSources { sources, stop, interrupts } = sources;
    let prepared = tokio::select! {
        prepared = prepare(request, sources, stop, connect, observer) => prepared,
        interrupted = interrupts.first() => {
            Err(interrupted.hint("no row was loaded; run the same command again"))
        }
    };
    match prepared {
        Ok(prepared) => prepared.run(connect, observer, interrupts).await,
        Err(error) => LoadOutcome { report: None, result: Err(error) },
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
    pub(super) control: Session,
    pub(super) plan: Arc<LoadPlan>,
    pub(super) claim: Claim,
    pub(super) index: IndexPolicy,
    pub(super) versions: ServerVersions,
    pub(super) name: Option<String>,
    pub(super) started: Instant,
    pub(super) extents: Extents,
    stop: StopFlag,
}

async fn prepare(
    request: LoadRequest,
    sources: Arc<Vec<OpenedSource>>,
    stop: StopFlag,
    connect: &ConnectSettings,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let started = Instant::now();
    let options = SessionOptions { application_name: Some("vecload load".into()), transaction_timeout: None };
    let mut control = connect.connect(&options).await?;
    let plan_for = |target: Target| {
        let (sources, mapping, settings) =
            (Arc::clone(&sources), request.mapping.clone(), request.settings.clone());
        blocking(move || preflight::plan(target, &sources, &mapping, settings))
    };
    let target = match Target::find(&control, &request.table).await? {
        Some(target) => target,
        None if request.create => {
            let (opened, mapping) = (Arc::clone(&sources), request.mapping.clone());
            let memory = request.settings.memory;
            let dim = blocking(move || preflight::source_dimension(&opened, &mapping, memory)).await?;
            let spec = TableSpec {
                name: request.table.clone(),
                dim,
                vector_type: VectorType::Vector,
                shards: SHARDS,
            };
            // The mapping is tried on the table as it will be, before it is made.
            plan_for(Target::standard(spec.name.clone(), TargetType::Vector(Some(dim)))).await?;
            let (target, _) = migrate_target(&control, &spec).await?;
            observer.say(&format!("created table {} with embeddings of {dim} dimensions", target.name));
            target
        }
        None => {
            return Err(Error::refused(format!("there is no table {} at {}", request.table, connect.describe())).hint(
                "create it: vecload migrate --dim N; or let load create it with the source's dimension: --create",
            ));
        }
    };
    let plan = plan_for(target).await?;
    let versions = ServerVersions::of(&control).await?;
    ledger::prepare(&mut control).await.map_err(|error| error.with_kind(Kind::Refused))?;

    let index = match (request.index, plan.target.is_empty) {
        (IndexPolicy::Auto | IndexPolicy::Defer, _) if !plan.target.indexes_can_change => {
            if request.index == IndexPolicy::Defer {
                return Err(Error::refused(format!(
                    "--index defer: only its owner may drop and build indexes of {}, and not of a partitioned table",
                    plan.target.name
                ))
                .hint("load with --index keep, or as the table's owner"));
            }
            observer.say("indexes are left as they are: the table is not ours, or partitioned");
            IndexPolicy::Keep
        }
        (IndexPolicy::Auto, true) => IndexPolicy::Defer,
        (IndexPolicy::Auto, false) => IndexPolicy::Keep,
        (given, _) => given,
    };
    let index_plan = match index {
        IndexPolicy::Defer if !plan.target.is_empty => REBUILD,
        other => other.name(),
    };
    // Until the claim is committed nothing is written.
    let claimed = claim(&mut control, &plan.target, &claim_request(&plan, &request, index_plan)).await;
    let claimed = claimed.map_err(|error| match error.kind() {
        Kind::Failed => error.with_kind(Kind::Refused),
        _ => error,
    })?;
    // A resumption finds rows in the table; what the load's first run decided still holds.
    let index = match claimed.index_plan.as_str() {
        "defer" | REBUILD if request.index == IndexPolicy::Auto => IndexPolicy::Defer,
        "none" if request.index == IndexPolicy::Auto => IndexPolicy::None,
        _ => index,
    };
    if claimed.resumed {
        observer.say(&format!("going on with load {}", claimed.load_id));
    }
    let known = plan.sources.iter().zip(&claimed.sources).map(|(source, claimed)| {
        // What is complete was read to its end.
        let counted = claimed.rows.filter(|_| claimed.is_complete);
        let units = claimed.units.len() as u32;
        source.extent().or(counted.map(|rows| Extent { units, rows, hash: None }))
    });
    let extents = known.map(|extent| extent.map_or_else(OnceLock::new, OnceLock::from)).collect();
    Ok(Prepared {
        control,
        extents,
        stop,
        plan: Arc::new(plan),
        claim: claimed,
        index,
        versions,
        name: request.name,
        started,
    })
}

fn claim_request(plan: &LoadPlan, request: &LoadRequest, index_plan: &'static str) -> ClaimRequest {
    let named = |source: &super::plan::PlannedSource| NamedSource {
        place: source.place.clone(),
        name: source.name.clone(),
        kind: source.kind(),
        fingerprint: source.fingerprint.clone(),
        units: source.extent().map(|extent| extent.units),
        rows: source.extent().map(|extent| extent.rows),
        recipe: Arc::clone(&source.recipe),
    };
    ClaimRequest {
        name: request.name.clone(),
        again: request.again,
        index_plan,
        sources: plan.sources.iter().map(named).collect(),
    }
}

impl Prepared {
    async fn run(
        self,
        connect: &ConnectSettings,
        observer: &dyn Observer,
        interrupts: Interrupts,
    ) -> LoadOutcome {
        let counters = Arc::new(Counters::default());
        let budgets = Attempt::budgets(&self.plan);
        let stop = Arc::new(Stop::new(
            vec![budgets.lanes.clone(), budgets.text.clone(), budgets.blocks.clone()],
            &self.stop,
        ));
        let stopping = Arc::clone(&stop);
        let signals = tokio::spawn(async move {
            let hint = "blocks in flight were committed or rolled back; run the same command again to go on";
            stopping.because(interrupts.first().await.hint(hint));
            // The second signal is listened for as long as this task lives.
            std::future::pending::<()>().await;
        });
        let mut figures = Figures::default();
        let outcome = match self.load_rows(connect, observer, &counters, &stop, budgets, &mut figures).await {
            Ok(()) => self.after_rows(connect, observer, &stop, &mut figures).await,
            Err(error) => Err(error),
        };
        signals.abort();
        finish::settle(self, outcome, &counters, figures).await
    }

    /// Brings all rows in that the command asks for and the ledger does not have.
    async fn load_rows(
        &self,
        connect: &ConnectSettings,
        observer: &dyn Observer,
        counters: &Arc<Counters>,
        stop: &Arc<Stop>,
        budgets: Budgets,
        figures: &mut Figures,
    ) -> Result<()> {
        let id_column = self.plan.ids.as_ref().map(|ids| ids.column.as_str());
        let source_ids = self.source_ids();
        generations::check(&self.control, &self.plan.target, id_column, &source_ids).await?;
        // Only the indexes of a load that was cut off may be left; its rejects were put up with when it read them.
        let all_known = self.claim.sources.iter().all(|source| source.is_complete);
        let Some(run) = self.claim.run.filter(|_| !all_known) else {
            return self.compare_streams(counters, stop, &budgets.lanes).await;
        };

        let (mut rows_before, mut rejects_before) = (0, 0);
        for source in &self.claim.sources {
            rows_before += source.coverage.rows() + source.coverage.rejects();
            rejects_before += source.coverage.rejects();
        }
        let limit = Arc::new(RejectLimit::new(self.plan.settings.max_rejects, rows_before, rejects_before));
        limit.check_known(self.claim.load_id)?;
        if self.has_rows_left() {
            self.drop_indexes(observer, stop).await?;
        }

        observer.loading(LoadView {
            counters: Arc::clone(counters),
            rows: self.plan.rows().or(self.plan.settings.limit),
            stored_bytes: self.plan.stored_bytes(),
            rows_before,
            lanes: self.plan.settings.lanes,
            writers: self.plan.settings.writers,
        });
        let flowing = Instant::now();
        let coverage: Arc<[Coverage]> =
            self.claim.sources.iter().map(|source| source.coverage.clone()).collect();
        let attempt = Attempt {
            plan: Arc::clone(&self.plan),
            run,
            sources: self.feed_sources(),
            coverage,
            extents: Arc::clone(&self.extents),
            limit: Arc::clone(&limit),
            counters: Arc::clone(counters),
            connect: connect.clone(),
        };
        let outcome = attempt.execute(Arc::clone(stop), budgets).await;
        figures.load_time = flowing.elapsed();
        observer.loaded();
        outcome?;
        limit.check_at_end()
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
            counters: Arc::clone(counters),
            stop: Arc::clone(stop),
            window_bytes: AtomicUsize::new(0),
            runtime: tokio::runtime::Handle::current(),
        };
        blocking(move || feeder.run()).await?;
        match stop.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Completes the sources, then builds what was deferred.
    async fn after_rows(
        &self,
        connect: &ConnectSettings,
        observer: &dyn Observer,
        stop: &Arc<Stop>,
        figures: &mut Figures,
    ) -> Result<()> {
        finish::complete_sources(self).await?;
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
        let result = self.build_indexes(connect, observer, stop, &mut figures.built).await;
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
