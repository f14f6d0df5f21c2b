//! Encoding checked rows to COPY's binary tuples: rows and bytes per second, by dimension.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]

mod rows;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vecload::copy::IdRange;
use vecload::partition::{FieldSource, Partitioner, Partitions};

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for dim in [128usize, 384, 768, 1536] {
        let rows = 1 << 18 >> dim.ilog2();
        let (batcher, batch) = rows::source_batch(rows, dim, 100);
        let chunk = batcher.accept(batch).expect("good rows");
        assert_eq!(chunk.rows.len(), rows, "no row may be rejected");
        for (name, half) in [("vector", false), ("halfvec", true)] {
            let partitioner = Partitioner {
                partitions: Partitions::even(1),
                fields: vec![
                    FieldSource::Id(8),
                    FieldSource::Cell(0),
                    FieldSource::Cell(1),
                    FieldSource::Embedding,
                ],
                half,
            };
            let shares = partitioner.split(&chunk, &(0..chunk.source_rows as u32));
            let ids = vec![IdRange { first: 1, last: rows as i64 }];
            let once = partitioner.encode(&chunk, &shares[0], ids.clone()).expect("encodes");
            assert_eq!(once.tuples.len(), shares[0].bytes, "the planned size");
            for throughput in [Throughput::Bytes(once.tuples.len() as u64), Throughput::Elements(rows as u64)]
            {
                let unit = if matches!(throughput, Throughput::Bytes(_)) { "bytes" } else { "rows" };
                group.throughput(throughput);
                group.bench_function(BenchmarkId::new(format!("{name}/{unit}"), dim), |bencher| {
                    bencher.iter(|| {
                        partitioner.encode(&chunk, &shares[0], ids.clone()).expect("encodes").tuples.len()
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
