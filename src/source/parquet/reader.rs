//! Reading one part of a row group: small columns through Arrow's reader, the embedding beside it, in step.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy, RowSelector,
};
use parquet::basic::Repetition;
use parquet::errors::ParquetError;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::Type;

use super::guard::guarded;
use super::lists::ListReader;
use super::schema::TEXT_MARK;
use super::{ParquetFile, Projection, padded, range_len};
use crate::batch::convert::shown;
use crate::batch::embedding;
use crate::error::{Error, Result};
use crate::source::{Embeddings, Origin, SourceBatch, UnitPart};

/// Rows that nobody would miss: the footer counts fewer than the pages hold.
const BEYOND: &str = "they hold more rows than the footer says";

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
    embedding: EmbeddingColumn,
    position: u64,
    spare: Vec<f32>,
}

enum EmbeddingColumn {
    /// A list of floats, from its pages.
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
        let batch = read.map_err(|error| self.damaged("its columns", error))?;
        if batch.num_rows() != rows {
            let why = match batch.num_rows() > rows {
                true => BEYOND.to_string(),
                false => format!("{} rows instead of {rows}", batch.num_rows()),
            };
            return Err(self.damaged("its columns", ParquetError::General(why)));
        }
        let mut embeddings = Embeddings::reusing(self.dim, std::mem::take(&mut self.spare));
        match &mut self.embedding {
            EmbeddingColumn::List(list) => {
                if let Err(error) = list.read(rows, &mut embeddings) {
                    let name = self.file.fields()[self.projection.embedding].name();
                    return Err(self.damaged(&format!("column \"{name}\""), error));
                }
            }
            EmbeddingColumn::Arrow { place, text } => {
                let array = batch.column(*place);
                for row in 0..rows {
                    let read = |out: &mut Vec<f32>| embedding::read_row(array.as_ref(), row, *text, out);
                    embeddings.push_row(row, read, || shown(array, row));
                }
            }
        }
        let origin = Origin { source: self.part.source, unit: self.part.unit, first_row: self.position };
        if self.position + rows as u64 == self.file.row_group(self.part.unit).num_rows().cast_unsigned() {
            self.check_end()?;
        }
        let columns = batch.project(&self.places);
        let columns = columns.map_err(|error| Error::bug("put a batch together").because(error))?;
        self.position += rows as u64;
        let (malformed, positions) = (Vec::new(), Vec::new());
        Ok(Some(SourceBatch { origin, rows, embeddings, columns, malformed, positions }))
    }

    /// Whether the row group ends where the footer says; asked before its last rows are handed on.
    fn check_end(&mut self) -> Result<()> {
        let beyond = guarded(|| Ok(self.columns.next().transpose()?.is_some())).and_then(|columns| {
            Ok(columns
                || match &mut self.embedding {
                    EmbeddingColumn::List(list) => list.has_more()?,
                    EmbeddingColumn::Arrow { .. } => false,
                })
        });
        match beyond {
            Ok(false) => Ok(()),
            Ok(true) => Err(self.damaged("its columns", ParquetError::General(BEYOND.into()))),
            Err(error) => Err(self.damaged("its columns", error)),
        }
    }

    /// Takes back the buffer of a batch that has been encoded, for the next one.
    pub fn recycle(&mut self, values: Vec<f32>) {
        self.spare = values;
    }

    fn damaged(&self, place: &str, error: ParquetError) -> Error {
        let end = (self.position + self.batch_rows as u64).min(self.part.rows.end);
        let rows = format!("rows {} to {}, {place}", self.position, end.saturating_sub(1));
        self.file.damaged(self.part.unit, &rows).because(error)
    }
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
    let selection = Some(RowSelection::from(selectors));
    let reader =
        guarded(|| arrow_reader(file, row_group, ProjectionMask::all(), rows.len().max(1), selection));
    let mut reader = reader.map_err(damaged)?;
    let batch = guarded(|| match reader.next() {
        Some(batch) => batch.map_err(ParquetError::from),
        None => Err(ParquetError::EOF("the row group is shorter".into())),
    });
    let batch = batch.map_err(damaged)?;
    let schema = batch.schema();
    let marked = schema.fields().iter().enumerate().map(|(column, field)| match file.is_text(column) {
        true => field.as_ref().clone().with_metadata(HashMap::from([(TEXT_MARK.into(), String::new())])),
        false => field.as_ref().clone(),
    });
    let marked = Schema::new(marked.collect::<Vec<_>>());
    batch
        .with_schema(Arc::new(marked))
        .map_err(|error| Error::bug("mark the text columns of rejected rows").because(error))
}

fn columns_reader(
    file: &ParquetFile,
    part: &UnitPart,
    roots: &[usize],
    batch_rows: usize,
) -> parquet::errors::Result<ParquetRecordBatchReader> {
    let mask = ProjectionMask::roots(file.metadata().file_metadata().schema_descr(), roots.iter().copied());
    let before = usize::try_from(part.rows.start).unwrap_or(usize::MAX);
    // The last part reads on as long as there are rows, so that one too many shows.
    let last = part.rows.end == file.row_group(part.unit).num_rows().cast_unsigned();
    let rows = range_len(&part.rows).saturating_add(usize::from(last));
    let selection = vec![RowSelector::skip(before), RowSelector::select(rows)];
    let selection = (before > 0 || !last).then(|| RowSelection::from(selection));
    arrow_reader(file, part.unit, mask, batch_rows, selection)
}

