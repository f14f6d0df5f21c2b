//! Nearest neighbours by cosine distance, in one channel or everywhere.

mod query;
mod route;

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use self::query::{Parameter, Shape};
pub use self::route::Route;
use crate::error::{Error, Result};
use crate::postgres::catalog::{ServerVersions, Target, TargetColumn};
use crate::postgres::types::TargetType;
use crate::postgres::{Session, pg_error, quote_ident};

/// What HNSW looks at by default (`hnsw.ef_search`); it must not be below `k`.
const EF_SEARCH_DEFAULT: u32 = 40;

/// pgvector's limit of it.
pub const EF_SEARCH_MAX: u32 = 1000;

/// What to look for.
#[derive(Debug, Clone)]
pub enum Query {
    /// Neighbours of this vector.
    Vector(Vec<f32>),
    /// Neighbours of the row with this id.
    Like(i64),
    /// Neighbours of a random direction.
    Random,
}

/// A search.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    /// What to look for.
    pub query: Query,
    /// Only in this channel.
    pub channel: Option<i64>,
    /// Only rows whose metadata has these.
    pub conditions: Vec<(String, String)>,
    /// Number of results.
    pub k: u32,
    /// `hnsw.ef_search`, if set.
    pub ef_search: Option<u32>,
    /// Whether the plan is wanted.
    pub explain: bool,
}

/// One row found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// Cosine distance: 0 is the same direction, 1 is unrelated, 2 is opposite; NaN against a vector of zeros.
    pub distance: f64,
    /// The row's id, if the table has an integer id.
    pub id: Option<i64>,
    /// Its text, if the table has one.
    pub content: Option<String>,
}

/// What a search found.
#[derive(Debug, Clone, Serialize)]
pub struct SearchResult {
    /// Nearest first.
    pub hits: Vec<Hit>,
    /// Text of the row that was asked about.
    pub like: Option<String>,
    /// Time from sending the query to its last row, in seconds.
    pub seconds: f64,
    /// Whether the index came back short and all rows were compared.
    pub exact: bool,
    /// The `hnsw.ef_search` it ran with: as asked, else as the server has it, and not below the number of results.
    pub ef_search: u32,
    /// Shards and nodes that were asked, if Citus distributes the table.
    pub route: Option<Route>,
    /// The plan, if it was asked for.
    pub plan: Option<Vec<String>>,
}

/// Runs a search.
pub async fn search(
    session: &mut Session,
    target: &Target,
    versions: &ServerVersions,
    request: &SearchRequest,
) -> Result<SearchResult> {
    let is_vector =
        |column: &&TargetColumn| column.target_type.as_ref().and_then(TargetType::vector_dim).is_some();
    let vectors: Vec<_> = target.columns.iter().filter(is_vector).collect();
    let embedding = vectors.iter().find(|column| column.name == "embedding").or(vectors.first()).copied();
    let Some(embedding) = embedding else {
        return Err(Error::refused(format!("table {} has no vector column", target.name))
            .hint("name the right table with --table"));
    };
    let shape = Shape::of(target, embedding)?;
    check_channel(target, request.channel)?;
    let has_metadata =
        target.column("metadata").is_some_and(|column| column.target_type == Some(TargetType::Jsonb));
    if !request.conditions.is_empty() && !has_metadata {
        return Err(Error::refused(format!("table {} has no jsonb column metadata", target.name))
            .hint("search without --where"));
    }
    let mut route = Route::of(session, target, request.channel).await?;
    let (vector, like) = query_vector(session, target, &shape, request, route.as_mut()).await?;
    if shape.dim.is_some_and(|dim| dim != vector.len()) {
        return Err(Error::refused(format!(
            "the query has {} dimensions, and {}.{} is {}",
            vector.len(),
            target.name,
            embedding.name,
            embedding.type_name
        ))
        .hint("embed the query with the model that made the table's embeddings"));
    }
    if vector.iter().any(|value| !value.is_finite()) {
        return Err(Error::refused("the query has an element that is NaN or infinite"));
    }
    let first = run(session, target, versions, request, &shape, &vector, false).await?;
    // An index scan filters after the fact, and gives up after `hnsw.max_scan_tuples` rows.
    let short = first.hits.len() < request.k as usize;
    let mut result = match short {
        true => {
            let all = run(session, target, versions, request, &shape, &vector, true).await?;
            if all.hits.len() > first.hits.len() { all } else { first }
        }
        false => first,
    };
    result.like = like;
    result.route = route;
    Ok(result)
}

