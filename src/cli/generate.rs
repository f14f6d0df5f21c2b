//! `vecload generate`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{GenerateArguments, SyntheticArguments};
use super::printer::{Printer, ProgressStyle, counted, grouped, shown_seconds};
use super::progress::{FIRST_LINE_AFTER, LINE_EVERY, REDRAW_EVERY, Rates, style};
use super::server::Context;
use crate::config::file::SyntheticSection;
use crate::config::sizes::{parse_count, show_size};
use crate::error::{Context as _, Error, Kind, Result};
use crate::generate::{
    Compression, Control, Cost, Destination, Format, NeighbourSearch, Output, Written, write_dataset,
    write_queries,
};
use crate::report;
use crate::source::synthetic::{Synthetic, SyntheticOptions};

/// Threads that make no sense beyond; as for loads.
const LANES_MAX: usize = 256;

const K_DEFAULT: usize = 100;

/// After a signal, a stream that nobody reads is given up after this long; files are always put in order.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// The answer with `--json`.
#[derive(Debug, Serialize)]
struct GenerateReport {
    file: PathBuf,
    rows: u64,
    bytes: u64,
    seconds: f64,
    rows_per_second: f64,
    dim: usize,
    channels: u64,
    skew: f64,
    clusters: u32,
    seed: u64,
    lanes: usize,
    peak_rss_bytes: u64,
    queries: Option<QueriesReport>,
}

#[derive(Debug, Serialize)]
struct QueriesReport {
    file: PathBuf,
    queries: u64,
    k: usize,
    bytes: u64,
    seconds: f64,
    multiply_adds: f64,
}

/// What is asked for.
struct Request {
    synthetic: Synthetic,
    out: PathBuf,
    force: bool,
    lanes: usize,
    queries: Option<QueriesRequest>,
}

#[derive(Clone)]
struct QueriesRequest {
    count: u64,
    k: usize,
    out: PathBuf,
}

/// What synthetic rows are made from, with the file's settings for what was not typed.
pub(super) fn synthetic_options(
    rows: &str,
    arguments: &SyntheticArguments,
    file: &SyntheticSection,
) -> Result<SyntheticOptions> {
    Ok(SyntheticOptions {
        rows: parse_count(rows)?,
        dim: arguments.dim.unwrap_or(file.dim),
        channels: arguments.channels.as_deref().map_or(Ok(file.channels), parse_count)?,
        skew: arguments.skew.unwrap_or(file.skew),
        clusters: arguments.clusters.unwrap_or(file.clusters),
        seed: arguments.seed.unwrap_or(file.seed),
    })
}

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: GenerateArguments) -> Result<u8> {
    let printer = context.printer;
    let request = Arc::new(request(context, arguments)?);
    let mut signals = Signals::listen()?;
    let (rows, dim) = (request.synthetic.options().rows, request.synthetic.options().dim);
    // Refused before anything is written, also where the queries are what can't be.
    let output = output(&request.out, request.force)?;
    let is_stream = matches!(output.destination, Destination::Stream(..));
    if let Some(queries) = &request.queries {
        queries_output(queries, request.force)?;
        let for_cost = Arc::clone(&request);
        let cost = signals.end(&Arc::default(), false, move |_| Ok(search(&for_cost)?.cost())).await?;
        say_cost(printer, queries, rows, dim, request.lanes, cost);
    }

    let progress = |doing| Progress { printer, doing, total: rows };
    let started = Instant::now();
    let (writing, lanes) = (Arc::clone(&request), request.lanes);
    let control = Arc::new(Control::default());
    let shown = progress("writing").start(&control);
    let work = move |control: &Control| write_dataset(&writing.synthetic, output, lanes, control);
    let written = signals.end(&control, is_stream, work).await;
    shown.end();
    let written = written?;
    let seconds = started.elapsed().as_secs_f64();
    say_written(printer, &request.out, written, seconds);

    let options = request.synthetic.options();
    let mut report = GenerateReport {
        file: request.out.clone(),
        rows: written.rows,
        bytes: written.bytes,
        seconds: report::seconds(started.elapsed()),
        rows_per_second: (written.rows as f64 / seconds.max(0.001)).round(),
        dim,
        channels: options.channels,
        skew: options.skew,
        clusters: options.clusters,
        seed: options.seed,
        lanes,
        peak_rss_bytes: 0,
        queries: None,
    };
    if let Some(queries) = &request.queries {
        let control = Arc::new(Control::default());
        let shown = progress("comparing").start(&control);
        let found = write_neighbours(&request, queries.clone(), &control, &mut signals).await;
        shown.end();
        report.queries = Some(found?);
        if let Some(of_queries) = &report.queries {
            say_queries(printer, of_queries);
        }
    }
    report.peak_rss_bytes = report::peak_rss_bytes();
    if printer.is_json() {
        printer.json(&report)?;
    } else if !is_stream {
        printer.say(&format!("try: vecload load {}", request.out.display()));
    }
    Ok(0)
}

