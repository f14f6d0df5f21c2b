//! What a dataset promises: the same bytes everywhere, and the statistics that its options name.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use twox_hash::XxHash3_64;

use super::*;
use crate::source::UnitPart;

fn options(rows: u64, dim: usize) -> SyntheticOptions {
    SyntheticOptions { rows, dim, channels: 100, skew: 1.1, clusters: 16, seed: 42 }
}

/// All bytes of rows, one after another.
fn bytes_of(synthetic: &Synthetic, numbers: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut embedding = vec![0.0; synthetic.options().dim];
    for number in numbers {
        let row = synthetic.row(number);
        bytes.extend(row.channel.to_le_bytes());
        bytes.extend(row.user.to_le_bytes());
        row.write_content(&mut bytes);
        row.write_metadata(&mut bytes);
        synthetic.write_embedding(&row, &mut embedding);
        bytes.extend(embedding.iter().flat_map(|element| element.to_le_bytes()));
    }
    bytes
}

/// The same from a reader, in batches.
fn bytes_read(synthetic: &Arc<Synthetic>, part: UnitPart, batch_rows: usize) -> Vec<u8> {
    let dim = synthetic.options().dim;
    let mut reader = SyntheticReader::open(Arc::clone(synthetic), part, vec![3, 0, 1, 2], batch_rows, dim);
    let mut bytes = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        let text = |column: usize, row| batch.columns.column(column).as_binary::<i32>().value(row);
        let number = |column: usize, row| batch.columns.column(column).as_primitive::<Int64Type>().value(row);
        for row in 0..batch.rows {
            bytes.extend(number(1, row).to_le_bytes());
            bytes.extend(number(2, row).to_le_bytes());
            bytes.extend(text(3, row));
            bytes.extend(text(0, row));
            let embedding = &batch.embeddings.values[row * dim..][..dim];
            bytes.extend(embedding.iter().flat_map(|element| element.to_le_bytes()));
        }
        reader.recycle(batch.embeddings.values);
    }
    bytes
}

