//! Exact nearest neighbours by cosine distance, of all rows and of the rows in the query's channel.
//!
//! All rows are made again, a tile at a time, and multiplied with all queries in `f32`. A row that could be
//! among the nearest, given the bound on that product's error, is compared in `f64`, and that decides: the
//! result is what comparing every row in `f64` gives.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Control;
use super::kernel::{Vectors, error_max, exact_product, products, tile_rows};
use crate::error::{Context, Error, Result};
use crate::source::synthetic::{Row, Synthetic};

/// Neighbours of a query, at most; as many as `vecload search` gives.
pub const NEIGHBOURS_MAX: usize = 1000;

/// What queries and their neighbours may take.
const BYTES_MAX: u64 = 2 << 30;

/// Tiles that a lane takes at a time.
const TILES_AT_ONCE: u64 = 16;

/// What the cost is estimated with: so many queries, for so long on all lanes, which the machine may have to share.
const CALIBRATION_QUERIES: usize = 64;
const CALIBRATION_TIME: Duration = Duration::from_millis(200);

/// A row near a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Cosine distance, in `f64`.
    pub distance: f64,
    /// The row's number.
    pub row: u64,
}

/// Neighbours of a query, nearest first, equal distances by row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Neighbours {
    /// Among all rows.
    pub overall: Vec<Neighbour>,
    /// Among the rows of the query's channel.
    pub in_channel: Vec<Neighbour>,
}

/// Queries over a dataset, and how many neighbours each is to get.
#[derive(Debug)]
pub struct NeighbourSearch<'a> {
    synthetic: &'a Synthetic,
    queries: Vectors,
    channels: Vec<i64>,
    lengths: Vec<f64>,
    k: usize,
    lanes: usize,
}

/// What a search is going to cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Multiplications and additions, each pair counted once.
    pub multiply_adds: f64,
    /// Seconds on this machine, if it has its cores to itself.
    pub seconds: f64,
}

impl<'a> NeighbourSearch<'a> {
    /// Draws the queries.
    pub fn new(synthetic: &'a Synthetic, queries: u64, k: usize, lanes: usize) -> Result<Self> {
        if k == 0 || k > NEIGHBOURS_MAX {
            return Err(Error::refused(format!("-k {k}")).hint(format!("give 1 to {NEIGHBOURS_MAX}")));
        }
        let dim = synthetic.options().dim;
        let of_neighbours = queries.saturating_mul((2 * k * size_of::<Neighbour>()) as u64);
        let bytes =
            Vectors::query_bytes(queries, dim).saturating_add(of_neighbours.saturating_mul(lanes as u64 + 1));
        if queries == 0 || bytes > BYTES_MAX {
            let room = (u128::from(queries) * u128::from(BYTES_MAX) / u128::from(bytes.max(1))).max(1);
            return Err(Error::refused(format!("--queries {queries}"))
                .hint(format!("give from 1 to {room}: queries and their neighbours stay in memory")));
        }
        let count = queries as usize;
        let mut vectors = Vectors::for_queries(count, dim);
        let channels = (0..count).map(|query| synthetic.write_query(query as u64, vectors.get_mut(query)));
        let channels = channels.collect();
        let lengths = (0..count).map(|query| length(vectors.get(query))).collect();
        Ok(Self { synthetic, queries: vectors, channels, lengths, k, lanes })
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.channels.len()
    }

    /// A query's vector.
    pub fn vector(&self, query: usize) -> &[f32] {
        self.queries.get(query)
    }

    /// A query's channel.
    pub fn channel(&self, query: usize) -> i64 {
        self.channels[query]
    }

