//! Choosing among many by weight, with integers: the same choice for the same bits on any machine.

use super::random::Stream;

/// Random bits that a choice takes; a count of this many bits is exact as a float too.
const BITS: u32 = 53;

/// Entries with weights, of which one is drawn in nearly constant time.
#[derive(Debug)]
pub(super) struct WeightedChoice {
    /// Cumulative weights in units of 2^-53; entry `i` is drawn by numbers from `ends[i - 1]` up to `ends[i]`.
    ends: Vec<u64>,
    /// By the leading bits of a number: the first entry that it may draw.
    guide: Vec<u32>,
    guide_bits: u32,
}

impl WeightedChoice {
    /// Weights are not negative, and their sum is positive and finite.
    pub(super) fn new(weights: impl ExactSizeIterator<Item = f64>) -> Self {
        let mut total = 0.0;
        // Summed from first to last: the order is part of the result.
        let sums: Vec<f64> = weights
            .map(|weight| {
                total += weight;
                total
            })
            .collect();
        // The last sum is the total, so the last end is exactly 2^53.
        let ends: Vec<u64> =
            sums.into_iter().map(|sum| (sum / total * (1u64 << BITS) as f64) as u64).collect();
        let guide_bits = guide_bits(ends.len());
        let mut guide = Vec::with_capacity((1 << guide_bits) + 1);
        let mut entry = 0;
        for bucket in 0..=1u64 << guide_bits {
            let first = bucket << (BITS - guide_bits);
            while entry + 1 < ends.len() && ends[entry] <= first {
                entry += 1;
            }
            guide.push(entry as u32);
        }
        Self { ends, guide, guide_bits }
    }

    /// Draws an entry.
    pub(super) fn draw(&self, stream: &mut Stream) -> usize {
        let number = stream.next() >> (64 - BITS);
        let bucket = (number >> (BITS - self.guide_bits)) as usize;
        let (from, to) = (self.guide[bucket] as usize, self.guide[bucket + 1] as usize);
        from + self.ends[from..to].partition_point(|end| *end <= number)
    }

    /// The share of draws that an entry gets.
    #[cfg(test)]
    pub(super) fn share(&self, entry: usize) -> f64 {
        let before = if entry == 0 { 0 } else { self.ends[entry - 1] };
        (self.ends[entry] - before) as f64 / (1u64 << BITS) as f64
    }

    /// Bytes of the tables for this many entries.
    pub(super) fn bytes(entries: u64) -> u64 {
        let guide = 1u64 << guide_bits(usize::try_from(entries).unwrap_or(usize::MAX));
        entries.saturating_mul(8).saturating_add(guide.saturating_mul(4))
    }
}

/// As many buckets as entries, roughly: then a bucket holds one or two.
fn guide_bits(entries: usize) -> u32 {
    entries.max(2).ilog2().min(31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::synthetic::random::{Purpose, Streams};

    #[test]
    fn each_entry_is_drawn_by_its_weight() {
        let weights = [0.0, 1.0, 3.0, 0.0, 0.0, 6.0, 0.0];
        let choice = WeightedChoice::new(weights.into_iter());
        let mut counts = [0u32; 7];
        let mut stream = Streams::new(1, Purpose::Row).at(0);
        for _ in 0..100_000 {
            counts[choice.draw(&mut stream)] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            assert!((f64::from(count) - weight * 10_000.0).abs() <= weight * 300.0, "{counts:?}");
        }
    }

    #[test]
    fn one_entry_is_always_drawn() {
        let choice = WeightedChoice::new([5.0].into_iter());
        let mut stream = Streams::new(1, Purpose::Row).at(0);
        assert!((0..100).all(|_| choice.draw(&mut stream) == 0));
    }
}
