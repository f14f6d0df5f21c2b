//! Sources of rows, cut into units that one lane reads each.

pub mod discover;
mod embeddings;
pub mod fingerprint;
pub mod parquet;
pub mod synthetic;
pub mod text;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use arrow::array::RecordBatch;

pub use self::embeddings::{Embedding, Embeddings, StoredRows};

use self::text::Position;
use crate::batch::reject::Reason;

/// What a source is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// Nowhere: rows are made.
    Synthetic,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
            Self::Synthetic => f.write_str("synthetic rows"),
        }
    }
}

/// Where rows come from; stable across runs, whatever the batch sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Index of the source in the plan.
    pub source: usize,
    /// Unit of the source; in Parquet the row group.
    pub unit: u32,
    /// First row within the unit, counted from 0.
    pub first_row: u64,
}

/// A piece of a source that one lane reads from start to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPart {
    /// Index of the source in the plan.
    pub source: usize,
    /// Unit of the source; in Parquet the row group.
    pub unit: u32,
    /// Rows of the unit; a large unit is read in several parts.
    pub rows: Range<u64>,
}

/// Rows as the source has them, on their way to the batcher.
#[derive(Debug)]
pub struct SourceBatch {
    /// Where the rows come from.
    pub origin: Origin,
    /// Number of rows, those with faulty embeddings included.
    pub rows: usize,
    /// The embeddings.
    pub embeddings: Embeddings,
    /// The other columns that are needed, in the order of the source's projection.
    pub columns: RecordBatch,
    /// Rows that could not be taken apart, ascending; their embeddings are faults and their columns null.
    pub malformed: Vec<(usize, Reason, String)>,
    /// Where each row begins, in sources of text; else empty.
    pub positions: Vec<Position>,
}
