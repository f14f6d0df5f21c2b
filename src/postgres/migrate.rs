//! The target table of [`crate::postgres::catalog::Target`], made or found fit.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::catalog::Target;
use super::distribute::{DistributionSpec, Plan};
use super::types::TargetType;
use super::{QualifiedName, pg_error};
use crate::error::{Error, Kind, Result};

/// One statement per file and message: Citus refuses several DDL commands in one.
const EXTENSION: &str = include_str!("../../migrations/target/01_extension.sql");
const SEQUENCE: &str = include_str!("../../migrations/target/02_sequence.sql");
const TABLE: &str = include_str!("../../migrations/target/03_table.sql");

/// pgvector's limits on a column: 16,000 dimensions of either type.
const DIM_MAX: usize = 16_000;

/// The most there is: a row that fits a page stays in it whole (PostgreSQL manual, "CREATE TABLE", storage parameters).
pub const TOAST_TUPLE_TARGET_MAX: u32 = 8160;

/// Bytes of a vector that leave room for the rest of its row in a page.
const INLINE_BYTES_MAX: usize = 8000;

/// Longest name of a table that `migrate` creates.
const NAME_BYTES_MAX: usize = 55;

/// The embedding's type.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum VectorType {
    /// 4 bytes an element.
    #[default]
    Vector,
    /// 2 bytes an element, up to 65,504.
    Halfvec,
}

/// Where the embeddings of a table lie.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum VectorPlace {
    /// In the TOAST table, as pgvector has it.
    #[default]
    Toast,
    /// In the row's own page, where the row fits one: loads faster; reading rows without their vectors gets slower.
    Inline,
}

/// What the table should be.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Its name.
    pub name: QualifiedName,
    /// Dimension of the embeddings.
    pub dim: usize,
    /// Type of the embeddings.
    pub vector_type: VectorType,
    /// Where they lie.
    pub vectors: VectorPlace,
    /// Whether a table that has them elsewhere is refused.
    pub vectors_are_given: bool,
    /// How it is distributed, where Citus is.
    pub distribution: DistributionSpec,
}

impl TableSpec {
    /// The table that is made where nothing else is asked for.
    pub fn standard(name: QualifiedName, dim: usize) -> Self {
        Self {
            name,
            dim,
            vector_type: VectorType::default(),
            vectors: VectorPlace::default(),
            vectors_are_given: false,
            distribution: DistributionSpec::default(),
        }
    }
}

/// What has become of the table.
#[derive(Debug)]
pub struct Migrated {
    /// The table.
    pub target: Target,
    /// Whether it was made now.
    pub created: bool,
    /// What the user should know about its distribution.
    pub notes: Vec<String>,
}

/// Makes extension and table, and distributes the table where Citus is; an existing table is inspected. What stands
/// against it is refused before anything is changed.
pub async fn migrate_target(client: &Client, spec: &TableSpec) -> Result<Migrated> {
    if spec.dim == 0 || spec.dim > DIM_MAX {
        return Err(Error::refused(format!("{} dimensions; pgvector takes 1 to {DIM_MAX}", spec.dim)));
    }
    can_lie_there(spec)?;
    // The sequence and the indexes add to the name, and the server cuts what is longer than 63 bytes.
    if spec.name.name.len() > NAME_BYTES_MAX {
        return Err(Error::refused(format!(
            "table name {} is longer than {NAME_BYTES_MAX} bytes",
            spec.name
        ))
        .hint("choose a shorter one with --table"));
    }
    // Two loads may want to create the same table.
    let lock = "select pg_advisory_lock(1986356077, hashtext($1))";
    client.query(lock, &[&spec.name.name]).await.map_err(|error| pg_error("lock the table's name", error))?;
    let migrated = find_or_create(client, spec).await;
    let unlock = "select pg_advisory_unlock(1986356077, hashtext($1))";
    client
        .query(unlock, &[&spec.name.name])
        .await
        .map_err(|error| pg_error("unlock the table's name", error))?;
    migrated
}