fn request(context: &Context<'_>, arguments: GenerateArguments) -> Result<Request> {
    let file = &context.file.synthetic;
    let synthetic = Synthetic::new(synthetic_options(&arguments.rows, &arguments.synthetic, file)?)?;
    let cores = || std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let lanes = arguments.lanes.unwrap_or_else(|| cores().min(LANES_MAX));
    if lanes == 0 || lanes > LANES_MAX {
        return Err(Error::refused(format!("--lanes {lanes}")).hint(format!("give 1 to {LANES_MAX}")));
    }
    let to_stdout = arguments.out == Path::new("-");
    if to_stdout && context.printer.is_json() {
        return Err(Error::refused("--json together with rows on stdout")
            .hint("stdout has room for one of them: give a file, or leave out --json"));
    }
    let queries = match arguments.queries.as_deref().map(parse_count).transpose()? {
        None => None,
        Some(count) => {
            let out = match arguments.queries_out {
                Some(out) => out,
                None if to_stdout => {
                    return Err(Error::refused("--queries with rows on stdout need a file")
                        .hint("name it with --queries-out FILE.parquet"));
                }
                None => beside(&arguments.out),
            };
            if out == arguments.out {
                return Err(Error::refused(format!("rows and queries both go to {}", out.display()))
                    .hint("name another file with --queries-out"));
            }
            let k = arguments.k.unwrap_or(K_DEFAULT);
            Some(QueriesRequest { count, k, out })
        }
    };
    Ok(Request { synthetic, out: arguments.out, force: arguments.force, lanes, queries })
}

/// `rows.csv.gz` has its queries in `rows.queries.parquet`.
fn beside(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let ends = [".parquet", ".csv", ".csv.gz", ".csv.zst"];
    let lower = name.to_ascii_lowercase();
    let end = ends.iter().find(|end| lower.ends_with(*end)).map_or(0, |end| end.len());
    out.with_file_name(format!("{}.queries.parquet", &name[..name.len() - end]))
}

fn output(out: &Path, replace: bool) -> Result<Output> {
    if out == Path::new("-") {
        let destination = Destination::Stream(Box::new(std::io::stdout()), "stdout");
        return Ok(Output { destination, format: Format::Csv(Compression::None) });
    }
    Output::file(out.to_path_buf(), replace)
}

fn queries_output(queries: &QueriesRequest, replace: bool) -> Result<Output> {
    let output = Output::file(queries.out.clone(), replace)?;
    match output.format {
        Format::Parquet => Ok(output),
        Format::Csv(_) => Err(Error::refused(format!("--queries-out {}", queries.out.display()))
            .hint("queries and their neighbours are written as .parquet")),
    }
}

fn search(request: &Request) -> Result<NeighbourSearch<'_>> {
    let (count, k) = request.queries.as_ref().map_or((0, K_DEFAULT), |queries| (queries.count, queries.k));
    NeighbourSearch::new(&request.synthetic, count, k, request.lanes)
}

async fn write_neighbours(
    request: &Arc<Request>,
    queries: QueriesRequest,
    control: &Arc<Control>,
    signals: &mut Signals,
) -> Result<QueriesReport> {
    let started = Instant::now();
    let request = Arc::clone(request);
    let work = move |control: &Control| {
        let search = search(&request)?;
        let found = search.run(control)?;
        // What appeared in the meantime is refused when the file is put into its place.
        let output =
            queries_output(&queries, request.force).map_err(|error| error.with_kind(Kind::Failed))?;
        let written = write_queries(&search, &found, output, control)?;
        let options = request.synthetic.options();
        Ok(QueriesReport {
            file: queries.out,
            queries: queries.count,
            k: queries.k,
            bytes: written.bytes,
            seconds: report::seconds(started.elapsed()),
            multiply_adds: options.rows as f64 * options.dim as f64 * queries.count as f64,
        })
    };
    signals.end(control, false, work).await
}

/// SIGINT and SIGTERM, listened to from the start: one that comes between two parts of the work counts too.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).or_failed(|| "listen for signals".into());
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Runs work on a thread of its own; the first signal ends it in order, the second is not waited after.
    async fn end<T: Send + 'static>(
        &mut self,
        control: &Arc<Control>,
        is_stream: bool,
        work: impl FnOnce(&Control) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let panicked = |panic| Error::bug("generate rows").because(panic);
        let at_work = Arc::clone(control);
        let mut working = tokio::task::spawn_blocking(move || work(&at_work));
        let name = tokio::select! {
            ended = &mut working => return ended.map_err(panicked)?,
            name = self.next() => name,
        };
        control.stop();
        let patience = if is_stream { STREAM_PATIENCE } else { Duration::MAX };
        let hint = tokio::select! {
            ended = &mut working => match ended.map_err(panicked)? {
                // It was done all the same.
                Ok(done) => return Ok(done),
                Err(_) => "unfinished files were removed; run it again",
            },
            _ = self.next() => "a file whose name holds .partial- may be left; remove it",
            () = tokio::time::sleep(patience) => "run it again",
        };
        Err(Error::interrupted(format!("interrupted by {name}")).hint(hint))
    }
}

