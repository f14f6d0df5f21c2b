//! Whether a named source is one that the ledger knows, and still the same.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use tokio_postgres::{Client, GenericClient, Transaction};

use super::claim::NamedSource;
use crate::error::{Context, Error, Result};
use crate::postgres::catalog::Target;
use crate::postgres::pg_error;
use crate::source::Place;
use crate::source::fingerprint::full_hash;
use crate::source::parquet::PositionedFile;

/// Sources that one statement asks for or tells of: enough to forget the round trip, few enough to hold twice.
pub(super) const SOURCES_PER_STATEMENT: usize = 32 * 1024;

/// A source that the ledger knows.
pub(super) struct Known {
    pub(super) source_id: i64,
    pub(super) occurrence: i32,
    pub(super) state: String,
    /// Shared by all that have the same.
    pub(super) recipe: Arc<serde_json::Value>,
    pub(super) modified_nanos: i64,
    pub(super) full_hash: Option<String>,
    pub(super) load_id: i64,
}

/// For each of these sources those of its content that are known in the target, by occurrence.
pub(super) async fn known_sources(
    client: &impl GenericClient,
    target: &Target,
    sources: &[NamedSource],
) -> Result<Vec<Vec<Known>>> {
    let failed = |error| pg_error("look up sources in the ledger", error);
    let sql = "select wanted.number, source_id, occurrence, state, recipe::text as recipe, modified_nanos, full_hash,
            load_id
        from unnest($2::text[]) with ordinality as wanted(fingerprint, number)
            join vecload_ledger.sources s on s.target = $1 and s.fingerprint = wanted.fingerprint
        order by wanted.number, occurrence";
    let mut recipes: HashMap<String, Arc<serde_json::Value>> = HashMap::new();
    let mut all = Vec::with_capacity(sources.len());
    for chunk in sources.chunks(SOURCES_PER_STATEMENT) {
        let first = all.len();
        all.resize_with(first + chunk.len(), Vec::new);
        let wanted: Vec<&str> = chunk.iter().map(|source| source.fingerprint.content.as_str()).collect();
        for row in client.query(sql, &[&target.oid, &wanted]).await.map_err(failed)? {
            let text: String = row.get("recipe");
            let recipe = match recipes.get(&text) {
                Some(recipe) => Arc::clone(recipe),
                None => {
                    let parsed = serde_json::from_str(&text);
                    let parsed = parsed.or_failed(|| "read a recipe in the ledger".into())?;
                    Arc::clone(recipes.entry(text).or_insert(Arc::new(parsed)))
                }
            };
            let number: i64 = row.get("number");
            all[first + number as usize - 1].push(Known {
                source_id: row.get("source_id"),
                occurrence: row.get("occurrence"),
                state: row.get("state"),
                recipe,
                modified_nanos: row.get("modified_nanos"),
                full_hash: row.get("full_hash"),
                load_id: row.get("load_id"),
            });
        }
    }
    Ok(all)
}

/// The known source that a named one is without any doubt: same recipe and untouched since.
pub(super) fn exact<'a>(
    source: &NamedSource,
    known: &'a [Known],
    taken: &BTreeSet<i64>,
    again: bool,
) -> Option<&'a Known> {
    known.iter().find(|known| {
        !taken.contains(&known.source_id)
            && known.recipe == source.recipe
            && known.modified_nanos == source.fingerprint.modified_nanos
            // An interrupted `--again` goes on instead of starting one more.
            && (!again || known.state == "open")
    })
}

/// The known source that a named one continues, if any, after the exact ones are taken.
pub(super) fn likely<'a>(
    source: &NamedSource,
    known: &'a [Known],
    taken: &BTreeSet<i64>,
    target: &Target,
) -> Result<Option<&'a Known>> {
    let free = || known.iter().filter(|known| !taken.contains(&known.source_id));
    let mut same_recipe = free().filter(|known| known.recipe == source.recipe);
    let best = same_recipe.clone().find(|known| known.state == "complete").or_else(|| same_recipe.next());
    match (best, free().next()) {
        (Some(best), _) => Ok(Some(best)),
        (None, None) => Ok(None),
        (None, Some(other)) => Err(Error::refused(format!(
            "{} was loaded into {} by load {} with another recipe: then {}, now {}",
            source.place, target.name, other.load_id, other.recipe, source.recipe
        ))
        .hint("give the same --map and --set as then, or --again to load its rows once more with these")),
    }
}

