//! Records of a unit to batches: fields to columns, embeddings to floats.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};

use super::unit::{Fields, TextUnit};
use super::{CsvFormat, TextFormat, jsonl};
use crate::batch::embedding;
use crate::batch::reject::{Reason, excerpt};
use crate::error::{Error, Result};
use crate::source::{Embeddings, Origin, SourceBatch};

/// Rows of a unit that are in memory.
#[derive(Debug)]
pub struct TextPart {
    /// Index of the source in the plan.
    pub source: usize,
    /// The unit.
    pub unit: Arc<TextUnit>,
    /// Rows of it.
    pub rows: Range<u64>,
}

/// Which columns of a source are read, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextProjection {
    /// How records are written.
    pub format: TextFormat,
    /// Names of all columns.
    pub names: Vec<String>,
    /// Index of the embedding's column.
    pub embedding: usize,
    /// The other columns, in the order in which batches carry them.
    pub columns: Vec<TextColumn>,
    /// Names that would be read if a source had them: in JSON Lines a key may come late.
    pub unexpected: Vec<String>,
}

/// A column that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextColumn {
    /// Its index.
    pub index: usize,
    /// Whether an empty field is null, where no text stands for it.
    pub empty_is_null: bool,
    /// Whether a string of JSON Lines is taken with its quotes, as JSON.
    pub as_json: bool,
}

/// Reads one part.
#[derive(Debug)]
pub struct TextReader {
    part: TextPart,
    projection: Arc<TextProjection>,
    /// Of JSON Lines: what each key is for.
    keys: HashMap<String, Place>,
    schema: Arc<Schema>,
    next: u64,
    batch_rows: usize,
    batch_bytes: usize,
    dim: usize,
    spare: Vec<f32>,
}

/// What a key of JSON Lines is for.
#[derive(Debug, Clone, Default)]
struct Place {
    is_embedding: bool,
    columns: Vec<usize>,
    is_unexpected: bool,
}

/// What the rows of a batch become.
struct Building {
    embeddings: Embeddings,
    columns: Vec<BinaryBuilder>,
    malformed: Vec<(usize, Reason, String)>,
}

impl TextReader {
    /// Reads a part in batches of at most so many rows, and bytes besides embeddings, for a target of this
    /// dimension.
    pub fn open(
        part: TextPart,
        projection: Arc<TextProjection>,
        (batch_rows, batch_bytes): (usize, usize),
        dim: usize,
    ) -> Self {
        let mut keys: HashMap<String, Place> = HashMap::new();
        if projection.format == TextFormat::JsonLines {
            keys.entry(projection.names[projection.embedding].clone()).or_default().is_embedding = true;
            for (at, column) in projection.columns.iter().enumerate() {
                keys.entry(projection.names[column.index].clone()).or_default().columns.push(at);
            }
            for name in &projection.unexpected {
                keys.entry(name.clone()).or_default().is_unexpected = true;
            }
        }
        let field = |column: &TextColumn| Field::new(&projection.names[column.index], DataType::Binary, true);
        let schema = Arc::new(Schema::new(projection.columns.iter().map(field).collect::<Vec<_>>()));
        let next = part.rows.start;
        Self { part, projection, keys, schema, next, batch_rows, batch_bytes, dim, spare: Vec::new() }
    }

    /// Takes back a batch's buffer.
    pub fn recycle(&mut self, values: Vec<f32>) {
        self.spare = values;
    }