async fn find_or_create(client: &Client, spec: &TableSpec) -> Result<Migrated> {
    let existing = Target::find(client, &spec.name).await?;
    if let Some(existing) = &existing {
        fits(existing, spec)?;
        lies_there(client, existing, spec).await?;
    }
    let plan = Plan::make(client, &spec.name, existing.as_ref(), &spec.distribution).await?;
    ensure_extension(client).await?;
    let (name, created) = match existing {
        Some(existing) => (existing.name, false),
        None => (create(client, spec).await?, true),
    };
    let notes = plan.carry_out(client, &name).await?;
    let target = Target::find(client, &name).await?;
    let target =
        target.ok_or_else(|| Error::bug(format!("table {name} is not there after it was migrated")))?;
    Ok(Migrated { target, created, notes })
}

/// Makes the table and gives its full name.
async fn create(client: &Client, spec: &TableSpec) -> Result<QualifiedName> {
    let doing = format!("create table {}", spec.name);
    let schema = match &spec.name.schema {
        Some(schema) => schema.clone(),
        None => {
            let row =
                client.query_one("select current_schema()", &[]).await.map_err(|e| pg_error(&doing, e))?;
            row.get::<_, Option<String>>(0).ok_or_else(|| {
                Error::refused("the search_path names no schema that exists")
                    .hint("name one: --table SCHEMA.NAME, or set the role's search_path")
            })?
        }
    };
    let name = QualifiedName::new(Some(&schema), &spec.name.name);
    let vector_type = match spec.vector_type {
        VectorType::Vector => "vector",
        VectorType::Halfvec => "halfvec",
    };
    let settings = [
        ("vecload.schema", schema),
        ("vecload.table", spec.name.name.clone()),
        ("vecload.embedding_type", format!("{}({})", qualified_type(client, vector_type).await?, spec.dim)),
    ];
    for (setting, value) in settings {
        set(client, setting, &value).await?;
    }
    // Before the table is distributed, or its shards would not have it.
    let place = match spec.vectors {
        VectorPlace::Toast => String::new(),
        VectorPlace::Inline => {
            format!("alter table {} set (toast_tuple_target = {TOAST_TUPLE_TARGET_MAX})", name.sql())
        }
    };
    // All or none: what fails here is a refusal, and leaves nothing behind.
    for statement in ["begin", SEQUENCE, TABLE, &place, "commit"] {
        if let Err(error) = client.batch_execute(statement).await {
            if let Err(rollback) = client.batch_execute("rollback").await {
                tracing::debug!("rollback: {rollback}");
            }
            return Err(pg_error(&doing, error).with_kind(Kind::Refused));
        }
    }
    Ok(name)
}

async fn ensure_extension(client: &Client) -> Result<()> {
    if has_extension(client).await? {
        return Ok(());
    }
    let Err(error) = client.batch_execute(EXTENSION).await else { return Ok(()) };
    // Another session made it at the same time.
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) && has_extension(client).await? {
        return Ok(());
    }
    Err(pg_error("create the extension vector", error).with_kind(Kind::Refused).hint(
        "install pgvector on the database server (package postgresql-NN-pgvector, or build it), \
         then run `create extension vector` as a superuser",
    ))
}

async fn has_extension(client: &Client) -> Result<bool> {
    let there = "select exists (select from pg_extension where extname = 'vector')";
    let row = client.query_one(there, &[]).await.map_err(|error| pg_error("look for pgvector", error))?;
    Ok(row.get(0))
}

