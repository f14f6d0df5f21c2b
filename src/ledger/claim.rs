//! The start of a run: which sources are known, who holds them, and what is left to do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio_postgres::{Client, Row, Transaction};

use super::blocks::Run;
use super::committed::read_committed;
use super::compaction::delete_replaced;
use super::coverage::Coverage;
use super::known::{
    SOURCES_PER_STATEMENT, exact, full_hashes, known_sources, likely, note_times, same_content,
    unchanged_since_interrupted,
};
use super::outbox::{LeftPrepared, take_in};
use super::takeover::take_over;
use super::units::KnownUnits;
use super::{ALIVE_LOCK, START_LOCK};
use crate::error::{Error, Result};
use crate::postgres::catalog::Target;
use crate::postgres::pg_error;
use crate::source::Place;
use crate::source::fingerprint::Fingerprint;

/// A source as the command names it.
#[derive(Debug, Clone)]
pub struct NamedSource {
    /// What it is read from.
    pub place: Place,
    /// What the ledger calls it.
    pub name: String,
    /// Its format.
    pub kind: &'static str,
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// Number of units, where it is known before all is read.
    pub units: Option<u32>,
    /// Number of rows, likewise.
    pub rows: Option<u64>,
    /// Mapping and options that shape its rows.
    pub recipe: Arc<serde_json::Value>,
}

/// What a run asks for.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// `--name`.
    pub name: Option<String>,
    /// `--again`: load sources that are loaded already once more.
    pub again: bool,
    /// What becomes of secondary indexes.
    pub index_plan: &'static str,
    /// The sources, in the order of the command.
    pub sources: Vec<NamedSource>,
}

/// A source that this run may work on.
#[derive(Debug)]
pub struct ClaimedSource {
    /// Its id in the ledger.
    pub source_id: i64,
    /// Whether all its rows are in.
    pub is_complete: bool,
    /// All its rows, where the ledger knows.
    pub rows: Option<u64>,
    /// Its units that earlier runs have read, where a scan cuts them.
    pub units: KnownUnits,
    /// What earlier runs have committed.
    pub coverage: Coverage,
}

/// The outcome of a claim.
#[derive(Debug)]
pub struct Claim {
    /// The run; `None` if every source is loaded already.
    pub run: Option<Run>,
    /// The load that this run belongs to; if all is loaded, the load of the first source.
    pub load_id: i64,
    /// Whether the run goes on with an earlier load.
    pub resumed: bool,
    /// Index plan and dropped indexes of the load, which a resumption inherits.
    pub index_plan: String,
    /// Definitions of indexes that the load has dropped.
    pub dropped_indexes: Vec<String>,
    /// The sources, in the order of the request.
    pub sources: Vec<ClaimedSource>,
}

enum Choice {
    Known { source_id: i64, load_id: i64, is_complete: bool },
    New { occurrence: i32 },
}

