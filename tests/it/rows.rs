//! Parquet files that tests write, and the proof that exactly their rows are in a table.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::session::Session;

/// Rows that can be told apart and made again from their numbers.
#[derive(Clone)]
pub(crate) struct Rows {
    numbers: Range<u64>,
    dim: usize,
    group: usize,
    channels: i64,
    bad: Vec<u64>,
    tricky: bool,
}

impl Rows {
    /// So many rows, numbered from 0.
    pub(crate) fn new(count: u64, dim: usize) -> Self {
        Self { numbers: 0..count, dim, group: 5_000, channels: 97, bad: Vec::new(), tricky: false }
    }

    /// Numbered from here on.
    pub(crate) fn from(mut self, first: u64) -> Self {
        self.numbers = first..first + (self.numbers.end - self.numbers.start);
        self
    }

    /// Rows of a row group.
    pub(crate) fn group(mut self, rows: usize) -> Self {
        self.group = rows;
        self
    }

    /// Number of channels.
    pub(crate) fn channels(mut self, channels: i64) -> Self {
        self.channels = channels;
        self
    }

    /// These rows have an embedding with a NaN.
    pub(crate) fn bad(mut self, numbers: impl IntoIterator<Item = u64>) -> Self {
        self.bad = numbers.into_iter().collect();
        self
    }

    /// Their texts hold what text formats have to escape.
    pub(crate) fn tricky(mut self) -> Self {
        self.tricky = true;
        self
    }

    /// How many they are.
    pub(crate) fn count(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    /// How many of them have a NaN.
    pub(crate) fn count_bad(&self) -> u64 {
        self.bad.iter().filter(|row| self.numbers.contains(row)).count() as u64
    }

    /// The rows as text: channel, user, content, embedding, metadata.
    pub(crate) fn texts(&self) -> impl Iterator<Item = [String; 5]> {
        self.numbers.clone().map(|row| {
            let mut embedding: Vec<String> = embedding(row, self.dim).iter().map(f32::to_string).collect();
            if self.bad.contains(&row) {
                embedding[self.dim / 2] = "NaN".into();
            }
            [
                self.channel(row).to_string(),
                user(row).to_string(),
                self.content(row),
                format!("[{}]", embedding.join(",")),
                metadata(row),
            ]
        })
    }

    /// Writes them to a file of this name.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(self.numbers.clone().map(|row| self.channel(row)))),
            Arc::new(Int64Array::from_iter_values(self.numbers.clone().map(user))),
            Arc::new(StringArray::from_iter_values(self.numbers.clone().map(|row| self.content(row)))),
        ];
        let elements = self.numbers.clone().flat_map(|row| {
            let mut embedding = embedding(row, self.dim);
            if self.bad.contains(&row) {
                embedding[self.dim / 2] = f32::NAN;
            }
            embedding
        });
        columns.push(vectors(self.dim, Float32Array::from_iter_values(elements)));
        columns.push(Arc::new(StringArray::from_iter_values(self.numbers.clone().map(metadata))));
        let names = ["channel_id", "user_id", "content", "embedding", "metadata"];
        write_parquet(&path, names.into_iter().zip(columns), self.group);
        path
    }

    fn channel(&self, row: u64) -> i64 {
        // Some channels are much larger than others.
        let spread = (hash(row, 1) % 1000) as i64;
        if spread < 300 { 5 } else { spread % self.channels - 3 }
    }

    fn content(&self, row: u64) -> String {
        let plain = content(row);
        if !self.tricky {
            return plain;
        }
        const TAILS: [&str; 8] = [
            "",
            "a, b; c|d\te",
            "\"quoted\"",
            "two\nlines",
            "\r\nand\r\n\nmore\r",
            "\\ \\n \\\" '",
            " ends in spaces  ",
            "\u{feff}\u{2028}\u{1}\u{7f}",
        ];
        format!("{plain}{}", TAILS[(hash(row, 4) % 8) as usize])
    }

    /// Proves that a table holds the good rows of these sources once each, bit for bit, and nothing else.
    #[track_caller]
    pub(crate) fn are_all_in(sources: &[&Self], session: &Session, table: &str) {
        if let Some(differences) = Self::differences(sources, session, table) {
            panic!("{table} differs from its sources: {differences}");
        }
    }

    /// What of a table is not as these sources have it, with examples.
    pub(crate) fn differences(sources: &[&Self], session: &Session, table: &str) -> Option<String> {
        let mut wanted: BTreeMap<u64, (usize, &Self)> = BTreeMap::new();
        for source in sources {
            for row in source.numbers.clone().filter(|row| !source.bad.contains(row)) {
                wanted.entry(row).or_insert((0, *source)).0 += 1;
            }
        }
        let mut found: BTreeMap<u64, usize> = BTreeMap::new();
        let [mut foreign, mut altered, mut lost, mut doubled] = [const { Vec::new() }; 4];
        let query = format!("select content, channel_id, user_id, embedding, metadata::text from {table}");
        for fields in session.binary(&query) {
            let content = String::from_utf8_lossy(fields[0].as_deref().unwrap_or_default()).into_owned();
            let number = content.split(' ').next().and_then(|digits| digits.parse().ok());
            let Some((row, (_, source))) = number.and_then(|row| Some((row, wanted.get(&row)?))) else {
                foreign.push(content);
                continue;
            };
            *found.entry(row).or_default() += 1;
            let expected = [
                source.content(row).into_bytes(),
                source.channel(row).to_be_bytes().to_vec(),
                user(row).to_be_bytes().to_vec(),
                vector_bytes(&embedding(row, source.dim)),
                metadata(row).into_bytes(),
            ];
            if !fields.iter().zip(&expected).all(|(field, expected)| field.as_ref() == Some(expected)) {
                altered.push(content);
            }
        }
        for (row, (times, source)) in &wanted {
            let is_there = found.get(row).copied().unwrap_or(0);
            if is_there < *times {
                lost.push(source.content(*row));
            } else if is_there > *times {
                doubled.push(source.content(*row));
            }
        }
        let kinds = [("lost", lost), ("more often than they should be", doubled), ("altered", altered)];
        let all = kinds.into_iter().chain([("of no source, or rejected", foreign)]);
        let told = all.filter(|(_, rows)| !rows.is_empty()).map(|(what, rows)| {
            format!("{} rows are {what}, such as {:?}", rows.len(), &rows[..rows.len().min(5)])
        });
        Some(told.collect::<Vec<_>>().join("; ")).filter(|told| !told.is_empty())
    }
}