/// Hashes of files whose fingerprint is known with another modification time, where an earlier load has
/// stored the whole file's hash. Read before the claim's transaction: a large file takes a while.
pub(super) async fn full_hashes(
    client: &Client,
    target: &Target,
    sources: &[NamedSource],
) -> Result<HashMap<PathBuf, String>> {
    let mut hashes = HashMap::new();
    for (source, known) in sources.iter().zip(known_sources(client, target, sources).await?) {
        let differs = |known: &Known| known.modified_nanos != source.fingerprint.modified_nanos;
        if let Place::File(path) = &source.place
            && known.iter().any(|known| differs(known) && known.full_hash.is_some())
        {
            let of = path.clone();
            let hash = tokio::task::spawn_blocking(move || {
                PositionedFile::open(&of).and_then(|file| full_hash(&file))
            });
            let hash = hash.await.map_err(|error| Error::bug("hash a source").because(error))??;
            hashes.insert(path.clone(), hash);
        }
    }
    Ok(hashes)
}

/// Same fingerprint and another modification time: the full hash decides, where there is one. Says whether the new
/// time is to be noted.
pub(super) fn same_content(
    source: &NamedSource,
    known: &Known,
    target: &Target,
    hashes: &HashMap<PathBuf, String>,
) -> Result<bool> {
    if known.modified_nanos == source.fingerprint.modified_nanos {
        return Ok(false);
    }
    let hash = match &source.place {
        Place::File(path) => hashes.get(path),
        _ => None,
    };
    let (Some(stored), Some(hash)) = (&known.full_hash, hash) else {
        return Err(changed(source, known.load_id, target, "its modification time changed"));
    };
    if hash != stored {
        return Err(Error::refused(format!(
            "{} looks like the file that load {} loaded into {} and differs from it in some bytes",
            source.place, known.load_id, target.name
        ))
        .hint(format!(
            "to load it besides: --again; to replace what was loaded: vecload loads undo {}, then load",
            known.load_id
        )));
    }
    Ok(true)
}

/// Notes new modification times of sources.
pub(super) async fn note_times(transaction: &Transaction<'_>, times: &[(i64, i64)]) -> Result<()> {
    let (source_ids, times): (Vec<i64>, Vec<i64>) = times.iter().copied().unzip();
    let update = "update vecload_ledger.sources s set modified_nanos = new.modified_nanos
        from unnest($1::bigint[], $2::bigint[]) as new(source_id, modified_nanos)
        where s.source_id = new.source_id";
    let updated = transaction.execute(update, &[&source_ids, &times]).await;
    updated.map(|_| ()).map_err(|error| pg_error("update sources in the ledger", error))
}

/// Refuses a file that changed while a load of it was unfinished: half old rows, half new ones help nobody. These
/// are sources whose content is new.
pub(super) async fn unchanged_since_interrupted(
    transaction: &Transaction<'_>,
    sources: &[&NamedSource],
    target: &Target,
) -> Result<()> {
    // Only a file keeps its name when its content changes.
    let files: Vec<&NamedSource> =
        sources.iter().copied().filter(|source| matches!(source.place, Place::File(_))).collect();
    let sql = "select wanted.number, load_id from unnest($2::text[]) with ordinality as wanted(name, number)
            join vecload_ledger.sources s on s.target = $1 and s.name = wanted.name and s.state = 'open'
        order by wanted.number limit 1";
    for chunk in files.chunks(SOURCES_PER_STATEMENT) {
        let names: Vec<&str> = chunk.iter().map(|source| source.name.as_str()).collect();
        let row = transaction.query_opt(sql, &[&target.oid, &names]).await;
        if let Some(row) = row.map_err(|error| pg_error("look up sources in the ledger", error))? {
            let number: i64 = row.get(0);
            return Err(changed(chunk[number as usize - 1], row.get(1), target, "its content changed"));
        }
    }
    Ok(())
}

fn changed(source: &NamedSource, load_id: i64, target: &Target, how: &str) -> Error {
    Error::refused(format!(
        "{} is partly loaded into {} (load {load_id}), and {how} since",
        source.place,
        target.name
    ))
    .hint(format!(
        "put the old file back (with its time: cp -p) and run again; or take the part back: vecload loads undo \
         {load_id}; or keep the part and forget it: vecload loads forget {load_id}; or load all of the file besides: \
         --again"
    ))
}
