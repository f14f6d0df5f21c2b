//! Reading one part of a row group: small columns through Arrow's reader, the embedding beside it, in step.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, RecordBatchReader, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::basic::Repetition;
use parquet::column::reader::get_column_reader;
use parquet::errors::ParquetError;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::Type;

use super::guard::guarded;
use super::lists::ListReader;
use super::{ParquetFile, Projection, padded, range_len};
use crate::batch::convert::shown;
use crate::batch::embedding;
use crate::batch::reject::Reason;
use crate::error::{Error, Result};
use crate::source::{Embeddings, Origin, SourceBatch, UnitPart};

/// Reads the rows of a part in batches.
pub struct PartReader {
    file: Arc<ParquetFile>,
    part: UnitPart,
    projection: Projection,
    batch_rows: usize,
    dim: usize,
    /// Columns that Arrow's reader gives, and at which place of its batches each projected one is.
    columns: ParquetRecordBatchReader,
    places: Vec<usize>,
    /// Top-level columns that Arrow's reader reads.
    roots: Vec<usize>,
    embedding: EmbeddingColumn,
    position: u64,
    spare: Vec<f32>,
}

enum EmbeddingColumn {
    /// A list of floats, by the typed column reader.
    List(Box<ListReader>),
    /// Any other form, from this place of Arrow's batches.
    Arrow { place: usize, text: bool },
}

impl PartReader {
    /// Starts reading a part; embeddings are expected to have `dim` dimensions.
    pub fn open(
        file: Arc<ParquetFile>,
        part: UnitPart,
        projection: Projection,
        batch_rows: usize,
        dim: usize,
    ) -> Result<Self> {
        let float_leaf = file.float_leaf(projection.embedding);
        let mut roots = projection.columns.clone();
        if float_leaf.is_none() {
            roots.push(projection.embedding);
        }
        // Arrow's reader gives columns in the file's order, each once.
        let mut order = roots.clone();
        order.sort_unstable();
        order.dedup();
        let place_of = |root: &usize| order.partition_point(|other| other < root);
        let places = projection.columns.iter().map(place_of).collect();

        let columns = guarded(|| columns_reader(&file, &part, &order, batch_rows));
        let columns = columns.map_err(|error| file.damaged(part.unit, "its columns").because(error))?;
        let embedding = match float_leaf {
            None => EmbeddingColumn::Arrow {
                place: place_of(&projection.embedding),
                text: file.is_text(projection.embedding),
            },
            Some((leaf, _)) => {
                let list = guarded(|| list_reader(&file, &part, projection.embedding, leaf));
                let name = file.fields()[projection.embedding].name();
                let place = format!("column \"{name}\"");
                EmbeddingColumn::List(Box::new(
                    list.map_err(|error| file.damaged(part.unit, &place).because(error))?,
                ))
            }
        };
        let position = part.rows.start;
        Ok(Self {
            file,
            part,
            projection,
            batch_rows,
            dim,
            columns,
            places,
            roots: order,
            embedding,
            position,
            spare: Vec::new(),
        })
    }

