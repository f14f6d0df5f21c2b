//! Rows for the benchmarks: a fixed seed, so that runs compare.

#![allow(dead_code, reason = "each benchmark uses some of it")]

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use vecload::batch::convert::Converter;
use vecload::batch::text::TextForm;
use vecload::batch::{Batcher, FilledColumn, Filling};
use vecload::postgres::types::TargetType;
use vecload::source::{Embeddings, Origin, SourceBatch};

/// A generator of the SplitMix64 family: the same numbers everywhere.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A batch of `rows` rows as the reader gives it, in `channels` channels, and a batcher for it.
pub(crate) fn source_batch(rows: usize, dim: usize, channels: u64) -> (Batcher, SourceBatch) {
    let mut numbers = Numbers::seeded(42);
    let channel: Int64Array = (0..rows).map(|_| (numbers.next() % channels) as i64).collect();
    let text = text();
    let content = BinaryArray::from_iter_values((0..rows).map(|_| text.as_bytes()));
    let columns = RecordBatch::try_from_iter([
        ("channel_id", Arc::new(channel) as ArrayRef),
        ("content", Arc::new(content)),
    ])
    .expect("columns of one length");
    let filled = |index: usize, target: TargetType| FilledColumn {
        name: columns.schema().field(index).name().clone(),
        not_null: true,
        filling: Filling::Column(
            index,
            Converter::bind(columns.schema().field(index), TextForm::Values, &target)
                .expect("a column that fits"),
        ),
    };
    let batcher = Batcher {
        columns: vec![filled(0, TargetType::Int8), filled(1, TargetType::Text)],
        embedding_column: "embedding".into(),
        half: false,
        channel: Some(0),
    };
    let values = (0..rows * dim).map(|_| numbers.float()).collect();
    let batch = SourceBatch {
        origin: Origin { source: 0, unit: 0, first_row: 0 },
        rows,
        embeddings: Embeddings { dim, values, ..Embeddings::default() },
        columns,
        malformed: Vec::new(),
        positions: Vec::new(),
    };
    (batcher, batch)
}

/// Writes a Parquet file of random vectors, about 200 bytes of text and small JSON a row.
pub(crate) fn write_parquet(path: &Path, rows: usize, dim: usize, rows_per_group: usize) {
    let mut numbers = Numbers::seeded(7);
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    for start in (0..rows).step_by(rows_per_group) {
        let count = rows_per_group.min(rows - start);
        let values: Float32Array = (0..count * dim).map(|_| numbers.float()).collect();
        let embeddings = FixedSizeListArray::try_new(Arc::clone(&item), dim as i32, Arc::new(values), None);
        let batch = RecordBatch::try_from_iter([
            (
                "channel_id",
                Arc::new((0..count).map(|_| (numbers.next() % 1000) as i64).collect::<Int64Array>())
                    as ArrayRef,
            ),
            ("user_id", Arc::new((0..count).map(|row| row as i64).collect::<Int64Array>())),
            ("content", Arc::new(StringArray::from_iter_values((0..count).map(|_| text())))),
            ("embedding", Arc::new(embeddings.expect("whole vectors"))),
            (
                "metadata",
                Arc::new(StringArray::from_iter_values((0..count).map(|row| format!("{{\"row\": {row}}}")))),
            ),
        ])
        .expect("columns of one length");
        let writer = writer.get_or_insert_with(|| {
            let file = std::fs::File::create(path).expect("a writable directory");
            ArrowWriter::try_new(file, batch.schema(), Some(properties.clone()))
                .expect("a schema that Parquet has")
        });
        writer.write(&batch).expect("written");
        writer.flush().expect("a row group of its own");
    }
    writer.expect("at least one row group").close().expect("written");
}

fn text() -> String {
    "a chunk of text of about two hundred bytes, as embeddings have it ".repeat(3)
}
