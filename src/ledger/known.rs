//! Whether a named source is one that the ledger knows, and still the same.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use tokio_postgres::{Client, GenericClient, Row, Transaction};

use super::claim::NamedSource;
use crate::error::{Error, Result};
use crate::postgres::catalog::Target;
use crate::postgres::pg_error;
use crate::source::Place;
use crate::source::fingerprint::full_hash;
use crate::source::parquet::PositionedFile;

/// A source that the ledger knows.
pub(super) struct Known {
    pub(super) source_id: i64,
    pub(super) occurrence: i32,
    pub(super) state: String,
    pub(super) recipe: serde_json::Value,
    pub(super) modified_nanos: i64,
    pub(super) full_hash: Option<String>,
    pub(super) load_id: i64,
}

/// Sources of this content in the target, by occurrence.
pub(super) async fn known_sources(
    client: &impl GenericClient,
    target: &Target,
    source: &NamedSource,
) -> Result<Vec<Known>> {
    let rows = client
        .query(
            "select source_id, occurrence, state, recipe, modified_nanos, full_hash, load_id from vecload_ledger.sources
             where target = $1 and fingerprint = $2 order by occurrence",
            &[&target.oid, &source.fingerprint.content],
        )
        .await
        .map_err(|error| pg_error("look up sources in the ledger", error))?;
    let known = |row: &Row| Known {
        source_id: row.get("source_id"),
        occurrence: row.get("occurrence"),
        state: row.get("state"),
        recipe: row.get("recipe"),
        modified_nanos: row.get("modified_nanos"),
        full_hash: row.get("full_hash"),
        load_id: row.get("load_id"),
    };
    Ok(rows.iter().map(known).collect())
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
    for source in sources {
        let known = known_sources(client, target, source).await?;
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

/// Same fingerprint and another modification time: the full hash decides, where there is one.
pub(super) async fn same_content(
    transaction: &Transaction<'_>,
    source: &NamedSource,
    known: &Known,
    target: &Target,
    hashes: &HashMap<PathBuf, String>,
) -> Result<()> {
    if known.modified_nanos == source.fingerprint.modified_nanos {
        return Ok(());
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
    transaction
        .execute(
            "update vecload_ledger.sources set modified_nanos = $2 where source_id = $1",
            &[&known.source_id, &source.fingerprint.modified_nanos],
        )
        .await
        .map(|_| ())
        .map_err(|error| pg_error("update a source in the ledger", error))
}

/// Refuses a file that changed while a load of it was unfinished: half old rows, half new ones help nobody.
pub(super) async fn unchanged_since_interrupted(
    transaction: &Transaction<'_>,
    source: &NamedSource,
    target: &Target,
) -> Result<()> {
    // Only a file keeps its name when its content changes.
    if !matches!(source.place, Place::File(_)) {
        return Ok(());
    }
    let row = transaction
        .query_opt(
            "select load_id from vecload_ledger.sources where target = $1 and name = $2 and state = 'open' limit 1",
            &[&target.oid, &source.name],
        )
        .await
        .map_err(|error| pg_error("look up sources in the ledger", error))?;
    match row {
        Some(row) => Err(changed(source, row.get(0), target, "its content changed")),
        None => Ok(()),
    }
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
