//! `vecload load`

use std::collections::BTreeMap;

use super::again;
use super::args::LoadArguments;
use super::generate::synthetic_options;
use super::printer::{Printer, counted, grouped, shown_seconds};
use super::progress::LoadProgress;
use super::server::{Context, Server, key_value};
use crate::config::sizes::{parse_count, parse_size, parse_time, show_size};
use crate::error::{Error, Kind, Result};
use crate::pipeline::counters::Bottleneck;
use crate::pipeline::load::{LoadOutcome, load};
use crate::pipeline::opened::SourceOptions;
use crate::pipeline::plan::LoadSettings;
use crate::pipeline::preflight::Mapping;
use crate::pipeline::request::{LoadRequest, OpenedSources, open_sources};
use crate::report::{self, LoadReport, LoadState};
use crate::source::synthetic::SyntheticOptions;
use crate::source::text::TextOptions;

/// Writers by default: with one the server waits for the client between blocks; beyond eight, measurements
/// on one machine gain nothing.
const WRITERS: std::ops::RangeInclusive<usize> = 2..=8;

/// Threads and connections that make no sense beyond.
const LANES_MAX: usize = 256;

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: LoadArguments) -> Result<u8> {
    let request = request(context, arguments)?;
    let progress = LoadProgress::new(context.printer);
    // Before a server is started for sources that can't be read.
    let sources = open_sources(&request, &progress).await?;
    let server = context.server().await?;
    run_request(context, &server, request, sources, &progress).await
}

/// Runs a load and prints what came of it.
pub(super) async fn run_request(
    context: &Context<'_>,
    server: &Server,
    mut request: LoadRequest,
    sources: OpenedSources,
    progress: &LoadProgress<'_>,
) -> Result<u8> {
    let printer = context.printer;
    request.create |= server.embedded.is_some();
    let LoadOutcome { report, result } = Box::pin(load(request, sources, &server.way(), progress)).await;
    if let Some(report) = &report {
        if printer.is_json() {
            printer.json(report)?;
        } else if result.is_ok() || report.rows.read > 0 {
            print_report(printer, report);
        }
        print_warnings(printer, report);
    }
    result.map_err(|error| match (error.kind(), error.advice()) {
        (Kind::Interrupted, Some(advice)) => {
            let advice = format!("{advice}: {}", again::command());
            error.hint(advice)
        }
        _ => error,
    })?;
    let Some(report) = report else {
        return Err(Error::bug("a load ended well without a report"));
    };
    if printer.says() && report.state != LoadState::Limited {
        suggest_search(context, server, &report).await;
    }
    Ok(if report.rows.rejected > 0 { 3 } else { 0 })
}

