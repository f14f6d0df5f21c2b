//! Text: CSV and JSON Lines, from files or standard input, also compressed.
//!
//! A source is scanned once, in order ([`scanner`]); the units that this gives carry their records with them
//! and are read by lanes ([`reader`]).

pub mod input;
pub mod jsonl;
pub mod reader;
pub mod rows;
pub mod scanner;
mod sniff;
pub mod unit;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

pub use self::input::{Compression, Stopping, TextInput};
pub use self::reader::{TextColumn, TextPart, TextProjection, TextReader};
pub use self::scanner::Scanner;
pub use self::unit::{Position, TextUnit, UnitMemory};

use self::sniff::{Head, Keys};
use super::Place;
use super::discover::SourceFormat;
use crate::error::{Error, Result};

/// How text is read, as the user says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// `--delimiter`.
    pub delimiter: Option<u8>,
    /// `--null`.
    pub null: Option<String>,
    /// `--no-header`.
    pub no_header: bool,
}

impl TextOptions {
    /// An option that is given and has a meaning for CSV alone.
    pub fn is_of_csv(&self) -> Option<&'static str> {
        let options = [
            ("--delimiter", self.delimiter.is_some()),
            ("--null", self.null.is_some()),
            ("--no-header", self.no_header),
        ];
        options.iter().find(|(_, given)| *given).map(|(option, _)| *option)
    }
}

/// How text is read, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextFormat {
    /// Comma-separated values and their kin.
    Csv(CsvFormat),
    /// A JSON object in each line.
    JsonLines,
}

/// How CSV is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFormat {
    /// The byte between fields.
    pub delimiter: u8,
    /// The text that stands for null.
    pub null: Option<String>,
    /// Whether the first record names the columns.
    pub header: bool,
}

impl TextFormat {
    /// Its name in the ledger.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::JsonLines => "jsonl",
        }
    }

    /// What of it shapes rows.
    pub fn recipe(&self) -> serde_json::Value {
        match self {
            Self::Csv(csv) => json!({
                "delimiter": (csv.delimiter as char).to_string(), "null": csv.null, "header": csv.header
            }),
            Self::JsonLines => json!({}),
        }
    }

    /// Reads what [`Self::recipe`] wrote.
    pub fn from_recipe(kind: &str, recipe: &serde_json::Value) -> Option<Self> {
        match kind {
            "csv" => {
                let delimiter = recipe.get("delimiter")?.as_str()?;
                Some(Self::Csv(CsvFormat {
                    delimiter: *delimiter.as_bytes().first()?,
                    null: recipe.get("null").and_then(|null| null.as_str()).map(str::to_string),
                    header: recipe.get("header")?.as_bool()?,
                }))
            }
            "jsonl" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

impl fmt::Display for TextFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csv(csv) => {
                let delimiter = match csv.delimiter {
                    b'\t' => "tab".into(),
                    other => format!("\"{}\"", other as char),
                };
                write!(
                    f,
                    "CSV, delimiter {delimiter}, {}",
                    if csv.header { "with a header" } else { "no header" }
                )
            }
            Self::JsonLines => f.write_str("JSON Lines"),
        }
    }
}

/// The keys of so many lines of JSON are the columns, or of those in so many bytes.
const JSON_HEAD_LINES: usize = 100;
const JSON_HEAD_BYTES: usize = 4 << 20;

/// A source of text whose beginning has been looked at.
#[derive(Debug)]
pub struct TextSource {
    /// Where it is.
    pub place: Place,
    /// How it is read.
    pub format: TextFormat,
    /// Names of its columns; of JSON Lines, the keys of the first objects.
    pub columns: Vec<String>,
    /// Whether there is nothing after the header.
    pub has_no_record: bool,
    /// Standard input and what was read of it; it can be read once.
    stdin: Mutex<Option<TextInput>>,
    head: Vec<u8>,
    /// Bytes of the beginning that hold a record, and whether they are all.
    head_bytes: usize,
    head_is_all: bool,
    window_bytes_max: usize,
}

impl TextSource {
    /// Looks at the beginning of a source. `format` is the one that the user or its name tells.
    pub fn open(
        place: Place,
        format: Option<SourceFormat>,
        options: &TextOptions,
        window_bytes_max: usize,
        stopping: Stopping,
    ) -> Result<Self> {
        let refused = |error: Error| {
            error
                .with_kind(crate::error::Kind::Refused)
                .hint("nothing was loaded; put a good copy in its place, or leave it out")
        };
        let mut input = TextInput::open(&place, window_bytes_max, stopping)?;
        let mut head = Head::read(&mut input).map_err(refused)?;
        head.check(&place, input.compression() != Compression::None)?;
        let format = sniff::format(&head, &place, format, options)?;
        let columns = loop {
            let found = match &format {
                TextFormat::Csv(csv) => csv_columns(&head, csv, &place)?,
                TextFormat::JsonLines => json_columns(&head, &place)?,
            };
            let is_enough = head.is_all || !matches!(format, TextFormat::JsonLines) || {
                head.bytes.len() >= JSON_HEAD_BYTES || json_lines(&head).count() >= JSON_HEAD_LINES
            };
            if let Some(columns) = found.filter(|_| is_enough) {
                break columns;
            }
            let more = head.bytes.len().max(1 << 10) * 4;
            if more as u64 > 4 * scanner::RECORD_BYTES_MAX {
                return Err(Error::refused(format!(
                    "{place}: no record ends within the first {} MiB",
                    head.bytes.len() >> 20
                ))
                .hint(match format {
                    TextFormat::Csv(_) => "a quote was opened and not closed, or the file is no CSV",
                    TextFormat::JsonLines => "JSON Lines hold an object in each line: jq -c . FILE",
                }));
            }
            head.read_on(&mut input, more).map_err(refused)?;
        };
        let has_no_record = match &format {
            TextFormat::Csv(csv) => head.is_all && csv_records(&head, csv).len() <= usize::from(csv.header),
            TextFormat::JsonLines => false,
        };
        let (head_bytes, head_is_all) = (head.bytes.len(), head.is_all);
        let (stdin, head) = match place {
            Place::Stdin => (Some(input), head.bytes),
            _ => (None, Vec::new()),
        };
        Ok(Self {
            place,
            format,
            columns,
            has_no_record,
            stdin: Mutex::new(stdin),
            head,
            head_bytes,
            head_is_all,
            window_bytes_max,
        })
    }

