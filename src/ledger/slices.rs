//! Slices as the ledger stores them, and how those of several blocks become fewer.

use super::coverage::CoveredSlice;
use crate::copy::IdRange;

/// A slice of a stored block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredSlice {
    /// The source's id in the ledger.
    pub(super) source_id: i64,
    /// The unit.
    pub(super) unit: u32,
    /// What is committed of it.
    pub(super) covered: CoveredSlice,
    /// Rows that came with it.
    pub(super) rows: u64,
}

/// Merges slices into fewer that say the same. `whole` is told source, unit and the rows of all its slices here,
/// and gives the unit's rows if these are all that it has: then the unit becomes one slice of all rows and hashes,
/// also where nothing lay. Any other unit's slices are joined only where two make exactly one.
pub(super) fn merge(
    mut slices: Vec<StoredSlice>,
    whole: impl Fn(i64, u32, u64) -> Option<u64>,
) -> Vec<StoredSlice> {
    slices.sort_unstable_by_key(|slice| (slice.source_id, slice.unit));
    let mut merged = Vec::new();
    for unit in slices.chunk_by(|one, other| (one.source_id, one.unit) == (other.source_id, other.unit)) {
        let rows = unit.iter().map(|slice| slice.rows).sum();
        match whole(unit[0].source_id, unit[0].unit, rows) {
            Some(unit_rows) => {
                let last_row = unit_rows.saturating_sub(1);
                let covered =
                    CoveredSlice { first_row: 0, last_row, hash_low: i32::MIN, hash_high: i32::MAX };
                merged.push(StoredSlice { covered, rows, ..unit[0] });
            }
            None => merged.extend(join(unit.to_vec())),
        }
    }
    merged
}

/// Joins slices of one unit that have the same hashes and neighbouring rows, or the same rows and neighbouring
/// hashes, until no two do.
fn join(mut slices: Vec<StoredSlice>) -> Vec<StoredSlice> {
    loop {
        let before = slices.len();
        slices.sort_unstable_by_key(|StoredSlice { covered, .. }| {
            (covered.hash_low, covered.hash_high, covered.first_row, covered.last_row)
        });
        slices.dedup_by(|next, slice| {
            let (of, by) = (slice.covered, next.covered);
            let joins = (of.hash_low, of.hash_high) == (by.hash_low, by.hash_high)
                && by.first_row <= of.last_row.saturating_add(1);
            if joins {
                slice.covered.last_row = of.last_row.max(by.last_row);
                slice.rows += next.rows;
            }
            joins
        });
        slices.sort_unstable_by_key(|StoredSlice { covered, .. }| *covered);
        slices.dedup_by(|next, slice| {
            let (of, by) = (slice.covered, next.covered);
            let joins = (of.first_row, of.last_row) == (by.first_row, by.last_row)
                && by.hash_low <= of.hash_high.saturating_add(1);
            if joins {
                slice.covered.hash_high = of.hash_high.max(by.hash_high);
                slice.rows += next.rows;
            }
            joins
        });
        if slices.len() == before {
            return slices;
        }
    }
}

