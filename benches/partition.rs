//! Checking and partitioning a batch: rows per second, by number of partitions.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]

mod rows;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vecload::partition::{FieldSource, Partitioner, Partitions};

fn partition(criterion: &mut Criterion) {
    const ROWS: usize = 2048;
    const DIM: usize = 128;
    let fields = vec![FieldSource::Cell(0), FieldSource::Cell(1), FieldSource::Embedding];
    let mut group = criterion.benchmark_group("partition");
    group.throughput(Throughput::Elements(ROWS as u64));
    for count in [1, 8, 32, 128] {
        let (batcher, batch) = rows::source_batch(ROWS, DIM, 1000);
        let chunk = batcher.accept(batch).expect("good rows");
        let partitioner =
            Partitioner { partitions: Partitions::even(count), fields: fields.clone(), half: false };
        let split = || partitioner.split(&chunk, &(0..chunk.source_rows as u32));
        let rows: usize = split().iter().map(|share| share.rows.len()).sum();
        assert_eq!(rows, ROWS, "every row has its partition");
        group.bench_function(BenchmarkId::new("split", count), |bencher| bencher.iter(split));
    }
    group.bench_function("accept", |bencher| {
        bencher.iter_batched(
            || rows::source_batch(ROWS, DIM, 1000),
            |(batcher, batch)| batcher.accept(batch).expect("good rows").rows.len(),
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, partition);
criterion_main!(benches);
