//! What earlier runs have committed of a source, and which rows of a batch that leaves to do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::batch::ChunkBatch;

/// Committed rows of one source; stages share it.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    units: Arc<HashMap<u32, UnitCoverage>>,
}

/// Committed rows of one unit.
#[derive(Debug, Clone, Default)]
pub struct UnitCoverage {
    slices: BTreeSet<CoveredSlice>,
    /// Rows from the first to the last of the longest slice: how far before a batch one can begin that reaches it.
    longest_slice: u64,
    reject_ranges: BTreeSet<(u64, u64)>,
    longest_reject_range: u64,
    rows: u64,
    rejected: HashSet<u64>,
}

/// All accepted rows in this row range and this hash range (all bounds inclusive) are committed. They sort by their
/// first rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoveredSlice {
    /// First row.
    pub first_row: u64,
    /// Last row.
    pub last_row: u64,
    /// Lowest channel hash.
    pub hash_low: i32,
    /// Highest channel hash.
    pub hash_high: i32,
}

impl Coverage {
    /// Notes a committed slice and the rows it brought.
    pub fn add_slice(&mut self, unit: u32, slice: CoveredSlice, rows: u64) {
        let unit = self.unit(unit);
        unit.slices.insert(slice);
        unit.longest_slice = unit.longest_slice.max(slice.last_row - slice.first_row);
        unit.rows += rows;
    }

    /// Notes a row range whose rejects are recorded.
    pub fn add_reject_range(&mut self, unit: u32, first_row: u64, last_row: u64) {
        let unit = self.unit(unit);
        unit.reject_ranges.insert((first_row, last_row));
        unit.longest_reject_range = unit.longest_reject_range.max(last_row - first_row);
    }

    /// Notes a row that is recorded as rejected.
    pub fn add_reject(&mut self, unit: u32, row: u64) {
        self.unit(unit).rejected.insert(row);
    }

    fn unit(&mut self, unit: u32) -> &mut UnitCoverage {
        Arc::make_mut(&mut self.units).entry(unit).or_default()
    }

    /// Rows committed, of all units.
    pub fn rows(&self) -> u64 {
        self.units.values().map(|unit| unit.rows).sum()
    }

    /// Rejects recorded, of all units.
    pub fn rejects(&self) -> u64 {
        self.units.values().map(|unit| unit.rejected.len() as u64).sum()
    }

    /// Whether every one of a unit's rows is committed or recorded as rejected.
    pub fn is_complete(&self, unit: u32, rows: u64) -> bool {
        rows == 0
            || self.units.get(&unit).is_some_and(|known| known.rows + known.rejected.len() as u64 == rows)
    }

    /// Takes out of a batch what is committed or recorded already. Returns the rows taken out.
    pub fn retain_new(&self, batch: &mut ChunkBatch) -> u64 {
        let Some(unit) = self.units.get(&batch.origin.unit) else {
            return 0;
        };
        let first = batch.origin.first_row;
        let last = first + batch.source_rows as u64 - 1;
        let near: Vec<CoveredSlice> = unit.slices_near(first, last).collect();
        let before = batch.rows.len() + batch.rejects.len();
        let covered = |row: u64, hash: i32| near.iter().any(|slice| slice.covers(row, hash));
        // A recorded reject stays one, even if the table would take the row by now. The other way round can't be
        // told: a slice does not say which rows of its range were rejected before their rejects were recorded.
        batch.rows.retain(|row| {
            let position = first + u64::from(row.row);
            !covered(position, row.channel_hash) && !unit.rejected.contains(&position)
        });
        batch.rejects.retain(|reject| !unit.rejects_are_recorded(reject.row));
        (before - batch.rows.len() - batch.rejects.len()) as u64
    }
}

impl UnitCoverage {
    /// Slices that hold any row of a range.
    fn slices_near(&self, first: u64, last: u64) -> impl Iterator<Item = CoveredSlice> {
        let starting = |first_row, hash| CoveredSlice {
            first_row,
            last_row: first_row,
            hash_low: hash,
            hash_high: hash,
        };
        let from =
            CoveredSlice { last_row: 0, ..starting(first.saturating_sub(self.longest_slice), i32::MIN) };
        let to = CoveredSlice { last_row: u64::MAX, ..starting(last, i32::MAX) };
        self.slices.range(from..=to).filter(move |slice| slice.last_row >= first).copied()
    }

    fn rejects_are_recorded(&self, row: u64) -> bool {
        let from = row.saturating_sub(self.longest_reject_range);
        self.reject_ranges.range((from, 0)..=(row, u64::MAX)).any(|(_, last)| *last >= row)
    }
}

impl CoveredSlice {
    pub(super) fn covers(&self, row: u64, hash: i32) -> bool {
        (self.first_row..=self.last_row).contains(&row) && (self.hash_low..=self.hash_high).contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::AcceptedRow;
    use crate::partition::Partitions;
    use crate::source::{Embeddings, Origin};

    fn batch(first_row: u64, hashes: &[i32]) -> ChunkBatch {
        let rows = hashes.iter().enumerate();
        let rows = rows.map(|(row, hash)| AcceptedRow { row: row as u32, embedding: 0, channel_hash: *hash });
        ChunkBatch {
            origin: Origin { source: 0, unit: 3, first_row },
            source_rows: hashes.len(),
            rows: rows.collect(),
            cells: Vec::new(),
            embeddings: Embeddings::default(),
            rejects: Vec::new(),
            positions: Vec::new().into(),
            zero_vectors: 0,
        }
    }

    proptest! {
        /// Runs of any batch size and any number of partitions, each cut off at a random point: in the end
        /// every row has been taken exactly once.
        #[test]
        fn every_row_is_taken_once_whatever_the_runs_look_like(
            hashes in prop::collection::vec(any::<i32>(), 1..120),
            runs in prop::collection::vec((1usize..40, 1usize..9, prop::collection::vec(any::<bool>(), 40)), 0..6),
        ) {
            let mut coverage = Coverage::default();
            let mut taken = vec![0; hashes.len()];
            let last = (7, 3, vec![true; 40 * 9]);
            for (batch_rows, partitions, commits) in runs.iter().chain([&last]) {
                let partitions = Partitions::even(*partitions);
                let mut commits = commits.iter().cycle();
                let known = coverage.clone();
                for (index, chunk) in hashes.chunks(*batch_rows).enumerate() {
                    let first = (index * batch_rows) as u64;
                    let mut batch = batch(first, chunk);
                    known.retain_new(&mut batch);
                    for partition in 0..partitions.count() {
                        let (hash_low, hash_high) = partitions.range(partition);
                        let in_partition = |row: &&AcceptedRow| partitions.of(row.channel_hash) == partition;
                        let rows: Vec<_> = batch.rows.iter().filter(in_partition).collect();
                        if rows.is_empty() || !commits.next().expect("cycles") {
                            continue;
                        }
                        for row in &rows {
                            taken[first as usize + row.row as usize] += 1;
                        }
                        let last_row = first + chunk.len() as u64 - 1;
                        let slice = CoveredSlice { first_row: first, last_row, hash_low, hash_high };
                        coverage.add_slice(3, slice, rows.len() as u64);
                    }
                }
            }
            prop_assert!(taken.iter().all(|times| *times == 1), "{:?}", taken);
            prop_assert!(coverage.is_complete(3, hashes.len() as u64));
        }
    }
}