/// Writes columns to a Parquet file.
pub(crate) fn write_parquet<'a>(
    path: &Path,
    columns: impl IntoIterator<Item = (&'a str, ArrayRef)>,
    group_rows: usize,
) {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_compression(Compression::SNAPPY)
        .build();
    let file = std::fs::File::create(path).expect("create a Parquet file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a Parquet writer");
    writer.write(&batch).expect("write rows");
    writer.close().expect("write the footer");
}

/// A column of embeddings.
pub(crate) fn vectors(dim: usize, elements: Float32Array) -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let dim = i32::try_from(dim).expect("a dimension");
    Arc::new(FixedSizeListArray::new(item, dim, Arc::new(elements), None))
}

/// What pgvector's `vector_send` gives.
pub(crate) fn vector_bytes(embedding: &[f32]) -> Vec<u8> {
    let mut bytes = (embedding.len() as u16).to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(embedding.iter().flat_map(|element| element.to_be_bytes()));
    bytes
}

fn user(row: u64) -> i64 {
    hash(row, 2) as i64
}

fn content(row: u64) -> String {
    format!("{row:09} chunk {:x} über 漢字 🦀", hash(row, 3))
}

fn metadata(row: u64) -> String {
    format!("{{\"n\": {row}, \"odd\": {}}}", row % 2 == 1)
}

/// The embedding of a row; negative zeros and subnormal numbers are among its elements.
pub(crate) fn embedding(row: u64, dim: usize) -> Vec<f32> {
    let element = |index: usize| match hash(row, 1000 + index as u64) {
        rare if rare % 211 == 0 => -0.0,
        rare if rare % 223 == 0 => f32::from_bits(rare as u32 & 0x7f_ffff),
        usual => (usual >> 40) as f32 / (1u64 << 23) as f32 - 1.0,
    };
    (0..dim).map(element).collect()
}

/// A well-mixed number (splitmix64).
pub(crate) fn hash(row: u64, salt: u64) -> u64 {
    let mut mixed =
        row.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
