//! Nearest neighbours by cosine distance, in one channel or everywhere.

use std::time::{Duration, Instant};

use half::f16;
use pgvector::{HalfVector, Vector};
use serde::Serialize;
use tokio_postgres::types::ToSql;

use crate::error::{Error, Result};
use crate::postgres::catalog::{ServerVersions, Target, TargetColumn};
use crate::postgres::types::TargetType;
use crate::postgres::{Session, pg_error, quote_ident};

/// HNSW over a `vector` of more dimensions is built over its cast to `halfvec` (pgvector's limits).
const VECTOR_DIM_MAX: usize = 2_000;

/// What HNSW looks at by default (`hnsw.ef_search`); it must not be below `k`.
const EF_SEARCH_DEFAULT: u32 = 40;

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
    /// Cosine distance: 0 is the same direction, 1 is unrelated, 2 is opposite.
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
    if request.channel.is_some() && target.channel_column().is_none() {
        return Err(Error::refused(format!("table {} has no integer column channel_id", target.name))
            .hint("search without --channel"));
    }
    let has_metadata =
        target.column("metadata").is_some_and(|column| column.target_type == Some(TargetType::Jsonb));
    if !request.conditions.is_empty() && !has_metadata {
        return Err(Error::refused(format!("table {} has no jsonb column metadata", target.name))
            .hint("search without --where"));
    }
    let (vector, like) = query_vector(session, target, &shape, &request.query).await?;
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
    let statement = shape.statement(target, request);
    let first = run(session, versions, request, &shape, &statement, &vector, false).await?;
    // An index scan filters after the fact, and gives up after `hnsw.max_scan_tuples` rows.
    let short = first.hits.len() < request.k as usize;
    let mut result = match short {
        true => {
            let all = run(session, versions, request, &shape, &statement, &vector, true).await?;
            if all.hits.len() > first.hits.len() { all } else { first }
        }
        false => first,
    };
    result.like = like;
    Ok(result)
}

/// How the target's columns appear in the query.
struct Shape {
    embedding: String,
    half: bool,
    /// The schema of pgvector's types and operators, where the search path does not have it.
    prefix: String,
    dim: Option<usize>,
    id: Option<String>,
    content: Option<String>,
}

impl Shape {
    fn of(target: &Target, embedding: &TargetColumn) -> Result<Self> {
        let named = |names: &[&str], fits: fn(&TargetType) -> bool| {
            let fits = |column: &&TargetColumn| column.target_type.as_ref().is_some_and(fits);
            let found = names.iter().find_map(|name| target.column(name).filter(|column| fits(column)));
            found.map(|column| quote_ident(&column.name))
        };
        let quoted = quote_ident(&embedding.name);
        let dim = embedding.target_type.as_ref().and_then(TargetType::vector_dim).flatten();
        let half_column = matches!(embedding.target_type, Some(TargetType::Halfvec(_)));
        let by_cast = dim.filter(|dim| !half_column && *dim > VECTOR_DIM_MAX);
        Ok(Self {
            // The index is used only for the very expression that it was built over.
            embedding: by_cast
                .map_or(quoted.clone(), |dim| format!("({quoted}::{}halfvec({dim}))", embedding.type_prefix)),
            half: half_column || by_cast.is_some(),
            prefix: embedding.type_prefix.clone(),
            dim,
            id: named(&["id"], TargetType::is_integer),
            content: named(&["content", "text"], TargetType::is_text),
        })
    }

    fn statement(&self, target: &Target, request: &SearchRequest) -> String {
        let null = "null".to_string();
        let mut conditions = Vec::new();
        if let (Some(_), Some(column)) = (request.channel, target.channel_column()) {
            conditions.push(format!("{} = $2", quote_ident(column)));
        }
        if !request.conditions.is_empty() {
            conditions.push("metadata @> $3".into());
        }
        if let (Query::Like(_), Some(id)) = (&request.query, &self.id) {
            conditions.push(format!("{id} <> $4"));
        }
        let filter =
            if conditions.is_empty() { String::new() } else { format!("where {}", conditions.join(" and ")) };
        format!(
            "select ({embedding} {distance} $1)::float8 as distance, {id}::bigint as id, {content}::text as content
             from {table} {filter} order by {embedding} {distance} $1 limit {k}",
            distance = format_args!("operator({}<=>)", self.prefix),
            embedding = self.embedding,
            id = self.id.as_ref().unwrap_or(&null),
            content = self.content.as_ref().unwrap_or(&null),
            table = target.name.sql(),
            k = request.k,
        )
    }
}

