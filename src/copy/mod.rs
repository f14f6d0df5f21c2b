//! Binary COPY: how tuples look on the wire, and the block of tuples that one transaction sends.
//!
//! The format is the PostgreSQL manual's, chapter "COPY", section "Binary Format": a 19-byte header, then
//! per tuple an `int16` count of fields and per field an `int32` length (-1 for null) and that many bytes,
//! then an `int16` of -1. All integers are big-endian.

mod numeric;
mod scalar;
mod vector;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use numeric::{NumericRefusal, put_numeric};
pub use scalar::{POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS, put_array, put_null, put_value};
pub use vector::{put_halfvec, put_stored_halfvec, put_stored_vector, put_vector, vector_field_bytes};

/// Signature, flags (none) and header extension (none).
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The file trailer: a field count of -1.
pub const TRAILER: &[u8] = &[0xff, 0xff];

/// A slice's neighbour is among the last of a block: lanes work side by side. A block of many small sources has tens of
/// thousands of slices.
const NEIGHBOURS: usize = 64;

/// What a set of committed rows is, in terms that hold for every later run: all accepted rows of `unit`
/// between `first_row` and `last_row` (both inclusive) whose channel hash lies in `hash_low..=hash_high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Index of the source in the plan.
    pub source: usize,
    /// Unit of the source; in Parquet the row group.
    pub unit: u32,
    /// First row of the range, counted from 0 within the unit.
    pub first_row: u64,
    /// Last row of the range, inclusive.
    pub last_row: u64,
    /// Lowest channel hash of the range.
    pub hash_low: i32,
    /// Highest channel hash of the range, inclusive.
    pub hash_high: i32,
    /// Rows of this slice that were sent.
    pub rows: u64,
}

impl Slice {
    /// Grows this slice by `next` if the two describe neighbouring row ranges of one unit and the same
    /// hash range; the union then describes exactly the rows of both.
    pub fn absorb(&mut self, next: &Slice) -> bool {
        let adjacent = self.source == next.source
            && self.unit == next.unit
            && self.hash_low == next.hash_low
            && self.hash_high == next.hash_high
            && (self.last_row + 1 == next.first_row || next.last_row + 1 == self.first_row);
        if adjacent {
            self.first_row = self.first_row.min(next.first_row);
            self.last_row = self.last_row.max(next.last_row);
            self.rows += next.rows;
        }
        adjacent
    }
}

/// Ids from `first` to `last`, inclusive, reserved from the id column's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id.
    pub first: i64,
    /// Last id.
    pub last: i64,
}

/// A row of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRow {
    /// Index of the source in the plan.
    pub source: usize,
    /// Unit of the source.
    pub unit: u32,
    /// Row within the unit, from 0.
    pub row: u64,
    /// Lowest hash of the slice that it is in: several slices may have its row range.
    pub hash_low: i32,
}

/// The encoded rows of one batch for one partition.
#[derive(Debug)]
pub struct Segment {
    /// Whole tuples, one after another.
    pub tuples: Bytes,
    /// What the tuples are.
    pub slice: Slice,
    /// Ids given to the rows, if ids are reserved.
    pub ids: Vec<IdRange>,
}

/// Segments for one endpoint that go into one transaction.
#[derive(Debug, Default)]
pub struct CopyBlock {
    /// In the order in which they are sent.
    pub segments: Vec<Bytes>,
    /// What the rows are, neighbouring slices joined.
    pub slices: Vec<Slice>,
    /// Ids of the rows, neighbouring ranges joined.
    pub ids: Vec<IdRange>,
    /// Rows in the block.
    pub rows: u64,
    /// Bytes of tuples in the block.
    pub bytes: usize,
}

impl CopyBlock {
    /// Adds a segment without copying its bytes.
    pub fn push(&mut self, segment: Segment) {
        self.rows += segment.slice.rows;
        self.bytes += segment.tuples.len();
        self.segments.push(segment.tuples);
        if !self.slices.iter_mut().rev().take(NEIGHBOURS).any(|slice| slice.absorb(&segment.slice)) {
            self.slices.push(segment.slice);
        }
        for range in segment.ids {
            match self.ids.last_mut() {
                Some(last) if last.last + 1 == range.first => last.last = range.last,
                _ => self.ids.push(range),
            }
        }
    }

    /// The tuples, one by one, in sending order.
    pub fn tuples(&self) -> Vec<Bytes> {
        let ends = |segment: &Bytes| {
            let mut start = 0;
            let segment = segment.clone();
            std::iter::from_fn(move || {
                let end = start + tuple_bytes(segment.get(start..)?)?;
                let tuple = segment.slice(start..end);
                start = end;
                Some(tuple)
            })
        };
        self.segments.iter().flat_map(ends).collect()
    }