    /// The next batch, or `None` at the part's end.
    pub fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        let left = self.part.rows.end - self.position;
        if left == 0 {
            return Ok(None);
        }
        let rows = self.batch_rows.min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = guarded(|| match self.columns.next() {
            Some(batch) => batch.map_err(ParquetError::from),
            None => Err(ParquetError::EOF("the columns end before the row group does".into())),
        });
        let (batch, unreadable) = match read {
            Ok(batch) => (batch, Vec::new()),
            Err(error) if is_utf8_error(&error) => self.salvage(rows)?,
            Err(error) => return Err(self.damaged("its columns", error)),
        };
        if batch.num_rows() != rows {
            let short = ParquetError::EOF(format!("{} rows instead of {rows}", batch.num_rows()));
            return Err(self.damaged("its columns", short));
        }
        let mut embeddings =
            Embeddings { dim: self.dim, values: std::mem::take(&mut self.spare), faults: Vec::new() };
        match &mut self.embedding {
            EmbeddingColumn::List(list) => {
                if let Err(error) = list.read(rows, &mut embeddings) {
                    let name = self.file.fields()[self.projection.embedding].name();
                    return Err(self.damaged(&format!("column \"{name}\""), error));
                }
            }
            EmbeddingColumn::Arrow { place, text } => {
                let array = batch.column(*place);
                embeddings.values.clear();
                for row in 0..rows {
                    let read = |out: &mut Vec<f32>| embedding::read_row(array.as_ref(), row, *text, out);
                    embeddings.push_row(row, read, || shown(array, row));
                }
            }
        }
        let origin = Origin { source: self.part.source, unit: self.part.unit, first_row: self.position };
        self.position += rows as u64;
        Ok(Some(SourceBatch { origin, rows, embeddings, columns: self.projected(&batch)?, unreadable }))
    }

    /// Reads the next rows one by one, because text within a nested column is not UTF-8 in some of them
    /// (Arrow's reader checks such text and then gives none of the batch). Rows that can't be read are null.
    fn salvage(&mut self, rows: usize) -> Result<(RecordBatch, Vec<(usize, Reason)>)> {
        let schema = self.columns.schema();
        let end = self.position + rows as u64;
        let mut unreadable = Vec::new();
        let mut single = Vec::with_capacity(rows);
        for row in 0..rows {
            let at = self.position + row as u64;
            let one = UnitPart { rows: at..at + 1, ..self.part.clone() };
            let read = guarded(|| match columns_reader(&self.file, &one, &self.roots, 1)?.next() {
                Some(batch) => batch.map_err(ParquetError::from),
                None => Err(ParquetError::EOF("the columns end before the row group does".into())),
            });
            single.push(match read {
                Ok(batch) => batch,
                Err(error) if is_utf8_error(&error) => {
                    unreadable.push((row, Reason::InvalidUtf8));
                    null_row(&schema)?
                }
                Err(error) => return Err(self.damaged("its columns", error)),
            });
        }
        // The reader that failed can't go on; another one starts behind these rows.
        let rest = UnitPart { rows: end..self.part.rows.end, ..self.part.clone() };
        let columns = guarded(|| columns_reader(&self.file, &rest, &self.roots, self.batch_rows));
        self.columns = columns.map_err(|error| self.damaged("its columns", error))?;
        let nullable = single.first().map_or(schema, RecordBatch::schema);
        let columns = (0..nullable.fields().len())
            .map(|column| {
                concat(&single.iter().map(|batch| batch.column(column).as_ref()).collect::<Vec<_>>())
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::bug("join rows read one by one").because(error))?;
        Ok((batch_of(&nullable, columns, rows)?, unreadable))
    }

    /// Takes back the buffer of a batch that has been encoded, for the next one.
    pub fn recycle(&mut self, values: Vec<f32>) {
        self.spare = values;
    }

    fn projected(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let arrays = self.places.iter().map(|place| Arc::clone(batch.column(*place))).collect();
        let fields: Vec<_> = self.places.iter().map(|place| batch.schema().field(*place).clone()).collect();
        batch_of(&Schema::new(fields), arrays, batch.num_rows())
    }

    fn damaged(&self, place: &str, error: ParquetError) -> Error {
        let end = (self.position + self.batch_rows as u64).min(self.part.rows.end);
        let rows = format!("rows {} to {}, {place}", self.position, end.saturating_sub(1));
        self.file.damaged(self.part.unit, &rows).because(error)
    }
}

/// Whether Arrow's reader refused text that is not UTF-8; its errors have no kind for it.
fn is_utf8_error(error: &ParquetError) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    text.contains("utf-8") || text.contains("utf8")
}

/// A row of nulls.
fn null_row(schema: &Schema) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    batch_of(schema, columns, 1)
}