    /// Reads the next batch, or `None` at the end of the part.
    pub fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        let first_row = self.next;
        let mut last_row = self.part.rows.end.min(first_row + self.batch_rows as u64);
        if first_row >= last_row {
            return Ok(None);
        }
        let mut bytes = 0;
        for row in first_row..last_row {
            bytes += self.column_bytes(row as usize);
            // The first record goes in whatever its length.
            if bytes > self.batch_bytes && row > first_row {
                last_row = row;
                break;
            }
        }
        self.next = last_row;
        let rows = (last_row - first_row) as usize;
        let mut embeddings = Embeddings::reusing(self.dim, std::mem::take(&mut self.spare));
        embeddings.values.reserve(rows * self.dim);
        let builder = || BinaryBuilder::with_capacity(rows, rows * 64);
        let mut building = Building {
            embeddings,
            columns: self.projection.columns.iter().map(|_| builder()).collect(),
            malformed: Vec::new(),
        };
        let unit = &self.part.unit;
        let mut positions = Vec::with_capacity(rows);
        for row in 0..rows {
            let in_unit = first_row as usize + row;
            positions.push(unit.position(in_unit));
            let fields = unit.fields(in_unit);
            let read = match &self.projection.format {
                TextFormat::Csv(csv) => self.csv_row(row, fields, csv, &mut building),
                TextFormat::JsonLines => self.json_row(row, fields.get(0), &mut building),
            };
            if let Err((reason, excerpt)) = read {
                building.columns.iter_mut().for_each(BinaryBuilder::append_null);
                building.embeddings.faults.push((row, reason.clone(), excerpt.clone()));
                building.malformed.push((row, reason, excerpt));
            }
        }
        let columns: Vec<ArrayRef> =
            building.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let columns = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| Error::bug("make a batch of text").because(error))?;
        Ok(Some(SourceBatch {
            origin: Origin { source: self.part.source, unit: unit.unit, first_row },
            rows,
            embeddings: building.embeddings,
            columns,
            malformed: building.malformed,
            positions,
        }))
    }

    /// Bytes of a record that its columns may take; in JSON Lines all, for what is the embedding is not known yet.
    fn column_bytes(&self, row: usize) -> usize {
        let (unit, embedding) = (&self.part.unit, self.projection.embedding);
        let fields = unit.fields(row);
        let is_parsed_only = matches!(self.projection.format, TextFormat::Csv(_))
            && fields.len() > embedding
            && self.projection.columns.iter().all(|column| column.index != embedding);
        unit.record_bytes(row) - if is_parsed_only { fields.get(embedding).len() } else { 0 }
    }

    fn csv_row(
        &self,
        row: usize,
        fields: Fields<'_>,
        format: &CsvFormat,
        building: &mut Building,
    ) -> Result<(), (Reason, String)> {
        let names = &self.projection.names;
        if fields.len() != names.len() {
            let counted = |count: usize| match count {
                1 => "1 field".to_string(),
                _ => format!("{count} fields"),
            };
            let why = format!("{}, where the others have {}", counted(fields.len()), names.len());
            return Err((Reason::Record(why), shown(fields)));
        }
        // Names are those of the header without blanks around them.
        let is_name = |(field, name): (&[u8], &String)| field.trim_ascii() == name.as_bytes();
        if format.header && is_name((fields.get(0), &names[0])) && fields.iter().zip(names).all(is_name) {
            return Err((Reason::Record("it is the header once more".into()), shown(fields)));
        }
        let null = format.null.as_deref();
        for (column, builder) in self.projection.columns.iter().zip(&mut building.columns) {
            let field = fields.get(column.index);
            let is_null = match null {
                Some(null) => field == null.as_bytes(),
                None => field.is_empty() && column.empty_is_null,
            };
            if is_null { builder.append_null() } else { builder.append_value(field) }
        }
        let field = fields.get(self.projection.embedding);
        let is_null = null.map_or(field.is_empty(), |null| field == null.as_bytes());
        push_embedding(row, (!is_null).then_some(field), &mut building.embeddings);
        Ok(())
    }

    fn json_row(&self, row: usize, line: &[u8], building: &mut Building) -> Result<(), (Reason, String)> {
        let malformed = |why: String| (Reason::Record(why), excerpt(line));
        if std::str::from_utf8(line).is_err() {
            return Err((Reason::InvalidUtf8, excerpt(line)));
        }
        let mut embedding = None;
        let mut values = vec![None; building.columns.len()];
        let mut seen = vec![false; building.columns.len() + 1];
        jsonl::visit(line, |key, value| {
            let Some(place) = self.keys.get(key) else { return Ok(()) };
            if place.is_unexpected && value.get() != "null" {
                return Err(format!(
                    "the key \"{key}\" does not occur in the first lines; name it, so that it is loaded: \
                     --map {key}={key}"
                ));
            }
            let twice = || format!("the key \"{key}\" occurs twice");
            let text_of = || jsonl::text_of(value).map_err(|why| format!("\"{key}\": {why}"));
            for column in &place.columns {
                if std::mem::replace(&mut seen[*column], true) {
                    return Err(twice());
                }
                values[*column] = match self.projection.columns[*column].as_json && value.get() != "null" {
                    true => Some(Cow::Borrowed(value.get())),
                    false => text_of()?,
                };
            }
            if place.is_embedding {
                if std::mem::replace(&mut seen[building.columns.len()], true) {
                    return Err(twice());
                }
                embedding = text_of()?;
            }
            Ok(())
        })
        .map_err(malformed)?;
        for (value, builder) in values.iter().zip(&mut building.columns) {
            match value {
                Some(text) => builder.append_value(text.as_bytes()),
                None => builder.append_null(),
            }
        }
        push_embedding(row, embedding.as_deref().map(str::as_bytes), &mut building.embeddings);
        Ok(())
    }
}

fn push_embedding(row: usize, text: Option<&[u8]>, embeddings: &mut Embeddings) {
    let read = |values: &mut Vec<f32>| match text {
        Some(text) => embedding::read_text(text, values),
        None => Err(Reason::EmbeddingNull),
    };
    embeddings.push_row(row, read, || text.map(excerpt).unwrap_or_default());
}

/// The beginning of a record, its fields separated by what no text holds often.
fn shown(fields: Fields<'_>) -> String {
    let mut bytes = Vec::new();
    for field in fields.iter() {
        if bytes.len() > crate::batch::reject::EXCERPT_BYTES_MAX {
            break;
        }
        if !bytes.is_empty() {
            bytes.extend_from_slice(b" | ");
        }
        bytes.extend_from_slice(&field[..field.len().min(crate::batch::reject::EXCERPT_BYTES_MAX)]);
    }
    excerpt(&bytes)
}