fn arrow_reader(
    file: &ParquetFile,
    row_group: u32,
    mask: ProjectionMask,
    batch_rows: usize,
    selection: Option<RowSelection>,
) -> parquet::errors::Result<ParquetRecordBatchReader> {
    if padded::needs_cutting(file, &mask) {
        return padded::reader(file, row_group, mask, batch_rows, selection);
    }
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.file().clone(), file.arrow.clone())
        .with_row_groups(vec![row_group as usize])
        .with_projection(mask)
        .with_batch_size(batch_rows)
        .with_row_selection_policy(RowSelectionPolicy::Selectors);
    match selection {
        Some(selection) => builder.with_row_selection(selection).build(),
        None => builder.build(),
    }
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
    let nullable_element = is_optional(descriptor.self_type());
    let mut list = ListReader::new(Box::new(reader), descriptor, nullable_element, is_optional(root));
    if part.rows.start > 0 {
        list.skip(usize::try_from(part.rows.start).unwrap_or(usize::MAX))?;
    }
    Ok(list)
}

/// Whether a null has a definition level of its own here; to the crate a repeated field is optional too.
fn is_optional(field: &Type) -> bool {
    field.get_basic_info().has_repetition() && field.get_basic_info().repetition() == Repetition::OPTIONAL
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::{Float32Builder, ListBuilder, StringBuilder};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{
        FileMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader, ParquetMetaDataWriter,
    };

    use super::*;

    /// A file of 20 rows whose footer counts only `rows` of them.
    fn counted(path: &Path, rows: i64) {
        let mut embeddings = ListBuilder::new(Float32Builder::new());
        let mut tags = ListBuilder::new(StringBuilder::new());
        for row in 0..20 {
            embeddings.append_value([Some(1.0), Some(2.0)]);
            tags.append_value((0..row % 3).map(|_| Some("tag")));
        }
        let columns: [(&str, arrow::array::ArrayRef); 2] =
            [("embedding", Arc::new(embeddings.finish())), ("tags", Arc::new(tags.finish()))];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");

        let whole = bytes::Bytes::from(bytes);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&whole).expect("a footer");
        let group = metadata.row_group(0).clone().into_builder().set_num_rows(rows).build();
        let file = metadata.file_metadata();
        let file = FileMetaData::new(file.version(), rows, None, None, file.schema_descr_ptr(), None);
        let metadata =
            ParquetMetaDataBuilder::new(file).set_row_groups(vec![group.expect("a row group")]).build();
        let length = u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().expect("four bytes"));
        let mut bytes = whole[..whole.len() - 8 - length as usize].to_vec();
        ParquetMetaDataWriter::new(&mut bytes, &metadata).finish().expect("a footer");
        std::fs::write(path, bytes).expect("written");
    }

    #[test]
    fn rows_beyond_the_footers_count_are_never_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("counted.parquet");
        let read = |rows: i64, embedding: usize, columns: &[usize], batch_rows: usize| -> Result<u64> {
            counted(&path, rows);
            let projection = Projection { embedding, columns: columns.to_vec() };
            let file = Arc::new(ParquetFile::open(&path, 1 << 20)?);
            file.page_bytes(0, &projection)?;
            let part = file.parts(0, 0, &projection).remove(0);
            let mut reader = PartReader::open(file, part, projection, batch_rows, 2)?;
            let mut rows = 0;
            while let Some(batch) = reader.next_batch()? {
                rows += batch.rows as u64;
            }
            Ok(rows)
        };
        for batch_rows in [1, 4, 5, 7, 15, 20, 4096] {
            for (embedding, columns) in [(0, &[][..]), (0, &[1]), (1, &[])] {
                let case = format!("{batch_rows} rows, {embedding}, {columns:?}");
                assert_eq!(read(20, embedding, columns, batch_rows).ok(), Some(20), "{case}");
                let short = read(15, embedding, columns, batch_rows).map_err(|error| error.to_string());
                assert!(short.is_err_and(|text| text.contains("more rows than the footer")), "{case}");
                let more = read(21, embedding, columns, batch_rows);
                assert!(more.is_err_and(|error| [1, 2].contains(&error.exit_code())), "{case}");
            }
        }
    }

    #[test]
    fn damaged_footers_are_refused_before_they_are_parsed() {
        let damaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/damaged");
        for (name, words) in [
            ("schema_nested_deep", "the footer's schema is damaged"),
            ("schema_children_huge", "the footer's schema is damaged"),
            ("schema_children_negative", "the footer's schema is damaged"),
            ("footer_list_huge", "the footer is damaged"),
            ("row_count_short", "20 values, the row group 15 rows"),
            ("row_count_lie", "20 values, the row group 1000000 rows"),
        ] {
            let refused = ParquetFile::open(&damaged.join(name).with_extension("parquet"), 1 << 20);
            let refused = refused.map(|_| ()).map_err(|error| (error.exit_code(), error.to_string()));
            assert!(
                refused.as_ref().is_err_and(|(code, text)| *code == 2 && text.contains(words)),
                "{name}: {refused:?}"
            );
        }
        let file = ParquetFile::open(&damaged.join("dictionary_values_lie.parquet"), 1 << 20)
            .expect("a good footer");
        let content = file.fields().iter().position(|field| field.name() == "content").expect("there");
        let refused = file.page_bytes(0, &Projection { embedding: content, columns: vec![] });
        assert!(refused.is_err_and(|error| error.to_string().contains("the dictionary page")));
    }
}