/// A batch whose columns may all hold nulls.
fn batch_of(schema: &Schema, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|error| Error::bug("put a batch together").because(error))
}

/// Reads whole rows of a row group by their numbers, ascending; text as bytes.
pub fn read_rows(file: &ParquetFile, row_group: u32, rows: &[u64]) -> Result<RecordBatch> {
    let mut selectors = Vec::new();
    let mut position = 0;
    for row in rows {
        let row = usize::try_from(*row).unwrap_or(usize::MAX);
        selectors.push(RowSelector::skip(row.saturating_sub(position)));
        selectors.push(RowSelector::select(1));
        position = row.saturating_add(1);
    }
    let damaged = |error: ParquetError| file.damaged(row_group, "its rejected rows").because(error);
    let reader =
        guarded(|| arrow_reader(file, row_group, ProjectionMask::all(), rows.len().max(1), selectors));
    let mut reader = reader.map_err(damaged)?;
    let batch = guarded(|| match reader.next() {
        Some(batch) => batch.map_err(ParquetError::from),
        None => Err(ParquetError::EOF("the row group is shorter".into())),
    });
    batch.map_err(damaged)
}

fn columns_reader(
    file: &ParquetFile,
    part: &UnitPart,
    roots: &[usize],
    batch_rows: usize,
) -> parquet::errors::Result<ParquetRecordBatchReader> {
    let mask = ProjectionMask::roots(file.metadata().file_metadata().schema_descr(), roots.iter().copied());
    let before = usize::try_from(part.rows.start).unwrap_or(usize::MAX);
    let selection = vec![RowSelector::skip(before), RowSelector::select(range_len(&part.rows))];
    arrow_reader(file, part.unit, mask, batch_rows, selection)
}

fn arrow_reader(
    file: &ParquetFile,
    row_group: u32,
    mask: ProjectionMask,
    batch_rows: usize,
    selection: Vec<RowSelector>,
) -> parquet::errors::Result<ParquetRecordBatchReader> {
    let selection = RowSelection::from(selection);
    if padded::needs_cutting(file, &mask) {
        return padded::reader(file, row_group, mask, batch_rows, selection);
    }
    ParquetRecordBatchReaderBuilder::new_with_metadata(file.file().clone(), file.arrow.clone())
        .with_row_groups(vec![row_group as usize])
        .with_projection(mask)
        .with_batch_size(batch_rows)
        .with_row_selection(selection)
        .build()
}

fn list_reader(
    file: &ParquetFile,
    part: &UnitPart,
    column: usize,
    leaf: usize,
) -> parquet::errors::Result<ListReader> {
    let group = file.row_group(part.unit);
    let rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
    let whole = part.rows.start == 0 && part.rows.end == group.num_rows().cast_unsigned();
    let index = file.metadata().page_index().filter(|index| !whole && index.has_offset_indexes());
    let pages = index.and_then(|index| index.offset_index(part.unit as usize, leaf));
    let pages = pages.map(|index| index.page_locations().clone());
    let reader = SerializedPageReader::new(Arc::new(file.file().clone()), group.column(leaf), rows, pages)?;
    let schema = file.metadata().file_metadata().schema_descr();
    let descriptor = schema.column(leaf);
    let root = &schema.root_schema().get_fields()[column];
    let mut list = ListReader::new(
        get_column_reader(Arc::clone(&descriptor), Box::new(reader)),
        descriptor.max_def_level(),
        is_optional(descriptor.self_type()),
        is_optional(root),
    )?;
    if part.rows.start > 0 {
        list.skip(usize::try_from(part.rows.start).unwrap_or(usize::MAX))?;
    }
    Ok(list)
}

/// Whether a null has a definition level of its own here; to the crate a repeated field is optional too.
fn is_optional(field: &Type) -> bool {
    field.get_basic_info().has_repetition() && field.get_basic_info().repetition() == Repetition::OPTIONAL
}
