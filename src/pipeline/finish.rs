//! The end of a load: the balance from the ledger decides what may be called done.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::{Bottleneck, Counters};
use super::hashing::{Hashes, Hashing};
use super::load::{Figures, LoadOutcome, Prepared, at_least_a_millisecond, blocking};
use super::plan::{LoadPlan, Reading};
use crate::error::{Error, Kind, Result};
use crate::ledger::compaction::compact;
use crate::ledger::generations;
use crate::ledger::outbox::{LeftPrepared, take_in_own};
use crate::ledger::settle::{self, Extent, SourceBalance, balance, finish_load, flush};
use crate::postgres::catalog::Target;
use crate::report::{self, ByteCounts, IndexReport, LoadReport, LoadState, RowCounts};
use crate::source::Place;
use crate::source::fingerprint::{Fingerprint, full_hash};
use crate::source::parquet::PositionedFile;

/// Marks sources as complete whose rows are all committed or recorded. Gives the error of a balance that is short,
/// which only a crash of the server can explain.
pub(super) async fn complete_sources(load: &mut Prepared, hashing: &mut Hashing) -> Result<Option<Error>> {
    let ids = load.source_ids();
    let run = load.claim.run;
    let since = load.since();
    let (balances, committed) = load
        .control
        .run(async |session| {
            // Commits become durable here, where they are not yet; that none was lost, the session's life speaks for.
            if let Some(run) = run.filter(|_| load.plan.target.citus.is_none()) {
                flush(session, &run).await?;
            }
            if let Some(run) = run.filter(|_| load.plan.target.citus.is_some()) {
                let left = match session.has_warned() || load.control.may_be_prepared() {
                    true => LeftPrepared::Anything,
                    false => LeftPrepared::Nothing,
                };
                take_in_own(session, &run, left).await?;
            }
            balance(session, &ids, since).await
        })
        .await?;
    load.counted = Some(count(&balances, committed));
    let mut left = load.plan.settings.limit.unwrap_or(u64::MAX);
    let mut complete = Vec::new();
    for (index, (source, claimed)) in load.plan.sources.iter().zip(&load.claim.sources).enumerate() {
        let found = balances.get(&claimed.source_id).copied().unwrap_or_default();
        // A source that was not read to its end was cut off by `--limit`.
        let extent = load.extents[index].get();
        let rows = extent.map_or(left, |extent| extent.rows);
        let wanted = left.min(rows);
        left -= wanted;
        let found_rows = found.loaded + found.rejected;
        let differs = || {
            format!(
                "the ledger has {} loaded and {} rejected rows of {}, which has {rows}, and {wanted} were asked for",
                found.loaded, found.rejected, source.place
            )
        };
        if extent.is_some() && found_rows > rows {
            // A row that an earlier run committed is rejected now: the table's columns are others by now.
            return Err(Error::failed(differs()).hint(format!(
                "the table was altered between runs so that it refuses rows that are in it; \
                 vecload loads undo {}, then load again",
                load.claim.load_id
            )));
        }
        if found_rows < wanted {
            return Ok(Some(Error::failed(differs())));
        }
        if let Some(extent) = extent.filter(|_| found_rows == rows && !claimed.is_complete) {
            complete.push((index, extent.clone()));
        }
    }
    let plan = Arc::clone(&load.plan);
    let mut hashing = std::mem::take(hashing);
    let stop = &load.connector.stop;
    let complete = tokio::select! {
        complete = blocking(move || with_hashes(&plan, complete, hashing.finish()?)) => complete?,
        // A large file takes a while. Nothing waits for the thread.
        () = stop.stopping() => return Err(Error::failed("the load is stopping")),
    };
    let complete: Vec<(i64, Extent)> =
        complete.into_iter().map(|(index, extent)| (load.claim.sources[index].source_id, extent)).collect();
    if let Some(run) = &run {
        load.control.run(async |session| settle::complete_sources(session, run, &complete).await).await?;
    }
    // Another session may have truncated the table meanwhile.
    let id_column = load.plan.ids.as_ref().map(|ids| ids.column.as_str());
    let target = &load.plan.target;
    load.control
        .run(async |session| {
            let Some(relfilenode) = target.storage_now(session).await? else {
                return Err(Error::failed(format!(
                    "table {} was dropped or replaced during the load",
                    target.name
                ))
                .hint("load again; the ledger counts for the table that is gone"));
            };
            let now = Target { relfilenode, ..target.clone() };
            generations::check(session, &now, id_column, &ids).await
        })
        .await?;
    compact_blocks(load).await;
    Ok(None)
}

/// Adds the hashes of files that were not read from end to end; each must be what it was when it was opened.
fn with_hashes(
    plan: &LoadPlan,
    mut complete: Vec<(usize, Extent)>,
    hashes: Hashes,
) -> Result<Vec<(usize, Extent)>> {
    let mut hashes: HashMap<usize, String> =
        hashes.into_iter().filter_map(|(index, hash)| Some((index, hash?))).collect();
    for (index, extent) in &mut complete {
        let source = &plan.sources[*index];
        let (Place::File(path), None) = (&source.place, &extent.hash) else { continue };
        let file = PositionedFile::open(path).map_err(|error| error.with_kind(Kind::Failed))?;
        extent.hash = match hashes.remove(index) {
            Some(hash) => Some(hash),
            None => Some(full_hash(&file)?),
        };
        // Looked at after all of it was read: it may change even now.
        if Fingerprint::of(&file)? != source.fingerprint {
            return Err(Error::failed(format!("{} changed while it was being loaded", path.display()))
                .hint("its rows may be of both versions: vecload loads undo takes them back"));
        }
    }
    Ok(complete)
}