fn request(context: &Context<'_>, arguments: LoadArguments) -> Result<LoadRequest> {
    let file = &context.file.load;
    let cores = cores();
    let count = |given: Option<usize>, file: usize, default: usize, name: &str| match given.unwrap_or(file) {
        0 if given.is_some() => Err(Error::refused(format!("{name} 0")).hint("give at least 1")),
        0 => Ok(default),
        many if many > LANES_MAX => {
            Err(Error::refused(format!("{name} {many}")).hint(format!("give at most {LANES_MAX}")))
        }
        some => Ok(some),
    };
    let pairs = |option: &str,
                 texts: &[String],
                 file: &BTreeMap<String, String>|
     -> Result<BTreeMap<String, String>> {
        let mut pairs = file.clone();
        for text in texts {
            let (key, value) = key_value(option, text)?;
            pairs.insert(key, value);
        }
        Ok(pairs)
    };
    let mut mapping = Mapping {
        map: pairs("--map", &arguments.map, &context.file.map)?,
        set: pairs("--set", &arguments.set, &context.file.set)?,
    };
    // What is typed for a column replaces what the file says of it in the other way.
    for text in &arguments.set {
        mapping.map.retain(|target, _| {
            arguments.map.iter().any(|map| map.starts_with(&format!("{target}=")))
                || !text.starts_with(&format!("{target}="))
        });
    }
    for text in &arguments.map {
        mapping.set.retain(|target, _| {
            arguments.set.iter().any(|set| set.starts_with(&format!("{target}=")))
                || !text.starts_with(&format!("{target}="))
        });
    }
    let synthetic = synthetic(context, &arguments)?;
    Ok(LoadRequest {
        sources: arguments.sources,
        synthetic,
        options: SourceOptions {
            format: arguments.format,
            text: TextOptions {
                delimiter: arguments.delimiter.as_deref().map(delimiter).transpose()?,
                null: arguments.null,
                no_header: arguments.no_header,
            },
            name: arguments.name.clone(),
            mapped: mapping.map.values().cloned().collect(),
        },
        table: context.table()?,
        mapping,
        name: arguments.name,
        again: arguments.again,
        create: arguments.create,
        index: arguments.index.unwrap_or(file.index),
        settings: LoadSettings {
            lanes: count(arguments.lanes, file.lanes, cores, "--lanes")?,
            writers: count(
                arguments.writers,
                file.writers,
                cores.clamp(*WRITERS.start(), *WRITERS.end()),
                "--writers",
            )?,
            are_writers_given: arguments.writers.is_some() || file.writers > 0,
            memory: parse_size(arguments.memory.as_ref().unwrap_or(&file.memory))?,
            max_rejects: arguments.max_rejects.as_ref().unwrap_or(&file.max_rejects).parse()?,
            limit: arguments.limit.as_deref().map(parse_count).transpose()?,
            waits_for_server: arguments.retry_for.is_some(),
            route: arguments.route.unwrap_or(file.route),
            retry_for: parse_time(arguments.retry_for.as_ref().unwrap_or(&file.retry_for))?,
        },
    })
}

/// What is to be made instead of read.
fn synthetic(context: &Context<'_>, arguments: &LoadArguments) -> Result<Option<SyntheticOptions>> {
    let given = &arguments.synthetic;
    let Some(rows) = &arguments.synthetic_rows else {
        let options = [
            ("--dim", given.dim.is_some()),
            ("--channels", given.channels.is_some()),
            ("--skew", given.skew.is_some()),
            ("--clusters", given.clusters.is_some()),
            ("--seed", given.seed.is_some()),
        ];
        return match options.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(Error::refused(format!(
                "{option} is for synthetic rows, and sources are given"
            ))
            .hint(
                "leave it out: a source has the rows that it has; or load synthetic rows: --synthetic 10M",
            )),
            None => Ok(None),
        };
    };
    synthetic_options(rows, given, &context.file.synthetic).map(Some)
}

/// A delimiter as it is typed: one byte, or the name of one that is hard to type.
fn delimiter(text: &str) -> Result<u8> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [b'"' | b'\n' | b'\r' | 0] => {
            Err(Error::refused(format!("--delimiter {text:?} ends fields or records in another way already"))
                .hint("give a comma, semicolon, tab or |"))
        }
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(Error::refused(format!("--delimiter {text:?} is not one character of ASCII"))
            .hint("give a comma, semicolon, tab or |")),
    }
}

/// Settings of a load without options.
pub(super) fn default_settings(context: &Context<'_>) -> Result<LoadSettings> {
    let file = &context.file.load;
    Ok(LoadSettings {
        lanes: 1,
        writers: 1,
        are_writers_given: false,
        memory: parse_size(&file.memory)?,
        max_rejects: file.max_rejects.parse()?,
        limit: None,
        route: file.route,
        retry_for: parse_time(&file.retry_for)?,
        waits_for_server: false,
    })
}