/// Refuses a channel that the target can't have.
fn check_channel(target: &Target, channel: Option<i64>) -> Result<()> {
    let Some(channel) = channel else { return Ok(()) };
    let Some(column) = target.channel_column().and_then(|name| target.column(name)) else {
        return Err(Error::refused(format!("table {} has no integer column channel_id", target.name))
            .hint("search without --channel"));
    };
    let fits = match column.target_type {
        Some(TargetType::Int2) => i16::try_from(channel).is_ok(),
        Some(TargetType::Int4) => i32::try_from(channel).is_ok(),
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::refused(format!(
            "--channel {channel} is out of the range of {}.{}, which is {}",
            target.name, column.name, column.type_name
        ))),
    }
}

async fn query_vector(
    session: &Session,
    target: &Target,
    shape: &Shape,
    request: &SearchRequest,
    route: Option<&mut Route>,
) -> Result<(Vec<f32>, Option<String>)> {
    match &request.query {
        Query::Vector(vector) => Ok((vector.clone(), None)),
        Query::Random => {
            let dim = shape
                .dim
                .ok_or_else(|| Error::refused("the table's column has no dimension; give --vector"))?;
            Ok((random_direction(dim), None))
        }
        Query::Like(id) => {
            let Some(id_column) = &shape.id else {
                return Err(Error::refused(format!("table {} has no integer column id", target.name))
                    .hint("search with --vector FILE or --random"));
            };
            let row = look_up(session, target, shape, request.channel, (id_column, *id), route).await?;
            let Some(row) = row else {
                return Err(Error::refused(format!("table {} has no row with id {id}", target.name))
                    .hint("vecload search --random finds some rows and their ids"));
            };
            let mut vector = Vec::new();
            let text: Option<String> = row.get(0);
            crate::batch::embedding::read_text(text.unwrap_or_default().as_bytes(), &mut vector)
                .map_err(|reason| Error::failed(format!("read the embedding of row {id}: {reason}")))?;
            Ok((vector, row.get(1)))
        }
    }
}

/// Looks up embedding and content of a row. Of a distributed table, the shard of the channel is asked first: most often
/// the row is in the channel whose neighbours are sought.
async fn look_up(
    session: &Session,
    target: &Target,
    shape: &Shape,
    channel: Option<i64>,
    (id_column, id): (&str, i64),
    route: Option<&mut Route>,
) -> Result<Option<tokio_postgres::Row>> {
    let failed = |error| session.error(format!("look up row {id} of {}", target.name), error);
    let content = shape.content.as_deref().unwrap_or("null");
    let sql = format!(
        "select ({})::text, {content}::text from {} where {id_column} = $1::bigint",
        shape.embedding,
        target.name.sql()
    );
    if let Some(route) = route {
        if let (Some(channel), Some(column)) = (channel, target.channel_column()) {
            let in_channel = format!("{sql} and {} = $2::bigint limit 1", quote_ident(column));
            let row = session.query_opt(&in_channel, &[&id, &channel]).await.map_err(failed)?;
            if row.is_some() {
                route.lookup_shards = route.shards;
                return Ok(row);
            }
        }
        route.lookup_shards = route.of;
    }
    session.query_opt(&format!("{sql} limit 1"), &[&id]).await.map_err(failed)
}

