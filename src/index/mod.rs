//! Secondary indexes: which ones the target gets, dropped before a load and built after it.

mod build;

pub use build::{BuildProgress, build};
use serde::Serialize;
use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::catalog::Target;
use crate::postgres::types::TargetType;
use crate::postgres::{pg_error, quote_ident};

/// pgvector indexes a `vector` of at most so many dimensions, a `halfvec` of twice as many (its README,
/// "HNSW").
const VECTOR_DIM_MAX: usize = 2_000;
const HALFVEC_DIM_MAX: usize = 4_000;

/// Index names share the 63 bytes of a name with a suffix that Citus adds.
const NAME_BYTES_MAX: usize = 48;

/// An index to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexDefinition {
    /// Its name.
    pub name: String,
    /// The statement that creates it.
    pub sql: String,
}

impl IndexDefinition {
    /// Takes the name from a definition as `pg_get_indexdef` writes it: `CREATE INDEX name ON …`.
    pub fn parse(sql: String) -> Option<Self> {
        let rest = sql.strip_prefix("CREATE INDEX ")?;
        let name = match rest.strip_prefix('"') {
            // A quote within a quoted name is doubled.
            Some(quoted) => quoted.replace("\"\"", "\0").split('"').next()?.replace('\0', "\""),
            None => rest.split(' ').next()?.to_string(),
        };
        Some(Self { name, sql })
    }
}

/// The indexes that a target should have, and what can't be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandardIndexes {
    /// HNSW by cosine distance, and one for each supporting column that is there.
    pub indexes: Vec<IndexDefinition>,
    /// Why there is no HNSW among them.
    pub without_hnsw: Option<String>,
}

/// The indexes of a target with this embedding column.
pub fn standard_indexes(target: &Target, embedding: &str) -> StandardIndexes {
    let mut standard = StandardIndexes::default();
    let integers = [TargetType::Int2, TargetType::Int4, TargetType::Int8];
    let times = [TargetType::Timestamptz, TargetType::Timestamp];
    for (name, types, access) in [
        ("channel_id", &integers[..], "btree"),
        ("user_id", &integers[..], "btree"),
        ("created_at", &times[..], "btree"),
        ("metadata", &[TargetType::Jsonb][..], "gin"),
    ] {
        let found = target.column(name).and_then(|column| column.target_type.as_ref());
        if found.is_some_and(|found| types.contains(found)) {
            standard.indexes.push(define(target, name, &format!("using {access} ({})", quote_ident(name))));
        }
    }
    let Some(column) = target.column(embedding) else {
        return standard;
    };
    let (quoted, prefix) = (quote_ident(&column.name), &column.type_prefix);
    let hnsw = match &column.target_type {
        Some(TargetType::Vector(Some(dim))) if *dim <= VECTOR_DIM_MAX => {
            format!("({quoted} {prefix}vector_cosine_ops)")
        }
        Some(TargetType::Vector(Some(dim))) if *dim <= HALFVEC_DIM_MAX => {
            format!("(({quoted}::{prefix}halfvec({dim})) {prefix}halfvec_cosine_ops)")
        }
        Some(TargetType::Halfvec(Some(dim))) if *dim <= HALFVEC_DIM_MAX => {
            format!("({quoted} {prefix}halfvec_cosine_ops)")
        }
        Some(TargetType::Vector(dim) | TargetType::Halfvec(dim)) => {
            let what = dim.map_or("a column without a dimension".into(), |dim| format!("{dim} dimensions"));
            standard.without_hnsw = Some(format!(
                "pgvector builds HNSW indexes over at most {HALFVEC_DIM_MAX} dimensions, not over {what}"
            ));
            return standard;
        }
        _ => return standard,
    };
    standard.indexes.push(define(target, &column.name, &format!("using hnsw {hnsw}")));
    standard
}

/// Whether two definitions index the same thing the same way, whatever their names.
pub fn same_index(one: &IndexDefinition, other: &IndexDefinition) -> bool {
    let what = |definition: &IndexDefinition| {
        let sql = definition.sql.to_ascii_lowercase().replace('"', "");
        sql.split_once(" using ").map(|(_, what)| what.trim().to_string())
    };
    one.name == other.name || (what(one).is_some() && what(one) == what(other))
}

fn define(target: &Target, column: &str, what: &str) -> IndexDefinition {
    let mut name = format!("{}_{column}_idx", target.name.name);
    if name.len() > NAME_BYTES_MAX {
        let hash = twox_hash::XxHash3_64::oneshot(name.as_bytes()) as u32;
        let mut end = NAME_BYTES_MAX - 9;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name = format!("{}_{hash:08x}", &name[..end]);
    }
    let sql = format!("create index {} on {} {what}", quote_ident(&name), target.name.sql());
    IndexDefinition { name, sql }
}

/// Definitions of the target's indexes that no constraint needs and that are not unique.
pub async fn secondary_indexes(client: &Client, target: &Target) -> Result<Vec<IndexDefinition>> {
    let rows = client
        .query(
            "select c.relname, pg_get_indexdef(i.indexrelid) as definition
             from pg_index i join pg_class c on c.oid = i.indexrelid
             where i.indrelid = $1 and not i.indisunique and not i.indisprimary
               and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
             order by c.relname",
            &[&target.oid],
        )
        .await
        .map_err(|error| pg_error(format!("list the indexes of {}", target.name), error))?;
    Ok(rows.iter().map(|row| IndexDefinition { name: row.get(0), sql: row.get(1) }).collect())
}

/// Drops indexes of the target's schema. Waits for readers of the table, but not for long: searches that come
/// later queue behind it.
pub async fn drop_indexes(client: &Client, target: &Target, indexes: &[IndexDefinition]) -> Result<()> {
    let failed = |error| {
        pg_error(format!("drop the indexes of {}", target.name), error)
            .hint("a long query holds the table: wait for it and run again, or load with --index keep")
    };
    let schema =
        target.name.schema.as_deref().map(|schema| format!("{}.", quote_ident(schema))).unwrap_or_default();
    client.batch_execute("set lock_timeout = '15s'").await.map_err(failed)?;
    for index in indexes {
        let sql = format!("drop index if exists {schema}{}", quote_ident(&index.name));
        client.batch_execute(&sql).await.map_err(failed)?;
    }
    client.batch_execute("set lock_timeout = 0").await.map_err(failed)
}