fn print_report(printer: &Printer, report: &LoadReport) {
    let rows = &report.rows;
    let mut lines = vec![format!("load {} into {}: {}", report.load, report.table, headline(report))];
    let mut row = |name: &str, value: String| lines.push(format!("  {name:<16}{value}"));
    row("rows read", grouped(rows.read));
    row("loaded", grouped(rows.loaded));
    if rows.already_loaded > 0 {
        row("already loaded", grouped(rows.already_loaded));
    }
    row("rejected", grouped(rows.rejected));
    if rows.loaded > 0 {
        let megabytes = report.bytes.copied as f64 / 1e6;
        row(
            "speed",
            format!(
                "{} rows/s, {:.1} MB/s over {}",
                grouped(report.rows_per_second as u64),
                megabytes / report.load_seconds.max(0.001),
                shown_seconds(report.load_seconds)
            ),
        );
    }
    if !report.index.built.is_empty() {
        row(
            "indexes",
            format!("{} built in {}", report.index.built.len(), shown_seconds(report.index.seconds)),
        );
    }
    row("time", shown_seconds(report.seconds));
    row("peak memory", show_size(report.peak_rss_bytes));
    if rows.loaded > 0 {
        let stages = report.stages.iter();
        let stages: Vec<String> = stages
            .map(|stage| format!("{} {:.2}+{:.2}", stage.name, stage.busy_seconds, stage.wait_seconds))
            .collect();
        row(
            "stages",
            format!(
                "{} s (working + waiting; {}, {})",
                stages.join(", "),
                counted(report.lanes as u64, "lane", "lanes"),
                counted(report.writers as u64, "writer", "writers")
            ),
        );
        // In a second nothing settles that could be told apart.
        if report.load_seconds < 1.0 {
            return lines.iter().for_each(|line| printer.say(line));
        }
        row("bottleneck", report.bottleneck.into());
        let is_text = report.stages.iter().any(|stage| stage.name == "scan");
        let bottleneck = match report.bottleneck {
            "source" => Bottleneck::Source,
            "encode" => Bottleneck::Encode,
            _ => Bottleneck::Server,
        };
        row("to go faster", report::advice(bottleneck, report.lanes, report.writers, cores(), is_text));
    }
    lines.iter().for_each(|line| printer.say(line));
}

/// What the user should not miss, with `--json` and `-q` too.
fn print_warnings(printer: &Printer, report: &LoadReport) {
    if report.zero_vectors > 0 {
        printer.warn(&format!(
            "{} all zeros: loaded, but an HNSW index by cosine distance leaves them out",
            counted(report.zero_vectors, "embedding is", "embeddings are")
        ));
    }
    if report.rows.rejected > 0 {
        printer.warn(&format!(
            "{} rejected: vecload loads rejects {}",
            counted(report.rows.rejected, "row was", "rows were"),
            report.load
        ));
    }
}

fn headline(report: &LoadReport) -> &'static str {
    match report.state {
        LoadState::Complete => "complete",
        LoadState::Rejects => "complete, with rejects",
        LoadState::Stopped => "stopped by rejects",
        LoadState::Limited => "the rows asked for are in; the source has more",
        LoadState::Failed => "failed; what was committed stays",
        LoadState::Interrupted => "interrupted; what was committed stays",
        LoadState::AlreadyLoaded => "already loaded",
    }
}

/// A search that gives an answer on what was just loaded.
async fn suggest_search(context: &Context<'_>, server: &Server, report: &LoadReport) {
    let Ok(session) = server.connect("vecload load").await else {
        return;
    };
    let Ok(table) = report.table.parse::<crate::postgres::QualifiedName>() else {
        return;
    };
    let one = format!("select id::text, left(content, 60) from {} where id is not null limit 1", table.sql());
    // A table of another shape gets no suggestion.
    if let Ok(Some(row)) = session.query_opt(&one, &[]).await
        && let (Ok(id), Ok(content)) = (row.try_get::<_, String>(0), row.try_get::<_, String>(1))
    {
        let table = match context.global.table.as_deref() {
            Some(table) => format!(" --table {table}"),
            None => String::new(),
        };
        context.printer.say(&format!("try: vecload search{table} --like {id}    # like \"{content}\""));
    }
    session.close().await;
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}
