//! Dot products of many rows with many queries, fast and nearly right: a bound on the error says how nearly.

/// Products are summed in this many lanes: what two SSE registers hold, and AVX one.
const LANES: usize = 8;

/// Rows and queries that are multiplied at a time, so that each element is loaded once for several products.
pub(super) const ROWS_AT_ONCE: usize = 4;
const QUERIES_AT_ONCE: usize = 2;

/// Bytes of a tile of rows: it stays in the second-level cache while all queries pass by.
const TILE_BYTES: usize = 256 << 10;
const TILE_ROWS_MAX: usize = 256;

/// Vectors of one length, padded with zeros so that the kernel needs no special cases.
#[derive(Debug, Clone)]
pub(super) struct Vectors {
    dim: usize,
    stride: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Zeros; `multiple` is what the count is rounded up to.
    fn zeros(count: usize, dim: usize, multiple: usize) -> Self {
        let stride = dim.next_multiple_of(LANES);
        Self { dim, stride, values: vec![0.0; count.next_multiple_of(multiple) * stride] }
    }

    /// Room for queries.
    pub(super) fn for_queries(count: usize, dim: usize) -> Self {
        Self::zeros(count, dim, QUERIES_AT_ONCE)
    }

    /// Room for a tile of rows.
    pub(super) fn for_tile(dim: usize) -> Self {
        Self::zeros(tile_rows(dim), dim, ROWS_AT_ONCE)
    }

    /// Bytes of this many queries.
    pub(super) fn query_bytes(count: u64, dim: usize) -> u64 {
        count.saturating_mul((dim.next_multiple_of(LANES) * size_of::<f32>()) as u64)
    }

    pub(super) fn get(&self, index: usize) -> &[f32] {
        &self.values[index * self.stride..][..self.dim]
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[index * self.stride..][..self.dim]
    }

    fn padded(&self, index: usize) -> &[[f32; LANES]] {
        self.values[index * self.stride..][..self.stride].as_chunks().0
    }
}

/// Rows of a tile.
pub(super) fn tile_rows(dim: usize) -> usize {
    (TILE_BYTES / (dim * size_of::<f32>()) / ROWS_AT_ONCE * ROWS_AT_ONCE).clamp(ROWS_AT_ONCE, TILE_ROWS_MAX)
}

/// How far a product of two vectors of length 1 may be from their cosine similarity.
pub(super) fn error_max(dim: usize) -> f64 {
    // A sum of n products in order is off by at most n units in the last place of their absolute sum, which for
    // unit vectors is at most 1; lanes make n smaller. Lengths are 1 within 1e-6 each.
    let terms = (dim.div_ceil(LANES) + LANES + 1) as f64;
    terms * 1.01 / (1u64 << 24) as f64 + 4e-6
}

/// Calls `found(row, query, product)` for the first `rows` rows of a tile and the first `queries` queries.
pub(super) fn products(
    tile: &Vectors,
    rows: usize,
    all: &Vectors,
    queries: usize,
    mut found: impl FnMut(usize, usize, f32),
) {
    for query in (0..queries).step_by(QUERIES_AT_ONCE) {
        let pair = [all.padded(query), all.padded(query + 1)];
        for row in (0..rows).step_by(ROWS_AT_ONCE) {
            let four = [0, 1, 2, 3].map(|offset| tile.padded(row + offset));
            let sums = four_by_two(four, pair);
            for (of_row, sums) in sums.iter().enumerate().take(rows - row) {
                for (of_query, sum) in sums.iter().enumerate().take(queries - query) {
                    found(row + of_row, query + of_query, *sum);
                }
            }
        }
    }
}

#[inline]
fn four_by_two(
    rows: [&[[f32; LANES]]; ROWS_AT_ONCE],
    queries: [&[[f32; LANES]]; QUERIES_AT_ONCE],
) -> [[f32; QUERIES_AT_ONCE]; ROWS_AT_ONCE] {
    let length = queries[0].len();
    // Cut to one length, so that bounds are checked once and not at each element.
    let [one, two] = queries.map(|query| &query[..length]);
    let rows = rows.map(|row| &row[..length]);
    let mut sums = [[[0.0f32; LANES]; QUERIES_AT_ONCE]; ROWS_AT_ONCE];
    for at in 0..length {
        for row in 0..ROWS_AT_ONCE {
            for lane in 0..LANES {
                sums[row][0][lane] += rows[row][at][lane] * one[at][lane];
                sums[row][1][lane] += rows[row][at][lane] * two[at][lane];
            }
        }
    }
    sums.map(|of_row| of_row.map(|lanes| lanes.iter().sum()))
}

/// The dot product in `f64`, in a fixed order: the products are exact, and of their sum 15 digits are.
pub(super) fn exact_product(one: &[f32], other: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (ones, one_rest) = one.as_chunks::<LANES>();
    let (others, other_rest) = other.as_chunks::<LANES>();
    for (one, other) in ones.iter().zip(others) {
        for lane in 0..LANES {
            sums[lane] += f64::from(one[lane]) * f64::from(other[lane]);
        }
    }
    for (lane, (one, other)) in one_rest.iter().zip(other_rest).enumerate() {
        sums[lane] += f64::from(*one) * f64::from(*other);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::synthetic::{Synthetic, SyntheticOptions};

    #[test]
    fn products_are_within_their_bound() {
        for dim in [1, 3, 8, 9, 128, 1536, 16_000] {
            let options = SyntheticOptions { rows: 100, dim, channels: 1, skew: 0.0, clusters: 2, seed: 5 };
            let synthetic = Synthetic::new(options).unwrap();
            let (rows, queries) = (tile_rows(dim).min(7), 5);
            let mut tile = Vectors::for_tile(dim);
            let mut all = Vectors::for_queries(queries, dim);
            for row in 0..rows {
                synthetic.write_embedding(&synthetic.row(row as u64), tile.get_mut(row));
            }
            for query in 0..queries {
                synthetic.write_query(query as u64, all.get_mut(query));
            }
            let mut seen = 0;
            products(&tile, rows, &all, queries, |row, query, product| {
                let exact = exact_product(tile.get(row), all.get(query));
                let error = (f64::from(product) - exact).abs();
                assert!(error <= error_max(dim), "{dim}: {error} of {}", error_max(dim));
                seen += 1;
            });
            assert_eq!(seen, rows * queries);
        }
    }
}