/// Sorts id ranges and joins those that touch.
pub(super) fn join_ids(mut ids: Vec<IdRange>) -> Vec<IdRange> {
    ids.sort_unstable_by_key(|range| (range.first, range.last));
    ids.dedup_by(|next, range| {
        let joins = next.first <= range.last.saturating_add(1);
        if joins {
            range.last = range.last.max(next.last);
        }
        joins
    });
    ids
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ROWS: u64 = 24;
    const UNITS: u32 = 3;

    /// A hash stands for each of eight ranges, the outermost among them.
    const HASHES: [i32; 8] = [i32::MIN, -99, -98, -1, 0, 1, 500, i32::MAX];

    /// A slice from indexes into [`HASHES`]; it brings what of `taken` it is the first to cover.
    fn slice(
        unit: u32,
        rows: (u64, u64),
        hashes: (usize, usize),
        taken: &mut BTreeSet<(u32, u64, usize)>,
    ) -> StoredSlice {
        let (first_row, last_row) = (rows.0.min(rows.1), rows.0.max(rows.1));
        let (low, high) = (hashes.0.min(hashes.1), hashes.0.max(hashes.1));
        // A row has one hash; here that of its number.
        let its = (first_row..=last_row).map(|row| (unit, row, (row * 5 % 8) as usize));
        let new = its.filter(|at| (low..=high).contains(&at.2) && taken.insert(*at)).count();
        // Between two neighbours of the list nothing hashes, but bounds lie there.
        let hash_high = if high + 1 < HASHES.len() { HASHES[high + 1] - 1 } else { i32::MAX };
        let covered = CoveredSlice { first_row, last_row, hash_low: HASHES[low], hash_high };
        StoredSlice { source_id: i64::from(unit % 2), unit, covered, rows: new as u64 }
    }

    fn covers(slices: &[StoredSlice], unit: u32, row: u64, hash: i32) -> bool {
        slices.iter().any(|slice| slice.unit == unit && slice.covered.covers(row, hash))
    }

    proptest! {
        /// For every row and hash: where a unit is not whole, the merged slices cover what the slices covered and
        /// nothing else; a whole one is covered all over.
        #[test]
        fn merged_slices_cover_what_the_slices_covered(
            shapes in prop::collection::vec(((0..UNITS), (0..ROWS, 0..ROWS), (0..8usize, 0..8usize)), 0..60),
            rejects in 0..4u64,
        ) {
            let mut taken = BTreeSet::new();
            let slices: Vec<_> = shapes
                .into_iter()
                .map(|(unit, rows, hashes)| slice(unit, rows, hashes, &mut taken))
                .collect();
            let is_whole = |unit: u32| taken.iter().filter(|at| at.0 == unit).count() as u64 + rejects == ROWS;
            let whole = |_: i64, _: u32, rows: u64| (rows + rejects == ROWS).then_some(ROWS);
            let merged = merge(slices.clone(), whole);
            prop_assert!(merged.len() <= slices.len());
            for unit in 0..UNITS {
                for row in 0..ROWS {
                    for hash in HASHES {
                        let expected = is_whole(unit) || covers(&slices, unit, row, hash);
                        prop_assert_eq!(covers(&merged, unit, row, hash), expected, "{} {} {}", unit, row, hash);
                    }
                }
                let rows = |slices: &[StoredSlice]| -> u64 {
                    slices.iter().filter(|slice| slice.unit == unit).map(|slice| slice.rows).sum()
                };
                prop_assert_eq!(rows(&merged), rows(&slices));
                if is_whole(unit) {
                    prop_assert_eq!(merged.iter().filter(|slice| slice.unit == unit).count(), 1);
                }
            }
        }

        #[test]
        fn joined_ids_are_the_same_ids(ranges in prop::collection::vec((0..60i64, 0..6i64), 0..20)) {
            let ranges: Vec<_> =
                ranges.into_iter().map(|(first, more)| IdRange { first, last: first + more }).collect();
            let all = |ranges: &[IdRange]| -> BTreeSet<i64> {
                ranges.iter().flat_map(|range| range.first..=range.last).collect()
            };
            let joined = join_ids(ranges.clone());
            prop_assert_eq!(all(&joined), all(&ranges));
            prop_assert!(joined.is_sorted_by(|one, next| one.last + 1 < next.first), "{:?}", joined);
        }
    }

    #[test]
    fn batches_and_partitions_of_a_unit_become_one_slice() {
        let mut taken = BTreeSet::new();
        let parts = (0..8).flat_map(|hash| [(0, 9), (10, 12), (13, 23)].map(|rows| (rows, (hash, hash))));
        let slices = parts.map(|(rows, hashes)| slice(0, rows, hashes, &mut taken)).collect();
        let merged = merge(slices, |_, _, _| None);
        let all = CoveredSlice { first_row: 0, last_row: 23, hash_low: i32::MIN, hash_high: i32::MAX };
        assert_eq!(merged, [StoredSlice { source_id: 0, unit: 0, covered: all, rows: 24 }]);
    }
}
