//! `vecload loads`

use serde_json::json;

use super::args::{LoadsArguments, LoadsCommand};
use super::printer::{grouped, shown_seconds};
use super::rejected_rows;
use super::server::Context;
use crate::error::Result;
use crate::ledger::outbox::{self, Waiting};
use crate::ledger::{self, history, undo};
use crate::postgres::Session;

/// Sources of a load that are listed for people; those that are not complete come first.
const SOURCES_SHOWN: usize = 100;

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: LoadsArguments) -> Result<u8> {
    let server = context.server().await?;
    let mut session = server.connect("vecload loads").await?;
    ledger::prepare(&mut session).await?;
    match arguments.command {
        None => list(context, &session).await?,
        Some(LoadsCommand::Show { id }) => show(context, &session, id).await?,
        Some(LoadsCommand::Rejects { id, rows }) => rejects(context, &session, id, rows).await?,
        Some(LoadsCommand::Undo { id }) => {
            let undone = undo::undo(&mut session, id).await?;
            match context.printer.is_json() {
                true => context
                    .printer
                    .json(&json!({ "load": id, "deleted": undone.deleted, "gone": undone.gone }))?,
                false => {
                    let gone = match undone.gone {
                        0 => String::new(),
                        gone => format!("; {} were gone already", grouped(gone.unsigned_abs())),
                    };
                    let deleted = grouped(undone.deleted.unsigned_abs());
                    context
                        .printer
                        .answer(&format!("load {id} is taken back: {deleted} rows deleted{gone}"))?;
                }
            }
        }
        Some(LoadsCommand::Forget { id }) => {
            undo::forget(&mut session, id).await?;
            match context.printer.is_json() {
                true => context.printer.json(&json!({ "load": id }))?,
                false => context.printer.answer(&format!("load {id} is forgotten; its rows stay"))?,
            }
        }
    }
    session.close().await;
    Ok(0)
}

async fn list(context: &Context<'_>, session: &Session) -> Result<()> {
    let printer = context.printer;
    let mut loads = history::list(session).await?;
    history::add_waiting(&waiting(context, session, None).await, &mut loads, &mut []);
    if printer.is_json() {
        return printer.json(&json!({ "loads": loads }));
    }
    if loads.is_empty() {
        printer.say("no loads yet");
        return Ok(());
    }
    let mut table = printer.table(&[
        "load", "name", "table", "state", "rows", "rejected", "sources", "runs", "started", "time", "rows/s",
    ]);
    for load in loads {
        table.add_row([
            load.load.to_string(),
            load.name.unwrap_or_default(),
            load.table,
            load.state,
            grouped(load.rows.unsigned_abs()),
            grouped(load.rejected.unsigned_abs()),
            load.sources.to_string(),
            load.runs.to_string(),
            load.started,
            load.seconds.map(shown_seconds).unwrap_or_default(),
            load.rows_per_second.map(|rate| grouped(rate as u64)).unwrap_or_default(),
        ]);
    }
    printer.answer(&table.trim_fmt())
}

/// Blocks of loads that were killed, or go on, as long as the workers can be asked.
async fn waiting(context: &Context<'_>, session: &Session, id: Option<i64>) -> Vec<Waiting> {
    outbox::waiting(session, id).await.unwrap_or_else(|error| {
        context.printer.warn(&format!(
            "loads that are not finished may have more rows than is told here, for the workers could not be asked: \
             {error}"
        ));
        Vec::new()
    })
}

async fn show(context: &Context<'_>, session: &Session, id: i64) -> Result<()> {
    let printer = context.printer;
    let mut load = history::find(session, id).await?;
    let mut sources = history::sources(session, id).await?;
    let waiting = waiting(context, session, Some(id)).await;
    history::add_waiting(&waiting, std::slice::from_mut(&mut load), &mut sources);
    if printer.is_json() {
        return printer.json(&json!({ "load": load, "sources": sources }));
    }
    let name = load.name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
    printer.answer(&format!("load {id}{name} into {}: {}", load.table, load.state))?;
    let row = |name: &str, value: String| printer.answer(&format!("  {name:<10}{value}"));
    row("started", load.started)?;
    row("runs", load.runs.to_string())?;
    row("rows", grouped(load.rows.unsigned_abs()))?;
    row("rejected", grouped(load.rejected.unsigned_abs()))?;
    if let (Some(seconds), Some(rate)) = (load.seconds, load.rows_per_second) {
        row("last run", format!("{}, {} rows/s", shown_seconds(seconds), grouped(rate as u64)))?;
    }
    let mut table = printer.table(&["source", "state", "rows", "loaded", "rejected"]);
    sources.sort_by_key(|source| source.state == "complete");
    let more = sources.len().saturating_sub(SOURCES_SHOWN);
    for source in sources.into_iter().take(SOURCES_SHOWN) {
        let rows = source.rows.map_or("unknown".into(), |rows| grouped(rows.unsigned_abs()));
        let [loaded, rejected] = [source.loaded, source.rejected].map(|count| grouped(count.unsigned_abs()));
        table.add_row([source.source, source.state, rows, loaded, rejected]);
    }
    printer.answer(&table.trim_fmt())?;
    match more {
        0 => Ok(()),
        _ => printer.answer(&format!("and {} more: --json lists all", grouped(more as u64))),
    }
}

async fn rejects(
    context: &Context<'_>,
    session: &Session,
    id: i64,
    out: Option<std::path::PathBuf>,
) -> Result<()> {
    let printer = context.printer;
    history::find(session, id).await?;
    let rejects = history::rejects(session, id).await?;
    if let Some(out) = out {
        let count = rejects.len();
        let path = out.clone();
        let written = tokio::task::spawn_blocking(move || rejected_rows::write(&path, &rejects)).await;
        written.map_err(|panic| crate::error::Error::bug("write rejected rows").because(panic))??;
        if printer.is_json() {
            return printer.json(&json!({ "load": id, "rows": count, "out": out }));
        }
        printer.say(&format!("{} rejected rows written to {}", grouped(count as u64), out.display()));
        return Ok(());
    }
    if printer.is_json() {
        return printer.json(&json!({ "load": id, "rejects": rejects }));
    }
    if rejects.is_empty() {
        printer.say(&format!("load {id} rejected no row"));
        return Ok(());
    }
    let mut table = printer.table(&["source", "place", "column", "reason", "value"]);
    for reject in rejects {
        table.add_row([
            reject.source,
            match reject.line {
                Some(line) => format!("line {line}"),
                None => format!("row group {}, row {}", reject.unit, reject.row),
            },
            reject.column,
            reject.reason,
            reject.excerpt,
        ]);
    }
    printer.answer(&table.trim_fmt())
}
