//! The dataset as Parquet: row groups encoded by the lanes, put into the file in their order.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::add_encoded_arrow_schema_to_metadata;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::Control;
use super::ordered::in_order;
use super::output::Sink;
use crate::error::{Error, Result};
use crate::source::synthetic::{Row, Synthetic};

/// Embeddings of a row group, roughly. A row group is held in memory until its turn, two for each lane.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// More rows than this are read in parts by `vecload load`.
const ROW_GROUP_ROWS_MAX: usize = 64 * 1024;

/// Rows that are made and encoded at a time.
const BATCH_ROWS: usize = 1024;

/// The dataset's identity is kept in the file under this key.
const IDENTITY_KEY: &str = "vecload.synthetic";

/// Why rows could not be written; the sink puts what concerns it into words.
enum Failure {
    Sink(ParquetError),
    Other(Error),
}

/// Writes all rows.
pub(super) fn write(
    synthetic: &Synthetic,
    sink: &mut Sink<'_>,
    lanes: usize,
    control: &Control,
) -> Result<()> {
    write_to(synthetic, &mut *sink, lanes, control).map_err(|failure| match failure {
        Failure::Sink(error) => sink.failure(error),
        Failure::Other(error) => error,
    })
}

fn write_to(
    synthetic: &Synthetic,
    sink: impl Write + Send,
    lanes: usize,
    control: &Control,
) -> Result<(), Failure> {
    let rows = synthetic.options().rows;
    let per_group = rows_per_group(synthetic.options().dim) as u64;
    let schema = schema(synthetic);
    let mut properties = properties(synthetic).build();
    add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
    let descriptor = ArrowSchemaConverter::new().convert(&schema).map_err(Failure::Sink)?;
    let mut file = SerializedFileWriter::new(sink, descriptor.root_schema_ptr(), Arc::new(properties))
        .map_err(Failure::Sink)?;
    let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(&schema));
    let make = |group: u64| {
        let first = group * per_group;
        let rows = first..(first + per_group).min(rows);
        let count = rows.end - rows.start;
        encode(synthetic, &factory, &schema, group as usize, rows).map(|chunks| (count, chunks))
    };
    let mut failed = None;
    let take = |(count, chunks): (u64, Vec<ArrowColumnChunk>)| {
        let append = || {
            let mut group = file.next_row_group()?;
            chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut group))?;
            group.close().map(|_| ())
        };
        append().map_err(|error| {
            failed = Some(error);
            Error::failed("write a row group")
        })?;
        control.rows_done(count);
        Ok(())
    };
    let ended = in_order(rows.div_ceil(per_group), lanes, control, make, take);
    if let Some(error) = failed {
        return Err(Failure::Sink(error));
    }
    ended.map_err(Failure::Other)?;
    file.close().map(|_| ()).map_err(Failure::Sink)
}

/// What pyarrow writes by default, with zstd: no dictionary where values differ anyway.
pub(super) fn properties(synthetic: &Synthetic) -> WriterPropertiesBuilder {
    let identity = KeyValue::new(IDENTITY_KEY.into(), synthetic.identity());
    let mut properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![identity]))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for column in ["content", "metadata", "embedding.list.element"] {
        let path = ColumnPath::new(column.split('.').map(str::to_string).collect());
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            // The smallest text or element tells nobody anything.
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    properties
}

/// A list of `dim` floats, with pyarrow's names.
pub(super) fn embedding_field(dim: usize) -> Field {
    let item = Arc::new(Field::new("element", DataType::Float32, false));
    Field::new("embedding", DataType::FixedSizeList(item, dim as i32), false)
}

/// Vectors one after another as such a list.
pub(super) fn embedding_array(dim: usize, values: Vec<f32>) -> arrow::error::Result<ArrayRef> {
    let item = Arc::new(Field::new("element", DataType::Float32, false));
    let values = Arc::new(Float32Array::from(values));
    Ok(Arc::new(FixedSizeListArray::try_new(item, dim as i32, values, None)?))
}

/// The dataset's columns, with text as text.
fn schema(synthetic: &Synthetic) -> Arc<Schema> {
    let fields = synthetic.fields();
    let as_text = |field: &Arc<Field>| match field.data_type() {
        DataType::Binary => Field::new(field.name(), DataType::Utf8, false),
        _ => field.as_ref().clone(),
    };
    let fields: Vec<Field> = fields.iter().map(as_text).collect();
    Arc::new(Schema::new(fields))
}

fn rows_per_group(dim: usize) -> usize {
    let rows = ROW_GROUP_BYTES / (dim * size_of::<f32>());
    (rows / BATCH_ROWS * BATCH_ROWS).clamp(BATCH_ROWS, ROW_GROUP_ROWS_MAX)
}

