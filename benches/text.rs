//! Embeddings in text: vecload's reader beside the standard library's floats and fast-float2's.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]

mod rows;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vecload::batch::embedding::read_text;

const ROWS: usize = 200;

fn text(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("text");
    for dim in [128, 1536] {
        for (kind, texts) in [("f32", texts(dim, false)), ("f64", texts(dim, true))] {
            group.throughput(Throughput::Elements((ROWS * dim) as u64));
            let readers: [(&str, Reader); 3] =
                [("vecload", by_vecload), ("fast-float2", by_crate), ("std", by_std)];
            for (name, reader) in readers {
                let mut out = Vec::new();
                group.bench_function(BenchmarkId::new(format!("{name}/{kind}"), dim), |bencher| {
                    bencher.iter(|| {
                        out.clear();
                        texts.iter().for_each(|text| reader(text.as_bytes(), &mut out));
                        assert_eq!(out.len(), ROWS * dim);
                    });
                });
            }
        }
    }
    group.finish();
}

type Reader = fn(&[u8], &mut Vec<f32>);

/// Embeddings of about unit length: elements as `float32` are written, or as Python writes them in double precision.
fn texts(dim: usize, double: bool) -> Vec<String> {
    let mut numbers = rows::Numbers::seeded(7);
    let scale = 2.0 / (dim as f32).sqrt();
    let element = |random: u64| {
        let value = ((random >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale;
        if double { f64::from(value).to_string() } else { value.to_string() }
    };
    let row = |_| {
        let elements: Vec<String> = (0..dim).map(|_| element(numbers.next())).collect();
        format!("[{}]", elements.join(","))
    };
    (0..ROWS).map(row).collect()
}

fn by_vecload(text: &[u8], out: &mut Vec<f32>) {
    read_text(text, out).expect("an embedding");
}

fn by_crate(text: &[u8], out: &mut Vec<f32>) {
    let mut rest = &text[1..];
    while !rest.is_empty() {
        let (value, bytes) = fast_float2::parse_partial::<f32, _>(rest).expect("a float");
        out.push(value);
        rest = &rest[bytes + 1..];
    }
}

fn by_std(text: &[u8], out: &mut Vec<f32>) {
    let text = std::str::from_utf8(text).expect("text");
    out.extend(text[1..text.len() - 1].split(',').map(|item| item.parse::<f32>().expect("a float")));
}

criterion_group!(benches, text);
criterion_main!(benches);