    /// Starts to scan the source from its beginning.
    pub fn scanner(&self) -> Result<Scanner> {
        let input = if self.place == Place::Stdin {
            let stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stdin = stdin.ok_or_else(|| Error::failed("standard input can be read only once"))?;
            stdin.again(self.head.clone())
        } else {
            TextInput::open(&self.place, self.window_bytes_max, Arc::new(|| false))?
        };
        Ok(Scanner::new(input, &self.format))
    }

    /// Values of a column in the first records.
    pub fn first_values(&self, column: usize, most: usize) -> Result<Vec<Vec<u8>>> {
        let head = if self.place == Place::Stdin {
            Head { bytes: self.head.clone(), is_all: self.head_is_all }
        } else {
            let mut input = TextInput::open(&self.place, self.window_bytes_max, Arc::new(|| false))?;
            let mut head = Head { bytes: Vec::new(), is_all: false };
            let refused = |error: Error| error.with_kind(crate::error::Kind::Refused);
            head.read_on(&mut input, self.head_bytes).map_err(refused)?;
            head
        };
        Ok(match &self.format {
            TextFormat::Csv(csv) => csv_records(&head, csv)
                .into_iter()
                .skip(usize::from(csv.header))
                .filter(|record| record.len() == self.columns.len())
                .filter_map(|record| record.get(column).map(<[u8]>::to_vec))
                .take(most)
                .collect(),
            TextFormat::JsonLines => json_lines(&head)
                .filter_map(|line| jsonl::value_of(line, &self.columns[column]))
                .take(most)
                .collect(),
        })
    }
}

/// Names of a CSV file's columns, or their positions.
fn first_record(place: &Place, format: &CsvFormat, window_bytes_max: usize) -> Result<Vec<String>> {
    let mut input = TextInput::open(place, window_bytes_max, Arc::new(|| false))?;
    let mut head = Head::read(&mut input)?;
    loop {
        let more = head.bytes.len() * 4;
        match csv_columns(&head, format, place)? {
            Some(names) => return Ok(names),
            None => head.read_on(&mut input, more)?,
        }
    }
}

/// Whole records of the head.
fn csv_records(head: &Head, format: &CsvFormat) -> Vec<csv::ByteRecord> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(format.delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(head.text());
    let mut records: Vec<_> = reader.byte_records().map_while(|record| record.ok()).collect();
    if !head.is_all {
        records.pop();
    }
    records
}

fn csv_columns(head: &Head, format: &CsvFormat, place: &Place) -> Result<Option<Vec<String>>> {
    let records = csv_records(head, format);
    let Some(first) = records.first() else {
        return match head.is_all {
            true => Err(Error::refused(format!("{place} holds no record, only line ends"))
                .hint("check what should have written it, or leave it out")),
            false => Ok(None),
        };
    };
    if !format.header {
        return Ok(Some((1..=first.len()).map(|position| position.to_string()).collect()));
    }
    let names: Vec<String> =
        first.iter().map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned()).collect();
    sniff::check_header(&names, place)?;
    Ok((records.len() > 1 || head.is_all).then_some(names))
}

fn json_lines(head: &Head) -> impl Iterator<Item = &[u8]> {
    let text = head.text();
    let whole = if head.is_all { text.len() } else { memchr::memrchr(b'\n', text).unwrap_or(0) };
    text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty())
}

fn json_columns(head: &Head, place: &Place) -> Result<Option<Vec<String>>> {
    let mut keys = Keys::default();
    let mut lines = 0;
    for line in json_lines(head) {
        lines += 1;
        // A line that is no object will be a reject.
        jsonl::each_key(line, |key| keys.add(key));
    }
    if keys.names.is_empty() && lines > 0 {
        return Err(Error::refused(format!("{place}: none of the first {lines} lines is a JSON object with keys"))
            .hint("JSON Lines hold an object in each line, {\"embedding\": […], …}; name another --format, or convert: jq -c . FILE"));
    }
    Ok((lines > 0 || head.is_all).then_some(keys.names))
}
