//! Synthetic rows: how fast lanes make them, alone and as text of CSV, and how fast they are compared with queries.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vecload::generate::{Compression, Control, Destination, Format, NeighbourSearch, Output, write_dataset};
use vecload::source::UnitPart;
use vecload::source::synthetic::{Synthetic, SyntheticOptions, SyntheticReader};

/// As the load's lanes read: all columns, about a MiB of embeddings at a time.
const BATCH_BYTES: usize = 1 << 20;

fn dataset(rows: u64, dim: usize) -> Arc<Synthetic> {
    let options = SyntheticOptions { rows, dim, channels: 1000, skew: 1.1, clusters: 256, seed: 42 };
    Arc::new(Synthetic::new(options).expect("options that make a dataset"))
}

fn generate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("generate");
    group.sample_size(10);
    for (dim, rows) in [(128, 262_144), (1536, 32_768)] {
        let synthetic = dataset(rows, dim);
        group.throughput(Throughput::Elements(rows));
        for lanes in [1, 2] {
            group.bench_function(BenchmarkId::new(format!("rows/{dim}"), lanes), |bencher| {
                bencher.iter(|| read_all(&synthetic, lanes));
            });
            for (name, format) in [("csv", Format::Csv(Compression::None)), ("parquet", Format::Parquet)] {
                group.bench_function(BenchmarkId::new(format!("{name}/{dim}"), lanes), |bencher| {
                    bencher.iter(|| {
                        let destination = Destination::Stream(Box::new(std::io::sink()), "nowhere");
                        write_dataset(&synthetic, Output { destination, format }, lanes, &Control::default())
                            .expect("rows that go nowhere")
                    });
                });
            }
        }
    }
    group.finish();
}

/// Reads all units on some lanes.
fn read_all(synthetic: &Arc<Synthetic>, lanes: usize) {
    let units = synthetic.unit_rows();
    let next = AtomicU32::new(0);
    let dim = synthetic.options().dim;
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let unit = next.fetch_add(1, Ordering::Relaxed);
                    let Some(rows) = units.get(unit as usize) else { return };
                    let part = UnitPart { source: 0, unit, rows: 0..*rows };
                    let batch_rows = BATCH_BYTES / (dim * 4);
                    let mut reader =
                        SyntheticReader::open(Arc::clone(synthetic), part, vec![0, 1, 2, 3], batch_rows, dim);
                    while let Some(batch) = reader.next_batch().expect("rows") {
                        reader.recycle(std::hint::black_box(batch).embeddings.values);
                    }
                }
            });
        }
    });
}

fn neighbours(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("neighbours");
    group.sample_size(10);
    for (dim, rows) in [(128, 40_000), (1536, 4_000)] {
        let synthetic = dataset(rows, dim);
        let search = NeighbourSearch::new(&synthetic, 500, 100, 2).expect("a few queries");
        group.throughput(Throughput::Elements(rows * 500 * dim as u64));
        group.bench_function(BenchmarkId::new("multiply-adds", dim), |bencher| {
            bencher.iter(|| search.run(&Control::default()).expect("neighbours"));
        });
    }
    group.finish();
}

criterion_group!(benches, generate, neighbours);
criterion_main!(benches);
