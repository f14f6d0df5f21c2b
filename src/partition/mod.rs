//! The per-channel partitioner: each batch becomes one encoded segment per partition.
//!
//! A partition is a range of channel hashes, computed as Citus does, so that a COPY can touch one node or
//! one shard. Within a segment rows are ordered by channel, which puts a channel's rows on fewer heap pages.

pub mod hash;
mod open_blocks;
mod origins;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use open_blocks::{HeldBlock, OpenBlocks};
pub use origins::Origins;

use crate::batch::{AcceptedRow, ChunkBatch};
use crate::copy::{
    IdRange, Segment, Slice, SourceRow, put_halfvec, put_stored_halfvec, put_stored_vector, put_value,
    put_vector, vector_field_bytes,
};
use crate::error::{Error, Result};
use crate::source::{Embedding, Origin};

/// Hash ranges that cover all hashes, ascending; partition `i` starts at `lows[i]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    lows: Vec<i32>,
}

impl Partitions {
    /// `count` ranges of equal size.
    pub fn even(count: usize) -> Self {
        let count = count.clamp(1, 1 << 16) as i64;
        let width = (1i64 << 32) / count;
        let lows = (0..count).map(|index| (i64::from(i32::MIN) + index * width) as i32).collect();
        Self { lows }
    }

    /// Ranges that start at these hashes, if they are ascending and cover all: the first is the lowest there is.
    pub fn from_lows(lows: Vec<i32>) -> Option<Self> {
        let is_ascending = lows.windows(2).all(|pair| pair[0] < pair[1]);
        (is_ascending && lows.first() == Some(&i32::MIN)).then_some(Self { lows })
    }

    /// Number of partitions.
    pub fn count(&self) -> usize {
        self.lows.len()
    }

    /// The partition that holds a hash.
    pub fn of(&self, hash: i32) -> usize {
        // The first range starts at the lowest hash, so at least one start is not above any hash.
        self.lows.partition_point(|low| *low <= hash) - 1
    }

    /// Lowest and highest hash of a partition, both inclusive.
    pub fn range(&self, partition: usize) -> (i32, i32) {
        let high = self.lows.get(partition + 1).map_or(i32::MAX, |next| next - 1);
        (self.lows[partition], high)
    }
}

/// Where the value of one COPY column comes from, in the order of the COPY's column list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldSource {
    /// The batch's cells of this index.
    Cell(usize),
    /// The batch's embedding.
    Embedding,
    /// An id from the sequence, in this many bytes.
    Id(usize),
}

/// Encodes batches into segments.
#[derive(Debug, Clone)]
pub struct Partitioner {
    /// The partitions.
    pub partitions: Partitions,
    /// Columns of the COPY.
    pub fields: Vec<FieldSource>,
    /// Whether the embedding is a `halfvec`.
    pub half: bool,
}

/// The rows of a batch that go to one partition, with the size of their encoded form.
#[derive(Debug)]
pub struct Share {
    /// The partition.
    pub partition: usize,
    /// Rows of the batch that were looked at: with the partition's hashes, what the segment describes.
    pub piece: Range<u32>,
    /// Its rows, ordered by channel.
    pub rows: Vec<AcceptedRow>,
    /// Bytes of the encoded segment, exactly.
    pub bytes: usize,
}

impl Partitioner {
    /// Cuts a batch into row ranges whose tuples take at most `bytes_max`, a single row excepted: rows are of
    /// any length, and memory for segments is asked for piece by piece.
    pub fn pieces(&self, batch: &ChunkBatch, bytes_max: usize) -> Vec<Range<u32>> {
        let mut pieces = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for row in &batch.rows {
            let tuple = self.tuple_bytes(batch, *row);
            if bytes > 0 && bytes + tuple > bytes_max {
                pieces.push(start..row.row);
                (start, bytes) = (row.row, 0);
            }
            bytes += tuple;
        }
        pieces.push(start..batch.source_rows as u32);
        pieces
    }

