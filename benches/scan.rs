//! CSV: csv-core alone, the scan that cuts units with it, and the scan with the parsing of its records to batches.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vecload::memory::Budget;
use vecload::source::Place;
use vecload::source::text::{
    CsvFormat, Scanner, TextColumn, TextFormat, TextInput, TextPart, TextProjection, TextReader,
};

const BYTES: usize = 48 << 20;

fn scan(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut group = criterion.benchmark_group("scan");
    group.sample_size(10);
    for dim in [128, 1536] {
        let path = directory.path().join(format!("{dim}.csv"));
        let text = rows(dim);
        std::fs::write(&path, &text).expect("write the rows");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("csv-core", dim), |bencher| {
            bencher.iter(|| black_box(by_csv_core(text.as_bytes())));
        });
        group.bench_function(BenchmarkId::new("units", dim), |bencher| {
            bencher.iter(|| black_box(by_vecload(&path, None)));
        });
        group.bench_function(BenchmarkId::new("batches", dim), |bencher| {
            bencher.iter(|| black_box(by_vecload(&path, Some(dim))));
        });
    }
    group.finish();
}

/// Rows like those of a dump: numbers, quoted text and JSON, an embedding with some nine digits an element.
fn rows(dim: usize) -> String {
    let mut text = String::from("channel_id,user_id,content,metadata,embedding\n");
    let mut state = 1u64;
    while text.len() < BYTES {
        let row = text.len();
        write!(text, "{},{},\"row {row}, about two hundred bytes of ", row % 1000, row % 77)
            .expect("a string");
        text.push_str(&"text ".repeat(30));
        write!(text, "\",\"{{\"\"row\"\": {row}}}\",\"[").expect("a string");
        for element in 0..dim {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = ((state >> 40) as f32 / 16_777_216.0 - 0.5) * 0.2;
            let comma = if element > 0 { "," } else { "" };
            write!(text, "{comma}{value}").expect("a string");
        }
        text.push_str("]\"\n");
    }
    text
}

fn by_csv_core(text: &[u8]) -> usize {
    let mut reader = csv_core::Reader::new();
    let (mut output, mut ends) = (vec![0; 1 << 20], vec![0; 64]);
    let (mut from, mut records) = (0, 0);
    loop {
        let (result, read, ..) = reader.read_record(&text[from..], &mut output, &mut ends);
        from += read;
        match result {
            csv_core::ReadRecordResult::Record => records += 1,
            csv_core::ReadRecordResult::End => return records,
            _ => {}
        }
    }
}

/// Scans a file into units; with a dimension, parses them too.
fn by_vecload(path: &Path, dim: Option<usize>) -> u64 {
    let format = TextFormat::Csv(CsvFormat { delimiter: b',', null: None, header: true });
    let input = TextInput::open(&Place::File(path.into()), 1 << 20, Arc::new(|| false)).expect("the file");
    let mut scanner = Scanner::new(input, &format);
    let columns = [(0, true), (1, true), (2, false), (3, true)];
    let projection = Arc::new(TextProjection {
        format,
        names: ["channel_id", "user_id", "content", "metadata", "embedding"].map(String::from).to_vec(),
        embedding: 4,
        columns: columns
            .map(|(index, empty_is_null)| TextColumn { index, empty_is_null, as_json: false })
            .to_vec(),
        unexpected: Vec::new(),
    });
    let memory = Budget::new(256 << 20);
    let mut rows = 0;
    while let Some(unit) = scanner.next_unit(&memory).expect("good text") {
        let Some(dim) = dim else {
            rows += unit.rows();
            continue;
        };
        let all = 0..unit.rows();
        let part = TextPart { source: 0, unit: Arc::new(unit), rows: all };
        let mut reader = TextReader::open(part, Arc::clone(&projection), (1024, 512 << 10), dim);
        while let Some(batch) = reader.next_batch().expect("good rows") {
            assert!(batch.embeddings.faults.is_empty(), "good embeddings");
            rows += batch.rows as u64;
            reader.recycle(batch.embeddings.values);
        }
    }
    rows
}

criterion_group!(benches, scan);
criterion_main!(benches);
