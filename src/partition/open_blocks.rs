//! Blocks that are being filled, one for each place that blocks go to, shared by all lanes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::origins::Origins;
use crate::copy::{CopyBlock, Segment, SourceRow};
use crate::memory::Reservation;
use crate::source::text::Position;

/// A block and the memory it holds, given back when the block is dropped.
#[derive(Debug, Default)]
pub struct HeldBlock {
    /// Which of the open blocks it was: where it goes.
    pub place: usize,
    /// The rows.
    pub block: CopyBlock,
    /// Where they come from, a segment's after another's.
    pub origins: Vec<Origins>,
    /// Memory of its segments.
    pub held: Vec<Reservation>,
}

impl HeldBlock {
    /// The block, and an empty one for the same place instead.
    fn take(&mut self) -> Self {
        let place = self.place;
        std::mem::replace(self, Self { place, ..Self::default() })
    }

    /// The row that a tuple comes from, by its number in sending order, and where it begins in text.
    pub fn origin(&self, mut tuple: usize) -> Option<(SourceRow, Option<Position>)> {
        for origins in &self.origins {
            match tuple.checked_sub(origins.rows.len()) {
                Some(rest) => tuple = rest,
                None => return origins.of(tuple),
            }
        }
        None
    }

    /// Takes tuples out, by their number in sending order.
    pub fn remove(&mut self, removed: &BTreeMap<usize, SourceRow>) {
        self.block.remove(removed);
        let mut number = 0;
        for origins in &mut self.origins {
            origins.rows.retain(|_| {
                number += 1;
                !removed.contains_key(&(number - 1))
            });
        }
    }
}

/// Open blocks of all places.
#[derive(Debug)]
pub struct OpenBlocks {
    block_bytes: usize,
    writers: usize,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    blocks: Vec<HeldBlock>,
    /// Blocks that were sealed because they were full.
    sealed: usize,
}

/// The first blocks are an eighth as large, for each writer one, the next a quarter, then half: writers begin long
/// before all places have a full block, and don't come back all at once.
const RAMP: u32 = 3;

impl OpenBlocks {
    /// One empty block per place; a block is sealed at `block_bytes`, the first of them earlier.
    pub fn new(places: usize, block_bytes: usize, writers: usize) -> Self {
        let blocks = (0..places).map(|place| HeldBlock { place, ..HeldBlock::default() }).collect();
        Self { block_bytes, writers: writers.max(1), open: Mutex::new(Open { blocks, sealed: 0 }) }
    }

    /// Adds a segment; gives back the place's block if that seals it.
    pub fn push(
        &self,
        place: usize,
        segment: Segment,
        origins: Origins,
        held: Reservation,
    ) -> Option<HeldBlock> {
        let mut open = self.lock();
        let step = u32::try_from(open.sealed / self.writers).unwrap_or(RAMP).min(RAMP);
        let target = &mut open.blocks[place];
        target.block.push(segment);
        target.origins.push(origins);
        target.held.push(held);
        if target.block.bytes < self.block_bytes >> (RAMP - step) {
            return None;
        }
        let full = target.take();
        open.sealed += 1;
        Some(full)
    }

    /// Seals the fullest block, if any holds rows: when memory is short, and at the end.
    pub fn take_fullest(&self) -> Option<HeldBlock> {
        let mut open = self.lock();
        let fullest = open.blocks.iter_mut().max_by_key(|held| held.block.bytes)?;
        (fullest.block.rows > 0).then(|| fullest.take())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // A lane that panicked inside has stopped the load; what the blocks hold will not be sent.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Slice;
    use crate::memory::Budget;

    fn segment(bytes: usize, first_row: u64) -> Segment {
        let slice =
            Slice { source: 0, unit: 0, first_row, last_row: first_row, hash_low: 0, hash_high: 0, rows: 1 };
        Segment { tuples: vec![0; bytes].into(), slice, ids: Vec::new() }
    }

    fn origins(row: u64) -> Origins {
        let first = SourceRow { source: 0, unit: 0, row, hash_low: 0 };
        Origins { first, rows: vec![0], positions: Vec::new().into() }
    }

    #[test]
    fn a_block_is_sealed_at_its_size_and_loses_no_segment() {
        let budget = Budget::new(1 << 20);
        let open = OpenBlocks::new(2, 100, 1);
        open.lock().sealed = 3;
        let reserve = || budget.try_reserve(10).expect("a megabyte holds ten bytes");
        assert!(open.push(0, segment(60, 0), origins(0), reserve()).is_none());
        assert!(open.push(1, segment(70, 1), origins(1), reserve()).is_none());
        let sealed =
            open.push(0, segment(60, 2), origins(2), reserve()).expect("120 bytes seal a block of 100");
        assert_eq!((sealed.block.rows, sealed.block.bytes), (2, 120));
        assert_eq!(sealed.origin(1).map(|(row, _)| row.row), Some(2));
        assert!(sealed.origin(2).is_none());
        assert_eq!(open.take_fullest().map(|held| held.block.bytes), Some(70));
        assert!(open.take_fullest().is_none());
    }

    #[test]
    fn the_first_blocks_of_each_writer_are_small() {
        let budget = Budget::new(1 << 20);
        let open = OpenBlocks::new(1, 800, 2);
        let mut sizes = Vec::new();
        for row in 0..40 {
            let held = budget.try_reserve(10).expect("a megabyte holds ten bytes");
            sizes.extend(open.push(0, segment(100, row), origins(row), held).map(|held| held.block.bytes));
        }
        assert_eq!(sizes, [100, 100, 200, 200, 400, 400, 800, 800, 800]);
    }
}