async fn query_vector(
    session: &Session,
    target: &Target,
    shape: &Shape,
    query: &Query,
) -> Result<(Vec<f32>, Option<String>)> {
    match query {
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
            let content = shape.content.as_deref().unwrap_or("null");
            let sql = format!(
                "select ({})::text, {content}::text from {} where {id_column} = $1::bigint limit 1",
                shape.embedding,
                target.name.sql()
            );
            let row = session.query_opt(&sql, &[id]).await;
            let row =
                row.map_err(|error| session.error(format!("look up row {id} of {}", target.name), error))?;
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

async fn run(
    session: &mut Session,
    versions: &ServerVersions,
    request: &SearchRequest,
    shape: &Shape,
    statement: &str,
    vector: &[f32],
    exact: bool,
) -> Result<SearchResult> {
    let failed = |error| pg_error("search", error);
    if versions.citus.is_some() {
        // Without it the settings below would stay on the coordinator.
        session.batch_execute("set citus.propagate_set_commands = 'local'").await.map_err(failed)?;
    }
    let transaction = session.transaction().await.map_err(failed)?;
    let ef_search = request.ef_search.unwrap_or(EF_SEARCH_DEFAULT).max(request.k).min(1000);
    let mut settings = vec![format!("set local hnsw.ef_search = {ef_search}")];
    let filtered = request.channel.is_some()
        || !request.conditions.is_empty()
        || matches!(request.query, Query::Like(_));
    if filtered {
        // Goes on through the index until enough rows pass the filter (pgvector 0.8.0).
        settings.push("set local hnsw.iterative_scan = strict_order".into());
    }
    if exact {
        settings.push("set local enable_indexscan = off".into());
    }
    for setting in settings {
        transaction.batch_execute(&setting).await.map_err(failed)?;
    }
    let vector_parameter: Box<dyn ToSql + Sync + Send> = match shape.half {
        true => {
            Box::new(HalfVector::from(vector.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>()))
        }
        false => Box::new(Vector::from(vector.to_vec())),
    };
    let conditions: serde_json::Map<String, serde_json::Value> =
        request.conditions.iter().map(|(key, value)| (key.clone(), json_value(value))).collect();
    let conditions = serde_json::Value::Object(conditions);
    let like = if let Query::Like(id) = request.query { id } else { 0 };
    let all: [(&str, &(dyn ToSql + Sync)); 4] =
        [("$1", vector_parameter.as_ref()), ("$2", &request.channel), ("$3", &conditions), ("$4", &like)];
    // Parameters are numbered by what is used.
    let mut sql = statement.to_string();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = Vec::new();
    for (placeholder, value) in all {
        if sql.contains(placeholder) {
            parameters.push(value);
            sql = sql.replace(placeholder, &format!("${}", parameters.len()));
        }
    }
    let started = Instant::now();
    let rows = transaction.query(&sql, &parameters).await.map_err(failed)?;
    let seconds = seconds(started.elapsed());
    let plan = match request.explain {
        true => {
            let literal = literal_plan(&sql, vector, shape, request, &conditions, like);
            let lines = transaction.simple_query(&literal).await.map_err(failed)?;
            Some(lines.iter().filter_map(text_of).collect())
        }
        false => None,
    };
    transaction.rollback().await.map_err(failed)?;
    let hit = |row: &tokio_postgres::Row| Hit { distance: row.get(0), id: row.get(1), content: row.get(2) };
    Ok(SearchResult { hits: rows.iter().map(hit).collect(), like: None, seconds, exact, plan })
}

/// The query with its parameters written out: EXPLAIN can't show the plan of a shard for a vector parameter
/// (`docs/decisions.md`).
fn literal_plan(
    sql: &str,
    vector: &[f32],
    shape: &Shape,
    request: &SearchRequest,
    conditions: &serde_json::Value,
    like: i64,
) -> String {
    use crate::postgres::quote_literal;
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    let vector_type = if shape.half { "halfvec" } else { "vector" };
    let vector =
        format!("{}::{}{vector_type}", quote_literal(&format!("[{}]", numbers.join(","))), shape.prefix);
    let mut values = vec![vector];
    values.extend(request.channel.map(|channel| channel.to_string()));
    if !request.conditions.is_empty() {
        values.push(format!("{}::jsonb", quote_literal(&conditions.to_string())));
    }
    if matches!(request.query, Query::Like(_)) {
        values.push(like.to_string());
    }
    let mut literal = sql.to_string();
    for (index, value) in values.iter().enumerate().rev() {
        literal = literal.replace(&format!("${}", index + 1), value);
    }
    format!("explain (costs off) {literal}")
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

/// `42`, `true` and `null` are JSON, anything else is text.
fn json_value(text: &str) -> serde_json::Value {
    match serde_json::from_str(text) {
        Ok(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_) | serde_json::Value::Null)) => {
            value
        }
        _ => serde_json::Value::String(text.into()),
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
