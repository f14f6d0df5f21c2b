//! CSV and JSON Lines that tests write, as files or through a pipe, compressed or not.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::program::Vecload;
use super::rows::Rows;

/// Names of the columns that rows have.
pub(crate) const NAMES: [&str; 5] = ["channel_id", "user_id", "content", "embedding", "metadata"];

/// How rows are written as text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Between the fields of CSV; JSON Lines without one.
    pub(crate) delimiter: Option<char>,
    /// At the end of each line.
    pub(crate) line_end: &'static str,
    /// Whether the last line has one.
    pub(crate) ends_in_line_end: bool,
    /// Whether a byte-order mark comes first.
    pub(crate) mark: bool,
    /// Whether CSV names its columns.
    pub(crate) header: bool,
    /// Whether all fields of CSV are quoted, or all that is no ASCII in JSON is escaped.
    pub(crate) escapes_all: bool,
}

impl Style {
    /// CSV as most programs write it.
    pub(crate) const CSV: Self = Self {
        delimiter: Some(','),
        line_end: "\n",
        ends_in_line_end: true,
        mark: false,
        header: true,
        escapes_all: false,
    };

    /// JSON Lines as most programs write it.
    pub(crate) const JSONL: Self = Self { delimiter: None, header: false, ..Self::CSV };

    /// Rows as bytes.
    pub(crate) fn bytes(self, rows: &Rows) -> Vec<u8> {
        let mut text = String::from(if self.mark { "\u{feff}" } else { "" });
        text.extend(self.lines(rows));
        if !self.ends_in_line_end {
            text.truncate(text.len() - self.line_end.len());
        }
        text.into_bytes()
    }

    /// The header, if there is one, and each row, with their line ends.
    pub(crate) fn lines(self, rows: &Rows) -> Vec<String> {
        let header = self.header.then(|| self.csv_line(&NAMES.map(String::from)));
        let line = |row: [String; 5]| match self.delimiter {
            Some(_) => self.csv_line(&row),
            None => self.json_line(&row),
        };
        header.into_iter().chain(rows.texts().map(line)).collect()
    }

    fn csv_line(self, fields: &[String]) -> String {
        let delimiter = self.delimiter.expect("a delimiter");
        let field = |field: &String| {
            let needs_quotes = field.contains([delimiter, '"', '\r', '\n']);
            match needs_quotes || self.escapes_all {
                true => format!("\"{}\"", field.replace('"', "\"\"")),
                false => field.clone(),
            }
        };
        let fields: Vec<String> = fields.iter().map(field).collect();
        fields.join(&delimiter.to_string()) + self.line_end
    }

    fn json_line(self, [channel, user, content, embedding, metadata]: &[String; 5]) -> String {
        let mut content = serde_json::to_string(content).expect("a string");
        if self.escapes_all {
            let units = |c: char| -> String {
                match c.is_ascii() {
                    true => c.into(),
                    false => {
                        c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                    }
                }
            };
            content = content.chars().map(units).collect();
        }
        // NaN is no JSON, but a string may hold it.
        let embedding =
            if embedding.contains("NaN") { format!("\"{embedding}\"") } else { embedding.clone() };
        format!(
            "{{\"channel_id\": {channel}, \"user_id\": {user}, \"content\": {content}, \"embedding\": {embedding}, \
             \"metadata\": {metadata}}}{}",
            self.line_end
        )
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all.
    Plain,
    /// gzip, in members of so many bytes.
    Gzip(usize),
    /// Zstandard, in frames of so many bytes.
    Zstd(usize),
}

impl Packing {
    /// Compresses.
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip(member) => bytes.chunks(member).flat_map(gzip).collect(),
            Self::Zstd(frame) => bytes.chunks(frame).flat_map(zstd_frame).collect(),
        }
    }

    /// What a file's name ends in.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip(_) => ".gz",
            Self::Zstd(_) => ".zst",
        }
    }
}

/// One member of gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compress");
    encoder.finish().expect("compress")
}

/// One frame of Zstandard, with a checksum as the program `zstd` writes it.
fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.include_checksum(true).expect("a checksum");
    encoder.write_all(bytes).expect("compress");
    encoder.finish().expect("compress")
}

/// Writes a file.
pub(crate) fn file(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).expect("write a file");
    path
}

/// Who writes to the program's standard input: gives what became of the write, once the program reads no more.
pub(crate) type Producer = JoinHandle<std::io::Result<()>>;

/// Gives a load bytes through a pipe.
pub(crate) fn piped(load: Vecload, bytes: impl Into<Vec<u8>>) -> (Vecload, Producer) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let bytes: Vec<u8> = bytes.into();
    let producer = std::thread::Builder::new().name("producer".into());
    let producer = producer.spawn(move || writer.write_all(&bytes)).expect("start the producer");
    (load.reading(reader), producer)
}

/// What became of a producer.
#[track_caller]
pub(crate) fn wrote_all(producer: Producer) -> bool {
    match producer.join().expect("the producer") {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => false,
        Err(error) => panic!("write to a pipe: {error}"),
    }
}
