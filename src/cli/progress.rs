//! Progress of a load: bars on a terminal, lines elsewhere. Only committed rows count.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use tokio::task::JoinHandle;

use super::printer::{Printer, ProgressStyle, grouped, shown_seconds};
use crate::index::BuildProgress;
use crate::pipeline::counters::Bottleneck;
use crate::pipeline::observer::{LoadView, Observer};

/// Between two drawings of bars.
pub(super) const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// Between two lines.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(10);

/// The first line comes early: it shows that rows flow.
pub(super) const FIRST_LINE_AFTER: Duration = Duration::from_secs(2);

/// The rate shown is that of about the last so many seconds.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Steps of a bar.
const BAR_STEPS: u64 = 10_000;

/// Shows a load.
pub(super) struct LoadProgress<'a> {
    printer: &'a Printer,
    bars: Arc<MultiProgress>,
    ticker: Mutex<Option<JoinHandle<()>>>,
    index: Mutex<Option<IndexLine>>,
}

struct IndexLine {
    name: String,
    bar: ProgressBar,
    last_line: Instant,
    started: Instant,
}

impl<'a> LoadProgress<'a> {
    /// Nothing is shown yet.
    pub(super) fn new(printer: &'a Printer) -> Self {
        Self {
            printer,
            bars: Arc::new(MultiProgress::new()),
            ticker: Mutex::new(None),
            index: Mutex::new(None),
        }
    }
}

impl Observer for LoadProgress<'_> {
    fn say(&self, line: &str) {
        self.bars.suspend(|| self.printer.say(line));
    }

    fn warn(&self, line: &str) {
        self.bars.suspend(|| self.printer.warn(line));
    }

    fn loading(&self, view: LoadView) {
        let task = match self.printer.progress_style() {
            ProgressStyle::Hidden => return,
            ProgressStyle::Bars => tokio::spawn(draw_bars(view, Arc::clone(&self.bars))),
            ProgressStyle::Lines => tokio::spawn(print_lines(view)),
        };
        *lock(&self.ticker) = Some(task);
    }

    fn loaded(&self) {
        if let Some(task) = lock(&self.ticker).take() {
            task.abort();
        }
        // The report tells the final figures.
        if let Err(error) = self.bars.clear() {
            tracing::debug!("clear the progress bars: {error}");
        }
    }

    fn indexing(&self, name: &str, progress: Option<BuildProgress>) {
        if self.printer.progress_style() == ProgressStyle::Hidden {
            return;
        }
        let mut current = lock(&self.index);
        if current.as_ref().is_none_or(|line| line.name != name) {
            if let Some(done) = current.take() {
                self.finish_index(&done);
            }
            let bar = match self.printer.progress_style() {
                ProgressStyle::Bars => self.bars.add(ProgressBar::new(0)),
                _ => ProgressBar::hidden(),
            };
            bar.set_style(style("{spinner} index {msg} {wide_bar} {percent:>3}%  {elapsed}"));
            bar.set_message(name.to_string());
            *current = Some(IndexLine {
                name: name.into(),
                bar,
                last_line: Instant::now(),
                started: Instant::now(),
            });
        }
        let (Some(line), Some(progress)) = (current.as_mut(), progress) else {
            return;
        };
        line.bar.set_length(progress.total.max(1));
        line.bar.set_position(progress.done.min(progress.total));
        line.bar.set_message(format!("{name}: {}", progress.phase));
        if self.printer.progress_style() == ProgressStyle::Lines && line.last_line.elapsed() >= LINE_EVERY {
            line.last_line = Instant::now();
            let percent = progress.done * 100 / progress.total.max(1);
            self.printer.say(&format!("index {name}: {}, {percent} %", progress.phase));
        }
    }

    fn indexed(&self, complete: bool) {
        let Some(last) = lock(&self.index).take() else { return };
        match complete {
            true => self.finish_index(&last),
            false => last.bar.finish_and_clear(),
        }
    }
}

impl LoadProgress<'_> {
    fn finish_index(&self, line: &IndexLine) {
        line.bar.finish_and_clear();
        self.say(&format!(
            "built index {} in {}",
            line.name,
            shown_seconds(line.started.elapsed().as_secs_f64())
        ));
    }
}

/// Rows and bytes at some moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    rows: u64,
    bytes: u64,
}

/// Rates over the last seconds.
pub(super) struct Rates {
    started: Instant,
    samples: Vec<Sample>,
}

impl Rates {
    /// Nothing has flowed yet.
    pub(super) fn start() -> Self {
        let started = Instant::now();
        Self { started, samples: vec![Sample { at: started, rows: 0, bytes: 0 }] }
    }