    /// Takes tuples out, by their number in sending order, each with the source's row that it came from: the slices
    /// then say fewer rows of the same ranges.
    pub fn remove(&mut self, removed: &BTreeMap<usize, SourceRow>) {
        let mut number = 0;
        let mut kept = Vec::with_capacity(self.segments.len() + removed.len());
        for segment in &self.segments {
            let (mut start, mut from) = (0, 0);
            while let Some(bytes) = tuple_bytes(&segment[start..]) {
                if removed.contains_key(&number) {
                    kept.push(segment.slice(from..start));
                    self.bytes -= bytes;
                    self.rows -= 1;
                    from = start + bytes;
                }
                start += bytes;
                number += 1;
            }
            kept.push(segment.slice(from..));
        }
        kept.retain(|segment| !segment.is_empty());
        self.segments = kept;
        for row in removed.values() {
            let of = |slice: &&mut Slice| {
                (slice.source, slice.unit, slice.hash_low) == (row.source, row.unit, row.hash_low)
                    && (slice.first_row..=slice.last_row).contains(&row.row)
            };
            if let Some(slice) = self.slices.iter_mut().find(of) {
                slice.rows -= 1;
            }
        }
    }
}

/// Bytes of the first tuple, or `None` at the end.
fn tuple_bytes(tuples: &[u8]) -> Option<usize> {
    let fields = u16::from_be_bytes(tuples.first_chunk().copied()?);
    let mut bytes = 2;
    for _ in 0..fields {
        let length = i32::from_be_bytes(tuples.get(bytes..)?.first_chunk().copied()?);
        // -1 is null and has no bytes.
        bytes += 4 + usize::try_from(length).unwrap_or(0);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_told_apart_and_taken_out() {
        let mut segment = Vec::new();
        for value in 0..5u8 {
            segment.extend_from_slice(&2i16.to_be_bytes());
            put_null(&mut segment);
            put_value(&mut segment, &[], &vec![value; usize::from(value)]);
        }
        let mut block = CopyBlock::default();
        block.push(Segment { tuples: segment.into(), slice: slice(10, 14), ids: Vec::new() });
        let tuples = block.tuples();
        assert_eq!(tuples.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
        let row = |row| SourceRow { source: 0, unit: 0, row, hash_low: i32::MIN };
        block.remove(&BTreeMap::from([(0, row(10)), (3, row(13))]));
        assert_eq!(block.tuples(), [&tuples[1], &tuples[2], &tuples[4]]);
        assert_eq!((block.rows, block.bytes, block.slices[0].rows), (3, 37, 3));
        assert_eq!((block.slices[0].first_row, block.slices[0].last_row), (10, 14));
    }

    #[test]
    fn a_tuple_is_taken_off_the_slice_of_its_hashes() {
        let tuple = |value: u8| {
            let mut tuple = 1i16.to_be_bytes().to_vec();
            put_value(&mut tuple, &[], &[value]);
            tuple
        };
        let mut block = CopyBlock::default();
        let low = Slice { rows: 1, hash_high: -1, ..slice(0, 9) };
        let high = Slice { rows: 3, hash_low: 0, ..slice(0, 9) };
        block.push(Segment { tuples: tuple(1).into(), slice: low, ids: Vec::new() });
        block.push(Segment {
            tuples: [tuple(2), tuple(3), tuple(4)].concat().into(),
            slice: high,
            ids: Vec::new(),
        });
        let refused = |row| SourceRow { source: 0, unit: 0, row, hash_low: 0 };
        block.remove(&BTreeMap::from([(1, refused(4)), (3, refused(7))]));
        assert_eq!(block.slices.iter().map(|slice| slice.rows).collect::<Vec<_>>(), [1, 1]);
    }

    fn slice(first_row: u64, last_row: u64) -> Slice {
        let rows = last_row - first_row + 1;
        Slice { source: 0, unit: 0, first_row, last_row, hash_low: i32::MIN, hash_high: i32::MAX, rows }
    }

    #[test]
    fn neighbouring_slices_join_and_others_do_not() {
        let mut one = slice(0, 9);
        assert!(one.absorb(&slice(10, 19)));
        assert_eq!(one, slice(0, 19));
        assert!(!one.absorb(&slice(21, 30)), "a gap is not covered");
        assert!(!one.absorb(&Slice { hash_low: 0, ..slice(20, 30) }), "other hashes are not covered");
        assert!(!one.absorb(&Slice { unit: 1, ..slice(20, 30) }));
    }

    #[test]
    fn header_is_as_the_manual_says() {
        assert_eq!(HEADER.len(), 19);
        assert_eq!(&HEADER[..11], b"PGCOPY\n\xff\r\n\0");
    }
}
