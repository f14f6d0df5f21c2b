//! The start of a load: target, plan and claim. Until the claim nothing is written.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::control::Control;
use super::load::{Prepared, REBUILD, blocking};
use super::observer::Observer;
use super::opened::OpenedSource;
use super::plan::{IndexPolicy, LoadPlan};
use super::preflight;
use super::request::LoadRequest;
use super::routing::choose;
use super::steady::Connector;
use crate::error::{Error, Kind, Result};
use crate::ledger;
use crate::ledger::claim::{ClaimRequest, NamedSource, claim};
use crate::ledger::settle::{Extent, commit_durably};
use crate::partition::Partitions;
use crate::postgres::catalog::{ServerVersions, Target};
use crate::postgres::migrate::{TableSpec, migrate_target};
use crate::postgres::types::TargetType;
use crate::postgres::watch::Backend;
use crate::postgres::{Session, SessionOptions};
use crate::route::Routing;

/// Prepares a load over as many sessions as it takes. A server that was never reached is waited for only if the user
/// has said for how long: more often than it is down, its address is wrong.
pub(super) async fn prepare_in_tries(
    request: &LoadRequest,
    sources: &Arc<Vec<OpenedSource>>,
    connector: &Connector,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let options = SessionOptions { application_name: Some("vecload load".into()), transaction_timeout: None };
    // No row was written.
    let refused = |error: Error| match error.kind() {
        Kind::Failed => error.with_kind(Kind::Refused),
        _ => error,
    };
    let mut tries = connector.retry.tries();
    let mut is_known = request.settings.waits_for_server;
    let mut before = None;
    loop {
        let prepared = match connector.connect.connect(&options).await {
            Ok(session) => {
                is_known = true;
                match begin(&session, &mut before).await {
                    Ok(backend) => prepare((session, backend), request, sources, connector, observer).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match prepared {
            Err(error) if is_known && (error.is_lost() || request.settings.waits_for_server) => {
                tries.pause(error, &connector.stop).await.map_err(refused)?;
            }
            prepared => return prepared.map_err(refused),
        }
    }
}

/// Readies the session of a try. The one before may have claimed the load and hold it still.
async fn begin(session: &Session, before: &mut Option<Backend>) -> Result<Backend> {
    // A claim that a crash could take back would give the next loader the same token.
    commit_durably(session).await?;
    if let Some(lost) = before {
        lost.end(session).await?;
    }
    Ok(before.insert(Backend::of(session).await?).clone())
}

async fn prepare(
    (mut control, backend): (Session, Backend),
    request: &LoadRequest,
    sources: &Arc<Vec<OpenedSource>>,
    connector: &Connector,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let started = Instant::now();
    let connect = &connector.connect;
    let plan_for = |target: Target| {
        let (sources, mapping, settings) =
            (Arc::clone(sources), request.mapping.clone(), request.settings.clone());
        blocking(move || preflight::plan(target, &sources, &mapping, settings))
    };
    let target = match Target::find(&control, &request.table).await? {
        Some(target) => target,
        None if request.create => {
            let (opened, mapping) = (Arc::clone(sources), request.mapping.clone());
            let memory = request.settings.memory;
            let dim = blocking(move || preflight::source_dimension(&opened, &mapping, memory)).await?;
            let spec = TableSpec::standard(request.table.clone(), dim);
            // The mapping is tried on the table as it will be, before it is made.
            plan_for(Target::standard(spec.name.clone(), TargetType::Vector(Some(dim)))).await?;
            let migrated = migrate_target(&control, &spec).await?;
            let target = migrated.target;
            observer.say(&format!("created table {} with embeddings of {dim} dimensions", target.name));
            migrated.notes.iter().for_each(|note| observer.say(note));
            target
        }
        None => {
            return Err(Error::refused(format!("there is no table {} at {}", request.table, connect.describe())).hint(
                "create it: vecload migrate --dim N; or let load create it with the source's dimension: --create",
            ));
        }
    };
    if target.citus.as_ref().is_some_and(|citus| citus.on_worker) {
        return Err(Error::refused(format!("{} is a worker of a Citus cluster", connect.describe()))
            .hint("connect to the coordinator: the ledger is there, and it knows what is loaded already"));
    }
    let plan = plan_for(target).await?;
    let versions = ServerVersions::of(&control).await?;
    ledger::prepare(&mut control).await?;

    // Of a distributed table all shards are asked.
    let is_empty = match request.index {
        IndexPolicy::Auto | IndexPolicy::Defer => plan.target.is_empty(&control).await?,
        IndexPolicy::Keep | IndexPolicy::None => false,
    };
    let index = match (request.index, is_empty) {
        (IndexPolicy::Auto | IndexPolicy::Defer, _) if !plan.target.indexes_can_change => {
            if request.index == IndexPolicy::Defer {
                return Err(Error::refused(format!(
                    "--index defer: only its owner may drop and build indexes of {}, and not of a partitioned table",
                    plan.target.name
                ))
                .hint("load with --index keep, or as the table's owner"));
            }
            observer.say("indexes are left as they are: the table is not ours, or partitioned");
            IndexPolicy::Keep
        }
        (IndexPolicy::Auto, true) => IndexPolicy::Defer,
        (IndexPolicy::Auto, false) => IndexPolicy::Keep,
        (given, _) => given,
    };
    let index_plan = match index {
        IndexPolicy::Defer if !is_empty => REBUILD,
        other => other.name(),
    };
    let (routing, refusal) = match choose(&control, connect, &plan).await {
        Ok(routing) => (routing, None),
        // What passes, such as a worker that is down, is no matter where all is loaded already.
        Err(refusal) if refusal.is_transient() => {
            let (columns, writers) = (&plan.copy_columns[..], plan.settings.writers);
            let none = Routing::by_name(&plan.target, columns, None, Partitions::even(1), writers);
            (Arc::new(none), Some(refusal))
        }
        Err(refusal) => return Err(refusal),
    };
    // Until the claim is committed nothing is written.
    let request_of_it = claim_request(&plan, request, index_plan);
    let claimed = claim(&mut control, &plan.target, &request_of_it, refusal).await?;
    // A resumption finds rows in the table; what the load's first run decided still holds.
    let index = match claimed.index_plan.as_str() {
        "defer" | REBUILD if request.index == IndexPolicy::Auto => IndexPolicy::Defer,
        "none" if request.index == IndexPolicy::Auto => IndexPolicy::None,
        _ => index,
    };
    if claimed.resumed {
        observer.say(&format!("going on with load {}", claimed.load_id));
    }
    let known = plan.sources.iter().zip(&claimed.sources).map(|(source, claimed)| {
        // What is complete was read to its end.
        let counted = claimed.rows.filter(|_| claimed.is_complete);
        let units = claimed.units.len() as u32;
        source.extent().or(counted.map(|rows| Extent { units, rows, hash: None }))
    });
    let extents = known.map(|extent| extent.map_or_else(OnceLock::new, OnceLock::from)).collect();
    let connector = Connector { label: format!("vecload load {}", claimed.load_id), ..connector.clone() };
    Ok(Prepared {
        routing,
        control: Control::new(connector.clone(), control, backend, claimed.run),
        connector,
        first_run: claimed.run.map_or(1, |run| run.run),
        extents,
        plan: Arc::new(plan),
        claim: claimed,
        index,
        versions,
        name: request.name.clone(),
        started,
        counted: None,
    })
}

fn claim_request(plan: &LoadPlan, request: &LoadRequest, index_plan: &'static str) -> ClaimRequest {
    let named = |source: &super::plan::PlannedSource| NamedSource {
        place: source.place.clone(),
        name: source.name.clone(),
        kind: source.kind(),
        fingerprint: source.fingerprint.clone(),
        units: source.extent().map(|extent| extent.units),
        rows: source.extent().map(|extent| extent.rows),
        recipe: Arc::clone(&source.recipe),
    };
    ClaimRequest {
        name: request.name.clone(),
        again: request.again,
        index_plan,
        sources: plan.sources.iter().map(named).collect(),
    }
}
