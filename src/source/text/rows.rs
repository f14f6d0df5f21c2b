//! Single records of a source, read again for repair.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch};
use arrow::datatypes::Schema;

use super::{Scanner, TextFormat, TextInput, TextUnit};
use crate::error::{Error, Result};
use crate::memory::Budget;
use crate::source::Place;
use crate::source::parquet::text_field;

/// One unit is in memory at a time.
const MEMORY_BYTES: usize = 256 << 20;

/// A window of compressed text.
const WINDOW_BYTES: usize = 128 << 20;

/// Column that holds a record of JSON Lines as it stands.
const RECORD: &str = "record";

/// Reads records by their units and rows, in order; each unit's as a batch of texts.
pub struct RecordFinder {
    scanner: Scanner,
    names: Vec<String>,
    is_lines: bool,
    place: Place,
    wanted: std::vec::IntoIter<(u32, Vec<u64>)>,
}

impl RecordFinder {
    /// Starts at a file's beginning; `wanted` has rows by unit.
    pub fn open(path: &Path, format: &TextFormat, wanted: BTreeMap<u32, Vec<u64>>) -> Result<Self> {
        let place = Place::File(path.into());
        let names = match format {
            TextFormat::JsonLines => vec![RECORD.into()],
            TextFormat::Csv(_) => super::csv_columns(&place, format, WINDOW_BYTES)?,
        };
        let input = TextInput::open(&place, WINDOW_BYTES, Arc::new(|| false))?;
        let wanted: Vec<_> = wanted.into_iter().collect();
        let is_lines = *format == TextFormat::JsonLines;
        Ok(Self { scanner: Scanner::new(input, format), names, is_lines, place, wanted: wanted.into_iter() })
    }

    fn read_unit(&mut self, number: u32, rows: &[u64]) -> Result<RecordBatch> {
        let memory = Budget::new(MEMORY_BYTES);
        loop {
            let Some(unit) = self.scanner.next_unit(&memory)? else {
                return Err(Error::failed(format!("{} has no unit {number} any more", self.place))
                    .hint("rejected rows are read again from the source: put it back as it was"));
            };
            if unit.unit == number {
                return self.batch(&unit, rows);
            }
        }
    }

    fn batch(&self, unit: &TextUnit, rows: &[u64]) -> Result<RecordBatch> {
        if let Some(beyond) = rows.iter().find(|row| **row >= unit.rows()) {
            return Err(Error::failed(format!(
                "{} has no record {beyond} in unit {} any more",
                self.place, unit.unit
            ))
            .hint("rejected rows are read again from the source: put it back as it was"));
        }
        let fields = |row: &u64| unit.fields(*row as usize);
        let longest = rows.iter().map(|row| fields(row).len()).max().unwrap_or(0);
        // A record with too many fields keeps them all.
        let extra = self.names.len()..longest.max(self.names.len());
        let names = self.names.iter().cloned().chain(extra.map(|index| format!("_extra_{}", index + 1)));
        let names: Vec<String> = if self.is_lines { self.names.clone() } else { names.collect() };
        let column = |index: usize| -> ArrayRef {
            let mut values = BinaryBuilder::new();
            for row in rows {
                let fields = fields(row);
                values.append_option((index < fields.len()).then(|| fields.get(index)));
            }
            Arc::new(values.finish())
        };
        let schema = Schema::new(names.iter().map(|name| text_field(name)).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), (0..names.len()).map(column).collect())
            .map_err(|error| Error::bug("make a batch of rejected records").because(error))
    }
}

impl Iterator for RecordFinder {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let (unit, rows) = self.wanted.next()?;
        Some(self.read_unit(unit, &rows))
    }
}
