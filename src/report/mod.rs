//! What a load tells at its end, for people and as JSON.

use std::time::Duration;

use serde::Serialize;

use crate::pipeline::counters::{Bottleneck, Counters, StageTotals};
use crate::postgres::catalog::ServerVersions;
use crate::route::Route;

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// Every row is in the table.
    Complete,
    /// Every row is in the table or recorded as rejected.
    Rejects,
    /// The reject limit was passed.
    Stopped,
    /// The rows that `--limit` asked for are in; the sources have more.
    Limited,
    /// An error ended it.
    Failed,
    /// A signal ended it.
    Interrupted,
    /// There was nothing to do.
    AlreadyLoaded,
}

impl LoadState {
    /// Its name in the ledger and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Rejects => "rejects",
            Self::Stopped => "stopped",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::AlreadyLoaded => "already_loaded",
        }
    }
}

/// The balance: read = loaded + rejected + already loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// Rows of the sources covered, read now or known from the ledger.
    pub read: u64,
    /// Rows that this run committed.
    pub loaded: u64,
    /// Rows rejected, by all runs.
    pub rejected: u64,
    /// Rows that earlier runs committed.
    pub already_loaded: u64,
}

/// Bytes in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ByteCounts {
    /// Of the needed columns, as stored in the sources.
    pub read: u64,
    /// Of committed tuples in COPY's binary format.
    pub copied: u64,
}

/// A stage's books.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageReport {
    /// Its name: scan (of text), read, batch, partition or write.
    pub name: &'static str,
    /// Rows that went through it.
    pub rows: u64,
    /// Working, all threads or connections together.
    pub busy_seconds: f64,
    /// Waiting for another stage.
    pub wait_seconds: f64,
}

/// The report of a load; its JSON is part of the command line's contract.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// The load's id in the ledger.
    pub load: i64,
    /// `--name`.
    pub name: Option<String>,
    /// How it ended.
    pub state: LoadState,
    /// Rows.
    pub rows: RowCounts,
    /// Bytes.
    pub bytes: ByteCounts,
    /// From the start of the command to its end.
    pub seconds: f64,
    /// Rows committed per second while rows flowed; building indexes is not part of it.
    pub rows_per_second: f64,
    /// Most memory that the process held.
    pub peak_rss_bytes: u64,
    /// Threads that read and encoded.
    pub lanes: usize,
    /// Connections that wrote.
    pub writers: usize,
    /// The way that blocks took.
    pub route: Route,
    /// What held the load up.
    pub bottleneck: &'static str,
    /// The stages in the order of the data.
    pub stages: Vec<StageReport>,
    /// What became of secondary indexes.
    pub index: IndexReport,
    /// The server.
    pub server: ServerVersions,
    /// Accepted rows whose embedding is all zeros; HNSW by cosine distance leaves them out.
    pub zero_vectors: u64,
    /// Seconds in which rows flowed.
    pub load_seconds: f64,
    /// The table.
    pub table: String,
}

/// Secondary indexes in a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IndexReport {
    /// `defer`, `keep` or `none`.
    pub policy: String,
    /// Names of the indexes that were built.
    pub built: Vec<String>,
    /// Seconds that took.
    pub seconds: f64,
}

/// The stages of a run.
pub fn stages(counters: &Counters) -> Vec<StageReport> {
    let report = |name, totals: StageTotals| StageReport {
        name,
        rows: totals.rows,
        busy_seconds: seconds(totals.busy),
        wait_seconds: seconds(totals.wait),
    };
    // Only text is scanned.
    let scan = counters.scan.totals();
    let mut stages = Vec::new();
    if scan.bytes > 0 {
        stages.push(report("scan", scan));
    }
    stages.extend([
        report("read", counters.read.totals()),
        report("batch", counters.batch.totals()),
        report("partition", counters.partition.totals()),
        report("write", counters.write.totals()),
    ]);
    stages
}

/// What to try for more speed.
pub fn advice(bottleneck: Bottleneck, lanes: usize, writers: usize, cores: usize, is_text: bool) -> String {
    match bottleneck {
        Bottleneck::Server if writers < cores => {
            format!("the server sets the pace; try --writers {}", writers + 2)
        }
        Bottleneck::Server => {
            "the server sets the pace: its disk, its CPU or the network (docs/performance.md)".into()
        }
        Bottleneck::Source | Bottleneck::Encode if lanes < cores => {
            format!("this machine sets the pace; try --lanes {}", lanes + 1)
        }
        Bottleneck::Source if is_text => {
            "reading text sets the pace, and one thread scans it; Parquet reads faster".into()
        }
        Bottleneck::Source => {
            "reading sets the pace: Parquet with more row groups, or a lighter codec, reads faster".into()
        }
        Bottleneck::Encode => "this machine's cores set the pace; a machine with more loads faster".into(),
    }
}

/// Rounded to milliseconds, which is what the clock is good for.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Most memory that this process has held, in bytes.
pub fn peak_rss_bytes() -> u64 {
    // Linux keeps getrusage's figure over exec, so that a small process started by a large one seems large.
    let own = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    own.map_or_else(peak_by_getrusage, |kib| kib * 1024)
}

fn peak_by_getrusage() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    // macOS counts bytes, others KiB.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().cast_unsigned() * unit)
}