async fn run(
    session: &mut Session,
    target: &Target,
    versions: &ServerVersions,
    request: &SearchRequest,
    shape: &Shape,
    vector: &[f32],
    exact: bool,
) -> Result<SearchResult> {
    let failed = |error| pg_error("search", error);
    if versions.citus.is_some() {
        // Without it the settings below would stay on the coordinator.
        session.batch_execute("set citus.propagate_set_commands = 'local'").await.map_err(failed)?;
    }
    let transaction = session.transaction().await.map_err(failed)?;
    let ef_search = match request.ef_search {
        Some(ef_search) => ef_search,
        None => server_ef_search(&transaction).await.map_err(failed)?,
    };
    let ef_search = ef_search.max(request.k).min(EF_SEARCH_MAX);
    for setting in settings(versions, request, ef_search, exact) {
        transaction.batch_execute(&setting).await.map_err(failed)?;
    }
    let built = shape.query(target, request, vector, false);
    let values: Vec<_> = built.values.iter().map(Parameter::boxed).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value.as_ref() as _).collect();
    let started = Instant::now();
    let rows = transaction.query(&built.sql, &parameters).await.map_err(failed)?;
    let seconds = seconds(started.elapsed());
    let plan = match request.explain {
        true => {
            let explain = format!("explain (costs off) {}", shape.query(target, request, vector, true).sql);
            let lines = transaction.simple_query(&explain).await.map_err(failed)?;
            Some(lines.iter().filter_map(text_of).collect())
        }
        false => None,
    };
    transaction.rollback().await.map_err(failed)?;
    let hit = |row: &tokio_postgres::Row| Hit { distance: row.get(0), id: row.get(1), content: row.get(2) };
    let hits = rows.iter().map(hit).collect();
    Ok(SearchResult { hits, like: None, seconds, exact, ef_search, route: None, plan })
}

/// What the database, the role or `vecload tune` has set; pgvector's default where nobody has.
async fn server_ef_search(transaction: &Transaction<'_>) -> Result<u32, tokio_postgres::Error> {
    let row = transaction.query_one("select current_setting('hnsw.ef_search', true)", &[]).await?;
    let set: Option<String> = row.get(0);
    Ok(set.and_then(|set| set.parse().ok()).unwrap_or(EF_SEARCH_DEFAULT))
}

/// Settings for the search's own transaction.
fn settings(versions: &ServerVersions, request: &SearchRequest, ef_search: u32, exact: bool) -> Vec<String> {
    let mut settings = vec![format!("set local hnsw.ef_search = {ef_search}")];
    let filtered = request.channel.is_some()
        || !request.conditions.is_empty()
        || matches!(request.query, Query::Like(_));
    let can_iterate = versions.pgvector.as_deref().is_some_and(|version| {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next(), parts.next()) >= (Some(0), Some(8))
    });
    if filtered && can_iterate {
        // Goes on through the index until enough rows pass the filter (pgvector 0.8.0).
        settings.push("set local hnsw.iterative_scan = strict_order".into());
    }
    if exact {
        settings.push("set local enable_indexscan = off".into());
    }
    settings
}

fn text_of(message: &tokio_postgres::SimpleQueryMessage) -> Option<String> {
    match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(|line| {
            // The vector itself fills pages.
            match line.find("'[") {
                Some(start) => format!(
                    "{}'[…]'{}",
                    &line[..start],
                    line[start..].split_once("]'").map_or("", |rest| rest.1)
                ),
                None => line.to_string(),
            }
        }),
        _ => None,
    }
}

/// A direction that differs at each call; its quality as randomness does not matter.
fn random_direction(dim: usize) -> Vec<f32> {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    let values: Vec<f32> = (0..dim)
        .map(|index| {
            // A sum of uniform numbers is close to normal, and normal coordinates make a uniform direction.
            let bits = state.hash_one(index);
            (0..4).map(|part| ((bits >> (part * 16)) & 0xffff) as f32 / 65_535.0 - 0.5).sum()
        })
        .collect();
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    values.into_iter().map(|value| value / length).collect()
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