/// Makes and encodes the rows of a row group.
fn encode(
    synthetic: &Synthetic,
    factory: &ArrowRowGroupWriterFactory,
    schema: &Schema,
    group: usize,
    rows: std::ops::Range<u64>,
) -> Result<Vec<ArrowColumnChunk>> {
    let bug = |error| Error::bug(format!("encode row group {group}")).because(error);
    let mut writers = factory.create_column_writers(group).map_err(bug)?;
    for start in rows.clone().step_by(BATCH_ROWS) {
        let end = (start + BATCH_ROWS as u64).min(rows.end);
        let columns = columns(synthetic, start..end).map_err(|error| bug(error.into()))?;
        let mut writers = writers.iter_mut();
        for (field, column) in schema.fields().iter().zip(&columns) {
            for (leaf, writer) in compute_leaves(field, column).map_err(bug)?.iter().zip(&mut writers) {
                writer.write(leaf).map_err(bug)?;
            }
        }
    }
    writers.into_iter().map(|writer| writer.close().map_err(bug)).collect()
}

/// These rows as columns, in the schema's order.
fn columns(synthetic: &Synthetic, numbers: std::ops::Range<u64>) -> arrow::error::Result<Vec<ArrayRef>> {
    let dim = synthetic.options().dim;
    let rows: Vec<Row> = numbers.map(|number| synthetic.row(number)).collect();
    let mut values = vec![0.0; rows.len() * dim];
    for (row, out) in rows.iter().zip(values.chunks_exact_mut(dim)) {
        synthetic.write_embedding(row, out);
    }
    Ok(vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.channel))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.user))),
        texts(&rows, Row::write_content)?,
        texts(&rows, Row::write_metadata)?,
        embedding_array(dim, values)?,
    ])
}

fn texts(rows: &[Row], write: impl Fn(&Row, &mut Vec<u8>)) -> arrow::error::Result<ArrayRef> {
    let mut bytes = Vec::with_capacity(rows.len() * 256);
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    offsets.push(0);
    for row in rows {
        write(row, &mut bytes);
        offsets.push(bytes.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float32Type, Int64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Encoding;

    use super::*;
    use crate::generate::{Destination, Format, Output, write_dataset};
    use crate::source::synthetic::SyntheticOptions;

    #[test]
    fn the_file_holds_the_rows_whatever_the_lanes() {
        // Three row groups of 65,536, 65,536 and 1 row.
        let options =
            SyntheticOptions { rows: 131_073, dim: 3, channels: 10, skew: 1.1, clusters: 4, seed: 42 };
        let synthetic = Synthetic::new(options).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let paths = [1, 3].map(|lanes| directory.path().join(format!("{lanes}.parquet")));
        for (path, lanes) in paths.iter().zip([1, 3]) {
            let destination = Destination::File { path: path.clone(), replace: false };
            let output = Output { destination, format: Format::Parquet };
            write_dataset(&synthetic, output, lanes, &Control::default()).unwrap();
        }
        assert!(std::fs::read(&paths[0]).unwrap() == std::fs::read(&paths[1]).unwrap());

        let builder =
            ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&paths[0]).unwrap()).unwrap();
        let metadata = builder.metadata();
        let groups: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups, [65_536, 65_536, 1]);
        let embedding = metadata.row_group(0).column(4);
        assert!(embedding.encodings().all(|encoding| matches!(encoding, Encoding::PLAIN | Encoding::RLE)));
        let pairs = metadata.file_metadata().key_value_metadata().unwrap();
        let identity = pairs.iter().find(|pair| pair.key == IDENTITY_KEY).unwrap();
        assert_eq!(identity.value, Some(synthetic.identity()));
        assert_eq!(builder.schema().fields(), schema(&synthetic).fields());

        let mut number = 0;
        let mut expected = [0.0; 3];
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            let vectors = batch.column(4).as_fixed_size_list();
            for index in 0..batch.num_rows() {
                let row = synthetic.row(number);
                let (mut content, mut metadata) = (Vec::new(), Vec::new());
                row.write_content(&mut content);
                row.write_metadata(&mut metadata);
                synthetic.write_embedding(&row, &mut expected);
                assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(index), row.channel);
                assert_eq!(batch.column(1).as_primitive::<Int64Type>().value(index), row.user);
                assert_eq!(batch.column(2).as_string::<i32>().value(index).as_bytes(), content);
                assert_eq!(batch.column(3).as_string::<i32>().value(index).as_bytes(), metadata);
                assert_eq!(vectors.value(index).as_primitive::<Float32Type>().values()[..], expected);
                number += 1;
            }
        }
        assert_eq!(number, 131_073);
    }
}
