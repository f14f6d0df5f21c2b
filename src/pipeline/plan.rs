//! What a load will do: checked, resolved and unchangeable before anything is written.

use std::sync::Arc;
use std::time::Duration;

use super::routing::RouteChoice;
use super::verdict::MaxRejects;
use crate::batch::Batcher;
use crate::ledger::settle::Extent;
use crate::partition::FieldSource;
use crate::postgres::catalog::{Sequence, Target};
use crate::route::Routing;
use crate::source::fingerprint::Fingerprint;
use crate::source::parquet::Projection;
use crate::source::synthetic::Synthetic;
use crate::source::text::input::UNIT_MEMORY_MIN;
use crate::source::text::{TextProjection, TextSource};
use crate::source::{Place, UnitPart};

/// Elements of a batch, in bytes: small enough for a core's cache to hold a batch between its stages, large
/// enough to amortise a call into each column's reader (`benches/read.rs`).
const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS_MAX: usize = 4096;

/// The same for text, in bytes of embeddings and of what else records hold.
pub const TEXT_BATCH_BYTES: usize = 512 << 10;
const TEXT_BATCH_ROWS_MAX: usize = 1024;

/// A block is sealed at this size, if memory allows: large enough to amortise a commit, small enough that
/// little is lost by a kill and that writers finish together.
const BLOCK_BYTES: usize = 8 << 20;
const BLOCK_BYTES_MIN: usize = 256 << 10;

/// Partitions of a table on one node: rows of a channel share blocks, and few blocks are open at a time.
const PARTITIONS: usize = 8;

/// The smallest `--memory`.
pub const MEMORY_MIN: usize = 32 << 20;

/// What becomes of secondary indexes during a load.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum IndexPolicy {
    /// Deferred where the table is new or empty, kept where it has rows.
    #[default]
    Auto,
    /// Dropped before the rows, built after them.
    Defer,
    /// Left as they are; the server maintains them row by row.
    Keep,
    /// None is built; those there are stay.
    None,
}

impl IndexPolicy {
    /// Its name in the ledger and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Defer => "defer",
            Self::Keep => "keep",
            Self::None => "none",
        }
    }
}

/// Limits of a run; none of them is part of any identity.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// Threads that read and encode.
    pub lanes: usize,
    /// Connections that write.
    pub writers: usize,
    /// Whether so many were asked for; if not, a route may take more.
    pub are_writers_given: bool,
    /// Bytes for all buffers.
    pub memory: usize,
    /// How many rejects are put up with.
    pub max_rejects: MaxRejects,
    /// Only the first so many rows.
    pub limit: Option<u64>,
    /// `--route`.
    pub route: RouteChoice,
    /// How long to try again without success.
    pub retry_for: Duration,
    /// Whether to try as long at the very start, with a server that was not reached yet.
    pub waits_for_server: bool,
}

/// A source that will be read.
#[derive(Debug)]
pub struct PlannedSource {
    /// What it is read from.
    pub place: Place,
    /// What the ledger calls it.
    pub name: String,
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// How it is read.
    pub reading: Reading,
    /// How its rows become the target's; sources of the same columns share it.
    pub batcher: Arc<Batcher>,
    /// What of its mapping shapes its rows; shared likewise.
    pub recipe: Arc<serde_json::Value>,
}

/// How a source is read.
#[derive(Debug)]
pub enum Reading {
    /// Row groups, known from the footer.
    Parquet {
        /// Rows of each row group.
        unit_rows: Vec<u64>,
        /// Parts in which they are read, in order.
        parts: Vec<UnitPart>,
        /// Columns to read.
        projection: Projection,
        /// Bytes of these columns, as stored.
        stored_bytes: u64,
    },
    /// Units that a scan cuts.
    Text {
        /// The source.
        source: Arc<TextSource>,
        /// Columns to read.
        projection: Arc<TextProjection>,
    },
    /// Rows that are made.
    Synthetic {
        /// How.
        synthetic: Arc<Synthetic>,
        /// Rows of each unit.
        unit_rows: Vec<u64>,
        /// Columns to make, without the embedding.
        columns: Vec<usize>,
    },
}

impl PlannedSource {
    /// Its units and rows, where they are known before all is read.
    pub fn extent(&self) -> Option<Extent> {
        match &self.reading {
            Reading::Parquet { unit_rows, .. } | Reading::Synthetic { unit_rows, .. } => {
                Some(Extent { units: unit_rows.len() as u32, rows: unit_rows.iter().sum(), hash: None })
            }
            Reading::Text { .. } => None,
        }
    }

    /// Its format in the ledger.
    pub fn kind(&self) -> &'static str {
        match &self.reading {
            Reading::Parquet { .. } => "parquet",
            Reading::Text { projection, .. } => projection.format.kind(),
            Reading::Synthetic { .. } => "synthetic",
        }
    }
}

/// Where ids come from.
#[derive(Debug, Clone)]
pub struct ReservedIds {
    /// The column.
    pub column: String,
    /// Bytes of its type.
    pub width: usize,
    /// The sequence.
    pub sequence: Sequence,
}