    /// The dataset that is searched.
    pub fn synthetic(&self) -> &'a Synthetic {
        self.synthetic
    }

    /// Tries it on some rows for a moment.
    pub fn cost(&self) -> Cost {
        let options = self.synthetic.options();
        let seconds_each = |work: &mut dyn FnMut()| {
            let (started, mut times) = (Instant::now(), 0u32);
            while times == 0 || started.elapsed() < CALIBRATION_TIME / 2 {
                work();
                times += 1;
            }
            started.elapsed().as_secs_f64() / f64::from(times)
        };
        let rows = tile_rows(options.dim);
        let try_it = || {
            let mut tile = Tile::new(options.dim);
            let making = seconds_each(&mut || tile.fill(self.synthetic, 0, rows));
            let queries = self.queries().min(CALIBRATION_QUERIES);
            let multiplying = seconds_each(&mut || {
                let mut best = f32::MIN;
                products(&tile.vectors, rows, &self.queries, queries, |_, _, product| {
                    best = best.max(product);
                });
                std::hint::black_box(best);
            });
            making + multiplying * self.queries() as f64 / queries as f64
        };
        let of_tile: f64 = std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.lanes).map(|_| scope.spawn(try_it)).collect();
            let own = try_it();
            // A lane that panics here does so again, and is reported, when the search runs.
            own + others.into_iter().map(|other| other.join().unwrap_or(own)).sum::<f64>()
        });
        let tiles = options.rows as f64 / rows as f64;
        Cost {
            multiply_adds: options.rows as f64 * self.queries() as f64 * options.dim as f64,
            seconds: of_tile * tiles / (self.lanes * self.lanes) as f64,
        }
    }

    /// Compares all rows with all queries.
    pub fn run(&self, control: &Control) -> Result<Vec<Neighbours>> {
        let next = AtomicU64::new(0);
        let found = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..self.lanes)
                .map(|lane| {
                    std::thread::Builder::new()
                        .name(format!("neighbours-{lane}"))
                        .spawn_scoped(scope, || self.work(&next, control))
                        .or_failed(|| "start a lane".into())
                })
                .collect::<Result<_>>()?;
            let ended = lanes.into_iter().map(|lane| lane.join());
            ended
                .map(|ended| ended.unwrap_or_else(|_| Err(Error::bug("a search for neighbours panicked"))))
                .collect::<Result<Vec<_>>>()
        })?;
        let mut merged: Vec<[Nearest; 2]> = self.nothing_yet();
        for of_lane in found {
            for (into, from) in merged.iter_mut().flatten().zip(of_lane.into_iter().flatten()) {
                from.heap.into_iter().for_each(|Ranked(neighbour)| into.offer(neighbour));
            }
        }
        Ok(merged
            .into_iter()
            .map(|[overall, in_channel]| Neighbours {
                overall: overall.into_sorted(),
                in_channel: in_channel.into_sorted(),
            })
            .collect())
    }

    fn nothing_yet(&self) -> Vec<[Nearest; 2]> {
        let error = error_max(self.synthetic.options().dim);
        let nothing = || Nearest { k: self.k, error, bar: f32::NEG_INFINITY, heap: BinaryHeap::new() };
        (0..self.queries()).map(|_| [nothing(), nothing()]).collect()
    }

    /// A lane: takes tiles as long as there are any.
    fn work(&self, next: &AtomicU64, control: &Control) -> Result<Vec<[Nearest; 2]>> {
        let options = self.synthetic.options();
        let per_tile = tile_rows(options.dim) as u64;
        let mut tile = Tile::new(options.dim);
        let mut nearest = self.nothing_yet();
        loop {
            let first = next.fetch_add(TILES_AT_ONCE, Ordering::Relaxed) * per_tile;
            if first >= options.rows {
                return Ok(nearest);
            }
            let end = (first + TILES_AT_ONCE * per_tile).min(options.rows);
            for start in (first..end).step_by(per_tile as usize) {
                control.go_on()?;
                let rows = per_tile.min(end - start) as usize;
                tile.fill(self.synthetic, start, rows);
                self.compare(&tile, rows, &mut nearest);
                control.rows_done(rows as u64);
            }
        }
    }

    fn compare(&self, tile: &Tile, rows: usize, nearest: &mut [[Nearest; 2]]) {
        products(&tile.vectors, rows, &self.queries, self.queries(), |row, query, product| {
            let [overall, in_channel] = &mut nearest[query];
            let same_channel = tile.rows[row].channel == self.channels[query];
            if product < overall.bar && !(same_channel && product >= in_channel.bar) {
                return;
            }
            let vector = tile.vectors.get(row);
            let distance =
                1.0 - exact_product(vector, self.vector(query)) / (length(vector) * self.lengths[query]);
            let neighbour = Neighbour { distance, row: tile.rows[row].number };
            overall.offer(neighbour);
            if same_channel {
                in_channel.offer(neighbour);
            }
        });
    }
}

/// Rows that are being compared.
struct Tile {
    vectors: Vectors,
    rows: Vec<Row>,
}

impl Tile {
    fn new(dim: usize) -> Self {
        Self { vectors: Vectors::for_tile(dim), rows: Vec::new() }
    }

    fn fill(&mut self, synthetic: &Synthetic, first: u64, count: usize) {
        self.rows.clear();
        self.rows.extend((first..first + count as u64).map(|number| synthetic.row(number)));
        for (index, row) in self.rows.iter().enumerate() {
            synthetic.write_embedding(row, self.vectors.get_mut(index));
        }
    }
}

/// The nearest rows so far.
struct Nearest {
    k: usize,
    error: f64,
    /// A product below it can't belong to one of the nearest.
    bar: f32,
    heap: BinaryHeap<Ranked>,
}

impl Nearest {
    fn offer(&mut self, neighbour: Neighbour) {
        let ranked = Ranked(neighbour);
        if self.heap.len() < self.k {
            self.heap.push(ranked);
        } else if let Some(mut last) = self.heap.peek_mut()
            && ranked < *last
        {
            *last = ranked;
        } else {
            return;
        }
        if self.heap.len() == self.k
            && let Some(Ranked(last)) = self.heap.peek()
        {
            // Below by more than the rounding to f32.
            self.bar = (1.0 - last.distance - self.error - 1e-7) as f32;
        }
    }

