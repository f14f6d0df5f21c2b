//! `vecload migrate`

use serde::Serialize;

use super::args::MigrateArguments;
use super::printer::counted;
use super::progress::LoadProgress;
use super::server::Context;
use crate::error::{Error, Result};
use crate::index;
use crate::ledger;
use crate::pipeline::observer::Observer;
use crate::postgres::catalog::{ServerVersions, Target};
use crate::postgres::citus::{Cluster, Kind};
use crate::postgres::distribute::DistributionSpec;
use crate::postgres::migrate::{TableSpec, migrate_target};

#[derive(Serialize)]
struct Status {
    table: String,
    exists: bool,
    created: bool,
    columns: Vec<String>,
    indexes: Vec<String>,
    distributed_by: Option<String>,
    shards: Option<i64>,
    citus: Option<Cluster>,
    ledger: Option<i64>,
    server: ServerVersions,
}

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: MigrateArguments) -> Result<u8> {
    let printer = context.printer;
    let server = context.server().await?;
    let mut session = server.connect("vecload migrate").await?;
    let file = &context.file.migrate;
    let name = context.table()?;
    let mut created = false;
    if !arguments.status {
        let spec = TableSpec {
            name: name.clone(),
            dim: arguments.dim.unwrap_or(file.dim),
            vector_type: arguments.vector_type.unwrap_or(file.vector_type),
            vectors: arguments.vectors.unwrap_or(file.vectors),
            vectors_are_given: arguments.vectors.is_some(),
            distribution: DistributionSpec {
                shards: arguments.shards.unwrap_or(file.shards),
                is_exact: arguments.shards.is_some(),
                with_rows: arguments.distribute,
            },
        };
        if !arguments.no_index {
            can_be_indexed(&spec)?;
        }
        let migrated = migrate_target(&session, &spec).await?;
        created = migrated.created;
        let target = migrated.target;
        migrated.notes.iter().for_each(|note| printer.say(note));
        if !arguments.no_index {
            let mut wanted = index::standard_indexes(&target, "embedding").indexes;
            let present = index::secondary_indexes(&session, &target).await?;
            wanted.retain(|index| !present.iter().any(|other| index::same_index(index, other)));
            let watcher = server.connect("vecload migrate").await?;
            let progress = LoadProgress::new(printer);
            let built =
                index::build(&session, &watcher, &target, &wanted, &|name, at| progress.indexing(name, at))
                    .await;
            progress.indexed(built.is_ok());
            built?;
            watcher.close().await;
        }
        ledger::prepare(&mut session).await?;
    }
    let status = status(&session, &name, created).await?;
    session.close().await;
    if printer.is_json() {
        printer.json(&status)?;
    } else {
        print(context, &status)?;
    }
    Ok(0)
}

/// Refuses before anything is made what could not be indexed after it.
fn can_be_indexed(spec: &TableSpec) -> Result<()> {
    use crate::postgres::migrate::VectorType;
    use crate::postgres::types::TargetType;
    let embedding = match spec.vector_type {
        VectorType::Vector => TargetType::Vector(Some(spec.dim)),
        VectorType::Halfvec => TargetType::Halfvec(Some(spec.dim)),
    };
    let planned = Target::standard(spec.name.clone(), embedding);
    match index::standard_indexes(&planned, "embedding").without_hnsw {
        Some(why) => Err(Error::refused(why).hint("give --no-index, or embeddings of fewer dimensions")),
        None => Ok(()),
    }
}

async fn status(
    session: &crate::postgres::Session,
    name: &crate::postgres::QualifiedName,
    created: bool,
) -> Result<Status> {
    let target = Target::find(session, name).await?;
    let indexes = match &target {
        Some(target) => index::secondary_indexes(session, target).await?,
        None => Vec::new(),
    };
    let columns = |target: &Target| {
        target.columns.iter().map(|column| format!("{} {}", column.name, column.type_name)).collect()
    };
    let distribution = target.as_ref().and_then(|target| target.citus.clone());
    Ok(Status {
        table: target.as_ref().map_or(name.to_string(), |target| target.name.to_string()),
        exists: target.is_some(),
        created,
        columns: target.as_ref().map(columns).unwrap_or_default(),
        indexes: indexes.into_iter().map(|index| index.name).collect(),
        distributed_by: distribution.as_ref().map(|citus| citus.column.clone()),
        shards: distribution.map(|citus| citus.shards),
        citus: Cluster::of(session, name).await?,
        ledger: ledger::applied(session).await?,
        server: ServerVersions::of(session).await?,
    })
}

fn print(context: &Context<'_>, status: &Status) -> Result<()> {
    let printer = context.printer;
    let state = match (status.exists, status.created) {
        (false, _) => "does not exist; vecload migrate creates it",
        (true, true) => "created",
        (true, false) => "is there",
    };
    printer.answer(&format!("table {} {state}", status.table))?;
    let row = |name: &str, value: String| printer.answer(&format!("  {name:<14}{value}"));
    if status.exists {
        row("columns", status.columns.join(", "))?;
        row("indexes", if status.indexes.is_empty() { "none".into() } else { status.indexes.join(", ") })?;
        let kind = status.citus.as_ref().and_then(|citus| citus.table).filter(|kind| *kind != Kind::Local);
        let distributed = match (&status.distributed_by, status.shards, kind) {
            (Some(column), Some(shards), _) => format!("by {column}, {shards} shards"),
            (.., Some(kind)) => format!("no: it is {}", kind.name()),
            _ => "no".into(),
        };
        row("distributed", distributed)?;
    }
    if let Some(citus) = &status.citus {
        print_cluster(citus, &row)?;
    }
    row("ledger", status.ledger.map_or("none yet".into(), |version| format!("version {version}")))?;
    let server = &status.server;
    let or_none = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".into());
    row("PostgreSQL", server.postgres.clone())?;
    row("pgvector", or_none(&server.pgvector))?;
    row("Citus", or_none(&server.citus))
}

fn print_cluster(citus: &Cluster, row: &impl Fn(&str, String) -> Result<()>) -> Result<()> {
    let name = if citus.is_worker { "worker" } else { "coordinator" };
    row("this node", format!("a {name}"))?;
    if !citus.is_worker && citus.coordinator().is_none() {
        row("coordinator", "not registered: citus_set_coordinator_host gives it its address".into())?;
    }
    for node in &citus.nodes {
        let name = if node.is_coordinator { "coordinator" } else { "worker" };
        let state = if node.is_active { "" } else { ", not active" };
        row(
            name,
            format!("{}, {}{state}", node.address, counted(node.shards.unsigned_abs(), "shard", "shards")),
        )?;
    }
    if citus.workers().next().is_none() {
        row("workers", "none".into())?;
    }
    Ok(())
}