/// Makes the ledger's rows about this load few. That all rows are in does not hang on it.
async fn compact_blocks(load: &Prepared) {
    let Some(run) = load.claim.run else { return };
    let sources = load.source_ids().into_iter().zip(&load.plan.sources);
    let by_id: HashMap<i64, &Reading> = sources.map(|(id, source)| (id, &source.reading)).collect();
    let unit_rows = |source_id: i64, unit: u32| match by_id.get(&source_id)? {
        Reading::Parquet { unit_rows, .. } | Reading::Synthetic { unit_rows, .. } => {
            unit_rows.get(unit as usize).copied()
        }
        Reading::Text { .. } => None,
    };
    let compacted = load.control.run(async |session| compact(session, run, &unit_rows).await).await;
    if let Err(error) = compacted {
        tracing::warn!("the ledger's rows about load {} stay many: {error}", run.load_id);
    }
}

/// Records how the load ended and writes its report.
pub(super) async fn settle(
    load: Prepared,
    outcome: Result<()>,
    counters: &Counters,
    figures: Figures,
) -> LoadOutcome {
    take_in_rest(&load, outcome.is_err()).await;
    let counted = match load.counted.filter(|_| outcome.is_ok()) {
        // Its writers have ended.
        Some(counted) => Ok(counted),
        None => count_rows(&load).await,
    };
    let rows = match counted {
        Ok(rows) => rows,
        // The server is gone; what it had last told stands.
        Err(error) => {
            tracing::debug!("no balance: {error}");
            let written = counters.write.totals().rows;
            let before: u64 = load.claim.sources.iter().map(|source| source.coverage.rows()).sum();
            let rejects: u64 = load.claim.sources.iter().map(|source| source.coverage.rejects()).sum();
            let rejected = rejects + counters.rejected.load(Ordering::Relaxed);
            RowCounts { read: written + before + rejected, loaded: written, rejected, already_loaded: before }
        }
    };
    let state = match &outcome {
        Err(error) => match error.kind() {
            Kind::Interrupted => LoadState::Interrupted,
            Kind::RejectLimit => LoadState::Stopped,
            _ => LoadState::Failed,
        },
        Ok(()) if load.claim.run.is_none() => LoadState::AlreadyLoaded,
        Ok(()) if load.is_limited() => LoadState::Limited,
        Ok(()) if rows.rejected > 0 => LoadState::Rejects,
        Ok(()) => LoadState::Complete,
    };
    let written = counters.write.totals();
    let writers = load.routing.writers();
    let report = LoadReport {
        load: load.claim.load_id,
        name: load.name.clone(),
        state,
        rows,
        bytes: ByteCounts { read: counters.bytes_read(), copied: written.bytes },
        seconds: report::seconds(load.started.elapsed()),
        rows_per_second: (rows.loaded as f64 / at_least_a_millisecond(figures.load_time).as_secs_f64())
            .round(),
        peak_rss_bytes: report::peak_rss_bytes(),
        lanes: load.plan.settings.lanes,
        writers,
        route: load.routing.route,
        bottleneck: Bottleneck::of(counters, load.plan.settings.lanes, writers).name(),
        stages: report::stages(counters),
        index: IndexReport {
            policy: load.index.name().into(),
            built: figures.built,
            seconds: report::seconds(figures.index_time),
        },
        server: load.versions.clone(),
        zero_vectors: counters.zero_vectors.load(Ordering::Relaxed),
        load_seconds: report::seconds(figures.load_time),
        table: load.plan.target.name.to_string(),
    };
    let recorded = record(&load, &report).await;
    let result = match (outcome, recorded) {
        (Err(first), _) => Err(first),
        (Ok(()), recorded) => recorded,
    };
    load.control.close().await;
    LoadOutcome { report: Some(report), result }
}

/// What a load that ends early has committed on workers: it is counted, and does not wait there for the next run.
async fn take_in_rest(load: &Prepared, has_failed: bool) {
    let Some(run) = load.claim.run.filter(|_| has_failed && load.plan.target.citus.is_some()) else {
        return;
    };
    if let Err(error) =
        load.control.run(async |session| take_in_own(session, &run, LeftPrepared::Anything).await).await
    {
        tracing::warn!("the ledger's rows on the workers are left to the next run: {error}");
    }
}

async fn record(load: &Prepared, report: &LoadReport) -> Result<()> {
    let Some(run) = load.claim.run else { return Ok(()) };
    let json = serde_json::to_value(report).map_err(|error| Error::bug("write the report").because(error))?;
    let state = report.state.name();
    load.control.run(async |session| finish_load(session, run.load_id, run.token, state, &json).await).await
}

async fn count_rows(load: &Prepared) -> Result<RowCounts> {
    let (ids, since) = (load.source_ids(), load.since());
    let (balances, loaded) = load.control.run(async |session| balance(session, &ids, since).await).await?;
    Ok(count(&balances, loaded))
}

fn count(balances: &HashMap<i64, SourceBalance>, loaded: u64) -> RowCounts {
    let committed: u64 = balances.values().map(|balance| balance.loaded).sum();
    let rejected = balances.values().map(|balance| balance.rejected).sum();
    RowCounts {
        read: committed + rejected,
        loaded,
        rejected,
        already_loaded: committed - loaded.min(committed),
    }
}
