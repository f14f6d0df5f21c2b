//! `vecload tune`

use serde::Serialize;

use super::args::TuneArguments;
use super::printer::Printer;
use super::server::Context;
use crate::cluster::Address;
use crate::config::sizes::parse_size;
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::postgres::catalog::{ServerVersions, Target};
use crate::tune::{self, Change, NodeReport, PARAMETERS, Setting, Wanted, Wishes};

/// What a key of `pipeline.toml` says where the servers are to decide.
const AUTO: &str = "auto";

#[derive(Serialize)]
struct Told {
    state: &'static str,
    settings: Vec<Setting>,
    changes: Vec<Change>,
    nodes: Vec<NodeReport>,
}

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: TuneArguments) -> Result<u8> {
    let wishes = wishes(context, &arguments)?;
    let table = context.table()?;
    let server = context.server().await?;
    let session = server.connect("vecload tune").await?;
    let versions = ServerVersions::of(&session).await?;
    let mut told = Told { state: "shown", settings: Vec::new(), changes: Vec::new(), nodes: Vec::new() };
    let mut wanted: Vec<Wanted> = Vec::new();
    if arguments.reset {
        told.changes = tune::reset(&session, &versions).await?;
        told.state = "reset";
    } else if !arguments.show {
        told.settings = tune::plan(&session, &versions, &wishes).await?;
        told.changes = tune::apply(&session, &versions, &told.settings).await?;
        told.state = if told.changes.is_empty() { "unchanged" } else { "tuned" };
        wanted = told.settings.iter().map(|setting| (setting.name, setting.value.clone())).collect();
    }
    session.close().await;
    let session = server.connect("vecload tune").await?;
    let target = match Target::find(&session, &table).await {
        Ok(target) => target,
        // A node may be down, which is told below; or the role may not read the table.
        Err(error) => {
            context.printer.warn(&format!("nodes are asked outside of shards: {error}"));
            None
        }
    };
    told.nodes = tune::prove(&session, &versions, target.as_ref()).await?;
    match context.printer.is_json() {
        true => context.printer.json(&told)?,
        false => print(context.printer, &session, &told).await?,
    }
    let verdict = verdict(&session, &told, &wanted).await;
    session.close().await;
    verdict.map(|()| 0)
}

/// A flag beats the file.
fn wishes(context: &Context<'_>, arguments: &TuneArguments) -> Result<Wishes> {
    let file = &context.file.tune;
    let given = |text: &String| (text != AUTO).then(|| text.clone());
    let parallel = match (arguments.parallel, given(&file.max_parallel_workers_per_gather)) {
        (Some(workers), _) => Some(workers),
        (None, Some(text)) => Some(text.parse().map_err(|_| {
            Error::refused(format!("max_parallel_workers_per_gather = \"{text}\" in [tune]"))
                .hint("write a number, or \"auto\"")
        })?),
        (None, None) => None,
    };
    let maintenance = arguments.maintenance_work_mem.clone().or_else(|| given(&file.maintenance_work_mem));
    let wishes = Wishes {
        ef_search: arguments.ef_search.unwrap_or(file.ef_search),
        iterative_scan: arguments.iterative_scan.unwrap_or(file.iterative_scan),
        iterative_scan_asked: arguments.iterative_scan.is_some(),
        parallel,
        maintenance_bytes: maintenance.as_deref().map(parse_size).transpose()?,
    };
    wishes.check()?;
    Ok(wishes)
}

async fn print(printer: &Printer, session: &Session, told: &Told) -> Result<()> {
    for setting in &told.settings {
        let value = setting.value.as_deref().unwrap_or("(left as it is)");
        printer.say(&format!("{} {value}: {}", setting.name, setting.why));
    }
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "the server's".into());
    for change in &told.changes {
        printer.say(&format!(
            "{}: {} before, {} now",
            change.name,
            shown(&change.before),
            shown(&change.now)
        ));
        if change.before.is_some() && !change.remembered {
            printer.warn(&format!(
                "{} can't be put back by --reset: only for superusers it is remembered",
                change.name
            ));
        }
    }
    match (told.state, told.changes.is_empty()) {
        ("reset", true) => printer.say("nothing to put back"),
        ("unchanged", _) => printer.say("the database is set so already"),
        ("tuned" | "reset", _) => {
            printer.say("sessions that are open keep the old values until they connect again");
        }
        _ => {
            let present = tune::present(session).await?;
            for name in PARAMETERS.iter().filter(|name| present.contains_key(**name)) {
                printer.say(&format!("{name}: set for this database"));
            }
        }
    }
    let mut table = printer.table(&[&["node", "seen by"], &PARAMETERS[..]].concat());
    for report in &told.nodes {
        let name = report.node.as_ref().map_or(report.role.into(), Address::to_string);
        let value = |name: &&'static str| match (&report.problem, report.settings.get(*name)) {
            (Some(_), _) => "?".into(),
            (None, value) => value.cloned().flatten().unwrap_or_else(|| "-".into()),
        };
        let by = match report.by {
            "shard" => "a query in a shard",
            "connection" => "a new connection",
            _ => "a new session",
        };
        table.add_row([vec![name, by.into()], PARAMETERS.iter().map(value).collect()].concat());
    }
    printer.answer(&table.trim_fmt())
}

/// Success is what every node has shown.
async fn verdict(session: &Session, told: &Told, wanted: &[Wanted]) -> Result<()> {
    for report in &told.nodes {
        let name = report.node.as_ref().map_or("the server".into(), Address::to_string);
        if let Some(problem) = &report.problem {
            return Err(Error::failed(format!("{name} does not show its settings: {problem}")).hint(
                "bring it back, or let this role read the table there, then look again: vecload tune --show",
            ));
        }
        let Some(parameter) = report.first_difference(wanted) else { continue };
        let found = report.settings.get(parameter).cloned().flatten();
        let why = tune::why_not(session, parameter).await?;
        return Err(Error::failed(format!(
            "{parameter} is set for the database, and a new session on {name} has {}",
            found.unwrap_or_else(|| "nothing".into())
        ))
        .hint(why.unwrap_or_else(|| {
            "look for PGOPTIONS, options in the URL, a pooler with old sessions, or ALTER DATABASE on that node".into()
        })));
    }
    Ok(())
}
