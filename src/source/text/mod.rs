//! Text: CSV and JSON Lines, from files or standard input, also compressed.
//!
//! A source is scanned once, in order ([`scanner`]); the units that this gives carry their records with them
//! and are read by lanes ([`reader`]).

mod cutter;
mod head;
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

use self::head::Head;
use super::Place;
use super::discover::SourceFormat;
use crate::error::{Error, Kind, Result};

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
    stdin: Mutex<Option<(TextInput, Head)>>,
    /// Bytes of the beginning that hold a record.
    head_bytes: usize,
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
            let hint =
                "nothing was loaded; check what writes it, put a good copy in its place, or leave it out";
            match error.kind() {
                Kind::Failed => error.with_kind(Kind::Refused).hint(hint),
                _ => error,
            }
        };
        let mut input = TextInput::open(&place, window_bytes_max, stopping)?;
        let mut head = Head::read(&mut input).map_err(refused)?;
        sniff::check(&head, input.compression() != Compression::None)?;
        let format = sniff::format(&head, format, options)?;
        let columns = loop {
            if let Some(columns) = head.columns(&format)? {
                break columns;
            }
            head.read_on(&mut input, &format, window_bytes_max).map_err(refused)?;
        };
        let has_no_record = match &format {
            TextFormat::Csv(csv) => {
                head.is_all && head.csv_records(csv, 2).0.len() <= usize::from(csv.header)
            }
            TextFormat::JsonLines => false,
        };
        let head_bytes = head.bytes.len();
        let stdin = (place == Place::Stdin).then_some((input, head));
        Ok(Self {
            place,
            format,
            columns,
            has_no_record,
            stdin: Mutex::new(stdin),
            head_bytes,
            window_bytes_max,
        })
    }

    /// Starts to scan the source from its beginning.
    pub fn scanner(&self) -> Result<Scanner> {
        let input = if self.place == Place::Stdin {
            let stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (input, head) = stdin.ok_or_else(|| Error::failed("standard input can be read only once"))?;
            input.again(head.bytes)
        } else {
            TextInput::open(&self.place, self.window_bytes_max, Arc::new(|| false))?
        };
        Ok(Scanner::new(input, &self.format))
    }

    /// Values of a column in the first records.
    pub fn first_values(&self, column: usize, most: usize) -> Result<Vec<Vec<u8>>> {
        let of_head = |head: &Head| match &self.format {
            TextFormat::Csv(csv) => {
                let records = head.csv_records(csv, most + usize::from(csv.header)).0.into_iter();
                let whole =
                    records.skip(usize::from(csv.header)).filter(|record| record.len() == self.columns.len());
                whole.map(|mut record| record.swap_remove(column)).collect()
            }
            TextFormat::JsonLines => head
                .json_lines()
                .filter_map(|line| jsonl::value_of(line, &self.columns[column]))
                .take(most)
                .collect(),
        };
        if self.place == Place::Stdin {
            let stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(stdin.as_ref().map_or_else(Vec::new, |(_, head)| of_head(head)));
        }
        let mut input = TextInput::open(&self.place, self.window_bytes_max, Arc::new(|| false))?;
        let head =
            Head::of_bytes(&mut input, self.head_bytes).map_err(|error| error.with_kind(Kind::Refused))?;
        Ok(of_head(&head))
    }
}

/// Names of a CSV file's columns, or their positions.
fn csv_columns(place: &Place, format: &TextFormat, window_bytes_max: usize) -> Result<Vec<String>> {
    let mut input = TextInput::open(place, window_bytes_max, Arc::new(|| false))?;
    let mut head = Head::read(&mut input)?;
    loop {
        match head.columns(format)? {
            Some(names) => return Ok(names),
            None => head.read_on(&mut input, format, window_bytes_max)?,
        }
    }
}