/// A load, resolved.
#[derive(Debug)]
pub struct LoadPlan {
    /// The table.
    pub target: Target,
    /// Names of the columns that are sent, in COPY order.
    pub copy_columns: Vec<String>,
    /// Where their values come from, in the same order.
    pub fields: Vec<FieldSource>,
    /// Name of the embedding's column.
    pub embedding_column: String,
    /// Its dimension.
    pub dim: usize,
    /// Whether it is a `halfvec`.
    pub half: bool,
    /// Ids that are reserved for the rows.
    pub ids: Option<ReservedIds>,
    /// The sources.
    pub sources: Vec<PlannedSource>,
    /// Limits.
    pub settings: LoadSettings,
}

impl LoadPlan {
    /// Rows per batch, where a row's other columns take about `row_bytes` decoded.
    pub fn batch_rows(&self, row_bytes: usize) -> usize {
        (BATCH_BYTES / (self.dim * 4).max(row_bytes).max(1)).clamp(1, BATCH_ROWS_MAX)
    }

    /// Memory a lane works in besides its pages: the embeddings (in 4 and, for `f64` sources, 8 bytes) and, where they
    /// have to be decoded, two levels of 2 bytes an element; the other columns as they are read and as they are
    /// converted.
    pub fn working_bytes(&self, row_bytes: usize) -> usize {
        self.batch_rows(row_bytes) * (self.dim * 16 + row_bytes * 2) + BATCH_BYTES
    }

    /// Memory for pages and batches, of all lanes together; tables of synthetic sources have their part of it.
    pub fn lane_memory(&self) -> usize {
        let tables = |source: &PlannedSource| match &source.reading {
            Reading::Synthetic { synthetic, .. } => synthetic.bytes(),
            _ => 0,
        };
        let tables: usize = self.sources.iter().map(tables).sum();
        (self.settings.memory / 2).saturating_sub(tables + self.text_memory())
    }

    /// Memory that lanes take while they read text, of what is for lanes; where it is short, fewer read at a time.
    pub fn text_memory(&self) -> usize {
        let is_text = |source: &PlannedSource| matches!(source.reading, Reading::Text { .. });
        match self.sources.iter().any(is_text) {
            true => {
                let wanted = self.settings.lanes * self.text_working_bytes();
                wanted.min(self.settings.memory / 8).max(self.text_working_bytes())
            }
            false => 0,
        }
    }

    /// Memory for encoded rows.
    pub fn block_memory(&self) -> usize {
        self.settings.memory - self.settings.memory / 2
    }

    /// Partitions of the hash range, where no map of shards has them.
    pub fn partitions(&self) -> usize {
        if self.target.channel_column().is_some() { PARTITIONS } else { 1 }
    }

    /// Size at which a block is sealed: all that are open at a time, two per writer and one batch per lane fit.
    pub fn block_bytes(&self, routing: &Routing) -> usize {
        let blocks = routing.places() + 2 * routing.writers() + self.settings.lanes;
        (self.block_memory() / blocks).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES)
    }

    /// Rows of all sources, or as many as `--limit` lets through; none while a source's are not known.
    pub fn rows(&self) -> Option<u64> {
        let all: Option<u64> =
            self.sources.iter().map(|source| source.extent().map(|extent| extent.rows)).sum();
        all.map(|all| self.settings.limit.map_or(all, |limit| limit.min(all)))
    }

    /// Whether what was read can be read once more; standard input can't.
    pub fn is_readable_again(&self) -> bool {
        self.sources.iter().all(|source| source.place != Place::Stdin)
    }

    /// Bytes that are read of all sources, as stored, where that is known.
    pub fn stored_bytes(&self) -> Option<u64> {
        self.sources
            .iter()
            .map(|source| match (&source.reading, &source.place) {
                (Reading::Parquet { stored_bytes, .. }, _) => Some(*stored_bytes),
                (Reading::Text { .. }, Place::File(_)) => Some(source.fingerprint.size),
                (Reading::Text { .. }, _) | (Reading::Synthetic { .. }, _) => None,
            })
            .sum()
    }

    /// Rows per batch of text: text is parsed into a core's cache, beside the floats that come of it.
    pub fn text_batch_rows(&self) -> usize {
        (TEXT_BATCH_BYTES / (self.dim * 4).max(1)).clamp(1, TEXT_BATCH_ROWS_MAX)
    }

    /// Memory of a lane that reads text: the floats and the other columns, as read and as converted.
    pub fn text_working_bytes(&self) -> usize {
        self.text_batch_rows() * self.dim * 4 + 3 * TEXT_BATCH_BYTES
    }
}

impl LoadSettings {
    /// Largest footer that is read: parsed, it takes about forty times its size.
    pub fn footer_bytes_max(&self) -> usize {
        self.memory / 32
    }

    /// Largest window of compressed text, beside a unit of it and what lanes take; one source is decompressed at
    /// a time.
    pub fn window_bytes_max(&self) -> usize {
        (self.memory / 8 * 3).saturating_sub(UNIT_MEMORY_MIN)
    }
}