    /// Splits a piece of a batch among the partitions and computes what each share will need.
    pub fn split(&self, batch: &ChunkBatch, piece: &Range<u32>) -> Vec<Share> {
        let mut by_partition: Vec<Vec<AcceptedRow>> = vec![Vec::new(); self.partitions.count()];
        let from = batch.rows.partition_point(|row| row.row < piece.start);
        for row in batch.rows[from..].iter().take_while(|row| row.row < piece.end) {
            by_partition[self.partitions.of(row.channel_hash)].push(*row);
        }
        let shares = by_partition.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        shares
            .map(|(partition, mut rows)| {
                rows.sort_by_key(|row| row.channel_hash);
                let bytes = rows.iter().map(|row| self.tuple_bytes(batch, *row)).sum();
                Share { partition, piece: piece.clone(), rows, bytes }
            })
            .collect()
    }

    /// Encodes one share of a batch; `ids` are as many as there are rows, if ids are reserved.
    pub fn encode(&self, batch: &ChunkBatch, share: &Share, ids: Vec<IdRange>) -> Result<Segment> {
        let mut out = Vec::with_capacity(share.bytes);
        let mut next_id = ids.iter().flat_map(|range| range.first..=range.last);
        for row in &share.rows {
            out.extend_from_slice(&(self.fields.len() as i16).to_be_bytes());
            for field in &self.fields {
                match field {
                    FieldSource::Cell(index) => batch.cells[*index].put(row.row as usize, &mut out),
                    FieldSource::Embedding => {
                        match (batch.embeddings.get(row.embedding as usize), self.half) {
                            (Some(Embedding::Floats(values)), false) => put_vector(&mut out, values),
                            (Some(Embedding::Floats(values)), true) => put_halfvec(&mut out, values),
                            (Some(Embedding::Stored(values)), false) => put_stored_vector(&mut out, values),
                            (Some(Embedding::Stored(values)), true) => put_stored_halfvec(&mut out, values),
                            (None, _) => return Err(Error::bug("a row has no embedding")),
                        }
                    }
                    FieldSource::Id(width) => match next_id.next() {
                        // The catalog has told the width: 2, 4 or 8.
                        Some(id) => put_value(&mut out, &[], &id.to_be_bytes()[8 - width..]),
                        None => return Err(Error::bug("fewer ids than rows")),
                    },
                }
            }
        }
        if out.len() != share.bytes {
            return Err(Error::bug(format!(
                "a segment of {} bytes was planned as {}",
                out.len(),
                share.bytes
            )));
        }
        let (hash_low, hash_high) = self.partitions.range(share.partition);
        Ok(Segment {
            tuples: Bytes::from(out),
            slice: Slice {
                source: batch.origin.source,
                unit: batch.origin.unit,
                first_row: batch.origin.first_row + u64::from(share.piece.start),
                last_row: batch.origin.first_row + u64::from(share.piece.end) - 1,
                hash_low,
                hash_high,
                rows: share.rows.len() as u64,
            },
            ids,
        })
    }

    /// Where the tuples of a share come from.
    pub fn origins(&self, batch: &ChunkBatch, share: &Share) -> Origins {
        let Origin { source, unit, first_row } = batch.origin;
        Origins {
            first: SourceRow {
                source,
                unit,
                row: first_row,
                hash_low: self.partitions.range(share.partition).0,
            },
            rows: share.rows.iter().map(|row| row.row).collect(),
            positions: Arc::clone(&batch.positions),
        }
    }

    fn tuple_bytes(&self, batch: &ChunkBatch, row: AcceptedRow) -> usize {
        let fields = self.fields.iter().map(|field| match field {
            FieldSource::Cell(index) => batch.cells[*index].field_bytes(row.row as usize),
            FieldSource::Embedding => vector_field_bytes(batch.embeddings.dim, if self.half { 2 } else { 4 }),
            FieldSource::Id(width) => 4 + width,
        });
        2 + fields.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_hash_has_one_partition_and_lies_in_its_range(count in 1usize..300, hash: i32) {
            let partitions = Partitions::even(count);
            let partition = partitions.of(hash);
            let (low, high) = partitions.range(partition);
            prop_assert!(partition < partitions.count());
            prop_assert!((low..=high).contains(&hash));
        }

        #[test]
        fn ranges_cover_all_hashes_without_gap_or_overlap(count in 1usize..300) {
            let partitions = Partitions::even(count);
            prop_assert_eq!(partitions.range(0).0, i32::MIN);
            prop_assert_eq!(partitions.range(count - 1).1, i32::MAX);
            for partition in 1..count {
                prop_assert_eq!(partitions.range(partition - 1).1 + 1, partitions.range(partition).0);
            }
        }
    }
}