fn say_cost(printer: &Printer, queries: &QueriesRequest, rows: u64, dim: usize, lanes: usize, cost: Cost) {
    printer.say(&format!(
        "{} over {} of {dim} dimensions: {:.3e} multiply-adds, about {} on {} after the rows are written",
        counted(queries.count, "query", "queries"),
        counted(rows, "row", "rows"),
        cost.multiply_adds,
        shown_seconds(cost.seconds),
        counted(lanes as u64, "lane", "lanes")
    ));
}

fn say_written(printer: &Printer, out: &Path, written: Written, seconds: f64) {
    let place = if out == Path::new("-") { "stdout".into() } else { out.display().to_string() };
    printer.say(&format!(
        "{place}: {}, {} in {} ({} rows/s, {:.1} MB/s)",
        counted(written.rows, "row", "rows"),
        show_size(written.bytes),
        shown_seconds(seconds),
        grouped((written.rows as f64 / seconds.max(0.001)).round() as u64),
        written.bytes as f64 / 1e6 / seconds.max(0.001)
    ));
}

fn say_queries(printer: &Printer, queries: &QueriesReport) {
    printer.say(&format!(
        "{}: {} with their {} nearest rows, {} in {} ({:.1} billion multiply-adds/s)",
        queries.file.display(),
        counted(queries.queries, "query", "queries"),
        queries.k,
        show_size(queries.bytes),
        shown_seconds(queries.seconds),
        queries.multiply_adds / 1e9 / queries.seconds.max(0.001)
    ));
}

/// Progress of one of the two parts of the work.
struct Progress<'a> {
    printer: &'a Printer,
    doing: &'static str,
    total: u64,
}

/// A progress that is shown until it ends.
struct Shown {
    task: Option<tokio::task::JoinHandle<()>>,
    bar: ProgressBar,
}

impl Progress<'_> {
    fn start(&self, control: &Arc<Control>) -> Shown {
        let control = Arc::clone(control);
        let (doing, total) = (self.doing, self.total);
        let bar = match self.printer.progress_style() {
            ProgressStyle::Bars => ProgressBar::new(total),
            _ => ProgressBar::hidden(),
        };
        let task = match self.printer.progress_style() {
            ProgressStyle::Hidden => None,
            ProgressStyle::Bars => Some(tokio::spawn(draw_bar(doing, total, control, bar.clone()))),
            ProgressStyle::Lines => Some(tokio::spawn(print_lines(doing, total, control))),
        };
        Shown { task, bar }
    }
}

impl Shown {
    fn end(self) {
        if let Some(task) = self.task {
            task.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// Rows that are done, and in words how fast.
fn glance(total: u64, control: &Control, rates: &mut Rates) -> (u64, String) {
    let (rows, bytes) = (control.rows(), control.bytes());
    let (rows_per_second, bytes_per_second) = rates.next(rows, bytes);
    let mut line = format!("{} rows/s", grouped(rows_per_second.round() as u64));
    if bytes > 0 {
        line += &format!("  {:.1} MB/s", bytes_per_second / 1e6);
    }
    if rows_per_second > 0.0 {
        line += &format!("  ETA {}", shown_seconds((total - rows) as f64 / rows_per_second));
    }
    (rows, line)
}

async fn draw_bar(doing: &'static str, total: u64, control: Arc<Control>, bar: ProgressBar) {
    bar.set_style(style(&format!(
        "{doing} {{wide_bar}} {{human_pos}} of {{human_len}} rows {{percent:>3}}%\n{{msg}}"
    )));
    let mut rates = Rates::start();
    loop {
        let (rows, line) = glance(total, &control, &mut rates);
        bar.set_position(rows);
        bar.set_message(line);
        tokio::time::sleep(REDRAW_EVERY).await;
    }
}

async fn print_lines(doing: &'static str, total: u64, control: Arc<Control>) {
    let mut rates = Rates::start();
    tokio::time::sleep(FIRST_LINE_AFTER).await;
    loop {
        let (rows, line) = glance(total, &control, &mut rates);
        let percent = rows as f64 * 100.0 / total.max(1) as f64;
        let line =
            format!("{doing}: {} of {} rows ({percent:.1} %)  {line}\n", grouped(rows), grouped(total));
        // A closed stderr leaves nobody to tell.
        drop(std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes()));
        tokio::time::sleep(LINE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_go_beside_the_rows() {
        for (out, queries) in [
            ("rows.parquet", "rows.queries.parquet"),
            ("a.b/rows.csv.gz", "a.b/rows.queries.parquet"),
            ("/x/rows.v2.CSV", "/x/rows.v2.queries.parquet"),
        ] {
            assert_eq!(beside(Path::new(out)), Path::new(queries));
        }
    }
}