    fn into_sorted(self) -> Vec<Neighbour> {
        self.heap.into_sorted_vec().into_iter().map(|Ranked(neighbour)| neighbour).collect()
    }
}

/// Nearer is less, and of equally near rows the first.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ranked(Neighbour);

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.distance.total_cmp(&other.0.distance).then(self.0.row.cmp(&other.0.row))
    }
}

fn length(vector: &[f32]) -> f64 {
    exact_product(vector, vector).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::synthetic::SyntheticOptions;

    /// All rows, compared one by one in `f64` and sorted.
    fn by_hand(search: &NeighbourSearch<'_>, query: usize, channel: Option<i64>) -> Vec<(u64, f64)> {
        let synthetic = search.synthetic;
        let mut vector = vec![0.0; synthetic.options().dim];
        let one: Vec<f64> = search.vector(query).iter().map(|element| f64::from(*element)).collect();
        let mut all = Vec::new();
        for number in 0..synthetic.options().rows {
            let row = synthetic.row(number);
            if channel.is_none_or(|channel| channel == row.channel) {
                synthetic.write_embedding(&row, &mut vector);
                let other: Vec<f64> = vector.iter().map(|element| f64::from(*element)).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let cosine = dot(&one, &other) / (dot(&one, &one) * dot(&other, &other)).sqrt();
                all.push((number, 1.0 - cosine));
            }
        }
        all.sort_by(|one, other| one.1.total_cmp(&other.1).then(one.0.cmp(&other.0)));
        all.truncate(search.k);
        all
    }

    #[test]
    fn neighbours_are_those_of_comparing_everything_in_f64() {
        // In few dimensions many rows are nearly as near as each other; 1536 has the largest rounding errors.
        for (rows, dim, queries, k) in [(3000, 2, 5, 40), (5000, 24, 7, 100), (700, 1536, 4, 10)] {
            let options = SyntheticOptions { rows, dim, channels: 20, skew: 1.0, clusters: 8, seed: 1 };
            let synthetic = Synthetic::new(options).unwrap();
            let mut results = Vec::new();
            for lanes in [1, 3] {
                let search = NeighbourSearch::new(&synthetic, queries, k, lanes).unwrap();
                let control = Control::default();
                let found = search.run(&control).unwrap();
                assert_eq!((found.len() as u64, control.rows()), (queries, rows));
                for (query, found) in found.iter().enumerate() {
                    let channel = Some(search.channel(query));
                    for (found, expected) in [
                        (&found.overall, by_hand(&search, query, None)),
                        (&found.in_channel, by_hand(&search, query, channel)),
                    ] {
                        assert_eq!(found.len(), expected.len());
                        for (found, (row, distance)) in found.iter().zip(expected) {
                            assert!((found.distance - distance).abs() < 1e-14, "{found:?}, not {distance}");
                            // Where f64 itself can't tell two rows apart, summing in another order may swap them.
                            let tie = dim == 2;
                            assert!(found.row == row || tie, "{dim}: {found:?}, not {row}");
                        }
                    }
                }
                results.push(found);
            }
            assert_eq!(results[0], results[1], "lanes change nothing");
        }
    }

    #[test]
    fn equal_distances_are_in_the_order_of_rows() {
        let options = SyntheticOptions { rows: 5000, dim: 1, channels: 2, skew: 0.0, clusters: 1, seed: 1 };
        let synthetic = Synthetic::new(options).unwrap();
        let search = NeighbourSearch::new(&synthetic, 1, 50, 2).unwrap();
        let found = search.run(&Control::default()).unwrap();
        assert!(found[0].overall.is_sorted_by_key(|neighbour| neighbour.row));
        assert!(found[0].overall.iter().all(|neighbour| neighbour.distance == 0.0));
    }

    #[test]
    fn a_search_ends_when_it_is_told_to() {
        let options = SyntheticOptions { rows: 5000, dim: 8, channels: 2, skew: 0.0, clusters: 1, seed: 1 };
        let synthetic = Synthetic::new(options).unwrap();
        let control = Control::default();
        control.stop();
        let search = NeighbourSearch::new(&synthetic, 1, 5, 2).unwrap();
        assert_eq!(search.run(&control).unwrap_err().exit_code(), 130);
    }

    #[test]
    fn too_many_queries_are_refused_with_a_number_that_fits() {
        let options = SyntheticOptions { rows: 10, dim: 1536, channels: 2, skew: 0.0, clusters: 1, seed: 1 };
        let synthetic = Synthetic::new(options).unwrap();
        for (queries, k) in [(0, 10), (u64::MAX, 10), (1 << 30, 10), (1, 0), (1, 1001)] {
            let error = NeighbourSearch::new(&synthetic, queries, k, 2).map(|_| ()).unwrap_err();
            assert!(error.exit_code() == 2 && error.advice().is_some(), "{error:?}");
        }
    }
}
