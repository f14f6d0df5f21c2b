//! Reading Parquet: the embedding from its pages, beside Arrow's own reader for everything.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]

mod rows;

use std::fs::File;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use vecload::source::parquet::{ParquetFile, PartReader, Projection};

const ROWS: usize = 10_000;

fn read(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut group = criterion.benchmark_group("read");
    group.sample_size(10);
    for dim in [128, 1536] {
        let path = directory.path().join(format!("{dim}.parquet"));
        rows::write_parquet(&path, ROWS, dim, ROWS);
        group.throughput(Throughput::Bytes((ROWS * dim * 4) as u64));
        for batch_rows in [64, 256, 1024, 4096] {
            let name = BenchmarkId::new(format!("vecload/{dim}"), batch_rows);
            group.bench_function(name, |bencher| {
                bencher.iter(|| assert_eq!(by_vecload(&path, dim, batch_rows), ROWS));
            });
        }
        group.bench_function(BenchmarkId::new("arrow", dim), |bencher| {
            bencher.iter(|| assert_eq!(by_arrow(&path), ROWS));
        });
    }
    group.finish();
}

fn by_vecload(path: &std::path::Path, dim: usize, batch_rows: usize) -> usize {
    let file = Arc::new(ParquetFile::open(path, usize::MAX).expect("a good file"));
    let projection = Projection { embedding: 3, columns: vec![0, 1, 2, 4] };
    let mut rows = 0;
    for part in file.parts(0, 0, &projection) {
        let file = Arc::clone(&file);
        let mut reader =
            PartReader::open(file, part, projection.clone(), batch_rows, dim).expect("a good row group");
        while let Some(batch) = reader.next_batch().expect("good rows") {
            assert!(batch.embeddings.faults.is_empty(), "good embeddings");
            rows += batch.rows;
            reader.recycle(batch.embeddings.values);
        }
    }
    rows
}

fn by_arrow(path: &std::path::Path) -> usize {
    let file = File::open(path).expect("the file");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("a good file");
    let reader = builder.with_batch_size(1024).build().expect("a reader");
    reader.map(|batch| batch.expect("good rows").num_rows()).sum()
}

criterion_group!(benches, read);
criterion_main!(benches);