    /// Rows and bytes per second.
    pub(super) fn next(&mut self, rows: u64, bytes: u64) -> (f64, f64) {
        let now = Sample { at: Instant::now(), rows, bytes };
        self.samples.push(now);
        let old = self.samples.iter().rposition(|sample| now.at - sample.at > RATE_WINDOW).unwrap_or(0);
        self.samples.drain(..old);
        let from = self.samples[0];
        let seconds = (now.at - from.at).as_secs_f64().max(0.001);
        ((rows - from.rows) as f64 / seconds, (bytes - from.bytes) as f64 / seconds)
    }
}

struct Glance {
    done: u64,
    rejected: u64,
    line: String,
    /// How much of the load is done: in rows where their number is known, else in bytes of the files.
    share: Option<f64>,
    eta: Option<f64>,
}

fn glance(view: &LoadView, rates: &mut Rates) -> Glance {
    let written = view.counters.write.totals();
    let rejected = view.counters.rejected.load(Ordering::Relaxed);
    let (rows_per_second, bytes_per_second) = rates.next(written.rows, written.bytes);
    let done = (view.rows_before + written.rows + rejected).min(view.rows.unwrap_or(u64::MAX));
    let (share, eta) = match (view.rows, view.stored_bytes) {
        (Some(rows), _) => {
            let left = rows - done;
            (
                Some(done as f64 / rows.max(1) as f64),
                (rows_per_second > 0.0).then(|| left as f64 / rows_per_second),
            )
        }
        (None, Some(bytes)) => {
            let read = view.counters.bytes_read();
            let share = (read as f64 / bytes.max(1) as f64).min(1.0);
            let elapsed = rates.started.elapsed().as_secs_f64();
            (Some(share), (share > 0.0).then(|| elapsed * (1.0 - share) / share))
        }
        (None, None) => (None, None),
    };
    let line = format!(
        "{} rows/s  {:.1} MB/s  bottleneck: {}",
        grouped(rows_per_second.round() as u64),
        bytes_per_second / 1e6,
        Bottleneck::of(&view.counters, view.lanes, view.writers).name()
    );
    Glance { done, rejected, line, share, eta }
}

async fn draw_bars(view: LoadView, bars: Arc<MultiProgress>) {
    let rows = match (view.rows, view.stored_bytes) {
        (None, None) => bars.add(ProgressBar::new_spinner()),
        _ => bars.add(ProgressBar::new(BAR_STEPS)),
    };
    rows.set_style(style(match (view.rows, view.stored_bytes) {
        (None, None) => "{spinner} {msg}",
        (Some(_), _) => "{wide_bar} {msg} {percent:>3}%",
        // What is read is ahead of what is committed.
        (None, Some(_)) => "{wide_bar} {percent:>3}% read, {msg} in the table",
    }));
    let figures = bars.add(ProgressBar::new_spinner());
    figures.set_style(style("{msg}"));
    let mut rates = Rates::start();
    loop {
        let now = glance(&view, &mut rates);
        rows.set_position((now.share.unwrap_or(0.0) * BAR_STEPS as f64) as u64);
        rows.set_message(match view.rows {
            Some(all) => format!("{} of {} rows", grouped(now.done), grouped(all)),
            None => format!("{} rows", grouped(now.done)),
        });
        rows.tick();
        let eta = now.eta.map_or(String::new(), |eta| format!("  ETA {}", shown_seconds(eta)));
        let rejects =
            if now.rejected > 0 { format!("  rejected: {}", grouped(now.rejected)) } else { String::new() };
        figures.set_message(format!("{}{eta}{rejects}", now.line));
        tokio::time::sleep(REDRAW_EVERY).await;
    }
}

async fn print_lines(view: LoadView) {
    let mut rates = Rates::start();
    tokio::time::sleep(FIRST_LINE_AFTER).await;
    loop {
        let now = glance(&view, &mut rates);
        let of = view.rows.map_or(String::new(), |rows| format!(" of {}", grouped(rows)));
        let read = if view.rows.is_none() { " of the files read" } else { "" };
        let share = now.share.map_or(String::new(), |share| format!(" ({:.1} %{read})", share * 100.0));
        let eta = match (now.share, now.eta) {
            (_, Some(eta)) => format!("  ETA {}", shown_seconds(eta)),
            (Some(_), None) => "  ETA unknown".into(),
            (None, None) => String::new(),
        };
        let line = format!(
            "{}{of} rows{share}  {}{eta}  rejected: {}",
            grouped(now.done),
            now.line,
            grouped(now.rejected)
        );
        drop(std::io::Write::write_all(&mut std::io::stderr().lock(), format!("{line}\n").as_bytes()));
        tokio::time::sleep(LINE_EVERY).await;
    }
}

/// A bar of this form.
pub(super) fn style(template: &str) -> BarStyle {
    BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
