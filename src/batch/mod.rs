//! The embedding batcher: source columns mapped to target columns, every row checked.
//!
//! What leaves it, a [`ChunkBatch`], holds only values that the server takes; rows that it would refuse
//! are rejects, each with the first reason found: in the order of the target's columns, then the embedding.

pub mod cells;
pub mod convert;
pub mod embedding;
pub mod json;
pub mod reject;
pub mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::cells::Cells;
use self::convert::{ColumnRejects, Converter};
use self::embedding::Elements;
use self::reject::{Reason, Reject, excerpt};
use crate::error::{Error, Result};
use crate::source::text::Position;
use crate::source::{Embeddings, Origin, SourceBatch};

/// Rows that are ready to be encoded.
#[derive(Debug)]
pub struct ChunkBatch {
    /// Where the batch's row 0 comes from.
    pub origin: Origin,
    /// Rows of the source batch, rejected ones included: the range that slices describe.
    pub source_rows: usize,
    /// Accepted rows: index in the batch, and index of its embedding.
    pub rows: Vec<AcceptedRow>,
    /// One per target column in [`Batcher::columns`]; the embedding's and the id's are made later.
    pub cells: Vec<Cells>,
    /// The embeddings, as they came from the source.
    pub embeddings: Embeddings,
    /// Rejected rows, ascending.
    pub rejects: Vec<Reject>,
    /// Where each row of the source batch begins, in sources of text; else empty.
    pub positions: Arc<[Position]>,
    /// Accepted rows whose embedding is all zeros.
    pub zero_vectors: u64,
}

/// A row that passed all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedRow {
    /// Row of the batch.
    pub row: u32,
    /// Which of the batch's embeddings is its own.
    pub embedding: u32,
    /// Hash of its channel, as Citus computes it; 0 without a channel.
    pub channel_hash: i32,
}

/// How one target column is filled.
#[derive(Debug, Clone)]
pub enum Filling {
    /// From the column of this index in the source batch.
    Column(usize, Converter),
    /// The same field for every row, length included.
    Constant(Vec<u8>),
}

/// A target column that the batcher fills.
#[derive(Debug, Clone)]
pub struct FilledColumn {
    /// Its name.
    pub name: String,
    /// Whether null is refused.
    pub not_null: bool,
    /// How it is filled.
    pub filling: Filling,
}

/// What a batcher knows of the target and of one source's columns.
#[derive(Debug, Clone)]
pub struct Batcher {
    /// Scalar columns in COPY order, without the embedding and reserved ids.
    pub columns: Vec<FilledColumn>,
    /// Name of the embedding column.
    pub embedding_column: String,
    /// Whether the embedding goes into a `halfvec`.
    pub half: bool,
    /// Index in `columns` of the integer that partitions the table, if there is one.
    pub channel: Option<usize>,
}

impl Batcher {
    /// Checks and maps a batch: all columns first, in COPY order, then the embedding; a row's first refusal is
    /// its reason.
    pub fn accept(&self, batch: SourceBatch) -> Result<ChunkBatch> {
        let SourceBatch { origin, rows, mut embeddings, columns, malformed, positions } = batch;
        let mut refused: BTreeMap<usize, (String, Reason, String)> = BTreeMap::new();
        refused.extend(
            malformed.into_iter().map(|(row, reason, excerpt)| (row, (String::new(), reason, excerpt))),
        );
        let mut cells = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            cells.push(match &column.filling {
                Filling::Constant(field) => Cells::Constant(field.clone()),
                Filling::Column(index, converter) => {
                    let array = columns.column(*index);
                    let mut rejects = ColumnRejects::new();
                    // Logical, because a column of nulls alone has no other.
                    if column.not_null
                        && let Some(nulls) = array.logical_nulls()
                    {
                        let nulls = (0..rows).filter(|row| nulls.is_null(*row));
                        rejects.extend(nulls.map(|row| (row, Reason::Null, String::new())));
                    }
                    let converted = converter.convert(array, &mut rejects)?;
                    for (row, reason, excerpt) in rejects {
                        refused.entry(row).or_insert_with(|| (column.name.clone(), reason, excerpt));
                    }
                    converted
                }
            });
        }

        let faults = std::mem::take(&mut embeddings.faults);
        let expected = (rows - faults.len()) * embeddings.dim;
        if embeddings.elements() != expected {
            return Err(Error::bug(format!(
                "a batch of {rows} rows carries {} elements, expected {expected}",
                embeddings.elements()
            )));
        }
        let mut accepted = Vec::with_capacity(rows);
        let mut zero_vectors = 0;
        let mut faults = faults.into_iter().peekable();
        let mut next_embedding = 0;
        for row in 0..rows {
            if let Some((_, reason, excerpt)) = faults.next_if(|fault| fault.0 == row) {
                refused.entry(row).or_insert_with(|| (self.embedding_column.clone(), reason, excerpt));
                continue;
            }
            let index = next_embedding;
            next_embedding += 1;
            let embedding = embeddings.get(index).ok_or_else(|| missing(index))?;
            match embedding::check_elements(embedding, self.half) {
                Elements::Good => {}
                Elements::Zero if refused.contains_key(&row) => {}
                Elements::Zero => zero_vectors += 1,
                Elements::Refused => {
                    let values = embedding.to_vec();
                    if let Some(reason) = embedding::element_refusal(&values, self.half) {
                        let excerpt = embedding_excerpt(&values);
                        refused
                            .entry(row)
                            .or_insert_with(|| (self.embedding_column.clone(), reason, excerpt));
                    }
                }
            }
            if refused.is_empty() || !refused.contains_key(&row) {
                let channel_hash = self.channel.map_or(0, |channel| channel_hash(&cells[channel], row));
                accepted.push(AcceptedRow { row: row as u32, embedding: index as u32, channel_hash });
            }
        }
        let rejects = refused
            .into_iter()
            .map(|(row, (column, reason, excerpt))| Reject {
                row: origin.first_row + row as u64,
                position: positions.get(row).copied(),
                column,
                reason,
                excerpt,
            })
            .collect();
        Ok(ChunkBatch {
            origin,
            source_rows: rows,
            rows: accepted,
            cells,
            embeddings,
            rejects,
            positions: positions.into(),
            zero_vectors,
        })
    }
}

fn missing(index: usize) -> Error {
    Error::bug(format!("a batch has no embedding {index}"))
}

/// The first elements of an embedding and the first that is not finite.
fn embedding_excerpt(values: &[f32]) -> String {
    let at = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
    let from = at.saturating_sub(2);
    let shown: Vec<String> = values[from..].iter().take(5).map(f32::to_string).collect();
    excerpt(format!("elements {} to {}: {}", from + 1, from + shown.len(), shown.join(", ")).as_bytes())
}

/// Hash of an integer column's value, as Citus computes it for the shard.
fn channel_hash(cells: &Cells, row: usize) -> i32 {
    let bytes = match cells {
        Cells::Fixed { width, bytes, nulls } if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) => {
            &bytes[row * width..][..*width]
        }
        Cells::Constant(field) if field.len() > 4 => &field[4..],
        _ => return 0,
    };
    // Sign extension keeps smallint, integer and bigint of one value on one hash.
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = if negative { [0xff; 8] } else { [0; 8] };
    wide[8 - bytes.len()..].copy_from_slice(bytes);
    crate::partition::hash::hash_int8(i64::from_be_bytes(wide))
}