/// Claims the sources of a request. The connection must stay open while the run lasts: it holds the lock
/// that shows that the run is alive. What stands against writing refuses the claim, unless all is loaded already.
pub async fn claim(
    client: &mut Client,
    target: &Target,
    request: &ClaimRequest,
    refusal: Option<Error>,
) -> Result<Claim> {
    let failed = |error| pg_error("claim the sources in the ledger", error);
    let hashes = full_hashes(client, target, &request.sources).await?;
    let transaction = client.transaction().await.map_err(failed)?;
    let start = "select pg_advisory_xact_lock($1, $2)";
    transaction.execute(start, &[&START_LOCK, &target.oid.cast_signed()]).await.map_err(failed)?;

    let choices = choose_all(&transaction, target, request, &hashes).await?;
    let unfinished = unfinished_loads(&transaction, &choices).await?;
    if let Some(refusal) =
        refusal.filter(|_| !unfinished.is_empty() || !choices.iter().all(Choice::is_complete))
    {
        return Err(refusal);
    }
    for load_id in &unfinished {
        take_over(&transaction, *load_id).await?;
    }
    if target.citus.is_some() && !unfinished.is_empty() {
        let unfinished: Vec<i64> = unfinished.iter().copied().collect();
        take_in(&transaction, &unfinished, LeftPrepared::Anything).await?;
    }
    finish_compactions(&transaction, &choices).await?;
    let mut claim = Claim::nothing();
    if unfinished.is_empty() && choices.iter().all(Choice::is_complete) {
        claim.load_id = choices.first().and_then(Choice::load_id).unwrap_or(0);
    } else {
        let resumed = resumable(&transaction, &unfinished, &choices).await?;
        let row = match resumed {
            Some(load_id) => resume(&transaction, load_id).await?,
            None => insert_load(&transaction, target, request, &unfinished).await?,
        };
        claim.run = Some(Run {
            load_id: row.get("load_id"),
            run: row.get("runs"),
            token: row.get("token"),
            target: target.oid,
        });
        claim.load_id = row.get("load_id");
        claim.resumed = resumed.is_some();
        claim.index_plan = row.get("index_plan");
        claim.dropped_indexes = row.get("dropped_indexes");
    }
    claim.sources = insert_sources(&transaction, target, request, &choices, claim.load_id).await?;
    if let Some(run) = &claim.run {
        let source_ids: Vec<i64> = claim.sources.iter().map(|source| source.source_id).collect();
        let holder = "update vecload_ledger.sources set load_id = $1
            where source_id = any($2) and state = 'open' and load_id <> $1";
        transaction.execute(holder, &[&run.load_id, &source_ids]).await.map_err(failed)?;
        let alive = "select pg_advisory_lock($1, $2)";
        transaction.execute(alive, &[&ALIVE_LOCK, &(run.load_id as i32)]).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    // Of sources that nobody knew nothing is there to be read.
    if choices.iter().any(|choice| matches!(choice, Choice::Known { .. })) {
        read_committed(client, &mut claim.sources).await?;
    }
    Ok(claim)
}

/// Finds for each named source the known one that it continues. Exact matches come first, so that the order of
/// the command does not matter.
async fn choose_all(
    transaction: &Transaction<'_>,
    target: &Target,
    request: &ClaimRequest,
    hashes: &HashMap<PathBuf, String>,
) -> Result<Vec<Choice>> {
    let known = known_sources(transaction, target, &request.sources).await?;
    let mut taken = BTreeSet::new();
    let mut exact_ids = Vec::with_capacity(request.sources.len());
    for (source, known) in request.sources.iter().zip(&known) {
        let found = exact(source, known, &taken, request.again);
        taken.extend(found.map(|known| known.source_id));
        exact_ids.push(found);
    }
    let mut choices = Vec::with_capacity(request.sources.len());
    let mut new_occurrences: HashMap<&str, i32> = HashMap::new();
    let (mut new, mut times) = (Vec::new(), Vec::new());
    for ((source, known), exact) in request.sources.iter().zip(&known).zip(exact_ids) {
        let found = match exact {
            None if !request.again => likely(source, known, &taken, target)?,
            exact => exact,
        };
        if let Some(known) = found {
            if same_content(source, known, target, hashes)? {
                times.push((known.source_id, source.fingerprint.modified_nanos));
            }
            taken.insert(known.source_id);
            choices.push(Choice::Known {
                source_id: known.source_id,
                load_id: known.load_id,
                is_complete: known.state == "complete",
            });
            continue;
        }
        new.push(source);
        let highest = known.iter().map(|known| known.occurrence).max().unwrap_or(-1);
        let next = new_occurrences.entry(&source.fingerprint.content).or_insert(highest + 1);
        choices.push(Choice::New { occurrence: *next });
        *next += 1;
    }
    if !request.again {
        unchanged_since_interrupted(transaction, &new, target).await?;
    }
    note_times(transaction, &times).await?;
    Ok(choices)
}

impl Choice {
    fn is_complete(&self) -> bool {
        matches!(self, Self::Known { is_complete: true, .. })
    }

    fn source_id(&self) -> Option<i64> {
        match self {
            Self::Known { source_id, .. } => Some(*source_id),
            Self::New { .. } => None,
        }
    }

    fn load_id(&self) -> Option<i64> {
        match self {
            Self::Known { load_id, .. } => Some(*load_id),
            Self::New { .. } => None,
        }
    }
}

/// Loads that hold an open source of these, or whose rows are in and whose indexes may not be.
async fn unfinished_loads(transaction: &Transaction<'_>, choices: &[Choice]) -> Result<BTreeSet<i64>> {
    let mut loads: BTreeSet<i64> =
        choices.iter().filter(|choice| !choice.is_complete()).filter_map(Choice::load_id).collect();
    let complete: Vec<i64> =
        choices.iter().filter(|choice| choice.is_complete()).filter_map(Choice::load_id).collect();
    let cut_off = "select load_id from vecload_ledger.loads
        where load_id = any($1) and (state = 'running' or dropped_indexes <> '{}'
                or state in ('failed', 'interrupted') and index_plan in ('defer', 'rebuild'))
            and not exists (select 1 from vecload_ledger.sources s
                where s.load_id = loads.load_id and s.state = 'open')";
    let rows = transaction.query(cut_off, &[&complete]).await;
    let rows = rows.map_err(|error| pg_error("look up unfinished loads", error))?;
    loads.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    Ok(loads)
}

impl Claim {
    fn nothing() -> Self {
        Self {
            run: None,
            load_id: 0,
            resumed: false,
            index_plan: String::new(),
            dropped_indexes: Vec::new(),
            sources: Vec::new(),
        }
    }
}

/// Deletes what merged rows stand for, of loads that were cut off before they did.
async fn finish_compactions(transaction: &Transaction<'_>, choices: &[Choice]) -> Result<()> {
    let loads: BTreeSet<i64> = choices.iter().filter_map(Choice::load_id).collect();
    let loads: Vec<i64> = loads.into_iter().collect();
    let cut_off =
        "select distinct load_id, token from vecload_ledger.blocks join vecload_ledger.loads using (load_id)
        where replaces is not null and load_id = any($1)";
    let rows = transaction.query(cut_off, &[&loads]).await;
    for row in rows.map_err(|error| pg_error("look up compactions that were cut off", error))? {
        delete_replaced(transaction, row.get(0), row.get(1)).await?;
    }
    Ok(())
}

/// The one unfinished load, if its open sources are all named and nothing else is to be loaded.
async fn resumable(
    transaction: &Transaction<'_>,
    unfinished: &BTreeSet<i64>,
    choices: &[Choice],
) -> Result<Option<i64>> {
    let only = match (unfinished.len(), unfinished.first()) {
        (1, Some(only)) if !choices.iter().any(|choice| matches!(choice, Choice::New { .. })) => *only,
        _ => return Ok(None),
    };
    let open = "select source_id from vecload_ledger.sources where load_id = $1 and state = 'open'";
    let rows = transaction.query(open, &[&only]).await;
    let rows = rows.map_err(|error| pg_error("look up a load's sources", error))?;
    let named: HashSet<i64> = choices.iter().filter_map(Choice::source_id).collect();
    Ok(rows.iter().all(|row| named.contains(&row.get(0))).then_some(only))
}

async fn resume(transaction: &Transaction<'_>, load_id: i64) -> Result<Row> {
    transaction
        .query_one(
            "update vecload_ledger.loads set state = 'running', runs = runs + 1, host = $2, process_id = $3,
                 version = $4,
                 run_started_at = clock_timestamp(), finished_at = null
             where load_id = $1 returning load_id, runs, token, index_plan, dropped_indexes",
            &[&load_id, &host(), &process(), &env!("CARGO_PKG_VERSION")],
        )
        .await
        .map_err(|error| pg_error(format!("resume load {load_id}"), error))
}

/// A new load; it inherits what unfinished loads owe the table's indexes.
async fn insert_load(
    transaction: &Transaction<'_>,
    target: &Target,
    request: &ClaimRequest,
    unfinished: &BTreeSet<i64>,
) -> Result<Row> {
    let unfinished: Vec<i64> = unfinished.iter().copied().collect();
    transaction
        .query_one(
            "with owed as (select * from vecload_ledger.loads where load_id = any($8))
             insert into vecload_ledger.loads
                 (name, target, target_name, state, token, host, process_id, version, index_plan, dropped_indexes)
             select $1, $2, $3, 'running', 1, $4, $5, $6,
                 case when exists (select from owed where index_plan = 'defer') then 'defer' else $7 end,
                 array(select distinct d from owed, unnest(dropped_indexes) d)
             returning load_id, runs, token, index_plan, dropped_indexes",
            &[
                &request.name,
                &target.oid,
                &target.name.to_string(),
                &host(),
                &process(),
                &env!("CARGO_PKG_VERSION"),
                &request.index_plan,
                &unfinished,
            ],
        )
        .await
        .map_err(|error| pg_error("record the load in the ledger", error))
}

/// Records the new sources, and gives all in the order of the request, as yet without what is in.
async fn insert_sources(
    transaction: &Transaction<'_>,
    target: &Target,
    request: &ClaimRequest,
    choices: &[Choice],
    load_id: i64,
) -> Result<Vec<ClaimedSource>> {
    let insert = "insert into vecload_ledger.sources
            (target, fingerprint, occurrence, kind, name, size_bytes, modified_nanos, recipe, state,
            units, rows, load_id)
        select $1, s.fingerprint, s.occurrence, s.kind, s.name, s.size_bytes, s.modified_nanos,
            ($9::text[])[s.recipe]::jsonb, 'open', s.units, s.rows, $2
        from unnest($3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $10::integer[],
                $11::integer[], $12::bigint[])
            as s(fingerprint, occurrence, kind, name, size_bytes, modified_nanos, recipe, units, rows)
        returning fingerprint, occurrence, source_id";
    let failed = |error| pg_error("record sources in the ledger", error);
    let new = request.sources.iter().zip(choices).filter_map(|(source, choice)| match choice {
        Choice::Known { .. } => None,
        Choice::New { occurrence } => Some((source, *occurrence)),
    });
    let new: Vec<(&NamedSource, i32)> = new.collect();
    let mut ids: HashMap<(String, i32), i64> = HashMap::with_capacity(new.len());
    for chunk in new.chunks(SOURCES_PER_STATEMENT) {
        let texts = |text: fn(&NamedSource) -> &str| -> Vec<&str> {
            chunk.iter().map(|(source, _)| text(source)).collect()
        };
        let numbers = |number: fn(&NamedSource) -> i64| -> Vec<i64> {
            chunk.iter().map(|(source, _)| number(source)).collect()
        };
        let occurrences: Vec<i32> = chunk.iter().map(|(_, occurrence)| *occurrence).collect();
        // Files of one kind have one recipe, which is sent once.
        let mut recipes: Vec<&Arc<serde_json::Value>> = Vec::new();
        let recipe_numbers: Vec<i32> = chunk
            .iter()
            .map(|(source, _)| {
                if recipes.last().is_none_or(|last| !Arc::ptr_eq(last, &source.recipe)) {
                    recipes.push(&source.recipe);
                }
                recipes.len() as i32
            })
            .collect();
        let recipes: Vec<String> = recipes.iter().map(ToString::to_string).collect();
        let units: Vec<Option<i32>> =
            chunk.iter().map(|(source, _)| source.units.map(u32::cast_signed)).collect();
        let rows: Vec<Option<i64>> =
            chunk.iter().map(|(source, _)| source.rows.map(u64::cast_signed)).collect();
        let inserted = transaction
            .query(
                insert,
                &[
                    &target.oid,
                    &load_id,
                    &texts(|source| &source.fingerprint.content),
                    &occurrences,
                    &texts(|source| source.kind),
                    &texts(|source| &source.name),
                    &numbers(|source| source.fingerprint.size.cast_signed()),
                    &numbers(|source| source.fingerprint.modified_nanos),
                    &recipes,
                    &recipe_numbers,
                    &units,
                    &rows,
                ],
            )
            .await
            .map_err(failed)?;
        ids.extend(inserted.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))));
    }
    let claimed = request.sources.iter().zip(choices).map(|(source, choice)| {
        let source_id = match choice {
            Choice::Known { source_id, .. } => Some(*source_id),
            Choice::New { occurrence } => {
                ids.get(&(source.fingerprint.content.clone(), *occurrence)).copied()
            }
        };
        Ok(ClaimedSource {
            source_id: source_id.ok_or_else(|| Error::bug(format!("{} was not recorded", source.place)))?,
            is_complete: choice.is_complete(),
            rows: None,
            units: KnownUnits::default(),
            coverage: Coverage::default(),
        })
    });
    claimed.collect()
}

fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".into())
}

fn process() -> i32 {
    std::process::id().cast_signed()
}