/// A change here is another dataset: raise `GENERATOR_VERSION` with it.
#[test]
fn the_bytes_are_those_of_this_version() {
    let hash = |dim| XxHash3_64::oneshot(&bytes_of(&Synthetic::new(options(1000, dim)).unwrap(), 0..1000));
    let mut query = [0.0; 8];
    let channel = Synthetic::new(options(1, 8)).unwrap().write_query(3, &mut query);
    let query: Vec<u8> = query.iter().flat_map(|element| element.to_le_bytes()).collect();
    assert_eq!(
        (hash(8), hash(128), channel, XxHash3_64::oneshot(&query)),
        (8505122118025315085, 4554255255386612687, 3, 1826365506794621543)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_parts_and_batches_give_the_same_bytes(
        cuts in proptest::collection::btree_set(1u64..500, 0..5),
        batch_rows in 1usize..600,
        unit in 0u32..3,
    ) {
        let synthetic = Arc::new(Synthetic::new(options(100_000, 7)).unwrap());
        let ends: Vec<u64> = cuts.into_iter().chain([500]).collect();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let parts = starts.zip(&ends).map(|(start, end)| UnitPart { source: 0, unit, rows: start..*end });
        let read: Vec<u8> = parts.flat_map(|part| bytes_read(&synthetic, part, batch_rows)).collect();
        let first = u64::from(unit) * ROWS_PER_UNIT;
        prop_assert!(read == bytes_of(&synthetic, first..first + 500));
    }
}

#[test]
fn units_cover_all_rows() {
    for rows in [1, ROWS_PER_UNIT, ROWS_PER_UNIT + 1, 10_000_000] {
        let units = Synthetic::new(options(rows, 1)).unwrap().unit_rows();
        assert_eq!(units.iter().sum::<u64>(), rows);
        assert!(units.iter().rev().skip(1).all(|unit| *unit == ROWS_PER_UNIT), "{rows}");
    }
}

#[test]
fn embeddings_have_length_one_in_any_dimension() {
    for dim in [1, 2, 3, 7, 128, 1536, 16_000] {
        let synthetic = Synthetic::new(options(50, dim)).unwrap();
        let mut embedding = vec![0.0; dim];
        for number in 0..50 {
            synthetic.write_embedding(&synthetic.row(number), &mut embedding);
            let squares: f64 = embedding.iter().map(|element| f64::from(*element).powi(2)).sum();
            assert!((squares.sqrt() - 1.0).abs() < 1e-6, "{dim}: {}", squares.sqrt());
        }
    }
}

#[test]
fn cluster_sizes_vary_and_rows_have_them() {
    let clusters = 64;
    let synthetic = Synthetic::new(SyntheticOptions { clusters, ..options(200_000, 1) }).unwrap();
    let mut counts = vec![0u32; clusters as usize];
    (0..200_000).for_each(|number| counts[synthetic.row(number).cluster as usize] += 1);
    let shares: Vec<f64> = (0..clusters as usize).map(|cluster| synthetic.clusters.share(cluster)).collect();
    for (count, share) in counts.iter().zip(&shares) {
        let expected = share * 200_000.0;
        assert!(
            (f64::from(*count) - expected).abs() < 6.0 * expected.sqrt() + 6.0,
            "{count}, not {expected}"
        );
    }
    let largest = shares.iter().copied().fold(0.0, f64::max) * f64::from(clusters);
    let smallest = shares.iter().copied().fold(1.0, f64::min) * f64::from(clusters);
    assert!(largest > 3.0 && smallest < 0.2, "{smallest} to {largest} times the mean");
}

#[test]
fn rows_of_a_cluster_are_nearer_than_others() {
    let synthetic = Synthetic::new(options(2000, 128)).unwrap();
    let vectors: Vec<(u32, Vec<f32>)> = (0..400)
        .map(|number| {
            let row = synthetic.row(number);
            let mut embedding = vec![0.0; 128];
            synthetic.write_embedding(&row, &mut embedding);
            (row.cluster, embedding)
        })
        .collect();
    let mut similarities = HashMap::from([(true, Vec::new()), (false, Vec::new())]);
    for (index, (cluster, one)) in vectors.iter().enumerate() {
        for (other_cluster, other) in &vectors[..index] {
            let similarity: f32 = one.iter().zip(other).map(|(one, other)| one * other).sum();
            similarities.entry(cluster == other_cluster).or_default().push(similarity);
        }
    }
    let mean = |same| similarities[&same].iter().sum::<f32>() / similarities[&same].len() as f32;
    assert!((0.3..0.8).contains(&mean(true)) && mean(false).abs() < 0.1, "{} {}", mean(true), mean(false));
}

#[test]
fn channels_follow_zipfs_law() {
    for skew in [0.0, 0.7, 1.1, 2.0] {
        let synthetic = Synthetic::new(SyntheticOptions { skew, ..options(100_000, 1) }).unwrap();
        let mut counts = [0.0f64; 100];
        (0..100_000).for_each(|number| counts[synthetic.row(number).channel as usize - 1] += 1.0);
        let weights: Vec<f64> = (1..=100).map(|channel| f64::from(channel).powf(-skew)).collect();
        let total: f64 = weights.iter().sum();
        let expected = weights.iter().map(|weight| weight / total * 100_000.0);
        let chi_square: f64 =
            counts.iter().zip(expected).map(|(count, expected)| (count - expected).powi(2) / expected).sum();
        // 99 degrees of freedom: the mean is 99, the standard deviation 14.
        assert!(chi_square < 170.0, "skew {skew}: {chi_square}");
    }
}

#[test]
fn queries_are_no_rows() {
    let synthetic = Synthetic::new(options(1000, 16)).unwrap();
    let (mut query, mut embedding) = ([0.0; 16], [0.0; 16]);
    for number in 0..1000 {
        synthetic.write_query(number, &mut query);
        synthetic.write_embedding(&synthetic.row(number), &mut embedding);
        assert_ne!(query, embedding, "{number}");
    }
}

#[test]
fn another_dimension_is_a_fault_of_each_row() {
    let synthetic = Arc::new(Synthetic::new(options(10, 8)).unwrap());
    let part = UnitPart { source: 0, unit: 0, rows: 0..10 };
    let mut reader = SyntheticReader::open(synthetic, part, Vec::new(), 100, 9);
    let batch = reader.next_batch().unwrap().unwrap();
    assert_eq!((batch.rows, batch.embeddings.values.len(), batch.embeddings.faults.len()), (10, 0, 10));
    let expected = crate::batch::reject::Reason::Dimension { found: 8, expected: 9 };
    assert_eq!(batch.embeddings.faults[3].1, expected);
    assert!(reader.next_batch().unwrap().is_none());
}

#[test]
fn options_that_make_no_dataset_are_refused_with_a_way_on() {
    let good = options(10, 8);
    for bad in [
        SyntheticOptions { rows: 0, ..good.clone() },
        SyntheticOptions { rows: u64::MAX, ..good.clone() },
        SyntheticOptions { dim: 0, ..good.clone() },
        SyntheticOptions { dim: 16_001, ..good.clone() },
        SyntheticOptions { channels: 0, ..good.clone() },
        SyntheticOptions { channels: u64::MAX, ..good.clone() },
        SyntheticOptions { clusters: 0, ..good.clone() },
        SyntheticOptions { clusters: u32::MAX, ..good.clone() },
        SyntheticOptions { skew: -0.1, ..good.clone() },
        SyntheticOptions { skew: f64::NAN, ..good.clone() },
        SyntheticOptions { skew: f64::INFINITY, ..good.clone() },
    ] {
        let error = Synthetic::new(bad.clone()).expect_err("nonsense");
        assert!(error.exit_code() == 2 && error.advice().is_some(), "{bad:?}: {error}");
    }
}

#[test]
fn the_identity_holds_all_that_decides() {
    let identity = |options| Synthetic::new(options).unwrap().identity();
    let good = identity(options(10, 8));
    assert_eq!(good, "synthetic version=1 rows=10 dim=8 channels=100 skew=1.1 clusters=16 seed=42");
    let zero = |skew| identity(SyntheticOptions { skew, ..options(10, 8) });
    assert_eq!(zero(0.0), zero(-0.0));
}