/// The type with the schema that the extension lives in, which need not be on the search path.
async fn qualified_type(client: &Client, name: &str) -> Result<String> {
    let row = client
        .query_opt(
            "select n.nspname from pg_extension e join pg_type t on t.typname = $1
             join pg_namespace n on n.oid = t.typnamespace
             join pg_depend d on d.objid = t.oid and d.refobjid = e.oid and d.deptype = 'e'
             where e.extname = 'vector'",
            &[&name],
        )
        .await
        .map_err(|error| pg_error(format!("look for the type {name}"), error))?;
    match row {
        Some(row) => Ok(QualifiedName::new(Some(row.get(0)), name).sql()),
        None => Err(Error::refused(format!("the installed pgvector has no type {name}")).hint(
            "halfvec needs pgvector 0.7.0; run `alter extension vector update` after installing a newer one",
        )),
    }
}

async fn set(client: &Client, setting: &str, value: &str) -> Result<()> {
    let set = client.execute("select set_config($1, $2, false)", &[&setting, &value]).await;
    set.map(|_| ()).map_err(|error| pg_error(format!("set {setting}"), error))
}

/// Refuses an existing table whose embedding can't hold what is asked for.
fn fits(target: &Target, spec: &TableSpec) -> Result<()> {
    let column = target.column("embedding").or_else(|| {
        target
            .columns
            .iter()
            .find(|column| column.target_type.as_ref().and_then(TargetType::vector_dim).is_some())
    });
    let table = &target.name;
    let Some(column) = column else {
        return Err(Error::refused(format!(
            "table {table} exists and has no vector column; it has {}",
            target.column_names()
        ))
        .hint("name another table with --table"));
    };
    let wanted = match spec.vector_type {
        VectorType::Vector => TargetType::Vector(Some(spec.dim)),
        VectorType::Halfvec => TargetType::Halfvec(Some(spec.dim)),
    };
    match &column.target_type {
        Some(found) if *found == wanted => Ok(()),
        _ => Err(Error::refused(format!(
            "table {table} exists with {} {}, and {wanted} is asked for",
            column.name, column.type_name
        ))
        .hint(format!(
            "give --dim and --type as the table has them, another --table, or drop it first: DROP TABLE {};",
            table.sql()
        ))),
    }
}

/// Refuses vectors in line that no page holds.
fn can_lie_there(spec: &TableSpec) -> Result<()> {
    let (element_bytes, other) = match spec.vector_type {
        VectorType::Vector => (4, ", or --type halfvec, of half the size"),
        VectorType::Halfvec => (2, ""),
    };
    let bytes = 8 + spec.dim * element_bytes;
    if spec.vectors == VectorPlace::Toast || bytes <= INLINE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::refused(format!(
        "vectors of {} dimensions take {bytes} bytes, and in line {INLINE_BYTES_MAX} at most",
        spec.dim
    ))
    .hint(format!("leave them in TOAST (--vectors toast){other}")))
}

/// Refuses an existing table that is not made for what is asked for.
async fn lies_there(client: &Client, target: &Target, spec: &TableSpec) -> Result<()> {
    if !spec.vectors_are_given {
        return Ok(());
    }
    let sql = "select exists (select from pg_class, pg_options_to_table(reloptions)
        where oid = $1 and option_name = 'toast_tuple_target' and option_value::integer >= $2)";
    let row = client.query_one(sql, &[&target.oid, &(INLINE_BYTES_MAX as i32)]).await;
    let row = row.map_err(|error| pg_error(format!("look up options of table {}", target.name), error))?;
    let (found, is, action) = match row.get(0) {
        true => (VectorPlace::Inline, "is made", "reset (toast_tuple_target)".to_owned()),
        false => (
            VectorPlace::Toast,
            "is not made",
            format!("set (toast_tuple_target = {TOAST_TUPLE_TARGET_MAX})"),
        ),
    };
    if found == spec.vectors {
        return Ok(());
    }
    Err(Error::refused(format!("table {} exists and {is} for vectors in line", target.name)).hint(format!(
        "leave out --vectors; or, for the rows that come from now on: ALTER TABLE {} {action};",
        target.name.sql()
    )))
}
