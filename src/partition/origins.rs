//! Where the tuples of a block come from, for the rows that the server refuses.

use std::sync::Arc;

use crate::copy::SourceRow;
use crate::source::text::Position;

/// Where the tuples of a segment come from, in their order.
#[derive(Debug, Clone)]
pub struct Origins {
    /// The batch's row 0.
    pub first: SourceRow,
    /// Row of the batch, for each tuple.
    pub rows: Vec<u32>,
    /// Where each row of the batch begins, in sources of text; else empty.
    pub positions: Arc<[Position]>,
}

impl Origins {
    /// Bytes that the origin of a tuple takes.
    pub fn row_bytes(has_positions: bool) -> usize {
        size_of::<u32>() + if has_positions { size_of::<Position>() } else { 0 }
    }

    /// The row of a tuple, and where it begins in text.
    pub fn of(&self, tuple: usize) -> Option<(SourceRow, Option<Position>)> {
        let row = *self.rows.get(tuple)?;
        let place = SourceRow { row: self.first.row + u64::from(row), ..self.first };
        Some((place, self.positions.get(row as usize).copied()))
    }
}
