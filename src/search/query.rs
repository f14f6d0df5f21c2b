//! The statement of a search, and how its values are sent.

use half::f16;
use pgvector::{HalfVector, Vector};
use tokio_postgres::types::ToSql;

use super::{Query, SearchRequest};
use crate::error::Result;
use crate::postgres::catalog::{Target, TargetColumn};
use crate::postgres::types::TargetType;
use crate::postgres::{quote_ident, quote_literal};

/// HNSW over a `vector` of more dimensions is built over its cast to `halfvec` (pgvector's limits).
const VECTOR_DIM_MAX: usize = 2_000;

/// How the target's columns appear in the query.
pub(super) struct Shape {
    pub(super) embedding: String,
    pub(super) half: bool,
    /// The schema of pgvector's types and operators, where the search path does not have it.
    pub(super) prefix: String,
    pub(super) dim: Option<usize>,
    pub(super) id: Option<String>,
    pub(super) content: Option<String>,
}

impl Shape {
    pub(super) fn of(target: &Target, embedding: &TargetColumn) -> Result<Self> {
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

    /// The query and the values of its parameters. With `literal` the vector is written out: EXPLAIN can't
    /// show the plan of a Citus shard for a parameter of a type that is not built in.
    pub(super) fn query<'a>(
        &self,
        target: &Target,
        request: &'a SearchRequest,
        vector: &'a [f32],
        literal: bool,
    ) -> Built<'a> {
        let mut values: Vec<Parameter<'a>> = Vec::new();
        let mut value = |parameter: Parameter<'a>| {
            if literal {
                return parameter.literal(&self.prefix);
            }
            // Columns of two and four bytes are compared with eight too.
            let cast = if matches!(parameter, Parameter::Integer(_)) { "::bigint" } else { "" };
            values.push(parameter);
            format!("${}{cast}", values.len())
        };
        let vector = value(if self.half { Parameter::Half(vector) } else { Parameter::Vector(vector) });
        let mut conditions = vec![format!("{} is not null", self.embedding)];
        if let (Some(channel), Some(column)) = (request.channel, target.channel_column()) {
            conditions.push(format!("{} = {}", quote_ident(column), value(Parameter::Integer(channel))));
        }
        if !request.conditions.is_empty() {
            let wanted = request.conditions.iter().map(|(key, text)| (key.clone(), json_value(text)));
            let wanted = serde_json::Value::Object(wanted.collect());
            conditions.push(format!("metadata @> {}", value(Parameter::Json(wanted))));
        }
        if let (Query::Like(like), Some(id)) = (&request.query, &self.id) {
            conditions.push(format!("{id} <> {}", value(Parameter::Integer(*like))));
        }
        let null = "null".to_string();
        let sql = format!(
            "select ({embedding} {distance} {vector})::float8 as distance, {id}::bigint as id,
                    {content}::text as content
             from {table} where {conditions} order by {embedding} {distance} {vector} limit {k}",
            embedding = self.embedding,
            distance = format_args!("operator({}<=>)", self.prefix),
            id = self.id.as_ref().unwrap_or(&null),
            content = self.content.as_ref().unwrap_or(&null),
            table = target.name.sql(),
            conditions = conditions.join(" and "),
            k = request.k,
        );
        Built { sql, values }
    }
}

/// A query ready to be sent.
pub(super) struct Built<'a> {
    pub(super) sql: String,
    pub(super) values: Vec<Parameter<'a>>,
}

pub(super) enum Parameter<'a> {
    Vector(&'a [f32]),
    Half(&'a [f32]),
    Integer(i64),
    Json(serde_json::Value),
}

impl Parameter<'_> {
    pub(super) fn boxed(&self) -> Box<dyn ToSql + Sync + Send> {
        match self {
            Self::Vector(values) => Box::new(Vector::from(values.to_vec())),
            Self::Half(values) => Box::new(HalfVector::from(
                values.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>(),
            )),
            Self::Integer(value) => Box::new(*value),
            Self::Json(value) => Box::new(value.clone()),
        }
    }

    fn literal(&self, prefix: &str) -> String {
        let text = |values: &[f32]| {
            let numbers: Vec<String> = values.iter().map(f32::to_string).collect();
            quote_literal(&format!("[{}]", numbers.join(",")))
        };
        match self {
            Self::Vector(values) => format!("{}::{prefix}vector", text(values)),
            Self::Half(values) => format!("{}::{prefix}halfvec", text(values)),
            Self::Integer(value) => format!("({value})::bigint"),
            Self::Json(value) => format!("{}::jsonb", quote_literal(&value.to_string())),
        }
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
