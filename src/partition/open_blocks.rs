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
    open: Mutex<Vec<HeldBlock>>,
}

impl OpenBlocks {
    /// One empty block per place; a block is sealed at `block_bytes`.
    pub fn new(places: usize, block_bytes: usize) -> Self {
        let open = (0..places).map(|place| HeldBlock { place, ..HeldBlock::default() }).collect();
        Self { block_bytes, open: Mutex::new(open) }
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
        let target = &mut open[place];
        target.block.push(segment);
        target.origins.push(origins);
        target.held.push(held);
        (target.block.bytes >= self.block_bytes).then(|| target.take())
    }

    /// Seals the fullest block, if any holds rows: when memory is short, and at the end.
    pub fn take_fullest(&self) -> Option<HeldBlock> {
        let mut open = self.lock();
        let fullest = open.iter_mut().max_by_key(|held| held.block.bytes)?;
        (fullest.block.rows > 0).then(|| fullest.take())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HeldBlock>> {
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
        let open = OpenBlocks::new(2, 100);
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
}
